"""Seeds for the fuzz target of the engine: python -m tests.fuzz.corpus FOLDER.

The functions of all test cases, random programs with structure, and functions of TensorFlow 1, each as engine.cc reads
it: four bytes that say what is asked, then a FunctionDefLibrary whose first function is the one in question.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2

from tests import structure
from tests.cases import FAMILIES, cases
from tests.frames import function_of_frames, loop, v1
from tests.fuzz.differential import inputs
from tests.fuzz.programs import random_program
from tests.harness import Point, checked_dtypes

PROGRAMS = 100
MOST_BYTES = 1 << 15  # mutants of large functions are slow, and no more telling


def of_cases() -> Iterator[Any]:
    for family in FAMILIES:
        for case in cases(family):
            letter = (case.dtypes or checked_dtypes(case) or "f")[0]
            point = Point(case, letter)
            yield structure.concrete(point.f, point.x, static=len(str(case)) % 3 > 0, compiled=case.compiled)


def of_programs() -> Iterator[Any]:
    for seed in range(PROGRAMS):
        yield structure.concrete(random_program(random.Random(seed), tables=seed % 2 == 0), inputs(seed)[:2])


def of_variables() -> Iterator[Any]:
    v, table = tf.Variable([1.0, 2.0]), tf.Variable(tf.ones([3, 2]))

    def trained(x: Any) -> Any:
        v.assign_add(x)
        with tf.control_dependencies([tf.debugging.assert_less(x, 9.0)]):
            return tf.reduce_sum(v * x * tf.gather(table, [0, 2]))

    yield tf.function(trained).get_concrete_function(tf.TensorSpec([2]))
    yield tf.function(lambda x: tf.random.normal([2]) * x * v).get_concrete_function(tf.TensorSpec([2]))


def of_frames() -> Iterator[Any]:
    pair = tf.TensorSpec([2])
    yield function_of_frames(lambda x: loop(3, lambda i, v: (v * x,), x), pair)
    yield function_of_frames(lambda x: v1.cond(x[0] > 0.0, lambda: loop(3, lambda i, v: (v * x,), x), lambda: -x), pair)
    yield function_of_frames(
        lambda x: loop(2, lambda i, v: (v1.cond(i < 1, lambda: loop(2, lambda j, w: (w * x,), v), lambda: v),), x), pair
    )


def library(f: Any) -> bytes:
    """A function, then what it calls, without what the engine does not read."""
    functions = function_pb2.FunctionDefLibrary(function=[f.function_def])
    functions.MergeFrom(f.graph.as_graph_def().library)
    for function in functions.function:
        for node in function.node_def:
            node.ClearField("experimental_debug_info")
    return bytes(functions.SerializeToString(deterministic=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    written = 0
    for source in (of_programs, of_variables, of_frames, of_cases):
        for number, f in enumerate(source()):
            seed = library(f)
            if len(seed) > MOST_BYTES:
                continue
            header = bytes([number % 4 if number % 3 else 0, number * 5 % 64, number % 7 and 255, 0])
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(header + seed)
            written += 1
    print(f"{written} seeds in {folder}")


if __name__ == "__main__":
    main()
