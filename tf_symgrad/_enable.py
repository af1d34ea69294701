"""Code that stays as it is builds its gradients natively.

TensorFlow's Python makes gradients at two places only, and both are looked up at each call: `_GradientsHelper`
(`tf.gradients`, the backward functions of `tf.function`s, branches and loops) and `imperative_grad` (tapes). There the
engine is asked first. What it does not do goes on as before, and the log says so.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop_util, context, imperative_grad
from tensorflow.python.eager import tape as tape_lib
from tensorflow.python.framework import ops
from tensorflow.python.ops import gradients_util, resource_variable_ops

from tf_symgrad import _inputs, _levels, _loader, _log, _part, _pullback, _recorded, _registry, _structure
from tf_symgrad._backward import Backward, NotNativeError

_lock = threading.RLock()
# Who is to optimise: by enable(), None if it is off; and by each native() that lasts, None if that does not say.
_enabled: str | None = None
_contexts: list[list[str | None]] = []
_installed: dict[tuple[Any, str], tuple[Any, Any]] = {}  # what stood there, and what stands there now


def enable(optimize: str = "grappler") -> None:
    """Lets TensorFlow's own Python build its gradients by this engine, from now on and in all threads.

    Holds for `tf.gradients`, `GradientTape.gradient` within a `tf.function`, tapes over calls of `tf.function`s in
    eager mode, branches and loops, Keras' `fit`, optimizers of TensorFlow 1. Values and gradients are the same; they
    are built faster, as one call of a function in the graph, which takes tensors of the forward pass. What the engine
    does not do is done as before, and the log, `logging.getLogger("tf_symgrad")`, says so once. Call this before what
    is to be differentiated is traced. Calling it twice does nothing.

    Args:
      optimize: who optimises the gradients: see `value_and_grad`. With `"native"`, first steps are shorter.

    Example:
      >>> tf_symgrad.enable()
      >>> @tf.function
      ... def step(x):
      ...     with tf.GradientTape() as tape:
      ...         tape.watch(x)
      ...         y = tf.reduce_sum(x**3)
      ...     return tape.gradient(y, x)
      >>> step(tf.constant([1.0, 2.0]))
      <tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 3., 12.], dtype=float32)>
      >>> tf_symgrad.disable()
    """
    global _enabled
    optimize = _inputs.optimizer_of(optimize)
    with _lock:
        _install()
        _enabled = optimize
        _tell()


def disable() -> None:
    """Undoes `enable`. What was traced stays as it is. Within `native()`, that lasts."""
    global _enabled
    with _lock:
        _enabled = None
        _tell()
        _uninstall()


@contextlib.contextmanager
def native(optimize: str | None = None) -> Iterator[None]:
    """`enable()` while a `with` lasts, in all threads.

    Args:
      optimize: as there; what holds outside, if left out.

    Example:
      >>> x = tf.constant(2.0)
      >>> with tf_symgrad.native():
      ...     f = tf.function(lambda x: tf.gradients(x**3, x)[0])
      ...     f(x)
      <tf.Tensor: shape=(), dtype=float32, numpy=12.0>
    """
    own = [None if optimize is None else _inputs.optimizer_of(optimize)]
    with _lock:
        _install()
        _contexts.append(own)
        _tell()
    try:
        yield
    finally:
        with _lock:
            _contexts[:] = [other for other in _contexts if other is not own]  # those of other threads may be later
            _tell()
            _uninstall()


def _active() -> bool:
    return _enabled is not None or bool(_contexts)


def _tell() -> None:
    _pullback.optimize = next((said for (said,) in reversed(_contexts) if said), _enabled or "grappler")


def _install() -> None:
    if _active():
        return
    _loader.load()
    places: list[tuple[Any, str, Callable[..., Any], list[str]]] = [
        (gradients_util, "_GradientsHelper", _gradients, _GRADIENTS),
        (imperative_grad, "imperative_grad", _tape_gradients, _TAPE_GRADIENTS),
        (tape_lib, "push_new_tape", _push_new_tape, ["persistent", "watch_accessed_variables"]),
        (tape_lib, "watch", _watch, ["tape", "tensor"]),
    ]
    for module, name, _, parameters in places:
        found = list(inspect.signature(getattr(module, name)).parameters)
        if found != parameters:
            raise RuntimeError(
                f"tf_symgrad.enable: {module.__name__}.{name} of TensorFlow {tf.__version__} takes {found}, not "
                f"{parameters}: this is no version that the engine can be put under."
            )
    for module, name, ours, _ in places:
        stock = getattr(module, name)
        wrapped = _wrapped(stock, ours)
        _installed[module, name] = stock, wrapped
        setattr(module, name, wrapped)
    _registry.lend()


def _uninstall() -> None:
    if _active():
        return
    for (module, name), (stock, wrapped) in _installed.items():
        if getattr(module, name) is wrapped:  # else somebody else has wrapped it meanwhile, and ours passes on
            setattr(module, name, stock)
    _installed.clear()
    _structure.restore()
    _registry.take_back()


def _wrapped(stock: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(stock)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not _active():
            return stock(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        try:
            return ours(lambda: stock(*args, **kwargs), **given.arguments)
        except NotNativeError as reason:
            _say(str(reason))
            _structure.restore()
            return stock(*args, **kwargs)

    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__wrapped__ = stock  # type: ignore[attr-defined]
    return wrapper


def _say(reason: str) -> None:
    _log.once("gradients are built by TensorFlow's Python: %s", reason)


def _planned(*args: Any, **kwargs: Any) -> Backward:
    backward = Backward(*args, **kwargs)
    for reason in backward.left:
        _say(reason)
    return backward


_GRADIENTS = [
    *("ys", "xs", "grad_ys", "name", "colocate_gradients_with_ops", "gate_gradients", "aggregation_method"),
    *("stop_gradients", "unconnected_gradients", "src_graph", "optimize_identity_n"),
]


# How often a function may have got new outputs that gradients flow to, from one of its gradients to the next. Most get
# some twice, for values and for shapes that a loop keeps.
_MAX_GROWTH = 8


def _check_growth(graph: Any) -> None:
    """Ends what would not end: TensorFlow differentiates a function again and again until that adds no outputs to it.

    Raises:
      RuntimeError: it has added some too often.
    """
    last, times = getattr(graph, "_symgrad_growth", (0, -1))
    count = sum(map(backprop_util.IsTrainable, graph.outputs))
    graph._symgrad_growth = count, times + (count > last)
    if times >= _MAX_GROWTH:
        raise RuntimeError(
            f"tf_symgrad.enable: of function '{graph.name}', which has gradients of loops in it, no backward function "
            "can be made: each needs more outputs of it than the last. Differentiate it within a tf.function, by "
            "tf_symgrad.grad, or after tf_symgrad.disable()."
        )


def _gradients(stock: Callable[[], Any], **given: Any) -> list[Any]:
    """In place of `_GradientsHelper`."""
    if context.executing_eagerly():
        return list(stock())  # an error
    zero = _wants_zeros(given["unconnected_gradients"])
    _check_surroundings()
    if given["optimize_identity_n"]:
        raise NotNativeError("gradients of IdentityN are to be told apart, output by output")
    default = ops.get_default_graph()
    graph = given["src_graph"] or default
    if graph is not default:
        _check_growth(graph)
    with graph.as_default():
        values = [tf.convert_to_tensor(y) if _is_variable(y) else y for y in _listed(given["ys"])]
    around = [graph] if graph is not default else [*_part.inside_out(graph)]
    ys, xs, stops = (_tensors(ts, around) for ts in (values, given["xs"], given["stop_gradients"]))
    if any(t is None for t in [*ys, *stops]) or (zero and any(x is None for x in xs)):
        raise NotNativeError("tf.gradients is given tensors that the graph has nothing to do with")
    dys = given["grad_ys"]
    dys = [None] * len(ys) if dys is None else list(dys) if isinstance(dys, (list, tuple)) else [dys]
    if len(dys) != len(ys) or any(isinstance(dy, tf.IndexedSlices) for dy in dys):
        raise NotNativeError("the cotangents are no tensors, one for each y")
    known = [x for x in xs if x is not None]
    way = _levels.WayOut(ys, xs, around, lambda graph: _levels.GraphLevel(graph, _planned, known, stops))
    with tf.name_scope(given["name"] or "gradients") as scope:
        uid = default.unique_name("uid")
        dys = gradients_util._DefaultGradYs(dys, ys, False, uid)
        results = way.add(list(zip(ys, dys, strict=True)), scope)
        return [gradients_util._ZerosLike(x) if dx is None and zero else dx for x, dx in zip(xs, results, strict=True)]


def _tensors(given: Any, around: Sequence[Any]) -> list[Any]:
    """What `tf.gradients` is given, as tensors of the first of some graphs, or of those around that."""
    inner = {id(t): placeholder for t, placeholder in getattr(around[0], "captures", ())}
    return [_tensor(t.handle if _is_variable(t) else t, around, inner) for t in _listed(given)]


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]


def _is_variable(x: Any) -> bool:
    return bool(resource_variable_ops.is_resource_variable(x))


def _tensor(t: Any, around: Sequence[Any], inner: dict[int, Any]) -> Any:
    """A tensor as one of those graphs; None if the first has nothing to do with it."""
    if not isinstance(t, tf.Tensor):
        raise NotNativeError(f"a {type(t).__name__} is no tensor")
    if isinstance(t, ops.EagerTensor):
        return inner.get(id(t))
    if all(t.graph is not graph for graph in around):
        raise NotNativeError("a tensor is of a graph that is not around this one")
    return t


_TAPE_GRADIENTS = ["tape", "target", "sources", "output_gradients", "sources_raw", "unconnected_gradients"]


def _tape_gradients(stock: Callable[[], Any], **given: Any) -> list[Any]:
    """In place of `imperative_grad`."""
    if context.executing_eagerly():
        return stock()  # type: ignore[no-any-return]
    zero = _wants_zeros(given["unconnected_gradients"])
    _check_surroundings()
    tape, target, sources = given["tape"], given["target"], given["sources"]
    if not isinstance(tape, _recorded.NotedTape):
        raise NotNativeError("a tape was begun before enable(): call it earlier")
    if any(not isinstance(y, tf.Tensor) or isinstance(y, ops.EagerTensor) for y in target):
        raise NotNativeError("a tape's target is no tensor of the graph")
    if any(y is x for y in target for x in sources):
        raise NotNativeError("a tape's target is a source")
    if pywrap_tfe.TFE_Py_PackJVPs(list(target))[1]:
        raise NotNativeError("a ForwardAccumulator watches")
    on = _recorded.recorded(tape, [*target, *sources])
    known = [x if recorded else None for x, recorded in zip(sources, on[len(target) :], strict=True)]
    way = _levels.WayOut(
        [y for y, recorded in zip(target, on, strict=False) if recorded],
        known,
        _part.inside_out(ops.get_default_graph()),
        lambda graph: _levels.TapeLevel(graph, _planned, tape, sources),
    )
    dys = given["output_gradients"] or [None] * len(target)
    with tf.name_scope("gradient_tape"):
        results = way.add(
            [
                (y, tf.ones_like(y) if dy is None else dy)
                for y, dy, recorded in zip(target, dys, on, strict=False)
                if recorded
            ]
        )
        if zero:
            raw = given["sources_raw"] or sources
            results = [tf.zeros_like(x) if dx is None else dx for x, dx in zip(raw, results, strict=True)]
    return results


def _wants_zeros(unconnected: Any) -> bool:
    try:
        return bool(tf.UnconnectedGradients(unconnected) == tf.UnconnectedGradients.ZERO)
    except ValueError:
        raise NotNativeError("unconnected_gradients says neither none nor zero") from None


def _check_surroundings() -> None:
    if context.context().op_callbacks:
        raise NotNativeError("somebody listens to each op that is made (op callbacks)")
    graph = ops.get_default_graph()
    if graph._get_control_flow_context() is not None:
        raise NotNativeError("the graph is in a loop or branch of TensorFlow 1, or compiles")


def _push_new_tape(stock: Callable[[], Any], **_: Any) -> tape_lib.Tape:
    """In place of `tape.push_new_tape`."""
    return _recorded.NotedTape(stock()._tape)


def _watch(stock: Callable[[], Any], tape: Any, tensor: Any) -> Any:
    """In place of `tape.watch`, which goes on as it was."""
    if isinstance(tape, _recorded.NotedTape) and not context.executing_eagerly():
        _recorded.note_watch(tape, tensor)
    return stock()
