"""Devices of a medium that the fleet has never heard of: what they say of themselves in a file.

An order on a medium names a device by its key, and a device that was never online has told nobody
its key. So somebody carries ``edge-agent status --json`` from it. That is no enrolment: it makes an
approved version installable there, and nothing that the device says is believed for it.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edge_contract.codec import decode_json
from edge_contract.errors import ContractError, ExitCode
from edge_contract.media import MediaDevice
from edge_contract.profile import ProfileId
from edge_contract.topics import check_id
from fleet.errors import FleetError

_KEY = re.compile(r"[0-9a-f]{64}")


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    """Of all that ``edge-agent status --json`` says, what an order on a medium needs."""

    fleet: str
    device: str
    line: str
    hardware: ProfileId
    device_key: str


def read_status(path: Path, *, fleet: str, line: str) -> MediaDevice:
    """The device whose status lies in ``path``.

    Raises:
        FleetError: no such file, not a status, or of another fleet or line.
    """
    try:
        said = decode_json(path.read_bytes(), _Status, what=str(path))
        check_id(said.device, what=f"{path}: device")
    except OSError as error:
        raise FleetError(
            f"cannot read {path}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
        ) from error
    except ContractError as error:
        raise FleetError(
            error.message, hint=f"on the device: edge-agent status --json > {path.name}"
        ) from error
    if (said.fleet, said.line) != (fleet, line):
        raise FleetError(
            f"{path}: {said.device} is of line {said.line!r} in the fleet {said.fleet!r}, expected"
            f" {line!r} in {fleet!r}",
            hint="the agent's configuration on the device says which",
        )
    if not _KEY.fullmatch(said.device_key):
        raise FleetError(
            f"{path}: {said.device} has no key: {said.device_key[:80]!r}",
            hint="on the device: edge-agent doctor",
        )
    return MediaDevice(device=said.device, device_key=said.device_key, hardware=said.hardware)
