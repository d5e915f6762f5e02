"""Who may ask, and what browsers are told: tokens, hosts, origins and headers."""

import collections
import hmac
import json
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_FILES = "/page"
"""Path below which the files of the page are."""

PUBLIC = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""Paths that need no token, as those of the page: they hold nothing of anybody."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})

WRONG_TOKENS, WRONG_SECONDS = 10, 60.0
"""Wrong tokens from one address within a time, after which it has to wait."""


class Guard:
    """ASGI middleware that turns away who may not ask, and adds the headers.

    Args:
        app: What is within.
        token: Token that requests must bring; '' if none is needed.
        hosts: Names by which the server may be called; empty: any. A page elsewhere that lets its
            own name point here is turned away by it.
    """

    def __init__(self, app: ASGIApp, token: str = "", hosts: Collection[str] = LOCAL):
        self._app, self._token, self._hosts = app, token.encode(), frozenset(hosts)
        self._wrong: dict[str, collections.deque[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *named]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
            return
        status, words, headers = refusal
        body = json.dumps({"detail": words}).encode()
        named = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        start = [(k.encode(), v.encode()) for k, v in named.items()]
        await guarded({"type": "http.response.start", "status": status, "headers": start})
        await guarded({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if self._hosts and name_of_host(host) not in self._hosts:
            return 421, "This server answers only to its own address; open it by that.", {}
        origin = headers.get("origin", "")
        if scope["method"] not in ("GET", "HEAD") and origin not in (
            "",
            f"http://{host}",
            f"https://{host}",
        ):
            return 403, "Another page may not send anything here.", {}
        path = scope["path"]
        if not self._token or path in PUBLIC or path.startswith(f"{PAGE_FILES}/"):
            return None
        return self._wrong_token(headers.get("authorization", ""), (scope["client"] or ("",))[0])

    def _wrong_token(self, given: str, client: str) -> tuple[int, str, dict[str, str]] | None:
        now = time.monotonic()
        wrong = self._wrong.get(client, collections.deque())
        while wrong and wrong[0] < now - WRONG_SECONDS:
            wrong.popleft()
        if len(wrong) >= WRONG_TOKENS:
            return 429, "Too many wrong tokens; wait a minute.", {"retry-after": "60"}
        kind, _, token = given.partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token):
            self._wrong.pop(client, None)
            return None
        if given:
            if len(self._wrong) > 10_000:
                self._wrong.clear()
            self._wrong[client] = wrong
            wrong.append(now)
        return (
            401,
            f"{'The token is wrong' if given else 'A token is needed'}; programs send it as "
            "`Authorization: Bearer TOKEN`.",
            {"www-authenticate": "Bearer"},
        )


def name_of_host(header: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] or header if header.count(":") == 1 else header
