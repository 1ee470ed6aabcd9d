"""The device's certificate on disk, and what makes a new one believable.

```
identity/ca.pem           the fleet's CA, checked against the one-time code
identity/chain.pem        the certificate in use, device first
identity/chain.next.pem   a renewed one that has not connected yet
```

A renewed certificate takes the old one's place only when a broker has accepted it. Until then both
are tried in turn, so that a broker that does not know the new issuer yet loses nobody. A file that
is damaged, or of another key, counts as missing: the pinned key gets a new one.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_contract.enrol_code import ca_fingerprint
from edge_contract.errors import TrustError
from edge_contract.layout import fsync_dir, write_durably
from edge_contract.signing import public_bytes

CHAIN_LIMIT_CHARS = 32 * 1024
_CHAIN_LENGTH = 2
"""The device's certificate and its issuer's."""


class CertificateFiles:
    """The files below ``identity`` of the state directory.

    Args:
        state_dir: of the agent.
        fleet, device: whose certificate it is.
        public: the device's raw public key.
    """

    def __init__(self, state_dir: Path, fleet: str, device: str, public: bytes) -> None:
        self._directory = state_dir / "identity"
        self._name = f"{fleet}/{device}"
        self._public = public
        self.ca_path = self._directory / "ca.pem"
        self._current = self._directory / "chain.pem"
        self._next = self._directory / "chain.next.pem"
        self._tried_next = False

    @property
    def enrolled(self) -> bool:
        """Whether there is a CA and a certificate."""
        return self.ca_path.exists() and (self._usable(self._current) or self._usable(self._next))

    @property
    def lost(self) -> bool:
        """Whether the pinned key is all that is left: there is a CA, but no certificate."""
        return self.ca_path.exists() and not self.enrolled

    def life_s(self) -> tuple[float, float] | None:
        """(from, until) of the newest certificate, unix seconds; None where there is none."""
        for path in (self._next, self._current):
            try:
                leaf = x509.load_pem_x509_certificate(path.read_bytes())
            except (OSError, ValueError):
                continue
            return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        return None

    def due(self, reference_s: float) -> bool:
        """Whether two thirds of its life are over, as far as this device can know."""
        life = self.life_s()
        return life is not None and reference_s > life[0] + (life[1] - life[0]) * 2 / 3

    def expired(self, reference_s: float) -> bool:
        """Whether no broker can accept it any more, as far as this device can know."""
        life = self.life_s()
        return life is not None and reference_s > life[1]

    def keep_ca(self, pem: bytes, fingerprint: bytes) -> None:
        """Keep the CA that a code names.

        Raises:
            TrustError: it is another one.
        """
        try:
            der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        except ValueError as error:
            raise TrustError("the server's CA certificate is malformed") from error
        if ca_fingerprint(der) != fingerprint:
            raise TrustError(
                "the server shows another CA than the code names: it is not this fleet's server",
                hint="check --server; if it is right, somebody is in between",
            )
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self.ca_path, pem)

    def has_ca(self, fingerprint: bytes) -> bool:
        """Whether the CA that a code names is kept already."""
        try:
            certificate = x509.load_pem_x509_certificate(self.ca_path.read_bytes())
        except (OSError, ValueError):
            return False
        return ca_fingerprint(certificate.public_bytes(Encoding.DER)) == fingerprint

    def accept(self, chain_pem: str) -> bool:
        """Keep a chain that came from the fleet, to be used at the next connection.

        Returns:
            False where it is the one that is here already.

        Raises:
            TrustError: not for this name and key, or not by this fleet's CA.
        """
        check_chain(chain_pem, self.ca_path.read_bytes(), self._name, self._public)
        data = chain_pem.encode()
        for path in (self._next, self._current):
            if path.exists() and path.read_bytes() == data:
                return False
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._next if self._current.exists() else self._current, data)
        self._tried_next = False
        return True

    def choose(self) -> Path:
        """The chain to connect with now: new and old in turn, while there is a new one.

        Raises:
            OSError: the device is not enrolled.
        """
        current = self._usable(self._current)
        if self._usable(self._next) and not (self._tried_next and current):
            self._tried_next = True
            return self._next
        self._tried_next = False
        if not self.ca_path.exists() or not current:
            raise FileNotFoundError(
                "this device has no certificate; run: edge-agent enroll --config FILE --code CODE"
            )
        return self._current

    def connected(self) -> None:
        """A broker accepted what ``choose`` gave last: a new chain now replaces the old one."""
        if self._tried_next and self._next.exists():
            self._next.replace(self._current)
            fsync_dir(self._directory)
        self._tried_next = False

    def _usable(self, path: Path) -> bool:
        """Whether TLS can show it: whole, and for this device's key."""
        try:
            chain = x509.load_pem_x509_certificates(path.read_bytes())
            key = chain[0].public_key()
        except (OSError, ValueError, UnsupportedAlgorithm):
            return False
        return (
            len(chain) == _CHAIN_LENGTH
            and isinstance(key, Ed25519PublicKey)
            and public_bytes(key) == self._public
        )


def check_chain(chain_pem: str, ca_pem: bytes, name: str, public: bytes) -> None:
    """Check a chain: device, issuer, and the CA that is known here. Times are not looked at: this
    device's clock may be anything, and the broker looks at them.

    Raises:
        TrustError: something of it is not as it must be; says what.
    """
    if len(chain_pem) > CHAIN_LIMIT_CHARS:
        raise TrustError(f"certificate: more than {CHAIN_LIMIT_CHARS} characters")
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
        ca = x509.load_pem_x509_certificate(ca_pem)
    except ValueError as error:
        raise TrustError(f"certificate: not in PEM: {error}") from error
    if len(chain) != _CHAIN_LENGTH:
        raise TrustError(f"certificate: expected device and issuer, got {len(chain)}")
    leaf, issuer = chain
    names = [str(a.value) for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [name]:
        raise TrustError(f"certificate: expected the name {name}, got {names!r:.100}")
    key = leaf.public_key()
    if not isinstance(key, Ed25519PublicKey) or public_bytes(key) != public:
        raise TrustError("certificate: it is for another key than this device's")
    try:
        leaf.verify_directly_issued_by(issuer)
        issuer.verify_directly_issued_by(ca)
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise TrustError("certificate: it does not chain to this fleet's CA") from error
    if not basic.ca or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise TrustError("certificate: not a client's, or its issuer may not issue")
