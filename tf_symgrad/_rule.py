"""Gradients of ops that are written in Python, as functions that the engine calls."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.eager import backprop_util
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import auto_control_deps, func_graph, op_def_registry, ops

from tf_symgrad import _library, _loader, _nodes, _registry

F = TypeVar("F", bound=Callable[..., Any])


def as_function(op_type: str, call: Callable[[], tuple[list[Any], list[Any], Any]]) -> tuple[Any, Any, list[int]]:
    """The gradient of an op as a function of tensors: `call` makes inputs, cotangents, and gradients of these.

    Returns:
      The function, of those inputs that it uses, of what it captures, and of the cotangents; its graph; and for each
      input of the op, which output is its gradient, -1: none.
    """
    body = func_graph.FuncGraph(f"symgrad_gradient_of_{op_type}")
    # Writes and prints of the gradient function happen, and in its order.
    controls = auto_control_deps.AutomaticControlDependencies()
    with body.as_default(), tf.name_scope("gradient"), controls, _registry.native_rules():
        inputs, seeds, gradients = call()
        gradients = list(gradients) if isinstance(gradients, (list, tuple)) else [gradients]
        dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        # An output that is an input as it came is no node: a function needs one.
        dense = [None if g is None else controls.mark_as_return(tf.identity(g)) for g in dense]
    body.symgrad_has_rows = any(isinstance(g, tf.IndexedSlices) for g in gradients)
    body.control_outputs.extend(controls.ops_which_must_run)
    body.variables = list(body._watched_variables)
    body.inputs = [*[x for x in inputs if x.consumers()], *body.internal_captures, *seeds]
    body.outputs = [g for g in dense if g is not None]
    outputs, place = [], 0
    for g in dense:
        outputs.append(-1 if g is None else place)
        place += g is not None
    # A name says what the function is: in every process the same.
    content = hashlib.sha256(body.as_graph_def().SerializeToString(deterministic=True))
    content.update(repr([x.name for x in [*body.inputs, *body.outputs]]).encode())
    name = f"{body.name}_{content.hexdigest()[:16]}"
    gradient = _library.traced[name] = atomic_function.from_func_graph(name, body, {})
    return gradient, body, outputs


class Node:
    """What a rule is told of an op: as much of a `tf.Operation` as a gradient needs.

    Attributes:
      type: the op's name.
      name: the node's.
      inputs: the tensors that it takes.
      outputs: those that it makes.
    """

    def __init__(self, op: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self.type, self.name = str(op.type), str(op.name)
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._op = op

    def get_attr(self, name: str) -> Any:
        """An attr's value, as `tf.Operation.get_attr` has it."""
        return self._op.get_attr(name)


class Rule:
    """A gradient of an op, as `tf.RegisterGradient` takes it, traced once for each set of attrs, dtypes and shapes."""

    def __init__(self, op: str, gradient: Callable[..., Any]) -> None:
        self.gradient = gradient
        self._op = op
        self._traced: dict[Any, tuple[Any, list[int], list[int]]] = {}

    def __call__(self, op: Any, *dys: Any) -> list[Any]:
        """The gradients of an op's inputs, for tapes and `tf.gradients`."""
        return self._checked(op, self.gradient(op, *dys))

    def traced(self, node: node_def_pb2.NodeDef, graph: Any) -> tuple[Any, list[bytes], list[int]]:
        """The gradient of a node as a function, the tensors that it takes as the node's function names them, and for
        each input which output is its gradient.
        """
        dtypes = _nodes.input_dtypes(node)
        known = [x.shape for x in graph.get_operation_by_name(node.name).inputs] if graph is not None else None
        shapes = known or [tf.TensorShape(None)] * len(dtypes)
        plain = node_def_pb2.NodeDef(op=node.op, name=self._op.rpartition(">")[2])
        for name in node.attr:
            if not name.startswith("_"):
                plain.attr[name].CopyFrom(node.attr[name])
        key = (plain.SerializeToString(deterministic=True), tuple(map(str, shapes)))
        if key not in self._traced:
            self._traced[key] = self._trace(plain, list(zip(dtypes, shapes, strict=True)))
        gradient, used, outputs = self._traced[key]
        names = [*_nodes.data_inputs(node), *_nodes.outputs(node)]
        return gradient, [names[i].encode() for i in used], outputs

    def _trace(self, node: node_def_pb2.NodeDef, specs: Sequence[Any]) -> tuple[Any, list[int], list[int]]:
        with tf.Graph().as_default() as scratch:  # tells attrs, and dtypes and shapes of the outputs
            arguments = [tf.compat.v1.placeholder(dtype, shape) for dtype, shape in specs]
            dtypes = _nodes.output_dtypes(node)
            op = scratch._create_op_internal(node.op, arguments, dtypes, name=node.name, attrs=dict(node.attr))
        tensors: list[Any] = []

        def call() -> tuple[list[Any], list[Any], Any]:
            def like(xs: Sequence[Any]) -> list[Any]:
                return [tf.compat.v1.placeholder(x.dtype, x.shape) for x in xs]

            inputs, outputs, seeds = like(op.inputs), like(op.outputs), like(op.outputs)
            tensors.extend([*inputs, *outputs])
            dys = [dy if backprop_util.IsTrainable(dy) else None for dy in seeds]
            return tensors, seeds, self(Node(op, inputs, outputs), *dys)

        gradient, body, outputs = as_function(node.op, call)
        if body.external_captures:
            raise ValueError(
                f"The gradient of '{self._op}' takes {body.external_captures[0]!r}, which is neither an input nor an "
                "output of the op: make it a constant in the rule, or an input of the op."
            )
        return gradient, [i for i, x in enumerate(tensors) if x.consumers()], outputs

    def _checked(self, op: Any, found: Any) -> list[Any]:
        gradients: list[Any] = list(found) if isinstance(found, (list, tuple)) else [found]
        count = len(op.inputs)
        if len(gradients) != count:
            raise ValueError(
                f"The gradient of '{self._op}' returns {len(gradients)} gradients, but the op has {count} inputs: "
                "return one for each, None where there is none."
            )
        for i, (x, dx) in enumerate(zip(op.inputs, gradients, strict=True)):
            if dx is not None and x is not None and x.dtype != tf.resource and dx.dtype != x.dtype:
                raise TypeError(
                    f"The gradient of '{self._op}' returns a gradient of dtype {dx.dtype.name} for input {i}, which is "
                    f"{x.dtype.name}."
                )
        return gradients


