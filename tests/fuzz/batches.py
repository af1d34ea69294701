"""Random programs by the hundred: in processes of some each, as TensorFlow keeps what was traced; every fourth process
runs without the graph pass, so that the op's kernel runs."""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

Outcomes = collections.Counter[str]


def is_kernel() -> bool:
    return os.environ.get("TF_SYMGRAD_DISABLE_PASS") == "1"


def run(
    module: str,
    parser: argparse.ArgumentParser,
    compare: Callable[[range, float, argparse.Namespace], Outcomes],
    size: int,
) -> tuple[Outcomes, int]:
    """What came of the seeds that the command line asks for, and how many processes died.

    `compare` takes seeds, until a time, and prints what is wrong. It runs in a process of its own: this function
    returns in the first alone.
    """
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    first, last = arguments.first, arguments.first + arguments.count
    if arguments.until:
        print(json.dumps(compare(range(first, last), arguments.until, arguments)))
        sys.exit(0)
    end, outcomes, died = time.time() + arguments.seconds, Outcomes(), 0
    for batch, start in enumerate(range(first, last, size)):
        if time.time() > end:
            break
        count = min(size, last - start)
        command = [
            sys.executable,
            "-m",
            module,
            *sys.argv[1:],
            f"--first={start}",
            f"--count={count}",
            f"--until={end}",
        ]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"TF_SYMGRAD_DISABLE_PASS": "1"} if batch % 4 == 3 else {}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        *lines, result = done.stdout.splitlines() or [""]
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
        if done.returncode == 0:
            outcomes.update(json.loads(result))
        else:
            died += 1
            print(f"the process of seeds {start} to {start + count} died: {result} {done.stderr[-3000:]}", flush=True)
    return outcomes, died
