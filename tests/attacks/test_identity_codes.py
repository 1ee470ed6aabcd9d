"""Codes and requests that somebody made up, found, stole or kept: the desk refuses each."""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.codec import encode_json
from edge_contract.enrol_code import EnrolCode, make_code, parse_code
from edge_contract.errors import ContractError
from edge_contract.messages import CertificateAsk
from edge_contract.signing import public_bytes, sign_message
from fleet.identity.authority import make_authority, open_authority
from fleet.identity.codes import new_code
from fleet.identity.desk import CODE_FAILURES_MAX, Answered, IdentityDesk, read_ask
from fleet.identity.issuers import Issuers
from fleet.store import Store, devices, identity, open_store
from fleet.store.devices import DeviceRow

FLEET = "shop"
NOW_S = 1_800_000_000.0
TOPIC = f"edge/v1/{FLEET}/_fleet/enroll/code.{'0' * 32}"


@dataclass
class Desk:
    """A desk on a real store, with a clock that a test sets."""

    store: Store
    desk: IdentityDesk

    def code(self, **wish: Any) -> EnrolCode:
        options = {"who": "t", "now_s": NOW_S, "expires_s": 3600.0, **wish}
        code, row = new_code(FLEET, self.desk.issuers.ca_fingerprint, **options)
        with self.store.write() as tx:
            identity.add_code(tx, row)
        return code

    def ask(
        self,
        code: EnrolCode | None,
        key: Any = None,
        *,
        device: str = "cam-1",
        name: str = "",
        signer: Ed25519PrivateKey | None = None,
        now_s: float = NOW_S,
        csr: str = "",
    ) -> Answered:
        key = key or Ed25519PrivateKey.generate()
        ask = CertificateAsk(
            device=device,
            csr=csr or request(key, name or f"{FLEET}/{device}"),
            code=code.id if code else "",
            hardware="generic-x86-64",
            line="digits",
            agent_version="1",
        )
        payload = encode_json(ask)
        with_key = signer or (code.key() if code else key)
        signature = sign_message(with_key, TOPIC, payload)
        with self.store.write() as tx:
            row = devices.get_device(tx, device)
            read = read_ask(payload, TOPIC)
            done = self.desk.first(tx, read, row, TOPIC, payload, signature, now_s=now_s)
            if done.row is not None and row is None:
                devices.add_device(tx, done.row)
            return done

    def row(self, device: str) -> DeviceRow | None:
        with self.store.read() as tx:
            return devices.get_device(tx, device)


def request(key: Any, name: str, *, signer: Any = None) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    algorithm = None if isinstance(signer or key, Ed25519PrivateKey) else hashes.SHA256()
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return made.public_bytes(Encoding.PEM).decode()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manager's directory with an issuer and an empty store."""
    tmp_path = tmp_path_factory.mktemp("installed")
    passphrase = "correct horse battery"
    make_authority(tmp_path / "ca", FLEET, passphrase, now_s=NOW_S)
    authority = open_authority(tmp_path / "ca", passphrase)
    issuers = Issuers(tmp_path / "identity", FLEET)
    signed = authority.sign_issuer(issuers.request(), now_s=NOW_S, days=180)
    ca = (tmp_path / "ca" / "ca.crt.pem").read_bytes()
    issuers.install(signed.encode(), ca, now_s=NOW_S, revoked=[], distrust_old=False)
    open_store(tmp_path / "fleet.db", fleet=FLEET).close()
    return tmp_path


@pytest.fixture
def desk(installed: Path, tmp_path: Path) -> Iterator[Desk]:
    shutil.copy(installed / "fleet.db", tmp_path)
    store = open_store(tmp_path / "fleet.db", fleet=FLEET)
    yield Desk(store, IdentityDesk(Issuers(installed / "identity", FLEET)))
    store.close()


def refused(done: Answered) -> str:
    assert not done.answer.accepted
    assert not done.answer.chain
    assert done.row is None
    return done.answer.reason


def test_a_good_code_is_granted(desk: Desk) -> None:
    assert desk.ask(desk.code()).answer.accepted


def test_stolen_after_use_the_code_is_worth_nothing(desk: Desk) -> None:
    code, key = desk.code(), Ed25519PrivateKey.generate()
    assert desk.ask(code, key).answer.accepted
    assert "used already" in refused(desk.ask(code))
    assert "used already" in refused(desk.ask(code, device="cam-2"))
    assert "used already" in refused(desk.ask(code, key, device="cam-2"))
    assert desk.row("cam-2") is None


def test_expired_code_is_refused_but_finishes_for_the_key_that_had_begun(desk: Desk) -> None:
    late_s = NOW_S + 3601
    assert "expired" in refused(desk.ask(desk.code(), now_s=late_s))
    code, key = desk.code(), Ed25519PrivateKey.generate()
    assert desk.ask(code, key).answer.accepted
    assert desk.ask(code, key, now_s=late_s).answer.accepted


def test_forged_code_is_refused_in_the_words_of_an_unknown_one(desk: Desk) -> None:
    real = desk.code()
    forged = EnrolCode(real.fleet, real.id, secrets.token_bytes(16), real.ca)
    unknown = make_code(FLEET, secrets.token_bytes(21), real.ca)
    assert refused(desk.ask(forged)) == refused(desk.ask(unknown)) == "this code is not valid"
    assert desk.row("cam-1") is None


