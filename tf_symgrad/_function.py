"""TensorFlow functions as the op takes them, from whatever a user has in hand."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.core.function.polymorphism import function_type as function_type_lib
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import errors_impl, ops
from tensorflow.python.ops import control_flow_util, handle_data_util
from tensorflow.python.util import tf_stack

from tf_symgrad import _compiled, _loader

# A function of a graph or a context: an AtomicFunction or, of a Defun, a _DefinedFunction. Both have a name, a
# cached_definition and what Graph._add_function needs.
LibraryFunction = Any


_MAX_SPECIALIZED = 64  # shapes of which a function remembers its gradients


class Function:
    """A function, all that it calls, and what it captures.

    Attributes:
      name_attrs: its name and, where it is polymorphic, its attrs.
      library: it and all that it calls, by name.
      inputs: a TensorSpec for each input, captured ones at the end.
      outputs: a TensorSpec for each output.
      captures: the captured tensors.
      variables: the variables among them, which a tape that records the op must watch.
      checkpoint: what its gradient function keeps of the forward pass: attr `checkpoint` of the op.
    """

    checkpoint = ""

    def __init__(
        self,
        name_attrs: attr_value_pb2.NameAttrList,
        library: dict[str, LibraryFunction],
        inputs: Sequence[tf.TensorSpec],
        outputs: Sequence[tf.TensorSpec],
        captures: Sequence[Any] = (),
        owner: Any = None,
    ) -> None:
        self.name_attrs = name_attrs
        self.library = library
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.captures = list(captures)
        self.variables: list[tf.Variable] = []
        # The context forgets a function when its owner is gone; a tape may need it later.
        self._owner = owner
        # By what is kept, which inputs' gradients are wanted, and whether values are.
        self._built: dict[tuple[Any, ...], tuple[str, bytes]] = {}
        self._gradients: dict[tuple[Any, ...], Function] = {}
        self._sparse_gradients: dict[tuple[Any, ...], tuple[Function, list[int]]] = {}
        self._input_gradients: list[tuple[tf.DType, bool]] | None = None
        self._halves: dict[tuple[Any, ...], Any] = {}
        self._specialized: dict[bytes, Function] = {}  # in eager mode, where each call asks again: by attrs
        # This function with gradients of Python's handed over, once it has turned out to need them.
        self.resolved: list[Function] = []
        # Gradient functions that somebody else may call by name, which the context is to have as long as this lives.
        self.given: dict[str, Function] = {}

    @property
    def name(self) -> str:
        return str(self.name_attrs.name)

    @property
    def arguments(self) -> list[tf.TensorSpec]:
        """The inputs that are not captured."""
        return self.inputs[: len(self.inputs) - len(self.captures)]

    def checkpointed(self, checkpoint: str) -> Function:
        """This function, whose gradient keeps what that says."""
        if checkpoint == self.checkpoint:
            return self
        function = copy.copy(self)
        function.checkpoint = checkpoint
        return function

    def with_captures(self, inputs: list[Any], count: int) -> list[Any]:
        """Inputs of the op, for a function that captures more than what the first `count` of them are."""
        added = len(self.inputs) - count
        return [*inputs[:count], *self.captures[len(self.captures) - added :], *inputs[count:]] if added else inputs

    def __str__(self) -> str:
        return f"Function '{self.name}'"

    # TensorFlow asks these two of the value of an attr that is a function.
    @property
    def _as_name_attr_list(self) -> attr_value_pb2.NameAttrList:
        return self.name_attrs

    def add_to_graph(self, graph: tf.Graph) -> None:
        """Adds the function and all that it calls to a graph, as ops of that graph need it."""
        for name, function in self.library.items():
            if not graph._is_function(name):
                graph._add_function(function)

    def specialized(self, values: Sequence[Any]) -> Function:
        """This function with what is known of its inputs beyond its signature, so that its gradient is smaller.

        The engine reads attrs `_input_shapes` and `_input_dtypes` of the name; of a variable they tell the value's.
        """
        known = [
            variable_spec(x) or spec if spec.dtype == tf.resource else x
            for spec, x in zip(self.inputs, values, strict=False)
        ]
        told = [
            spec.dtype != tf.resource and str(x.shape) == str(spec.shape)
            for spec, x in zip(self.inputs, known, strict=True)
        ]
        if all(told):
            return self
        function = self._with_attrs()
        for x in known:
            function.name_attrs.attr["_input_shapes"].list.shape.append(x.shape.as_proto())
            dtype = tf.dtypes.as_dtype(x.dtype).as_datatype_enum if x.dtype != tf.resource else 0
            function.name_attrs.attr["_input_dtypes"].list.type.append(dtype)
        if not context.executing_eagerly():
            return function
        key = function.name_attrs.SerializeToString(deterministic=True)
        if len(self._specialized) >= _MAX_SPECIALIZED:
            self._specialized.clear()
        again = copy.copy(self._specialized.setdefault(key, function._without_captures()))
        again.captures, again.variables, again._owner = function.captures, function.variables, function._owner
        again.checkpoint = function.checkpoint
        return again

    def _without_captures(self) -> Function:
        """What of a function may be remembered: it keeps nothing alive that captures it."""
        function = copy.copy(self)
        function.captures, function.variables, function._owner = [], [], None
        return function

    def here(self) -> Function:
        """This function as part of what is being traced, which XLA may be going to compile.

        For what is built for good here: the op itself is built where XLA meets it, for more than is known here.
        """
        if context.executing_eagerly() or not control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()):
            return self
        function = self._with_attrs()
        function.name_attrs.attr["_symgrad_compiled"].b = True
        return function

    def _with_attrs(self) -> Function:
        """A copy that is to have other attrs."""
        function = copy.copy(self)
        function._built, function._gradients, function._sparse_gradients = {}, {}, {}
        function._halves, function._specialized = {}, {}
        function._input_gradients, function.resolved = None, []
        function.name_attrs = attr_value_pb2.NameAttrList()
        function.name_attrs.CopyFrom(self.name_attrs)
        return function

    def definitions(self) -> function_pb2.FunctionDefLibrary:
        """The library as a proto; this function comes first."""
        library = function_pb2.FunctionDefLibrary()
        for name, function in self.library.items():
            library.function.append(function.cached_definition)
            if gradient_name := getattr(function, "grad_func_name", None):
                library.gradient.add(function_name=name, gradient_func=gradient_name)
        return library

    def _native(self, call: Callable[..., Any], *args: Any) -> Any:
        library, f = self.definitions().SerializeToString(), self.name_attrs.SerializeToString()
        try:
            return call(library, f, *args)
        except _loader.native().StatusError as error:
            code, message = error.args
            raise errors_impl.exception_type_from_error_code(code)(None, None, _with_sources(message)) from None

    def build_gradient(self, wrt: Sequence[bool], values: bool = False) -> tuple[str, bytes]:
        """Builds the gradient function for those inputs for which `wrt` is true: its name and a serialized library.

        Raises:
          tf.errors.OpError: this function can't be differentiated.
        """
        key = (self.checkpoint, *wrt, values)
        if key not in self._built:
            mask = None if all(wrt) else list(wrt)
            self._built[key] = self._native(_loader.native().build_gradient, mask, values, False, self.checkpoint)
        return self._built[key]

    def input_gradients(self) -> list[tuple[tf.DType, bool]]:
        """For each input the dtype of its gradient (resource: it is no variable), and whether any flows there."""
        if self._input_gradients is None:
            found = self._native(_loader.native().input_gradients)
            self._input_gradients = [(tf.as_dtype(dtype), connected) for dtype, connected in found]
        return self._input_gradients

    def gradient(self, wrt: Sequence[bool], values: bool = False) -> Function:
        """The function that `build_gradient` builds.

        Its inputs are those of this function, then a cotangent for each output. It has an output for each true `wrt`,
        then, with `values`, this function's.
        """
        key = (self.checkpoint, *wrt, values)
        if key not in self._gradients:
            name, serialized = self.build_gradient(wrt, values)
            self._gradients[key] = self._import_gradient(name, function_pb2.FunctionDefLibrary.FromString(serialized))
        return self._gradients[key]

    def gradient_by_op(self, op: str, wrt: Sequence[bool], tout: Sequence[tf.DType], values: bool = False) -> Function:
        """The function of `gradient`, which holds the op instead, and is the gradient function once that is expanded.

        So whoever differentiates it has that made for what is known of its inputs then, by XLA above all.
        """
        key = (self.checkpoint, *wrt, values, True)
        if key in self._gradients:
            return self._gradients[key]
        definition = function_pb2.FunctionDef()
        node = definition.node_def.add(name="gradient", op=op)
        node.attr["f"].func.CopyFrom(self.name_attrs)
        node.attr["wrt"].list.b.extend(wrt)
        node.attr["values"].b = values
        node.attr["checkpoint"].s = self.checkpoint.encode()
        for i, x in enumerate([*self.inputs, *self.outputs]):
            definition.signature.input_arg.add(name=f"x_{i}", type=x.dtype.as_datatype_enum)
            node.input.append(f"x_{i}")
            node.attr["Tin"].list.type.append(x.dtype.as_datatype_enum)
        for i, dtype in enumerate(tout):
            definition.signature.output_arg.add(name=f"y_{i}", type=dtype.as_datatype_enum)
            definition.ret[f"y_{i}"] = f"gradient:output:{i}"
            node.attr["Tout"].list.type.append(dtype.as_datatype_enum)
        content = hashlib.sha256(definition.SerializeToString(deterministic=True))
        definition.signature.name = f"__symgrad_gradient_of_{self.name}_{content.hexdigest()[:16]}"
        library = function_pb2.FunctionDefLibrary(function=[definition])
        self._gradients[key] = self._import_gradient(definition.signature.name, library)
        return self._gradients[key]

    def sparse_gradient(self, wrt: Sequence[bool]) -> tuple[Function, list[int]]:
        """The function of `gradient`, whose gradients may be sparse rows.

        Returns:
          The function; and for each wanted input which output has the indices of the rows whose values the output that
          is its gradient has, -1 where that is dense.
        """
        key = (self.checkpoint, *wrt)
        if key not in self._sparse_gradients:
            build = _loader.native().build_gradient
            name, serialized, indices = self._native(build, list(wrt), False, True, self.checkpoint)
            library = function_pb2.FunctionDefLibrary.FromString(serialized)
            self._sparse_gradients[key] = self._import_gradient(name, library), indices
        return self._sparse_gradients[key]

    def vjp(self, wrt: Sequence[bool]) -> tuple[Function, Function, list[int], list[int]]:
        """The two halves of this function and its gradient.

        Returns:
          forward: from this function's inputs to its outputs, then residuals.
          pullback: from some inputs, the residuals, and a cotangent for each output, to gradients.
          inputs: which inputs the pullback takes.
          gradients: for each input, which output of the pullback is its gradient; -1: none flows there.
        """
        key = (self.checkpoint, *wrt)
        if key not in self._halves:
            forward, pullback, inputs, gradients, serialized = self._native(
                _loader.native().build_vjp, list(wrt), self.checkpoint
            )
            library = function_pb2.FunctionDefLibrary.FromString(serialized)
            halves = [self._import_gradient(name, library) for name in (forward, pullback)]
            self._halves[key] = (*halves, inputs, gradients)
        return self._halves[key]  # type: ignore[no-any-return]

    def _import_gradient(self, name: str, library: function_pb2.FunctionDefLibrary) -> Function:
        built = {f.signature.name: atomic(f) for f in library.function}
        functions = reachable(built[name], {**self.library, **built}.get)
        signature = functions[name].cached_definition.signature
        return Function(
            attr_value_pb2.NameAttrList(name=name),
            functions,
            argument_specs(name, signature.input_arg, {}),
            argument_specs(name, signature.output_arg, {}),
        )


def invalid(message: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, message)


# What is known of each ConcreteFunction, less what would keep it alive.
_concrete_functions: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()


def from_concrete_function(concrete: Any) -> Function:
    _compiled.check_captures(concrete)
    known = _concrete_functions.get(concrete)
    if known is None:
        root = concrete._inference_function
        signature = root.cached_definition.signature
        known = _concrete_functions[concrete] = Function(
            attr_value_pb2.NameAttrList(name=tf.compat.as_str(root.name)),
            reachable(root, finder(ops.get_default_graph())),
            # A tape that has been over the function added to the outputs of its graph, not to those of its definition.
            [spec(x) for x in concrete.inputs[: len(signature.input_arg)]],
            [spec(y) for y in concrete.outputs[: len(signature.output_arg)]],
        )
    function = copy.copy(known)
    function.captures = list(concrete.captured_inputs)
    function.variables = list(concrete.variables)
    function._owner = concrete
    return function


def from_defun(defun: Any) -> Function:
    """Of a `function.Defun`, whose inputs' dtypes are known."""
    signature = defun.definition.signature
    return Function(
        attr_value_pb2.NameAttrList(name=signature.name),
        reachable(defun, finder(ops.get_default_graph())),
        argument_specs(signature.name, signature.input_arg, {}),
        argument_specs(signature.name, signature.output_arg, {}),
        defun.captured_inputs,
        owner=defun,
    )


