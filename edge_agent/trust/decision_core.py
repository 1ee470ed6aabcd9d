"""python-tuf's decision core, without the downloader of the package that it lies in.

``tuf.ngclient`` imports its HTTP fetcher, and so urllib3: 2 MB of every device's memory for code
that is not called here, because metadata comes over MQTT or from a file (ADR 0004).
"""

from __future__ import annotations

from edge_agent.lean_imports import bare_package

with bare_package("tuf.ngclient"):
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
    from tuf.ngclient.config import EnvelopeType

__all__ = ["EnvelopeType", "TrustedMetadataSet"]
