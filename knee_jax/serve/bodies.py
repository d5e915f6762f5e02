"""Bodies of requests as they come in: of limited size and time."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knee_jax.serve.limits import MIB, Limits

DRAINED_SECONDS = 3.0
"""Time for which the rest of a body that is refused is read, so that its sender sees why."""


class BoundedBodies:
    """ASGI middleware that ends bodies which are too large or too slow, in words.

    Args:
        app: What is within.
        limits: Limits.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._limits, _announced(scope))
        await self._app(scope, body.receive, send)


def _announced(scope: Scope) -> int:
    """Return the length of the body that the header tells, 0 if it tells none."""
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < 20 else 0


class _Body:
    """Body of a request, of limited size and time."""

    def __init__(self, receive: Receive, limits: Limits, announced: int):
        self._receive, self._limits = receive, limits
        self._announced = announced
        self._bytes = 0
        self._end = time.monotonic() + limits.upload_seconds
        self._finished = False

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            HTTPException: 413 if the body is too large, 408 if it is too slow.
        """
        if self._finished:
            return await self._receive()
        most = self._limits.upload_mb * MIB
        if max(self._announced, self._bytes) > most:
            await self._drain()
            raise self._too_large()
        left = min(self._limits.idle_seconds, self._end - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            self._finished = True
            raise HTTPException(
                408, "The upload came in too slowly; try again over a faster line."
            ) from None
        self._bytes += len(message.get("body", b""))
        self._finished = not message.get("more_body", False)
        if self._bytes > most:
            await self._drain()
            raise self._too_large()
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413,
            f"The upload is larger than {self._limits.upload_mb:g} MiB, the most that this server "
            "takes at once; send fewer files.",
        )

    async def _drain(self) -> None:
        """Read on for a while: whoever still sends does not see an answer."""
        end = time.monotonic() + DRAINED_SECONDS
        while not self._finished and (left := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except TimeoutError:
                break
            self._finished = not message.get("more_body", False)
        self._finished = True
