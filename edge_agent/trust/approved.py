"""What verified metadata says about one model line: approved versions, and who may order them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from edge_contract.desired import Directors
from edge_contract.errors import TrustError
from edge_contract.metadata import version_order


class ApprovedTarget(msgspec.Struct, frozen=True):
    """One approved bundle: the digest and the length of its manifest."""

    version: str
    digest: str
    length_bytes: int


class ApprovedLine(msgspec.Struct, frozen=True):
    """One model line as a threshold of keys signed it.

    timestamp_version: how new the metadata is.
    expires_s: the earliest expiry (unix s) of all roles on the way to it.
    targets: version -> approved bundle.
    min_release: the oldest version that may be installed anew; "" for none.
    """

    line: str
    timestamp_version: int
    expires_s: float
    targets: Mapping[str, ApprovedTarget]
    directors: Directors
    min_release: str = ""

    def require(
        self, version: str, digest: str, *, held: Collection[str] = frozenset()
    ) -> ApprovedTarget:
        """The approved bundle with this version and this manifest digest.

        Args:
            version: its semantic version.
            digest: its manifest's digest.
            held: digests in the device's slots; the floor does not count for them.

        Raises:
            TrustError: no such version is approved, it is approved with another digest, or it is
                below the floor.
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
        if (
            self.min_release
            and digest not in held
            and version_order(version) < version_order(self.min_release)
        ):
            raise TrustError(
                f"downgrade: {self.line} {version} is below the line's signed floor"
                f" {self.min_release}; only what a slot holds already may come back",
                hint=f"install {self.line} {self.min_release} or newer",
                docs="explanation/trust.md",
            )
        return target


class HeldMetadata(msgspec.Struct, frozen=True):
    """What of the metadata is verified and kept.

    digest: ``parts_digest`` of the set.
    """

    root_version: int
    digest: str
