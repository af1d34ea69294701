"""Values and gradients, products with Jacobians, and what is made of them, of any callable."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_symgrad import _calls, _compiled, _custom, _function, _inputs, _op
from tf_symgrad._calls import Call, Wrt
from tf_symgrad._differentiate import call, differentiate, told
from tf_symgrad._op import unused


def value_and_grad(
    f: Callable[..., Any],
    wrt: Wrt = 0,
    has_aux: bool = False,
    *,
    unconnected_gradients: str | tf.UnconnectedGradients = "none",
    checkpoint: str | int | None = None,
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
    return _of_scalar(f, wrt, has_aux, unconnected_gradients, checkpoint, values=True)


def grad(
    f: Callable[..., Any],
    wrt: Wrt = 0,
    has_aux: bool = False,
    *,
    unconnected_gradients: str | tf.UnconnectedGradients = "none",
    checkpoint: str | int | None = None,
) -> Callable[..., Any]:
    """A function that returns the gradients of `f`, a scalar: see `value_and_grad`.

    Where `has_aux`, it returns a pair of the gradients and of what `f` returns after the value.

    Examples:
      >>> tf_symgrad.grad(lambda x: x**3)(tf.constant(2.0))
      <tf.Tensor: shape=(), dtype=float32, numpy=12.0>
      >>> tf_symgrad.grad(tf_symgrad.grad(lambda x: x**3))(tf.constant(2.0))
      <tf.Tensor: shape=(), dtype=float32, numpy=12.0>
    """
    both = _of_scalar(f, wrt, has_aux, unconnected_gradients, checkpoint, values=has_aux)

    @_op.no_autograph
    def of_arguments(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return of_arguments


def _of_scalar(
    f: Any, wrt: Wrt, has_aux: bool, unconnected: Any, checkpoint: str | int | None, values: bool
) -> Callable[..., tuple[Any, Any]]:
    none, has_aux = _inputs.none_if_unconnected(unconnected), _inputs.flag("has_aux", has_aux)
    kept = _inputs.checkpoint_of(checkpoint)
    memo: dict[str, Any] = {}
    f = _calls.callable_of(f)
    traced = _without_gradient_of_aux(f) if has_aux else f

    @_op.no_autograph
    def long_way(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        selected, given, named = _calls.with_tensors(f, wrt, args, kwargs)
        of_call = Call(traced, given, named, memo, kept=f)
        function = _function.from_concrete_function(of_call.concrete).checkpointed(kept)
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

    @_op.no_autograph
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
        loss, aux = f(*args, **kwargs)
        stop = lambda x: x if x is None else tf.stop_gradient(x)  # noqa: E731
        return loss, tf.nest.map_structure(stop, aux, expand_composites=True)

    return of_arguments


class _Halves:
    """f at a point: its value, and the products with its Jacobian there. The forward pass has run, once."""

    def __init__(self, f: Callable[..., Any], xs: Sequence[Any], checkpoint: str | int | None = None) -> None:
        _, self._xs, _ = _calls.with_tensors(f, list(range(len(xs))), xs, {})
        self._call = Call(_calls.callable_of(f), self._xs, {}, _compiled.traces_of(f))
        function = _function.from_concrete_function(self._call.concrete)
        function = function.checkpointed(_inputs.checkpoint_of(checkpoint))
        operands = [*self._call.tensors, *function.captures]
        count = len(operands)
        variables = [v for i in range(len(xs)) for v in self._call.variables(i)]
        self._places = {id(v): place for v in variables if (place := _calls.place_of(v, operands)) is not None}
        wanted = [i < len(self._call.tensors) and x.dtype in _CONTINUOUS for i, x in enumerate(operands)]
        for v in variables:
            if id(v) in self._places:
                wanted[self._places[id(v)]] = v.dtype in _CONTINUOUS
        function = _custom.differentiable(function, wanted, lambda f: told(f, f.with_captures(operands, count)))
        operands = function.with_captures(operands, count)
        self._outputs = function.outputs
        forward, self._pullback, inputs, self.gradients = (
            told(function, operands).here().vjp([*wanted, *[False] * (len(operands) - count)])
        )
        results = call(forward, operands, function.variables)
        self.tensors = results[: len(self._outputs)]
        if not tf.executing_eagerly():
            for y, spec in zip(self.tensors, self._outputs, strict=True):
                y.set_shape(spec.shape)
        self._taken = [*[operands[i] for i in inputs], *results[len(self._outputs) :]]
        self.value = self._call.output(self.tensors)

    def pullback(self, dy: Any) -> tuple[Any, ...]:
        """The gradient of each argument; None where none flows."""
        cotangents = _flatten_like(dy, self.value, "cotangent")
        gradients = self.pull(cotangents)

        def of_variable(v: tf.Variable) -> Any:
            return gradients[self._places[id(v)]] if id(v) in self._places else None

        return tuple(self._call.argument(i, gradients, of_variable) for i in range(len(self._xs)))

    def pull(self, cotangents: Sequence[Any]) -> list[Any]:
        """The gradient of each input of f."""
        results = call(self._pullback, [*self._taken, *cotangents])
        return [None if k < 0 else results[k] for k in self.gradients]

    def pushforward(self, *tangents: Any) -> Any:
        """The tangent of the value, of a tangent for each argument: the transpose of the pullback, which is linear."""
        places = iter(range(len(self._call.tensors)))
        seeds: dict[int, Any] = {}  # by output of the pullback
        flat = zip(_leaves(self._xs), _flatten_like(list(tangents), self._xs, "tangent"), strict=True)
        for x, t in flat:
            place = self._places.get(id(x), -1) if isinstance(x, tf.Variable) else next(places)
            if place >= 0 and (k := self.gradients[place]) >= 0:
                seeds[k] = seeds[k] + t if k in seeds else t  # a variable may be given twice
        zeros = [tf.zeros_like(y) for y in self.tensors]
        count = len(self._taken)
        wanted = [i >= count and x.dtype in _CONTINUOUS for i, x in enumerate([*self._taken, *zeros])]
        if not seeds:  # f depends on no argument
            none = [z if w else None for z, w in zip(zeros, wanted[count:], strict=True)]
            return self._call.output(none, self.tensors)
        gradients, _ = differentiate(self._pullback, [*self._taken, *zeros, *[seeds[k] for k in sorted(seeds)]], wanted)
        return self._call.output(gradients[count:], self.tensors)


def _leaves(structure: Any) -> list[Any]:
    """The tensors and variables in a structure; components of sparse and ragged tensors among them."""
    flat = tf.nest.flatten(structure, expand_composites=True)
    variables = [_calls.variable_of(x) for x in flat]
    return [x if v is None else v for x, v in zip(flat, variables, strict=True) if v is not None or _is_tensor(x)]


def _is_tensor(x: Any) -> bool:
    return isinstance(x, _calls.TENSORS)


def _flatten_like(given: Any, like: Any, what: str) -> list[Any]:
    """For each tensor and variable in `like` what `given` has in its place; zeros for None, and for integers."""
    try:
        tf.nest.assert_same_structure(
            tf.nest.map_structure(lambda _: 0, like), tf.nest.map_structure(lambda _: 0, given)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"A {what} must have the structure of what it belongs to. {error}") from None
    found: list[Any] = []
    for g, x in zip(tf.nest.flatten(given), tf.nest.flatten(like), strict=True):
        leaves = _leaves(x)
        parts = [None] * len(leaves) if g is None else _leaves(_calls.as_tensor(g))
        if len(parts) != len(leaves):
            raise ValueError(f"A {what} must have the structure of what it belongs to: {g!r} is given for {x!r}.")
        for part, leaf in zip(parts, leaves, strict=True):
            if part is None or tf.as_dtype(leaf.dtype) not in _CONTINUOUS:
                found.append(tf.zeros_like(leaf))
                continue
            found.append(tf.convert_to_tensor(part, leaf.dtype))
            if not found[-1].shape.is_compatible_with(leaf.shape):
                raise ValueError(
                    f"A {what} must have the shape of what it belongs to, {leaf.shape}, not {found[-1].shape}."
                )
    return found


_CONTINUOUS = {tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128}


@_op.no_autograph
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
    halves = _Halves(f, xs, checkpoint)
    return halves.value, halves.pullback


@_op.no_autograph
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
    halves = _Halves(f, xs)
    return halves.value, halves.pushforward


@_op.no_autograph
def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of `f` at `primals`, and the product of its Jacobian there with `tangents`.

    Examples:
      >>> tf_symgrad.jvp(tf.math.square, [tf.constant(3.0)], [tf.constant(1.0)])
      (<tf.Tensor: shape=(), dtype=float32, numpy=9.0>, <tf.Tensor: shape=(), dtype=float32, numpy=6.0>)
    """
    _check_lists("jvp", primals, tangents)
    halves = _Halves(f, primals)
    return halves.value, halves.pushforward(*tangents)


