"""The report on a terminal."""

from __future__ import annotations

from compiler.report.build import BuildReport


def summary_lines(report: BuildReport) -> list[str]:
    """Lines for a terminal; the last one is the verdict."""
    lines = [f"{report.name} {report.version}  {report.bundle_digest or 'no bundle'}"]
    for target in report.targets:
        comparison, audit = target.comparison, target.audit
        total_macs = sum(layer.macs for layer in audit.layers)
        accuracy = (
            f"{comparison.float_accuracy:.2%} float, {comparison.int8_accuracy:.2%} int8,"
            f" {comparison.agreement:.2%} agree, n = {comparison.n}"
        )
        drop = (
            f"at most {target.gate.drop_upper_pp:.2f} pp at 95 % (limit"
            f" {target.gate.max_drop_pp:g}), {len(comparison.lost)} lost,"
            f" {len(comparison.gained)} gained"
        )
        int8 = (
            f"{audit.seen} of {audit.expected} layers, {audit.macs_share:.1%} of"
            f" {total_macs:,} MACs"
        )
        lines += [
            f"{target.target} ({target.scheme}, {target.candidates[0].recipe})",
            f"  accuracy  {accuracy}",
            f"  drop      {drop}",
            f"  int8      {int8}",
            f"  size      {target.bytes_int8:,} bytes of {target.bytes_float:,}",
            *(f"  {line}" for section in target.sections for line in section.lines),
        ]
    lines += [line for section in report.sections for line in section.lines]
    lines += [f"warning: {warning}" for warning in report.warnings]
    word = {"pass": "PASS", "fail": "FAIL", "insufficient": "FAIL (insufficient data)"}
    return [*lines, f"{word[report.verdict]}: {report.reason}"]
