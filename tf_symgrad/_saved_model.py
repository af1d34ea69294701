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

from tf_symgrad import _inputs, _rule
from tf_symgrad._optimizers import OPTIMIZERS
from tf_symgrad._signature import Target, listed
from tf_symgrad._specs import invalid


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
      model: what `tf.saved_model.load` returns; or a `tf.Module` or Keras model, as `tf.saved_model.save` takes it.
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
      signatures: the signatures of a model that has not been saved before, as `tf.saved_model.save` takes them. If left
        out, what that finds: of a Keras model, and of a module with one `tf.function` of a known signature, that.
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
        if signatures is None and hasattr(model, "signatures"):
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
        raise invalid(f"The model has a signature {listed(taken)} already: choose another name.")
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
        raise invalid(f"There is no optimizer '{kind}': there are {listed(OPTIMIZERS)}.")
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
