"""The fleet's CA: a directory on a machine that is not the manager, its key under a passphrase.

It signs two kinds of certificates and nothing else: an issuer for the manager, and servers for
brokers. What it signed stands in ``issued.jsonl``.

```
ca.crt.pem     the CA certificate: public, goes to managers and brokers
ca.key.pem     its key, encrypted (PKCS #8)
issued.jsonl   one line a certificate
```
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from edge_contract.errors import ExitCode
from edge_contract.topics import check_id
from fleet.errors import FleetError
from fleet.identity.certificates import build_issuer, build_root, build_server, read_issuer_request

DAY_S = 86400.0
ROOT_LIFE_S = 20 * 365 * DAY_S
PASSPHRASE_CHARS_MIN = 12
CERTIFICATE = "ca.crt.pem"
_KEY = "ca.key.pem"
_LOG = "issued.jsonl"


@dataclass(frozen=True)
class Authority:
    """An opened CA."""

    directory: Path
    fleet: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def sign_issuer(self, request_pem: str, *, now_s: float, days: float) -> str:
        """An issuer certificate (PEM) for a manager's request.

        Raises:
            FleetError: the request is of another fleet, or the life is out of range.
            TrustError, ContractError: not a proper request.
        """
        if not 1 <= days <= 825:
            raise FleetError(
                f"--days {days:g}: expected 1 to 825; an issuer lies on an online machine",
                exit_code=ExitCode.USAGE,
            )
        fleet, public = read_issuer_request(request_pem)
        if fleet != self.fleet:
            raise FleetError(f"the request is of the fleet {fleet!r}, this CA is {self.fleet!r}'s")
        made = build_issuer(fleet, public, self.certificate, self.key, now_s, days * DAY_S)
        self._note(made, "issuer", now_s)
        return made.public_bytes(Encoding.PEM).decode()

    def sign_server(
        self, hosts: Sequence[str], out: Path, *, now_s: float, days: float
    ) -> tuple[Path, Path]:
        """A broker's key and certificate (with the CA behind it) as files in ``out``."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = build_server(
            self.fleet,
            hosts,
            key.public_key(),
            self.certificate,
            self.key,
            now_s,
            days * DAY_S,
        )
        self._note(made, f"server {' '.join(hosts)}", now_s)
        out.mkdir(parents=True, exist_ok=True)
        key_path, chain_path = out / "server.key.pem", out / "server.crt.pem"
        write_secret(key_path, private_pem(key))
        chain = made.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM)
        write_public(chain_path, chain)
        return key_path, chain_path

    def _note(self, made: x509.Certificate, what: str, now_s: float) -> None:
        line = {"at_s": int(now_s), "what": what, "serial": f"{made.serial_number:x}"}
        with (self.directory / _LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())


def make_authority(
    directory: Path, fleet: str, passphrase: str, *, now_s: float
) -> x509.Certificate:
    """Make a CA in a new directory.

    Raises:
        FleetError: there is one already, or the passphrase is too short.
        ContractError: not a fleet's name.
    """
    check_id(fleet, what="fleet")
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise FleetError(
            f"the passphrase has {len(passphrase)} characters, expected at least"
            f" {PASSPHRASE_CHARS_MIN}",
            exit_code=ExitCode.USAGE,
        )
    if (directory / _KEY).exists() or (directory / CERTIFICATE).exists():
        raise FleetError(
            f"{directory} holds a CA already; a CA is never replaced silently",
            hint="choose another --out",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    made = build_root(fleet, key, now_s, ROOT_LIFE_S)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    encryption = BestAvailableEncryption(passphrase.encode())
    write_secret(directory / _KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    write_public(directory / CERTIFICATE, made.public_bytes(Encoding.PEM))
    return made


def open_authority(directory: Path, passphrase: str) -> Authority:
    """Open a CA.

    Raises:
        FleetError: none there, a wrong passphrase, or files that do not belong together.
    """
    try:
        certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE).read_bytes())
        pem = (directory / _KEY).read_bytes()
    except FileNotFoundError as error:
        raise FleetError(
            f"no CA in {directory}: {error.filename} is missing",
            hint="edge-fleet ca init --fleet NAME --out DIR",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    except ValueError as error:
        raise FleetError(f"{directory / CERTIFICATE}: not a certificate: {error}") from error
    try:
        key = load_pem_private_key(pem, passphrase.encode())
    except (ValueError, TypeError) as error:
        raise FleetError(
            f"{directory / _KEY}: the passphrase is wrong, or the file is damaged",
            exit_code=ExitCode.AUTH,
        ) from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise FleetError(f"{directory}: key and certificate do not belong together")
    fleet = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    return Authority(directory, str(fleet), certificate, key)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key that a program must be able to read by itself."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_secret(path: Path, data: bytes) -> None:
    """Write durably; never readable by others, not even for an instant."""
    # Two threads of one process may be at it, and neither must take the other's away.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_public(path: Path, data: bytes) -> None:
    """Write durably, readable by all: a broker runs as a user of its own."""
    from edge_contract.layout import write_durably

    write_durably(path, data)
    path.chmod(0o644)
