"""The report on a terminal."""

from __future__ import annotations

from compiler.report.build import BuildReport


def summary_lines(report: BuildReport) -> list[str]:
    """Lines for a terminal; the last one is the verdict."""
    lines = [f"{report.name} {report.version}  {report.bundle_digest or 'no bundle'}"]
    for target in report.targets:
        audit, interval = target.audit, target.gate.interval
        total_macs = sum(layer.macs for layer in audit.layers)
        figures = [
            f"  {one.title.lower():<9} {one.value}, {one.note}" for one in target.measured.figures
        ]
        bound = (
            f"at least {interval.lower:.5f}"
            if interval.at_least
            else f"at most {interval.upper:.2f} {interval.unit}"
        )
        int8 = (
            f"{audit.seen} of {audit.expected} layers, {audit.macs_share:.1%} of"
            f" {total_macs:,} MACs"
            + (f" that are counted, without {words}" if (words := audit.uncounted_words) else "")
        )
        lines += [
            f"{target.target} ({target.scheme}, {target.candidates[0].recipe})",
            *figures,
            f"  bound     {interval.what} {bound} at 95 % (limit {interval.limit:g})",
            f"  int8      {int8}",
            f"  size      {target.bytes_int8:,} bytes of {target.bytes_float:,}",
            *(f"  {line}" for section in target.sections for line in section.lines),
        ]
    lines += [line for section in report.sections for line in section.lines]
    lines += [f"warning: {warning}" for warning in report.warnings]
    word = {"pass": "PASS", "fail": "FAIL", "insufficient": "FAIL (insufficient data)"}
    return [*lines, f"{word[report.verdict]}: {report.reason}"]
