"""``edge-agent apply DIR``: install what a medium brings, and leave a signed receipt on it.

The running agent does the work, by the same checks and the same machine as for an order over the
network; this side only shows its steps and writes the receipt.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.api import call
from edge_agent.errors import AgentError
from edge_contract.codec import encode_json
from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably
from edge_contract.media import MEDIA_FILE
from edge_contract.receipt import RECEIPTS_DIR, Receipt, encode_receipt


def apply_medium(
    directory: Path, state_dir: Path, progress: Callable[[str], None], *, again: bool = False
) -> dict[str, Any]:
    """Install from the medium at ``directory``; returns ``{"phase", "text", "receipt"}``.

    Args:
        directory: the medium, or where it is mounted.
        state_dir: of the agent that runs.
        progress: hears each step.
        again: carry out once more what the device began and did not commit.

    Raises:
        AgentError: no medium there, no agent runs, the device refuses, or the receipt could not be
            written (the message says that the installation stands).
    """
    medium = find_medium(directory)
    body = {"do": "apply", "medium": str(medium.absolute()), "again": again}
    for reply in call(state_dir, body):
        if reply.get("done"):
            receipt = _write_receipt(medium, reply)
            if "error" in reply:
                raise AgentError(
                    str(reply["error"]),
                    hint=str(reply.get("hint", "")),
                    exit_code=ExitCode(int(reply.get("code", ExitCode.FAILURE))),
                )
            return {"phase": reply["phase"], "text": reply["text"], "receipt": receipt}
        progress(str(reply["text"]))
    raise AgentError(f"the agent on {state_dir} gave no answer")


def find_medium(directory: Path) -> Path:
    """The medium in a directory: itself, or the only one right below it.

    Raises:
        AgentError: none, or several.
    """
    if not directory.is_dir():
        raise AgentError(
            f"{directory}: expected the directory of a medium, and there is none; is it mounted?",
            hint="lsblk shows where; then edge-agent apply DIRECTORY",
            exit_code=ExitCode.NOT_FOUND,
        )
    try:
        if (directory / MEDIA_FILE).is_file():
            return directory
        found = sorted(path.parent for path in directory.glob(f"*/{MEDIA_FILE}"))
    except OSError as error:
        raise AgentError(
            f"cannot read {directory}: {error.strerror}; was it pulled out?"
        ) from error
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise AgentError(
            f"{directory}: expected one medium with {MEDIA_FILE}, found {names}",
            hint=f"edge-agent apply {directory}/NAME"
            if found
            else "edge-fleet export LINE VERSION --usb DIRECTORY writes one, at the manager",
            exit_code=ExitCode.NOT_FOUND,
        )
    return found[0]


def _write_receipt(medium: Path, reply: dict[str, Any]) -> str:
    """Put the receipt on the medium; its path, "" where there is nothing to tell."""
    if not reply.get("receipt"):
        return ""
    receipt = msgspec.convert(reply["receipt"], Receipt)
    path = medium / RECEIPTS_DIR / f"{receipt.device}-{reply['receipt_name']}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        if path.parent.is_symlink():
            raise OSError(errno.ENOTDIR, "receipts is a symbolic link")
        write_durably(path, encode_receipt(receipt))
    except OSError as error:
        why = {
            errno.EROFS: "the medium is read-only",
            errno.ENOSPC: "the medium is full",
            errno.ENOTDIR: f"{path.parent} is no directory of the medium",
            errno.EEXIST: f"{path.parent} is no directory of the medium",
        }
        raise AgentError(
            f"{reply.get('text') or reply.get('error')}; but the receipt was not written:"
            f" {why.get(error.errno or 0, 'the medium is gone')}",
            hint="the steps are in the device's spool and go to the fleet when it is online",
        ) from error
    return str(path)


def receipt_body(receipt: Receipt, name: str) -> dict[str, Any]:
    """The receipt as the agent's local API carries it."""
    return {"receipt": msgspec.json.decode(encode_json(receipt)), "receipt_name": name}
