"""How a gradient is made: tf_symgrad and its peers, all behind one interface.

A method traces the forward function, then builds the gradient function. Only the latter is timed: from the moment that
the forward function's last node exists to the moment that the gradient function is ready to be called. Its outputs are
the same for all methods: dense gradients.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import counting, operations
from benchmarks.workloads import Problem


@dataclasses.dataclass
class Built:
    """A gradient function, and what is known of it before its first call.

    Attributes:
      call: runs it; returns when the gradients are there.
      seconds: CPU time it took to build. That needs one thread, so other work on the machine changes little.
      nodes: of the function and all that it calls; None where it can't be known.
      native_seconds: how much of `seconds` the engine took.
      native_nodes: of the functions that the engine made.
      optimized_ops: counts its nodes, by op, as the runtime optimises it; may run it again.
      accelerator_memory: the peak of it in bytes; None without an accelerator.
      to_numpy: of a gradient.
      function: the ConcreteFunction, where there is one.
    """

    call: Callable[[], Any]
    seconds: float
    nodes: int | None = None
    native_seconds: float | None = None
    native_nodes: int | None = None
    optimized_ops: Callable[[], Counter[str]] | None = None
    accelerator_memory: Callable[[], int | None] = lambda: None
    to_numpy: Callable[[Any], Any] = np.asarray
    function: Any = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to differentiate.

    Attributes:
      operations: makes the array operations that it wants losses to be written with.
      build: differentiates a problem.
      module: what must be installed.
      quick: whether the quick set has it.
    """

    name: str
    operations: Callable[[], Any]
    build: Callable[[Problem], Built]
    module: str = "tensorflow"
    quick: bool = True


# ---- TensorFlow ----


def _native_derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import tf_symgrad

    return tf_symgrad.grad(f)


def _taped_derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import tensorflow as tf

    def gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    return gradient


def _symbolic_derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import tensorflow as tf

    def gradient(x: Any) -> Any:
        x = tf.identity(x)
        return tf.gradients(f(x), x)[0]

    return gradient


@dataclasses.dataclass(frozen=True)
class _Forward:
    """A problem as TensorFlow has it: its parameters are variables."""

    loss: Callable[..., Any]
    args: tuple[Any, ...]
    variables: tuple[Any, ...]


def _forward(problem: Problem) -> _Forward:
    import tensorflow as tf

    made = tuple(tf.Variable(value) for value in problem.parameters)
    return _Forward(lambda *args: problem.loss(*args, *made), problem.args, (*made, *problem.variables))


def forward(problem: Problem) -> Built:
    """The loss alone."""
    made = _forward(problem)
    start = time.process_time()
    return _built(_trace(lambda *args: [made.loss(*args)], made), made, time.process_time() - start)


def _tf_symgrad(problem: Problem, compiled: bool = False, optimize: str = "grappler") -> Built:
    import tf_symgrad

    forward = _forward(problem)
    function = _trace(forward.loss, forward)
    variables = [v for v in forward.variables if any(x is v.handle for x in function.captured_inputs)] or None
    wrt = [variables is None] * len(forward.args)

    def gradient(*args: Any) -> Any:
        return tf_symgrad.symbolic_gradient(args, f=function, variables=variables, wrt=wrt, optimize=optimize)

    return _by_the_engine(gradient, forward, compiled)


def _function_gradient(problem: Problem) -> Built:
    """A function to be called in eager mode: no other is traced."""
    import tensorflow as tf

    import tf_symgrad
    from tf_symgrad import _loader

    forward = _forward(problem)
    function = _trace(forward.loss, forward)
    handles = {id(v.handle) for v in forward.variables}
    wrt = [not forward.variables] * len(forward.args) + [id(x) in handles for x in function.captured_inputs]
    native: Any = _loader.native()
    engine = counting.Recorder(native.build_gradient)
    native.build_gradient = engine
    try:
        start = time.process_time()
        gradient = tf_symgrad.function_gradient(function, wrt)
        seconds = time.process_time() - start
    finally:
        native.build_gradient = engine.wrapped
    seed = tf.ones([], function.outputs[0].dtype)
    args = [*map(tf.constant, forward.args), seed]
    nodes = sum(counting.nodes_of_library(library) for _, library in engine.results)
    return Built(
        call=lambda: gradient(*args),
        seconds=seconds,
        nodes=nodes,
        native_seconds=engine.seconds,
        native_nodes=nodes,
        optimized_ops=lambda: counting.optimized_ops(lambda: gradient(*args)),
    )