def test_brute_force_burns_the_code(desk: Desk) -> None:
    code = desk.code()
    for _ in range(CODE_FAILURES_MAX):
        refused(desk.ask(code, signer=Ed25519PrivateKey.generate()))
    assert refused(desk.ask(code)) == "this code is not valid"


def test_code_of_another_device_is_refused(desk: Desk) -> None:
    code = desk.code(device="cam-7")
    assert "for the device cam-7" in refused(desk.ask(code))
    assert desk.ask(code, device="cam-7").answer.accepted


def test_store_thief_cannot_use_what_it_finds(desk: Desk) -> None:
    code = desk.code()
    with desk.store.read() as tx:
        row = identity.get_code(tx, code.id)
    assert row is not None
    assert code.secret.hex() not in str(row)
    stolen = EnrolCode(FLEET, code.id, bytes.fromhex(row.verifier)[:16], code.ca)
    refused(desk.ask(stolen))


@pytest.mark.parametrize(
    "name",
    [
        f"{FLEET}/cam-2",
        f"{FLEET}/_manager",
        "other/cam-1",
        f"{FLEET}/+",
        f"{FLEET}/#",
        f"{FLEET}/cam-1/x",
        "cam-1",
        "*",
    ],
)
def test_request_with_another_common_name_is_refused(desk: Desk, name: str) -> None:
    assert "expected the common name shop/cam-1" in refused(desk.ask(desk.code(), name=name))


@pytest.mark.parametrize("device", ["_manager", "_observer", "+", "#", "a/b", "", "A"])
def test_names_that_no_device_may_have_are_refused(desk: Desk, device: str) -> None:
    refused(desk.ask(desk.code(), device=device, name=f"{FLEET}/{device}"))


def test_a_name_longer_than_a_certificate_holds_does_not_end_the_manager(desk: Desk) -> None:
    name = x509.NameAttribute(NameOID.COMMON_NAME, f"{FLEET}/{'x' * 63}", _validate=False)
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([name]))
    csr = made.sign(Ed25519PrivateKey.generate(), None).public_bytes(Encoding.PEM).decode()
    assert "at most 64 characters" in refused(desk.ask(desk.code(), device="x" * 63, csr=csr))


def test_two_common_names_are_refused(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    names = [x509.NameAttribute(NameOID.COMMON_NAME, f"{FLEET}/{n}") for n in ("cam-1", "_manager")]
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, None)
    csr = made.public_bytes(Encoding.PEM).decode()
    assert "expected the common name" in refused(desk.ask(desk.code(), key, csr=csr))


def test_request_that_its_key_did_not_sign_is_refused(desk: Desk) -> None:
    der = bytearray(
        x509.load_pem_x509_csr(
            request(Ed25519PrivateKey.generate(), f"{FLEET}/cam-1").encode()
        ).public_bytes(Encoding.DER)
    )
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    csr = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    assert "not signed by the key" in refused(desk.ask(desk.code(), csr=csr))


def test_weak_and_other_kinds_of_keys_are_refused(desk: Desk) -> None:
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        ec.generate_private_key(ec.SECP256R1()),
    ):
        csr = request(key, f"{FLEET}/cam-1", signer=key)
        assert "expected an Ed25519 key" in refused(desk.ask(desk.code(), csr=csr))


def test_wanted_extensions_are_not_granted(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    wish = x509.BasicConstraints(ca=True, path_length=None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{FLEET}/cam-1")])
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(wish, critical=True)
        .sign(key, None)
    )
    done = desk.ask(desk.code(), key, csr=made.public_bytes(Encoding.PEM).decode())
    leaf = x509.load_pem_x509_certificate(done.answer.chain.encode())
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_revoked_key_gets_nothing_with_any_code(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    desk.desk.revoked = {public_bytes(key.public_key()).hex()}
    assert "revoked" in refused(desk.ask(desk.code(), key))
    assert "revoked" in refused(desk.ask(None, key))


def test_without_code_only_the_pinned_key_counts(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    assert "needs a code" in refused(desk.ask(None, key))
    assert desk.ask(desk.code(), key).answer.accepted
    assert desk.ask(None, key, now_s=NOW_S + 400 * 86400).answer.accepted is False
    assert desk.ask(None, key).answer.accepted
    assert "needs a code" in refused(desk.ask(None))
    refused(desk.ask(None, key, signer=Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_malformed_requests_are_refused(desk: Desk, size: int) -> None:
    refused(desk.ask(desk.code(), csr="x" * size if size else "-----BEGIN"))


@given(st.text(max_size=200))
def test_any_text_is_a_code_or_a_contract_error(text: str) -> None:
    try:
        parse_code(text)
    except ContractError:
        return


@given(st.binary(min_size=21, max_size=21), st.integers(0, 200), st.sampled_from("abc234z"))
def test_one_wrong_character_is_noticed(random: bytes, at: int, instead: str) -> None:
    text = str(make_code(FLEET, random, bytes(16)))
    assert parse_code(text.upper() + "\n") == make_code(FLEET, random, bytes(16))
    at %= len(text)
    changed = text[:at] + instead + text[at + 1 :]
    if changed != text:
        with pytest.raises(ContractError):
            parse_code(changed)


@given(st.binary(max_size=400))
def test_any_bytes_are_an_ask_or_a_contract_error(data: bytes) -> None:
    try:
        read_ask(data, "test")
    except ContractError:
        return
