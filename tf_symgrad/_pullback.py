"""Gradients of a graph that is being built, as calls of pullbacks that the engine builds.

The forward pass stays as it is: a pullback takes tensors of it. What the engine leaves to TensorFlow (calls, branches,
loops, gradients that users wrote) is differentiated by TensorFlow's own functions, between one pullback and the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.core.function.polymorphism import function_type as function_type_lib
from tensorflow.python import pywrap_tfe
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.eager import backprop_util, record
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.framework import c_api_util, function_def_to_graph, ops
from tensorflow.python.ops import control_flow_state, default_gradient, gradients_util, handle_data_util

from tf_symgrad import _custom, _function, _likeness, _loader

# Control flow and arrays of TensorFlow 1.
_FRAMES = {"Enter", "Exit", "NextIteration", "LoopCond", "Merge", "Switch"}
_STRUCTURE = {
    *("PartitionedCall", "StatefulPartitionedCall", "RemoteCall", "If", "StatelessIf", "Case", "StatelessCase"),
    *("While", "StatelessWhile", "SymbolicGradient", "TfSymgrad>SymbolicGradient"),
}


_HIGHER_ORDER = 2  # of TFE_Py_TapeSetPossibleGradientTypes


class NotNativeError(Exception):
    """The engine does not do this: TensorFlow's Python does."""


def tensor_name(tensor: Any) -> str:
    return f"{tensor.op.name}:{tensor.value_index}"


