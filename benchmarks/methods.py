"""How a gradient is made: tf_symgrad and its peers, all behind one interface.

A method traces the forward function, then builds the gradient function. Only the latter is timed: from the moment that
the forward function's last node exists to the moment that the gradient function is ready to be called. Its outputs are
the same for all methods: dense gradients.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from benchmarks import counting
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
      optimized_nodes: counts its nodes as the runtime optimises it; may run it again.
    """

    call: Callable[[], Any]
    seconds: float
    nodes: int | None = None
    native_seconds: float | None = None
    native_nodes: int | None = None
    optimized_nodes: Callable[[], int] | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to differentiate.

    Attributes:
      operations: makes the array operations that it wants losses to be written with.
      build: differentiates a problem.
      module: what must be installed.
    """

    name: str
    operations: Callable[[], Any]
    build: Callable[[Problem], Built]
    module: str = "tensorflow"

    def available(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


# ---- TensorFlow ----


def _tensorflow() -> Any:
    import tensorflow as tf

    return SimpleNamespace(
        tanh=tf.tanh,
        sin=tf.sin,
        sigmoid=tf.sigmoid,
        square=tf.square,
        relu=tf.nn.relu,
        matmul=tf.matmul,
        sum=tf.reduce_sum,
    )


def _tf_symgrad(problem: Problem) -> Built:
    import tf_symgrad
    from tf_symgrad import _loader, _op

    forward = _trace(problem.loss, problem)
    captured = [id(x) for x in forward.captured_inputs]
    wanted = [len(problem.args) + captured.index(id(v.handle)) for v in problem.variables]

    def gradient(*args: Any) -> Any:
        gradients = tf_symgrad.symbolic_gradient(args, f=forward, capture_gradients=True)
        return [gradients[i] for i in wanted] if wanted else gradients

    native: Any = _loader.native()
    engine = counting.Recorder(native.build_gradient)
    native.build_gradient = engine
    try:
        start = time.process_time()
        function = _trace(gradient, problem)
        seconds = time.process_time() - start
    finally:
        native.build_gradient = engine.wrapped
    built = _built(function, problem, seconds)
    built.native_seconds = engine.seconds
    built.native_nodes = sum(counting.nodes_of_library(library) for _, library in engine.results)
    # What runs is the gradient function in place of the op and of the function that it differentiates.
    built.nodes = built.native_nodes + counting.nodes_of_graph(function.graph.as_graph_def(), without=_op.OP)
    return built


def _gradient_tape(problem: Problem) -> Built:
    import tensorflow as tf

    def gradients(args: Sequence[Any], mark: Callable[[], None]) -> Any:
        with tf.GradientTape() as tape:
            if not problem.variables:
                tape.watch(args)
            loss = problem.loss(*args)
        mark()
        return tape.gradient(loss, problem.variables or args)

    return _build_in_one_trace(gradients, problem)


def _tf_gradients(problem: Problem) -> Built:
    import tensorflow as tf

    def gradients(args: Sequence[Any], mark: Callable[[], None]) -> Any:
        loss = problem.loss(*args)
        mark()
        return tf.gradients(loss, list(problem.variables or args))

    return _build_in_one_trace(gradients, problem)


def _stock(problem: Problem) -> Built:
    import tensorflow as tf
    from tensorflow.core.framework import attr_value_pb2

    forward = _trace(problem.loss, problem)

    def gradient(*args: Any) -> Any:
        forward.add_to_graph(tf.compat.v1.get_default_graph())
        f = attr_value_pb2.NameAttrList(name=forward.function_def.signature.name)
        seed = tf.ones([], forward.outputs[0].dtype)
        return tf.raw_ops.SymbolicGradient(input=[*args, seed], Tout=[x.dtype for x in args], f=f)

    start = time.process_time()
    function = _trace(gradient, problem)
    built = _built(function, problem, time.process_time() - start)
    # It makes its nodes when it runs, out of sight.
    built.nodes = built.optimized_nodes = None
    return built


def _build_in_one_trace(gradients: Callable[..., Any], problem: Problem) -> Built:
    """For methods that need the forward function's nodes in the same graph: `mark` is called when these exist."""
    import tensorflow as tf

    start = 0.0

    def mark() -> None:
        nonlocal start
        start = time.process_time()

    def function(*args: Any) -> Any:
        return [tf.convert_to_tensor(x) for x in gradients(args, mark)]

    traced = _trace(function, problem)
    return _built(traced, problem, time.process_time() - start)


def _built(function: Any, problem: Problem, seconds: float) -> Built:
    import tensorflow as tf

    args = [tf.constant(x) for x in problem.args]
    return Built(
        call=lambda: function(*args),
        seconds=seconds,
        nodes=counting.nodes_of_graph(function.graph.as_graph_def()),
        optimized_nodes=lambda: counting.optimized_nodes(lambda: function(*args)),
    )


def _trace(f: Callable[..., Any], problem: Problem) -> Any:
    import tensorflow as tf

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in problem.args]
    return tf.function(f, autograph=False).get_concrete_function(*specs)


# ---- JAX ----


def _jax() -> Any:
    import jax
    import jax.numpy as jnp

    return SimpleNamespace(
        tanh=jnp.tanh,
        sin=jnp.sin,
        sigmoid=jax.nn.sigmoid,
        square=jnp.square,
        relu=jax.nn.relu,
        matmul=jnp.matmul,
        sum=jnp.sum,
    )


def _jax_grad(problem: Problem) -> Built:
    import jax

    args = [jax.numpy.asarray(x) for x in problem.args]
    gradient = jax.grad(problem.loss, argnums=tuple(range(len(args))))
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
        optimized_nodes=lambda: compiled[0].as_text().count(" = "),
    )


METHODS = {
    method.name: method
    for method in (
        Method("tf_symgrad", _tensorflow, _tf_symgrad),
        Method("GradientTape", _tensorflow, _gradient_tape),
        Method("tf.gradients", _tensorflow, _tf_gradients),
        Method("stock", _tensorflow, _stock),
        Method("jax", _jax, _jax_grad, module="jax"),
    )
}
