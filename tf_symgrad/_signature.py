"""A signature of a SavedModel that is to be differentiated: what is the loss, and what it is differentiated by."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import concrete_function

from tf_symgrad import _concrete
from tf_symgrad._specs import continuous, invalid

_LOST = (
    "A model keeps gradients that were defined in Python if it is saved with tf.saved_model.SaveOptions("
    "experimental_custom_gradients=True). Or give them by hand: save_with_gradients(..., gradients={name: function}), "
    "tf-symgrad add-gradient --gradient NAME=FILE.py:FUNCTION."
)
_REFERENCE_VARIABLES = {"Variable", "VariableV2", "TemporaryVariable"}


class Target:
    """A signature of a model and what of it is differentiated: one output, with respect to inputs and variables.

    Attributes:
      signature: the signature's ConcreteFunction, which takes its inputs by name and returns a dict.
      output: the name of the output.
      inputs: names of all inputs.
      variables: by name, the variables with respect to which to differentiate.
      wrt: names of the inputs with respect to which to differentiate.
      checkpoint: what the gradient keeps of the forward pass.
    """

    def __init__(
        self,
        model: Any,
        signature: str,
        output: str | None,
        wrt: Iterable[str] | None,
        checkpoint: str | int | None = None,
    ) -> None:
        self.name = signature
        self.checkpoint = checkpoint
        self.signature = signature_of(model, signature)
        self.inputs = list(self.signature.structured_input_signature[1])
        self.output = self._output(output)
        known = variables_of(self.signature)
        specs = self.signature.structured_input_signature[1]
        smooth = [name for name in self.inputs if continuous(specs[name].dtype)]
        trainable = [name for name, v in known.items() if v.trainable and v.dtype.is_floating]
        self.wrt: list[str] = []
        self.variables: dict[str, Any] = {}
        for name in [*smooth, *trainable] if wrt is None else wrt:
            self._want(name, smooth, trainable, known)
        if not self.wrt and not self.variables:
            raise invalid(f"Signature '{signature}' has no input or variable that could have a gradient.")

    def _output(self, output: str | None) -> str:
        outputs = self.signature.structured_outputs
        smooth = [name for name, y in outputs.items() if continuous(y.dtype)]
        if output is None:
            if len(smooth) != 1:
                raise invalid(
                    f"Signature '{self.name}' has {len(smooth)} outputs that could have a gradient: say which one. "
                    f"There are {listed(outputs)}."
                )
            return str(smooth[0])
        if output not in outputs:
            raise invalid(f"Signature '{self.name}' has no output '{output}': there are {listed(outputs)}.")
        if output not in smooth:
            raise invalid(f"Output '{output}' of signature '{self.name}' is {outputs[output].dtype.name}: no gradient.")
        return output

    def _want(self, name: str, smooth: list[str], trainable: list[str], known: Mapping[str, Any]) -> None:
        """`name`: of an input or a variable, or 'inputs' or 'variables' for all that can have a gradient."""
        if name in self.inputs:
            if name not in smooth:
                raise invalid(f"Input '{name}' of signature '{self.name}' is no floating-point tensor: no gradient.")
            self.wrt += [name] if name not in self.wrt else []
        elif name in known:
            self.variables[name] = known[name]
        elif name == "inputs":
            self.wrt += [x for x in smooth if x not in self.wrt]
        elif name == "variables":
            self.variables.update({v: known[v] for v in trainable})
        else:
            raise invalid(
                f"Signature '{self.name}' has no input or variable '{name}'. Inputs: {listed(self.inputs)}. Variables "
                f"that it reads: {listed(known)}."
            )

    @property
    def is_scalar(self) -> bool:
        """Whether the output is known to be a real scalar, which needs no cotangent."""
        y = self.signature.structured_outputs[self.output]
        return bool(y.shape.rank == 0 and y.dtype.is_floating)

    def specs(self) -> dict[str, tf.TensorSpec]:
        """The inputs of functions that compute the gradient, by name: the signature's, and a cotangent if need be."""
        specs = {name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in self.signature_specs().items()}
        if not self.is_scalar:
            y = self.signature.structured_outputs[self.output]
            name = f"d_{self.output}"
            specs[name] = tf.TensorSpec(y.shape, y.dtype, name)
        return specs

    def signature_specs(self) -> dict[str, tf.TensorSpec]:
        return dict(self.signature.structured_input_signature[1])

    def gradients(self) -> Callable[[Mapping[str, Any]], tuple[Any, dict[str, Any], dict[str, Any]]]:
        """A function from tensors, as `specs` names them, to the output and its gradients, by input and by variable."""

        def primal(*xs: Any) -> Any:
            return self.signature(**dict(zip(self.inputs, xs, strict=True)))[self.output]

        specs = [self.signature_specs()[name] for name in self.inputs]
        f = tf.function(primal, autograph=False).get_concrete_function(*specs)
        handles = {id(v.handle): name for name, v in self.variables.items()}
        captured = [handles.get(id(x)) for x in f.captured_inputs]
        wrt = [name in self.wrt for name in self.inputs] + [name is not None for name in captured]
        try:
            gradient = _concrete.function_gradient(f, wrt, values=True, checkpoint=self.checkpoint)
        except tf.errors.UnimplementedError as error:
            if "which was defined in Python" not in error.message:
                raise
            raise tf.errors.UnimplementedError(None, None, f"{error.message}\n{_LOST}") from None

        def run(tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
            xs = [tensors[name] for name in self.inputs]
            output = self.signature.structured_outputs[self.output]
            dy = tf.ones([], output.dtype) if self.is_scalar else tensors[f"d_{self.output}"]
            *gradients, y = gradient(*xs, dy)
            dx = iter(gradients)
            by_input = {name: next(dx) for name in self.inputs if name in self.wrt}
            by_variable = {name: next(dx) for name in captured if name is not None}
            missing = {name: tf.zeros_like(v) for name, v in self.variables.items() if name not in by_variable}
            return y, by_input, {**by_variable, **missing}

        return run


def signatures_of(model: Any) -> Mapping[str, Any]:
    """The signatures of a loaded model, by name.

    Raises:
      tf.errors.InvalidArgumentError: what the model calls its signatures is something else.
    """
    signatures = getattr(model, "signatures", {})
    if not isinstance(signatures, Mapping) or not all(
        isinstance(signature, concrete_function.ConcreteFunction) for signature in signatures.values()
    ):
        raise invalid(f"The model is damaged: signatures must be functions by name, not {reprlib.repr(signatures)}.")
    return signatures


def signature_of(model: Any, name: str) -> Any:
    """A signature of a loaded model.

    Raises:
      tf.errors.InvalidArgumentError: the model has none of that name, or holds it in a form that can't be saved again.
    """
    signatures = signatures_of(model)
    if name not in signatures:
        raise invalid(f"The model has no signature '{name}': there are {listed(signatures)}.")
    signature = signatures[name]
    if not all(map(_is_named, (signature.structured_input_signature[1:], [signature.structured_outputs]))):
        raise invalid(f"Signature '{name}' is damaged: it must take tensors by name and return a dict of tensors.")
    kept = sorted(n.name for n in signature.graph.as_graph_def().node if n.op in _REFERENCE_VARIABLES)
    if kept:
        raise invalid(
            f"Signature '{name}' holds reference variables of TensorFlow 1 ({listed(kept)}), which TensorFlow 2 can't "
            "save again. Save the model anew with resource variables: tf.compat.v1.enable_resource_variables()."
        )
    return signature


def _is_named(structure: Any) -> bool:
    """Whether a structure is one dict of tensors."""
    one = len(structure) == 1 and isinstance(structure[0], Mapping)
    return one and all(isinstance(x, tf.TensorSpec) or tf.is_tensor(x) for x in structure[0].values())


def variables_of(signature: Any) -> dict[str, Any]:
    """The variables that a function reads, by name; those of one name are told apart by a number."""
    variables: dict[str, Any] = {}
    for v in signature.variables:
        base = name = v.name.partition(":")[0]
        k = 0
        while name in variables:
            k += 1
            name = f"{base}_{k}"
        variables[name] = v
    return variables


def listed(names: Iterable[str], limit: int = 12) -> str:
    some = [f"'{name}'" for name in names]
    if not some:
        return "none"
    return ", ".join(some[:limit]) + (f" and {len(some) - limit} more" if len(some) > limit else "")
