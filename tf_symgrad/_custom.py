"""Gradients that exist in Python only, handed to the engine as functions.

`tf.custom_gradient`, `Graph.gradient_override_map` and `tf.RegisterGradient` name Python functions. Where a function
that is to be differentiated has nodes with such gradients, they are traced here, once, and a copy of the function is
made in which each of these nodes names the traced function and the tensors that it takes. The engine needs no Python
after that, nor does the graph; but for `tf.py_function`, which is Python.

What a traced function calls may have such gradients itself. They are traced when it is differentiated: a gradient may
have a gradient of Python's without end.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import types
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.python.eager import backprop_util
from tensorflow.python.framework import ops
from tensorflow.python.ops import script_ops

from tf_symgrad import _library, _lift, _loader, _nodes, _rule, _specs
from tf_symgrad._function import Function

GRADIENT, INPUTS, OUTPUTS = "_symgrad_gradient", "_symgrad_gradient_inputs", "_symgrad_gradient_outputs"
_MISSHAPEN = -2  # of the last
SUFFIX = "__custom_"  # in the name of a function in which gradients are handed over
# Ops of TensorFlow whose gradient is Python's to give.
_PYTHONS = {"EagerPyFunc"}


def differentiable(
    function: Function,
    wrt: Sequence[bool],
    told: Callable[[Function], Function] = lambda f: f,
    values: bool = False,
) -> Function:
    """The function, with gradients that are Python's handed over if it has nodes with such.

    `told` adds what is known of the inputs; with that the gradient is built here. Errors are better here, where the
    caller's traceback and the source lines of f are known, than at run time.
    """
    wrong: list[str] = []
    if not function.resolved:
        try:
            told(function).build_gradient(wrt, values)
            return function
        except tf.errors.UnimplementedError as error:
            resolved = resolve(function, wrong)
            if resolved is None:
                raise _explained(error, wrong) from None
        # Only what was added is kept: what the function has itself would keep it alive.
        resolved.captures = resolved.captures[len(function.captures) :]
        resolved.variables = resolved.variables[len(function.variables) :]
        resolved._owner = None
        function.resolved.append(resolved)
    resolved = copy.copy(function.resolved[0])
    resolved.captures = [*function.captures, *resolved.captures]
    resolved.variables = [*function.variables, *resolved.variables]
    resolved._owner = function._owner
    resolved.checkpoint, resolved.optimize = function.checkpoint, function.optimize
    wanted = [*wrt, *[False] * (len(resolved.inputs) - len(wrt))]
    try:
        told(resolved).build_gradient(wanted, values)
    except tf.errors.UnimplementedError as error:
        raise _explained(error, wrong) from None
    return resolved


def _explained(error: tf.errors.OpError, wrong: list[str]) -> tf.errors.OpError:
    return type(error)(None, None, "\n".join([error.message, *wrong])) if wrong else error


def resolve(function: Function, wrong: list[str]) -> Function | None:
    """A copy of a function in which nodes with gradients of Python's name them; None if there are none that can be.

    Why a gradient can't be handed over is added to `wrong`.
    """
    library, lift = dict(function.library), _lift.Lift(function)
    edited, gradients = _named(function.library, lift)
    if not edited:
        return None
    captures = lift.run(edited, wrong)
    if captures is None:
        return None
    variables: list[Any] = []
    for gradient in gradients:
        library.update(_library.reachable(gradient))
        variables += gradient._cached_graph.variables
    resolved = _renamed(function, library, edited)
    resolved.captures = [*function.captures, *captures]
    resolved.inputs = [*function.inputs, *[_lift.spec(x) for x in captures]]
    resolved.variables = [*function.variables, *[v for v in variables if any(v.handle is x for x in captures)]]
    return resolved


def _named(
    library: dict[str, Any], lift: _lift.Lift
) -> tuple[dict[str, function_pb2.FunctionDef], list[_library.LibraryFunction]]:
    """Copies of those functions of a library that have nodes with gradients of Python's, which name these there."""
    edited: dict[str, function_pb2.FunctionDef] = {}
    gradients: list[Any] = []
    for name, member in library.items():
        graph = getattr(member, "_cached_graph", None)
        definition = function_pb2.FunctionDef()
        definition.CopyFrom(member.cached_definition)
        for node in list(_candidates(definition)):
            if (rule := _rule.find(node)) is not None:
                gradient, references, outputs = rule.traced(node, graph)
            elif graph is not None and (found := _trace(op := _op_of(node.name, definition, graph), graph)) is not None:
                gradient, tensors, outputs = found
                wrong = misshapen(op, found)
                outputs = [_MISSHAPEN if i in wrong else output for i, output in enumerate(outputs)]
                references = [lift.reference(name, definition, tensor) for tensor in tensors]
            else:
                continue
            node.attr[GRADIENT].func.name = gradient.name
            node.attr[INPUTS].list.s.extend(references)
            node.attr[OUTPUTS].list.i.extend(outputs)
            edited[name] = definition
            gradients.append(gradient)
    return edited, gradients


