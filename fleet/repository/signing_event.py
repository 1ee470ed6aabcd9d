"""A signing event: a proposed change of offline roles, on its way through its signers' hands.

One file. It carries what stands now (``base``), what is proposed with the signatures given so far,
and who asked. Nothing in it is believed: a signer checks ``base`` against the root and the
versions that it knows, and signs what the difference shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError, ExitCode, TrustError
from edge_contract.layout import write_durably
from edge_contract.topics import check_id
from fleet.errors import FleetError
from fleet.repository.edition_signer import Draft
from fleet.repository.role_files import to_bytes

EVENT_LIMIT_BYTES = 4 << 20
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,120}")

Purpose = Literal["publish", "retire", "floor", "keys", "directors", "renew", "leap"]


class SigningEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The event. Times are unix seconds of the manager's clock.

    id: names the file; made of the roles and versions proposed.
    purpose: what kind of change it is; anything outside that kind is refused by the signer.
    roots: every root in force, version 1 first.
    base: role -> the file that stands now (``targets`` and the lines that are touched).
    proposed: role -> the file proposed.
    """

    kind: Literal["wherry-signing-event"] = "wherry-signing-event"
    schema: Literal[1] = 1
    id: str
    fleet: str
    purpose: Purpose
    asked_by: str
    asked_at: float
    reason: str = ""
    roots: list[bytes]
    base: dict[str, bytes]
    base_directors: bytes
    proposed: dict[str, bytes]
    directors: bytes
    leap: int = 0

    def draft(self) -> Draft:
        """What is proposed, as metadata.

        Raises:
            TrustError: a file is not TUF metadata.
        """
        return Draft(parse_roles(self.proposed), self.directors, self.leap)


def parse_roles(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Metadata of roots, targets and lines.

    Raises:
        TrustError: a file is not that.
    """
    found: dict[str, Any] = {}
    for role, data in files.items():
        try:
            metadata: Any = Metadata.from_bytes(data)
        except RepositoryError as error:
            raise TrustError(f"signing event: {role} is not TUF metadata: {error}") from error
        expected = Root if role == Root.type else Targets
        if not isinstance(metadata.signed, expected):
            raise TrustError(f"signing event: {role} holds {metadata.signed.type} metadata")
        found[role] = metadata
    return found


def with_draft(event: SigningEvent, draft: Draft) -> SigningEvent:
    """The event with the signatures of ``draft``."""
    files = {role: to_bytes(metadata) for role, metadata in draft.roles.items()}
    return msgspec.structs.replace(event, proposed=files)


def event_id(draft: Draft) -> str:
    """The name of the event of a draft: its roles and their versions."""
    roles = sorted(draft.roles, key=lambda role: (role != Root.type, role == Targets.type, role))
    return ".".join(f"{role}-{draft.roles[role].signed.version}" for role in roles)[:120]


def read_event(path: Path) -> SigningEvent:
    """Read an event's file.

    Raises:
        FleetError: it cannot be read.
        ContractError: not an event.
    """
    try:
        with path.open("rb") as file:
            data = file.read(EVENT_LIMIT_BYTES + 1)
    except OSError as error:
        raise FleetError(
            f"cannot read {path}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
        ) from error
    try:
        event = decode_json(data, SigningEvent, what=str(path), limit_bytes=EVENT_LIMIT_BYTES)
    except ContractError as error:
        raise ContractError(
            f"no signing event: {error.message}",
            hint="expected the file that --event wrote; edge-fleet event list says where it lies",
        ) from error
    if not _ID.fullmatch(event.id):
        raise ContractError(f"{path}: {event.id[:60]!r} is no name of an event")
    check_id(event.fleet, what=f"{path}: fleet")
    return event


def write_event(path: Path, event: SigningEvent) -> None:
    """Write an event's file."""
    write_durably(path, encode_json(event))


def is_event(path: Path) -> bool:
    """Whether a file looks like an event rather than like a bundle."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"wherry-signing-event"' in file.read(200)


class OpenEvents:
    """The events that wait for signatures, below the manager's state: ``signing/ID.json``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[SigningEvent]:
        """Every open event, by id.

        Raises:
            FleetError: the file of one is damaged.
        """
        return [self._read(path) for path in sorted(self._directory.glob("*.json"))]

    def find(self, name: str) -> SigningEvent:
        """One open event.

        Raises:
            FleetError: none has this id.
        """
        for event in self.all():
            if event.id == name:
                return event
        have = ", ".join(event.id for event in self.all()) or "none"
        raise FleetError(
            f"no signing event {name!r} is open (any more); open: {have}",
            hint="edge-fleet audit show says what was published; edge-fleet event list, what waits",
            exit_code=ExitCode.NOT_FOUND,
        )

    def keep(self, event: SigningEvent) -> Path:
        """Write it; returns where."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{event.id}.json"
        write_event(path, event)
        return path

    def is_damaged(self, name: str) -> bool:
        """Whether there is a file of this event, and it cannot be read as one."""
        path = self._directory / f"{name}.json"
        if not _ID.fullmatch(name) or not path.is_file():
            return False
        try:
            read_event(path)
        except ContractError:
            return True
        return False

    def close(self, name: str) -> None:
        """Forget an event: it was committed or cancelled."""
        (self._directory / f"{name}.json").unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> SigningEvent:
        try:
            return read_event(path)
        except ContractError as error:
            raise FleetError(
                error.message,
                hint=f"edge-fleet event cancel {path.stem}, and ask for the change anew",
            ) from error

    def require_free(self, roles: set[str]) -> None:
        """Signing events are serialised: one at a time may change a role.

        Raises:
            FleetError: an open event proposes one of ``roles``.
        """
        for event in self.all():
            shared = roles & set(event.proposed)
            if shared:
                raise FleetError(
                    f"{', '.join(sorted(shared))}: the signing event {event.id!r} ({event.purpose},"
                    f" asked by {event.asked_by}) is open; versions are signed one after another",
                    hint=f"have it signed and published, or: edge-fleet event cancel {event.id}",
                )