def jacobian(f: Callable[..., Any], wrt: int | str = 0) -> Callable[..., Any]:
    """A function that returns the Jacobian of `f` by one of its arguments.

    It is of shape `[*y.shape, *x.shape]` for each tensor y that `f` returns and each tensor x that the argument is made
    of: the structure of the value, of structures like the argument. All rows are computed at once, by the pullback of a
    batch of cotangents; or all columns, by the pushforward, where the x have fewer elements than the y.

    Args:
      f: any callable, see `value_and_grad`. Its results are floating or complex tensors, or structures of these.
      wrt: the position of an argument, or the name of one: a tensor or a structure of tensors. A variable stands for
        its value.

    Examples:
      >>> tf_symgrad.jacobian(lambda x: x**2)(tf.constant([1.0, 2.0]))
      <tf.Tensor: shape=(2, 2), dtype=float32, numpy=
      array([[2., 0.],
             [0., 4.]], dtype=float32)>
    """

    if not isinstance(wrt, (int, str)) or isinstance(wrt, bool):
        raise TypeError(f"wrt must be the position or the name of an argument, not {wrt!r}.")

    @_op.no_autograph
    def of_arguments(*args: Any, **kwargs: Any) -> Any:
        name, values, named = _calls.with_tensors(f, wrt, args, kwargs)
        argument = values[name] if isinstance(name, int) else named[name]
        xs = [tf.convert_to_tensor(x) for x in tf.nest.flatten(argument)]

        def of_tensors(*xs: Any) -> Any:
            given = tf.nest.pack_sequence_as(argument, xs)
            if isinstance(name, int):
                return f(*values[:name], given, *values[name + 1 :], **named)
            return f(*values, **{**named, name: given})

        halves = _Halves(of_tensors, xs)
        sizes = [x.shape.num_elements() for x in xs]
        rows = [y.shape.num_elements() for y in halves.tensors]
        forward = None not in sizes and (None in rows or sum(sizes) < sum(rows))
        blocks = _by_columns(halves, xs) if forward else _by_rows(halves, xs)
        matrices = [tf.nest.pack_sequence_as(argument, block) for block in blocks]
        given = iter(matrices)
        leaves = [None if y is None else next(given) for y in tf.nest.flatten(halves.value, expand_composites=True)]
        return tf.nest.pack_sequence_as(halves.value, leaves, expand_composites=True)

    return of_arguments


