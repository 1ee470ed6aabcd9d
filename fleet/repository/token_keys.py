"""Keys in a token (PKCS#11: a YubiKey, an HSM, SoftHSM): the private half is made there and stays.

Needs the extra ``wherry[hsm]`` and ``PYKCS11LIB``, the path of the token's library. Which key in
which token is said by a URI of RFC 7512. Ed25519 is what the rest of wherry signs with; ECDSA over
P-256 or P-384 is for tokens that have nothing else, and TUF metadata holds either.

Tokens differ in three ways that are met here: ``CKA_EC_POINT`` of an Ed25519 key comes bare, or
wrapped as an OCTET STRING or a BIT STRING; ECDSA signatures come as r and s side by side, TUF wants
them in DER; and a key may ask for the PIN anew for each signature (``CKA_ALWAYS_AUTHENTICATE``).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from edge_contract.errors import ExitCode
from edge_contract.signing import ed25519_key
from fleet.errors import FleetError
from fleet.repository.token_uri import TokenUri

if TYPE_CHECKING:
    from pkcs11 import Session, Token
    from pkcs11._pkcs11 import lib

LIBRARY_VARIABLE = "PYKCS11LIB"
_ED25519_PARAMETERS = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
"""The object identifier 1.3.101.112, and the curve's name, which PKCS#11 3.0 allows as well."""


class _Curve(NamedTuple):
    scheme: str
    digest: str
    curve: ec.EllipticCurve
    parameters: bytes


_CURVES = {
    "ecdsa-p256": _Curve(
        "ecdsa-sha2-nistp256", "sha256", ec.SECP256R1(), bytes.fromhex("06082a8648ce3d030107")
    ),
    "ecdsa-p384": _Curve(
        "ecdsa-sha2-nistp384", "sha384", ec.SECP384R1(), bytes.fromhex("06052b81040022")
    ),
}
ECDSA_SCHEMES = tuple(item.scheme for item in _CURVES.values())


def make_token_key(place: TokenUri, owner: str, pin: str, kind: str) -> tuple[TokenUri, SSlibKey]:
    """Make a key in a token, which never gives it out; where it is, and its public half.

    Args:
        place: names the token; its key must not be named.
        owner: whose key it is: its label in the token.
        pin: the token's user PIN.
        kind: ed25519, ecdsa-p256 or ecdsa-p384.

    Raises:
        FleetError: the extra, the library or the token is missing, the PIN is wrong, the token has
            such a key already, or it cannot make one of this kind.
    """
    if place.id or place.object:
        raise FleetError(
            f"{place}: names a key, but a new one is to be made",
            hint="leave id and object out, or say --existing to take the key that is there",
            exit_code=ExitCode.USAGE,
        )
    with _opened(place, pin, writable=True) as (token, session):
        import pkcs11
        from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

        there = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: owner}
        if next(iter(session.get_objects(there)), None) is not None:
            raise FleetError(
                f"the token {token.label!r} holds a key {owner!r} already",
                hint="take another name, or say --existing with object=NAME in the URI",
            )
        edwards = kind == "ed25519"
        parameters = _ED25519_PARAMETERS[0] if edwards else _CURVES[kind].parameters
        wanted = Mechanism.EC_EDWARDS_KEY_PAIR_GEN if edwards else Mechanism.EC_KEY_PAIR_GEN
        if wanted not in token.slot.get_mechanisms():
            raise FleetError(
                f"the token {token.label!r} does not make keys of kind {kind}",
                hint="--kind ecdsa-p256, or make the key with the token's own tool and say"
                " --existing",
            )
        domain = session.create_domain_parameters(
            KeyType.EC_EDWARDS if edwards else KeyType.EC,
            {Attribute.EC_PARAMS: parameters},
            local=True,
        )
        key_id = secrets.token_bytes(8)
        domain.generate_keypair(
            id=key_id,
            label=owner,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            private_template={
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
            },
        )
        made = _named(token, key_id, owner)
        try:
            key = _read_public(session, made)
            _sign(session, made, key, b"a trial of a new key", pin)
        except (FleetError, pkcs11.PKCS11Error):
            for thing in list(session.get_objects({Attribute.ID: key_id})):
                thing.destroy()
            raise
    return made, key


