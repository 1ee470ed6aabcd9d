"""What verified metadata says about one model line: approved versions, and who may order them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_contract.desired import Directors
from edge_contract.errors import TrustError


@dataclass(frozen=True)
class ApprovedTarget:
    """One approved bundle: the digest and the length of its manifest."""

    version: str
    digest: str
    length_bytes: int


@dataclass(frozen=True)
class ApprovedLine:
    """One model line as a threshold of keys signed it.

    timestamp_version: how new the metadata is.
    expires_s: the earliest expiry (unix s) of all roles on the way to it.
    targets: version -> approved bundle.
    """

    line: str
    timestamp_version: int
    expires_s: float
    targets: Mapping[str, ApprovedTarget]
    directors: Directors

    def require(self, version: str, digest: str) -> ApprovedTarget:
        """The approved bundle with this version and this manifest digest.

        Raises:
            TrustError: no such version is approved, or it is approved with another digest.
        """
        target = self.targets.get(version)
        if target is None:
            raise TrustError(
                f"{self.line} {version} is not approved; approved are {sorted(self.targets)}",
                hint=f"edge-fleet publish the bundle of {self.line} {version}",
                docs="explanation/trust.md",
            )
        if target.digest != digest:
            raise TrustError(
                f"{self.line} {version} is approved as {target.digest}, but this is {digest}",
                hint="the bundle is not the one that was approved; fetch it from its source",
                docs="explanation/trust.md",
            )
        return target
