"""The predictions file: one JSON line a frame, for whoever needs the answers on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.infer.engine import Answer
from edge_contract.codec import encode_json

CAP_BYTES = 256 << 20
"""The file is turned over to ``.1`` beyond this, so it takes at most twice as much."""


class PredictionsFile:
    """Appends answers; what cannot be written is counted, never waited for.

    Args:
        path: the file; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost_count = 0

    def write(self, answers: list[Answer]) -> str:
        """Append one line an answer. Returns "" or why it could not be written."""
        lines = b"".join(encode_json(as_line(answer)) + b"\n" for answer in answers)
        try:
            if self.path.exists() and self.path.stat().st_size > CAP_BYTES:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
            with self.path.open("ab") as file:
                file.write(lines)
        except OSError as error:
            self.lost_count += len(answers)
            return f"cannot write {self.path}: {error.strerror}"
        return ""


def as_line(answer: Answer) -> dict[str, Any]:
    """The fields of one line."""
    line: dict[str, Any] = {
        "ts": answer.ts,
        "frame": answer.name,
        "model_version": answer.version,
        "digest": answer.digest,
        "slot": answer.slot,
    }
    if answer.prediction is None:
        return {**line, "error": answer.error, "refused": answer.refused}
    prediction = answer.prediction
    if prediction.class_id is not None:
        line |= {"class_id": prediction.class_id, "label": answer.label}
    if prediction.confidence is not None:
        line |= {"confidence": round(prediction.confidence, 6), "unsure": answer.unsure}
    if prediction.value is not None:
        line["value"] = round(prediction.value, 6)
    return {
        **line,
        "preprocess_ms": round(prediction.preprocess_ms, 4),
        "infer_ms": round(prediction.infer_ms, 4),
    }
