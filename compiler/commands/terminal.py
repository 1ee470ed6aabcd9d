"""What these commands share: an answer on stdout, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """``--json`` as ``as_json``."""
    option = click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, errors as JSON, too."
    )
    return option(command)


def emit(value: object, lines: Sequence[str], *, as_json: bool) -> None:
    """Print the answer."""
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else "\n".join(lines))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need, two blanks apart."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
