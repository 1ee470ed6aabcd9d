"""Whoever follows the page on secure fleets word for word gets what it promises."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.agent.bundles import digits_bundle
from tests.docs.test_tutorial import BIN, ROOT, blocks
from tests.programs import require_program

PAGE = "docs/how-to/secure-fleet.md"


@pytest.mark.debian
@pytest.mark.timeout(240)
def test_enrol_install_revoke_word_for_word(tmp_path: Path) -> None:
    require_program("mosquitto")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    digits_bundle(tmp_path / "tutorial" / "build" / "bundle", "1.0.0")
    script = "set -e\n" + "\n".join(f"echo BLOCK {n}\n{b}" for n, b in enumerate(blocks(PAGE)))
    with (tmp_path / "output").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(200)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it failed before it began anything
                os.killpg(shell.pid, signal.SIGTERM)
    text = (tmp_path / "output").read_text()
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
    assert "mosquitto told" in text
    assert (tmp_path / "secure" / "device" / "device-key.pem").stat().st_mode & 0o077 == 0
    key = (tmp_path / "secure" / "ca" / "ca.key.pem").read_text()
    assert "ENCRYPTED" in key
