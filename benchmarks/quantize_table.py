"""The table of ``quantize.py`` and the bar that wherry is held to in it.

For each model, scheme and effort there are three criteria. *Agreement*: the mean over the draws is
at least that of the best peer whose int8 runs, or the paired 95 % interval of the difference
reaches 0 and the logits are cleaner. *Counts*: at least 99 % of the multiply-accumulates run in
int8 and the file is at most 1.05 times as large as that peer's. *Time*: ``fast`` takes at most 1.5
times as long as that peer, ``normal`` at most 60 s; ``thorough`` takes what it takes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

MACS_SHARE_MIN = 0.99
SIZE_RATIO_MAX = 1.05
FAST_RATIO_MAX = 1.5
NORMAL_S_MAX = 60.0
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantiles of Student's t for so many draws."""


@dataclass(frozen=True)
class Figures:
    """One file: what was measured of it on one draw. Shares and accuracies are 0..1."""

    accuracy: float
    agreement: float
    snr_db: float
    size_bytes: int
    macs_share: float
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Row:
    """What a line of the table is about."""

    tool: str
    recipe: str
    scheme: str


def summarise(
    rows: Mapping[Row, Sequence[Figures]],
    efforts: Sequence[str],
    float_accuracy: float,
    test_samples: int,
) -> dict[str, Any]:
    """Means, spreads, verdicts and criteria of one model."""
    table = []
    for row, draws in rows.items():
        values = [one.agreement for one in draws]
        means = {
            field.name: statistics.fmean(getattr(one, field.name) for one in draws)
            for field in fields(Figures)
        }
        table.append(
            {
                **asdict(row),
                **means,
                "agreement_sd": statistics.stdev(values) if len(values) > 1 else 0.0,
                "draws": [asdict(one) for one in draws],
            }
        )
    schemes = list(dict.fromkeys(row.scheme for row in rows if row.tool == "wherry"))
    verdicts = [_verdict(table, scheme, effort) for scheme in schemes for effort in efforts]
    return {
        "float_accuracy": float_accuracy,
        "test_samples": test_samples,
        "rows": table,
        "verdicts": verdicts,
        "criteria": [one for verdict in verdicts for one in _criteria(verdict)],
    }


def _verdict(table: list[dict[str, Any]], scheme: str, effort: str) -> dict[str, Any]:
    """wherry against the peer of the scheme with the best mean agreement that counts."""
    name = ("wherry", effort, scheme)
    ours = next((r for r in table if (r["tool"], r["recipe"], r["scheme"]) == name), None)
    peers = [
        r
        for r in table
        if r["tool"] != "wherry" and r["scheme"] == scheme and r["macs_share"] >= MACS_SHARE_MIN
    ]
    if ours is None or not peers:
        return {"scheme": scheme, "effort": effort, "best_peer": None}
    best = max(peers, key=lambda row: row["agreement"])
    # Both ran on the same draws, so draw stands beside draw.
    pairs = [
        a["agreement"] - b["agreement"] for a, b in zip(ours["draws"], best["draws"], strict=True)
    ]
    mean = statistics.fmean(pairs)
    # One draw has no spread and gets no benefit of the doubt.
    spread = (
        T_95.get(len(pairs), 1.96) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        if len(pairs) > 1
        else 0.0
    )
    ahead = mean >= 0 or (mean + spread >= 0 and ours["snr_db"] > best["snr_db"])
    return {
        "scheme": scheme,
        "effort": effort,
        "best_peer": f"{best['tool']} {best['recipe']}",
        "difference_pp": 100 * mean,
        "interval_pp": [100 * (mean - spread), 100 * (mean + spread)],
        "snr_difference_db": ours["snr_db"] - best["snr_db"],
        "macs_share": ours["macs_share"],
        "size_ratio": ours["size_bytes"] / best["size_bytes"],
        "seconds": ours["seconds"],
        "seconds_ratio": ours["seconds"] / best["seconds"],
        "at_least_equal": ahead,
    }


