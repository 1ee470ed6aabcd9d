"""What every answer of the console forbids browsers, and what every order has to show.

The app around it checks ``Host`` and ``Origin`` (``fleet.manager.http_api``). On top of that an
order (anything but GET) must show this run's token in a header. Pages carry the token; a page of
another site can neither read it nor set the header without asking, and is never given leave.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "x-wherry-console"  # noqa: S105 - the header's name, not a token

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware around all of the console.

    Args:
        app: the console's routes.
        token: of this run.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        app = self._app if self._is_allowed(scope) else _refusal
        await app(scope, receive, guarded)

    def _is_allowed(self, scope: Scope) -> bool:
        if scope["method"] in ("GET", "HEAD"):
            return True
        shown = Headers(scope=scope).get(TOKEN_HEADER, "")
        return secrets.compare_digest(shown.encode(), self._token)


_refusal = PlainTextResponse(
    "This page is older than the running manager. Load it again.",
    403,
    headers={"HX-Refresh": "true"},
)
