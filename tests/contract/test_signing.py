"""Signatures on documents and on messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.errors import ContractError, TrustError
from edge_contract.signing import (
    public_bytes,
    sign_document,
    sign_message,
    verify_document,
    verify_message,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
VECTORS = Path(__file__).parent / "vectors"


def test_signatures_are_those_of_the_vectors() -> None:
    vector = json.loads((VECTORS / "signatures.json").read_text())
    assert public_bytes(KEY).hex() == vector["public"]
    assert sign_document(KEY, "application/x", b"hello").decode() == vector["document"]
    assert sign_message(KEY, "edge/v1/f/d/state/agent", b"hello") == vector["message"]


def test_a_document_verifies_with_any_trusted_key() -> None:
    signed = sign_document(KEY, "application/x", b"payload")
    keys = [public_bytes(OTHER), public_bytes(KEY)]
    payload, keyid = verify_document(signed, "application/x", keys, what="test")
    assert payload == b"payload"
    assert len(keyid) == 64


@pytest.mark.parametrize("keys", [[], [public_bytes(OTHER)]])
def test_a_document_by_a_stranger_is_refused(keys: list[bytes]) -> None:
    signed = sign_document(KEY, "application/x", b"payload")
    with pytest.raises(TrustError):
        verify_document(signed, "application/x", keys, what="test")


def test_a_document_of_another_type_is_refused() -> None:
    signed = sign_document(KEY, "application/x", b"payload")
    with pytest.raises(ContractError, match="payload type"):
        verify_document(signed, "application/y", [public_bytes(KEY)], what="test")


def test_a_changed_payload_is_refused() -> None:
    signed = json.loads(sign_document(KEY, "application/x", b"payload"))
    signed["payload"] = "cGF5bG9hZQ=="
    with pytest.raises(TrustError):
        verify_document(
            json.dumps(signed).encode(), "application/x", [public_bytes(KEY)], what="test"
        )


@given(st.binary(max_size=300))
def test_random_bytes_are_never_a_document(data: bytes) -> None:
    with pytest.raises(ContractError):
        verify_document(data, "application/x", [public_bytes(KEY)], what="fuzz")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"]), inner
            )
        ),
    )
)
def test_odd_json_is_never_a_document(value: object) -> None:
    with pytest.raises(ContractError):
        verify_document(
            json.dumps(value).encode(), "application/x", [public_bytes(KEY)], what="fuzz"
        )


@pytest.mark.parametrize("signers", [[1, "a"], [None, "a"], [1.5], [True, "a"], [None]])
def test_signers_that_are_no_text_are_no_document(signers: list[object]) -> None:
    signed = json.loads(sign_document(KEY, "application/x", b"{}"))
    signed["signatures"] = [{"keyid": signer, "sig": "AA=="} for signer in signers]
    with pytest.raises(ContractError, match="key ids in text"):
        verify_document(
            json.dumps(signed).encode(), "application/x", [public_bytes(KEY)], what="test"
        )


def test_a_refusal_is_no_longer_for_a_thousand_signers() -> None:
    signed = json.loads(sign_document(KEY, "application/x", b"{}"))
    signed["signatures"] = [{"keyid": f"{n:099}", "sig": "AA=="} for n in range(900)]
    with pytest.raises(TrustError) as refused:
        verify_document(
            json.dumps(signed).encode(), "application/x", [public_bytes(KEY)], what="test"
        )
    assert len(refused.value.message) < 500


def test_a_message_does_not_move_to_another_topic() -> None:
    signature = sign_message(KEY, "edge/v1/f/one/state/agent", b"{}")
    verify_message(public_bytes(KEY), "edge/v1/f/one/state/agent", b"{}", signature)
    with pytest.raises(TrustError):
        verify_message(public_bytes(KEY), "edge/v1/f/two/state/agent", b"{}", signature)


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "A" * 88, "é"])
def test_bad_message_signatures_are_refused(signature: str) -> None:
    with pytest.raises(TrustError):
        verify_message(public_bytes(KEY), "edge/v1/f/one/state/agent", b"{}", signature)