def _op_of(node: str, definition: function_pb2.FunctionDef, graph: Any) -> Any:
    names = {new: op for op, new in _nodes.renamed(definition, graph).items()}
    return graph.get_operation_by_name(names.get(node, node))


def handed_over(
    library: dict[str, Any], needy: Sequence[str]
) -> tuple[dict[str, function_pb2.FunctionDef], dict[str, Any]] | None:
    """What is to stand for the needy functions of a library, in which nodes have gradients of Python's.

    Returns:
      Definitions in which the nodes name their gradients, by name; and the gradients with all that they call. None if
      the gradients are not as Python's would be: of `tf.py_function`, rows, or made of what the function lacks.
    """
    functions = {name: library[name] for name in needy}
    lift = _lift.Lift(Function(attr_value_pb2.NameAttrList(name=needy[0]), functions, [], []))
    if any(node.op in _PYTHONS for f in functions.values() for node in _candidates(f.cached_definition)):
        return None
    edited, gradients = _named(functions, lift)
    definitions = [edited.get(name) or functions[name].cached_definition for name in needy]
    left = any(True for definition in definitions for _ in _candidates(definition))
    nodes = (node for definition in edited.values() for node in definition.node_def if OUTPUTS in node.attr)
    left = left or any(_MISSHAPEN in node.attr[OUTPUTS].list.i for node in nodes)
    if left or lift.is_needed or any(gradient._cached_graph.symgrad_has_rows for gradient in gradients):
        return None
    called: dict[str, Any] = {}
    for gradient in gradients:
        called.update(_library.reachable(gradient))
    return edited, called


def _candidates(definition: function_pb2.FunctionDef) -> Iterator[node_def_pb2.NodeDef]:
    rules = _loader.rules()
    return (node for node in definition.node_def if has_pythons(node, rules) and GRADIENT not in node.attr)


def has_pythons(node: node_def_pb2.NodeDef, rules: Container[str]) -> bool:
    """Whether a node has a gradient that is Python's; `rules` are those of the engine."""
    registered = node.op in rules or node.op.startswith("TfSymgrad>")
    return "_gradient_op_type" in node.attr or (not registered and is_registered(node.op))


def is_registered(op: str) -> bool:
    """Whether somebody registered a gradient that is not TensorFlow's: of those the engine has its own."""
    if op in _PYTHONS:
        return True
    try:
        gradient = ops.gradient_registry.lookup(op)
    except LookupError:
        return False
    return gradient is not None and not _is_tensorflows(gradient)


def _is_tensorflows(gradient: Any) -> bool:
    return (getattr(gradient, "__module__", None) or "").startswith("tensorflow.python.")


# A gradient as a function of tensors, then cotangents; the tensors; for each input of the op, which output is its.
Traced = tuple[Any, list[Any], list[int]]


def _trace(op: Any, graph: Any) -> Traced | None:
    """The gradient of an op, traced once: so that equal requests give equal functions."""
    known: dict[Any, Any] | None = getattr(graph, "_symgrad_traced", None)
    if known is None:
        known = graph._symgrad_traced = {}
    if op.name not in known:
        known[op.name] = _trace_or_share(op, known)
    traced: Traced | None = known[op.name]
    return traced


def misshapen(op: Any, traced: Traced) -> list[int]:
    """The inputs of an op by which its gradients have another shape than they. Sums of those would broadcast."""
    gradient, _, outputs = traced
    shapes = [None if i < 0 else gradient._cached_graph.outputs[i].shape for i in outputs]
    return [
        i
        for i, (x, shape) in enumerate(zip(op.inputs, shapes, strict=False))
        if shape is not None and x.dtype != tf.resource and not shape.is_compatible_with(x.shape)
    ]


