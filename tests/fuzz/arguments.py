"""Arguments of the wrong sort for each public function of the package: python -m tests.fuzz.arguments.

A call takes good arguments but for one or two, which come from a pool of odd ones: functions with odd signatures and
results, containers of the wrong shape, tensors of other dtypes, graphs and kinds, numbers out of range. It must return,
or raise an error that is meant for its caller: an OpError, a TypeError or ValueError which somebody has written, or
what the function in question raised. All else is a finding: other classes, errors that fall out of this package's own
code, calls that do not end. Prints those, with the seed that makes them again.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import linecache
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import function as defun_lib

import tf_symgrad

PACKAGE = str(Path(tf_symgrad.__file__).parent)
BATCH = 400
SECONDS = 120  # for one call, on a busy machine


class RaisedByFunctionError(Exception):
    """What a function raises that is differentiated: it must come out."""


def square(x: Any) -> Any:
    return tf.reduce_sum(x**2)


def product(x: Any, y: Any) -> Any:
    return tf.reduce_sum(x * y)


def raising(x: Any) -> Any:
    raise RaisedByFunctionError("the function's own")


def generator(x: Any) -> Iterator[Any]:
    yield x


async def coroutine(x: Any) -> Any:
    return x


class Callables:
    def __call__(self, x: Any) -> Any:
        return tf.reduce_sum(x**3)

    def method(self, x: Any) -> Any:
        return tf.reduce_sum(x)


class Odd:
    """Raises wherever it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RaisedByFunctionError(name)

    def __iter__(self) -> Any:
        raise RaisedByFunctionError("iter")


