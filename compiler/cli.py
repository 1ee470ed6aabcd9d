"""The command line ``edge-compile``: data on stdout, progress on stderr, our exit codes."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from compiler.bundle.formats import FORMATS, Format
from compiler.commands.build_options import task_options
from compiler.commands.compare import compare
from compiler.commands.doctor import doctor
from compiler.commands.inspect import inspect
from compiler.commands.places import BuiltPath
from compiler.commands.targets import targets
from compiler.plan.effort import EFFORTS, Effort
from edge_contract import __version__
from edge_contract.errors import ExitCode, WherryError
from edge_contract.model import Task

_DOCS = "reference/edge-compile.md"
_INTERRUPTED = 130
_FILE = click.Path(path_type=Path)
_BUNDLE = BuiltPath(
    "a bundle, or the --out directory of a build that passed",
    "edge-compile build {model} --out DIR, then edge-compile run DIR/bundle",
)


class JsonErrorGroup(click.Group):
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
            command = context.command_path if context else "edge-compile"
            _fail(error.format_message(), ExitCode.USAGE, f"{command} --help", _DOCS, as_json)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; nothing was written", _INTERRUPTED, "", "", as_json)
        except WherryError as error:
            _fail(error.message, error.exit_code, error.hint, error.docs, as_json)
        except OSError as error:
            # The process's outermost edge: a disk or a right that nobody has met further in.
            where = f" ({error.filename})" if error.filename else ""
            message = f"the system refuses: {error.strerror or error}{where}"
            _fail(message, ExitCode.FAILURE, "", "", as_json)
        finally:
            signal.signal(signal.SIGTERM, previous)
        sys.exit(code if isinstance(code, int) else 0)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A SIGTERM unwinds the stack, so that temporary files go, too."""
    raise KeyboardInterrupt