def is_known(name: str, graph: tf.Graph) -> bool:
    """Whether a graph, one that it is inside, or the eager context has a function of that name."""
    return finder(graph)(name) is not None


def from_name(name_attrs: attr_value_pb2.NameAttrList, graph: tf.Graph) -> Function:
    """Of the function of that name in a graph, in one that the graph is inside, or in the eager context.

    Raises:
      tf.errors.NotFoundError: none of them has it.
      tf.errors.InvalidArgumentError: its signature makes no sense with the attrs given.
    """
    root = finder(graph)(name_attrs.name)
    if root is None:
        raise tf.errors.NotFoundError(
            None,
            None,
            f"There is no function '{name_attrs.name}' in the graph or in the eager context. Pass the ConcreteFunction "
            "itself, or add the function first: concrete_function.add_to_graph(graph).",
        )
    return from_library_function(root, graph, name_attrs)


def from_library_function(
    root: LibraryFunction, graph: tf.Graph, name_attrs: attr_value_pb2.NameAttrList | None = None
) -> Function:
    """Of an AtomicFunction, or of another function of a graph."""
    name_attrs = name_attrs or attr_value_pb2.NameAttrList(name=tf.compat.as_str(root.name))
    traced = getattr(root, "_cached_graph", None)
    signature = root.cached_definition.signature
    return Function(
        name_attrs,
        reachable(root, finder(graph)),
        [spec(x) for x in traced.inputs]
        if traced
        else argument_specs(signature.name, signature.input_arg, name_attrs.attr),
        [spec(y) for y in traced.outputs]
        if traced
        else argument_specs(signature.name, signature.output_arg, name_attrs.attr),
        owner=root,
    )