class Module(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable([1.0, 2.0])

    def __call__(self, x: Any) -> Any:
        return tf.reduce_sum(self.w * x)


class Pools:
    """Good and odd values, made once in a process."""

    def __init__(self) -> None:
        pair, spec = tf.constant([1.0, 2.0]), tf.TensorSpec([2])
        v, integer = tf.Variable([1.0, 2.0]), tf.Variable([1, 2])
        concrete = tf.function(square).get_concrete_function(spec)
        two = tf.function(product).get_concrete_function(spec, spec)
        captures = tf.function(lambda x: tf.reduce_sum(v * x)).get_concrete_function(spec)
        nothing = tf.function(lambda: v[0] ** 2).get_concrete_function()
        ints = tf.function(lambda x: x * 2).get_concrete_function(tf.TensorSpec([2], tf.int32))
        with tf.Graph().as_default():
            placeholder = tf.compat.v1.placeholder(tf.float32, [2])
        defun = defun_lib.Defun(tf.float32)(lambda x: tf.reduce_sum(x**2))
        defun.add_to_graph(tf.Graph())
        unknown = attr_value_pb2.NameAttrList(name="nobody")
        relu = attr_value_pb2.NameAttrList(name="Relu")
        relu.attr["T"].type = 1
        wrong = attr_value_pb2.NameAttrList(name="Relu")
        wrong.attr["T"].s = b"float"
        module = Module()
        self.functions: list[Any] = [
            *(square, tf.function(square), concrete, module, v.__mul__, Callables(), tf.reduce_sum, captures),
            functools.partial(product, y=pair),
        ]
        self.odd_functions: list[Any] = [
            *(None, 0, "", "nobody", b"nobody", "Relu", concrete.name, unknown, relu, wrong, defun, ints, nothing, two),
            *(raising, generator, coroutine, Callables, Callables().method, Odd, Odd(), print, len, map, dict, max, tf),
            attr_value_pb2.NameAttrList(),
            *(lambda: pair, lambda *xs: tf.add_n(xs), lambda **kw: pair, lambda x, *, y: x + y, lambda x, y=1.0: x * y),
            *(lambda x, /: x, lambda x: None, lambda x: "text", lambda x: {}, lambda x: [], lambda x: 1, lambda x: {1}),
            *(lambda x: [x, None], lambda x: {"a": x, 1: x}, lambda x: object(), lambda x: (v for _ in range(2))),
            *(lambda x: tf.sparse.from_dense(x), lambda x: tf.ragged.constant([[1.0]]), lambda x: x.shape, lambda x: v),
            *(lambda x: tf.cast(x, tf.int32), lambda x: tf.complex(x, x), lambda x: tf.strings.as_string(x)),
            *(lambda x: placeholder, lambda x: tf.TensorArray(tf.float32, 2), lambda x: x.no_such_attribute),
            *(
                lambda x: tf.GradientTape(),
                lambda x: tf.IndexedSlices(x, tf.constant([0, 1])),
                lambda x: np.float64(3.0),
            ),
            *(lambda x: tf.data.Dataset.from_tensors(x), lambda x: float(x[0]), lambda x: tf.raw_ops.Nobody(x=x)),
            *(tf.function(product, input_signature=[spec, spec]), tf.function(raising), tf.Variable([1.0]), pair),
            *(tf.keras.layers.Dense(1), tf.keras.Sequential(), tf.function(lambda: pair), tf.py_function),
            *(
                lambda x: tf.py_function(lambda y: y, [x], tf.float32),
                lambda x: tf.numpy_function(np.sin, [x], tf.float32),
            ),
            *(lambda x: tf_symgrad.grad(square)(x), lambda x: tf.while_loop(lambda y: True, lambda y: (y, y), [x])),
        ]
        self.tensors: list[Any] = [*[pair] * 6, v, np.float32([1.0, 2.0]), [1.0, 2.0], (1.0, 2.0)]
        self.odd: list[Any] = [
            *(
                None,
                True,
                False,
                0,
                1,
                -1,
                2,
                7,
                -7,
                2**31,
                2**63,
                2**70,
                -(2**63),
                0.5,
                float("nan"),
                float("inf"),
                1j,
            ),
            *(
                "",
                "x",
                "auto",
                "keep:",
                "keep:Nobody",
                "budget",
                "\x00",
                "none",
                "zero",
                b"x",
                b"\xff",
                object(),
                Odd(),
                Odd,
            ),
            *(
                [],
                {},
                (),
                set(),
                {1},
                [[]],
                [None],
                [[1.0], [2.0, 3.0]],
                {"a": 1},
                {"a": pair},
                {1: pair},
                [pair, None],
            ),
            *(
                range(3),
                iter([1]),
                slice(2),
                type,
                int,
                Ellipsis,
                NotImplemented,
                ValueError("x"),
                pair.shape,
                spec,
                np,
            ),
            *(tf.float32, tf.int32, "float32", tf.string, tf.resource, tf.variant, np.float32, 1, 10**6),
            *(
                [tf.float32],
                [tf.int32],
                ["float"],
                [None],
                [tf.float32] * 2,
                [True],
                [False],
                [True, False],
                [1],
                [2],
                ["x"],
            ),
            *(np.array(1.0), np.array([1, "a"], object), np.array(["a"]), np.zeros([0, 2]), np.array("2020", "M8[D]")),
            *(np.zeros(2, [("a", "f4")]), np.float64(1.0), np.int8([1, 2]), np.bool_(True), np.array([None])),
            *(
                tf.constant(1.0),
                tf.constant([1, 2]),
                tf.constant("s"),
                tf.constant([True]),
                tf.constant([1.0], tf.float64),
            ),
            *(tf.zeros([0]), tf.zeros([3]), tf.zeros([2, 2]), tf.complex(1.0, 2.0), tf.constant(1.0, tf.bfloat16)),
            *(tf.sparse.from_dense([1.0, 0.0]), tf.ragged.constant([[1.0], []]), tf.IndexedSlices([[1.0]], [0])),
            *(placeholder, integer, tf.Variable("text"), v.handle, tf.Graph(), tf.TensorArray(tf.float32, 2), module),
            *(
                tf.data.Dataset.range(2),
                iter(tf.data.Dataset.range(2)),
                tf.GradientTape(),
                tf.Module(),
                [v],
                [v, v],
                (v, 0),
            ),
            *(
                tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, 0.0),
                {"w": v, "x": 0},
                [0, 0],
                (0, 1),
                [[0]],
            ),
            *(tf.UnconnectedGradients.NONE, tf.keras.layers.Dense(1), square, concrete, tf.zeros, lambda: 1),
            *(tf.constant([[1.0, 2.0]] * 2), tf.Variable(1.0, shape=tf.TensorShape(None)), tf.constant(1, tf.uint8)),
        ]


