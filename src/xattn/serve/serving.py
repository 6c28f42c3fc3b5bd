"""Serving an index: an address, a warm model, and a server that ends when it is told to."""

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from xattn.index.asking import search_index
from xattn.index.photo_index import PhotoIndex, open_index
from xattn.runtime.errors import InputError

HOST, PORT = "127.0.0.1", 8765
MOST_CONNECTIONS = 500


def serve(
    index: PhotoIndex | Path | str,
    host: str = HOST,
    port: int = PORT,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve an index until the process is told to end.

    Args:
        index: open, or its folder.
        host: the address at which it is served; any but a loopback one opens it to the network.
        port: 0 for any that is free.
        ready: called with the address of the page when it answers.

    Raises:
        InputError: the index cannot be opened, the address cannot be had, or Starlette or uvicorn are not installed.
    """
    try:
        import uvicorn

        from xattn.serve.app import make_app
    except ImportError as error:
        raise InputError(
            f"serving an index needs the package {error.name}: pip install 'xattn[serve]' installs it"
        ) from error
    index = index if isinstance(index, PhotoIndex) else open_index(index)
    listening = _listening(host, port)
    port = listening.getsockname()[1]
    if len(index):
        search_index(index, ["a"], top=1)  # so that the first one who asks does not wait for what is read once
    hosts = ["localhost", "127.0.0.1", "[::1]", host] if is_loopback(host) else ["*"]
    settings = uvicorn.Config(
        make_app(index, hosts),
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16_384,
        http="h11",
        lifespan="off",
    )
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    with listening, suppress(KeyboardInterrupt):  # which is how it is told to end
        uvicorn.Server(settings).run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether an address is one that other machines do not reach."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise InputError(f"a port is a number from 0 to 65535, but it is {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(256)
    except OSError as error:
        found.close()
        raise InputError(f"{host}:{port}: cannot be served at this address ({error.strerror or error})") from error
    return found