def find_token_key(place: TokenUri, pin: str) -> tuple[TokenUri, SSlibKey]:
    """The key that is in a token already, once it has signed: where it is, and its public half.

    Raises:
        FleetError: the extra, the library, the token or the key is missing, the PIN is wrong,
            several keys match, or it is of a kind that TUF does not know.
    """
    if not (place.id or place.object):
        raise FleetError(
            f"{place}: names a token, but none of its keys",
            hint="say id=%02 or object=LABEL in the URI; `pkcs11-tool -O` lists them",
            exit_code=ExitCode.USAGE,
        )
    with _opened(place, pin) as (token, session):
        key = _read_public(session, place)
        _sign(session, place, key, b"a trial of a key", pin)
        return _named(token, place.id, place.object), key


class TokenSigner(Signer):
    """Signs with a key in a token, one login for each signature.

    Args:
        place: which key in which token.
        public: its public half; every signature is verified with it before it is given out.
        pin: the token's user PIN.
    """

    def __init__(self, place: TokenUri, public: Key, pin: str) -> None:
        self._place = place
        self._public = public
        self._pin = pin

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> TokenSigner:
        """As securesystemslib calls it, which asks ``secrets_handler`` for the ``pin``."""
        if secrets_handler is None:
            raise ValueError("a token needs a secrets handler that gives its PIN")
        return cls(TokenUri.parse(priv_key_uri), public_key, secrets_handler("pin"))

    @property
    def public_key(self) -> Key:
        """The public half."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """The token's signature over ``payload``.

        Raises:
            FleetError: the token or its key is missing, refuses, or signs with another key.
        """
        with _opened(self._place, self._pin) as (_, session):
            return _sign(session, self._place, self._public, payload, self._pin)


def _named(token: Token, key_id: bytes, label: str) -> TokenUri:
    return TokenUri(token=token.label, serial=_serial(token), id=key_id, object=label)


@contextmanager
def _opened(
    place: TokenUri, pin: str, *, writable: bool = False
) -> Iterator[tuple[Token, Session]]:
    """The token and a session that is logged in; what PKCS#11 says becomes one clear error."""
    path = os.environ.get(LIBRARY_VARIABLE)
    if not path:
        raise FleetError(
            f"{LIBRARY_VARIABLE} does not name the token's PKCS#11 library",
            hint=f"export {LIBRARY_VARIABLE}=/usr/lib/x86_64-linux-gnu/libykcs11.so",
            exit_code=ExitCode.USAGE,
        )
    try:
        import pkcs11
    except ImportError as error:
        raise FleetError(
            f"PKCS#11 is not installed: {error}", hint="pip install 'wherry[hsm]'"
        ) from error
    try:
        token = _only_token(pkcs11.lib(path), place)
        with token.open(rw=writable, user_pin=pin) as session:
            yield token, session
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinInvalid) as error:
        raise FleetError(
            f"the token {place} refused the PIN",
            hint="try again with care: after a few wrong PINs a token locks itself",
            exit_code=ExitCode.AUTH,
        ) from error
    except pkcs11.PinLocked as error:
        raise FleetError(
            f"the token {place} has locked itself after too many wrong PINs",
            hint="unlock it with its PUK or security officer's PIN and its own tool",
            exit_code=ExitCode.AUTH,
        ) from error
    except pkcs11.PKCS11Error as error:
        said = f"{type(error).__name__} {error}".strip()
        raise FleetError(f"the token {place} with {path}: {said}") from error


