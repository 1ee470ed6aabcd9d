"""The manager's issuers: what the offline CA lent it, for a while.

```
identity/ca.crt.pem               the fleet's CA
identity/request.key.pem          the key of a request that is not answered yet
identity/issuers/{key id}/        key.pem (0600) and crt.pem of an issuer
identity/crl.pem                  the revocation lists of all issuers in force
identity/manager.pem              the manager's own key and client certificate (0600)
identity/observer.pem             those of `edge-fleet subscribe`: reads, writes nothing
identity/*.before.pem             their last ones, while these are good: a broker that has not read
                                  the list of a new issuer yet refuses what that one signed
```

A broker accepts a certificate only where its issuer's list lies beside it, so leaving an issuer's
list out revokes the issuer and all that it signed.
"""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from edge_contract.enrol_code import ca_fingerprint
from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.identity.authority import DAY_S, private_pem, write_public, write_secret
from fleet.identity.certificates import (
    MANAGER,
    OBSERVER,
    authority_name,
    build_client,
    build_crl,
    key_id,
    life_of,
)

DEVICE_LIFE_S = 90 * DAY_S
Revoked = tuple[str, str, float]
"""(issuer's key id, serial in hex, unix s)."""
_DOCS = "how-to/secure-fleet.md"


@dataclass(frozen=True)
class Issuer:
    """A key that may sign device certificates until its own certificate ends."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def id(self) -> str:
        """Its key identifier."""
        return key_id(self.certificate)

    @property
    def from_s(self) -> float:
        """When it begins."""
        return life_of(self.certificate)[0]

    @property
    def until_s(self) -> float:
        """When it ends."""
        return life_of(self.certificate)[1]

    def third_left(self, now_s: float) -> bool:
        """Whether less than a third of its life is left."""
        begin_s, end_s = life_of(self.certificate)
        return now_s > begin_s + (end_s - begin_s) * 2 / 3


class Issuers:
    """The issuers below a manager's state directory.

    Args:
        directory: ``identity`` of the state directory; None for a fleet that has none.
        fleet: whose.

    Raises:
        FleetError: files that are damaged.
    """

    def __init__(self, directory: Path | None, fleet: str) -> None:
        self.directory = directory or Path(os.devnull)
        self.fleet = fleet
        self._ca_path = self.directory / "ca.crt.pem"
        self._request_path = self.directory / "request.key.pem"
        self.crl_path = self.directory / "crl.pem"
        self.issuers: list[Issuer] = []
        self.ca: x509.Certificate | None = None
        self.reload()

    def reload(self) -> None:
        """Read the directory again: `edge-fleet ca install` writes it beside a running manager."""
        self.ca = _load(self._ca_path) if self._ca_path.exists() else None
        found = [
            Issuer(_load(path / "crt.pem"), _load_key(path / "key.pem"))
            for path in sorted((self.directory / "issuers").glob("*"))
            if (path / "crt.pem").exists()
        ]
        self.issuers = sorted(found, key=lambda issuer: issuer.until_s)

    @property
    def installed(self) -> bool:
        """Whether this fleet has certificates at all."""
        return self.ca is not None

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate."""
        assert self.ca is not None
        return self.ca.public_bytes(Encoding.PEM)

    @property
    def ca_fingerprint(self) -> bytes:
        """What codes say of the CA."""
        assert self.ca is not None
        return ca_fingerprint(self.ca.public_bytes(Encoding.DER))

    def current(self, now_s: float) -> Issuer:
        """The issuer that lasts longest.

        Raises:
            FleetError: there is none, none that is still in force, or the clock is wrong.
        """
        if not self.issuers:
            raise FleetError(
                "this manager has no issuer certificate",
                hint="edge-fleet ca request --out issuer.csr, then `ca sign` where the CA lies",
                docs=_DOCS,
            )
        newest = self.issuers[-1]
        if now_s >= newest.until_s:
            raise FleetError(
                "the issuer certificate has expired: no certificate can be issued or renewed",
                hint="edge-fleet ca request --out issuer.csr, then `ca sign` where the CA lies",
                docs=_DOCS,
            )
        if now_s < newest.from_s:
            # What is signed now would have ended long ago once the clock is right.
            here, begins = (
                datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d")
                for at_s in (now_s, newest.from_s)
            )
            raise FleetError(
                f"this machine's clock says {here}, and the issuer certificate begins {begins}: no"
                " certificate can be issued or renewed",
                hint="set the clock",
                docs=_DOCS,
            )
        return newest

    def trouble(self, now_s: float) -> str:
        """Why no certificate can be issued, "" where one can; "" for a fleet that has no CA."""
        if not self.installed:
            return ""
        try:
            self.current(now_s)
        except FleetError as error:
            return error.message
        return ""

    def request(self) -> str:
        """A request (PEM) for the CA; the key stays here, 0600. Asked twice, it is the same key."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._request_path.exists():
            write_secret(self._request_path, private_pem(ec.generate_private_key(ec.SECP256R1())))
        key = _load_key(self._request_path)
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            authority_name(self.fleet, "issuer")
        )
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def install(
        self,
        issuer_pem: bytes,
        ca_pem: bytes,
        *,
        now_s: float,
        revoked: Sequence[Revoked],
        distrust_old: bool,
    ) -> Issuer:
        """Take the CA's answer to ``request`` into use.

        Args:
            revoked: everything that is revoked, for the lists.
            distrust_old: the issuers before are in wrong hands: what they signed counts no more.

        Raises:
            FleetError: not an answer to this manager's request, not by that CA, or another CA.
        """
        ca, made = _parse(ca_pem, "CA certificate"), _parse(issuer_pem, "issuer certificate")
        if self.ca is not None and self.ca != ca:
            raise FleetError(
                "this manager belongs to another CA; every device would have to be enrolled anew",
                hint=f"to begin again, move {self.directory} away",
                exit_code=ExitCode.AUTH,
            )
        try:
            made.verify_directly_issued_by(ca)
        except (InvalidSignature, ValueError, TypeError) as error:
            raise FleetError(
                "the issuer certificate is not signed by this CA", exit_code=ExitCode.AUTH
            ) from error
        if made.subject != authority_name(self.fleet, "issuer"):
            raise FleetError(f"the issuer certificate is not for the fleet {self.fleet!r}")
        place = self.directory / "issuers" / key_id(made)
        if not (place / "key.pem").exists():
            if not self._request_path.exists():
                raise FleetError(
                    "no request of this manager is open", hint="edge-fleet ca request --out FILE"
                )
            key = _load_key(self._request_path)
            if key.public_key() != made.public_key():
                raise FleetError("the issuer certificate answers another manager's request")
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_secret(place / "key.pem", private_pem(key))
        write_public(place / "crt.pem", made.public_bytes(Encoding.PEM))
        write_public(self._ca_path, ca.public_bytes(Encoding.PEM))
        self._request_path.unlink(missing_ok=True)
        self.reload()
        for issuer in self.issuers:
            if distrust_old and issuer.id != key_id(made):
                shutil.rmtree(self.directory / "issuers" / issuer.id)
        self.reload()
        self.write_crl(revoked, now_s=now_s)
        self.renew_own(now_s, force=True)
        return self.current(now_s)

    def sign(
        self, name: str, public: CertificatePublicKeyTypes, *, now_s: float, life_s: float
    ) -> tuple[x509.Certificate, str]:
        """A client certificate, and its chain (PEM) up to but without the CA.

        Raises:
            FleetError: no issuer is in force.
        """
        issuer = self.current(now_s)
        until_s = min(now_s + life_s, issuer.until_s)
        made = build_client(
            self.fleet, name, public, issuer.certificate, issuer.key, now_s, until_s
        )
        chain = made.public_bytes(Encoding.PEM) + issuer.certificate.public_bytes(Encoding.PEM)
        return made, chain.decode()

    def write_crl(self, revoked: Sequence[Revoked], *, now_s: float) -> None:
        """Write the lists of all issuers in force. Where none is, by this clock, the old ones stay:
        no broker starts with an empty file.

        Args:
            revoked: everything revoked.
        """
        lists = []
        for issuer in self.issuers:
            if issuer.until_s <= now_s:
                continue
            mine = [(int(serial, 16), at_s) for by, serial, at_s in revoked if by == issuer.id]
            made = build_crl(issuer.certificate, issuer.key, mine, now_s)
            lists.append(made.public_bytes(Encoding.PEM))
        if not lists:
            return
        write_public(self.crl_path, b"".join(lists))

    def renew_own(self, now_s: float, *, force: bool = False) -> bool:
        """Give manager and observer a certificate where theirs has less than a third left, or was
        signed while the clock stood in the future."""
        renewed = False
        in_the_past = bool(self.issuers) and now_s < self.issuers[-1].from_s
        for name in (MANAGER, OBSERVER):
            path = self.own_file(name)
            if path.exists() and not force:
                begin_s, end_s = life_of(_load(path))
                if in_the_past or begin_s <= now_s < begin_s + (end_s - begin_s) * 2 / 3:
                    continue
            key = ec.generate_private_key(ec.SECP256R1())
            _, chain = self.sign(name, key.public_key(), now_s=now_s, life_s=DEVICE_LIFE_S)
            if path.exists():
                write_secret(self._own_before(name), path.read_bytes())
            # One file, so that a crash cannot leave a key beside another key's certificate.
            write_secret(path, private_pem(key) + chain.encode())
            renewed = True
        return renewed

    def own_file(self, name: str) -> Path:
        """Where the manager's or the observer's key and certificate lie."""
        return self.directory / f"{name.removeprefix('_')}.pem"

    def _own_before(self, name: str) -> Path:
        path = self.own_file(name)
        return path.with_name(f"{path.stem}.before.pem")

    def _still_good(self, path: Path, now_s: float) -> bool:
        """Whether a broker may accept what lies there: in force, by an issuer that is trusted."""
        try:
            mine = _load(path)
            begin_s, end_s = life_of(mine)
            signer = mine.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        except (OSError, FleetError, x509.ExtensionNotFound):
            return False
        trusted = {issuer.id for issuer in self.issuers}
        return begin_s <= now_s < end_s and (signer.key_identifier or b"").hex() in trusted

    def tls_context(self, name: str, attempt: int = 0, *, now_s: float = 0.0) -> ssl.SSLContext:
        """How the manager or the observer connects.

        Args:
            attempt: counted up with each attempt; every other one is made with the certificate of
                before, while there is one.
            now_s: unix seconds.

        Raises:
            FleetError: this fleet has no CA yet.
        """
        if not self.installed:
            raise FleetError(
                "a broker with TLS is asked for, but this fleet has no CA",
                hint="edge-fleet ca init, on another machine",
                docs=_DOCS,
                exit_code=ExitCode.USAGE,
            )
        before = self._own_before(name)
        if attempt % 2 and self._still_good(before, now_s):
            return self.context(before)
        return self.context(self.own_file(name))

    def context(self, own: Path) -> ssl.SSLContext:
        """TLS towards this fleet's broker, with the key and chain in ``own``."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self._ca_path))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(own)
        return context


def _load(path: Path) -> x509.Certificate:
    return _parse(path.read_bytes(), str(path))


def _parse(pem: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise FleetError(f"{what}: not a certificate in PEM") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(f"{path}: not a readable key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FleetError(f"{path}: expected an elliptic-curve key")
    return key
