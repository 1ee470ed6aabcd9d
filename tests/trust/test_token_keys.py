"""Keys in a token, against SoftHSM: a whole ceremony, three kinds of keys, and what is refused."""

from __future__ import annotations

import builtins
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.repository.key_files import (
    open_key_file,
    read_public_key,
    read_token,
    write_token_key_file,
)
from fleet.repository.key_status import key_status
from fleet.repository.token_keys import _unwrapped, find_token_key, make_token_key
from fleet.repository.token_uri import TokenUri
from tests.programs import require_program
from tests.trust.test_runbooks import Person

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "123456"
PAYLOAD = b"what a signer is asked to sign"
NEXT_SERIAL = iter(range(1000))


@pytest.fixture(scope="module")
def token_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SoftHSM reads its settings once a process, so all tests of this file share one folder."""
    require_program("softhsm2-util")
    home = tmp_path_factory.mktemp("softhsm")
    (home / "tokens").mkdir()
    (home / "conf").write_text(f"directories.tokendir = {home / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(home / "conf"))
        yield home


@pytest.fixture
def new_token(token_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TokenUri]:
    """Makes an empty token; SoftHSM shows it to a library that starts anew."""
    monkeypatch.setenv("PYKCS11LIB", LIBRARY)

    def make() -> TokenUri:
        label = f"token {next(NEXT_SERIAL)} #ü"
        command = ["softhsm2-util", "--init-token", "--free", "--label", label]
        subprocess.run(
            [*command, "--so-pin", "12345678", "--pin", PIN], check=True, capture_output=True
        )
        import pkcs11

        pkcs11.lib(LIBRARY).reinitialize()
        return TokenUri(token=label)

    return make


NewToken = Callable[[], TokenUri]


# --- the way of the how-to -------------------------------------------------------------------


def test_ceremony_with_tokens_is_followed_word_for_word(tmp_path: Path) -> None:
    require_program("softhsm2-util")
    person = Person(tmp_path)
    person.follow("token-keys.md")
    assert person.check() == {"1.0.0", "1.1.0"}
    owners = {role.owners[0]: role.threshold for role in _status(person) if role.role == "root"}
    assert owners == {"ada-2": 2}
    # The device followed the roots, and none of it would do without the tokens' signatures.
    newest = TrustStore(tmp_path / "device")
    assert newest.verify(person.metadata(), reference_s=person.clock.wall_s())
    assert {"ada.key", "bob.key"} <= {path.name for path in tmp_path.glob("*.key")}
    for name in ("ada", "bob", "ada-2"):
        assert b'"sealed":""' in (tmp_path / f"{name}.key").read_bytes()


def _status(person: Person) -> list[Any]:
    return key_status(person.repository.archive)


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "ecdsa-p384"])
def test_key_made_in_a_token_signs_and_never_leaves_it(
    kind: str, new_token: NewToken, tmp_path: Path
) -> None:
    import pkcs11

    place, key = make_token_key(new_token(), "ada", PIN, kind)
    write_token_key_file(tmp_path, "ada", place, key)
    assert read_public_key(tmp_path / "ada.pub").tuf_key().keyid == key.keyid
    assert read_token(tmp_path / "ada.key") == place
    held = open_key_file(tmp_path / "ada.key", PIN)
    signature = held.signer.sign(PAYLOAD)
    held.public.tuf_key().verify_signature(signature, PAYLOAD)
    token = pkcs11.lib(LIBRARY).get_token(token_label=place.token)
    with token.open(user_pin=PIN) as session:
        private = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, id=place.id)
        assert not private[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.PKCS11Error):
            private[pkcs11.Attribute.VALUE]


def test_key_that_asks_for_the_pin_at_each_signature_gets_it(
    new_token: NewToken, tmp_path: Path
) -> None:
    import pkcs11
    from pkcs11 import Attribute, KeyType

    place = new_token()
    token = pkcs11.lib(LIBRARY).get_token(token_label=place.token)
    with token.open(rw=True, user_pin=PIN) as session:
        curve = {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        domain = session.create_domain_parameters(KeyType.EC, curve, local=True)
        always = {Attribute.ALWAYS_AUTHENTICATE: True, Attribute.PRIVATE: True}
        domain.generate_keypair(id=b"\2", label="9c", store=True, private_template=always)
    found, key = find_token_key(TokenUri(token=place.token, id=b"\2"), PIN)
    write_token_key_file(tmp_path, "ada", found, key)
    assert open_key_file(tmp_path / "ada.key", PIN).signer.sign(PAYLOAD).keyid == key.keyid


def test_name_that_a_token_holds_is_not_given_twice(new_token: NewToken) -> None:
    place = new_token()
    made, key = make_token_key(place, "ada", PIN, "ed25519")
    with pytest.raises(FleetError, match="holds a key 'ada' already"):
        make_token_key(place, "ada", PIN, "ed25519")
    assert find_token_key(made, PIN)[1] == key
    with pytest.raises(FleetError, match="names a key, but a new one"):
        make_token_key(made, "bob", PIN, "ed25519")


def test_key_made_anew_under_the_old_name_is_noticed(new_token: NewToken, tmp_path: Path) -> None:
    import pkcs11

    place, key = make_token_key(new_token(), "ada", PIN, "ed25519")
    by_name = TokenUri(token=place.token, object="ada")
    write_token_key_file(tmp_path, "ada", by_name, key)
    token = pkcs11.lib(LIBRARY).get_token(token_label=place.token)
    with token.open(rw=True, user_pin=PIN) as session:
        for thing in list(session.get_objects({pkcs11.Attribute.LABEL: "ada"})):
            thing.destroy()
    held = open_key_file(tmp_path / "ada.key", PIN)
    with pytest.raises(FleetError, match="expected one private key in the token, found 0"):
        held.signer.sign(PAYLOAD)
    make_token_key(TokenUri(token=place.token), "ada", PIN, "ed25519")
    with pytest.raises(FleetError, match="what the token signed is not by the key") as caught:
        held.signer.sign(PAYLOAD)
    assert caught.value.exit_code is ExitCode.AUTH


def test_wrong_pin_and_a_missing_token_are_told_apart(new_token: NewToken) -> None:
    place = new_token()
    with pytest.raises(FleetError, match="refused the PIN") as caught:
        make_token_key(place, "ada", "000000", "ed25519")
    assert caught.value.exit_code is ExitCode.AUTH
    with pytest.raises(FleetError, match="no token is pkcs11:token=none; there are: pkcs11:"):
        make_token_key(TokenUri(token="none"), "ada", PIN, "ed25519")
    new_token()
    with pytest.raises(FleetError, match="several tokens are pkcs11:;"):
        make_token_key(TokenUri(), "ada", PIN, "ed25519")
    with pytest.raises(FleetError, match="names a token, but none of its keys"):
        find_token_key(place, PIN)


def test_point_is_read_in_each_form_that_tokens_give_it() -> None:
    raw = os.urandom(32)
    for form in (raw, b"\x04\x20" + raw, b"\x03\x21\x00" + raw):
        assert _unwrapped(form, 32, TokenUri()) == raw
    for form in (raw[1:], b"\x04\x1f" + raw, b"\x30\x20" + raw, raw + b"\0", b""):
        with pytest.raises(FleetError, match="a public key of 32 bytes expected"):
            _unwrapped(form, 32, TokenUri())


# --- what is missing -------------------------------------------------------------------------


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    with pytest.raises(FleetError, match="PYKCS11LIB does not name") as caught:
        make_token_key(TokenUri(token="ada"), "ada", PIN, "ed25519")
    assert caught.value.exit_code is ExitCode.USAGE
    monkeypatch.setenv("PYKCS11LIB", str(tmp_path / "none.so"))
    with pytest.raises(FleetError, match=r"none\.so: cannot open shared object file"):
        make_token_key(TokenUri(token="ada"), "ada", PIN, "ed25519")


def test_missing_extra_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "pkcs11":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return true_import(name, *rest, **named)

    monkeypatch.setenv("PYKCS11LIB", LIBRARY)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FleetError) as caught:
        make_token_key(TokenUri(token="ada"), "ada", PIN, "ed25519")
    assert caught.value.hint == "pip install 'wherry[hsm]'"


# --- where it is -----------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(TEXTS, TEXTS, st.binary(max_size=9), TEXTS)
def test_place_of_a_key_survives_being_written(
    token: str, serial: str, key_id: bytes, label: str
) -> None:
    place = TokenUri(token=token, serial=serial, id=key_id, object=label)
    assert TokenUri.parse(str(place)) == place


def test_place_as_other_tools_write_it_is_read() -> None:
    text = "pkcs11:id=%02;token=YubiKey%20PIV%20%2315835999"
    assert TokenUri.parse(text) == TokenUri(token="YubiKey PIV #15835999", id=b"\2")
    assert TokenUri.parse("pkcs11:") == TokenUri()


@pytest.mark.parametrize(
    "text",
    [
        "ada",
        "hsm:ada",
        "pkcs11:token",
        "pkcs11:tokne=a",
        "pkcs11:token=a;token=b",
        "pkcs11:token=%ff",
    ],
)
def test_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FleetError) as caught:
        TokenUri.parse(text)
    assert caught.value.exit_code is ExitCode.USAGE


def test_public_key_under_a_false_id_or_of_a_foreign_kind_is_refused(
    new_token: NewToken, tmp_path: Path
) -> None:
    import msgspec

    place, key = make_token_key(new_token(), "bob", PIN, "ecdsa-p256")
    public = write_token_key_file(tmp_path, "bob", place, key)
    for change in (
        {"keyid": "0" * 64},
        {"key": {**public.key, "scheme": "ecdsa-sha2-nistp521"}},
        {"key": {**public.key, "keyval": {"public": "no key"}}},
    ):
        with pytest.raises(FleetError, match="public key of 'bob': its id is not"):
            msgspec.structs.replace(public, **change).tuf_key()
