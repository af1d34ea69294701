"""python -m tf_symgrad coverage: which ops have a gradient, and how far it is checked."""

import argparse
import json
import sys

from tf_symgrad import _coverage


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m tf_symgrad")
    commands = parser.add_subparsers(dest="command", required=True)
    coverage = commands.add_parser("coverage", help="print which ops have a gradient, and how far it is checked")
    form = coverage.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON: {'ops': {'Abs': {...}, ...}, ...}")
    form.add_argument("--write", action="store_true", help="write docs/coverage.md of this checkout")
    options = parser.parse_args()

    data = _coverage.data()
    if options.json:
        print(json.dumps(data))
    elif options.write:
        if not _coverage.DOCUMENT.parent.is_dir():
            sys.exit(f"tf_symgrad: {_coverage.DOCUMENT.parent} does not exist: the package is not in a checkout")
        _coverage.DOCUMENT.write_text(_coverage.as_markdown(data))
    else:
        print(_coverage.as_text(data))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the reader has seen enough: `| head`
        sys.stderr.close()