def variable_spec(handle: Any) -> tf.TensorSpec | None:
    """What is known of the variable that a resource tensor refers to."""
    if isinstance(handle, tf.TensorSpec):
        return None
    eager = isinstance(handle, ops.EagerTensor)
    data = handle._handle_data if eager else handle_data_util.get_resource_handle_data(handle)
    if data is None or not data.is_set or len(data.shape_and_type) != 1:
        return None
    known = data.shape_and_type[0]
    return tf.TensorSpec(tf.TensorShape(known.shape), tf.as_dtype(known.dtype))


def differentiable_inputs(function: Function) -> list[bool]:
    """For each input of a function whether it can have a gradient."""

    def can(spec: tf.TensorSpec, value: Any) -> bool:
        if spec.dtype == tf.resource:
            known = variable_spec(value)
            return known is not None and (known.dtype.is_floating or known.dtype.is_complex)
        return bool(spec.dtype.is_floating or spec.dtype.is_complex)

    values = [*function.arguments, *function.captures]
    return [can(*item) for item in zip(function.inputs, values, strict=True)]


class _Definition(atomic_function.AtomicFunction):  # type: ignore[misc]
    """A function of which Python has the definition alone: its graph is made if somebody asks, to save a model, say."""

    @property
    def graph(self) -> Any:
        if self.function_type.output is None:  # nobody has asked before
            name, runtime = tf.compat.as_str(self.name), context.context()
            signature = self.cached_definition.signature
            inputs = tuple(argument_specs(name, signature.input_arg, {}))
            outputs = tuple(argument_specs(name, signature.output_arg, {}))
            self._function_type = function_type_lib.from_structured_signature((inputs, {}), outputs)
            called = sorted(filter(runtime.has_function, set(callees(self.cached_definition))))
            self._children = [atomic(runtime.get_function_def(callee)) for callee in called]
        return super().graph


