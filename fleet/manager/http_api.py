"""The loopback HTTP API (``/api/v1``) that the command line talks to, and the app around it.

Two things keep web pages of strangers out, whose scripts run in the same user's browser: the
``Host`` header must name this machine's loopback, which a rebound DNS name does not (DNS
rebinding), and every call shows the token out of a file that only its owner can read, in a header
that no cross-site form can set (CSRF).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_contract.errors import ExitCode, WherryError
from edge_contract.receipt import SignedMessage
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.rollout_order import RolloutOrder
from fleet.manager.state_dir import TOKEN_HEADER
from fleet.service import FleetService
from fleet.views.rollout import Pressed

_BODY_MAX_BYTES = 1 << 20
_WAIT_MAX_S = 60.0
_STATUS = {
    ExitCode.USAGE: 400,
    ExitCode.AUTH: 403,
    ExitCode.NOT_FOUND: 404,
    ExitCode.NETWORK: 503,
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})

T = TypeVar("T")


class StartBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST rollouts`` and ``POST rollouts/plan``."""

    order: RolloutOrder
    who: str = "api"


class ReceiptsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST receipts``: messages that devices signed, as a medium brought them."""

    messages: list[SignedMessage]


class CommandBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST rollouts/{id}/{command}``. ``flag``: ``acknowledge`` or ``everything``."""

    who: str = "api"
    reason: str = ""
    flag: bool = False
    devices: list[str] = []


class IdentityBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST codes``, ``connections/cut`` and ``devices/{device}/{remove|replace|revoke}``."""

    who: str = "api"
    reason: str = ""
    count: int = 1
    expires_s: float = 3600.0
    device: str = ""


class ConfigureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST configurations``."""

    order: ConfigureOrder
    who: str = "api"
    dry_run: bool = False


