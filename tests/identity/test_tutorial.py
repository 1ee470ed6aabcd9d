"""Whoever follows the page on secure fleets word for word gets what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.bundles import digits_bundle
from tests.docs.reader import blocks, follow
from tests.programs import require_program

PAGE = "docs/how-to/secure-fleet.md"


@pytest.mark.debian
@pytest.mark.timeout(240)
def test_enrol_install_revoke_word_for_word(tmp_path: Path) -> None:
    require_program("mosquitto")
    digits_bundle(tmp_path / "tutorial" / "build" / "bundle", "1.0.0")
    steps = [f"echo BLOCK {number}\n{block}" for number, block in enumerate(blocks(PAGE))]
    code, text = follow("\n".join(steps), tmp_path, timeout_s=200)
    logs = "".join(
        (tmp_path / "secure" / name).read_text()
        for name in ("agent.log", "broker.log")
        if (tmp_path / "secure" / name).exists()
    )
    assert code == 0, text + logs
    blocks_run = text.count("BLOCK ")
    assert blocks_run == len(blocks(PAGE)) == 6
    assert "shop/cam-1 is enrolled" in text
    assert "digits 1.0.0" in text
    assert "cam-1 is revoked" in text
    assert "mosquitto told; connections of cam-1 are cut" in text
    assert (tmp_path / "secure" / "device" / "device-key.pem").stat().st_mode & 0o077 == 0
    key = (tmp_path / "secure" / "ca" / "ca.key.pem").read_text()
    assert "ENCRYPTED" in key