def is_at_hand(tensor: Any) -> bool:
    """Whether a tensor is of eager mode, of the default graph or of one that this is inside."""
    graph = ops.get_default_graph()
    while not isinstance(tensor, ops.EagerTensor) and graph is not tensor.graph:
        graph = getattr(graph, "outer_graph", None)
        if graph is None:
            return False
    return True


def atomic(definition: function_pb2.FunctionDef) -> LibraryFunction:
    """A counted reference to a function of the eager context, which is given the function if it lacks it."""
    runtime = context.context()
    name = tf.compat.as_bytes(definition.signature.name)
    # AtomicFunctions count themselves and hold one reference of the context's together.
    if (runtime.function_scope_id, name) not in atomic_function.RUNTIME_FUNCTION_REFS:
        runtime.add_function_def(definition)
    # Nothing calls it from Python: its type is never looked at.
    function = _Definition(name, runtime, function_type_lib.FunctionType([]))
    function._cached_definition = definition
    return function


# Functions whose graphs Python has, by name: what the context has of them is the definition alone.
traced: weakref.WeakValueDictionary[str, LibraryFunction] = weakref.WeakValueDictionary()


def finder(graph: tf.Graph) -> Callable[[str], LibraryFunction | None]:
    """Finds functions by name in a graph, in those that it is inside, and in the eager context."""

    def find(name: str) -> LibraryFunction | None:
        inner: tf.Graph | None = graph
        while inner is not None:
            function = inner._get_function(name)
            if function is not None:
                return function
            inner = getattr(inner, "outer_graph", None)
        if name in traced:
            return traced[name]
        runtime = context.context()
        return atomic(runtime.get_function_def(name)) if runtime.has_function(name) else None

    return find