def _trace_or_share(op: Any, known: dict[Any, Any]) -> Traced | None:
    try:
        python_gradient = _py_function_gradient if op.type == "EagerPyFunc" else ops.get_gradient_function(op)
    except LookupError:
        return None
    twin = _twin(op, python_gradient)
    if twin is None:
        return _trace_anew(op, python_gradient)
    key, tensors = twin
    if key not in known:
        known[key] = _trace_for_all_shapes(op, python_gradient, tensors)
    if known[key] is None:
        return _trace_anew(op, python_gradient)
    gradient, places, outputs = known[key]
    return gradient, [tensors[place] for place in places], outputs


def _closure(python_gradient: Any) -> Mapping[str, Any]:
    """What `tf.custom_gradient` has around a gradient, which is `grad_fn`; empty if it made none."""
    try:
        return inspect.getclosurevars(inspect.getclosurevars(python_gradient).nonlocals["tape_grad_fn"]).nonlocals
    except (KeyError, TypeError):
        return {}


def _twin(op: Any, python_gradient: Any) -> tuple[Any, list[Any]] | None:
    """What the trace of a custom gradient of TensorFlow's own depends on: a key, and the tensors that it may take.

    Those (of `tf.nn.silu`, say) are functions of what they close over and of the cotangents, and some models have
    hundreds: nodes of one key share a trace, whatever their shapes.
    """
    outer = _closure(python_gradient)
    try:
        gradient, variables = outer["grad_fn"], outer["variables"]
        closure = sorted(inspect.getclosurevars(gradient).nonlocals.items())
    except (KeyError, TypeError):
        return None
    if variables or not _is_tensorflows(gradient):
        return None
    tensors = [x for _, x in closure if isinstance(x, tf.Tensor)]
    parts: list[Any] = [(x.dtype, x.shape.rank) for x in [*op.inputs, *op.outputs]]
    for _, x in closure:
        if isinstance(x, tf.Tensor):
            parts.append((x.dtype, x.shape.rank, next(i for i, y in enumerate(tensors) if y is x)))
        elif x is None or type(x) in (bool, int, float, str):
            parts.append((type(x), x))
        else:
            return None
    return (gradient.__code__, *parts), tensors


def only_refuses(op: Any, python_gradient: Any) -> bool:
    """Whether an op is what `tf.recompute_grad` wraps its gradient in, so that a tape can't differentiate that again.

    The op is the identity, and what it wraps has a gradient as everything else has.
    """
    gradient = _closure(python_gradient).get("grad_fn")
    name = getattr(gradient, "__qualname__", "")
    of_recompute_grad = name.startswith("recompute_grad.") and name.endswith(".transpose")
    return op.type == "IdentityN" and of_recompute_grad and _is_tensorflows(gradient)


def _trace_for_all_shapes(op: Any, python_gradient: Any, tensors: list[Any]) -> tuple[Any, list[int], list[int]] | None:
    """The gradient of an op that has a twin: a function, which of the tensors it takes, and which output is whose.

    None if it must know shapes.
    """
    wrapped = inspect.getclosurevars(python_gradient).nonlocals["tape_grad_fn"]
    gradient = inspect.getclosurevars(wrapped).nonlocals["grad_fn"]
    inputs: list[Any] = []

    def call() -> tuple[list[Any], list[Any], Any]:
        inputs.extend(_of_any_shape(x) for x in tensors)
        stands_for = {id(x): given for x, given in zip(tensors, inputs, strict=True)}
        closure = inspect.getclosurevars(gradient).nonlocals.items()
        given = {name: stands_for[id(x)] for name, x in closure if isinstance(x, tf.Tensor)}
        seeds = [_of_any_shape(y) for y in op.outputs]
        rebound = _rebound(wrapped, {"grad_fn": _rebound(gradient, given)})
        return inputs, seeds, rebound(*[dy if backprop_util.IsTrainable(dy) else None for dy in seeds])

    try:
        function, body, outputs = _rule.as_function(op.type, call)
    except Exception:  # whatever it says of shapes that it does not know
        return None
    return None if body.captures else (function, [i for i, x in enumerate(inputs) if x.consumers()], outputs)


def _of_any_shape(x: Any) -> Any:
    return tf.compat.v1.placeholder(x.dtype, None if x.shape.rank is None else [None] * x.shape.rank)


