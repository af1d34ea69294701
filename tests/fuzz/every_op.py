"""Each op that TensorFlow has, as a function of that one node: python -m tests.fuzz.every_op.

Attrs, constants, and what is known of arguments are random within what the op's definition allows, which is far more
than its shape function expects: some of TensorFlow's read dimensions or values that are not there, and end the process.
The engine must refuse or differentiate. Prints what takes long, and the seeds at which a process died.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import (
    attr_value_pb2,
    function_pb2,
    node_def_pb2,
    op_def_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorflow.python.framework import op_def_registry

from tests.fuzz import batches
from tf_symgrad._loader import native

BATCH = 4000
ORDER = 2
POLICIES = ("", "", "everything", "auto", "cheap", "0")
SLOW = 5.0  # seconds
MOST_TENSORS = 40
NUMBERS = (-2, -1, 0, 0, 1, 1, 2, 3, 4, 7, 2**31 - 1)
SHAPES: tuple[tuple[int, ...], ...] = ((), (), (0,), (1,), (2,), (3,), (4,), (5,), (1, 1), (2, 2), (3, 2))
WORDS = (b"", b"a", b"ab,bc->ac", b"NHWC", b"NCHW", b"VALID", b"same")
DTYPES: tuple[int, ...] = (
    *(types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE, types_pb2.DT_HALF, types_pb2.DT_COMPLEX64, types_pb2.DT_INT32),
    *(types_pb2.DT_INT64, types_pb2.DT_BOOL, types_pb2.DT_STRING, types_pb2.DT_VARIANT, types_pb2.DT_RESOURCE),
)
REAL = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
CONSTANTS = (types_pb2.DT_INT32, types_pb2.DT_INT64, types_pb2.DT_BOOL, types_pb2.DT_FLOAT)
HANDLES = (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT)


def ops() -> list[op_def_pb2.OpDef]:
    """Those that can be in a function."""
    defs = (op_def_registry.get(name) for name in sorted(dir(tf.raw_ops)))
    return [
        op
        for op in defs
        if op is not None and op.output_arg and not any(arg.is_ref for arg in op.input_arg)
        if not any("func" in attr.type for attr in op.attr)
    ]


class Node:
    """A random node of an op, in a function of its own."""

    def __init__(self, op: op_def_pb2.OpDef, rng: random.Random) -> None:
        self.op = op
        self.rng = rng
        self.f = function_pb2.FunctionDef()
        self.f.signature.name = "f"
        self.node = self.f.node_def.add(name="n", op=op.name)
        for attr in op.attr:
            self._set(attr, self.node.attr[attr.name])
        for number, dtype in enumerate(dtype for arg in op.input_arg for dtype in self._dtypes(arg)):
            self.node.input.append(self._input(number, dtype))
        for arg in op.output_arg:
            for i, dtype in enumerate(self._dtypes(arg)):
                name = f"y{len(self.f.ret)}"
                self.f.signature.output_arg.add(name=name, type=dtype)
                self.f.ret[name] = f"n:{arg.name}:{i}"

    def _shape(self, shape: tensor_shape_pb2.TensorShapeProto) -> None:
        shape.SetInParent()
        if self.rng.random() < 0.15:
            shape.unknown_rank = True
        else:
            for _ in range(self.rng.choice((0, 0, 1, 1, 2, 2, 3, 4, 5, 6))):
                shape.dim.add(size=self.rng.choice((-1, -1, 0, 1, 2, 3, 4, 7)))

    def _counts(self, attr: op_def_pb2.OpDef.AttrDef) -> bool:
        return any(arg.number_attr == attr.name for arg in (*self.op.input_arg, *self.op.output_arg))

    def _dtype(self, attr: op_def_pb2.OpDef.AttrDef) -> int:
        allowed = tuple(attr.allowed_values.list.type) or DTYPES
        real = tuple(dtype for dtype in allowed if dtype in REAL)
        dtype: int = self.rng.choice(real if real and self.rng.random() < 0.7 else allowed)
        return dtype

    def _set(self, attr: op_def_pb2.OpDef.AttrDef, value: attr_value_pb2.AttrValue) -> None:
        rng = self.rng
        if attr.HasField("default_value") and rng.random() < 0.6:
            value.CopyFrom(attr.default_value)
            return
        least = attr.minimum if attr.has_minimum else 0
        length = least + rng.randrange(3)
        if attr.type.startswith("list("):
            value.list.SetInParent()
        match attr.type:
            case "type":
                value.type = self._dtype(attr)
            case "int" if self._counts(attr):
                value.i = length
            case "int":
                value.i = max(rng.choice(NUMBERS), least if attr.has_minimum else -(2**63))
            case "float":
                value.f = rng.choice((0, 1, -1, 0.5, 1e30))
            case "bool":
                value.b = rng.random() < 0.5
            case "string":
                value.s = rng.choice(tuple(attr.allowed_values.list.s) or WORDS)
            case "shape":
                self._shape(value.shape)
            case "tensor":
                value.tensor.CopyFrom(tf.make_tensor_proto(1.0))
            case "list(type)":
                value.list.type.extend(self._dtype(attr) for _ in range(length))
            case "list(int)":
                value.list.i.extend(
                    rng.choice((-2, -1, 0, 1, 1, 2, 3)) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 6)))
                )
            case "list(float)":
                value.list.f.extend(rng.choice((0, 0.5, 1)) for _ in range(length))
            case "list(bool)":
                value.list.b.extend(rng.random() < 0.5 for _ in range(length))
            case "list(string)":
                value.list.s.extend(rng.choice(WORDS) for _ in range(length))
            case "list(shape)":
                for _ in range(length):
                    self._shape(value.list.shape.add())

    def _dtypes(self, arg: op_def_pb2.OpDef.ArgDef) -> list[int]:
        if arg.type_list_attr:
            return list(self.node.attr[arg.type_list_attr].list.type)
        dtype = self.node.attr[arg.type_attr].type if arg.type_attr else arg.type
        return [dtype] * (min(self.node.attr[arg.number_attr].i, MOST_TENSORS) if arg.number_attr else 1)

    def _input(self, number: int, dtype: int) -> str:
        """An argument or a constant."""
        if dtype in CONSTANTS and self.rng.random() < (0.15 if dtype == types_pb2.DT_FLOAT else 0.5):
            constant: node_def_pb2.NodeDef = self.f.node_def.add(name=f"c{number}", op="Const")
            constant.attr["dtype"].type = dtype
            shape = self.rng.choice(SHAPES)
            values = np.array([self.rng.choice(NUMBERS) for _ in range(int(np.prod(shape)))]).reshape(shape)
            constant.attr["value"].tensor.CopyFrom(
                tf.make_tensor_proto(values.astype(tf.as_dtype(dtype).as_numpy_dtype))
            )
            return f"c{number}:output:0"
        attrs = self.f.arg_attr[len(self.f.signature.input_arg)].attr
        self.f.signature.input_arg.add(name=f"x{number}", type=dtype)
        self._shape(attrs["_output_shapes"].list.shape.add())
        if dtype in HANDLES and self.rng.random() < 0.7:
            attrs["_handle_dtypes"].list.type.append(self.rng.choice(REAL))
            self._shape(attrs["_handle_shapes"].list.shape.add())
        return f"x{number}"


def functions(seeds: range) -> Iterator[tuple[int, function_pb2.FunctionDef]]:
    every = ops()
    for seed in seeds:
        yield seed, Node(every[seed % len(every)], random.Random(seed)).f


def differentiate(fdef: function_pb2.FunctionDef, rng: random.Random) -> None:
    """Twice, or in halves, by some of its arguments."""
    engine = native()
    library = function_pb2.FunctionDefLibrary(function=[fdef]).SerializeToString()
    f = attr_value_pb2.NameAttrList(name=fdef.signature.name).SerializeToString()
    x = fdef.signature.input_arg
    wrt = [arg.type not in HANDLES and rng.random() < 0.8 for arg in x] if rng.random() < 0.7 else None
    policy = rng.choice(POLICIES)
    match rng.choice(("gradient", "gradient", "vjp", "inputs")):
        case "gradient":
            for _ in range(ORDER):
                name, made = engine.build_gradient(library, f, wrt, rng.random() < 0.5, False, policy)
                library += made  # protos in a row are one
                f, wrt = attr_value_pb2.NameAttrList(name=name).SerializeToString(), None
        case "vjp":
            engine.build_vjp(library, f, wrt or [True] * len(x), policy)
        case "inputs":
            engine.input_gradients(library, f)


def of_batch(seeds: range, end: float, arguments: argparse.Namespace) -> batches.Outcomes:
    outcomes = batches.Outcomes()
    for seed, fdef in functions(seeds):
        start = time.time()
        if start > end:
            break
        op = next(node.op for node in fdef.node_def if node.name == "n")
        print(f"seed {seed}, {op}", file=sys.stderr)  # of which the last is shown, if it dies there
        try:
            differentiate(fdef, random.Random(-seed))
            outcomes["gradients"] += 1
        except native().StatusError:
            outcomes["errors"] += 1
        if time.time() - start > SLOW:
            outcomes["slow"] += 1
            print(f"seed {seed}, {op}: {time.time() - start:.0f} s", flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    outcomes, died = batches.run("tests.fuzz.every_op", parser, of_batch, BATCH)
    print(f"{outcomes['gradients']} gradients and {outcomes['errors']} errors of single ops; {died} processes died")
    return 1 if died or outcomes["slow"] else 0


if __name__ == "__main__":
    sys.exit(main())
