"""Values and gradients, products with Jacobians, and what is made of them, of any callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_symgrad import _calls, _compiled, _function, _inputs, _vectorized
from tf_symgrad._calls import Call, Wrt
from tf_symgrad._differentiate import differentiate
from tf_symgrad._halves import Halves
from tf_symgrad._op import unused


def value_and_grad(
    f: Callable[..., Any],
    wrt: Wrt = 0,
    has_aux: bool = False,
    *,
    unconnected_gradients: str | tf.UnconnectedGradients = "none",
    checkpoint: str | int | None = None,
    optimize: str = "grappler",
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns the value of `f`, a scalar, and its gradients.

    `f` runs once: the gradients are those of the random numbers that the value was computed with, and its effects
    happen once. Works in eager mode, in a `tf.function`, compiled or not, and in TensorFlow 1 graphs.

    Args:
      f: any callable: a Python function, a `tf.function`, a `ConcreteFunction`, a Keras model. It may take and return
        structures, sparse and ragged tensors. A Python function is traced anew at each call; a `tf.function` is traced
        once for each signature.
      wrt: what the gradients are taken of: the position of an argument, or the name of one; a variable; a `tf.Module`,
        a Keras model or what `tf.saved_model.load` returns, which stands for the list of its trainable variables; or a
        list, tuple or dict of these. Variables and modules in an argument are variables, too.
      has_aux: whether `f` returns a pair of the value and of something else, which is returned as it is.
      unconnected_gradients: what is returned where no gradient flows to: `"none"` or `"zero"`. For a variable that `f`
        does not read, None in any case.
      checkpoint: what stays in memory of the forward pass for the way back; the rest is computed again when the way
        back comes to it. The results are the same. None: all stays. `"cheap"`: all but what ops that cost next to
        nothing compute. `"auto"`: as little is computed again as it takes for about the smallest peak of memory.
        `"everything"`: whatever it takes for the smallest; of a chain of n layers about the root of n stay. A number of
        bytes, as an int or as in `"200MB"`: as little as it takes for all intermediate tensors to fit in.
        `"keep:MatMul,block_1"`: only results of ops of these types, and in these name scopes, stay.
        `"recompute:Relu,block_1"`: only these do not.
      optimize: who optimises what computes the gradient. `"grappler"`: TensorFlow, with all that is around it.
        `"native"`: nobody but the engine that made it. The first call, of which the former takes most, then is several
        times shorter; later ones take as long, or a little longer where there is something that only TensorFlow fuses.
        The graph then holds the op, and who runs it, on another machine, say, needs this package. Functions that XLA
        compiles, XLA optimises in any case.

    Returns:
      A function of the arguments of `f` that returns the value, or the pair of `f`; and the gradients, in the structure
      that `wrt` is, that of an argument being the argument's.

    Raises:
      TypeError: `wrt` names nothing that `f` is called with. This, and what follows, when the result is called.
      ValueError: the value is no real scalar.
      tf.errors.OpError: `f` can't be differentiated: see `symbolic_gradient`.

    Examples:
      >>> w = tf.Variable([1.0, 2.0])
      >>> def loss(x):
      ...     return tf.reduce_sum((w * x) ** 2)
      >>> value, (dw, dx) = tf_symgrad.value_and_grad(loss, wrt=(w, 0))(tf.constant([3.0, 4.0]))
      >>> value, dw, dx
      (<tf.Tensor: shape=(), dtype=float32, numpy=73.0>,
       <tf.Tensor: shape=(2,), dtype=float32, numpy=array([18., 64.], dtype=float32)>,
       <tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 6., 32.], dtype=float32)>)
    """
    return _of_scalar(f, wrt, has_aux, unconnected_gradients, checkpoint, optimize, values=True)


