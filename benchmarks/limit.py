"""`python -m benchmarks.limit`: how near gradients come to what this machine can do at most.

The flops are those of products and convolutions, two for each multiplication; the limit is what a product of large
matrices reaches, by TensorFlow's own kernel.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.__main__ import missing, selected
from benchmarks.cell import seed
from benchmarks.methods import METHODS, Built, forward
from benchmarks.report import OURS
from benchmarks.workloads import Workload, workloads

_WORKLOADS = "transformer,resnet50-*,efficientnet,mlp"  # whose flops are not in loops
_GEMM = 2048  # rows and columns of the matrices
_ROUNDS = 10


def flops(node: Any) -> int:
    """Of an operation of a graph, whose shapes are known; 0 if it is no product."""
    shapes = [x.shape.as_list() for x in node.inputs]
    if node.type in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        adjoint = node.get_attr("transpose_a" if node.type == "MatMul" else "adj_x")
        return 2 * math.prod(node.outputs[0].shape.as_list()) * shapes[0][-2 if adjoint else -1]
    if node.type in _CONVOLUTIONS:
        image, kernel = _CONVOLUTIONS[node.type]
        pixels, kernel_shape = _shape(node, image), _shape(node, kernel)
        depthwise = node.type.startswith("Depthwise")
        # Each pixel of each output channel sums over the window and, but for depthwise ones, the input channels.
        return 2 * math.prod(pixels) * math.prod(kernel_shape[: 2 if depthwise else 3])
    return 0


# By op, where it has the tensor of the output's shape and the kernel: an input, or -1 for the result.
_CONVOLUTIONS = {
    "Conv2D": (-1, 1),
    "Conv2DBackpropInput": (2, 1),
    "Conv2DBackpropFilter": (2, -1),
    "DepthwiseConv2dNative": (-1, 1),
    "DepthwiseConv2dNativeBackpropInput": (2, 1),
    "DepthwiseConv2dNativeBackpropFilter": (2, -1),
}


def _shape(node: Any, tensor: int) -> list[int]:
    return list((node.outputs[0] if tensor < 0 else node.inputs[tensor]).shape.as_list())


def flops_of(function: Any) -> int:
    """Of a ConcreteFunction without loops, and of all that it calls."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    graphs = [function.graph]
    library = {f.signature.name: f for f in function.graph.as_graph_def().library.function}
    total = 0
    while graphs:
        graph = graphs.pop()
        for node in graph.get_operations():
            total += flops(node)
            if node.type in ("PartitionedCall", "StatefulPartitionedCall"):
                callee = library[node.get_attr("f").name]
                graphs.append(function_def_to_graph(callee, [x.shape for x in node.inputs]))
    return total


def seconds(call: Callable[[], Any]) -> float:
    """The median of some calls."""
    call()
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def limit() -> float:
    """Flops a second of a product of large matrices."""
    import tensorflow as tf

    a = tf.random.normal([_GEMM, _GEMM])
    product = tf.function(lambda: tf.linalg.trace(a @ a))
    return 2 * _GEMM**3 / min(seconds(product) for _ in range(2))


def row(workload: Workload, methods: Sequence[str], most: float) -> str:
    """Flops of the gradients over those of the loss, and of each method what it reaches of `most`."""
    made: dict[str, Built] = {}
    for name, build in [("loss", forward), *((m, METHODS[m].build) for m in methods)]:
        seed()
        made[name] = build(workload.make(METHODS[OURS].operations()))
    counts = {name: flops_of(built.function) for name, built in made.items()}
    reached = {name: counts[name] / seconds(built.call) / most for name, built in made.items()}
    numbers = [counts["loss"] / 1e9, *(counts[m] / counts["loss"] for m in methods), *reached.values()]
    return f"| {workload.name} | {' | '.join(f'{x:.2f}' for x in numbers)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=__doc__.partition(": ")[2])
    parser.add_argument(
        "--only", metavar="WORKLOADS", default=_WORKLOADS, help="names, separated by commas; * stands for anything"
    )
    parser.add_argument("--quick", action="store_true", help="small workloads: to see that it works")
    options = parser.parse_args(arguments)
    known = {workload.name: workload for workload in workloads(options.quick)}
    only = "mlp,transformer" if options.quick and options.only == _WORKLOADS else options.only
    methods = [OURS, "GradientTape"]
    most = limit()
    print(f"A product of two matrices of {_GEMM} x {_GEMM}: {most / 1e9:.0f} GFlop/s\n", file=sys.stderr)
    heads = [f"{m}, flops" for m in methods] + ["loss, of the limit"] + [f"{m}, of the limit" for m in methods]
    print(f"| | loss, GFlop | {' | '.join(heads)} |\n|---|{'---:|' * (1 + len(heads))}")
    for name in selected(known, only, "workload"):
        if not missing(known[name]):
            print(row(known[name], methods, most), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
