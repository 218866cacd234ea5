"""What keeps requests from taking more than there is: of bytes, of seconds, and of each other's turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from avalanche_vlm.commands.requests import ServeRequest
from avalanche_vlm.units import in_short

try:
    from starlette.datastructures import Headers, UploadFile
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException, MultiPartParser
    from starlette.requests import ClientDisconnect, Request
except ImportError as error:
    raise ImportError("serving needs FastAPI: pip install 'avalanche-vlm[serve]'") from error

FORM = "multipart/form-data"
FIELD = "image"
"""The field of a form that has the image."""


class Turns:
    """Who may be worked on: so many requests at a time, of which the model answers one after the other.

    :param request: what ``serve`` was asked, with its limits.
    """

    def __init__(self, request: ServeRequest) -> None:
        self.limits = request
        self._free = threading.BoundedSemaphore(request.requests)
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def answer(self, prepare: Callable[[], Awaitable[tuple[Any, ...]]], work: Callable[..., Any]) -> Any:
        """What a request is answered.

        :param prepare: reads from the request what the work takes.
        :param work: makes the answer, in the thread that alone asks the model.
        :raises HTTPException: with 503 if too many requests are there or the answer takes too long, with 408 if the
            request itself does.
        """
        if not self._free.acquire(blocking=False):
            raise HTTPException(
                503, f"{self.limits.requests} requests are worked on already: try again", {"Retry-After": "1"}
            )
        seconds, status, late = self.limits.request_seconds, 408, "the request did not arrive"
        given = False

        async def answered() -> Any:
            nonlocal status, late, given
            taken = await prepare()
            status, late = 503, "there was no answer"
            job = self._model.submit(work, *taken)
            given = True
            # The turn ends with the work: who gives up waiting does not make room for one more.
            job.add_done_callback(lambda _: self._free.release())
            return await asyncio.wrap_future(job)

        try:
            return await asyncio.wait_for(answered(), seconds)
        except asyncio.TimeoutError as error:  # a class of its own before Python 3.11
            raise HTTPException(status, f"{late} within {seconds:g} s") from error
        finally:
            if not given:
                self._free.release()

    def close(self) -> None:
        """Begin nothing more."""
        self._model.shutdown(wait=False, cancel_futures=True)


async def image_in(request: Request, most: int) -> bytes:
    """The image that a request sends, as its body or in a form. It is held in memory; its name is not looked at.

    :param request: a request whose body was not read yet.
    :param most: bytes that the body may have.
    :raises HTTPException: with a status from 400 to 499 and a sentence, for what is no image or too much.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise HTTPException(
            415,
            f"an image is sent as image/png and the like, application/octet-stream or {FORM}",
        )
    body = await body_of(request, most)
    if kind == FORM:
        body = await _field(request.headers, body)
    if not body:
        raise HTTPException(400, "the image is empty")
    return body


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request.

    :param request: a request whose body was not read yet.
    :param most: bytes that it may have.
    :raises HTTPException: with 413 as soon as it has more, or says so; with 400 if its sender goes away.
    """
    said = request.headers.get("content-length", "")
    found = bytearray()
    try:
        if not (said.isdecimal() and len(said) < 40 and int(said) > most):
            async for part in request.stream():
                found += part
                if len(found) > most:
                    break
            else:
                return bytes(found)
    except ClientDisconnect as error:
        raise HTTPException(400, "the request was broken off") from error
    raise HTTPException(413, f"a request has at most {most:,} bytes")


class _InMemory(MultiPartParser):
    """A parser of forms that puts nothing on the disk, however large."""

    spool_max_size = 2**40


async def _field(headers: Headers, body: bytes) -> bytes:
    """What the one field of a form holds."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        form = await _InMemory(headers, whole(), max_files=1, max_fields=1).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise HTTPException(400, f"the form cannot be read: {in_short(str(error)) or 'it has no boundary'}") from error
    given = form.multi_items()
    if len(given) != 1 or given[0][0] != FIELD or not isinstance(given[0][1], UploadFile):
        raise HTTPException(422, f"a form has one field, {FIELD}, which is a file")
    return await given[0][1].read()
