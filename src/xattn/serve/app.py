"""The web application: a page, its photos, and an interface for programs.

| address | answers |
|---|---|
| `/` | the page |
| `/api/search` | hits for a sentence |
| `/api/explore` | what the words of a sentence attend to in one photo |
| `/api/photos/DIGEST` | a photo of the index, small |
| `/api/index` | what is served |
| `/api/openapi.json` | a description of these, in OpenAPI's form |

Photos are named by the SHA-256 of their files: an address has no path, so none can lead out of the index. Requests only
read. What they may ask is bounded, and the work is, see `xattn.serve.bounds`. Nothing is believed that a request says
of who sent it, and a name of the machine other than those that it is served at is refused, so that pages of others
cannot reach it under a name of theirs.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xattn.index.photo_index import PhotoIndex
from xattn.plots.explorer.page import module, stylesheet
from xattn.runtime.errors import InputError
from xattn.serve.answers import (
    MOST_HITS,
    MOST_LETTERS,
    NoSuchPhotoError,
    Thumbnails,
    exploration_answer,
    search_answer,
)
from xattn.serve.bounds import Bounds, BusyError
from xattn.serve.openapi import description

SEARCHES = {"at_once": 2, "waiting": 100, "seconds": 20.0}
PICTURES = {"at_once": 2, "waiting": 400, "seconds": 20.0}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadRequestError(Exception):
    """A request asks for something that there is not; its message is for the one who asked."""


def make_app(index: PhotoIndex, hosts: Sequence[str] = ("localhost", "127.0.0.1", "[::1]")) -> Starlette:
    """The application of an index.

    Args:
        index: open; what it holds is looked up at each request.
        hosts: the names and addresses at which it may be asked for.
    """
    searches, pictures, thumbnails = Bounds(**SEARCHES), Bounds(**PICTURES), Thumbnails(index)

    async def search(request: Request) -> Response:
        sentence, top = _sentence(request), _number(request, "top", 10, 1, MOST_HITS)
        text, exact = request.query_params.get("text") or None, _flag(request, "exact")
        if text is not None and len(text) > MOST_LETTERS:
            raise BadRequestError(f"text has more than {MOST_LETTERS} letters")
        return JSONResponse(await searches.do(lambda: search_answer(index, sentence, top, text, exact)))

    async def explore(request: Request) -> Response:
        sentence, digest = _sentence(request), _digest(request.query_params.get("photo", ""))
        return JSONResponse(await searches.do(lambda: exploration_answer(index, digest, sentence)))

    async def photo(request: Request) -> Response:
        digest, side = _digest(request.path_params["digest"]), _number(request, "side", 480, 32, 1600)
        content = await pictures.do(lambda: thumbnails.jpeg(digest, side))
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def about(_: Request) -> Response:
        return JSONResponse({"photos": await searches.do(lambda: len(index)), "run": index.run.name})

    async def openapi(_: Request) -> Response:
        return JSONResponse(description())

    async def page(_: Request) -> Response:
        return Response(_file("page.html"), media_type="text/html; charset=utf-8")

    def script(content: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:
            return Response(content, media_type="text/javascript; charset=utf-8")

        return answer

    async def style(_: Request) -> Response:
        return Response(_file("page.css") + stylesheet(), media_type="text/css; charset=utf-8")

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/page.js", script(_file("page.js")), methods=["GET"]),
        Route("/explorer.js", script(module()), methods=["GET"]),
        Route("/page.css", style, methods=["GET"]),
        Route("/api/search", search, methods=["GET"]),
        Route("/api/explore", explore, methods=["GET"]),
        Route("/api/photos/{digest}", photo, methods=["GET"]),
        Route("/api/index", about, methods=["GET"]),
        Route("/api/openapi.json", openapi, methods=["GET"]),
    ]
    handlers = {BadRequestError: _refused(400), NoSuchPhotoError: _refused(404), InputError: _refused(400)}
    handlers |= {BusyError: _refused(503), Exception: _failed, 404: _unknown, 405: _unknown}
    middleware = [
        Middleware(_Headers),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
    ]
    return Starlette(routes=routes, exception_handlers=handlers, middleware=middleware)


class _Headers:
    """Says with every answer what a browser may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, sent)


def _refused(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    headers = {"retry-after": "2"} if status == 503 else None

    async def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=status, headers=headers)

    return answer


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"this request could not be answered ({type(error).__name__})"}, status_code=500)


async def _unknown(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    said = "only GET is answered here" if status == 405 else f"there is nothing at {request.url.path[:200]}"
    return JSONResponse({"error": said}, status_code=status)


def _sentence(request: Request) -> str:
    sentence = request.query_params.get("q", "").strip()
    if not sentence:
        raise BadRequestError("q must be a sentence")
    if len(sentence) > MOST_LETTERS:
        raise BadRequestError(f"q has {len(sentence):,} letters, and at most {MOST_LETTERS} are taken")
    return sentence


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not re.fullmatch(r"\d{1,6}", given, re.ASCII) or not least <= int(given) <= most:
        raise BadRequestError(f"{name} must be a whole number from {least} to {most}")
    return int(given)


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false")
    if given not in ("true", "false"):
        raise BadRequestError(f"{name} must be true or false")
    return given == "true"


def _digest(given: str) -> str:
    if not _DIGEST.fullmatch(given):
        raise BadRequestError("a photo is named by the 64 hexadecimal digits of its SHA-256")
    return given


def _file(name: str) -> str:
    return files("xattn.serve").joinpath(name).read_text(encoding="utf-8")
