"""Gradients of a graph that is being built, as calls of pullbacks that the engine builds.

The forward pass stays as it is: a pullback takes tensors of it; calls, branches and loops get outputs for that. What
the engine leaves to TensorFlow (gradients that users wrote, say) is differentiated by TensorFlow's own functions,
between one pullback and the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from google.protobuf import message  # type: ignore[import-untyped]
from tensorflow.core.framework import function_pb2
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop_util
from tensorflow.python.framework import ops
from tensorflow.python.ops import (
    control_flow_state,
    control_flow_util,
    default_gradient,
    gradients_util,
    handle_data_util,
)

from tf_symgrad import _custom, _library, _likeness, _loader, _part, _pullback, _specs, _structure

# Control flow and arrays of TensorFlow 1.
_FRAMES = {"Enter", "Exit", "NextIteration", "LoopCond", "Merge", "Switch"}
_STRUCTURE = {
    *("PartitionedCall", "StatefulPartitionedCall", "RemoteCall", "If", "StatelessIf", "Case", "StatelessCase"),
    *("While", "StatelessWhile", "SymbolicGradient", "TfSymgrad>SymbolicGradient"),
}


class NotNativeError(Exception):
    """The engine does not do this: TensorFlow's Python does."""


class _OutsideError(Exception):
    """A gradient takes a tensor from elsewhere in the graph."""


def tensor_name(tensor: Any) -> str:
    return f"{tensor.op.name}:{tensor.value_index}"