def reachable(
    root: LibraryFunction, find: Callable[[str], LibraryFunction | None] | None = None
) -> dict[str, LibraryFunction]:
    """A function and all that it calls, by name. What can't be found is left out, for the engine to name."""
    find = find or finder(ops.get_default_graph())
    library: dict[str, LibraryFunction] = {}
    todo = [root]
    while todo:
        function = todo.pop()
        name = tf.compat.as_str(function.name)
        if name in library:
            continue
        library[name] = function
        if getattr(function, "_cached_graph", None) is not None:
            todo += function.children  # traced: complete, and far cheaper than reading the definition
        else:
            own = dict(getattr(function, "_sub_functions", {}))
            names = set(callees(function.cached_definition)) - library.keys()
            todo += filter(None, (own.get(callee) or find(callee) for callee in sorted(names)))
        if gradient := getattr(function, "_grad_func", None):
            todo.append(gradient)
    return library


def callees(definition: function_pb2.FunctionDef) -> Iterator[str]:
    """Names of all functions that a function may call, and some that are not."""

    def of_attrs(attrs: Any) -> Iterator[str]:
        for value in attrs.values():
            for function in [value.func] if value.HasField("func") else value.list.func:
                yield function.name
                yield from of_attrs(function.attr)

    for node in definition.node_def:
        yield node.op
        yield from of_attrs(node.attr)


