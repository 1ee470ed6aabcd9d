"""``edge-agent``: what a device's owner types. argparse, to stay light."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_configs.service.owner import hand_over
from edge_agent.board import DEFAULT_CONFIG, default_hardware, default_state_dir
from edge_contract import __version__
from edge_contract.errors import ExitCode, WherryError


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="edge-agent", description="Runs a model on this device and keeps it honest."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="infer, update, report; until SIGTERM")
    run.add_argument("--config", type=Path, required=True, help="the agent's TOML file")
    run.add_argument("--log-level", default="info", choices=["debug", "info", "warning"])

    status = commands.add_parser("status", help="what this device runs and how it is")
    _where(status)

    for name, text in (
        ("hold", "no updates for now; an update on trial returns to the old version"),
        ("release", "let updates come again"),
    ):
        _where(commands.add_parser(name, help=text))

    install = commands.add_parser("install", help="install a bundle from a file, without a fleet")
    install.add_argument("bundle", type=Path, help="a bundle directory or .tar")
    install.add_argument("--trust", type=Path, required=True, help="the TUF root file to trust")
    install.add_argument(
        "--approval", type=Path, help="signed metadata of the line (default: beside the bundle)"
    )
    install.add_argument("--hardware", default="", help="device profile (default: this board's)")
    _where(install)

    apply = commands.add_parser("apply", help="install what a medium (a USB stick) brings")
    apply.add_argument("directory", type=Path, help="the medium, or where the stick is mounted")
    apply.add_argument(
        "--again", action="store_true", help="once more, where it failed and the cause is gone"
    )
    _where(apply)

    service = commands.add_parser("install-service", help="run at every boot, under systemd")
    service.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="the agent's file")
    service.add_argument("--dry-run", action="store_true", help="print the unit, change nothing")
    service.add_argument("--remove", action="store_true", help="take the service out again")
    service.add_argument("--no-start", action="store_true", help="write the unit only")
    service.add_argument("--user", default="", help="run as this account (default: one of its own)")
    service.add_argument(
        "--device", action="append", default=[], help="may be opened, too, such as char-ttyUSB"
    )
    service.add_argument("--memory-max-mb", type=int, help="default: a share of the board's")
    service.add_argument("--json", action="store_true", help="print JSON")

    enroll = commands.add_parser("enroll", help="get this device's certificate for a one-time code")
    enroll.add_argument("--config", type=Path, required=True, help="the agent's TOML file")
    enroll.add_argument("--code", required=True, help="what `edge-fleet enroll-code` printed")
    enroll.add_argument(
        "--server", default="", help="HOST:PORT (default: [mqtt] enroll_host, enroll_port)"
    )
    enroll.add_argument("--timeout-s", type=float, default=60.0, help="how long to wait")
    enroll.add_argument("--json", action="store_true", help="print JSON")

    doctor = commands.add_parser("doctor", help="look for what would keep the agent from working")
    _where(doctor)
    return parser


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="take the state directory from this file")
    parser.add_argument("--state-dir", type=Path, help="where the agent keeps its state")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code of ``edge_contract.errors.ExitCode``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # under LANG=C and the like
    arguments = build_parser().parse_args(argv)
    try:
        try:
            code = int(_COMMANDS[arguments.command](arguments))
        finally:
            if arguments.command in _WRITES:
                _hand_over(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except WherryError as error:
        _print_error(error, as_json=_wants_json(arguments))
        return int(error.exit_code)
    except BrokenPipeError:
        # The reader has gone, as `| head` does; Python must not complain at exit, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # The process's outermost edge: a disk or a right that nobody has met further in.
        _print_error(WherryError(f"the system refuses: {error}"), as_json=_wants_json(arguments))
        return int(ExitCode.FAILURE)
    except KeyboardInterrupt:
        return 130


def _wants_json(arguments: argparse.Namespace) -> bool:
    return bool(getattr(arguments, "json", False))


def _run(arguments: argparse.Namespace) -> ExitCode:
    from edge_agent.lean_imports import KEY_DRIVERS, import_paho, left_out

    with left_out(*KEY_DRIVERS):
        from edge_agent.config import load_config

        config = load_config(arguments.config)
        import_paho(proxy=bool(config.mqtt and config.mqtt.proxy))
        from edge_agent.agent import run_agent

    run_agent(config, log_level=arguments.log_level)
    return ExitCode.OK


def _status(arguments: argparse.Namespace) -> ExitCode:
    (reply,) = _call(arguments, {"do": "status"})
    if arguments.json:
        print(json.dumps(reply))
    else:
        from edge_agent.status_text import status_lines

        print("\n".join(status_lines(reply)))
    return ExitCode.OK


def _hold_or_release(arguments: argparse.Namespace) -> ExitCode:
    (reply,) = _call(arguments, {"do": arguments.command})
    text = "updates are held" if arguments.command == "hold" else "updates may come again"
    print(json.dumps(reply) if arguments.json else text)
    return ExitCode.OK


def _install(arguments: argparse.Namespace) -> ExitCode:
    from edge_agent.config import load_config
    from edge_agent.install import install_bundle
    from edge_agent.steps import Steps

    config = load_config(arguments.config) if arguments.config else None
    with Steps(_say) as steps:
        outcome = install_bundle(
            arguments.bundle,
            trust=arguments.trust,
            approval=arguments.approval,
            state_dir=_state_dir(arguments),
            hardware=arguments.hardware
            or (config.device.hardware if config else default_hardware()),
            config=config,
            progress=steps,
        )
    print(json.dumps(outcome) if arguments.json else outcome["text"])
    return ExitCode.OK


def _apply(arguments: argparse.Namespace) -> ExitCode:
    from edge_agent.apply import apply_medium
    from edge_agent.steps import Steps

    with Steps(_say) as steps:
        outcome = apply_medium(
            arguments.directory, _state_dir(arguments), progress=steps, again=arguments.again
        )
    print(json.dumps(outcome) if arguments.json else outcome["text"])
    return ExitCode.OK


def _install_service(arguments: argparse.Namespace) -> ExitCode:
    from edge_agent import service

    if arguments.remove:
        if arguments.dry_run:
            _say(f"would stop and remove the service {service.NAME}; its state would stay")
        else:
            service.remove(say=_say)
        return ExitCode.OK
    text = service.unit_text(
        arguments.config,
        user=arguments.user,
        devices=tuple(arguments.device),
        memory_max_mb=arguments.memory_max_mb,
    )
    if arguments.dry_run:
        print(json.dumps({"name": service.NAME, "unit": text}) if arguments.json else text, end="")
        return ExitCode.OK
    path = service.install(
        text, arguments.config, user=arguments.user, start=not arguments.no_start, say=_say
    )
    if arguments.json:
        print(json.dumps({"name": service.NAME, "path": str(path)}))
    else:
        _say(
            f"next: systemctl status {service.NAME}; edge-agent status --config {arguments.config}"
        )
    return ExitCode.OK


def _enroll(arguments: argparse.Namespace) -> ExitCode:
    from edge_agent.config import load_config
    from edge_agent.identity.enrol import enrol_device

    done = enrol_device(
        load_config(arguments.config),
        arguments.code,
        server=arguments.server,
        timeout_s=arguments.timeout_s,
    )
    print(json.dumps(done) if arguments.json else done["text"])
    return ExitCode.OK


def _doctor(arguments: argparse.Namespace) -> ExitCode:
    from edge_agent.doctor import examine

    findings = list(examine(arguments.config, _state_dir(arguments)))
    if arguments.json:
        print(json.dumps({"findings": [finding.as_json() for finding in findings]}))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.text}")
            if not finding.ok:
                print(f"      {finding.hint}")
    return ExitCode.OK if all(finding.ok for finding in findings) else ExitCode.FAILURE


_COMMANDS = {
    "run": _run,
    "status": _status,
    "hold": _hold_or_release,
    "release": _hold_or_release,
    "install": _install,
    "apply": _apply,
    "install-service": _install_service,
    "enroll": _enroll,
    "doctor": _doctor,
}


_WRITES = ("run", "install", "apply", "enroll")


def _hand_over(arguments: argparse.Namespace) -> None:
    """What root did in the service's directory belongs to the service."""
    try:
        hand_over(_state_dir(arguments))
    except WherryError:
        return  # no configuration: the command has said so itself


def _state_dir(arguments: argparse.Namespace) -> Path:
    if getattr(arguments, "state_dir", None):
        return Path(arguments.state_dir).absolute()
    if arguments.config:
        from edge_agent.config import load_config

        return Path(load_config(arguments.config).device.state_dir)
    return default_state_dir()


def _call(arguments: argparse.Namespace, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from edge_agent.api import call

    for reply in call(_state_dir(arguments), body):
        if "error" in reply:
            raise WherryError(
                str(reply["error"]),
                hint=str(reply.get("hint", "")),
                exit_code=ExitCode(int(reply.get("code", 1))),
            )
        yield {key: value for key, value in reply.items() if key != "done"}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_error(error: WherryError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(error.as_json()))
        return
    print(f"edge-agent: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    if error.docs:
        print(f"  see docs/{error.docs}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
