"""Decides on asks for certificates, within the manager's transaction.

A first certificate needs a one-time code; every later one the key that was pinned with it. A code
that was used answers the same key again, so that a power cut at any point costs a repeat and no
code; it never answers another key.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec.structs import replace
from sqlalchemy import Connection

from edge_contract.codec import decode_json
from edge_contract.errors import ContractError, TrustError
from edge_contract.messages import CertificateAnswer, CertificateAsk
from edge_contract.model import LineName
from edge_contract.profile import ProfileId
from edge_contract.signing import public_bytes, verify_message
from edge_contract.topics import check_id
from fleet.errors import FleetError
from fleet.identity.certificates import life_of, read_request
from fleet.identity.issuers import DEVICE_LIFE_S, Issuers
from fleet.store import identity
from fleet.store.devices import DeviceRow
from fleet.store.identity import CertificateRow, CodeRow

ASK_LIMIT_BYTES = 8 * 1024
CODE_FAILURES_MAX = 5
"""Wrong signatures after which a code is burnt."""
_INVALID = "this code is not valid"
_VERSION_CHARS = 64


@dataclass(frozen=True)
class Answered:
    """What an ask came to.

    Attributes:
        device: who asked.
        answer: what to tell.
        row: the device's row after it; None where nothing was granted.
        replaced_key: the key (hex) that the device had before, where it has a new one.
    """

    device: str
    answer: CertificateAnswer
    row: DeviceRow | None = None
    replaced_key: str = ""


class IdentityDesk:
    """Grants and refuses.

    Args:
        issuers: sign.
        life_s: of a device's certificate.
    """

    def __init__(self, issuers: Issuers, life_s: float = DEVICE_LIFE_S) -> None:
        self.issuers = issuers
        self._life_s = life_s
        self.revoked: set[str] = set()
        """Revoked keys, hexadecimal; loaded at the start, kept up by whoever revokes."""

    @property
    def strict(self) -> bool:
        """Whether a new name needs a code: it does as soon as the fleet has a CA."""
        return self.issuers.installed

    def first(
        self,
        tx: Connection,
        ask: CertificateAsk,
        row: DeviceRow | None,
        topic: str,
        payload: bytes,
        signature: str,
        *,
        now_s: float,
    ) -> Answered:
        """An ask on the listener for devices without a certificate.

        Args:
            row: what is stored for ``ask.device``.
            topic, payload, signature: the message as it came.

        Returns:
            the answer, granted or refused. What it changed is in ``tx``, but for the device's row.
        """
        try:
            check_id(ask.device, what="device")
            key = public_bytes(read_request(ask.csr, self.issuers.fleet, ask.device)).hex()
            self._require_clean(key)
            if not ask.code:
                return self._again(tx, ask, row, key, topic, payload, signature, now_s)
            code = self._code(tx, ask, topic, payload, signature)
            fresh, replaced = self._admit(ask, row, key, code, now_s)
            self.issuers.current(now_s)  # before anything is changed
        except (ContractError, FleetError) as error:
            refused = CertificateAnswer(accepted=False, reason=error.message)
            return Answered(ask.device[:80], refused)
        used = replace(code, used_key=key, used_device=ask.device, used_at_s=now_s)
        identity.save_code(tx, used)
        if replaced:
            identity.revoke_certificates(tx, ask.device, now_s)
            identity.revoke_key(tx, replaced, ask.device, now_s, "the device was replaced")
        return Answered(ask.device, self._grant(tx, ask.device, key, now_s), fresh, replaced)

    def renew(self, tx: Connection, row: DeviceRow, ask: CertificateAsk, now_s: float) -> Answered:
        """An ask of a device whose signature by its pinned key was checked."""
        try:
            key = public_bytes(read_request(ask.csr, self.issuers.fleet, row.device)).hex()
            if key != row.public_key:
                raise TrustError("expected the pinned key; a new one needs a replacement code")
            return Answered(row.device, self._grant(tx, row.device, key, now_s), row)
        except (ContractError, FleetError) as error:
            return Answered(row.device, CertificateAnswer(accepted=False, reason=error.message))

    def due(self, tx: Connection, row: DeviceRow, now_s: float) -> bool:
        """Whether the device should ask for a new certificate now."""
        if not self.strict:
            return False
        held = identity.newest_certificate(tx, row.device, row.public_key, now_s)
        return held is not None and not self._fresh(held, now_s)

    def _again(
        self,
        tx: Connection,
        ask: CertificateAsk,
        row: DeviceRow | None,
        key: str,
        topic: str,
        payload: bytes,
        signature: str,
        now_s: float,
    ) -> Answered:
        """A device that was away until its certificate expired shows its pinned key instead."""
        if row is None or row.public_key != key:
            raise TrustError("no such key is pinned for this device; it needs a code")
        verify_message(bytes.fromhex(key), topic, payload, signature)
        return Answered(ask.device, self._grant(tx, ask.device, key, now_s), row)

    def _code(
        self, tx: Connection, ask: CertificateAsk, topic: str, payload: bytes, signature: str
    ) -> CodeRow:
        code = identity.get_code(tx, ask.code[:16])
        if code is None or code.failures_count >= CODE_FAILURES_MAX:
            raise TrustError(_INVALID)
        try:
            verify_message(bytes.fromhex(code.verifier), topic, payload, signature)
        except TrustError as error:
            identity.save_code(tx, replace(code, failures_count=code.failures_count + 1))
            raise TrustError(_INVALID) from error
        return code

    def _admit(
        self, ask: CertificateAsk, row: DeviceRow | None, key: str, code: CodeRow, now_s: float
    ) -> tuple[DeviceRow, str]:
        """The device's row with this key, and the key that it replaces ("" for none)."""
        if code.used_key:
            if (code.used_key, code.used_device) != (key, ask.device):
                raise TrustError("this code was used already, by another key")
        elif now_s > code.expires_at_s:
            raise TrustError("this code has expired")
        if code.device and code.device != ask.device:
            raise TrustError(f"this code is for the device {code.device}")
        line, hardware = _described(ask)
        version = ask.agent_version[:_VERSION_CHARS]
        if row is None:
            fresh = DeviceRow(
                device=ask.device,
                public_key=key,
                hardware=hardware,
                line=line,
                agent_version=version,
                enrolled_at_s=now_s,
                last_seen_at_s=now_s,
            )
            return fresh, ""
        if row.public_key == key:
            return row, ""
        if not code.replaces:
            raise TrustError(
                "another key is pinned for this name; new hardware needs a code of"
                f" `edge-fleet devices replace {ask.device}`"
            )
        new = replace(
            row,
            public_key=key,
            hardware=hardware,
            line=line,
            agent_version=version,
            enrolled_at_s=now_s,
            state=None,
            state_at_s=None,
            connection_id="",
        )
        return new, row.public_key

    def _grant(self, tx: Connection, device: str, key: str, now_s: float) -> CertificateAnswer:
        held = identity.newest_certificate(tx, device, key, now_s)
        if held is None or not self._fresh(held, now_s):
            held = self._issue(tx, device, key, now_s)
        return CertificateAnswer(accepted=True, chain=held.chain)

    def _issue(self, tx: Connection, device: str, key: str, now_s: float) -> CertificateRow:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        made, chain = self.issuers.sign(device, public, now_s=now_s, life_s=self._life_s)
        begin_s, end_s = life_of(made)
        row = CertificateRow(
            serial=f"{made.serial_number:x}",
            device=device,
            public_key=key,
            issuer=self.issuers.current(now_s).id,
            not_before_s=begin_s,
            not_after_s=end_s,
            chain=chain,
        )
        identity.add_certificate(tx, row)
        return row

    def _fresh(self, held: CertificateRow, now_s: float) -> bool:
        """By an issuer in force, and with more than a third of its life left."""
        if held.issuer not in {issuer.id for issuer in self.issuers.issuers}:
            return False
        return now_s < held.not_before_s + (held.not_after_s - held.not_before_s) * 2 / 3

    def _require_clean(self, key: str) -> None:
        if key in self.revoked:
            raise TrustError("this key is revoked; the device needs a new key and a new code")


def read_ask(payload: bytes, where: str) -> CertificateAsk:
    """Parse an ask.

    Raises:
        ContractError: too long or malformed.
    """
    return decode_json(payload, CertificateAsk, what=where, limit_bytes=ASK_LIMIT_BYTES)


def _described(ask: CertificateAsk) -> tuple[str, str]:
    try:
        line = msgspec.convert(ask.line, LineName)
        hardware = msgspec.convert(ask.hardware, ProfileId)
    except msgspec.ValidationError as error:
        raise ContractError(f"line or hardware: {error}") from error
    if not ask.agent_version.isprintable():
        raise ContractError("expected a printable agent_version")
    return line, hardware
