"""The op, and its registered gradient."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, types_pb2
from tensorflow.python.eager import context, execute, forwardprop_util, record
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import ops
from tensorflow.python.ops.parallel_for import pfor as pfor_lib

from tf_symgrad import _batch, _custom, _function, _given, _loader, _specs

OP = "TfSymgrad>SymbolicGradient"
_library: Any = _loader.load()


def run(
    inputs: Sequence[Any],
    tout: Sequence[Any],
    f: Any,
    name: str | None = None,
    wrt: Sequence[bool] = (),
    values: bool = False,
    checkpoint: str = "",
    optimize: str = "grappler",
    sparse: bool = True,
) -> list[Any]:
    """Runs the op, or adds it to the graph. `sparse`: a tape over it may get IndexedSlices."""
    if not isinstance(f, (str, bytes, attr_value_pb2.NameAttrList)) and not (
        hasattr(f, "add_to_graph") or isinstance(f, atomic_function.AtomicFunction)
    ):
        raise TypeError(
            "The raw op takes a function that the graph has: its name, a NameAttrList, a ConcreteFunction or a Defun, "
            f"not {f!r}. Pass f.get_concrete_function(...) of a tf.function, or use tf_symgrad.symbolic_gradient, "
            "which takes a callable too."
        )
    if not tout:
        return []
    f = _given.handed_over(f)
    inputs = [x if isinstance(x, tf.Tensor) else tf.convert_to_tensor(x) for x in inputs]
    attrs = {"Tout": list(tout), "f": f, "wrt": list(wrt), "values": values, "checkpoint": checkpoint}
    attrs |= {"optimize": optimize, "name": name or "SymbolicGradient"}
    # Recorded as one function rather than as an op: an accumulator can make nothing of an attr that is a function.
    outputs = _unrecorded(inputs, attrs)
    if record.could_possibly_record():
        ys = outputs[sum(attrs["wrt"]) :] if values else []
        # A forward accumulator transposes the gradient: it takes what it gets of a table for the table.
        sparse = sparse and not forwardprop_util.pack_tangents(inputs).tangents
        record.record_operation(OP, outputs, inputs, lambda *dys: _gradient(inputs, ys, attrs, *dys, sparse=sparse))
    return outputs


def _unrecorded(inputs: Sequence[Any], attrs: dict[str, Any]) -> list[Any]:
    """Runs or adds the op, past the tapes.

    Recording is not stopped in eager mode, as it would be for the Python that may run in f, in this very thread.
    """
    if not context.executing_eagerly():
        with record.stop_recording():
            return _add(inputs, attrs)
    f = getattr(attrs["f"], "name_attrs", attrs["f"])
    tin, tout = ([tf.as_dtype(t).as_datatype_enum for t in x] for x in ([x.dtype for x in inputs], attrs["Tout"]))
    # TensorFlow refuses what comes of a Shape op as the result of an eager op, and of a function does not.
    may_be_shapes = attrs["values"] and types_pb2.DT_INT32 in tout
    if may_be_shapes or (isinstance(f, attr_value_pb2.NameAttrList) and f.attr):
        # An eager op keeps the name of a function and drops its attrs, too; a graph keeps both.
        function = tf.function(lambda *x: _add(x, attrs), autograph=False).get_concrete_function(*inputs)
        return list(function._inference_function.call_flat(*inputs))
    given = ["Tin", tin]
    for attr in ("Tout", "f", "wrt", "values", "checkpoint", "optimize"):
        given += [attr, tout if attr == "Tout" else attrs[attr]]
    with _kernels.of(tf.compat.as_str(getattr(f, "name", f))):
        return list(execute.execute(OP, len(tout), inputs, tuple(given), context.context(), attrs["name"]))


class _Kernels:
    """What TensorFlow keeps of eager calls: a kernel, with the gradient function in it, for each f that there ever was.

    A callable is traced anew at each call, and so is another f. Here those that are gone are counted, and when they are
    many, all kernels of the op are let go, at a moment when none is about to run. Those still in use are made anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._limit = 128
        self._running = 0
        self._due = False

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """A call with the function of that name."""
        with self._lock:
            self._running += 1
            self._names.add(name)
            if len(self._names) >= self._limit:
                self._names = {name for name in self._names if context.context().has_function(name)}
                self._due = self._due or len(self._names) < self._limit
                self._limit = max(128, 2 * len(self._names))
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._due and not self._running and not context.is_async():
                    self._due = False
                    let_kernels_go()