class Trial:
    """One call; `call` makes it, `text` says what it is."""

    def __init__(self, seed: int, pools: Pools) -> None:
        self.chance, self.pools = random.Random(seed), pools
        self.odd = self.chance.choice([1, 1, 1, 2])  # how many arguments still are to be odd
        self.text: list[str] = []
        self.kind = self.chance.choice(sorted(KINDS))

    def call(self) -> Any:
        mode = self.chance.choice(["eager", "eager", "eager", "function", "graph"])
        self.text.insert(0, f"{self.kind} ({mode})")
        run = functools.partial(KINDS[self.kind], self)
        if mode == "function":
            return tf.function(lambda: run() and None, autograph=False)()
        if mode == "graph":
            with tf.Graph().as_default():
                return run()
        return run()

    def _told(self, what: str, value: Any) -> Any:
        shown = f"{type(value).__name__}" if isinstance(value, Odd) else f"{value!r}"
        self.text.append(f"{what}={' '.join(shown.split())[:80]}")
        return value

    def _is_odd(self, chances: float) -> bool:
        odd = self.odd > 0 and self.chance.random() < chances
        self.odd -= odd
        return odd

    def function(self) -> Any:
        odd = self._is_odd(0.4)
        return self._told("f", self.chance.choice(self.pools.odd_functions if odd else self.pools.functions))

    def tensor(self, what: str = "x") -> Any:
        return self._told(what, self.chance.choice(self.pools.odd if self._is_odd(0.4) else self.pools.tensors))

    def tensors(self, what: str = "xs") -> Any:
        if self._is_odd(0.15):
            return self._told(what, self.chance.choice(self.pools.odd))
        return [self.tensor() for _ in range(self.chance.choice([1, 1, 1, 1, 2, 0] if self._is_odd(0.2) else [1]))]

    def option(self, what: str, *good: Any) -> Any:
        if self._is_odd(0.5):
            return self._told(what, self.chance.choice(self.pools.odd))
        return self._told(what, self.chance.choice(good))

    def options(self, **good: Any) -> dict[str, Any]:
        names = [name for name in good if self.chance.random() < 0.35]
        return {name: self.option(name, *good[name]) for name in names}


WRT = (0, "x", [0], {"a": 0})
CHECKPOINT = (None, "auto", "everything", 1 << 20)


def of_values(transform: Callable[..., Any]) -> Callable[[Trial], Any]:
    def run(trial: Trial) -> Any:
        options = {"wrt": WRT, "has_aux": (False,), "unconnected_gradients": ("none", "zero"), "checkpoint": CHECKPOINT}
        g = transform(trial.function(), **trial.options(**options))
        return g(*trial.tensors("arguments"))

    return run


def of_point(transform: Callable[..., Any]) -> Callable[[Trial], Any]:
    def run(trial: Trial) -> Any:
        return transform(trial.function(), wrt=trial.option("wrt", 0, 0, "x"))(*trial.tensors("arguments"))

    return run


def by_vjp(trial: Trial) -> Any:
    _, pullback = tf_symgrad.vjp(trial.function(), *trial.tensors("arguments"), **trial.options(checkpoint=CHECKPOINT))
    return pullback(trial.option("dy", tf.constant(1.0), 1.0))


