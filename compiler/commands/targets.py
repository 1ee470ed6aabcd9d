"""``edge-compile targets``: the device profiles, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.commands.terminal import emit, json_option, table
from edge_contract.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from edge_contract.profile import DeviceProfile


@click.command()
@json_option
def targets(as_json: bool) -> int:
    """List the device profiles that --target takes.

    JSON adds where each figure came from. Exits with 1 when a profile is malformed; the others are
    listed all the same.
    """
    import msgspec

    from device_configs.loader import SYSTEM_DIR

    profiles, broken = read_profiles(SYSTEM_DIR)
    rows = [
        (
            p.id,
            f"{p.cores} x {p.cpu or p.arch}",
            f"{p.memory_mb} MB",
            p.runtime,
            p.scheme,
            str(p.threads),
            str(p.channel_step),
            ", ".join(p.features) or "-",
        )
        for p in profiles
    ]
    head = ("target", "cpu", "memory", "runtime", "int8", "threads", "channels", "instructions")
    lines = table(head, rows)
    lines += [f"{p.id}: {p.caveat}" for p in profiles if p.caveat]
    lines += [f"malformed: {text}" for text in broken.values()]
    value = {"targets": msgspec.to_builtins(profiles), "malformed": broken}
    emit(value, lines, as_json=as_json)
    return ExitCode.FAILURE if broken else ExitCode.OK


def read_profiles(system_dir: Path) -> tuple[list[DeviceProfile], dict[str, str]]:
    """Every profile that can be read, sorted by id, and why the others cannot, by name."""
    from device_configs.loader import load_profile, profile_ids
    from edge_contract.errors import ContractError

    profiles: list[DeviceProfile] = []
    broken: dict[str, str] = {}
    for name in profile_ids(system_dir):
        try:
            profiles.append(load_profile(name, system_dir=system_dir))
        except ContractError as error:
            broken[name] = error.message
    return profiles, broken