def _only_token(library: lib, place: TokenUri) -> Token:
    from pkcs11 import TokenFlag

    ready = [
        token
        for token in (slot.get_token() for slot in library.get_slots(token_present=True))
        if token.flags & TokenFlag.TOKEN_INITIALIZED
    ]
    fitting = [
        token
        for token in ready
        if place.token in ("", token.label) and place.serial in ("", _serial(token))
    ]
    if len(fitting) == 1:
        return fitting[0]
    seen = ", ".join(str(TokenUri(token=t.label, serial=_serial(t))) for t in ready)
    count = "several tokens are" if fitting else "no token is"
    raise FleetError(
        f"{count} {place}; there are: {seen or 'none'}",
        hint="name one of them by token= and serial=" if ready else "plug the token in",
        exit_code=ExitCode.NOT_FOUND,
    )


def _serial(token: Token) -> str:
    return bytes(token.serial).decode(errors="replace").strip()


def _find(session: Session, place: TokenUri, *, private: bool) -> Any:
    from pkcs11 import Attribute, ObjectClass

    wanted: dict[Attribute, Any] = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY if private else ObjectClass.PUBLIC_KEY
    }
    if place.id:
        wanted[Attribute.ID] = place.id
    if place.object:
        wanted[Attribute.LABEL] = place.object
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        half = "private" if private else "public"
        raise FleetError(
            f"{place}: expected one {half} key in the token, found {len(found)}",
            hint="`pkcs11-tool -O` lists what a token holds; name one by id= or object=",
            exit_code=ExitCode.NOT_FOUND,
        )
    return found[0]


def _read_public(session: Session, place: TokenUri) -> SSlibKey:
    from pkcs11 import Attribute

    found = _find(session, place, private=False)
    parameters, point = bytes(found[Attribute.EC_PARAMS]), bytes(found[Attribute.EC_POINT])
    if parameters in _ED25519_PARAMETERS:
        return ed25519_key(_unwrapped(point, 32, place))
    for curve in _CURVES.values():
        if parameters == curve.parameters:
            raw = _unwrapped(point, 1 + 2 * ((curve.curve.key_size + 7) // 8), place)
            try:
                public = ec.EllipticCurvePublicKey.from_encoded_point(curve.curve, raw)
            except ValueError as error:
                raise FleetError(f"{place}: the token's public key is no point: {error}") from error
            return SSlibKey.from_crypto(public, scheme=curve.scheme)
    raise FleetError(
        f"{place}: expected a key on Ed25519, P-256 or P-384, got curve {parameters.hex()}",
        exit_code=ExitCode.USAGE,
    )


def _unwrapped(point: bytes, size: int, place: TokenUri) -> bytes:
    """The point itself, of ``size`` bytes, of CKA_EC_POINT in any of its three forms."""
    for prefix in (b"", bytes((0x04, size)), bytes((0x03, size + 1, 0))):
        if len(point) == len(prefix) + size and point.startswith(prefix):
            return point[len(prefix) :]
    raise FleetError(
        f"{place}: a public key of {size} bytes expected, the token gave {point.hex()}"
    )


def _sign(session: Session, place: TokenUri, public: Key, payload: bytes, pin: str) -> Signature:
    from pkcs11 import Attribute, AttributeTypeInvalid, Mechanism

    key = _find(session, place, private=True)
    try:
        anew = {"pin": pin} if key[Attribute.ALWAYS_AUTHENTICATE] else {}
    except AttributeTypeInvalid:
        anew = {}
    curve = next((item for item in _CURVES.values() if item.scheme == public.scheme), None)
    if curve is None:
        raw = key.sign(payload, mechanism=Mechanism.EDDSA, **anew)
    else:
        digest = hashlib.new(curve.digest, payload).digest()
        both = key.sign(digest, mechanism=Mechanism.ECDSA, **anew)
        half = len(both) // 2
        raw = encode_dss_signature(
            int.from_bytes(both[:half], "big"), int.from_bytes(both[half:], "big")
        )
    signature = Signature(public.keyid, raw.hex())
    try:
        public.verify_signature(signature, payload)
    except (UnverifiedSignatureError, VerificationError) as error:
        raise FleetError(
            f"{place}: what the token signed is not by the key {public.keyid[:12]}",
            hint="is it the same token? its key may have been made anew",
            exit_code=ExitCode.AUTH,
        ) from error
    return signature