rules: dict[str, Rule] = {}  # by op
_by_hand: contextvars.ContextVar[Mapping[str, Rule] | None] = contextvars.ContextVar("by_hand", default=None)


def find(node: node_def_pb2.NodeDef) -> Rule | None:
    """The rule of a node: of its op; or, where its gradient was Python's and is lost, one that is given by hand."""
    if "_gradient_op_type" in node.attr:
        return (_by_hand.get() or {}).get(node.attr["_gradient_op_type"].s.decode())
    return rules.get(node.op)


@contextlib.contextmanager
def by_hand(gradients: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """While this lasts, nodes whose gradient is said to be Python's function `name` have that of `gradients`."""
    token = _by_hand.set({name: Rule(name, gradient) for name, gradient in gradients.items()})
    try:
        yield
    finally:
        _by_hand.reset(token)


def rule(op: str) -> Callable[[F], F]:
    """Registers a gradient of an op, written in Python: a decorator.

    The function is what `tf.RegisterGradient` takes, and tapes and `tf.gradients` use it as well. For the engine it is
    traced once for each set of attrs, dtypes and shapes, when a function with the op is first differentiated: what runs
    is a function of TensorFlow ops, and no Python. It is differentiated like any other, so that there is a second
    derivative if the ops that it is made of have gradients.

    Args:
      op: the name of an op that has no gradient yet: `"MyOp"` or `"MyPackage>MyOp"`. Load its library before.

    Returns:
      A decorator of functions of an op and of a cotangent for each of its outputs (None for those of integers) that
      return the gradients of its inputs: a list, with None where there is none, or one alone. The op has `inputs`,
      `outputs`, `type` and `get_attr(name)`.

    Raises:
      ValueError: there is no such op, or it has a gradient already.

    Examples:
      ```python
      @tf_symgrad.rule("MyPackage>Power")
      def power_gradient(op, dy):
          n = op.get_attr("exponent")
          return n * dy * power(op.inputs[0], exponent=n - 1)
      ```
    """
    if not isinstance(op, str):
        raise TypeError(f'rule takes the name of an op, not {op!r}: @tf_symgrad.rule("MyOp").')
    if op_def_registry.get(op) is None:
        raise ValueError(f"There is no op '{op}': load its library first, by tf.load_op_library.")
    if op in _loader.rules():
        raise ValueError(
            f"Op '{op}' has a rule of the engine's. Another gradient in some places: tf.custom_gradient around it."
        )
    known = rules.get(op)
    if known is None:
        with contextlib.suppress(LookupError):
            other = ops.gradient_registry.lookup(op)
            name = "none (tf.no_gradient)" if other is None else getattr(other, "__qualname__", repr(other))
            raise ValueError(f"Op '{op}' has a gradient in Python already, {name}, which the engine uses as well.")

    def register(gradient: F) -> F:
        if known is None:
            ops.RegisterGradient(op)(lambda node, *dys: rules[op](node, *dys))
        elif not _is_same(known.gradient, gradient):  # one that is defined anew, in a notebook, takes its place
            raise ValueError(f"Op '{op}' has a rule already, {known.gradient.__qualname__}.")
        rules[op] = Rule(op, gradient)
        return gradient

    return register


def _is_same(a: Any, b: Any) -> bool:
    return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)