_MAX_TENSORS = 1 << 16  # of one argument: what is beyond is no function, but an attempt to allocate


def spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.op.name)


def reference(node: str, tensor: Any) -> str:
    """How a node of a function names a tensor that another node computes, as `tensor`'s op does, by that one's name."""
    index = tensor.value_index
    for argument in tensor.op.op_def.output_arg:
        count = 1
        if argument.number_attr:
            count = tensor.op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(tensor.op.get_attr(argument.type_list_attr))
        if index < count:
            return f"{node}:{argument.name}:{index}"
        index -= count
    raise AssertionError(f"{tensor} is no output of its op")


def renamed(definition: function_pb2.FunctionDef, graph: Any) -> dict[str, str]:
    """What the ops of a graph that makes a function's results are called in the function: results have names, too."""
    pairs = zip(definition.signature.output_arg, graph.outputs, strict=False)
    return {y.op.name: definition.ret[result.name].partition(":")[0] for result, y in pairs}


def argument_specs(function: str, args: Iterable[Any], attrs: Any) -> list[tf.TensorSpec]:
    """The tensors that arguments in a function's signature stand for."""
    specs = []
    for arg in args:
        if arg.type_list_attr:
            dtypes = list(attrs[arg.type_list_attr].list.type) if arg.type_list_attr in attrs else [None]
        else:
            dtype = arg.type or (attrs[arg.type_attr].type if arg.type_attr in attrs else None)
            count = attrs[arg.number_attr].i if arg.number_attr in attrs else 1
            if not 0 <= count <= _MAX_TENSORS:
                raise invalid(f"Function '{function}': argument '{arg.name}' is a list of {count} tensors.")
            dtypes = [dtype] * count
        for dtype in dtypes:
            try:
                specs.append(tf.TensorSpec(None, tf.as_dtype(dtype), name=arg.name or None))
            except TypeError:
                needs = arg.type_list_attr or arg.type_attr
                raise invalid(
                    f"Function '{function}': argument '{arg.name}' has no valid dtype"
                    + (f". Give attr '{needs}' with the function's name, in a NameAttrList." if needs else "."),
                ) from None
    return specs


# How the engine's messages name a function, and a node of the function that was named last.
_NAMED = re.compile(r"function '(?P<function>[^'\n]+)'|node '(?P<node>[^'\n]+)' \(op [^)\n]+")


def _with_sources(message: str) -> str:
    """Adds to each node that a message names the source line that made it, where that is known."""
    function = ""

    def locate(found: re.Match[str]) -> str:
        nonlocal function
        if found["function"]:
            function = found["function"]
            return found[0]
        return found[0] + source_line(function, found["node"], traces)

    traces: dict[str, Any] = {}
    return _NAMED.sub(locate, message)


def source_line(function: str, node: str, traces: dict[str, Any] | None = None) -> str:
    """Where the user's program made a node of a function: ", made at file:line", or nothing where that is not known.

    `traces` remembers those of each function.
    """
    traces = {} if traces is None else traces
    if function not in traces:
        runtime = context.context()
        traces[function] = {}
        if runtime.has_function(function):
            with contextlib.suppress(tf.errors.OpError):
                traces[function] = tf_stack.LoadTracesFromDebugInfo(runtime.get_graph_debug_info(function))
    known = traces[function]
    frames = [f for f in known[node] if not _is_internal(f.filename)] if node in known else []
    return f", made at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


_INTERNAL = tuple(os.path.dirname(os.path.abspath(module)) + os.sep for module in (tf.__file__, __file__))


def _is_internal(filename: str) -> bool:
    return filename.startswith(_INTERNAL) or filename.startswith("<")
