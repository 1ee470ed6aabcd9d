"""The account that a service runs as: is there one, what can it reach, what may it write."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from device_configs.service.install import ServiceError
from edge_contract.errors import ContractError, ExitCode

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def check_name(user: str) -> None:
    """Refuse what is no name of an account, before it stands in a unit.

    Raises:
        ContractError: it is none.
    """
    if not _NAME.fullmatch(user):
        raise ContractError(
            f"--user {user[:60]!r}: expected the name of an account",
            exit_code=ExitCode.USAGE,
        )


def prepare_directories(user: str, directories: Iterable[Path]) -> None:
    """Make what is missing of the directories that ``user``'s service writes to. A unit with one
    that is not there does not start.

    Raises:
        ServiceError: no such account, or a directory that belongs to another one.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError as error:
        raise ServiceError(
            f"this machine has no account {user!r}", exit_code=ExitCode.NOT_FOUND
        ) from error
    for directory in directories:
        try:
            directory.mkdir(mode=0o700, parents=True)
            os.chown(directory, account.pw_uid, account.pw_gid)
        except FileExistsError:
            pass
        except OSError as error:
            raise ServiceError(f"cannot make {directory}: {error.strerror}") from error
        owner = directory.stat().st_uid
        if owner != account.pw_uid:
            raise ServiceError(
                f"{directory} belongs to user {owner}, so the service could not write it as {user}",
                hint=f"chown -R {user} {directory}",
            )


def require_open(paths: Iterable[Path]) -> None:
    """Whether an account that owns nothing can get at ``paths`` and read them.

    Raises:
        ServiceError: one of them is closed, or lies below a folder that is.
    """
    for path in paths:
        real = path.resolve()
        for folder in reversed(real.parents):
            if not _mode(folder) & stat.S_IXOTH:
                raise ServiceError(
                    f"{path} lies below {folder}, which is closed to others, so the service's own"
                    " account could not reach it",
                    hint="move it to /etc/wherry (a program to /opt), or name its owner: --user"
                    " NAME",
                )
        if not _mode(real) & stat.S_IROTH:
            raise ServiceError(
                f"{path} is closed to others, so the service's own account could not read it",
                hint=f"chmod o+r {path} (it holds no secret), or name its owner: --user NAME",
            )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        raise ServiceError(
            f"cannot look at {path}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
        ) from error
