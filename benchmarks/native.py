"""The engine alone, on a chain of ops that Python never traced: how it scales."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

PREFIX = "native-"  # of this workload's name, which ends in the chain's length
_OPS = ("Tanh", "Sin", "Sigmoid", "Square")


def measure(length: int) -> Iterator[dict[str, Any]]:
    """Differentiates a chain of so many elementwise ops, given and returned as a proto."""
    from tensorflow.core.framework import attr_value_pb2

    from benchmarks import cell, counting
    from tf_symgrad import _loader

    engine = _loader.native()
    library = chain(length)
    before = cell.peak_memory()
    start = time.process_time()
    _, gradient = engine.build_gradient(library, attr_value_pb2.NameAttrList(name="chain").SerializeToString())
    seconds = time.process_time() - start
    memory = cell.peak_memory() - before
    nodes = counting.nodes_of_library(gradient)
    yield {"native_build": seconds, "native_nodes": nodes, "nodes": nodes, "memory": memory}


def chain(length: int) -> bytes:
    from tensorflow.core.framework import function_pb2, types_pb2

    library = function_pb2.FunctionDefLibrary()
    chain = library.function.add()
    chain.signature.name = "chain"
    chain.signature.input_arg.add(name="x", type=types_pb2.DT_FLOAT)
    chain.signature.output_arg.add(name="y", type=types_pb2.DT_FLOAT)
    chain.arg_attr[0].attr["_output_shapes"].list.shape.add().dim.add(size=16)
    last = "x"
    for i in range(length):
        node = chain.node_def.add(name=f"n{i}", op=_OPS[i % len(_OPS)], input=[last])
        node.attr["T"].type = types_pb2.DT_FLOAT
        last = f"n{i}:y:0"
    chain.ret["y"] = last
    return bytes(library.SerializeToString())
