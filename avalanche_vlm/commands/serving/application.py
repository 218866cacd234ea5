"""The addresses of a server, and what each takes and gives; its specification is made of this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from avalanche_vlm import __version__
from avalanche_vlm.commands.serving.holding import Serving
from avalanche_vlm.commands.serving.limits import FIELD, FORM, Turns, image_in
from avalanche_vlm.commands.serving.pages import PAGES, page_of_addresses, secured
from avalanche_vlm.errors import InputError

try:
    from fastapi import FastAPI, Query
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
except ImportError as error:
    raise ImportError("serving needs FastAPI: pip install 'avalanche-vlm[serve]'") from error

EVERY = 1.0
"""Seconds from one look at the folder to the next."""
MOST_ANSWERS, MOST_LABELS, LABEL_LENGTH, TEXT_LENGTH = 1000, 100, 200, 2000


class Problem(BaseModel):
    """Why there is no answer, in a sentence."""

    error: str


class FoundClass(BaseModel):
    """A class of an image, as a line of ``predict``'s has it."""

    name: str = Field(alias="class")
    class_id: int
    probability: float


class Classes(BaseModel):
    """Classes of an image, the most probable first."""

    version: str | None
    classes: list[FoundClass]
    module: str | None
    out_of_distribution: bool | None
    remarks: list[str]


class FoundImage(BaseModel):
    """An image that a text was searched in."""

    image: str
    similarity: float


class Matches(BaseModel):
    """Images for a text, the most similar first."""

    version: str | None
    text: str
    matches: list[FoundImage]


class Health(BaseModel):
    """Which version answers; ``behind`` where another one counts and cannot be loaded."""

    status: str
    version: str | None
    since: str
    images: int
    problem: str | None


class KnownVersion(BaseModel):
    """A version of the model; ``current`` is the one that ``DIR/model`` points to."""

    version: str
    made: str
    parent: str | None
    recipe: str | None
    promoted: bool
    current: bool
    scores: dict[str, float | None]


class KnownVersions(BaseModel):
    """The version that answers, and all that there are."""

    answers: str | None
    versions: list[KnownVersion]


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Something is wrong with the request."},
    "503": {"model": Problem, "description": "Too much is asked at the moment."},
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_IMAGE = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BYTES,
            "application/octet-stream": _BYTES,
            FORM: {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}

TopK = Annotated[int, Query(ge=1, le=MOST_ANSWERS, description="answers at most")]
"""How many answers a request may ask for."""
Label = Annotated[str, StringConstraints(min_length=1, max_length=LABEL_LENGTH)]
Labels = Annotated[
    list[Label],
    Query(
        max_length=MOST_LABELS,
        description="classes to choose from, repeatable",
        json_schema_extra={"uniqueItems": True},
    ),
]
Text = Annotated[str, Query(min_length=1, max_length=TEXT_LENGTH, description="text to search images for")]
"""A text of a request."""


def application(serving: Serving, every: float = EVERY) -> FastAPI:
    """What answers requests.

    :param serving: the model that is asked.
    :param every: seconds from one look for another version to the next.
    """
    turns = Turns(serving.request)

    @asynccontextmanager
    async def lasting(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_watched(serving, every))
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        turns.close()

    app = FastAPI(
        title="avalanche-vlm serve",
        version=__version__,
        description="A saved vision-language model.",
        lifespan=lasting,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(secured)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)

    @app.post("/predict", response_model=Classes, responses=_PROBLEMS, openapi_extra=_IMAGE)
    async def classes_of(request: Request, top_k: TopK = 5, label: Labels = []) -> Any:  # noqa: B006 (FastAPI copies it)
        """Classes of an image, with probabilities: those of the model, or the labels that are given."""

        async def sent() -> tuple[bytes, int, list[str]]:
            return await image_in(request, serving.request.body_bytes), top_k, label

        return await turns.answer(sent, serving.predict)

    @app.get("/search", response_model=Matches, responses=_PROBLEMS)
    async def images_for(text: Text, top_k: TopK = 10) -> Any:
        """Images that are most similar to a text, of those that the server was started with."""
        if not serving.request.images:
            raise HTTPException(404, "no images are searched here: the server was started without --images")

        async def asked() -> tuple[str, int]:
            return text, top_k

        return await turns.answer(asked, serving.search)

    @app.get("/health", response_model=Health)
    async def how_it_goes() -> Any:
        """Which version answers, and what keeps another from it."""
        return serving.health()

    @app.get("/versions", response_model=KnownVersions, responses=_PROBLEMS)
    async def what_there_is() -> Any:
        """The versions of the model, and which of them answers."""

        async def nothing() -> tuple[()]:
            return ()

        return await turns.answer(nothing, serving.versions)

    for path, (content, kind) in PAGES.items():
        app.add_api_route(path, _page(content, kind), include_in_schema=False)
    app.add_api_route(
        "/docs", _page(page_of_addresses(app.openapi()), "text/html; charset=utf-8"), include_in_schema=False
    )
    return app


async def _watched(serving: Serving, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        await asyncio.to_thread(serving.look)


def _page(content: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type=kind)

    return page


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """What the client did wrong."""
    assert isinstance(error, HTTPException)
    plain = {404: "there is nothing at this address: see /docs", 405: "this address is asked in another way: see /docs"}
    usual = str(error.detail) in ("Not Found", "Method Not Allowed")
    sentence = plain.get(error.status_code, str(error.detail)) if usual else str(error.detail)
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _unusable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 422)


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with what stands in an address."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = next((of for of in reversed(first["loc"]) if isinstance(of, str)), "the request")
    return JSONResponse({"error": f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"}, 422)


async def _failed(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"error": "the server has failed, and says why on its own terminal"}, 500)


_HANDLERS: dict[Any, Any] = {
    HTTPException: _refused,
    RequestValidationError: _not_valid,
    InputError: _unusable,
    Exception: _failed,
}
