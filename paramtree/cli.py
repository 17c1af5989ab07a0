"""The command line: `paramtree`, or `python -m paramtree`."""

import argparse
import os
import sys
from collections.abc import Sequence

from paramtree import tour
from paramtree.errors import ParamTreeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser("paramtree", description="Look at model parameters, by name.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("tour", help="walk through parameter management, and train a net on real digits")
    parser.parse_args(arguments)
    try:
        tour.run()
        sys.stdout.flush()
    except ParamTreeError as error:
        print(f"paramtree: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as head, has seen enough; nothing is left to be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
