"""Damaged SavedModels for the command line: python -m tests.fuzz.saved_models [--first SEED] [--count N].

Each is loaded, inspected, explained and given a gradient by `tf-symgrad`, which ends with a status and, if that is
not 0, with a message. What else it does is printed. A process that dies is TensorFlow's if `tf.saved_model.load` alone
dies, too; those are counted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.fuzz.protos import mutate
from tf_symgrad import _cli

COMMANDS = ("inspect", "explain", "add-gradient")


class Model(tf.Module):
    """Variables, a table, a call, a branch and a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="w")
        keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([0, 1], tf.int64))
        self.table = tf.lookup.StaticHashTable(keys, 0)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], name="x"), tf.TensorSpec([None], tf.string, name="words")])
    def run(self, x: Any, words: Any) -> Any:
        y = tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, tf.tanh(y @ self.w)), (0, x))[1]
        y = tf.cond(tf.reduce_sum(y) > 0.0, lambda: y * 2.0, lambda: y)
        return {"loss": tf.reduce_sum(y * tf.gather(self.w, self.table.lookup(words)))}


def of_bytes(path: Path, chance: random.Random) -> None:
    """Cuts a file short, changes bytes of it, empties or removes it."""
    file = chance.choice([p for p in sorted(path.rglob("*")) if p.is_file()])
    data = bytearray(file.read_bytes())
    match chance.randrange(4):
        case 0:
            file.write_bytes(data[: chance.randrange(len(data) + 1)])
        case 1:
            for _ in range(chance.choice([1, 3, 30])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            file.write_bytes(data)
        case 2:
            file.write_bytes(b"")
        case _:
            file.unlink()


def of_structure(path: Path, chance: random.Random) -> None:
    """Changes what the objects of a model refer to, its functions, or anything."""
    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    meta = model.meta_graphs[0]
    nodes = meta.object_graph_def.nodes
    node = chance.choice(nodes)
    number = chance.choice([0, 1, len(nodes) - 1, len(nodes), -1, 2**31 - 1])
    match chance.randrange(8):
        case 0 if node.children:  # cycles, or nowhere
            chance.choice(node.children).node_id = number
        case 1:
            node.children.add(node_id=number, local_name=chance.choice(["w", "signatures", "x", "_table", ""]))
        case 2:
            functions = meta.object_graph_def.concrete_functions
            f = functions[chance.choice(sorted(functions))]
            f.bound_inputs[:] = [number] * chance.randrange(4)
        case 3:
            functions = meta.object_graph_def.concrete_functions
            mutate(functions[chance.choice(sorted(functions))], chance)
        case 4 if meta.graph_def.library.function:
            f = chance.choice(meta.graph_def.library.function)
            size = chance.choice([-7, 0, 2**62])
            for attrs in f.arg_attr.values():
                for shape in attrs.attr["_output_shapes"].list.shape:
                    shape.ClearField("unknown_rank")
                    shape.dim.add(size=size)
        case 5:
            mutate(chance.choice(meta.graph_def.library.function), chance)
        case 6:
            del meta.graph_def.library.function[chance.randrange(len(meta.graph_def.library.function))]
        case _:
            mutate(model, chance)
    with contextlib.suppress(Exception):  # text that is no UTF-8 can't be written
        file.write_bytes(model.SerializeToString())


def damaged(good: Path, bad: Path, seed: int) -> None:
    chance = random.Random(seed)
    shutil.copytree(good, bad)
    damage = of_bytes if chance.random() < 0.3 else of_structure
    for _ in range(chance.choice([1, 1, 2]) if damage is of_structure else 1):
        damage(bad, chance)


def attempt(command: str, bad: Path, scratch: Path) -> str:
    """What is wrong with how a command ends; else its status."""
    arguments = {
        "add-gradient": ["--saved-model", str(bad), "--out", str(scratch / "out"), "--name", "dx"],
    }.get(command, [str(bad)])
    out, err = io.StringIO(), io.StringIO()
    _cli._out.file, _cli._err.file = out, err
    try:
        status = _cli.main([command, *arguments])
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if status not in (0, 1, 2) or (status and len(out.getvalue() + err.getvalue()) < 20):
        return f"status {status}: {err.getvalue()!r}"
    return str(status)


def of_seeds(first: int, count: int, good: Path) -> collections.Counter[str]:
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as scratch:
            bad = Path(scratch) / "model"
            damaged(good, bad, seed)
            for command in COMMANDS:
                print(json.dumps([seed, command]), file=sys.stderr, flush=True)
                outcome = attempt(command, bad, Path(scratch))
                outcomes[outcome if outcome.isdigit() else "wrong"] += 1
                if not outcome.isdigit():
                    print(f"seed {seed}, {command}: {' '.join(outcome.split())[:300]}", flush=True)
    return outcomes


def loads(good: Path, seed: int) -> bool:
    """Whether TensorFlow survives a model."""
    with tempfile.TemporaryDirectory() as scratch:
        damaged(good, Path(scratch) / "model", seed)
        code = f"import tensorflow as tf\ntry: tf.saved_model.load({scratch + '/model'!r})\nexcept Exception: pass"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def survey(first: int, count: int) -> collections.Counter[str]:
    """How commands end for models of these seeds, in processes of their own."""
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        good = Path(scratch) / "good"
        program = [sys.executable, "-m", "tests.fuzz.saved_models", "--of", str(good)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        # In a process of its own: TensorFlow numbers functions, and a seed is to damage the same part each time.
        subprocess.run([*program, "--count=0"], check=True, capture_output=True, env=environment)
        end = first + count
        while first < end:
            command = [*program, f"--first={first}", f"--count={end - first}"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            *lines, last = done.stdout.splitlines() or [""]
            if done.returncode == 0:
                print(*lines, sep="\n", end="\n" if lines else "")
                return outcomes + collections.Counter(json.loads(last))
            print(*lines, last, sep="\n")
            tried = [line for line in done.stderr.splitlines() if line.startswith("[") and line.endswith('"]')]
            if not tried:
                raise RuntimeError(f"no model was tried: {done.stderr[-2000:]}")
            seed, command_name = json.loads(tried[-1])
            outcomes["dies in TensorFlow" if not loads(good, seed) else "wrong"] += 1
            print(f"seed {seed}, {command_name}: the process died: {done.stderr[-500:]}")
            first = seed + 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of and not arguments.count:
        tf.saved_model.save(model := Model(), arguments.of, signatures={"serving_default": model.run})
        return 0
    if arguments.of:
        print(json.dumps(of_seeds(arguments.first, arguments.count, arguments.of)))
        return 0
    outcomes = survey(arguments.first, arguments.count)
    print(f"{arguments.count} damaged models: {dict(sorted(outcomes.items()))}")
    return 1 if outcomes["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
