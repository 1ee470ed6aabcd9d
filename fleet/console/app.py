"""The console's routes: each page once as a document and once as a stream of its live part."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from edge_contract.errors import ExitCode, WherryError
from fleet.console import words
from fleet.console.device_pages import device_page, devices_page
from fleet.console.drift_page import drift_page
from fleet.console.guard import TOKEN_HEADER, Guard
from fleet.console.model_page import models_page
from fleet.console.order_form import fingerprint, new_rollout_page, read_order, texts_of
from fleet.console.overview import overview_page
from fleet.console.page import MakePage, Page, Place
from fleet.console.pulse import Pulse
from fleet.console.rollout_pages import left_count, rollout_page, rollouts_page
from fleet.errors import FleetError
from fleet.service import FleetService
from fleet.views.rollout import Pressed

_HERE = Path(__file__).parent
_GAP_S = 0.5
"""Between two renderings of one stream: a burst of changes is shown once."""
_REST_FACTOR = 4
"""A stream rests so much longer than its page took: a large fleet's pages leave time to ingest."""
_BEAT_S = 5.0
"""A stream says at least so often that it is alive; ages are rendered anew with it."""

PAGES: dict[str, MakePage] = {
    "/": overview_page,
    "/rollouts": rollouts_page,
    "/rollouts/new": new_rollout_page,
    "/rollouts/{rollout}": rollout_page,
    "/devices": devices_page,
    "/devices/{device}": device_page,
    "/models": models_page,
    "/drift": drift_page,
}

COMMANDS: tuple[Pressed, ...] = ("pause", "resume", "promote", "abort", "rollback")
STILL = frozenset({"/rollouts/new"})
"""Pages that people type into: their stream says only that the manager is there."""


def routes(service: FleetService, *, who: str) -> list[BaseRoute]:
    """Everything below ``/``; append it after all other routes.

    Args:
        service: answers and takes orders.
        who: in whose name the console's orders are recorded, such as "console (ann)".
    """
    console = _Console(service, who)
    return [Mount("/", routes=console.routes(), middleware=[console.guard()])]


