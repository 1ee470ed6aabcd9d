"""A bundle goes into a real registry and comes back with the same digest."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_contract.layout import BundleDir
from tests.compiler.conftest import Command, Small
from tests.programs import require_program

pytestmark = pytest.mark.debian


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry on a free port of loopback; yields ``host:port``."""
    program = require_program("docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage:\n  filesystem:\n    rootdirectory: {tmp_path / 'storage'}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
    )
    log = (tmp_path / "registry.log").open("wb")
    process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, (tmp_path / "registry.log").read_text()
                assert time.monotonic() < deadline, "the registry did not answer in 30 s"
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def test_a_bundle_survives_a_real_registry_with_the_same_digest(
    small: Small, registry: str, edge_compile: Command, tmp_path: Path
) -> None:
    skopeo = require_program("skopeo")
    ended = edge_compile(small.arguments(tmp_path / "out", "--json"))
    digest = ended.json["bundle_digest"]
    remote = f"docker://{registry}/models/stripes:1.0.0"
    there = f"oci:{tmp_path / 'out' / 'bundle'}:1.0.0"
    back = f"oci:{tmp_path / 'back'}:1.0.0"
    copy = [skopeo, "--insecure-policy", "copy", "--preserve-digests", "--quiet"]
    subprocess.run([*copy, "--dest-tls-verify=false", there, remote], check=True)
    subprocess.run([*copy, "--src-tls-verify=false", remote, back], check=True)
    returned = BundleDir(tmp_path / "back")
    assert returned.digest == digest
    returned.verify()
    by_digest = f"docker://{registry}/models/stripes@{digest}"
    raw = subprocess.run(
        [skopeo, "inspect", "--raw", "--tls-verify=false", by_digest],
        check=True,
        capture_output=True,
    ).stdout
    assert raw == returned.manifest_bytes
