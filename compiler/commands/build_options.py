"""Options of ``build`` that say what the model is for and what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from edge_contract.model import Task

Command = TypeVar("Command", bound=Callable[..., Any])


def task_options(command: Command) -> Command:
    """Add them to ``command``, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--task",
        type=click.Choice(get_args(Task)),
        help="What the model is for. [default: classification where labels and outputs say so]",
    ),
    click.option(
        "--shape",
        multiple=True,
        metavar="NAME=1,3,224,224",
        help="Static shape of an input that leaves axes free; repeat it for several.",
    ),
    click.option(
        "--top-k",
        type=int,
        default=1,
        show_default=True,
        help="An answer is right when the label is among so many best scores.",
    ),
    click.option(
        "--max-error-increase",
        type=float,
        default=5.0,
        show_default=True,
        metavar="PERCENT",
        help="Accepted increase of a regression's mean absolute error.",
    ),
    click.option(
        "--min-cosine",
        type=float,
        default=0.99,
        show_default=True,
        help="Least mean cosine to the float outputs, where the test data have no labels.",
    ),
    click.option("--max-size-kb", type=float, help="Budget of the int8 model file, 1,000 bytes."),
    click.option(
        "--max-ram-mb",
        type=float,
        help="Budget of weights and live activations, estimated. [default: 25 % of the board's]",
    ),
    click.option("--max-mmacs", type=float, help="Budget of million multiply-accumulates a frame."),
)
