"""TensorFlow functions as the op takes them, from whatever a user has in hand."""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import errors_impl, ops
from tensorflow.python.ops import control_flow_util

from tf_symgrad import _compiled, _library, _loader, _sources, _specs

_MAX_SPECIALIZED = 64  # shapes of which a function remembers its gradients


def in_xla() -> bool:
    """Whether what is being traced is for XLA."""
    return not context.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


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
      optimize: who optimises that: attr `optimize` of the op.
    """

    checkpoint = ""
    optimize = "grappler"

    def __init__(
        self,
        name_attrs: attr_value_pb2.NameAttrList,
        library: dict[str, _library.LibraryFunction],
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
        self._input_gradients: dict[tuple[bool, ...], list[tuple[tf.DType, bool]]] = {}
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

    def with_options(self, *, checkpoint: str | None = None, optimize: str | None = None) -> Function:
        """This function, of which the gradient keeps and optimises what these say, or what it did."""
        options = self.checkpoint if checkpoint is None else checkpoint, self.optimize if optimize is None else optimize
        if options == (self.checkpoint, self.optimize):
            return self
        function = copy.copy(self)
        function.checkpoint, function.optimize = options
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
            _specs.variable_spec(x) or spec if spec.dtype == tf.resource else x
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
        again.checkpoint, again.optimize = function.checkpoint, function.optimize
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
        if not in_xla():
            return self
        function = self._with_attrs()
        function.name_attrs.attr["_symgrad_compiled"].b = True
        return function

    def _with_attrs(self) -> Function:
        """A copy that is to have other attrs."""
        function = copy.copy(self)
        function._built, function._gradients, function._sparse_gradients = {}, {}, {}
        function._halves, function._specialized = {}, {}
        function._input_gradients, function.resolved = {}, []
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
            raise errors_impl.exception_type_from_error_code(code)(None, None, _sources.with_sources(message)) from None

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

    def input_gradients(self, wrt: Sequence[bool]) -> list[tuple[tf.DType, bool]]:
        """For each input the dtype of its gradient (resource: it is no variable), and whether any flows there.

        None flows to others than those for which `wrt` is true.
        """
        key = tuple(wrt)
        if key not in self._input_gradients:
            found = self._native(_loader.native().input_gradients, list(key))
            self._input_gradients[key] = [(tf.as_dtype(dtype), connected) for dtype, connected in found]
        return self._input_gradients[key]

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
        built = {f.signature.name: _library.atomic(f) for f in library.function}
        functions = _library.reachable(built[name], {**self.library, **built}.get)
        signature = functions[name].cached_definition.signature
        return Function(
            attr_value_pb2.NameAttrList(name=name),
            functions,
            _specs.argument_specs(name, signature.input_arg, {}),
            _specs.argument_specs(name, signature.output_arg, {}),
        )


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
            _library.reachable(root, _library.finder(ops.get_default_graph())),
            # A tape that has been over the function added to the outputs of its graph, not to those of its definition.
            [_specs.spec(x) for x in concrete.inputs[: len(signature.input_arg)]],
            [_specs.spec(y) for y in concrete.outputs[: len(signature.output_arg)]],
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
        _library.reachable(defun, _library.finder(ops.get_default_graph())),
        _specs.argument_specs(signature.name, signature.input_arg, {}),
        _specs.argument_specs(signature.name, signature.output_arg, {}),
        defun.captured_inputs,
        owner=defun,
    )


def from_name(name_attrs: attr_value_pb2.NameAttrList, graph: tf.Graph) -> Function:
    """Of the function of that name in a graph, in one that the graph is inside, or in the eager context.

    Raises:
      tf.errors.NotFoundError: none of them has it.
      tf.errors.InvalidArgumentError: its signature makes no sense with the attrs given.
    """
    root = _library.finder(graph)(name_attrs.name)
    if root is None:
        raise tf.errors.NotFoundError(
            None,
            None,
            f"There is no function '{name_attrs.name}' in the graph or in the eager context. Pass the ConcreteFunction "
            "itself, or add the function first: concrete_function.add_to_graph(graph).",
        )
    return from_library_function(root, graph, name_attrs)


def from_library_function(
    root: _library.LibraryFunction, graph: tf.Graph, name_attrs: attr_value_pb2.NameAttrList | None = None
) -> Function:
    """Of an AtomicFunction, or of another function of a graph."""
    name_attrs = name_attrs or attr_value_pb2.NameAttrList(name=tf.compat.as_str(root.name))
    traced = getattr(root, "_cached_graph", None)
    signature = root.cached_definition.signature
    return Function(
        name_attrs,
        _library.reachable(root, _library.finder(graph)),
        [_specs.spec(x) for x in traced.inputs]
        if traced
        else _specs.argument_specs(signature.name, signature.input_arg, name_attrs.attr),
        [_specs.spec(y) for y in traced.outputs]
        if traced
        else _specs.argument_specs(signature.name, signature.output_arg, name_attrs.attr),
        owner=root,
    )


def differentiable_inputs(function: Function) -> list[bool]:
    """For each input of a function whether it can have a gradient."""
    return [_specs.is_continuous(x) for x in (*function.arguments, *function.captures)]
