"""Find a device profile: an explicit path, then the system directory, then the bundled ones."""

from __future__ import annotations

from pathlib import Path

import msgspec

from device_configs.suggest import suggest
from edge_contract.errors import ContractError, ExitCode
from edge_contract.profile import DeviceProfile

SYSTEM_DIR = Path("/etc/wherry/device_configs")
BUNDLED_DIR = Path(__file__).parent / "profiles"


def load_profile(name_or_path: str, *, system_dir: Path = SYSTEM_DIR) -> DeviceProfile:
    """The profile called ``name_or_path``, or in the file of that path.

    Raises:
        ContractError: no such profile, unreadable, or malformed.
    """
    explicit = Path(name_or_path)
    if explicit.suffix == ".toml":
        return _read(explicit)
    for directory in (system_dir, BUNDLED_DIR):
        path = directory / f"{name_or_path}.toml"
        if path.is_file():
            return _read(path)
    known = profile_ids(system_dir)
    meant = suggest(name_or_path, known)
    guess = f"did you mean {' or '.join(meant)}? " if meant else ""
    raise ContractError(
        f"no device profile {name_or_path!r}; {guess}known are {', '.join(known)}",
        hint=f"{meant[0]}, or the path of a .toml profile"
        if meant
        else "name one of these, or give the path of a .toml profile",
        exit_code=ExitCode.NOT_FOUND,
    )


def profile_ids(system_dir: Path = SYSTEM_DIR) -> list[str]:
    """Every profile that ``load_profile`` finds by name, sorted."""
    found = {path.stem for path in BUNDLED_DIR.glob("*.toml")}
    if system_dir.is_dir():
        found |= {path.stem for path in system_dir.glob("*.toml")}
    return sorted(found)


def _read(path: Path) -> DeviceProfile:
    try:
        profile = msgspec.toml.decode(path.read_bytes(), type=DeviceProfile)
    except OSError as error:
        raise ContractError(
            f"cannot read device profile {path}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
        ) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ContractError(f"{path}: not a device profile: {error}") from error
    if profile.id != path.stem:
        raise ContractError(f"{path}: the profile says id {profile.id!r}, its file {path.stem!r}")
    return profile