class Backward:
    """The way back from some tensors of a graph to others. Nothing is added to a graph before `add`."""

    def __init__(
        self,
        graph: tf.Graph,
        ys: Sequence[Any],
        xs: Sequence[Any],
        blocked: Iterable[Any] = (),
        off: Sequence[Any] = (),
        tape: bool = False,
    ) -> None:
        """Plans it.

        Args:
          graph: the graph of all of these.
          ys: what is differentiated.
          xs: what it is differentiated by.
          blocked: ops that gradients do not pass.
          off: tensors that carry none.
          tape: whether these are the gradients of a tape.
        """
        self._graph, self._tape = graph, tape
        self._tensors = {tensor_name(t): t for t in [*ys, *xs]}
        self._xs = {tensor_name(x) for x in xs}
        native = _loader.native()
        try:
            self._pass = native.ForwardPass(_serialized(graph))
            asked = list({tensor_name(y) for y in ys}), list(self._xs)
            stops = [op.name for op in blocked], _inert(), _likeness.DEAF
            self._off = {tensor_name(t) for t in off}
            passed = self._pass.between(*asked, list(self._off), *stops)
            self._passed = {name for name, *_ in passed}
            self._classify(passed, native.rules())
            self._stages: list[list[str]] = self._pass.stages()
            self._plan: dict[int, tuple[list[str], Any]] = {}
            self._rehearse(asked[0])
        except native.StatusError as error:
            raise NotNativeError(error.args[1].replace("\n", " ")) from None

    def _classify(self, passed: list[tuple[str, str, bool]], rules: dict[str, bool]) -> None:
        """Tells the engine which nodes are not its own."""
        self._ops: dict[str, Any] = {}  # those
        for name, kind, own_gradient in passed:
            if kind in _FRAMES or kind.startswith(("Ref", "TensorArray", "Stack")):
                raise NotNativeError(f"op {kind} is of TensorFlow 1")
            known = not own_gradient and kind not in _STRUCTURE and rules.get(kind)
            if known and not _likeness.is_pythons(kind):
                continue
            op = self._graph.get_operation_by_name(name)
            if known and not _likeness.is_python_op(op):
                continue
            if own_gradient:
                registered = op.get_attr("_gradient_op_type").decode()
                if self._tape and not registered.startswith("CustomGradient-"):
                    raise NotNativeError(
                        f"a tape knows nothing of gradient_override_map, under which a {kind} was made"
                    )
                if self._hand_over(op):
                    continue
            elif _python_gradient(op) is None:
                raise NotNativeError(f"op {kind} has no gradient")
            self._ops[name] = op
            self._pass.set_opaque(name)

    def _hand_over(self, op: Any) -> bool:
        """Hands over the gradient of an op that TensorFlow itself made by `tf.custom_gradient`.

        What a user wrote is the user's to run: it may return rows, or look at what is around it.
        """
        gradient = _python_gradient(op)
        if gradient is None or _custom._twin(op, gradient) is None:
            return False
        traced = _custom._trace(op, self._graph)
        if traced is None:
            return False
        function, tensors, outputs = traced
        if any(isinstance(t, ops.EagerTensor) or t.graph is not self._graph for t in tensors):
            return False
        for t in tensors:
            self._tensors[tensor_name(t)] = t
        library = function_pb2.FunctionDefLibrary()
        library.function.extend(f.cached_definition for f in _function.reachable(function).values())
        names = [tensor_name(t) for t in tensors]
        self._pass.set_gradient(op.name, tf.compat.as_str(function.name), names, outputs, library.SerializeToString())
        return True

    def _tensor(self, name: str) -> Any:
        if name not in self._tensors:
            op, _, index = name.rpartition(":")
            self._tensors[name] = self._graph.get_operation_by_name(op).outputs[int(index)]
        return self._tensors[name]

    def _build(self, stage: int, ys: list[str]) -> Any:
        """The pullback of a stage, of those y that have cotangents."""
        known = self._plan.get(stage)
        if known is None or known[0] != ys:
            facts = [_facts(self._tensor(name)) for name in self._pass.begin(stage, ys)]
            known = self._plan[stage] = ys, self._pass.finish(facts)
        return known[1]

    def _rehearse(self, ys: Iterable[str]) -> None:
        """Builds all pullbacks, for all cotangents that there may be: what fails, fails now."""
        seeded = set(ys)
        for stage, opaque in enumerate(self._stages):
            native = self._seeds_of(stage, seeded)
            if native:
                seeded.update(gradient[0] for gradient in self._build(stage, native)[4])
            for name in opaque:
                seeded.update(tensor_name(t) for t in self._inputs(self._ops[name]) if t is not None)

    def _seeds_of(self, stage: int, seeded: Iterable[str]) -> list[str]:
        return sorted(name for name in seeded if self._pass.stage_of(name) == stage)

    def _inputs(self, op: Any) -> list[Any]:
        """The inputs of an op, None for those that no gradient is wanted of."""

        def wanted(t: Any) -> bool:
            name = tensor_name(t)
            return name not in self._off and (name in self._xs or t.op.name in self._passed)

        return [t if backprop_util.IsTrainable(t) and wanted(t) else None for t in op.inputs]

    def add(self, seeds: Sequence[tuple[Any, Any]], scope: str = "") -> dict[str, Any]:
        """Adds the gradients to the default graph.

        Args:
          seeds: the y, and their cotangents.
          scope: the name scope.

        Returns:
          The gradients of those x that any flows to, by name: tensors or IndexedSlices.
        """
        cotangents: dict[str, list[Any]] = {}
        for y, dy in seeds:
            if tensor_name(y) not in self._off:
                cotangents.setdefault(tensor_name(y), []).append(dy)
        for stage, opaque in enumerate(self._stages):
            native = self._seeds_of(stage, cotangents)
            if native:
                try:
                    pullback = self._build(stage, native)
                except _loader.native().StatusError as error:
                    raise NotNativeError(error.args[1].replace("\n", " ")) from None
                dys = [tf.convert_to_tensor(_sum(cotangents.pop(name))) for name in native]
                self._call(pullback, dys, cotangents)
            for name in opaque:
                self._add_opaque(self._ops[name], cotangents, scope)
        return {name: _sum(cotangents[name]) for name in self._xs if name in cotangents}

    def _call(self, pullback: Any, dys: list[Any], cotangents: dict[str, list[Any]]) -> None:
        name, stateful, functions, taken, gradients = pullback
        if not gradients:
            return
        results = call(name, stateful, functions, [*map(self._tensor, taken), *dys])
        for of, values, indices in gradients:
            x, dx = self._tensor(of), results[values]
            spec = _function.variable_spec(x) if x.dtype == tf.resource else x
            shape = tf.TensorShape(None) if spec is None else spec.shape
            if indices >= 0:
                dx.set_shape(tf.TensorShape([None]).concatenate(shape[1:]))
                dx = tf.IndexedSlices(dx, results[indices], _dense_shape(x, shape))
            elif dx.dtype == tf.variant:
                handle_data_util.copy_handle_data(x, dx)
            else:
                dx.set_shape(shape)
            cotangents.setdefault(of, []).append(dx)

    def _add_opaque(self, op: Any, cotangents: dict[str, list[Any]], scope: str) -> None:
        """Gradients by TensorFlow's Python, as `tf.gradients` makes them of one op."""
        dys: list[Any] = []
        for y in op.outputs:
            parts = cotangents.get(tensor_name(y), [])
            dys.append(_sum(parts) if parts else None)
            if tensor_name(y) not in self._xs:
                cotangents.pop(tensor_name(y), None)
        if all(dy is None for dy in dys):
            return
        for i, (y, dy) in enumerate(zip(op.outputs, dys, strict=True)):
            if dy is None and backprop_util.IsTrainable(y) and default_gradient.supports_default_grad(y):
                dys[i] = control_flow_state.ZerosLike(op, i)
        inputs, gradient = self._inputs(op), _python_gradient(op)
        with tf.name_scope(op.name + "_grad"), self._graph._original_op(op):
            dxs = gradients_util._AsList(gradients_util._MaybeCompile(scope, op, None, lambda: gradient(op, *dys)))
        gradients_util._VerifyGeneratedGradients(dxs, op)
        for x, dx in zip(inputs, dxs, strict=False):
            if x is None or dx is None:
                continue
            if isinstance(dx, tf.Tensor) and x.dtype != tf.resource:
                dx.set_shape(x.shape)
            cotangents.setdefault(tensor_name(x), []).append(dx)


