"""The interface for programs, described in OpenAPI's form."""

from typing import Any

import xattn
from xattn.serve.answers import MOST_HITS, MOST_LETTERS

_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "the SHA-256 of a photo's file"}


def description() -> dict[str, Any]:
    """The description, a JSON object."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "xattn serve", "version": xattn.__version__, "description": "Search of an index of photos."},
        "paths": {
            "/api/search": _get("Photos that fit a sentence best", _object(_SEARCH), [_Q, _TOP, _TEXT_FILTER, _EXACT]),
            "/api/explore": _get(
                "What the words of a sentence attend to in one photo, as the explorer draws it",
                {"type": "object"},
                [_Q, {"name": "photo", "in": "query", "required": True, "schema": _DIGEST}],
                {404: "the photo is not in the index, or not on the disk as it was"},
            ),
            "/api/photos/{digest}": _get(
                "A photo of the index as JPEG, small",
                {"type": "string", "contentMediaType": "image/jpeg"},
                [
                    {"name": "digest", "in": "path", "required": True, "schema": _DIGEST},
                    {
                        "name": "side",
                        "in": "query",
                        "schema": _WHOLE | {"minimum": 32, "maximum": 1600, "default": 480},
                    },
                ],
                {404: "the photo is not in the index, or not on the disk as it was"},
                "image/jpeg",
            ),
            "/api/index": _get("What is served", _object({"photos": _WHOLE, "run": _TEXT}), []),
            "/api/openapi.json": _get("This description", {"type": "object"}, []),
        },
    }


_SIDE = _WHOLE | {"minimum": 32, "maximum": 1600, "default": 480, "description": "pixels of the longer side"}
_Q = {"name": "q", "in": "query", "required": True, "schema": _TEXT | {"minLength": 1, "maxLength": MOST_LETTERS}}
_TOP = {"name": "top", "in": "query", "schema": _WHOLE | {"minimum": 1, "maximum": MOST_HITS, "default": 10}}
_TEXT_FILTER = {
    "name": "text",
    "in": "query",
    "description": "only photos whose captions have one of these words",
    "schema": _TEXT | {"maxLength": MOST_LETTERS},
}
_EXACT = {
    "name": "exact",
    "in": "query",
    "description": "score every photo, and not only the best of the first stage",
    "schema": {"type": "boolean", "default": False},
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


_REGION = _object(
    {
        "box": {"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4},
        "weight": _NUMBER | {"description": "the largest attention weight of the word"},
    }
)
_HIT = _object(
    {
        "rank": _WHOLE,
        "photo": _DIGEST,
        "name": _TEXT,
        "captions": {"type": "array", "items": _TEXT},
        "score": _NUMBER | {"description": "on the run's own scale"},
        "width": _WHOLE,
        "height": _WHOLE,
        "regions": {"type": "array", "items": _REGION, "description": "of each word, as parts of width and height"},
    }
)
_SEARCH = {
    "sentence": _TEXT,
    "words": {"type": "array", "items": _TEXT, "description": "the words of the sentence that a picture can answer"},
    "unknown": {"type": "array", "items": _TEXT, "description": "words that the run's vocabulary does not hold"},
    "direction": {"enum": ["t2i", "i2t", None], "description": "whose attention the regions are of"},
    "scored": _WHOLE | {"description": "of how many photos the score was taken"},
    "photos": _WHOLE | {"description": "in the index"},
    "hits": {"type": "array", "items": _HIT},
}
_ERROR = {"application/json": {"schema": _object({"error": _TEXT})}}


def _get(
    summary: str,
    schema: dict[str, Any],
    parameters: list[dict[str, Any]],
    more: dict[int, str] | None = None,
    kind: str = "application/json",
) -> dict[str, Any]:
    said = {400: "the request asks for something that there is not", **(more or {}), 503: "too much is asked at once"}
    responses: dict[str, Any] = {"200": {"description": summary, "content": {kind: {"schema": schema}}}}
    responses |= {str(status): {"description": text, "content": _ERROR} for status, text in said.items()}
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}