def _fail(message: str, code: int, hint: str, docs: str, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": message, "code": int(code), "hint": hint, "docs": docs}))
    else:
        click.echo(f"edge-compile: {message}", err=True)
        if hint:
            click.echo(f"  try: {hint}", err=True)
        if docs:
            click.echo(f"  see: docs/{docs}", err=True)
    sys.exit(int(code))


@click.group(cls=JsonErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-compile", message="%(prog)s %(version)s")
def main() -> None:
    """A float model in, a proven int8 bundle out."""


@main.command()
@click.argument("model", type=_FILE)
@click.option("--name", required=True, help="Model line: a-z, 0-9 and '-'.")
@click.option("--version", required=True, help="Semantic version, such as 1.4.0.")
@click.option(
    "--target",
    "targets",
    required=True,
    multiple=True,
    help="Device profile, by name or as a .toml file; repeat it for several.",
)
@click.option(
    "--format",
    "model_format",
    type=click.Choice(FORMATS),
    help="Format of the int8 model. [default: what the target's profile says]",
)
@click.option("--calibration", required=True, type=_FILE, help="Samples to set ranges.")
@click.option(
    "--selection", type=_FILE, help="Samples to choose by. [default: split off calibration]"
)
@click.option(
    "--test", required=True, type=_FILE, help="Samples, labelled if can be, that prove it."
)
@click.option("--labels", type=_FILE, help="Class names, one a line. [default: 0, 1, ...]")
@click.option("--preprocess", type=_FILE, help="Preprocessing contract (TOML).")
@click.option(
    "--trust-preprocess", is_flag=True, help="Only warn where labels speak against the contract."
)
@click.option(
    "--max-drop-pp",
    type=float,
    default=1.0,
    show_default=True,
    help="Accepted drop of accuracy or mAP in percentage points, held with 95 % confidence.",
)
@task_options
@click.option(
    "--effort",
    type=click.Choice(EFFORTS),
    default="normal",
    show_default=True,
    help="How long the plan is searched.",
)
@click.option(
    "--previous",
    type=_BUNDLE,
    metavar="BUNDLE",
    help="What devices hold now: numbers of it that may stay do, so that a delta is small.",
)
@click.option(
    "--prune",
    default="off",
    show_default=True,
    metavar="SHARE|auto|off",
    help="Share of the MACs to remove before int8; auto: as much as selection allows.",
)
@click.option(
    "--sparsity",
    default="off",
    show_default=True,
    metavar="2:4|off",
    help="Two zeros in every four weights, for GPUs that gain from them (Jetson Orin).",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Samples answered at the same time; changes no byte of the result.",
)
@click.option("--out", required=True, type=_FILE, help="Directory for bundle/ and the reports.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json, errors as JSON, too.")
def build(
    model: Path,
    name: str,
    version: str,
    targets: tuple[str, ...],
    model_format: Format | None,
    calibration: Path,
    selection: Path | None,
    test: Path,
    labels: Path | None,
    preprocess: Path | None,
    trust_preprocess: bool,
    max_drop_pp: float,
    task: Task | None,
    shape: tuple[str, ...],
    top_k: int,
    max_error_increase: float,
    min_cosine: float,
    max_size_kb: float | None,
    max_ram_mb: float | None,
    max_mmacs: float | None,
    effort: Effort,
    previous: Path | None,
    prune: str,
    sparsity: str,
    threads: int,
    out: Path,
    as_json: bool,
) -> int:
    """Quantise MODEL, prove that its accuracy held, and write a bundle.

    Exits with 5 and writes no bundle when the gate is not passed.
    """
    # Imported here: onnx and onnxruntime cost a second that --help should not.
    from compiler.build import build as run_build
    from compiler.metrics.measure import Limits
    from compiler.options import BuildOptions, read_shapes
    from compiler.progress import to_stream
    from compiler.proof.budgets import Budgets
    from compiler.report.terminal import summary_lines

    report = run_build(
        BuildOptions(
            model=model,
            name=name,
            version=version,
            targets=targets,
            format=model_format,
            calibration=calibration,
            selection=selection,
            test=test,
            labels=labels,
            preprocess=preprocess,
            trust_preprocess=trust_preprocess,
            task=task,
            shapes=read_shapes(shape),
            limits=Limits(max_drop_pp, max_error_increase, min_cosine, top_k),
            budgets=Budgets(max_size_kb, max_ram_mb, max_mmacs),
            effort=effort,
            previous=previous,
            prune=prune,
            sparsity=sparsity,
            workers=threads,
            out=out,
            command=shlex.join(["edge-compile", *sys.argv[1:]]),
        ),
        clock=time.monotonic,
        progress=to_stream(),
    )
    if as_json:
        click.echo(report.json_bytes(), nl=False)
    else:
        for line in summary_lines(report):
            click.echo(line)
    return ExitCode.OK if report.verdict == "pass" else ExitCode.GATE


@main.command("run")
@click.argument("bundle", type=_BUNDLE)
@click.option("--target", required=True, help="Device profile that the bundle was compiled for.")
@click.option("--inputs", required=True, type=_FILE, help="Samples, as the calibration data.")
@click.option("--out", required=True, type=_FILE, help=".npz to write: y, float32 [n, ...].")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary, errors as JSON, too.")
def run_command(
    bundle: Path, target: str, inputs: Path, out: Path, threads: int, as_json: bool
) -> int:
    """Answer samples with a BUNDLE's variant, through the code that devices run."""
    from compiler.run import run_bundle

    result = run_bundle(bundle, target, inputs, out, threads)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "bundle_digest": result.bundle_digest,
                    "target": result.target,
                    "rows": result.rows,
                    "values": result.values,
                    "classes": result.classes,
                    "runs_on": result.runs_on,
                    "out": str(out),
                }
            )
        )
    else:
        click.echo(
            f"{result.rows} rows of {result.values} value{'s' if result.values != 1 else ''} in"
            f" {out}, by {result.runs_on}"
        )
    return ExitCode.OK


for command in (targets, inspect, compare, doctor):
    main.add_command(command)

if __name__ == "__main__":
    main()