def _rebound(f: Any, names: dict[str, Any]) -> Any:
    """A function that finds other values under some of the names that it closes over."""
    cells = zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
    closure = tuple(types.CellType(names[name]) if name in names else cell for name, cell in cells)
    rebound = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, closure)
    rebound.__kwdefaults__ = f.__kwdefaults__
    return rebound


def _trace_anew(op: Any, python_gradient: Any) -> Traced | None:
    if python_gradient is None:
        return None

    def call() -> tuple[list[Any], list[Any], Any]:
        seeds = [tf.compat.v1.placeholder(y.dtype, y.shape) for y in op.outputs]
        # Of what can have no cotangent Python's gradients expect none.
        cotangents = [dy if backprop_util.IsTrainable(dy) else None for dy in seeds]
        return [], seeds, cotangents if only_refuses(op, python_gradient) else python_gradient(op, *cotangents)

    gradient, body, outputs = _rule.as_function(op.type, call)
    return gradient, list(body.external_captures), outputs


def _py_function_gradient(op: Any, *dys: Any) -> Any:
    """A py_function that calls the function once more, under a tape.

    TensorFlow's own hands the tape over from the forward call, in a place that all calls share: another call between
    the two breaks it, so that there are no loops and no second derivatives.
    """
    token = op.get_attr("token").decode()
    function = script_ops._py_funcs.get(token)
    if not isinstance(function, script_ops.EagerFunc):
        raise tf.errors.UnimplementedError(
            None,
            None,
            f"node '{op.name}' (op EagerPyFunc): no Python function '{token}' is known in this process, as it was "
            "made in another one or is gone: keep the tf.py_function, or write it as a tf.function",
        )

    def vjp(*args: Any) -> list[Any]:
        x, dy = list(args[: len(op.inputs)]), list(args[len(op.inputs) :])
        watched = [a for a in x if _specs.continuous(a.dtype)]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            y = function._func(*x)
            y = [] if y is None else list(y) if isinstance(y, (list, tuple)) else [y]
            y = [tf.convert_to_tensor(a, dtype) for a, dtype in zip(y, function._out_dtypes, strict=True)]
        dx = iter(tape.gradient(y, watched, dy, unconnected_gradients=tf.UnconnectedGradients.ZERO))
        return [next(dx) if _specs.continuous(a.dtype) else tf.zeros_like(a) for a in x]

    seeds = [tf.zeros_like(y) if dy is None else dy for y, dy in zip(op.outputs, dys, strict=True)]
    return tf.py_function(vjp, [*op.inputs, *seeds], [x.dtype for x in op.inputs])


def _renamed(function: Function, library: dict[str, Any], edited: dict[str, function_pb2.FunctionDef]) -> Function:
    """The function over a library in which each function that leads to an edited one has a name of its own."""
    definitions = {name: edited.get(name) or member.cached_definition for name, member in library.items()}
    callees = {name: set(_library.callees(definition)) & library.keys() for name, definition in definitions.items()}
    changed = set(edited)
    todo = list(changed)
    while todo:
        name = todo.pop()
        callers = {caller for caller in library.keys() - changed if name in callees[caller]}
        changed |= callers
        todo += callers
    # A name says what the function is: the same function may be resolved again, with other gradients.
    content = hashlib.sha256()
    for name in sorted(changed):
        content.update(definitions[name].SerializeToString(deterministic=True))
    suffix = SUFFIX + content.hexdigest()[:16]
    new_names = {name: name + suffix for name in changed}
    result = {name: member for name, member in library.items() if name not in changed}
    for name in changed:
        definition = function_pb2.FunctionDef()
        definition.CopyFrom(definitions[name])
        definition.signature.name = new_names[name]
        for node in definition.node_def:
            node.op = new_names.get(node.op, node.op)
            _rename_attrs(node.attr, new_names)
        result[new_names[name]] = _library.atomic(definition)
    root = new_names[function.name]
    renamed = copy.copy(function)
    renamed.name_attrs = attr_value_pb2.NameAttrList(name=root, attr=function.name_attrs.attr)
    renamed.library = {root: result.pop(root), **result}
    renamed._built, renamed._gradients, renamed._input_gradients, renamed.resolved = {}, {}, {}, []
    renamed._halves, renamed._specialized = {}, {}
    return renamed


def _rename_attrs(attrs: Any, new_names: dict[str, str]) -> None:
    for value in attrs.values():
        for called in [value.func] if value.HasField("func") else value.list.func:
            called.name = new_names.get(called.name, called.name)
            _rename_attrs(called.attr, new_names)
