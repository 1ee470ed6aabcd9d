"""What a rollout will send: whole blobs or deltas from what devices run, and for how long."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from edge_contract.errors import WherryError
from edge_contract.manifest import Descriptor
from fleet.manager.catalogue import Catalogue
from fleet.rollout.plan import RolloutPlan
from fleet.transfer.delta_store import WORTH_BYTES, DeltaStore
from fleet.views.rollout import BytesPreview, BytesRow

DELTA_WAIT_S = 5.0
"""A dry run waits that long for deltas that were never made; then they are "being made"."""


def preview_bytes(
    catalogue: Catalogue,
    deltas: DeltaStore | None,
    goodput_bytes_s: Mapping[str, float],
    plan: RolloutPlan,
) -> BytesPreview:
    """The bytes of a plan.

    Args:
        catalogue: what is published.
        deltas: makes what is missing.
        goodput_bytes_s: as measured, by device; others are taken for the median of these.
        plan: of the rollout.
    """
    groups = Counter((device.hardware, device.digest_from) for device in plan.devices)
    pairs = {
        group: _pairs(catalogue, plan.digest_to, group[1], group[0]) if deltas else []
        for group in groups
    }
    if deltas is not None:
        wanted = [(base, new.digest) for found in pairs.values() for base, new in found]
        for base, target in wanted:
            deltas.find(base, target)
        deltas.wait(wanted, DELTA_WAIT_S)
    rows = []
    each_bytes = {}
    for (hardware, digest_from), count in sorted(groups.items()):
        full_bytes = catalogue.download_bytes(plan.digest_to, hardware)
        shortened = _shortened(deltas, pairs[hardware, digest_from], full_bytes)
        each_bytes[hardware, digest_from] = full_bytes if shortened is None else shortened
        rows.append(
            BytesRow(
                hardware=hardware,
                version_from=catalogue.version_of(plan.model_line, digest_from),
                device_count=count,
                full_bytes=full_bytes,
                delta_bytes=shortened,
            )
        )
    expected = {d.device: each_bytes[d.hardware, d.digest_from] for d in plan.devices}
    return BytesPreview(
        rows=rows,
        expected_bytes=sum(expected.values()),
        transfer_s=_transfer_s(plan, expected, goodput_bytes_s),
        measured_count=sum(device in goodput_bytes_s for device in expected),
    )


def preview_lines(preview: BytesPreview) -> str:
    """The same for a terminal."""
    lines = []
    for row in preview.rows:
        delta = "whole" if row.delta_bytes is None else f"{row.delta_bytes:,} by delta"
        lines.append(
            f"  bytes: {row.device_count} {row.hardware} from {row.version_from or 'nothing'}:"
            f" {row.full_bytes:,} each, {delta}"
        )
    lines.append(f"  expected {preview.expected_bytes:,} bytes in all")
    if preview.transfer_s is None:
        lines.append("  duration unknown: no device's link was measured yet")
    else:
        lines.append(
            f"  transfers take about {preview.transfer_s:,.0f} s, soak not counted"
            f" ({preview.measured_count} of {sum(r.device_count for r in preview.rows)} links"
            " measured)"
        )
    return "\n".join(lines)


def _pairs(
    catalogue: Catalogue, digest_to: str, digest_from: str, hardware: str
) -> list[tuple[str, Descriptor]]:
    """(base, wanted) for the layers that a device on ``digest_from`` would ask deltas for."""
    try:
        old = {layer.path: layer for layer in catalogue.manifest(digest_from).layers}
    except WherryError:
        return []  # it runs nothing, or what is no longer published
    needed = catalogue.needed_layers(digest_to, hardware)
    held = {layer.digest for layer in old.values()}
    return [
        (old[layer.path].digest, layer)
        for layer in needed
        if layer.size >= WORTH_BYTES and layer.path in old and layer.digest not in held
    ]


def _shortened(
    deltas: DeltaStore | None, pairs: list[tuple[str, Descriptor]], full_bytes: int
) -> int | None:
    """What is left of ``full_bytes`` with the deltas that are known; None without any."""
    saved = 0
    for base, wanted in pairs if deltas else ():
        assert deltas is not None
        _, delta = deltas.find(base, wanted.digest)
        if delta is not None:
            saved += wanted.size - delta.size_bytes
    return full_bytes - saved if saved else None


def _transfer_s(
    plan: RolloutPlan, expected: Mapping[str, int], goodput_bytes_s: Mapping[str, float]
) -> float | None:
    """Waves go one after the other; a wave takes as long as its slowest device."""
    known = [goodput_bytes_s[device] for device in expected if goodput_bytes_s.get(device)]
    if not known:
        return None
    usual = statistics.median(known)
    return sum(
        max(expected[name] / (goodput_bytes_s.get(name) or usual) for name in wave)
        for wave in plan.waves
    )
