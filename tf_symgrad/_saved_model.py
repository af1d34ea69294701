"""Gradients in SavedModels: functions of stock ops, which programs run that have never heard of tf_symgrad."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_symgrad import _concrete, _inputs, _rule
from tf_symgrad._specs import invalid

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
        smooth = [name for name in self.inputs if specs[name].dtype.is_floating or specs[name].dtype.is_complex]
        trainable = [name for name, v in known.items() if v.trainable and v.dtype.is_floating]
        self.wrt: list[str] = []
        self.variables: dict[str, Any] = {}
        for name in [*smooth, *trainable] if wrt is None else wrt:
            self._want(name, smooth, trainable, known)
        if not self.wrt and not self.variables:
            raise invalid(f"Signature '{signature}' has no input or variable that could have a gradient.")

    def _output(self, output: str | None) -> str:
        outputs = self.signature.structured_outputs
        smooth = [name for name, y in outputs.items() if y.dtype.is_floating or y.dtype.is_complex]
        if output is None:
            if len(smooth) != 1:
                raise invalid(
                    f"Signature '{self.name}' has {len(smooth)} outputs that could have a gradient: say which one. "
                    f"There are {_listed(outputs)}."
                )
            return str(smooth[0])
        if output not in outputs:
            raise invalid(f"Signature '{self.name}' has no output '{output}': there are {_listed(outputs)}.")
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
                f"Signature '{self.name}' has no input or variable '{name}'. Inputs: {_listed(self.inputs)}. Variables "
                f"that it reads: {_listed(known)}."
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


def signature_of(model: Any, name: str) -> Any:
    """A signature of a loaded model.

    Raises:
      tf.errors.InvalidArgumentError: the model has none of that name, or holds it in a form that can't be saved again.
    """
    signatures = getattr(model, "signatures", {})
    if name not in signatures:
        raise invalid(f"The model has no signature '{name}': there are {_listed(signatures)}.")
    signature = signatures[name]
    if not all(map(_is_named, (signature.structured_input_signature[1:], [signature.structured_outputs]))):
        raise invalid(f"Signature '{name}' is damaged: it must take tensors by name and return a dict of tensors.")
    kept = sorted(n.name for n in signature.graph.as_graph_def().node if n.op in _REFERENCE_VARIABLES)
    if kept:
        raise invalid(
            f"Signature '{name}' holds reference variables of TensorFlow 1 ({_listed(kept)}), which TensorFlow 2 can't "
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


def _listed(names: Iterable[str], limit: int = 12) -> str:
    some = [f"'{name}'" for name in names]
    if not some:
        return "none"
    return ", ".join(some[:limit]) + (f" and {len(some) - limit} more" if len(some) > limit else "")


# ---- Optimizers, as TensorFlow's own training ops are ----


class _Optimizer(tf.Module):  # type: ignore[misc]
    """Updates variables in place; its slots are saved with the model."""

    def __init__(self, rate: float) -> None:
        super().__init__(name="optimizer")
        self.rate = tf.Variable(rate, trainable=False, dtype=tf.float32, name="learning_rate")

    def _rate(self, v: Any) -> Any:
        return tf.cast(self.rate, v.dtype)

    def apply(self, gradients: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        raise NotImplementedError


class Sgd(_Optimizer):
    """`v -= rate * dv`."""

    def __init__(self, rate: float, variables: Mapping[str, Any]) -> None:
        super().__init__(rate)

    def apply(self, gradients: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        for name, v in variables.items():
            tf.raw_ops.ResourceApplyGradientDescent(var=v.handle, alpha=self._rate(v), delta=gradients[name])


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2015) with the usual constants, by TensorFlow's own training op."""

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7

    def __init__(self, rate: float, variables: Mapping[str, Any]) -> None:
        super().__init__(rate)
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="step")
        self.first = {n: tf.Variable(tf.zeros_like(v), trainable=False, name="m") for n, v in variables.items()}
        self.second = {n: tf.Variable(tf.zeros_like(v), trainable=False, name="v") for n, v in variables.items()}

    def apply(self, gradients: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        step = self.step.assign_add(1, read_value=True)
        for name, v in variables.items():
            one = tf.ones([], v.dtype)
            t = tf.cast(step, v.dtype)
            tf.raw_ops.ResourceApplyAdam(
                var=v.handle,
                m=self.first[name].handle,
                v=self.second[name].handle,
                beta1_power=tf.pow(one * self.BETA1, t),
                beta2_power=tf.pow(one * self.BETA2, t),
                lr=self._rate(v),
                beta1=one * self.BETA1,
                beta2=one * self.BETA2,
                epsilon=one * self.EPSILON,
                grad=gradients[name],
            )


OPTIMIZERS: dict[str, Callable[[float, Mapping[str, Any]], _Optimizer]] = {"sgd": Sgd, "adam": Adam}


# ---- Saving ----


class _Extended(tf.Module):  # type: ignore[misc]
    """A model with more signatures: it and what they need are saved together."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model


def save_with_gradients(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    signature: str = "serving_default",
    output: str | None = None,
    wrt: Iterable[str] | None = None,
    name: str = "gradients",
    train: str | None = None,
    learning_rate: float = 0.01,
    signatures: Mapping[str, Any] | None = None,
    gradients: Mapping[str, Callable[..., Any]] | None = None,
    checkpoint: str | int | None = None,
) -> dict[str, Any]:
    """Saves a model with signatures that compute its gradients, of stock TensorFlow ops only.

    Whatever loads the model, TensorFlow Serving or a program in C, runs them: tf_symgrad is not needed there.

    Args:
      model: what `tf.saved_model.load` returns; or a `tf.Module` or Keras model, together with `signatures`.
      directory: where to save it. Must not exist, or be empty.
      signature: the name of the signature to differentiate.
      output: which of its outputs. May be left out where one alone can have a gradient.
      wrt: names of its inputs and of variables that it reads; 'inputs' and 'variables' stand for all of them that can
        have a gradient (of the variables, the trainable ones). If left out: both.
      name: the new signature's name. It takes the inputs of `signature` and, unless the output is a scalar, its
        cotangent `d_<output>`, of the output's shape and dtype. It returns `<output>`, and `gradient_<name>` for each
        element of `wrt`, of its shape and dtype.
      train: None, 'sgd' or 'adam'. Then there is a signature `train_step` as well, which takes the same inputs, updates
        the variables of `wrt` and returns `<output>` as it was before. Slots and the learning rate are variables of the
        saved model.
      learning_rate: for `train`.
      checkpoint: what gradients keep of the forward pass, and what they compute again: see `value_and_grad`.
      signatures: the signatures of a model that has not been saved before, as `tf.saved_model.save` takes them.
      gradients: those that the model was saved without (`tf.custom_gradient`, unless
        `SaveOptions(experimental_custom_gradients=True)`), by the names that the error has that lists them:
        `{"CustomGradient-16": gradient}`. Each is a function as `tf_symgrad.rule` takes it. Its op is an `IdentityN` of
        the results of the function that was decorated, then of its arguments, then of the variables that it reads: it
        is given a cotangent for each, of which the first matter, and returns a gradient for each, None for the results.

    Returns:
      The new signatures as ConcreteFunctions, by name.

    Raises:
      tf.errors.InvalidArgumentError: there is no such signature, output, input or variable.
      tf.errors.UnimplementedError: ops of the signature have no gradient: all of them are listed.
      FileExistsError: `directory` exists and is not empty. Nothing is ever half written.
    """
    for what, given in (("signatures", signatures), ("gradients", gradients)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{what} must be a dict, by name, not {given!r}.")
    texts = (("signature", signature), ("name", name), ("output", output or ""), ("train", train or ""))
    for what, text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} must be a string, not {text!r}.")
    if wrt is not None:
        wrt = _inputs.elements("wrt", wrt, "names of inputs and variables")
    request = (signature, output, wrt, name, train, learning_rate, checkpoint)
    with _rule.by_hand(gradients or {}):
        if signatures is None:
            return _save(model, directory, *request)
        with tempfile.TemporaryDirectory() as scratch:
            tf.saved_model.save(model, scratch, signatures=signatures)
            return _save(tf.saved_model.load(scratch), directory, *request)


def _save(
    model: Any,
    directory: str | os.PathLike[str],
    signature: str,
    output: str | None,
    wrt: Iterable[str] | None,
    name: str,
    train: str | None,
    learning_rate: float,
    checkpoint: str | int | None,
) -> dict[str, Any]:
    """`save_with_gradients` of a model that has been loaded."""
    target = Target(model, signature, output, wrt, checkpoint)
    taken = [key for key in (name, *(["train_step"] if train else [])) if key in model.signatures]
    if taken:
        raise invalid(f"The model has a signature {_listed(taken)} already: choose another name.")
    extended = _Extended(model)
    added = {name: _gradient_signature(target)}
    if train is not None:
        added["train_step"] = _train_signature(target, train, learning_rate, extended)
    extended.added = added
    with _written(directory) as scratch_path:
        tf.saved_model.save(extended, scratch_path, signatures={**model.signatures, **added})
    return added


def _by_name(f: Callable[..., Any], target: Target) -> Any:
    """A function that takes the target's inputs by name."""
    return tf.function(f, autograph=False).get_concrete_function(**target.specs())


def _gradient_signature(target: Target) -> Any:
    gradients = target.gradients()

    def run(**tensors: Any) -> dict[str, Any]:
        y, by_input, by_variable = gradients(tensors)
        return {target.output: y, **{f"gradient_{n}": d for n, d in {**by_input, **by_variable}.items()}}

    return _by_name(run, target)


def _train_signature(target: Target, kind: str, rate: float, owner: _Extended) -> Any:
    if kind not in OPTIMIZERS:
        raise invalid(f"There is no optimizer '{kind}': there are {_listed(OPTIMIZERS)}.")
    if not target.variables:
        raise invalid("A training step needs variables among those to differentiate with respect to.")
    gradients = target.gradients()
    owner.optimizer = optimizer = OPTIMIZERS[kind](rate, target.variables)

    def step(**tensors: Any) -> dict[str, Any]:
        y, _, by_variable = gradients(tensors)
        optimizer.apply(by_variable, target.variables)
        return {target.output: y}

    return _by_name(step, target)


@contextmanager
def _written(directory: str | os.PathLike[str]) -> Iterator[str]:
    """A scratch folder that becomes `directory` if all goes well."""
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder: nothing was written.")
    blocked = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
    if blocked is not None:
        raise NotADirectoryError(f"{blocked} is a file: {path} can't be written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        yield scratch
        os.chmod(scratch, 0o777 & ~_umask())
        os.replace(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