def _criteria(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every criterion of one verdict: what it is about, in words, and whether it holds."""
    what = f"{verdict['scheme']} {verdict['effort']}"
    if verdict["best_peer"] is None:
        return [{"text": f"{what}: no result, or no peer to stand beside it", "holds": False}]
    low, high = verdict["interval_pp"]
    found = [
        {
            "text": f"{what} agreement: {verdict['difference_pp']:+.2f} pp"
            f" [{low:+.2f}, {high:+.2f}] and {verdict['snr_difference_db']:+.1f} dB"
            f" beside {verdict['best_peer']}",
            "holds": verdict["at_least_equal"],
        },
        {
            "text": f"{what} counts: {verdict['macs_share']:.1%} of the MACs in int8,"
            f" size x{verdict['size_ratio']:.2f}",
            "holds": verdict["macs_share"] >= MACS_SHARE_MIN
            and verdict["size_ratio"] <= SIZE_RATIO_MAX,
        },
    ]
    if verdict["effort"] == "fast":
        text = f"{what} time: x{verdict['seconds_ratio']:.2f}, at most x{FAST_RATIO_MAX}"
        found.append({"text": text, "holds": verdict["seconds_ratio"] <= FAST_RATIO_MAX})
    if verdict["effort"] == "normal":
        text = f"{what} time: {verdict['seconds']:.1f} s, at most {NORMAL_S_MAX:.0f} s"
        found.append({"text": text, "holds": verdict["seconds"] <= NORMAL_S_MAX})
    return found


def table_lines(name: str, found: Mapping[str, Any]) -> list[str]:
    """The table of one model and a line a criterion."""
    lines = [
        "",
        (
            f"{name}: float accuracy {found['float_accuracy']:.2%},"
            f" {found['test_samples']} test samples"
        ),
        (
            f"{'tool':8} {'recipe':21} {'scheme':15} {'acc %':>6} {'agree % (sd)':>14}"
            f" {'SNR dB':>7} {'bytes':>9} {'int8 MACs':>9} {'s':>6} {'peak MB':>8}"
        ),
    ]
    for row in _sorted(found):
        agreement = f"{100 * row['agreement']:.2f} ({100 * row['agreement_sd']:.2f})"
        lines.append(
            f"{row['tool']:8} {row['recipe']:21} {row['scheme']:15}"
            f" {100 * row['accuracy']:6.2f} {agreement:>14} {row['snr_db']:7.2f}"
            f" {row['size_bytes']:9.0f} {row['macs_share']:9.3f} {row['seconds']:6.2f}"
            f" {row['peak_mb']:8.0f}"
        )
    for one in found["criteria"]:
        lines.append(f"  {'holds ' if one['holds'] else 'FAILS '} {name} {one['text']}")
    return lines


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as a page."""
    lines = [
        "# int8 beside other quantisers",
        "",
        "Made by `python benchmarks/quantize.py --data DIR --evidence docs/evidence`,",
        "which puts the figures of every draw into `quantize.json`, too.",
        "",
        f"- Machine: {report['machine']}",
        f"- Calibration draws: {report['draws']}, the same samples for every tool",
        f"- The bar of `benchmarks/quantize_table.py`: {'holds' if report['holds'] else 'FAILS'}",
        "",
    ]
    for name, found in report["models"].items():
        lines += [
            f"## {name}",
            "",
            f"Float accuracy {found['float_accuracy']:.2%}, {found['test_samples']} test samples.",
            "",
            "| scheme | tool | recipe | acc. % | agreement % (sd) | dB | bytes | MACs | s | MB |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in _sorted(found):
            lines.append(
                f"| {row['scheme']} | {row['tool']} | {row['recipe']} |"
                f" {100 * row['accuracy']:.2f} |"
                f" {100 * row['agreement']:.2f} ({100 * row['agreement_sd']:.2f}) |"
                f" {row['snr_db']:.2f} | {row['size_bytes']:.0f} | {row['macs_share']:.3f} |"
                f" {row['seconds']:.2f} | {row['peak_mb']:.0f} |"
            )
        lines += ["", "| criterion | holds |", "|---|---|"]
        for one in found["criteria"]:
            lines.append(f"| {one['text']} | {'yes' if one['holds'] else '**no**'} |")
        lines.append("")
    return "\n".join(lines)


def _sorted(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(found["rows"], key=lambda row: (row["scheme"], -row["agreement"]))
