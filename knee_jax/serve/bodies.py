"""Bodies of requests as they come in: of limited size and time."""

import asyncio
import threading
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knee_jax.serve.limits import MIB, Limits

DRAINED_SECONDS = 3.0
"""Time for which the rest of a body that is refused is read, so that its sender sees why."""


class Room:
    """Room for uploads of all clients, those that come in and those that are not graded yet.

    Args:
        limits: Limits.
    """

    def __init__(self, limits: Limits):
        self._left = int(limits.spool_mb * MIB)
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take room for so many bytes.

        Raises:
            HTTPException: 503 if there is none.
        """
        with self._lock:
            if size > self._left:
                raise HTTPException(
                    503,
                    "The server holds as many uploads as it can; try again in a moment.",
                    {"Retry-After": "5"},
                )
            self._left -= size

    def give(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self._left += size


class BoundedBodies:
    """ASGI middleware that ends bodies which are too large or too slow, in words.

    Clients that do not take their answer are hung up on.

    Args:
        app: What is within.
        limits: Limits.
        room: Room for uploads.
    """

    def __init__(self, app: ASGIApp, limits: Limits, room: Room):
        self._app, self._limits, self._room = app, limits, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._limits, self._room, _announced(scope))
        is_stuck = False

        async def prompt(message: Message) -> None:
            nonlocal is_stuck
            try:
                await asyncio.wait_for(send(message), self._limits.upload_seconds)
            except TimeoutError:
                is_stuck = True
                raise

        try:
            await self._app(scope, body.receive, prompt)
        except Exception:
            if not is_stuck:
                raise
        finally:
            body.close()


def _announced(scope: Scope) -> int:
    """Return the length of the body that the header tells, 0 if it tells none."""
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < 20 else 0


class _Body:
    """Body of a request, of limited size and time."""

    def __init__(self, receive: Receive, limits: Limits, room: Room, announced: int):
        self._receive, self._limits, self._room = receive, limits, room
        self._announced = announced
        self._bytes = 0
        self._end = time.monotonic() + limits.upload_seconds
        self._finished = False

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            HTTPException: 413 if the body is too large, 408 if it is too slow, 503 if there is no
                room for it.
        """
        if self._finished:
            return await self._receive()
        most = self._limits.upload_mb * MIB
        if self._announced > most:
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
        size = len(message.get("body", b""))
        self._finished = not message.get("more_body", False)
        try:
            if self._bytes + size > most:
                raise self._too_large()
            self._room.take(size)
        except HTTPException:
            await self._drain()
            raise
        self._bytes += size
        return message

    def close(self) -> None:
        """Give back the room of what has come in."""
        self._room.give(self._bytes)

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
