"""``serve``: a saved model that answers over HTTP."""

from __future__ import annotations

import socket

from avalanche_vlm.commands.requests import ServeRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell

CONNECTIONS = 256
"""Connections at a time, those that ask nothing included."""


def serve(request: ServeRequest) -> int:
    """Answer requests until a signal comes.

    :param request: what was asked for.
    :return: exit code of the process.
    :raises InputError: if the model cannot be loaded, or the address cannot be listened on.
    """
    try:
        import uvicorn

        from avalanche_vlm.commands.serving.application import application
        from avalanche_vlm.commands.serving.holding import Serving
    except ImportError as error:
        raise InputError(f"serve cannot begin: {error}") from error
    with listening(request.host, request.port) as at:
        serving = Serving(request)
        config = uvicorn.Config(
            application(serving),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
        host, port = at.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        tell(f"{serving.held.version or 'the model'} of {request.model} answers at http://{where}:{port}", errors=True)
        uvicorn.Server(config).run(sockets=[at])
    return 0


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address: what is taken or no address of this machine is told before the model is loaded.

    :param host: name or number of the address.
    :param port: the port; 0 for one that is free.
    :raises InputError: if it cannot be had.
    """
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        at = socket.create_server(where[:2], family=family)
        # The connections inherit it. asyncio does not see that they are TCP's and leaves it off, and the end of an
        # answer, which is sent apart from its head, would wait 40 ms until the client has acknowledged the head.
        at.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return at
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen at {host}, port {port}: {said}") from error
