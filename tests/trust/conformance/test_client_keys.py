"""Cases of the public TUF conformance suite, written anew: keys, thresholds, rotation.

Against the device's trust store. Section numbers are those of the specification's client workflow
(1.0.33). Every refresh is a new process over the kept state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata

from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import TrustError
from edge_contract.signing import ed25519_key, public_bytes
from tests.trust.conformance.client import Client, rotate, swap
from tests.trust.tuf_simulator import ROLE, Publisher

# --- keys and thresholds ---------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_role_signed_by_another_key_is_refused(role: str, client: Client) -> None:
    client.publisher.keys[role] = [Ed25519PrivateKey.generate()]
    assert client.refresh() is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_role_without_a_signature_is_refused(role: str, client: Client) -> None:
    client.publisher.keys[role] = []
    assert client.refresh() is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
@pytest.mark.parametrize(("signing", "good"), [(2, True), (1, False)])
def test_threshold_of_two(role: str, signing: int, good: bool, client: Client) -> None:
    publisher = client.publisher
    rotate(publisher, role, keep=1, new=1)
    delegator = publisher.targets if role == ROLE else publisher.root
    delegator.get_delegated_role(role).threshold = 2
    if role != ROLE:
        publisher.rotate_root()
    publisher.keys[role] = publisher.keys[role][:signing]
    publisher.bump()
    assert bool(client.refresh()) is good


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_signature_twice_does_not_count_twice(role: str, client: Client) -> None:
    publisher = client.publisher
    delegator = publisher.targets if role == ROLE else publisher.root
    publisher.root.add_key(ed25519_key(public_bytes(Ed25519PrivateKey.generate())), "targets")
    delegator.add_key(ed25519_key(public_bytes(Ed25519PrivateKey.generate())), role)
    delegator.get_delegated_role(role).threshold = 2
    publisher.rotate_root()
    publisher.keys[role] *= 2
    publisher.targets.version += 1
    publisher.bump()
    assert client.refresh() is None


def test_one_key_under_two_ids_is_one_vote_only_if_the_root_says_so(
    publisher: Publisher, tmp_path: Path
) -> None:
    """A root that lists a key twice under two ids is malformed for us: ids are fingerprints."""
    document = json.loads(publisher.roots[0])
    ids = document["signed"]["roles"]["timestamp"]["keyids"]
    document["signed"]["roles"]["timestamp"]["keyids"] = ids * 2
    with pytest.raises(TrustError):
        TrustStore(tmp_path, root=json.dumps(document).encode())


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_key_rotation(role: str, client: Client) -> None:
    assert client.refresh()
    rotate(client.publisher, role)
    if role != ROLE:
        client.publisher.rotate_root()
    client.publisher.targets.version += 1
    client.publisher.line.version += 1
    client.publisher.bump()
    assert client.refresh()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_revoked_key_counts_no_more(role: str, client: Client) -> None:
    assert client.refresh()
    stolen = client.publisher.keys[role]
    rotate(client.publisher, role)
    if role != ROLE:
        client.publisher.rotate_root()
    client.publisher.keys[role] = stolen
    client.publisher.targets.version += 1
    client.publisher.bump()
    assert client.refresh() is None


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ecdsa-p384", "rsa", "ed25519"])
def test_keys_of_other_kinds_verify(kind: str, client: Client) -> None:
    private: Any = {
        "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ecdsa-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": Ed25519PrivateKey.generate,
    }[kind]()
    key = SSlibKey.from_crypto(private.public_key())
    publisher = client.publisher
    role = publisher.root.get_delegated_role("timestamp")
    publisher.root.revoke_key(role.keyids[0], "timestamp")
    publisher.root.add_key(key, "timestamp")
    publisher.rotate_root()
    good = publisher.metadata_set()
    metadata: Metadata[Any] = Metadata.from_bytes(good.timestamp)
    metadata.sign(CryptoSigner(private, key))
    assert client.refresh(swap(good, timestamp=metadata.to_bytes()))


# --- recovery --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_fast_forward_is_recovered_from_by_rotating_the_key(role: str, client: Client) -> None:
    publisher = client.publisher
    before = getattr(publisher, role).version
    getattr(publisher, role).version = 10**6
    publisher.timestamp.version += 1
    assert client.refresh()
    getattr(publisher, role).version = before + 1
    for name in ("timestamp", "snapshot"):  # as the specification says, both
        rotate(publisher, name)
    publisher.rotate_root()
    publisher.timestamp.version = before + 2
    assert client.refresh()
    assert client.versions()[role] < 10**6