def let_kernels_go() -> None:
    """Those of all eager calls of the op, none of which may run. TensorFlow runs an eager op in a function that it
    makes; with that go its kernels."""
    for name in context.context().list_function_names():
        if tf.compat.as_str(name).startswith(f"__wrapped__{OP}"):
            context.context().remove_function(name)


_kernels = _Kernels()


def _add(inputs: Sequence[Any], attrs: dict[str, Any]) -> list[Any]:
    return list(_library.tf_symgrad_symbolic_gradient(input=inputs, **attrs))


def _registered_gradient(op: Any, *cotangents: Any) -> list[Any]:
    attrs = {name: op.get_attr(name) for name in ("f", "wrt", "values", "checkpoint", "optimize")}
    ys = op.outputs[sum(attrs["wrt"]) :] if attrs["values"] else []
    return _gradient(op.inputs, ys, {**attrs, "Tout": [y.dtype for y in op.outputs]}, *cotangents)


def _gradient(
    inputs: Sequence[Any], ys: Sequence[Any], attrs: dict[str, Any], *cotangents: Any, sparse: bool = True
) -> list[Any]:
    """The gradient of a gradient is the gradient of the gradient function, which is a function like any other."""
    f, tout = attrs["f"], attrs["Tout"]
    wrt = list(attrs["wrt"]) or [True] * len(tout)
    count = sum(wrt)  # the op's outputs are so many gradients, then values
    of_gradients, of_values = list(cotangents[:count]), list(cotangents[count:])
    results = iter(zip(tout[:count], of_gradients, strict=True))
    result_of = [next(results) if w else (None, None) for w in wrt]
    given = [cotangent is not None for _, cotangent in result_of]
    rest = [(None, None)] * (len(inputs) - len(wrt))
    dtypes = [_gradient_dtype(x, dtype) for x, (dtype, _) in zip(inputs, [*result_of, *rest], strict=True)]
    lists = [x.dtype == tf.variant for x in inputs]  # perhaps: the residuals of a loop, say
    wanted = [_specs.continuous(dtype) or is_list for dtype, is_list in zip(dtypes, lists, strict=True)]
    values = any(cotangent is not None for cotangent in of_values)
    if not (values or any(given)) or not any(wanted):
        return [None] * len(inputs)
    if not isinstance(f, _function.Function):
        graph = next((x.graph for x in inputs if not isinstance(x, ops.EagerTensor)), ops.get_default_graph())
        f = _function.from_name(_name_attrs(f), graph)
    # What is kept is decided anew for the gradient of the gradient, but where names of f's nodes say it.
    checkpoint = tf.compat.as_str(attrs["checkpoint"])
    by_names = ":" in checkpoint
    f = f.with_options(checkpoint=checkpoint if by_names else "")
    if context.executing_eagerly():
        g = f.gradient(given, values)
    else:
        kept = [dtype for dtype, d in zip(tout[: len(of_gradients)], of_gradients, strict=True) if d is not None]
        g = f.gradient_by_op(OP, given, [*kept, *([y.dtype for y in f.outputs] if values else [])], values)
    g = g.with_options(checkpoint="" if by_names else checkpoint, optimize=tf.compat.as_str(attrs["optimize"]))
    seeds = [tf.convert_to_tensor(d, dtype) for dtype, d in zip(tout, of_gradients, strict=False) if d is not None]
    if values:
        places = zip(ys, of_values, strict=True)
        seeds += [tf.zeros_like(y) if d is None else tf.convert_to_tensor(d, y.dtype) for y, d in places]
    operands, count = [*inputs, *seeds], len(inputs)

    def told(g: _function.Function) -> _function.Function:
        return g if context.executing_eagerly() else g.specialized(g.with_captures(operands, count))

    tensors = [w and not is_list for w, is_list in zip(wanted, lists, strict=True)]
    g = _custom.differentiable(g, tensors, told)
    if any(lists):  # of any other variant there is no gradient
        flows = zip(wanted, lists, g.input_gradients(wanted), strict=False)
        wanted = [w and (not is_list or connected) for w, is_list, (_, connected) in flows]
        if not any(wanted):
            return [None] * len(inputs)
    operands = g.with_captures(operands, count)
    mask = [*wanted, *[False] * (len(g.inputs) - count)]
    if sparse and (rows := _giving_rows(g, operands, mask)):
        gradients = iter(with_rows(rows, operands, wanted))
    else:
        tout = [dtype for dtype, w in zip(dtypes, wanted, strict=True) if w]
        gradients = iter(
            run(operands, tout, told(g), wrt=mask, checkpoint=g.checkpoint, optimize=g.optimize, sparse=sparse)
        )
    return [next(gradients) if w else None for w in wanted]