def _value_and_grad(problem: Problem, compiled: bool = False) -> Built:
    """The value, too: the loss is computed, and returned."""
    import tf_symgrad

    forward = _forward(problem)
    function = _trace(forward.loss, forward)
    wrt = forward.variables or tuple(range(len(forward.args)))

    def gradient(*args: Any) -> Any:
        value, gradients = tf_symgrad.value_and_grad(function, wrt=wrt)(*args)
        return [*gradients, value]

    return _by_the_engine(gradient, forward, compiled, results=len(wrt))


def _by_the_engine(
    gradient: Callable[..., Any], forward: _Forward, compiled: bool, results: int | None = None
) -> Built:
    """Traces what holds the op, and takes down what the engine does meanwhile."""
    from tf_symgrad import _loader, _op

    native: Any = _loader.native()
    engine = counting.Recorder(native.build_gradient)
    native.build_gradient = engine
    try:
        start = time.process_time()
        function = _trace(gradient, forward, compiled)
        seconds = time.process_time() - start
    finally:
        native.build_gradient = engine.wrapped
    built = _built(function, forward, seconds, results, compiled)
    built.native_seconds = engine.seconds
    built.native_nodes = sum(counting.nodes_of_library(library) for _, library in engine.results)
    # What runs is the gradient function in place of the op and of the function that it differentiates.
    built.nodes = built.native_nodes + counting.nodes_of_graph(function.graph.as_graph_def(), without=_op.OP)
    return built


def _gradient_tape(problem: Problem, compiled: bool = False) -> Built:
    import tensorflow as tf

    forward = _forward(problem)

    def gradients(args: Sequence[Any], mark: Callable[[], None]) -> Any:
        with tf.GradientTape() as tape:
            if not forward.variables:
                tape.watch(args)
            loss = forward.loss(*args)
        mark()
        return tape.gradient(loss, forward.variables or args)

    return _build_in_one_trace(gradients, forward, compiled)


def _enabled(problem: Problem) -> Built:
    import tf_symgrad

    with tf_symgrad.native():
        return _gradient_tape(problem)


def _tf_gradients(problem: Problem) -> Built:
    import tensorflow as tf

    forward = _forward(problem)

    def gradients(args: Sequence[Any], mark: Callable[[], None]) -> Any:
        loss = forward.loss(*args)
        mark()
        return tf.gradients(loss, list(forward.variables or args))

    return _build_in_one_trace(gradients, forward)


def _stock(problem: Problem) -> Built:
    """Its parameters are arguments: it knows nothing of variables."""
    import tensorflow as tf
    from tensorflow.core.framework import attr_value_pb2

    forward = _Forward(problem.loss, (*problem.args, *problem.parameters), ())
    function = _trace(forward.loss, forward)
    first = len(problem.args) if problem.parameters else 0

    def gradient(*args: Any) -> Any:
        function.add_to_graph(tf.compat.v1.get_default_graph())
        f = attr_value_pb2.NameAttrList(name=function.function_def.signature.name)
        seed = tf.ones([], function.outputs[0].dtype)
        return tf.raw_ops.SymbolicGradient(input=[*args, seed], Tout=[x.dtype for x in args], f=f)[first:]

    start = time.process_time()
    traced = _trace(gradient, forward)
    built = _built(traced, forward, time.process_time() - start)
    # It makes its nodes when it runs, out of sight.
    built.nodes = built.optimized_ops = None
    return built


def _build_in_one_trace(gradients: Callable[..., Any], forward: _Forward, compiled: bool = False) -> Built:
    """For methods that need the forward function's nodes in the same graph: `mark` is called when these exist."""
    import tensorflow as tf

    start = 0.0

    def mark() -> None:
        nonlocal start
        start = time.process_time()

    def function(*args: Any) -> Any:
        return [tf.convert_to_tensor(x) for x in gradients(args, mark)]

    traced = _trace(function, forward, compiled)
    return _built(traced, forward, time.process_time() - start, compiled=compiled)