class Backward:
    """The way back from some tensors of a graph to others. Nothing is added to a graph before `add`.

    Attributes:
      left: why calls, branches and loops are left to Python that were to be the engine's.
      reached: names of those x that gradients may flow to.
    """

    def __init__(
        self,
        graph: tf.Graph,
        ys: Sequence[Any],
        xs: Sequence[Any],
        passed: Iterable[Any],
        blocked: Iterable[Any] = (),
        off: Sequence[Any] = (),
        tape: bool = False,
    ) -> None:
        """Plans it.

        Args:
          graph: the graph of all of these.
          ys: what is differentiated.
          xs: what it is differentiated by.
          passed: ops of the graph, all that gradients pass among them.
          blocked: ops that gradients do not pass.
          off: tensors that carry none.
          tape: whether these are the gradients of a tape.
        """
        self._graph, self._tape = graph, tape
        self._compiled = control_flow_util.GraphOrParentsInXlaContext(graph)
        self._tensors = {tensor_name(t): t for t in [*ys, *xs]}
        self._xs = {tensor_name(x) for x in xs}
        self._off = {tensor_name(t) for t in off}
        self._blocked = [op.name for op in blocked]
        ys_by_name = sorted({tensor_name(y) for y in ys})
        self.left: list[str] = []
        passed = list(passed)
        looked_at = [] if pywrap_tfe.TFE_Py_TapeSetIsEmpty() else passed
        self._watched = {tensor_name(t) for op in looked_at for t in op.inputs if _is_watched_constant(t)}
        try:
            graph_def, self._names = _part.serialized(graph, passed, [*ys, *xs, *off])
            try:
                self._read(graph_def, ys_by_name)
            except _OutsideError:
                self._names, graph_def = None, _part.whole(graph)
                self._read(graph_def, ys_by_name)
            self._rehearse(ys_by_name)
        except _loader.native().StatusError as error:
            raise NotNativeError(error.args[1].replace("\n", " ")) from None
        except (tf.errors.OpError, message.EncodeError) as error:  # it is larger than a protocol buffer may be
            raise NotNativeError(str(error)) from None

    def _read(self, graph_def: bytes, ys: list[str]) -> None:
        native = _loader.native()
        self._structure: _structure.Library = {}
        self._extensible: dict[str, Any] = {}  # calls, branches and loops that are the engine's
        self._pass = native.ForwardPass(graph_def, self._compiled)
        for name in self._watched:
            self._pass.keep(name)
        passed = self._pass.between(
            ys, list(self._xs), list(self._off), self._blocked, _likeness.inert(), _likeness.DEAF
        )
        self._passed = {name for name, *_ in passed}
        self._classify(passed, _loader.rules(), ys)

    def _classify(self, passed: list[tuple[str, str, bool]], rules: Mapping[str, bool], ys: Sequence[str]) -> None:
        """Tells the engine which nodes are not its own."""
        self._ops: dict[str, Any] = {}  # those
        self._handed_over: dict[str, Any] = {}  # functions that are gradients
        for name, kind, own_gradient in passed:
            if kind in _FRAMES or kind.startswith(("Ref", "TensorArray", "Stack")):
                raise NotNativeError(f"op {kind} is of TensorFlow 1")
            known = not own_gradient and kind not in _STRUCTURE and rules.get(kind)
            if known and not _likeness.is_pythons(kind):
                continue
            op = self._graph.get_operation_by_name(name)
            if kind in _structure.KINDS and not own_gradient and self._is_known_structure(op, ys):
                continue
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

    def _is_known_structure(self, op: Any, ys: Sequence[str]) -> bool:
        """Hands over the functions of a call, a branch or a loop, if the engine is to differentiate that."""
        found = _structure.library_of(op, ys)
        if found is None:
            return False
        library, told = found
        self._extensible[op.name] = op
        new = {name: function for name, function in library.items() if name not in self._structure}
        self._structure.update(new)
        functions = function_pb2.FunctionDefLibrary(
            function=[told.get(name) or f.cached_definition for name, f in new.items()]
        )
        self._pass.add_functions(functions.SerializeToString())
        return True

    def _hand_over(self, op: Any) -> bool:
        """Hands over the gradient of an op that TensorFlow itself made by `tf.custom_gradient`.

        What a user wrote is the user's to run: it may return rows, or look at what is around it.
        """
        gradient = _python_gradient(op)
        if gradient is None or not (_custom._twin(op, gradient) or _custom.only_refuses(op, gradient)):
            return False
        traced = _custom._trace(op, self._graph)
        if traced is None:
            return False
        if _custom.misshapen(op, traced):
            raise NotNativeError(f"the custom gradient of a {op.type} has another shape than what it is a gradient by")
        function, tensors, outputs = traced
        if any(isinstance(t, ops.EagerTensor) or t.graph is not self._graph for t in tensors):
            return False
        if self._names is not None and any(t.op.name not in self._names for t in tensors):
            raise _OutsideError
        for t in tensors:
            self._tensors[tensor_name(t)] = t
            if _is_watched_constant(t):
                self._pass.keep(tensor_name(t))
        library, functions = function_pb2.FunctionDefLibrary(), _library.reachable(function)
        self._handed_over.update(functions)
        library.function.extend(f.cached_definition for f in functions.values())
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
            facts = [_pullback.facts(self._tensor(name)) for name in self._pass.begin(stage, ys)]
            known = self._plan[stage] = ys, self._pass.finish(facts)
        return known[1]

    def _rehearse(self, ys: Iterable[str]) -> None:
        """Builds all pullbacks, for all cotangents that there may be: what fails, fails now.

        A call, a branch or a loop that the engine can't differentiate is left to Python; all are, if none is named. So
        is one that would get outputs of which another tape knows nothing.
        """
        while True:
            self._stages: list[list[str]] = self._pass.stages()
            self._plan: dict[int, tuple[list[str], Any]] = {}
            failed: dict[str, str] = {}
            try:
                self._build_all(ys)
            except _loader.native().StatusError as error:
                failed = dict(self._pass.failed()) or dict.fromkeys(self._extensible, error.args[1])
                if not failed:
                    raise
            recorded = {name for _, pullback in self._plan.values() for name in self._recorded(pullback)}
            if not failed and not recorded:
                return
            for name in sorted(failed.keys() | recorded):
                op = self._ops[name] = self._extensible.pop(name)
                self._pass.set_opaque(name)
                if name in failed:
                    reason = f"that of node '{name}' (op {op.type}) alone: {failed[name]}"
                    self.left.append(reason.replace("\n", " "))

    def _recorded(self, pullback: Any) -> list[str]:
        """The nodes that are to get outputs for a pullback, but have been recorded by another tape."""
        return [name for name, *_ in pullback[5] if _structure.is_recorded(self._extensible[name])]

    def _build_all(self, ys: Iterable[str]) -> None:
        seeded = set(ys)
        for stage, opaque in enumerate(self._stages):
            native = self._seeds_of(stage, seeded)
            if native:
                seeded.update(gradient[0] for gradient in self._build(stage, native)[4])
            for name in opaque:
                seeded.update(tensor_name(t) for t in self._inputs(self._ops[name]) if t is not None)
        self.reached = self._xs & seeded

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
                if self._recorded(pullback):
                    raise NotNativeError("of a node that gets outputs another tape has recorded those that it has")
                dys = [tf.convert_to_tensor(summed(cotangents.pop(name))) for name in native]
                self._call(pullback, dys, cotangents)
            for name in opaque:
                self._add_opaque(self._ops[name], cotangents, scope)
        return {name: summed(cotangents[name]) for name in self._xs if name in cotangents}

    def _call(self, pullback: Any, dys: list[Any], cotangents: dict[str, list[Any]]) -> None:
        name, stateful, functions, taken, gradients, extended, copied = pullback
        if not gradients:
            return
        definitions = map(function_pb2.FunctionDef.FromString, functions)
        own = {definition.signature.name: _library.atomic(definition) for definition in definitions}
        for node, definition, start, start_args, outputs in extended:
            op = self._graph.get_operation_by_name(node)
            _structure.extend(op, definition, start, start_args, outputs, own)
        called = _structure.called(own, {**self._structure, **self._handed_over})
        try:
            results = _pullback.call(name, stateful, [*own.values(), *called], [*map(self._tensor, taken), *dys])
        except ValueError as error:  # of a variant that TensorFlow knows too little of
            raise NotNativeError(f"TensorFlow makes no call of a pullback: {error}") from None
        for constant in copied:
            _copies(self._graph).setdefault(constant, []).append(results[0].op)
        for of, values, indices in gradients:
            x, dx = self._tensor(of), results[values]
            spec = _specs.variable_spec(x) if x.dtype == tf.resource else x
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
            dys.append(summed(parts) if parts else None)
            if tensor_name(y) not in self._xs:
                cotangents.pop(tensor_name(y), None)
        if all(dy is None for dy in dys):
            return
        for i, (y, dy) in enumerate(zip(op.outputs, dys, strict=True)):
            if dy is None and backprop_util.IsTrainable(y) and default_gradient.supports_default_grad(y):
                dys[i] = control_flow_state.ZerosLike(op, i)
        _structure.restore()
        inputs, gradient, known = self._inputs(op), _python_gradient(op), len(op.outputs)
        with tf.name_scope(op.name + "_grad"), self._graph._original_op(op):
            dxs = gradients_util._AsList(gradients_util._MaybeCompile(scope, op, None, lambda: gradient(op, *dys)))
        _structure.tell_tapes(op, known)
        gradients_util._VerifyGeneratedGradients(dxs, op)
        for x, dx in zip(inputs, dxs, strict=False):
            if x is None or dx is None:
                continue
            if isinstance(dx, tf.Tensor) and x.dtype != tf.resource:
                if not dx.shape.is_compatible_with(x.shape):
                    raise NotNativeError(f"a gradient of '{op.name}' has shape {dx.shape}, where it must be {x.shape}")
                dx.set_shape(x.shape)
            cotangents.setdefault(tensor_name(x), []).append(dx)


