"""python -m tests.models [word ...]: compares all models, or those whose names hold one of the words."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import tf_symgrad
from tests.models import legacy
from tests.models.zoo import MODELS, Model

TOLERANCE = 1e-5
HEADER = f"{'model':34}{'forward':>8}{'nodes':>8}{'tape':>8}{'build':>9}{'tape':>9}{'difference':>12}"


class Result(NamedTuple):
    forward: int
    nodes: int
    tape_nodes: int
    build: float
    tape_build: float
    difference: float


def node_count(function: Any) -> int:
    """Nodes of a ConcreteFunction and of all that it calls."""
    graph = function.graph.as_graph_def()
    return len(function.function_def.node_def) + sum(len(f.node_def) for f in graph.library.function)


@tf.autograph.experimental.do_not_convert
def compare(model: Model) -> Result:
    specs = model.signature or [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
    forward = tf.function(model.f, autograph=False).get_concrete_function(*specs)
    state = [(v, tf.identity(v)) for v in forward.variables]
    times = {}

    def native(*x: Any) -> list[Any]:
        start = time.perf_counter()
        gradients = tf_symgrad.symbolic_gradient([*x], f=forward, capture_gradients=True)
        times["native"] = time.perf_counter() - start
        places = {id(c): i for i, c in enumerate(forward.captured_inputs, len(x))}
        return [gradients[i] for i in inputs] + [gradients[places[id(v.handle)]] for v in model.variables]

    def tape(*x: Any) -> list[Any]:
        wanted = [x[i] for i in inputs]
        with tf.GradientTape() as tape:
            tape.watch(wanted)
            y = model.f(*x)
        start = time.perf_counter()
        gradients = tape.gradient(y, [*wanted, *model.variables], unconnected_gradients="zero")
        times["tape"] = time.perf_counter() - start
        return [tf.convert_to_tensor(g) for g in gradients]

    inputs = [i for i, x in enumerate(model.inputs) if x.dtype.is_floating]
    results = []
    for f in (native, tape):
        concrete = tf.function(f, autograph=False).get_concrete_function(*specs)
        for variable, value in state:
            variable.assign(value)
        results.append([g.numpy() for g in concrete(*model.inputs)])
        if f is tape:
            tape_nodes = node_count(concrete)
    trained = {id(v.handle) for v in model.variables}
    wanted = [i in inputs for i in range(len(specs))] + [id(c) in trained for c in forward.captured_inputs]
    name, library = tf_symgrad.gradient_function(forward, wanted)
    nodes = sum(len(f.node_def) for f in called(name, {f.signature.name: f for f in library.function}))
    return Result(node_count(forward), nodes, tape_nodes, times["native"], times["tape"], difference(*results))


def called(name: str, library: dict[str, Any]) -> Iterable[Any]:
    """A function and all that it calls."""
    seen, todo = {name}, [name]
    while todo:
        function = library[todo.pop()]
        yield function
        for node in function.node_def:
            attrs = [f.name for a in node.attr.values() for f in [a.func, *a.list.func]]
            fresh = ({node.op, *attrs} & library.keys()) - seen
            seen |= fresh
            todo += fresh


def difference(got: list[Any], expected: list[Any]) -> float:
    """The largest relative difference of a gradient; what rounding leaves of zero counts as zero."""
    largest = max(np.max(np.abs(b), initial=0.0) for b in expected)
    assert np.isfinite(largest)
    assert largest > 0
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        scale = max(np.max(np.abs(b), initial=0.0), 1e-9 * largest)
        worst = max(worst, float(np.max(np.abs(a - b), initial=0.0) / scale))
    return worst


def row_of_model(name: str) -> tuple[str, bool]:
    r = compare(MODELS[name]())
    times = f"{r.build:8.2f}s{r.tape_build:8.2f}s"
    return f"{r.forward:8}{r.nodes:8}{r.tape_nodes:8}{times}{r.difference:12.1e}", r.difference < TOLERANCE


def row_of_training(name: str) -> tuple[str, bool]:
    training = legacy.TRAININGS[name]
    r = legacy.compare(training)
    tolerance = TOLERANCE if training.policy == "float32" else 1e-2
    left = f"  left to Python: {'; '.join(r.left)}" if r.left else ""
    return f"{r.loss:8.4f}{r.difference:12.1e}{left}", r.difference < tolerance and not r.left


def main() -> int:
    tf.keras.backend.set_floatx("float64")
    passed = failed = skipped = 0
    tables = [
        (HEADER, MODELS, row_of_model),
        (f"{'training by Keras 2':34}{'loss':>8}{'difference':>12}", legacy.TRAININGS, row_of_training),
    ]
    for header, names, row_of in tables:
        chosen = [name for name in names if not sys.argv[1:] or any(word in name for word in sys.argv[1:])]
        if chosen:
            print(header)
        for name in chosen:
            tf.keras.utils.set_random_seed(0)
            tf.keras.backend.clear_session()
            try:
                row, right = row_of(name)
            except ModuleNotFoundError as error:
                print(f"{name:34}{error}", flush=True)
                skipped += 1
                continue
            except Exception:
                traceback.print_exc()
                print(f"{name:34}fails, see above", flush=True)
                failed += 1
                continue
            passed, failed = passed + right, failed + (not right)
            print(f"{name:34}{row}" + ("" if right else "  WRONG"), flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
