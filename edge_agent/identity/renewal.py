"""When to ask for a new certificate, and how. Owned by the loop.

At two thirds of its life over the connection that there is; the fleet, whose clock is right, says
so too. A certificate that no broker accepts any more (the device was away, or the fleet distrusts
the issuer) is replaced over the enrolment listener, where the pinned key counts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_agent.identity.certificate import CertificateFiles
from edge_agent.identity.contact import Contact
from edge_agent.identity.device_key import Identity
from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import TrustError, WherryError
from edge_contract.messages import CertificateAnswer, CertificateAsk

ASK_EVERY_S = 3600.0
"""Between two asks: a hint to renew is not signed, and must cost little."""
RECERTIFY_AFTER_S = 60.0
"""How long TLS must have failed before the enrolment listener is tried."""

log = logging.getLogger("edge_agent")


class Renewal:
    """Keeps the certificate fresh.

    Args:
        files: the certificate.
        identity: signs requests.
        name: (fleet, device).
        contact: makes what asks on the enrolment listener.
        reference_s: the time that this device can prove, unix seconds.
        recertify_after_s: see ``RECERTIFY_AFTER_S``.
    """

    def __init__(
        self,
        files: CertificateFiles,
        identity: Identity,
        name: tuple[str, str],
        contact: Callable[[], Contact],
        reference_s: Callable[[], float],
        recertify_after_s: float = RECERTIFY_AFTER_S,
    ) -> None:
        self._files = files
        self._identity = identity
        self._fleet, self._device = name
        self._contact = contact
        self._reference_s = reference_s
        self._recertify_after_s = recertify_after_s
        self._asked_s: float | None = None
        self._hinted = False
        self._refused_since_s: float | None = None
        self._thread: threading.Thread | None = None

    def hint(self, renew: bool) -> None:
        """The fleet says whether it is time."""
        self._hinted = renew

    def connected(self) -> None:
        """TLS works."""
        self._refused_since_s = None

    def refused(self, now_s: float) -> None:
        """TLS failed."""
        if self._refused_since_s is None:
            self._refused_since_s = now_s

    def ask(self, now_s: float) -> bytes | None:
        """What to publish on ``enroll/renew`` now; None for nothing."""
        if not self._hinted and not self._files.due(self._reference_s()):
            return None
        if self._asked_s is not None and now_s - self._asked_s < ASK_EVERY_S:
            return None
        self._asked_s = now_s
        csr = self._identity.request(self._fleet, self._device)
        return encode_json(CertificateAsk(device=self._device, csr=csr))

    def answered(self, payload: bytes) -> bool:
        """A verified answer came; whether to connect anew with what it brought.

        Raises:
            ContractError: malformed.
            TrustError: refused, or not a certificate of this device.
        """
        answer = decode_json(payload, CertificateAnswer, what="rsp/certificate")
        if not answer.accepted:
            raise TrustError(f"the fleet does not renew the certificate: {answer.reason}")
        self._hinted = False
        return self._files.accept(answer.chain)

    def tick(self, now_s: float) -> None:
        """Offline: show the pinned key where the certificate alone is what keeps it out."""
        since_s = self._refused_since_s
        if since_s is None or now_s - since_s < self._recertify_after_s:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        if self._asked_s is not None and now_s - self._asked_s < ASK_EVERY_S:
            return
        self._asked_s = now_s
        self._thread = threading.Thread(target=self._recertify, name="recertify", daemon=True)
        self._thread.start()

    def _recertify(self) -> None:
        try:
            if self._contact().recertify():
                log.info("a new certificate came over the enrolment listener")
        except (WherryError, OSError) as error:
            log.warning("no new certificate: %s", error)
