"""``edge-fleet enroll-code``: one-time codes for devices that have no certificate yet."""

from __future__ import annotations

import getpass

import click

from edge_contract.errors import ExitCode
from fleet.cli.terminal import emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir
from fleet.rollout.gate import parse_duration_s


@click.command("enroll-code")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, help="How many.")
@click.option("--expires", default="1h", help="Their life: seconds, or 30m, 8h, 7d.")
@click.option("--device", default="", help="The only device that may use it.")
@click.option("--qr", is_flag=True, help="Draw each as a QR code, too.")
@state_option
@json_option
def enroll_code(
    count: int, expires: str, device: str, qr: bool, state: StateDir, as_json: bool
) -> None:
    """Print one-time codes. Each enrols one device, and is shown this once."""
    from fleet.cli.api_client import ApiClient

    expires_s = read_expires_s(expires)
    body = {"who": getpass.getuser(), "count": count, "expires_s": expires_s, "device": device}
    answer = ApiClient(state).post("codes", body)
    codes = [str(code) for code in answer["codes"]]
    text = "\n".join(f"{_qr(code)}{code}" if qr else code for code in codes)
    emit(answer, text, as_json=as_json)
    say("next, on the device: edge-agent enroll --config FILE --code CODE")


def read_expires_s(text: str) -> float:
    """Seconds from what ``--expires`` says.

    Raises:
        FleetError: neither seconds nor a number with a unit.
    """
    try:
        return parse_duration_s(text, "--expires")
    except FleetError as error:
        raise FleetError(
            f"--expires: expected seconds, or 30m, 8h or 7d, got {text!r}",
            hint="--expires 8h",
            exit_code=ExitCode.USAGE,
        ) from error


def _qr(code: str) -> str:
    import io

    import segno

    drawn = io.StringIO()
    segno.make(code, error="m").terminal(drawn, compact=True)
    return drawn.getvalue() + "\n"