def _by_columns(halves: _Halves, xs: Sequence[Any]) -> list[list[Any]]:
    """For each y and each x the derivatives, by the tangents that are 1 in one place."""

    def push(i: int, tangent: Any) -> list[Any]:
        tangents = [tangent if j == i else None for j in range(len(xs))]
        return list(tf.nest.flatten(halves.pushforward(*tangents), expand_composites=True))

    columns = []
    for i, x in enumerate(xs):
        found = tf.vectorized_map(functools.partial(push, i), _basis(x))
        last = [tf.transpose(d, [*range(1, d.shape.rank), 0]) for d in found]
        columns.append([tf.reshape(d, tf.concat([tf.shape(d)[:-1], tf.shape(x)], 0)) for d in last])
    return [list(block) for block in zip(*columns, strict=True)]


def _by_rows(halves: _Halves, xs: Sequence[Any]) -> list[list[Any]]:
    """For each y and each x the derivatives, by the cotangents that are 1 in one place."""
    connected = [k >= 0 for k in halves.gradients[: len(xs)]]
    zeros = [tf.zeros_like(y) for y in halves.tensors]

    def pull(i: int, cotangent: Any) -> list[Any]:
        gradients = halves.pull([cotangent if j == i else zero for j, zero in enumerate(zeros)])
        return [dx for dx, c in zip(gradients, connected, strict=False) if c]

    blocks = []
    for i, y in enumerate(halves.tensors):
        found = iter(tf.vectorized_map(functools.partial(pull, i), _basis(y)) if any(connected) else [])
        shapes = [tf.concat([tf.shape(y), tf.shape(x)], 0) for x in xs]
        places = zip(connected, shapes, xs, strict=True)
        blocks.append([tf.reshape(next(found), shape) if c else tf.zeros(shape, x.dtype) for c, shape, x in places])
    return blocks