def _built(
    function: Any, forward: _Forward, seconds: float, results: int | None = None, compiled: bool = False
) -> Built:
    import tensorflow as tf

    args = [tf.constant(x) for x in forward.args]
    accelerated = bool(tf.config.list_physical_devices("GPU"))

    def call() -> Any:
        gradients = function(*args)
        if accelerated:
            tf.test.experimental.sync_devices()
        return gradients[:results]

    return Built(
        call=call,
        seconds=seconds,
        function=function,
        nodes=counting.nodes_of_graph(function.graph.as_graph_def()),
        optimized_ops=None if compiled else lambda: counting.optimized_ops(call),
        accelerator_memory=lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"] if accelerated else None,
    )


def _trace(f: Callable[..., Any], forward: _Forward, compiled: bool = False) -> Any:
    import tensorflow as tf

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in forward.args]
    return tf.function(f, autograph=False, jit_compile=compiled or None).get_concrete_function(*specs)


# ---- JAX, which XLA compiles ----


def _jax(problem: Problem) -> Built:
    import jax

    args = [jax.numpy.asarray(x) for x in (*problem.args, *problem.parameters)]
    first = len(problem.args) if problem.parameters else 0
    gradient = jax.grad(problem.loss, argnums=tuple(range(first, len(args))))
    # JAX traces the forward function and its gradient at once: both are timed, and the optimisation is its first call.
    start = time.process_time()
    traced = jax.jit(gradient).trace(*args)
    lowered = traced.lower()
    seconds = time.process_time() - start
    compiled: list[Any] = []

    def call() -> Any:
        if not compiled:
            compiled.append(lowered.compile())
        return jax.block_until_ready(compiled[0](*args))

    return Built(
        call=call,
        seconds=seconds,
        nodes=sum(counting.nodes_of_jaxpr(traced.jaxpr)),
        optimized_ops=lambda: Counter(re.findall(r" = \S+ ([\w-]+)\(", compiled[0].as_text())),
        accelerator_memory=lambda: (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    )


# ---- PyTorch ----


def _torch(problem: Problem, compiled: bool = False) -> Built:
    """It has no graph to build: each step differentiates anew, unless compiled."""
    import torch

    device = operations.device()
    args = [torch.as_tensor(x, device=device) for x in (*problem.args, *problem.parameters)]
    args = [x.long() if x.dtype == torch.int32 else x for x in args]
    first = len(problem.args) if problem.parameters else 0
    gradient: Any = torch.func.grad(problem.loss, argnums=tuple(range(first, len(args))))
    start = time.process_time()
    if compiled:
        gradient = torch.compile(gradient)
    seconds = time.process_time() - start

    def call() -> Any:
        gradients = gradient(*args)
        if device == "cuda":
            torch.cuda.synchronize()
        return gradients

    return Built(
        call=call,
        seconds=seconds,
        accelerator_memory=lambda: torch.cuda.max_memory_allocated() if device == "cuda" else None,
        to_numpy=lambda x: x.detach().cpu().numpy(),
    )


_OURS = functools.partial(operations.tensorflow, _native_derivative)
_TAPED = functools.partial(operations.tensorflow, _taped_derivative)
_SYMBOLIC = functools.partial(operations.tensorflow, _symbolic_derivative)

METHODS = {
    method.name: method
    for method in (
        Method("tf_symgrad", _OURS, _tf_symgrad),
        Method("native", _OURS, functools.partial(_tf_symgrad, optimize="native")),
        Method("function_gradient", _OURS, _function_gradient),
        Method("value_and_grad", _OURS, _value_and_grad),
        Method("enable", _TAPED, _enabled),
        Method("GradientTape", _TAPED, _gradient_tape),
        Method("tf.gradients", _SYMBOLIC, _tf_gradients),
        Method("stock", _TAPED, _stock),
        Method("tf_symgrad+XLA", _OURS, functools.partial(_tf_symgrad, compiled=True), quick=False),
        Method("GradientTape+XLA", _TAPED, functools.partial(_gradient_tape, compiled=True), quick=False),
        Method("jax", operations.jax, _jax, module="jax"),
        Method("torch", operations.torch, _torch, module="torch"),
        Method(
            "torch+compile", operations.torch, functools.partial(_torch, compiled=True), module="torch", quick=False
        ),
    )
}
