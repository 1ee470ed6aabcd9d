"""``edge-fleet ca``: the fleet's CA. ``init``, ``sign`` and ``server`` run where the CA lies, which
is not the manager; ``request`` and ``install`` run at the manager."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edge_contract.errors import ExitCode
from fleet.cli.terminal import CommandGroup, emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

_PASSPHRASE = "WHERRY_CA_PASSPHRASE"  # noqa: S105 - the variable's name
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=CommandGroup)
def ca() -> None:
    """The CA that devices and brokers of a fleet are known by."""


def _passphrase_option(command: F) -> F:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help=f"Its first line. [default: asked for; environment: {_PASSPHRASE}]",
    )(command)


@ca.command("init")
@click.option("--fleet", required=True, help="The fleet's name.")
@click.option("--out", type=_DIRECTORY, required=True, help="A new directory for the CA.")
@_passphrase_option
@json_option
def ca_init(fleet: str, out: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Make the fleet's CA. Do this on a machine that is not the manager, and keep a copy."""
    from fleet.clock import SystemClock
    from fleet.identity.authority import CERTIFICATE, make_authority

    secret = _passphrase(passphrase_file, confirm=True)
    made = make_authority(out, fleet, secret, now_s=SystemClock().wall_s())
    until = made.not_valid_after_utc.strftime("%Y-%m-%d")
    value = {"fleet": fleet, "certificate": str(out / CERTIFICATE), "until": until}
    emit(value, f"CA of the fleet {fleet} in {out}, until {until}", as_json=as_json)
    say("next, at the manager: edge-fleet ca request --out issuer.csr")


@ca.command("request")
@click.option(
    "--fleet",
    default="",
    help="The fleet's name. [default: the one it has, or home]",
)
@click.option("--out", type=_FILE, required=True, help="Where to write the request.")
@state_option
@json_option
def ca_request(fleet: str, out: Path, state: StateDir, as_json: bool) -> None:
    """At the manager: ask the CA for an issuer. The key is made here and stays here."""
    from fleet.identity.authority import write_public
    from fleet.identity.issuers import Issuers

    name = state.prepare(fleet)
    write_public(out, Issuers(state.identity, name).request().encode())
    emit({"request": str(out), "fleet": name}, f"request written to {out}", as_json=as_json)
    say(f"next, where the CA lies: edge-fleet ca sign {out} --ca DIR --out issuer.pem")


@ca.command("sign")
@click.argument("request", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--ca", "directory", type=_DIRECTORY, required=True, help="The CA's directory.")
@click.option("--out", type=_FILE, required=True, help="Where to write the issuer certificate.")
@click.option("--days", type=float, default=180.0, help="Its life, at most 825.")
@_passphrase_option
@json_option
def ca_sign(
    request: Path,
    directory: Path,
    out: Path,
    days: float,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Lend a manager the right to issue device certificates of this fleet, for a while."""
    from fleet.clock import SystemClock
    from fleet.identity.authority import CERTIFICATE, open_authority, write_public

    _require_pem(request, "CERTIFICATE REQUEST", 1, "ca request")
    authority = open_authority(directory, _passphrase(passphrase_file))
    issued = authority.sign_issuer(
        request.read_text(errors="replace"), now_s=SystemClock().wall_s(), days=days
    )
    # Both in one file: the manager needs nothing else from here.
    write_public(out, issued.encode() + (directory / CERTIFICATE).read_bytes())
    text = f"issuer for the fleet {authority.fleet}, {days:g} days, written to {out}"
    emit({"issuer": str(out), "fleet": authority.fleet, "days": days}, text, as_json=as_json)
    say(f"next, at the manager: edge-fleet ca install {out}")


@ca.command("install")
@click.argument("issuer", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--distrust-old",
    is_flag=True,
    help="The issuers before are in wrong hands: what they signed counts no more.",
)
@state_option
@json_option
def ca_install(issuer: Path, distrust_old: bool, state: StateDir, as_json: bool) -> None:
    """At the manager: take the CA's answer into use. A running manager notices within the hour."""
    from fleet.clock import SystemClock
    from fleet.identity.issuers import Issuers
    from fleet.store import identity, open_store

    _require_pem(issuer, "CERTIFICATE", 2, "ca sign")
    fleet = state.existing()
    now_s = SystemClock().wall_s()
    store = open_store(state.store, fleet=fleet)
    try:
        with store.read() as tx:
            revoked = identity.revoked_certificates(tx, now_s)
    finally:
        store.close()
    certificate, _, authority = issuer.read_bytes().partition(b"-----END CERTIFICATE-----\n")
    issuers = Issuers(state.identity, fleet)
    another = issuers.installed
    made = issuers.install(
        certificate + b"-----END CERTIFICATE-----\n",
        authority,
        now_s=now_s,
        revoked=revoked,
        distrust_old=distrust_old,
    )
    until = made.certificate.not_valid_after_utc.strftime("%Y-%m-%d")
    text = f"this manager issues certificates of the fleet {fleet} until {until}"
    emit({"fleet": fleet, "until": until, "issuer": made.id}, text, as_json=as_json)
    if another:
        say(
            "next: edge-fleet broker crl --out FILE --reload PID. Until the broker has read the new"
            " list it refuses what the new issuer signed: new devices, and renewed ones"
        )
    else:
        say("next: edge-fleet broker config --server DIR --out DIR")


@ca.command("server")
@click.option("--ca", "directory", type=_DIRECTORY, required=True, help="The CA's directory.")
@click.option("--host", "hosts", multiple=True, required=True, help="A name or address of it.")
@click.option("--out", type=_DIRECTORY, required=True, help="For server.key.pem and .crt.pem.")
@click.option("--days", type=click.FloatRange(1, 825), default=398.0, help="Its life.")
@_passphrase_option
@json_option
def ca_server(
    directory: Path,
    hosts: tuple[str, ...],
    out: Path,
    days: float,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a broker's key and certificate. No issuer can do that."""
    from fleet.clock import SystemClock
    from fleet.identity.authority import open_authority

    authority = open_authority(directory, _passphrase(passphrase_file))
    key, chain = authority.sign_server(hosts, out, now_s=SystemClock().wall_s(), days=days)
    text = f"server certificate for {', '.join(hosts)}, {days:g} days, in {out}"
    emit({"key": str(key), "certificate": str(chain), "days": days}, text, as_json=as_json)


def _require_pem(path: Path, what: str, count: int, command: str) -> None:
    """Below, only the content is known: here, a wrong file can be named.

    Raises:
        FleetError: the file does not hold as many PEM blocks of this kind.
    """
    found = path.read_bytes().count(f"-----BEGIN {what}-----".encode())
    if found < count:
        kind = what.lower() + ("s" if count > 1 else "")
        raise FleetError(
            f"{path}: expected {count} {kind} in PEM, found {found}",
            hint=f"the file that `edge-fleet {command}` wrote",
            exit_code=ExitCode.USAGE,
        )


def _passphrase(path: Path | None, *, confirm: bool = False) -> str:
    if path is not None:
        return (path.read_text().splitlines() or [""])[0]
    given = os.environ.get(_PASSPHRASE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise FleetError(
            "the CA's key needs its passphrase, and nobody is here to ask",
            hint=f"--passphrase-file FILE, or {_PASSPHRASE} in the environment",
            exit_code=ExitCode.AUTH,
        )
    answer: str = click.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
