"""Which values of their attrs the cases give the ops: a rule may be right at one and wrong at another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tensorflow.core.framework import attr_value_pb2, op_def_pb2
from tensorflow.python.framework import op_def_registry

from tests import structure
from tests.spec import Case, Point, possible_dtypes


def values_in_cases(cases: Iterable[Case]) -> dict[tuple[str, str], set[str]]:
    """By op and attr, the values that cases which look at numbers give it."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in cases:
        for attr, value in _attrs(case):
            found[case.op, attr.name].add(text(value))
    return found


def choices(op: op_def_pb2.OpDef) -> dict[str, set[str] | None]:
    """The attrs of an op that may change what it computes, and all values that they have; None: too many to tell."""
    inferred = {name for arg in [*op.input_arg, *op.output_arg] for name in _dtypes_and_lengths(arg)}
    result: dict[str, set[str] | None] = {}
    for attr in op.attr:
        if attr.name in inferred or attr.type in ("type", "list(type)", "shape", "list(shape)", "tensor", "func"):
            continue
        if attr.type == "bool":
            result[attr.name] = {"True", "False"}
        elif attr.HasField("allowed_values"):
            result[attr.name] = {s.decode() for s in attr.allowed_values.list.s} - {"NCHW_VECT_C"}  # of int8
        else:
            result[attr.name] = None
    return result


def text(value: attr_value_pb2.AttrValue) -> str:
    """A value as the gate names it."""
    kind = value.WhichOneof("value")
    if kind == "s":
        return value.s.decode(errors="replace")
    if kind == "list":
        return str([*value.list.i, *value.list.f, *value.list.s, *value.list.b])
    return str(getattr(value, kind)) if kind else ""


def _attrs(case: Case) -> Iterator[tuple[op_def_pb2.OpDef.AttrDef, attr_value_pb2.AttrValue]]:
    """The attrs that a case's op has in the graph of the case."""
    op = op_def_registry.get(case.op)
    letters = case.dtypes or possible_dtypes(case) or "f"
    point = Point(case, next(letter for letter in "dzfcbh" if letter in letters))
    for node in structure.nodes(structure.library(structure.concrete(point.f, point.x))):
        if node.op == case.op:
            for attr in op.attr:
                if attr.name in node.attr:
                    yield attr, node.attr[attr.name]


def _dtypes_and_lengths(arg: op_def_pb2.OpDef.ArgDef) -> list[str]:
    return [name for name in (arg.type_attr, arg.number_attr, arg.type_list_attr) if name]