def grad(
    f: Callable[..., Any],
    wrt: Wrt = 0,
    has_aux: bool = False,
    *,
    unconnected_gradients: str | tf.UnconnectedGradients = "none",
    checkpoint: str | int | None = None,
    optimize: str = "grappler",
) -> Callable[..., Any]:
    """A function that returns the gradients of `f`, a scalar: see `value_and_grad`.

    Where `has_aux`, it returns a pair of the gradients and of what `f` returns after the value.

    Examples:
      >>> tf_symgrad.grad(lambda x: x**3)(tf.constant(2.0))
      <tf.Tensor: shape=(), dtype=float32, numpy=12.0>
      >>> tf_symgrad.grad(tf_symgrad.grad(lambda x: x**3))(tf.constant(2.0))
      <tf.Tensor: shape=(), dtype=float32, numpy=12.0>
    """
    both = _of_scalar(f, wrt, has_aux, unconnected_gradients, checkpoint, optimize, values=has_aux)

    def of_arguments(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return of_arguments


def _of_scalar(
    f: Any, wrt: Wrt, has_aux: bool, unconnected: Any, checkpoint: str | int | None, optimize: str, values: bool
) -> Callable[..., tuple[Any, Any]]:
    none, has_aux = _inputs.none_if_unconnected(unconnected), _inputs.flag("has_aux", has_aux)
    kept, optimize = _inputs.checkpoint_of(checkpoint), _inputs.optimizer_of(optimize)
    f = _calls.callable_of(f)
    memo: dict[str, Any] | None = {} if _compiled.may_be_traced(f) else None
    traced = _without_gradient_of_aux(f) if has_aux else f

    def long_way(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        selected, given, named = _calls.with_tensors(f, wrt, args, kwargs)
        of_call = Call(traced, given, named, memo)
        function = _function.from_concrete_function(of_call.concrete).with_options(checkpoint=kept, optimize=optimize)
        _check_scalar(f, function.outputs, has_aux)
        operands = [*of_call.tensors, *function.captures]
        wanted, pack = _calls.select(selected, of_call, operands)
        dys = [tf.ones([], function.outputs[0].dtype), *map(unused, function.outputs[1:])]
        gradients, results = differentiate(function, [*operands, *dys], wanted, none=none, values=values)
        return of_call.output(results) if values else None, pack(gradients)

    if not _compiled.may_be_traced(f):
        return long_way
    compiled = _compiled.Compiled(long_way)
    fixed = isinstance(wrt, (int, str, tf.Variable))

    def of_arguments(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not _compiled.are_plain((*args, *kwargs.values())):
            return long_way(*args, **kwargs)
        state = None if fixed else _calls.members(wrt)
        return compiled(state, *args, **kwargs)  # type: ignore[no-any-return]

    return of_arguments


def _check_scalar(f: Any, outputs: Sequence[tf.TensorSpec], has_aux: bool) -> None:
    real = bool(outputs) and outputs[0].dtype.is_floating and outputs[0].shape.rank in (0, None)
    if not real or (not has_aux and len(outputs) != 1):
        raise ValueError(
            f"{f} must return a real scalar{' and something else' if has_aux else ''}; it returns "
            f"{[f'{y.dtype.name}{y.shape}' for y in outputs]}. For other functions there are vjp and jacobian, and "
            "has_aux for more results."
        )


def _without_gradient_of_aux(f: Callable[..., Any]) -> Callable[..., Any]:
    def of_arguments(*args: Any, **kwargs: Any) -> Any:
        pair = _calls.converted(f)(*args, **kwargs)
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"has_aux: f must return a pair, of the value and of something else, not {pair!r}.")
        aux = tf.nest.map_structure(_calls.result, pair[1])
        stop = lambda x: x if x is None else tf.stop_gradient(x)  # noqa: E731
        return pair[0], tf.nest.map_structure(stop, aux, expand_composites=True)

    return of_arguments


def vjp(
    f: Callable[..., Any], *xs: Any, checkpoint: str | int | None = None
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of `f` and its pullback at a point.

    Args:
      f: any callable, see `value_and_grad`.
      *xs: its arguments, tensors or structures of them.
      checkpoint: what is kept for the pullback: see `value_and_grad`.

    Returns:
      `f(*xs)`, and a function of a cotangent, in the structure of that value, that returns a tuple with a gradient for
      each argument, in the structure of that; None where none flows. `f` runs once, however often it is called.

    Examples:
      >>> y, pullback = tf_symgrad.vjp(tf.math.square, tf.constant([1.0, 2.0]))
      >>> pullback(tf.constant([1.0, 10.0]))
      (<tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 2., 40.], dtype=float32)>,)
    """
    halves = Halves(f, xs, checkpoint)
    return halves.value, halves.pullback


def linearize(f: Callable[..., Any], *xs: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of `f` and its pushforward at a point.

    Returns:
      `f(*xs)`, and a function of a tangent for each argument that returns the tangent of the value: the product of
      `f`'s Jacobian with it. `f` runs once, however often it is called.

    Examples:
      >>> y, pushforward = tf_symgrad.linearize(tf.math.square, tf.constant([1.0, 2.0]))
      >>> pushforward(tf.constant([1.0, 10.0]))
      <tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 2., 40.], dtype=float32)>
    """
    halves = Halves(f, xs)
    return halves.value, halves.pushforward


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of `f` at `primals`, and the product of its Jacobian there with `tangents`.

    Examples:
      >>> tf_symgrad.jvp(tf.math.square, [tf.constant(3.0)], [tf.constant(1.0)])
      (<tf.Tensor: shape=(), dtype=float32, numpy=9.0>, <tf.Tensor: shape=(), dtype=float32, numpy=6.0>)
    """
    _check_lists("jvp", primals, tangents)
    halves = Halves(f, primals)
    return halves.value, halves.pushforward(*tangents)


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
    """The product of the Hessian of `f`, a scalar, at `primals` with `tangents`: one for each argument.

    Examples:
      >>> tf_symgrad.hvp(lambda x: tf.reduce_sum(x**3), [tf.constant([1.0, 2.0])], [tf.constant([1.0, 10.0])])
      (<tf.Tensor: shape=(2,), dtype=float32, numpy=array([  6., 120.], dtype=float32)>,)
    """
    _check_lists("hvp", primals, tangents)
    gradient = grad(f, tuple(range(len(primals))), unconnected_gradients="zero")
    # A Hessian is symmetric, so that the pullback of the gradient will do.
    return Halves(gradient, primals).pullback(tuple(tangents), "tangent")


def per_example_grad(f: Callable[..., Any], wrt: Wrt = 0, batched: Sequence[int] | None = None) -> Callable[..., Any]:
    """A function that returns the gradients of `f`, a scalar function of one example, for each example of a batch.

    All at once, by `tf.vectorized_map`; what TensorFlow can't vectorise is in a loop, and the log says so.

    Args:
      f: any callable, see `value_and_grad`, of one example.
      wrt: as there. The gradients have one more dimension, the first: that of the batch.
      batched: which positional arguments are batches; all that `wrt` does not name if left out.

    Examples:
      >>> loss = lambda w, x: tf.tensordot(w, x, 1) ** 2
      >>> tf_symgrad.per_example_grad(loss)(tf.constant([1.0, 2.0]), tf.constant([[1.0, 0.0], [0.0, 1.0]]))
      <tf.Tensor: shape=(2, 2), dtype=float32, numpy=
      array([[2., 0.],
             [0., 4.]], dtype=float32)>
    """
    of_one = grad(f, wrt)
    chosen = None if batched is None else _inputs.elements("batched", batched, "positions of arguments")
    if any(type(i) is not int for i in chosen or []):
        raise TypeError(f"batched must be a list of positions of arguments, not {batched!r}.")

    def of_arguments(*args: Any, **kwargs: Any) -> Any:
        named = {i for i in tf.nest.flatten(wrt) if type(i) is int}
        batch = [i for i in range(len(args)) if i not in named] if chosen is None else chosen
        _check_batches(batch, args)
        structure: list[Any] = []

        def row(examples: list[Any]) -> list[Any]:
            given = dict(zip(batch, examples, strict=True))
            gradients = of_one(*[given.get(i, x) for i, x in enumerate(args)], **kwargs)
            structure[:] = [tf.nest.map_structure(lambda dx: None if dx is None else 0, gradients)]
            return [dx for dx in tf.nest.flatten(gradients) if dx is not None]

        rows = iter(_vectorized.over(row, [args[i] for i in batch]))
        return tf.nest.map_structure(lambda place: None if place is None else next(rows), structure[0])

    return of_arguments


def _check_batches(batch: Sequence[int], args: Sequence[Any]) -> None:
    if not batch or not {*batch} <= {*range(len(args))}:
        raise ValueError(
            f"per_example_grad: of {len(args)} positional arguments, {list(batch)} are batches. Say which are, by "
            "batched: if nobody says, those that wrt does not name."
        )
    composite = next((x for i in batch for x in tf.nest.flatten(args[i]) if _inputs.is_composite(x)), None)
    if composite is not None:
        raise TypeError(
            f"per_example_grad: in arguments {list(batch)}, which are batches, there is a {type(composite).__name__}, "
            "whose rows TensorFlow can't vectorise. Pass tensors: x.to_tensor() of a ragged one, tf.sparse.to_dense(x)."
        )
    shapes = [tf.TensorShape(getattr(x, "shape", ())) for i in batch for x in tf.nest.flatten(args[i])]
    if any(shape.rank == 0 for shape in shapes):
        raise ValueError(f"per_example_grad: in arguments {batch}, which are batches, there are scalars.")
    sizes = {shape[0] for shape in shapes if shape.rank} - {None}
    if len(sizes) > 1:
        raise ValueError(f"per_example_grad: arguments {batch} are batches of different sizes: {sorted(sizes)}.")


def _check_lists(function: str, primals: Any, tangents: Any) -> None:
    for name, values in (("primals", primals), ("tangents", tangents)):
        if not isinstance(values, (list, tuple)):
            raise TypeError(
                f"{function}: {name} must be a list, of one element for each argument of f, not {values!r}: "
                f"{function}(f, [x], [v])."
            )
    if len(primals) != len(tangents):
        raise ValueError(
            f"{function}: there must be a tangent for each primal, but there are {len(primals)} primals and "
            f"{len(tangents)} tangents. None stands for zeros."
        )
