"""What all commands share: data on stdout, progress on stderr, our exit codes, JSON on request."""

from __future__ import annotations

import errno
import io
import json
import os
import pwd
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from device_configs.service.owner import hand_over
from edge_contract import __version__
from edge_contract.errors import ExitCode, WherryError
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir, default_state_dir

_DOCS = "reference/edge-fleet.md"
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_STATE_GIVEN = "fleet.state-given"
_OUR_COMMANDS = re.compile(r"edge-fleet ([a-z-]+)(?: ([a-z-]+))?")
_NEXT_STEPS = {
    errno.ENOSPC: "free some space there (df -h), then run the same command again",
    errno.EROFS: "choose a place that can be written, or mount it for writing",
    errno.EACCES: "run it as the owner of the files, or choose a place that you may write to",
    errno.ENOENT: "make its directory first, or correct the path",
}

F = TypeVar("F", bound=Callable[..., Any])


class CommandGroup(click.Group):
    """A click group whose help says in whole sentences what its commands are for."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add it; a default that is nothing is not shown, as ``[default: ""]``."""
        for option in cmd.params:
            if isinstance(option, click.Option) and option.default == "":
                option.show_default = option.show_default or False
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Wrap the first sentences where click would cut them."""
        shown = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(10_000)) for name, command in shown if command]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class JsonErrorGroup(CommandGroup):
    """A click group that ends with our exit codes, and with JSON errors where ``--json`` stands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run; exits with our codes where ``standalone_mode`` is set, as it is for users."""
        words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, False, **extra)
        as_json = "--json" in words
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # under LANG=C and the like
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            code = super().main(words, prog_name, complete_var, False, **extra)
            if sys.stdout is not None:
                sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(int(ExitCode.USAGE))
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "edge-fleet"
            _fail(error.format_message(), ExitCode.USAGE, f"{command} --help", _DOCS, as_json)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", _INTERRUPTED, "", "", as_json)
        except BrokenPipeError:
            # The reader has gone, as `| head` does; Python must not complain at exit, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(_BROKEN_PIPE)
        except WherryError as error:
            _fail(error.message, error.exit_code, error.hint, error.docs, as_json)
        except OSError as error:
            # The process's outermost edge: a disk or a right that nobody has met further in.
            where = f" ({error.filename})" if error.filename else ""
            message = f"the system refuses: {error.strerror or error}{where}"
            _fail(message, ExitCode.FAILURE, _NEXT_STEPS.get(error.errno or 0, ""), "", as_json)
        finally:
            signal.signal(signal.SIGTERM, previous)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what its error advises is advised for the fleet that it was given."""
        try:
            return super().invoke(ctx)
        except WherryError as error:
            error.hint = for_this_fleet(error.hint, ctx)
            raise


@click.group(
    cls=JsonErrorGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="edge-fleet", message="%(prog)s %(version)s")
def main() -> None:
    """Publish bundles, roll them out in gated waves, and see what devices say."""


def state_option(command: F) -> F:
    """``--state DIR`` as a ``StateDir`` named ``state``."""
    return click.option(
        "--state",
        envvar="EDGE_FLEET_STATE",
        default=lambda: default_state_dir(os.environ),
        show_default="~/.local/state/wherry/fleet",
        type=click.Path(path_type=Path, file_okay=False, readable=False),
        callback=_take_state,
        help="The fleet's directory (environment: EDGE_FLEET_STATE).",
    )(command)


def _take_state(context: click.Context, parameter: click.Parameter, value: Path) -> StateDir:
    _require_readable(value)
    state = StateDir(value)
    if context.get_parameter_source("state") is ParameterSource.COMMANDLINE:
        context.meta[_STATE_GIVEN] = str(value)
    context.call_on_close(lambda: hand_over(state.path))
    return state


def _require_readable(directory: Path) -> None:
    """A service's directory belongs to its own account, and whoever asks is often another one.

    Raises:
        FleetError: it is there and may not be read; says whose it is.
    """
    if not directory.exists() or os.access(directory, os.R_OK | os.X_OK):
        return
    try:
        owner = pwd.getpwuid(directory.stat().st_uid).pw_name
    except KeyError:
        owner = str(directory.stat().st_uid)
    raise FleetError(
        f"the fleet's directory {directory} is {owner}'s, and you may not read it",
        hint="the same with sudo, or name another one with --state",
        exit_code=ExitCode.AUTH,
    )


def json_option(command: F) -> F:
    """``--json`` as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, errors as JSON, too.")(
        command
    )


def emit(value: Any, text: str, *, as_json: bool) -> None:
    """Print the answer to stdout."""
    click.echo(json.dumps(value) if as_json else text)


def say(text: str) -> None:
    """Print progress to stderr; commands of ours that it names, for the fleet that was given."""
    click.echo(for_this_fleet(text), err=True)


def for_this_fleet(text: str, context: click.Context | None = None) -> str:
    """The text; where it names commands that take ``--state``, with the one that was given.

    Without it, who copies the command from there would ask or change another fleet.
    """
    context = context or click.get_current_context(silent=True)
    given = context.meta.get(_STATE_GIVEN) if context else None
    if (
        not given
        or "--state" in text
        or "--help" in text
        or not any(map(_takes_state, _OUR_COMMANDS.findall(text)))
    ):
        return text
    return f"{text} (with --state {given})"


def _takes_state(words: tuple[str, str]) -> bool:
    command = main.commands.get(words[0])
    if isinstance(command, click.Group):
        command = command.commands.get(words[1], command)
    return command is not None and any(option.name == "state" for option in command.params)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need, two blanks apart."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))
    return "\n".join(lines)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A SIGTERM unwinds the stack, as Ctrl-C does."""
    raise KeyboardInterrupt


def _fail(message: str, code: int, hint: str, docs: str, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": message, "code": int(code), "hint": hint, "docs": docs}))
    else:
        click.echo(f"edge-fleet: {message}", err=True)
        if hint:
            click.echo(f"  try: {hint}", err=True)
        if docs:
            click.echo(f"  see: docs/{docs}", err=True)
    sys.exit(int(code))
