"""Runs one hook of the device's own: a small program that answers with one word.

What a hook is trusted with is decided by where it lies: a directory that only root and the agent's
user can write. Everything else is checked: a hook that could have been written by somebody else is
not run, and a hook that is there but answers nothing sensible never counts as consent.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import msgspec

from firmware_hooks.errors import HookError
from firmware_hooks.protocol import (
    ENVIRONMENT_PREFIX,
    HOOK_API,
    RULES,
    VERSION_DIR,
    WORDS,
    HookRule,
    Word,
)

OUTPUT_LIMIT_BYTES = 4096
"""Kept of each of stdout and stderr; more is read and dropped, so that no hook blocks on it."""
REASON_LIMIT_CHARS = 500
_GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
_POLL_S = 0.05
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FACT = re.compile(r"[A-Z][A-Z0-9_]*")


class HookResult(msgspec.Struct, frozen=True):
    """What a hook answered.

    reason: a sentence, with the end of its stderr; "" where it said just "ok".
    ran: whether a program was run at all.
    """

    answer: Word
    reason: str
    ran: bool
    duration_s: float


def run_hook(
    directory: Path | None,
    name: str,
    facts: Mapping[str, str],
    *,
    timeout_s: float | None = None,
    stop: threading.Event | None = None,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> HookResult:
    """Ask the hook ``name`` and wait for its answer.

    Args:
        directory: the device's hook directory, which holds ``v1/``; None for no hooks.
        name: ``pre-install``, ``post-install`` or ``health``.
        facts: told as environment variables ``WHERRY_<KEY>``.
        timeout_s: instead of the protocol's.
        stop: set from another thread, it ends the hook early (the answer is then "refuse").
        monotonic_s: the clock for the time-out.

    Raises:
        HookError: the protocol has no such hook, or a fact's name is not one.
    """
    rule = RULES.get(name)
    if rule is None:
        raise HookError(f"no hook {name!r} in version {HOOK_API}; there are {sorted(RULES)}")
    environment = _environment(facts)
    if directory is None:
        return HookResult(rule.missing, "", ran=False, duration_s=0.0)
    path = directory / VERSION_DIR / name
    try:
        wrong = _why_not(directory, path)
    except OSError as error:
        wrong = f"{error.filename} cannot be looked at: {error.strerror}"
    if wrong:
        return HookResult("refuse", f"hook {path} is not run: {wrong}", ran=False, duration_s=0.0)
    if not path.exists():
        return HookResult(rule.missing, "", ran=False, duration_s=0.0)
    limit_s = rule.timeout_s if timeout_s is None else timeout_s
    return _run(path, rule, environment, limit_s, stop or threading.Event(), monotonic_s)


def _environment(facts: Mapping[str, str]) -> dict[str, str]:
    for key, value in facts.items():
        if not _FACT.fullmatch(key) or "\0" in value:
            raise HookError(f"hook fact {key!r}: expected a name in capitals and a plain text")
    named = {f"{ENVIRONMENT_PREFIX}{key}": value for key, value in facts.items()}
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        f"{ENVIRONMENT_PREFIX}HOOK_API": str(HOOK_API),
    } | named


def _why_not(directory: Path, path: Path) -> str:
    """Why the hook must not be run, or "" where it may be, or where there is none.

    A directory that was named but is not there is a mistake, and must not read as "no hooks".
    """
    for step in (directory, path.parent, path):
        try:
            found = step.lstat()
        except FileNotFoundError:
            if step == path:
                return ""
            return f"the device names {directory} for its hooks, but there is no {step}"
        if stat.S_ISLNK(found.st_mode):
            return f"{step} is a symbolic link; put the real one there"
        if found.st_uid not in (0, os.geteuid()):
            return f"{step} belongs to user {found.st_uid}, not to root or the agent's user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return (
                f"{step} may be written by its group or by others"
                f" (mode {stat.S_IMODE(found.st_mode):04o}); chmod go-w {step}"
            )
    if not stat.S_ISREG(found.st_mode):
        return "it is no plain file"
    if not found.st_mode & stat.S_IXUSR:
        return f"it is not executable; chmod u+x {path}, or remove it"
    return ""


def _run(
    path: Path,
    rule: HookRule,
    environment: dict[str, str],
    limit_s: float,
    stop: threading.Event,
    monotonic_s: Callable[[], float],
) -> HookResult:
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # The kernel then keeps no exit code, and none must not read as 0.
        reason = f"hook {path} is not run: SIGCHLD is ignored, so nobody could tell how it ended"
        return HookResult("refuse", reason, ran=False, duration_s=0.0)
    began_s = monotonic_s()
    try:
        process = subprocess.Popen(
            [str(path)],
            cwd=path.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        reason = f"hook {path} cannot be run: {error.strerror}"
        return HookResult("refuse", reason, ran=False, duration_s=0.0)
    assert process.stdout is not None
    assert process.stderr is not None
    output = _Output(process.stdout, process.stderr)
    with process, output:
        late = False
        while not _ended(process) and not late and not stop.is_set():
            output.read(_POLL_S)
            late = monotonic_s() - began_s > limit_s
        _end_group(process, output, monotonic_s)
        output.read(0.0)
    duration_s = monotonic_s() - began_s
    if stop.is_set():
        return HookResult("refuse", f"hook {rule.name} was ended early", True, duration_s)
    if late:
        reason = f"hook {rule.name} did not end within {limit_s:g} s"
        return HookResult(rule.on_timeout, _with(reason, output.errors), True, duration_s)
    answer, reason = _judge(rule.name, process.returncode, output)
    return HookResult(answer, reason, True, duration_s)


def _judge(name: str, code: int, output: _Output) -> tuple[Word, str]:
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
        return "refuse", _with(f"hook {name} {how}", output.errors)
    said = output.words.strip()
    for word in WORDS if output.whole else ():
        if said == word or (word == "ok" and not said):
            told = output.errors or word != "ok"
            return word, _with(f"hook {name} says {word}", output.errors) if told else ""
    reason = f"hook {name} said {said[:40]!r}, expected one of {', '.join(WORDS)} or nothing"
    return "refuse", _with(reason, output.errors)


def _with(reason: str, errors: str) -> str:
    text = " ".join(errors.split())[-REASON_LIMIT_CHARS:]
    return f"{reason}: {text}" if text else reason


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the hook has ended. It is not collected yet, so its group's number stays taken."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, how) is not None


def _end_group(
    process: subprocess.Popen[bytes], output: _Output, monotonic_s: Callable[[], float]
) -> None:
    """End the hook and whatever it left behind in its process group."""
    if not _ended(process):
        _signal_group(process.pid, signal.SIGTERM)
        until_s = monotonic_s() + _GRACE_S
        while not _ended(process) and monotonic_s() < until_s:
            output.read(_POLL_S)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Nothing is left of it, or only zombies that another process must collect.
        return


class _Output:
    """Both pipes of a hook, drained and cut to their limits.

    whole: nothing of stdout was cut off.
    """

    def __init__(self, out: IO[bytes], err: IO[bytes]) -> None:
        self._kept = {out: bytearray(), err: bytearray()}
        self._out, self._err = out, err
        self.whole = True
        self._selector = selectors.DefaultSelector()
        for pipe in self._kept:
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *exc: object) -> None:
        self._selector.close()

    def read(self, timeout_s: float) -> None:
        """Take what is there; wait at most ``timeout_s`` for it."""
        if not self._selector.get_map():
            time.sleep(timeout_s)  # both closed while the hook still runs
            return
        for key, _ in self._selector.select(timeout_s):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                self._selector.unregister(pipe)
            kept = self._kept[pipe]
            room = OUTPUT_LIMIT_BYTES - len(kept)
            kept += data[:room]
            self.whole = self.whole and (pipe is self._err or len(data) <= room)

    @property
    def words(self) -> str:
        """What it said on stdout."""
        return self._kept[self._out].decode(errors="replace")

    @property
    def errors(self) -> str:
        """What it said on stderr."""
        return self._kept[self._err].decode(errors="replace")
