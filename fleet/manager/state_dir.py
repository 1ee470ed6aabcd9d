"""The manager's directory: what lies where, and that only one manager runs on it.

```
fleet              the fleet's name
fleet.db           the store (SQLite)
keys/ tuf/ blobs/  the repository
broker/            the broker's settings, log and memory
identity/          the fleet's CA certificate, the issuer that the CA lent, the revocation list
api.json           where the running manager's API listens
token              what its callers have to show (0600)
manager.lock       held while a manager runs
```
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably
from edge_contract.topics import check_id
from fleet.errors import FleetError

DEFAULT_FLEET = "home"
TOKEN_HEADER = "x-wherry-token"  # noqa: S105 - the header's name, not a token


class ApiAddress(msgspec.Struct, frozen=True, kw_only=True):
    """``api.json``: the running manager. ``broker`` is where devices connect."""

    url: str
    pid: int
    fleet: str
    broker: str


def default_state_dir(environment: Mapping[str, str]) -> Path:
    """``wherry/fleet`` below the XDG state home."""
    home = environment.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "wherry" / "fleet"


class StateDir:
    """Paths below one directory; nothing is made before ``prepare``."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.store = self.path / "fleet.db"
        self.broker = self.path / "broker"
        self.identity = self.path / "identity"
        self._fleet = self.path / "fleet"
        self._api = self.path / "api.json"
        self._token = self.path / "token"
        self._lock = self.path / "manager.lock"

    def prepare(self, fleet: str = "") -> str:
        """Make the directory and settle the fleet's name.

        Args:
            fleet: the name wanted, "" for the one that it has (``home`` for a new one).

        Raises:
            FleetError: it has another name already, or cannot be written.
            ContractError: not a name.
        """
        wanted = check_id(fleet, what="fleet") if fleet else ""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._fleet.exists():
                write_durably(self._fleet, f"{wanted or DEFAULT_FLEET}\n".encode())
            name = self._fleet.read_text().strip()
        except OSError as error:
            raise FleetError(
                f"state directory {self.path}: {error.strerror}",
                hint="choose another one with --state DIR",
            ) from error
        if wanted and wanted != name:
            raise FleetError(
                f"{self.path} belongs to the fleet {name!r}, not {wanted!r}",
                hint=f"--fleet {name}, or another --state directory",
                exit_code=ExitCode.USAGE,
            )
        return name

    def existing(self) -> str:
        """The fleet's name; makes nothing, so that a mistyped path stays a mistake.

        Raises:
            FleetError: no fleet lies here, or it cannot be read.
        """
        if any((self.path / name).exists() for name in (self._fleet.name, "tuf")):
            return self.prepare()
        why = "nothing of a fleet in it" if self.path.is_dir() else "no such directory"
        raise FleetError(
            f"no fleet in the state directory {self.path}: {why}; nothing was made there",
            hint="name the fleet's own with --state DIR; a new fleet is made by edge-fleet up",
            exit_code=ExitCode.NOT_FOUND,
        )

    def lock(self) -> int:
        """Take the directory for this process; returns the handle to keep.

        Raises:
            FleetError: a manager runs on it.
        """
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            running = self._read_api()
            where = f" (process {running.pid}, {running.url})" if running else ""
            raise FleetError(
                f"a manager runs on {self.path} already{where}",
                hint="use that one, stop it, or choose another --state directory",
            ) from error
        return handle

    def is_locked(self) -> bool:
        """Whether a manager runs on this directory."""
        try:
            handle = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def make_token(self) -> str:
        """A fresh secret for this run's API, readable by the owner alone."""
        token = secrets.token_urlsafe(32)
        temporary = self._token.with_name(f".token.{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(token)
        temporary.replace(self._token)
        return token

    def announce(self, address: ApiAddress) -> None:
        """Write ``api.json``."""
        write_durably(self._api, msgspec.json.encode(address))

    def retract(self) -> None:
        """Remove ``api.json`` and the token: nobody listens any more."""
        self._api.unlink(missing_ok=True)
        self._token.unlink(missing_ok=True)

    def running(self) -> tuple[ApiAddress, str]:
        """Where the running manager listens, and the token to show it.

        Raises:
            FleetError: none runs on this directory, or its token is not readable.
        """
        address = self._read_api()
        if address is None or not self.is_locked():
            raise FleetError(
                f"no manager runs on {self.path}",
                hint="start one: edge-fleet up",
                exit_code=ExitCode.NETWORK,
            )
        try:
            return address, self._token.read_text()
        except OSError as error:
            raise FleetError(
                f"cannot read {self._token}: {error.strerror}",
                hint="run this as the user who started `edge-fleet up`",
                exit_code=ExitCode.AUTH,
            ) from error

    def _read_api(self) -> ApiAddress | None:
        try:
            return msgspec.json.decode(self._api.read_bytes(), type=ApiAddress)
        except (OSError, msgspec.DecodeError):
            return None