def build_app(
    service: FleetService, token: str, extra_routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """The whole app.

    Args:
        service: answers.
        token: what callers of ``/api`` have to show as ``X-Wherry-Token``.
        extra_routes: the console's pages; the Host check holds for them, the token does not.
    """
    return Starlette(
        routes=[
            Mount(
                "/api/v1",
                routes=_Api(service).routes(),
                middleware=[Middleware(RequireToken, token=token)],
            ),
            *extra_routes,
        ],
        middleware=[Middleware(RequireLoopbackHost)],
        exception_handlers={WherryError: _refused},
    )


class RequireLoopbackHost:
    """Refuses requests whose ``Host``, or ``Origin`` where there is one, is not the loopback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_ours(scope):
            await _json(403, {"error": "this host is not served here"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


class RequireToken:
    """Refuses requests without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(TOKEN_HEADER.encode(), b"")
            if not secrets.compare_digest(shown, self._token):
                error = WherryError(
                    "the API's token is missing or wrong",
                    hint="it stands in the file `token` of the manager's state directory",
                    exit_code=ExitCode.AUTH,
                )
                await _json(403, error.as_json())(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Api:
    """The routes; each calls one method of the service on a worker thread."""

    def __init__(self, service: FleetService) -> None:
        self._service = service

    def routes(self) -> list[BaseRoute]:
        service = self._service
        return [
            Route("/health", self._answer(lambda _: service.health())),
            Route("/devices", self._answer(lambda _: service.devices())),
            Route("/devices/{device}", self._answer(lambda r: service.device(_path(r, "device")))),
            Route("/devices/{device}/commands/{name}", self._send, methods=["POST"]),
            Route("/devices/{device}/{order}", self._identity, methods=["POST"]),
            Route("/connections/cut", self._cut, methods=["POST"]),
            Route("/configurations", self._configure, methods=["POST"]),
            Route("/codes", self._codes, methods=["POST"]),
            Route("/rollouts", self._answer(lambda _: service.rollouts()), methods=["GET"]),
            Route("/rollouts", self._start, methods=["POST"]),
            Route("/rollouts/plan", self._plan, methods=["POST"]),
            Route(
                "/rollouts/{rollout}", self._answer(lambda r: service.rollout(_path(r, "rollout")))
            ),
            Route("/rollouts/{rollout}/{command}", self._press, methods=["POST"]),
            Route("/receipts", self._receipts, methods=["POST"]),
            Route("/versions", self._answer(lambda _: service.versions())),
            Route(
                "/drift",
                self._answer(lambda r: service.drift(r.query_params.get("device", ""))),
            ),
            Route("/findings", self._answer(lambda _: service.findings())),
            Route("/log", self._answer(self._log)),
            Route("/events", self._answer(self._events)),
        ]

    def _answer(self, ask: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return _json(200, await run_in_threadpool(ask, request))

        return endpoint

    def _log(self, request: Request) -> Any:
        query = request.query_params
        return self._service.log(
            kind=query.get("kind", ""),
            subject=query.get("subject", ""),
            limit=int(_number(query.get("limit", "200"), 1, 10_000, "limit")),
        )

    def _events(self, request: Request) -> Any:
        query = request.query_params
        wait_s = _number(query.get("wait_s", "0"), 0, _WAIT_MAX_S, "wait_s")
        return self._service.events(query.get("since", ""), wait_s=wait_s)

    async def _start(self, request: Request) -> Response:
        body = await _body(request, StartBody)
        started = await run_in_threadpool(self._service.start_rollout, body.order, who=body.who)
        return _json(201, started)

    async def _receipts(self, request: Request) -> Response:
        body = await _body(request, ReceiptsBody)
        return _json(200, await run_in_threadpool(self._service.import_receipts, body.messages))

    async def _plan(self, request: Request) -> Response:
        body = await _body(request, StartBody)
        plan = await run_in_threadpool(self._service.plan_rollout, body.order, who=body.who)
        return _json(200, plan)

    async def _send(self, request: Request) -> Response:
        body = await _body(request, CommandBody)
        device, name = _path(request, "device"), _path(request, "name")
        await run_in_threadpool(self._service.command, device, name, who=body.who)
        return _json(202, {"device": device, "command": name})

    async def _configure(self, request: Request) -> Response:
        body = await _body(request, ConfigureBody)
        work = self._service.plan_configuration if body.dry_run else self._service.configure
        return _json(200, await run_in_threadpool(work, body.order, who=body.who))

    async def _codes(self, request: Request) -> Response:
        body = await _body(request, IdentityBody)
        codes = await run_in_threadpool(
            self._service.make_codes,
            who=body.who,
            count=body.count,
            expires_s=body.expires_s,
            device=body.device,
        )
        return _json(201, {"codes": codes, "expires_s": body.expires_s})

    async def _cut(self, request: Request) -> Response:
        body = await _body(request, IdentityBody)
        names = await run_in_threadpool(self._service.cut_connections, who=body.who)
        return _json(200, {"cut": names})

    async def _identity(self, request: Request) -> Response:
        body = await _body(request, IdentityBody)
        device, order = _path(request, "device"), _path(request, "order")
        service, code = self._service, ""
        if order == "replace":
            code = await run_in_threadpool(
                service.replace_device,
                device,
                who=body.who,
                reason=body.reason,
                expires_s=body.expires_s,
            )
        elif order in ("remove", "revoke"):
            work = service.remove_device if order == "remove" else service.revoke_device
            await run_in_threadpool(work, device, who=body.who, reason=body.reason)
        else:
            raise WherryError(f"no such order {order[:40]!r}", exit_code=ExitCode.NOT_FOUND)
        return _json(200, {"device": device, "done": order, "code": code})

    async def _press(self, request: Request) -> Response:
        body = await _body(request, CommandBody)
        try:
            command = msgspec.convert(_path(request, "command"), Pressed)
        except msgspec.ValidationError as error:
            raise WherryError(f"no such command: {error}", exit_code=ExitCode.NOT_FOUND) from error
        view = await run_in_threadpool(
            self._service.press,
            _path(request, "rollout"),
            command,
            who=body.who,
            reason=body.reason,
            flag=body.flag,
            devices=body.devices,
        )
        return _json(200, view)


async def _body(request: Request, type_: type[T]) -> T:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_MAX_BYTES:
            raise WherryError(f"body longer than {_BODY_MAX_BYTES} bytes", exit_code=ExitCode.USAGE)
    try:
        return msgspec.json.decode(data or b"{}", type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WherryError(f"request body: {error}", exit_code=ExitCode.USAGE) from error


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, WherryError)
    return _json(_STATUS.get(error.exit_code, 409), error.as_json())


def _json(status: int, value: Any) -> Response:
    return Response(
        msgspec.json.encode(value),
        status,
        {"cache-control": "no-store", "x-content-type-options": "nosniff"},
        "application/json",
    )


def _path(request: Request, name: str) -> str:
    return str(request.path_params[name])


def _number(text: str, low: float, high: float, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise WherryError(
            f"{name}: expected a number from {low:g} to {high:g}, got {text[:40]!r}",
            exit_code=ExitCode.USAGE,
        )
    return value


def _is_ours(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    hosts = [headers.get(b"host", b"").decode("latin-1")]
    if origin is not None:
        scheme, _, host = origin.decode("latin-1").partition("://")
        hosts.append(host if scheme == "http" else "")
    return all(_name_of(host) in _LOOPBACK for host in hosts) and len(set(hosts)) == 1


def _name_of(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
