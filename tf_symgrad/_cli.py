"""The command line `tf-symgrad`: gradients of SavedModels, without a program."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tf_symgrad import _coverage
from tf_symgrad._version import __version__

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandError(Exception):
    """What the user is told in place of a result."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0, 1 where a model can't be differentiated, 2 for an error."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except CommandError as error:
        _err.print(f"tf-symgrad: {error}", style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tf-symgrad", description="Gradients of TensorFlow functions and SavedModels."
    )
    parser.add_argument("--version", action="version", version=f"tf_symgrad {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add = commands.add_parser("add-gradient", help="write a SavedModel with signatures that compute gradients")
    add.add_argument("--saved-model", required=True, metavar="DIR", help="the model")
    add.add_argument("--out", required=True, metavar="DIR", help="where to write it; must not exist, or be empty")
    add.add_argument("--signature", default="serving_default", metavar="NAME", help="the signature to differentiate")
    add.add_argument("--loss", metavar="OUTPUT", help="its output to differentiate, if it has several")
    add.add_argument(
        "--wrt",
        nargs="+",
        metavar="NAME",
        help="inputs and variables to differentiate with respect to; 'inputs' and 'variables' stand for all. "
        "Default: both",
    )
    add.add_argument("--name", default="gradients", metavar="NAME", help="the new signature's name")
    add.add_argument(
        "--checkpoint",
        metavar="POLICY",
        help="what gradients keep in memory of the forward pass: cheap, auto, everything, a number of bytes such as "
        "200MB, keep:NAMES or recompute:NAMES of op types and name scopes. Default: all that they use",
    )
    add.add_argument("--train", choices=["sgd", "adam"], help="add a signature train_step with this optimizer, too")
    add.add_argument("--learning-rate", type=float, default=0.01, metavar="RATE", help="its learning rate")
    add.add_argument(
        "--gradient",
        action="append",
        default=[],
        metavar="NAME=FILE.py:FUNCTION",
        help="a gradient that was Python's and was not saved with the model: see save_with_gradients",
    )
    add.set_defaults(run=_add_gradient)

    inspect = commands.add_parser("inspect", help="tell which signatures of a SavedModel can be differentiated")
    inspect.add_argument("model", metavar="DIR")
    inspect.add_argument("--signature", metavar="NAME", help="this one alone")
    inspect.add_argument("--plot", metavar="FILE", help="draw the gradient (.svg, .png, .pdf, .dot) of one signature")
    inspect.add_argument(
        "--unknown", type=int, default=1, metavar="SIZE", help="what to take for dimensions of unknown size (a batch's)"
    )
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.set_defaults(run=_inspect)

    explain = commands.add_parser("explain", help="tell for each input and variable of a signature what becomes of it")
    explain.add_argument("model", metavar="DIR")
    explain.add_argument("--signature", default="serving_default", metavar="NAME")
    explain.add_argument("--unknown", type=int, default=1, metavar="SIZE", help="see inspect")
    explain.set_defaults(run=_explain)

    for command in (add, inspect, explain):
        command.add_argument(
            "--op-library", action="append", default=[], metavar="FILE", help="a library of ops that the model needs"
        )

    coverage = commands.add_parser("coverage", help="print which ops have a gradient, and how far it is checked")
    form = coverage.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON: {'ops': {'Abs': {...}, ...}, ...}")
    form.add_argument("--write", action="store_true", help="write docs/coverage.md of this checkout")
    coverage.set_defaults(run=_print_coverage)
    return parser


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Shows what takes long while it does, and turns TensorFlow's errors into plain ones."""
    import tensorflow as tf

    try:
        with _err.status(what):
            yield
    except (tf.errors.OpError, OSError, ValueError, TypeError, ImportError) as error:
        message = getattr(error, "message", None) or str(error)
        raise CommandError(f"{what} failed: {message}") from error


def _load(directory: str, libraries: Sequence[str]) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    path = Path(directory)
    if not path.is_dir():
        raise CommandError(f"{path} is no folder")
    if not any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise CommandError(f"{path} is no SavedModel: it has no saved_model.pb")
    with _working(f"Loading {path}"):
        import tensorflow as tf

        import tf_symgrad

        tf.get_logger().setLevel("ERROR")
        tf_symgrad.load()  # the model may have the op in it
        for library in libraries:
            tf.load_op_library(library)
        try:
            return tf.saved_model.load(path)
        except Exception as error:  # whatever a damaged file or an unknown op makes of it
            hint = ""
            if "not registered" in str(error) or "Unregistered" in str(error) or "ops used" in str(error):
                hint = "\nName the library that has its ops: --op-library FILE."
            raise CommandError(f"{path} can't be loaded: {type(error).__name__}: {error}{hint}") from error


def _signatures(model: Any, name: str | None) -> dict[str, Any]:
    with _working("Reading the signatures"):
        from tf_symgrad import _signature

        signatures = dict(_signature.signatures_of(model))
    if name is not None and name not in signatures:
        known = ", ".join(f"'{n}'" for n in signatures) or "none"
        raise CommandError(f"The model has no signature '{name}': there are {known}.")
    return signatures if name is None else {name: signatures[name]}


def _add_gradient(options: argparse.Namespace) -> int:
    gradients = dict(_python_function(argument) for argument in options.gradient)
    model = _load(options.saved_model, options.op_library)
    with _working("Differentiating and saving"):
        from tf_symgrad import _saved_model

        added = _saved_model.save_with_gradients(
            model,
            options.out,
            signature=options.signature,
            output=options.loss,
            wrt=options.wrt,
            name=options.name,
            train=options.train,
            learning_rate=options.learning_rate,
            gradients=gradients,
            checkpoint=options.checkpoint,
        )
    _out.print(f"{options.out}:", markup=False)
    for name, function in added.items():
        inputs = ", ".join(map(_described, function.structured_input_signature[1].items()))
        outputs = ", ".join(map(_described, function.structured_outputs.items()))
        _out.print(f"  {name}({inputs}) -> {outputs}", markup=False)
    return 0


def _python_function(argument: str) -> tuple[str, Any]:
    """The name and the function that NAME=FILE.py:FUNCTION stands for."""
    name, equals, place = argument.partition("=")
    file, colon, function = place.rpartition(":")
    if not (name and equals and colon and function):
        raise CommandError(f"--gradient must be NAME=FILE.py:FUNCTION, not {argument!r}.")
    try:
        found = runpy.run_path(file)
    except Exception as error:  # whatever the user's file raises
        raise CommandError(f"--gradient: {file} can't be run: {type(error).__name__}: {error}") from error
    if not callable(found.get(function)):
        raise CommandError(f"--gradient: {file} has no function '{function}'.")
    return name, found[function]


def _described(item: tuple[str, Any]) -> str:
    name, spec = item
    return f"{name}: {spec.dtype.name}{'' if spec.shape.rank is None else list(spec.shape)}"


def _inspect(options: argparse.Namespace) -> int:
    model = _load(options.model, options.op_library)
    signatures = _signatures(model, options.signature)
    if options.plot and len(signatures) != 1:
        raise CommandError("--plot draws one signature: name it by --signature.")
    explanations = {}
    for name, signature in signatures.items():
        with _working(f"Differentiating '{name}'"):
            from tf_symgrad import _explain

            explanations[name] = _explain.explain(signature, unknown=options.unknown)
    if options.plot:
        with _working(f"Drawing {options.plot}"):
            next(iter(explanations.values())).plot(options.plot)
    if options.json:
        _out.print_json(json.dumps({name: _as_json(e) for name, e in explanations.items()}))
    else:
        _show(explanations)
    return 1 if any(e.error for e in explanations.values()) else 0


def _as_json(e: Any) -> dict[str, Any]:
    inputs = [
        {"name": x.name, "dtype": x.dtype, "gradient": x.connected, "ends": list(map(str, x.cuts))} for x in e.inputs
    ]
    return {
        "differentiable": not e.error,
        "error": e.error,
        "inputs": inputs,
        "forward_nodes": e.forward_nodes,
        "gradient_nodes": e.gradient_nodes,
        "kept_tensors": len(e.kept),
        "kept_bytes": e.kept_bytes,
        "kept_of_unknown_size": sum(size < 0 for size in e.kept.values()),
    }


def _show(explanations: dict[str, Any]) -> None:
    table = Table("signature", "differentiable", "nodes", "with gradients", "kept tensors", "kept bytes")
    for name, e in explanations.items():
        unknown = sum(size < 0 for size in e.kept.values())
        size = f"{e.kept_bytes:,}" + (f" + {unknown} of unknown size" if unknown else "")
        row = ["", "", ""] if e.error else [str(e.gradient_nodes), str(len(e.kept)), size]
        table.add_row(name, "no" if e.error else "yes", str(e.forward_nodes), *row)
    _out.print(table)
    for name, e in explanations.items():
        if e.error:
            _out.print(f"{name}: {e.error}", markup=False)


def _explain(options: argparse.Namespace) -> int:
    model = _load(options.model, options.op_library)
    (signature,) = _signatures(model, options.signature).values()
    with _working(f"Differentiating '{options.signature}'"):
        from tf_symgrad import _explain as explaining

        explanation = explaining.explain(signature, unknown=options.unknown)
    _out.print(str(explanation), markup=False)
    return 1 if explanation.error else 0


def _print_coverage(options: argparse.Namespace) -> int:
    data = _coverage.data()
    if options.json:
        print(json.dumps(data))
    elif options.write:
        if not _coverage.DOCUMENT.parent.is_dir():
            raise CommandError(f"{_coverage.DOCUMENT.parent} does not exist: the package is not in a checkout")
        _coverage.DOCUMENT.write_text(_coverage.as_markdown(data))
    else:
        print(_coverage.as_text(data))
    return 0