def _basis(x: Any) -> Any:
    """A batch of tensors like x, each of which is 1 in another place."""
    return tf.reshape(tf.eye(tf.size(x), dtype=x.dtype), tf.concat([[tf.size(x)], tf.shape(x)], 0))


def hessian(f: Callable[..., Any], wrt: int | str = 0) -> Callable[..., Any]:
    """A function that returns the Hessian of `f`, a scalar, by one of its arguments.

    It is of shape `[*x.shape, *x.shape]` for a tensor x; for a structure, a structure of structures, as of `jacobian`.

    Examples:
      >>> tf_symgrad.hessian(lambda x: x[0] ** 2 * x[1])(tf.constant([1.0, 2.0]))
      <tf.Tensor: shape=(2, 2), dtype=float32, numpy=
      array([[4., 2.],
             [2., 0.]], dtype=float32)>
    """
    return jacobian(grad(f, wrt, unconnected_gradients="zero"), wrt)


@_op.no_autograph
def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
    """The product of the Hessian of `f`, a scalar, at `primals` with `tangents`: one for each argument.

    Examples:
      >>> tf_symgrad.hvp(lambda x: tf.reduce_sum(x**3), [tf.constant([1.0, 2.0])], [tf.constant([1.0, 10.0])])
      (<tf.Tensor: shape=(2,), dtype=float32, numpy=array([  6., 120.], dtype=float32)>,)
    """
    _check_lists("hvp", primals, tangents)
    gradient = grad(f, tuple(range(len(primals))), unconnected_gradients="zero")
    # A Hessian is symmetric, so that the pullback of the gradient will do.
    _, pullback = vjp(gradient, *primals)
    return pullback(tuple(tangents))


def per_example_grad(f: Callable[..., Any], wrt: Wrt = 0, batched: Sequence[int] | None = None) -> Callable[..., Any]:
    """A function that returns the gradients of `f`, a scalar function of one example, for each example of a batch.

    All at once, by `tf.vectorized_map`; of an op that TensorFlow can't vectorise it makes a loop, and logs so.

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

    @_op.no_autograph
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

        rows = iter(tf.vectorized_map(row, [args[i] for i in batch]))
        return tf.nest.map_structure(lambda place: None if place is None else next(rows), structure[0])

    return of_arguments


def _check_batches(batch: Sequence[int], args: Sequence[Any]) -> None:
    if not batch or not {*batch} <= {*range(len(args))}:
        raise ValueError(
            f"per_example_grad: of {len(args)} positional arguments, {list(batch)} are batches. Say which are, by "
            "batched: if nobody says, those that wrt does not name."
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