class _Console:
    def __init__(self, service: FleetService, who: str) -> None:
        self._service = service
        self._who = who
        self._token = secrets.token_urlsafe(24)
        self._run = secrets.token_hex(6)
        """Names this run: a page of an earlier one loads itself again."""
        self._fleet = service.health().fleet
        self._pulse = Pulse(service)
        self._jinja = _environment()

    def guard(self) -> Middleware:
        return Middleware(Guard, token=self._token)

    def routes(self) -> list[BaseRoute]:
        found: list[BaseRoute] = [
            Mount("/static", StaticFiles(directory=_HERE / "static")),
            Route("/rollouts", self._start, methods=["POST"]),
            *(
                Route(f"/rollouts/{{rollout}}/{command}", self._press(command), methods=["POST"])
                for command in COMMANDS
            ),
        ]
        for path, make in PAGES.items():
            found.append(Route(path, self._document(make), methods=["GET"]))
            stream = self._stream(None if path in STILL else make)
            found.append(Route(f"/live{path}", stream, methods=["GET"]))
        found.append(Route("/{path:path}", self._document(_no_page), methods=["GET"]))
        return found

    # Pages. -------------------------------------------------------------------------------------

    def _document(self, make: MakePage) -> Callable[[Request], Any]:
        async def document(request: Request) -> Response:
            return await run_in_threadpool(self._answer, make, request)

        return document

    def _answer(self, make: MakePage, request: Request) -> Response:
        page = self._page(make, request)
        live = f"/live{request.url.path}?{request.url.query}&run={self._run}"
        shell = self._render(
            "shell.html",
            **page.values,
            page=page,
            live=live,
            token_header=TOKEN_HEADER,
            token=self._token,
            fleet=self._fleet,
        )
        return HTMLResponse(shell, page.status, {"cache-control": "no-store"})

    def _page(self, make: MakePage, request: Request) -> Page:
        try:
            return make(self._service, Place(dict(request.path_params), dict(request.query_params)))
        except WherryError as error:
            return _problem_page(error, self._service.health().now_s)

    def _render(self, template: str, **values: Any) -> str:
        return self._jinja.get_template(template).render(**values)

    # Live. --------------------------------------------------------------------------------------

    def _stream(self, make: MakePage | None) -> Callable[[Request], Any]:
        async def stream(request: Request) -> Response:
            return EventSourceResponse(self._messages(make, request), ping=60)

        return stream

    async def _messages(
        self, make: MakePage | None, request: Request
    ) -> AsyncIterator[dict[str, str]]:
        if request.query_params.get("run") != self._run:
            yield {"event": "reload", "data": ""}
            return
        shown = said = ""
        with self._pulse.subscribe() as changed:
            while not self._pulse.ended:
                changed.clear()
                begun_s = time.monotonic()
                html, says, at = await run_in_threadpool(self._live_part, make, request)
                if html != shown:
                    told = (
                        _partial("#announce", "textContent", escape(says)) if said != says else ""
                    )
                    yield {"data": _partial("#view", "innerMorph", html) + (told if said else "")}
                yield {"event": "beat", "data": at}
                shown, said = html, says
                took_s = time.monotonic() - begun_s
                await asyncio.sleep(max(_GAP_S, _REST_FACTOR * took_s))
                try:
                    await asyncio.wait_for(changed.wait(), _BEAT_S)
                except asyncio.TimeoutError:
                    continue

    def _live_part(self, make: MakePage | None, request: Request) -> tuple[str, str, str]:
        if make is None:
            return "", "", _clock(self._service.health().now_s)
        page = self._page(make, request)
        return self._render(page.template, **page.values), page.says, _clock(page.values["now"])

    # Orders. ------------------------------------------------------------------------------------

    async def _start(self, request: Request) -> Response:
        """Start what was shown: a plan that has become another since is refused and shown."""
        form = await _form(request)

        def start() -> Response:
            order = read_order(texts_of(form))
            now = fingerprint(self._service.plan_rollout(order, who=self._who))
            if now != form.get("fingerprint", ""):
                raise FleetError(
                    "the fleet has changed since this plan was made, and so would the plan",
                    hint="look at the plan again: press “Update plan”",
                )
            rollout = self._service.start_rollout(order, who=self._who)
            return Response(status_code=204, headers={"HX-Redirect": f"/rollouts/{rollout.id}"})

        return await self._ordered(start, "start")

    def _press(self, command: Pressed) -> Callable[[Request], Any]:
        """Carry out one command and answer with the page as it is afterwards."""

        def press(rollout: str, form: Mapping[str, str]) -> Response:
            reason = form.get("reason", "").strip()
            flag = form.get("flag", "") == "yes"
            if command == "abort" and not reason:
                raise FleetError("say why: the reason is kept in the log", exit_code=ExitCode.USAGE)
            if command == "promote" and flag:
                self._check_typed_count(rollout, form.get("typed_count", ""))
            self._service.press(rollout, command, who=self._who, reason=reason, flag=flag)
            page = rollout_page(self._service, Place({"rollout": rollout}))
            view = self._render(page.template, **page.values)
            return HTMLResponse(_partial("#view", "innerMorph", view))

        async def endpoint(request: Request) -> Response:
            form = await _form(request)
            rollout = request.path_params["rollout"]
            return await self._ordered(lambda: press(rollout, form), command)

        return endpoint

    def _check_typed_count(self, rollout: str, typed: str) -> None:
        left = left_count(self._service.rollout(rollout).rollout)
        if typed.strip() != str(left):
            raise FleetError(
                f"to ask all the rest at once, type how many devices that is ({left})",
                exit_code=ExitCode.USAGE,
            )

    async def _ordered(self, work: Callable[[], Response], command: str) -> Response:
        try:
            return await run_in_threadpool(work)
        except WherryError as error:
            status = 404 if error.exit_code == ExitCode.NOT_FOUND else 409
            html = self._render("refusal.html", error=error)
            return HTMLResponse(
                html, status, {"HX-Retarget": f"#problem-{command}", "HX-Reswap": "innerHTML"}
            )


def _environment() -> Environment:
    jinja = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals["words"] = words
    return jinja


async def _form(request: Request) -> dict[str, str]:
    async with request.form(max_files=0, max_fields=50) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


def _clock(at_s: float) -> str:
    return f"{words.local(at_s):%H:%M:%S}"


def _partial(target: str, swap: str, html: str) -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'


def _no_page(service: FleetService, place: Place) -> Page:
    raise FleetError(
        f"there is no page /{place.path['path'][:80]}",
        hint="the navigation above leads to all pages",
        exit_code=ExitCode.NOT_FOUND,
    )


def _problem_page(error: WherryError, now_s: float) -> Page:
    missing = error.exit_code == ExitCode.NOT_FOUND
    title = "Not found" if missing else "Problem"
    return Page(
        template="problem.html",
        title=title,
        section="",
        says=error.message,
        values={"error": error, "title": title, "now": now_s},
        status=404 if missing else 503,
    )
