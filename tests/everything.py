"""All that can be checked, one after the other, with a summary at the end: python -m tests.everything [PART...].

A part that fails does not keep the others from running.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Targets of the Makefile by what they are about.
PARTS = {
    "tests": "test",
    "models": "test-models",
    "fuzz": "fuzz",
    "sanitizers": "sanitize",
    "mutation": "mutation",
    "docs": "docs",
    "lint": "lint",
    "wheel": "test-wheel",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--venv", default=".venv")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    summary, failed = [], False
    for part in arguments.parts or PARTS:
        start = time.monotonic()
        print(f"---- {part}: make {PARTS[part]}", flush=True)
        status = subprocess.run(["make", PARTS[part], f"VENV={arguments.venv}"], cwd=ROOT, check=False).returncode
        failed = failed or status != 0
        outcome = "ok" if status == 0 else f"FAILED ({status})"
        summary.append(f"  {part:12}{outcome:14}{(time.monotonic() - start) / 60:6.1f} min")
    print("---- summary", *summary, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
