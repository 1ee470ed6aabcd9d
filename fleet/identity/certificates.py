"""X.509 as this fleet uses it: names, requests and the certificates that answer them. No files.

Every subject is ``O={fleet}, CN={fleet}/{name}``. The common name is what a broker takes as the
user name; the organisation is what the issuer is constrained to (RFC 5280, 4.2.1.10: directory
names are compared from the top, so a constraint cannot reach into the common name alone).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_contract.errors import ContractError, TrustError

CSR_LIMIT_CHARS = 4096
NAME_CHARS_MAX = 64
"""Of a common name (RFC 5280, ub-common-name): fleet and device together."""
SKEW_S = 3600.0
"""Certificates are valid from this long before they are made: brokers' clocks differ."""
MANAGER = "_manager"
OBSERVER = "_observer"

PrivateKey = ec.EllipticCurvePrivateKey


def subject(fleet: str, name: str) -> x509.Name:
    """The subject of a device, of the manager, or of the observer."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{fleet}/{name}"),
        ]
    )


def authority_name(fleet: str, role: str) -> x509.Name:
    """The subject of the root (``root``) or of an issuer (``issuer``)."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{fleet} fleet {role}"),
        ]
    )


def read_request(pem: str, fleet: str, device: str) -> Ed25519PublicKey:
    """The key that asks, out of a device's request.

    Only name and key are read: whatever else a request wants is not granted.

    Raises:
        ContractError: not a request.
        TrustError: another name, another kind of key, or not signed by that key.
    """
    if len(f"{fleet}/{device}") > NAME_CHARS_MAX:
        raise ContractError(
            f"{fleet}/{device}: a certificate's name holds at most {NAME_CHARS_MAX} characters;"
            " choose a shorter device id"
        )
    request = _parse_request(pem)
    names = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [f"{fleet}/{device}"]:
        raise TrustError(
            f"certificate request: expected the common name {fleet}/{device}, got {names!r:.100}"
        )
    key = _signed_by(request)
    if not isinstance(key, Ed25519PublicKey):
        raise TrustError(
            f"certificate request: expected an Ed25519 key, got {type(key).__name__:.40}"
        )
    return key


def read_issuer_request(pem: str) -> tuple[str, CertificatePublicKeyTypes]:
    """(fleet, key) of a manager that wants to become an issuer.

    Raises:
        ContractError, TrustError: not a request of that kind, or not signed by its own key.
    """
    request = _parse_request(pem)
    fleets = request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    key = _signed_by(request)
    if len(fleets) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
        raise TrustError("expected the request that `edge-fleet ca request` wrote")
    return str(fleets[0].value), key


def _parse_request(pem: str) -> x509.CertificateSigningRequest:
    if len(pem) > CSR_LIMIT_CHARS:
        raise ContractError(f"certificate request: at most {CSR_LIMIT_CHARS} characters")
    try:
        return x509.load_pem_x509_csr(pem.encode())
    except (ValueError, TypeError) as error:
        raise ContractError("certificate request: not a PKCS #10 request in PEM") from error


def _signed_by(request: x509.CertificateSigningRequest) -> CertificatePublicKeyTypes:
    try:
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise TrustError("certificate request: a key that is not supported") from error
    if not valid:
        raise TrustError("certificate request: not signed by the key that it names")
    return key


def build_root(fleet: str, key: PrivateKey, now_s: float, life_s: float) -> x509.Certificate:
    """The fleet's CA: self-signed, may have one level of issuers below it."""
    name = authority_name(fleet, "root")
    builder = _begin(name, name, key.public_key(), now_s, now_s + life_s, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    return builder.add_extension(_usage(ca=True), critical=True).sign(key, hashes.SHA256())


def build_issuer(
    fleet: str,
    public: CertificatePublicKeyTypes,
    root: x509.Certificate,
    root_key: PrivateKey,
    now_s: float,
    life_s: float,
) -> x509.Certificate:
    """An issuer for a manager: client certificates of this fleet, and nothing else.

    It cannot make servers (extended key usage) nor issuers (path length), nor names of another
    organisation, nor any DNS name or address (name constraints).
    """
    builder = _begin(
        authority_name(fleet, "issuer"), root.subject, public, now_s, now_s + life_s, root_key
    )
    permitted = x509.DirectoryName(
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet)])
    )
    nowhere: list[x509.GeneralName] = [
        x509.DNSName(""),
        x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
        x509.IPAddress(ipaddress.ip_network("::/0")),
    ]
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(x509.NameConstraints([permitted], nowhere), critical=True)
        .sign(root_key, hashes.SHA256())
    )


def build_server(
    fleet: str,
    hosts: Sequence[str],
    public: CertificatePublicKeyTypes,
    root: x509.Certificate,
    root_key: PrivateKey,
    now_s: float,
    life_s: float,
) -> x509.Certificate:
    """A broker's certificate, straight from the root: no issuer can make one."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    return (
        _begin(common, root.subject, public, now_s, now_s + life_s, root_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def build_client(
    fleet: str,
    name: str,
    public: CertificatePublicKeyTypes,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    now_s: float,
    until_s: float,
) -> x509.Certificate:
    """A device's, the manager's or the observer's certificate."""
    return (
        _begin(subject(fleet, name), issuer.subject, public, now_s, until_s, issuer_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def build_crl(
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    revoked: Sequence[tuple[int, float]],
    now_s: float,
) -> x509.CertificateRevocationList:
    """What an issuer revoked, as (serial, unix s).

    It is valid as long as the issuer is: a list that ran out, or began in the future because the
    manager's clock had jumped, would lock the whole fleet out, and the broker reads it from its own
    disk, where nobody can hold a newer one back.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(issuer.not_valid_before_utc)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(_key_id(issuer), critical=False)
        .add_extension(x509.CRLNumber(int(now_s * 1000)), critical=False)
    )
    for serial, at_s in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(at_s))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer_key, hashes.SHA256())


def key_id(certificate: x509.Certificate) -> str:
    """The subject key identifier, hexadecimal: names an issuer."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return extension.value.digest.hex()


def _begin(
    name: x509.Name,
    issuer: x509.Name,
    public: CertificatePublicKeyTypes,
    from_s: float,
    until_s: float,
    signer: PrivateKey,
) -> x509.CertificateBuilder:
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(from_s - SKEW_S))
        .not_valid_after(_time(until_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(signer_id, critical=False)
    )


def _key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _time(unix_s: float) -> datetime:
    return datetime.fromtimestamp(int(unix_s), timezone.utc)


def life_of(certificate: x509.Certificate) -> tuple[float, float]:
    """(from, until) in unix seconds."""
    return (
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
