"""`paramtree tour`: the walk through parameter management."""

from argparse import ArgumentParser, Namespace

from paramtree import tour
from paramtree.commands.command import Command, Outcome


def _configure(parser: ArgumentParser) -> None:
    del parser  # it takes no arguments


def _run(options: Namespace) -> Outcome:
    del options
    tour.run()
    return Outcome(0)


TOUR = Command(
    name="tour",
    help="walk through parameter management, and train a net on real digits",
    description="Walk through parameter management, step by step, and train a net on real digits.",
    example="paramtree tour",
    configure=_configure,
    run=_run,
)
