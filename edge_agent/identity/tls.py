"""TLS with the time that this device can prove, instead of the time that its clock shows.

A board without a battery boots in 1970, where every certificate is "not yet valid". So OpenSSL is
told not to look at times (X509_V_FLAG_NO_CHECK_TIME), and the server's end date is compared here
with the reference time of ``edge_agent.trust.time_floor``: the signed floor, or the clock where it
is synchronised. Without either nothing is known to be expired. Begin dates are not looked at: a
server certificate from the future protects nobody.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h), which ``ssl`` has no name for."""


class TimedSocket(ssl.SSLSocket):
    """Refuses an expired server in the handshake, and keeps why a broker hung up."""

    def do_handshake(self, block: bool = False) -> None:
        """See ``ssl.SSLSocket``."""
        context = self.context
        assert isinstance(context, TimedContext)
        try:
            super().do_handshake(block)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            context.refusal = _reason(error)
            raise
        context.check_time(self.getpeercert(True))

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See ``ssl.SSLSocket``. In TLS 1.3 a refused client learns of it when it first reads."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            context = self.context
            assert isinstance(context, TimedContext)
            context.refusal = _reason(error)
            raise


class TimedContext(ssl.SSLContext):
    """Settings of one connection. Made by ``client_context``."""

    reference_s: Callable[[], float] = staticmethod(lambda: 0.0)
    refusal: str = ""
    """What TLS said last, "" while it said nothing."""

    def check_time(self, der: bytes | None) -> None:
        """Refuse a server whose certificate has ended for certain.

        Raises:
            ssl.SSLCertVerificationError: it has.
        """
        if der is None or self.verify_mode is ssl.CERT_NONE:
            return
        until = x509.load_der_x509_certificate(der).not_valid_after_utc
        if until.timestamp() < self.reference_s():
            self.refusal = f"the broker's certificate has expired ({until:%Y-%m-%d})"
            raise ssl.SSLCertVerificationError(self.refusal)


def client_context(
    ca: Path | None,
    *,
    chain: Path | None = None,
    key: Path | None = None,
    reference_s: Callable[[], float],
) -> TimedContext:
    """TLS 1.2 or newer, host names checked, this fleet's CA and no other.

    Args:
        ca: the CA's certificate; None only for fetching it, which is then checked by itself.
        chain, key: the device's own; None before it has one.
        reference_s: the time to check expiry against, unix seconds.

    Raises:
        OSError: a file is missing or does not belong to the key.
    """
    context = TimedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = TimedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.reference_s = reference_s
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cafile=str(ca))
        context.verify_flags |= _NO_CHECK_TIME
    if chain is not None:
        context.load_cert_chain(str(chain), str(key) if key else None)
    return context


def _reason(error: ssl.SSLError) -> str:
    return (getattr(error, "verify_message", "") or error.reason or str(error)).lower()
