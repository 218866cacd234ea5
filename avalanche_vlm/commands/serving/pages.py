"""The pages of a server. They load nothing from elsewhere, and a browser is told to let them load nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent / "page"
PAGES = {
    "/": ((_HERE / "index.html").read_text(encoding="utf-8"), "text/html; charset=utf-8"),
    "/page.js": ((_HERE / "page.js").read_text(encoding="utf-8"), "text/javascript; charset=utf-8"),
    "/page.css": ((_HERE / "page.css").read_text(encoding="utf-8"), "text/css; charset=utf-8"),
}
"""Content and kind of each page by its address."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""What every answer says to a browser."""

Message = MutableMapping[str, Any]


def secured(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An application whose answers have :data:`HEADERS`.

    :param app: an ASGI application.
    """
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def with_headers(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await app(scope, receive, sent)

    return with_headers


def page_of_addresses(specification: dict[str, Any]) -> str:
    """A page that says what can be asked, without a script.

    :param specification: the server's own, in OpenAPI.
    """
    parts = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(of.get('description', ''))}</p>"
        f"{_taken(of)}</section>"
        for path, methods in specification["paths"].items()
        for method, of in methods.items()
    ]
    title = escape(specification["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="page.css"><main>'
        f'<h1>{title}</h1><p>The whole specification: <a href="openapi.json">openapi.json</a>. Whatever is refused is '
        f"answered with <code>error</code>, a sentence.</p>{''.join(parts)}</main></html>"
    )


def _taken(operation: dict[str, Any]) -> str:
    """What an address takes, as a list."""
    lines = []
    for of in operation.get("parameters", ()):
        bounds = {"minimum": "from", "maximum": "to", "maxLength": "characters up to", "maxItems": "up to"}
        schema = of["schema"]
        limits = ", ".join(f"{words} {schema[name]:,}" for name, words in bounds.items() if name in schema)
        default = f", {schema['default']} by default" if schema.get("default") not in (None, []) else ""
        must = ", required" if of.get("required") else ""
        lines.append(
            f"<code>{escape(of['name'])}</code>: {escape(of.get('description', ''))} ({limits}{default}{must})"
        )
    if body := operation.get("requestBody"):
        lines.append(f"body: {escape(', '.join(body['content']))}")
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else ""