def by_linearize(trial: Trial) -> Any:
    _, push = tf_symgrad.linearize(trial.function(), *trial.tensors("arguments"))
    return push(*trial.tensors("tangents"))


def by_symbolic_gradient(trial: Trial) -> Any:
    options = trial.options(
        Tout=([tf.float32],), name=("g", None), wrt=([True],), unconnected_gradients=("none", "zero"),
        sparse=(True, False), checkpoint=CHECKPOINT, capture_gradients=(True, False), variables=([],),
    )  # fmt: skip
    return tf_symgrad.symbolic_gradient(trial.tensors("input"), f=trial.function(), **options)


def by_raw_op(trial: Trial) -> Any:
    options = trial.options(wrt=([True],), values=(False,), checkpoint=("", "auto"), name=(None, "g"))
    inputs, tout = [trial.tensor(), trial.tensor("dy")], trial.option("Tout", [tf.float32])
    if trial._is_odd(0.2):
        inputs = trial.option("input", inputs)
    f = trial.chance.choice([f for f in trial.pools.functions if hasattr(f, "function_def")])
    f = trial.function() if trial._is_odd(0.3) else trial._told("f", f)
    return tf_symgrad.raw_ops.SymbolicGradient(input=inputs, Tout=tout, f=f, **options)


def concrete_of(trial: Trial) -> Any:
    return trial.function() if trial.odd else trial._told("f", trial.pools.functions[2])


def by_gradient_function(trial: Trial) -> Any:
    return tf_symgrad.gradient_function(concrete_of(trial), **trial.options(wrt=([True], None), checkpoint=CHECKPOINT))


def by_function_gradient(trial: Trial) -> Any:
    options = trial.options(wrt=([True], None), values=(True, False), checkpoint=CHECKPOINT)
    return tf_symgrad.function_gradient(concrete_of(trial), **options)


def by_explain(trial: Trial) -> Any:
    options = trial.options(wrt=([True], None), unknown=(1, 32), args=([tf.constant([1.0, 2.0])], None))
    return str(tf_symgrad.explain(trial.function(), **options))


def by_check_grads(trial: Trial) -> Any:
    options = trial.options(
        order=(1,), modes=(["rev"], ("rev", "fwd")), rtol=(None, 0.01), atol=(None, 0.01), elements=(4,), seed=(1,)
    )
    return tf_symgrad.testing.check_grads(trial.function(), trial.tensors("args"), **({"order": 1} | options))


def by_rule(trial: Trial) -> Any:
    return tf_symgrad.rule(trial.option("op", "NobodyHasThis"))(trial.function())


