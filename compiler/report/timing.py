"""The latency part of the report: what was measured, where, and what it does not decide."""

from __future__ import annotations

from compiler.proof.latency import Latency, why_slower
from compiler.report.section import Section
from compiler.report.target import TargetReport


def timing_section(latency: Latency, report: TargetReport, arch: str, runtime: str) -> Section:
    """Float beside int8.

    Args:
        latency: as measured.
        report: of the target, for the reasons of a slow int8 model.
        arch: of the target's profile.
        runtime: of the target's variant.
    """
    audit = report.audit
    low, high = latency.ratio_bounds
    decides = latency.decides_for(arch)
    why = (
        why_slower(
            latency,
            f"{runtime} {report.scheme}",
            len(audit.left_float),
            len(audit.layers),
            sum(layer.macs for layer in audit.layers),
        )
        if latency.slower
        else []
    )
    figures = {name: latency.quantiles(name) for name in ("float", "int8")}
    machine = latency.machine.replace("_", "-")
    label = f"measured on this machine ({machine})"
    doubt = "" if decides else f"{machine} timing never decides for {_family(arch)}"
    if latency.slower:
        verdict = f"int8 is slower than float here: {latency.ratio:.2f} times its time"
    elif high < 1:
        verdict = f"int8 is faster than float here: {latency.ratio:.2f} of its time"
    else:
        verdict = "int8 and float cannot be told apart here"
    return Section(
        key="latency",
        title="Latency",
        place="cost",
        note=(
            f"{label[0].upper()}{label[1:]}, one thread, {latency.pairs} frames answered by both"
            f" models in turns{f'; {doubt}' if doubt else ''}."
        ),
        data={
            "kind": "measured",
            "machine": latency.machine,
            "decides_for_target": decides,
            "threads": 1,
            "pairs": latency.pairs,
            **{
                name: {"p50_ms": _ms(p50), "p95_ms": _ms(p95)}
                for name, (p50, p95) in figures.items()
            },
            "preprocess_p50_ms": _ms(latency.preprocess_ms),
            "int8_over_float": {
                "median": round(latency.ratio, 4),
                "low": round(low, 4),
                "high": round(high, 4),
            },
            "slower_than_float": latency.slower,
            "why": why,
        },
        columns=("one frame", "p50", "p95"),
        rows=(
            *((name, f"{p50:.3f} ms", f"{p95:.3f} ms") for name, (p50, p95) in figures.items()),
            ("preprocessing, either", f"{latency.preprocess_ms:.3f} ms", ""),
        ),
        template="timing.html",
        view={
            "verdict": verdict,
            "low": low,
            "high": high,
            "slower": latency.slower,
            "why": why,
            "decides": decides,
        },
        lines=(
            (
                f"latency   p50 {figures['int8'][0]:.3f} ms, p95 {figures['int8'][1]:.3f} ms"
                f" (float {figures['float'][0]:.3f}, {figures['float'][1]:.3f}), {label}"
            ),
            f"          {'; '.join(filter(None, (verdict, doubt)))}",
            *(f"          why: {reason}" for reason in why[:1]),
        ),
    )


def _ms(value: float) -> float:
    return round(value, 4)


def _family(arch: str) -> str:
    return "ARM" if arch == "aarch64" else arch.replace("_", "-")
