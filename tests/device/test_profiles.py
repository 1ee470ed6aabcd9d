"""Device profiles: every board is there, every figure has a source, nonsense is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from device_configs.loader import BUNDLED_DIR, load_profile, profile_ids
from device_configs.suggest import suggest
from edge_contract.errors import ContractError
from edge_contract.profile import DeviceProfile

BOARDS = {
    "raspberry-pi-zero-2-w", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5",
    "jetson-nano", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin",
    "generic-arm64", "generic-x86-64",
}  # fmt: skip


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A system directory without profiles."""
    return tmp_path / "none"


def test_every_board_has_a_profile(nowhere: Path) -> None:
    assert set(profile_ids(nowhere)) == BOARDS


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_figure_says_where_it_came_from(name: str, nowhere: Path) -> None:
    profile = load_profile(name, system_dir=nowhere)
    assert profile.unsourced() == []
    fields = {field.name for field in msgspec.structs.fields(DeviceProfile)}
    assert set(profile.sources) <= fields, "a source for a figure that does not exist"
    assert {"memory_mb", "threads", "channel_step", "cores"} <= set(profile.sources)


def test_a_figure_without_a_source_is_found(nowhere: Path) -> None:
    profile = load_profile("raspberry-pi-4", system_dir=nowhere)
    sources = {**profile.sources, "memory_mb": "  "}
    del sources["features"]
    bare = msgspec.structs.replace(profile, sources=sources)
    assert bare.unsourced() == ["memory_mb", "features"]


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_profile_agrees_with_itself(name: str, nowhere: Path) -> None:
    profile = load_profile(name, system_dir=nowhere)
    assert profile.threads <= profile.cores
    cpu_scheme = "s8s8" if profile.arch == "aarch64" else "u8s8"
    assert profile.scheme == ("s8s8-symmetric" if profile.accelerator else cpu_scheme)
    assert bool(profile.qemu_cpu) == (profile.arch == "aarch64")
    has_dotprod = profile.cpu in ("Cortex-A76", "Cortex-A78AE")
    assert ("dotprod" in profile.features) == has_dotprod
    assert (profile.accelerator is not None) == ("orin" in name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("memory_mb = 1024", "memory_mb = 0"),
        ("threads = 1", "threads = 0"),
        ("channel_step = 16", "channel_step = -8"),
        ('scheme = "s8s8"', 'scheme = "s4s4"'),
        ('"crc32"', '"turbo"'),
        ("cores = 4", "cores = 4\nclock_mhz = 1500"),
    ],
)
def test_a_malformed_profile_is_refused(old: str, new: str, tmp_path: Path) -> None:
    text = (BUNDLED_DIR / "raspberry-pi-4.toml").read_text()
    assert text.count(old) == 1
    path = tmp_path / "raspberry-pi-4.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ContractError, match="not a device profile"):
        load_profile(str(path))


def test_a_profile_of_an_older_release_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text(
        'id = "my-board"\ntitle = "Mine"\narch = "aarch64"\nruntime = "onnxruntime"\n'
        'scheme = "s8s8"\nmemory_mb = 512\n'
    )
    assert load_profile(str(path)).cores == 1


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((name, ["raspberry-pi-4"]) for name in ("rpi4", "pi4", "RPi_4", "Raspberry Pi 4")),
        ("x86-64", ["generic-x86-64"]),
        ("x86_64", ["generic-x86-64"]),
        ("aarch64", ["generic-arm64"]),
        ("orin", ["jetson-agx-orin", "jetson-orin-nano", "jetson-orin-nx"]),
        ("zero2w", ["raspberry-pi-zero-2-w"]),
        ("jetson-orin-nanno", ["jetson-orin-nano"]),
        ("toaster", []),
        ("", []),
    ],
)
def test_a_name_that_no_profile_has_is_understood(written: str, meant: list[str]) -> None:
    assert suggest(written, sorted(BOARDS))[: len(meant) or None] == meant
