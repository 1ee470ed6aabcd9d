"""What the user hands in beside model and data: names, labels, the preprocessing contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from compiler.bundle.formats import Format
from compiler.errors import CompileError
from compiler.metrics.measure import Limits
from compiler.plan.effort import Effort
from compiler.proof.budgets import Budgets
from compiler.prune.ask import read_ask
from edge_contract.errors import ContractError, ExitCode
from edge_contract.model import LineName, Task, Version
from edge_contract.preprocess import PreprocessSpec

_TEXT_LIMIT_BYTES = 1 << 20
_LABEL_LIMIT_CHARS = 100


@dataclass(frozen=True)
class BuildOptions:
    """The options of ``edge-compile build``.

    task: what the model is for; found out where it is ``None``.
    shapes: static shapes for inputs that leave axes free, batch axis included.
    limits: what int8 may cost in answers.
    budgets: what the int8 model may weigh.
    format: of the model's file; ``None`` takes what each target's profile says.
    effort: how long the plan is searched.
    trust_preprocess: only warn where the labels speak against the preprocessing contract.
    previous: a bundle that devices hold, of which as much is kept as goes.
    prune: "off", "auto" or the share of the MACs that is to go. sparsity: "off" or "2:4".
    workers: test samples answered at the same time; changes no byte of the result.
    command: the command line, for the report.
    """

    model: Path
    name: str
    version: str
    targets: tuple[str, ...]
    calibration: Path
    test: Path
    out: Path
    selection: Path | None = None
    labels: Path | None = None
    preprocess: Path | None = None
    trust_preprocess: bool = False
    task: Task | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    budgets: Budgets = field(default_factory=Budgets)
    effort: Effort = "normal"
    format: Format | None = None
    previous: Path | None = None
    prune: str = "off"
    sparsity: str = "off"
    workers: int = 1
    command: str = ""


def check_names(options: BuildOptions) -> None:
    """Refuse a name, version, limit or target list that no bundle may have.

    Raises:
        CompileError: with the exit code for wrong usage.
    """
    for what, value, type_ in (
        ("--name", options.name, LineName),
        ("--version", options.version, Version),
    ):
        try:
            msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            wanted = (
                "1 to 40 of a-z, 0-9 and '-', beginning with a letter or digit"
                if what == "--name"
                else "a semantic version such as 1.4.0"
            )
            raise CompileError(
                f"{what} {value[:80]!r}: expected {wanted}", exit_code=ExitCode.USAGE
            ) from error
    _check_limits(options.limits, options.budgets)
    read_ask(options.prune, options.sparsity)
    twice = sorted({t for t in options.targets if options.targets.count(t) > 1})
    if twice or not options.targets:
        raise CompileError(
            f"--target: {', '.join(twice)} given twice" if twice else "--target: none given",
            exit_code=ExitCode.USAGE,
        )


def _check_limits(limits: Limits, budgets: Budgets) -> None:
    """Refuse limits that no model can hold, or that none can break."""
    wrong = ""
    if not 0 < limits.max_drop_pp < 100:
        wrong = (
            f"--max-drop-pp {limits.max_drop_pp}: expected percentage points above 0 and below"
            " 100; a drop of 0 cannot be proven with any number of samples"
        )
    elif not 0 < limits.max_error_increase_percent < math.inf:
        wrong = (
            f"--max-error-increase {limits.max_error_increase_percent}: expected per cent above 0;"
            " no increase at all cannot be proven with any number of samples"
        )
    elif not 0 < limits.min_cosine < 1:
        wrong = f"--min-cosine {limits.min_cosine}: expected a cosine above 0 and below 1"
    elif limits.top_k < 1:
        wrong = f"--top-k {limits.top_k}: expected at least 1"
    for option, value in (
        ("--max-size-kb", budgets.max_size_kb),
        ("--max-ram-mb", budgets.max_ram_mb),
        ("--max-mmacs", budgets.max_mmacs),
    ):
        if value is not None and not 0 < value < math.inf:
            wrong = f"{option} {value}: expected a number above 0"
    if wrong:
        raise CompileError(wrong, exit_code=ExitCode.USAGE)


def read_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME=1,3,224,224`` texts as shapes by input name.

    Raises:
        CompileError: of another form, sizes below 1, or a name twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        numbers = sizes.split(",")
        if not equals or not name or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise CompileError(
                f"--shape {text[:80]!r}: expected NAME=1,3,224,224", exit_code=ExitCode.USAGE
            )
        shape = tuple(int(number) for number in numbers)
        if min(shape) < 1 or name in found:
            what = "is given twice" if name in found else "holds a size below 1"
            raise CompileError(f"--shape {text[:80]!r} {what}", exit_code=ExitCode.USAGE)
        found[name] = shape
    return found


def read_labels(path: Path | None, classes: int) -> list[str]:
    """One class name a line, or "0", "1", ... without a file.

    Raises:
        CompileError: unreadable, another number of names than classes, or a name that is empty,
            too long, not printable or there twice.
    """
    if path is None:
        return [str(class_id) for class_id in range(classes)]
    labels = read_names(path)
    if len(labels) != classes:
        raise CompileError(
            f"labels file {path}: {len(labels)} names, but the model has {classes} classes",
            hint="one name a line, in the order of the model's outputs",
        )
    seen: set[str] = set()
    for line, label in enumerate(labels, 1):
        if not label or len(label) > _LABEL_LIMIT_CHARS or not label.isprintable():
            raise CompileError(
                f"labels file {path}, line {line}: expected a printable name of 1 to"
                f" {_LABEL_LIMIT_CHARS} characters, got {label[:40]!r}"
            )
        if label in seen:
            raise CompileError(f"labels file {path}, line {line}: {label!r} is there twice")
        seen.add(label)
    return labels


def read_names(path: Path) -> list[str]:
    """The lines of a labels file, unchecked.

    Raises:
        CompileError: unreadable.
    """
    labels = [line.strip() for line in _read_text(path, "labels").splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    return labels


def read_preprocess(path: Path | None) -> PreprocessSpec:
    """The preprocessing contract in a TOML file; without one the samples are the model's input.

    Raises:
        CompileError: unreadable or malformed.
    """
    if path is None:
        return PreprocessSpec(kind="tensor")
    text = _read_text(path, "preprocess")
    try:
        return msgspec.toml.decode(text, type=PreprocessSpec)
    except (msgspec.DecodeError, ValueError, ContractError) as error:
        raise CompileError(
            f"preprocess file {path}: {error}", docs="reference/edge-compile.md"
        ) from error


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_TEXT_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise CompileError(f"no {what} file {path}", exit_code=ExitCode.NOT_FOUND) from error
    except OSError as error:
        raise CompileError(f"cannot read {what} file {path}: {error.strerror}") from error
    if len(data) > _TEXT_LIMIT_BYTES:
        raise CompileError(f"{what} file {path}: longer than {_TEXT_LIMIT_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CompileError(f"{what} file {path} is not UTF-8 text: {error.reason}") from error