def _copies(graph: tf.Graph) -> dict[str, list[Any]]:
    """The pullbacks that have copies of a constant, by its name."""
    if not hasattr(graph, "_symgrad_copies"):
        graph._symgrad_copies = {}
    return graph._symgrad_copies  # type: ignore[no-any-return]


def pullbacks_with_copy_of(x: Any) -> list[Any]:
    """The calls of pullbacks that are none of functions of a constant, as they have a copy of it."""
    return _copies(x.graph).get(tensor_name(x), [])


def _is_watched_constant(t: Any) -> bool:
    """Whether a tape may be asked for a derivative of a pullback by a constant."""
    return bool(t.op.type == "Const" and _part.carries(t.dtype) and pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop([t]))


def summed(parts: list[Any]) -> Any:
    """The sum of some gradients of one tensor."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].dtype != tf.variant:
        return backprop_util.AggregateIndexedSlicesGradients(parts)
    # TensorFlow refuses to add up lists of which it knows unequally much, and looks again into a function that is
    # called, where it knows other things than here. Of what an IdentityN returns it knows nothing.
    total = tf.add_n(tf.raw_ops.IdentityN(input=parts))
    for part in parts:
        handle_data_util.copy_handle_data(part, total)
    return total


def _dense_shape(x: Any, shape: tf.TensorShape) -> Any:
    if shape.is_fully_defined():
        return tf.constant(shape.as_list(), tf.int32)
    return tf.raw_ops.VariableShape(input=x) if x.dtype == tf.resource else tf.shape(x)


def _python_gradient(op: Any) -> Any:
    try:
        return ops.get_gradient_function(op)
    except LookupError:
        return None