def _giving_rows(g: _function.Function, operands: Sequence[Any], wanted: Sequence[bool]) -> Any:
    """The function, if a gradient of it is sparse rows, as Python's gradient of a gather is; else None."""
    if b"Gather" not in g.definitions().SerializeToString():
        return None
    known = g.specialized(operands).here()
    try:
        _, indices = known.sparse_gradient(wanted)
    except tf.errors.UnimplementedError:  # what is not known here XLA may know, when it meets the op
        return None
    return known if any(k >= 0 for k in indices) else None


def with_rows(function: _function.Function, inputs: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    """The gradients of those inputs that are wanted: tensors or IndexedSlices."""
    if not any(wanted):
        return []
    mask = [*wanted, *[False] * (len(function.inputs) - len(wanted))]
    gradient, indices = function.sparse_gradient(mask)
    tout = [y.dtype for y in gradient.outputs]
    nothing = [False] * len(gradient.inputs)
    results = run(
        [*inputs, *map(unused, gradient.outputs)], tout, gradient, wrt=nothing, values=True, optimize=function.optimize
    )
    gradients = []
    for x, dx, k in zip([x for x, w in zip(inputs, mask, strict=False) if w], results, indices, strict=False):
        of_value = _specs.variable_spec(x) if x.dtype == tf.resource else x
        shape = tf.TensorShape(None) if of_value is None else of_value.shape
        rows = k >= 0
        if not tf.executing_eagerly():
            dx.set_shape(tf.TensorShape([None]).concatenate(shape[1:]) if rows else shape)
        if rows and x.dtype == tf.resource:
            dense_shape = tf.raw_ops.VariableShape(input=x)
        elif rows:
            dense_shape = tf.shape(x)
        gradients.append(tf.IndexedSlices(dx, results[k], dense_shape) if rows else dx)
    return gradients


def unused(y: tf.TensorSpec) -> Any:
    """A cotangent of an output that no gradient comes from."""
    if y.dtype == tf.variant:
        return tf.raw_ops.EmptyTensorList(element_shape=-1, max_num_elements=0, element_dtype=tf.float32)
    return tf.zeros([], y.dtype)


def _gradient_dtype(x: Any, dtype: Any) -> Any:
    """The dtype of the gradient of an input, of which the op may have computed one; a resource's if it has none."""
    if x.dtype != tf.resource:
        return x.dtype
    variable = None if dtype is not None else _specs.variable_spec(x)
    return dtype or (tf.resource if variable is None else variable.dtype)


def _name_attrs(f: Any) -> attr_value_pb2.NameAttrList:
    """The name behind attr `f`: of an op in a graph a NameAttrList, on a tape what the op was called with."""
    if isinstance(f, attr_value_pb2.NameAttrList):
        return f
    return attr_value_pb2.NameAttrList(name=tf.compat.as_str(f if isinstance(f, (str, bytes)) else f.name))


ops.RegisterGradient(OP)(_registered_gradient)
pfor_lib.RegisterPFor(OP)(_batch.convert)