def by_save(trial: Trial) -> Any:
    options = trial.options(
        signature=("serving_default",), output=(None, "output_0"), wrt=(None, ["x"]), name=("gradients",),
        train=(None, "sgd"), learning_rate=(0.1,), signatures=(None,), gradients=(None, {}), checkpoint=CHECKPOINT,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = trial.option("model", trial.pools.functions[3])
        return tf_symgrad.save_with_gradients(model, trial.option("directory", folder + "/saved"), **options)


def pairs(transform: Callable[..., Any]) -> Callable[[Trial], Any]:
    return lambda trial: transform(trial.function(), trial.tensors("primals"), trial.tensors("tangents"))


def by_per_example(trial: Trial) -> Any:
    g = tf_symgrad.per_example_grad(trial.function(), **trial.options(wrt=WRT, batched=(None, [0])))
    return g(*trial.tensors("arguments"))


KINDS: dict[str, Callable[[Trial], Any]] = {
    "grad": of_values(tf_symgrad.grad),
    "value_and_grad": of_values(tf_symgrad.value_and_grad),
    "jacobian": of_point(tf_symgrad.jacobian),
    "hessian": of_point(tf_symgrad.hessian),
    "vjp": by_vjp,
    "linearize": by_linearize,
    "jvp": pairs(tf_symgrad.jvp),
    "hvp": pairs(tf_symgrad.hvp),
    "per_example_grad": by_per_example,
    "symbolic_gradient": by_symbolic_gradient,
    "raw_ops": by_raw_op,
    "gradient_function": by_gradient_function,
    "function_gradient": by_function_gradient,
    "explain": by_explain,
    "check_grads": by_check_grads,
    "rule": by_rule,
    "save_with_gradients": by_save,
}


def finding(error: BaseException) -> str:
    """What is wrong with how a call ended; empty if it was meant so."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    where = f" at {Path(last.filename).name}:{last.lineno}"
    if isinstance(error, RaisedByFunctionError) or "RaisedByFunctionError" in str(error):
        return ""
    own = [frame for frame in frames if frame.filename == __file__]
    if own and last is own[-1] and last is not own[0] and last.name not in BY_US:  # in a function of the pool
        return ""
    if isinstance(error, tf.errors.InternalError):
        return said + where
    if isinstance(error, tf.errors.OpError):
        return "" if len(str(error)) > 20 else said + where
    if NO_CAPTURE in str(error):  # of eager tensors in a graph of TensorFlow 1
        return ""
    if isinstance(error, AssertionError) and "check_grads" in "".join(f.name for f in frames):
        return ""  # what it raises where gradients are wrong
    if not isinstance(error, (TypeError, ValueError, ImportError, OSError, NotImplementedError)):
        return said + where
    if last.filename.startswith(PACKAGE) and "raise" not in _statement(last):
        return said + where + f" ({last.line})"
    return "" if len(str(error)) > 15 else said + where


NO_CAPTURE = "Attempting to capture an EagerTensor without building a function"
BY_US = {"call", "run", "option", "function", "tensor", "tensors", "options", "_told"}


def _statement(frame: traceback.FrameSummary) -> str:
    """The lines that a frame is at: of a statement over several, the first is told."""
    return linecache.getline(frame.filename, frame.lineno or 0)


def of_batch(first: int, count: int) -> collections.Counter[str]:
    tf.debugging.disable_traceback_filtering()
    pools = Pools()
    outcomes: collections.Counter[str] = collections.Counter()

    def late(*_: Any) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    for seed in range(first, first + count):
        print(json.dumps(seed), file=sys.stderr, flush=True)
        trial = Trial(seed, pools)
        signal.alarm(SECONDS)
        try:
            trial.call()
            outcomes["returned"] += 1
        except Exception as error:
            wrong = finding(error)
            outcomes["wrong" if wrong else "refused"] += 1
            if wrong:
                print(f"seed {seed}: {wrong}\n    {', '.join(trial.text)}", flush=True)
        finally:
            signal.alarm(0)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        warnings.simplefilter("ignore")
        print(json.dumps(of_batch(arguments.first, arguments.count)))
        return 0
    end, outcomes = time.time() + arguments.seconds, collections.Counter[str]()
    first, last = arguments.first, arguments.first + arguments.count
    while first < last and time.time() < end:
        count = min(BATCH, last - first)
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.arguments", "--here"]
        command += [f"--first={first}", f"--count={count}"]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        *lines, report = done.stdout.splitlines() or [""]
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
        if done.returncode == 0:
            outcomes.update(json.loads(report))
            first += count
            continue
        tried = [int(line) for line in done.stderr.splitlines() if line.isdigit()]
        if not tried:
            raise SystemExit(done.stderr)
        print(f"the process died at seed {tried[-1]}: {report} {done.stderr[-2000:]}", flush=True)
        outcomes["died"] += 1
        first = tried[-1] + 1
    print(f"{sum(outcomes.values())} calls: {dict(sorted(outcomes.items()))}")
    return 1 if outcomes["wrong"] or outcomes["died"] else 0


if __name__ == "__main__":
    sys.exit(main())