def call(name: str, stateful: bool, functions: Sequence[bytes], inputs: Sequence[Any]) -> list[Any]:
    """Adds the call of a pullback to the default graph."""
    graph = ops.get_default_graph()
    atoms = [_function.atomic(function_pb2.FunctionDef.FromString(f)) for f in functions]
    for atom in atoms:
        if not graph._is_function(atom.name):
            graph._add_function(atom)
    root = next(atom for atom in atoms if tf.compat.as_str(atom.name) == name)
    outputs = [tf.as_dtype(arg.type) for arg in root.cached_definition.signature.output_arg]
    add = tf.raw_ops.StatefulPartitionedCall if stateful else tf.raw_ops.PartitionedCall
    # A tape that may see the gradient of this gradient must have recorded all that this one will take.
    if pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(list(inputs)) == _HIGHER_ORDER:
        return list(_concrete(atoms, inputs)._call_flat(list(inputs), []))
    gradient = functools.partial(_gradient_of_call, atoms)
    with record.stop_recording():
        results = list(add(args=list(inputs), Tout=outputs, f=_Named(name, root)))
    op = results[0].op
    op._gradient_function = gradient
    if record.could_possibly_record():
        record.record_operation(op.type, results, list(op.inputs), lambda *dys: gradient(op, *dys))
    return results


class _Named:
    """What TensorFlow takes for the value of an attr that is a function."""

    def __init__(self, name: str, function: Any) -> None:
        self._as_name_attr_list = attr_value_pb2.NameAttrList(name=name)
        self._function = function

    def add_to_graph(self, graph: tf.Graph) -> None:
        """The graph has it."""


def _gradient_of_call(atoms: Sequence[Any], op: Any, *dys: Any) -> Any:
    """The gradient of a pullback's call, as TensorFlow differentiates calls: few ask for it."""
    rewrite = _concrete(atoms, op.inputs)._delayed_rewrite_functions._rewrite_forward_and_call_backward
    return rewrite(op, *dys)


def _concrete(atoms: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """A pullback as TensorFlow knows functions, for inputs like these."""
    root, key = atoms[0], tuple(repr(_facts(t)) for t in inputs if t.dtype == tf.resource)
    known = root.__dict__.setdefault("_symgrad_concrete", {})
    if key not in known:
        graph = function_def_to_graph.function_def_to_graph(root.cached_definition, structured_input_signature=None)
        for outer, t in zip(inputs, graph.inputs, strict=True):
            handle_data_util.copy_handle_data(outer, t)
        specs = [tuple(tf.TensorSpec(t.shape, t.dtype) for t in ts) for ts in (graph.inputs, graph.outputs)]
        of = function_type_lib.from_structured_signature((specs[0], {}), specs[1])
        known[key] = concrete_function.ConcreteFunction.from_func_graph(graph, of, {})
    return known[key]


def _sum(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else backprop_util.AggregateIndexedSlicesGradients(parts)


def _dense_shape(x: Any, shape: tf.TensorShape) -> Any:
    if shape.is_fully_defined():
        return tf.constant(shape.as_list(), tf.int32)
    return tf.raw_ops.VariableShape(input=x) if x.dtype == tf.resource else tf.shape(x)


def _facts(tensor: Any) -> tuple[int, list[int] | None]:
    """What is known of a tensor: of a variable the dtype of its value, and a shape."""
    value, shape = 0, tensor.shape
    if tensor.dtype == tf.resource:
        spec = _function.variable_spec(tensor)
        if spec is None:
            return 0, None
        value, shape = spec.dtype.as_datatype_enum, spec.shape
    return value, None if shape.rank is None else [-1 if d is None else d for d in shape]


def _python_gradient(op: Any) -> Any:
    try:
        return ops.get_gradient_function(op)
    except LookupError:
        return None


def _inert() -> list[str]:
    """The ops that TensorFlow has declared to have no gradient, whatever the engine knows of them."""
    registry = ops.gradient_registry
    names = registry.list()
    if len(names) != len(_lookups):
        _lookups.update({name: registry.lookup(name) is None for name in names})
    return [name for name, inert in _lookups.items() if inert]


_lookups: dict[str, bool] = {}


def _serialized(graph: tf.Graph) -> bytes:
    with graph._lock, c_api_util.tf_buffer() as buffer, graph._c_graph.get() as c_graph:
        pywrap_tf_session.TF_GraphToGraphDef(c_graph, buffer)
        return bytes(pywrap_tf_session.TF_GetBuffer(buffer))
