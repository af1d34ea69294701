"""`python -m benchmarks.limit`: how near gradients come to what this machine can do at most.

The flops are those of products and convolutions, two for each multiplication; the limit is what a product of large
matrices reaches, by TensorFlow's own kernel.
"""

from __future__ import annotations

import argparse
import math
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
    if node.type in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        adjoint = node.get_attr("transpose_a" if node.type == "MatMul" else "adj_x")
        return 2 * math.prod(_shape(node, -1)) * _shape(node, 0)[-2 if adjoint else -1]
    if node.type == "Einsum" and len(node.inputs) == 2:
        sizes: dict[str, int] = {}
        for i, labels in enumerate(node.get_attr("equation").decode().partition("->")[0].split(",")):
            sizes |= zip(labels, _shape(node, i), strict=True)
        return 2 * math.prod(sizes.values())
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
    from tensorflow.core.framework import function_pb2

    from tf_symgrad import _loader, _op

    library = function.graph.as_graph_def().library
    graphs, total = [function.graph], 0
    while graphs:
        for node in graphs.pop().get_operations():
            total += flops(node)
            if node.type == _op.OP:
                f, wrt = node.get_attr("f"), list(node.get_attr("wrt"))
                callee, more = _loader.native().build_gradient(library.SerializeToString(), f.SerializeToString(), wrt)[
                    :2
                ]
                library.MergeFrom(function_pb2.FunctionDefLibrary.FromString(more))
            elif node.type in ("PartitionedCall", "StatefulPartitionedCall"):
                callee = node.get_attr("f").name
            else:
                continue
            [body] = [f for f in library.function if f.signature.name == callee]
            graphs.append(_graph(body, library, node.inputs))
    return total


def _graph(f: Any, library: Any, inputs: Sequence[Any]) -> Any:
    """A function as a graph, with the shapes of what it is called with: of variables, those of their values."""
    import tensorflow as tf
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def
    from tensorflow.python.ops import handle_data_util

    shapes = [x.shape for x in inputs]
    definition, _ = function_def_to_graph_def(f, shapes)
    for i, (node, x) in enumerate(zip(definition.node, inputs, strict=False)):
        if x.dtype != tf.resource:
            continue
        node.op = "_Arg"
        node.attr.clear()
        node.attr["T"].type = tf.resource.as_datatype_enum
        node.attr["index"].i = i
        for data in handle_data_util.get_resource_handle_data(x).shape_and_type:
            node.attr["_handle_shapes"].list.shape.add().CopyFrom(data.shape)
            node.attr["_handle_dtypes"].list.type.append(data.dtype)
    definition.library.CopyFrom(library)
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
    return graph


def seconds(call: Callable[[], Any]) -> float:
    """The shortest of some calls: what the machine can do, not what else it does."""
    call()
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def limit() -> float:
    """Flops a second of a product of large matrices."""
    import tensorflow as tf

    a = tf.random.normal([_GEMM, _GEMM])
    product = tf.function(lambda: tf.linalg.trace(a @ a))
    return 2 * _GEMM**3 / seconds(product)


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
