"""Answers, read safely whatever the server sends: bodies, and JSON values of any type."""

from __future__ import annotations

import json
import math
import zlib
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx

from anyapi_midjourney_generated import models

if TYPE_CHECKING:
    from .auth import BearerAuth
    from .errors import Json

BODY_LIMIT = 8 * 2**20
"""Bytes of a body, unpacked. Real ones have 0.2 to 7 kB."""
DEPTH_LIMIT = 64
"""Objects and arrays within each other. Real bodies have 3."""
NODE_LIMIT = 10_000
"""Objects and arrays in all, lest 2 kB of gzip take seconds to convert. Real bodies have 20."""

_BODY = "anyapi_midjourney.body"

M = TypeVar("M", models.Button, models.Video)


class Body:
    """The body of one answer: bounded, unpacked, decoded, and without the key.

    An object, so that tracebacks with locals show no bytes of it.
    """

    def __init__(self) -> None:
        self._raw = bytearray()

    def take(self, chunk: bytes) -> None:
        """Adds what has arrived, up to the limit."""
        if not self.exceeds_limit():
            self._raw += chunk

    def exceeds_limit(self) -> bool:
        """Whether the rest is not worth reading."""
        return len(self._raw) > BODY_LIMIT

    def replace_in(self, response: httpx.Response, auth: BearerAuth) -> None:
        """Puts what was read in the place of what was sent, for `parsed_body` and for the generated code."""
        headers = dict(response.headers.items())
        plain = bytes(self._raw)
        if encoding := headers.get("content-encoding"):
            plain = _unpacked(plain, encoding)
            del response.headers["content-encoding"], headers["content-encoding"]
        # By the contract always UTF-8, whatever charset is declared.
        text = plain.decode("utf-8", "replace").removeprefix("\ufeff")
        if len(plain) > BODY_LIMIT:
            text = f"(a body of more than {BODY_LIMIT >> 20} MiB)"
        nodes = text.count("{") + text.count("[")
        if nodes > NODE_LIMIT:
            text = f"(a body of more than {NODE_LIMIT} objects and arrays)"
        data: Json
        try:
            data = json.loads(text)
            if auth.may_hide_in(text) or nodes > DEPTH_LIMIT:
                data = _redacted(data, auth)
                text = json.dumps(data)
        except (ValueError, RecursionError):
            data = text = auth.redact(text).strip()
        if auth.redact(joined := " ".join(headers.values())) != joined:
            response.headers = httpx.Headers({name: auth.redact(value) for name, value in headers.items()})
        response.extensions.pop("reason_phrase", None)  # it can echo the key too; httpx has one for each status
        response.stream = httpx.ByteStream(text.encode())
        response.extensions[_BODY] = text if isinstance(data, str) else data


def was_read(response: httpx.Response) -> bool:
    """Whether `parsed_body` has something to give."""
    return _BODY in response.extensions


def parsed_body(response: httpx.Response) -> Json:
    """What an answer says: an object, array, number or null if it is JSON, parsed once; all else as its text."""
    return cast("Json", response.extensions[_BODY])


def as_text(value: object) -> str | None:
    """A string; a number as its text; None for "" and all else."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value) if isinstance(value, int) or math.isfinite(value) else None  # isfinite overflows on large ints


def as_int(value: object) -> int | None:
    """A number, or up to 18 digits as text; None for all else."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, str):
        return int(value) if len(value) <= 18 and value.isascii() and value.isdecimal() else None
    return int(value) if isinstance(value, float) and math.isfinite(value) else None


def as_list(model: type[M], value: object) -> list[M]:
    """The models in a list. For one bad element the generated code hands back the whole list unconverted."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [
        item if isinstance(item, model) else model.from_dict(cast("dict[str, Any]", item))
        for item in items
        if isinstance(item, (model, dict))
    ]


def _unpacked(raw: bytes, encoding: str) -> bytes:
    # httpx would unpack it whole, however large, and any number of encodings within each other.
    if encoding.strip().lower() in ("gzip", "x-gzip", "deflate"):
        for window in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # gzip or zlib; some servers' bare deflate
            try:
                return zlib.decompressobj(window).decompress(raw, BODY_LIMIT + 1)
            except zlib.error:
                continue
    return raw


def _redacted(value: Json, auth: BearerAuth, depth: int = DEPTH_LIMIT) -> Json:
    if isinstance(value, str):
        return auth.redact(value)
    if isinstance(value, dict | list) and not depth:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {auth.redact(name): _redacted(item, auth, depth - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, auth, depth - 1) for item in value]
    return value
