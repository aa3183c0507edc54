"""The API key, one request, and one response read safely."""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from typing import TYPE_CHECKING, NoReturn, Self, cast
from urllib.parse import unquote

import httpx

from ._address import origin
from ._environment import connection_advice
from ._text import quote
from .errors import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    InvalidResponseError,
    MidjourneyError,
    causes,
    error_from_response,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from .errors import Json

BASE_URL = "https://www.anyapi.vip"
"""The first server of the vendor's document."""
SANDBOX_KEY = "sk-sandbox"
"""The key of the embedded AnyAPI. No proxy of the environment is asked on the way there."""
MAX_BODY = 8 * 2**20
"""Bytes of a response, unpacked. Real ones have 0.2 to 7 kB."""
MAX_ROW = 64 * 2**10
"""Bytes of a list for each id that was asked for. A finished grid with a long prompt has some 20 KiB."""

_SHORTEST_SECRET = 6  # characters; a shorter key would be found in ordinary words, and real ones have 51
_BASE_URL = re.compile(r"https?://[\w.:\[\]-]+(/[^?#]*)?")  # so no user, password, query or fragment
_TEMPLATE = re.compile(r"""^["'“‘]|["'”’]$|^\$\{?\w|\{\{|^<""")
_TEMPLATE_ADVICE = "is in quotes, or is a template that was not filled in (as `docker --env-file` leaves them)"
_FETCH = re.compile(rb".*/mj/task/([^/]+)/fetch")
_BODY = "anyapi_midjourney.body"
_END = "anyapi_midjourney.end"


class BearerAuth(httpx.Auth):
    """Adds the key to requests to one origin.

    Made in two steps, so that no frame of a traceback holds the key: `__init__` never raises, and `bind` raises when
    the caller has deleted its own variable.
    """

    def __init__(self, api_key: str | None) -> None:
        given = cast("object", os.environ.get("ANYAPI_API_KEY", "") if api_key is None else api_key)
        self._key = re.sub(r"(?i)^bearer(\s+|$)", "", given.strip()) if isinstance(given, str) else ""
        self._echo = self._key.encode(errors="replace")
        self._problem = "No API key" if isinstance(given, str) else "The API key is not a string"
        if self._key:
            sendable = self._key.isascii() and self._key.isprintable() and " " not in self._key
            self._problem = (
                "" if sendable else "The API key contains a space, a control character or a non-ASCII character"
            )
        if _TEMPLATE.search(self._key):
            self._problem = f"The API key {_TEMPLATE_ADVICE}"
        self._origin: tuple[str, str, int | None] | None = None
        self._process = os.getpid()

    def __repr__(self) -> str:
        return "BearerAuth([key])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An API key is neither pickled nor copied: make a client where it is needed.")

    def bind(self, base_url: httpx.URL) -> Self:
        """Names the origin that the key belongs to. Raises `ConfigurationError` for a key that cannot be sent."""
        if self._problem:
            raise ConfigurationError(f"{self._problem}: pass api_key=…, or set the variable ANYAPI_API_KEY.")
        self._origin = origin(base_url)
        return self

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Signs a request to the key's own origin, and no other."""
        self.check_process()
        if origin(request.url) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._key}"
        yield request

    @property
    def is_own_process(self) -> bool:
        """Whether this is the process that made the client."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Raises `ConfigurationError` in another process: after a fork, each child would read the other's responses."""
        if not self.is_own_process:
            raise ConfigurationError("This client was made in another process: make one in each, after the fork.")

    def redact(self, raw: bytes) -> bytes:
        """The bytes of a response with `[key]` where the server echoes the key."""
        return raw.replace(self._echo, b"[key]") if len(self._echo) >= _SHORTEST_SECRET else raw

    def is_in(self, text: str) -> bool:
        """Whether the key, or what follows its `sk-`, is in a text."""
        return len(self._echo) >= _SHORTEST_SECRET and self._key.removeprefix("sk-") in text

    @property
    def is_sandbox(self) -> bool:
        """Whether this is the key of the sandbox."""
        return self._key == SANDBOX_KEY


class Body:
    """The body of one response, as it arrives: bounded, unpacked, and without the key.

    An object, so that tracebacks with locals show no bytes of it.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._raw = bytearray()
        self._problem = ""
        request = response.request
        is_list = request.url.raw_path.endswith(b"/list-by-condition")
        self._limit = max(MAX_BODY, MAX_ROW * request.content.count(b",")) if is_list else MAX_BODY
        encoding = response.headers.get("content-encoding", "").strip().lower()
        self._gzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding in ("gzip", "x-gzip") else None
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            self._problem = f"a body with Content-Encoding {encoding}, which was not asked for"

    def add(self, chunk: bytes) -> bool:
        """Adds what has arrived. Returns whether the rest is worth reading."""
        end: float | None = self._response.request.extensions.get(_END)
        if end and time.monotonic() > end:
            raise httpx.ReadTimeout("The body takes too long.")
        try:
            self._raw += self._gzip.decompress(chunk, self._limit + 1 - len(self._raw)) if self._gzip else chunk
        except zlib.error:
            self._problem = "a body that is not the gzip that it is labelled as"
        if len(self._raw) > self._limit:
            self._problem = f"a body of more than {self._limit >> 20} MiB"
        return not self._problem

    def finish(self, auth: BearerAuth) -> None:
        """Gives the response the body that was read, for `parsed_body` and for the generated code."""
        response = self._response
        raw = f"({self._problem})".encode() if self._problem else auth.redact(bytes(self._raw))
        text = raw.decode("utf-8", "replace").removeprefix("\ufeff")  # UTF-8, whatever charset is declared
        try:
            body: Json = json.loads(text)
        except (ValueError, RecursionError):
            body = text.strip()
        given = response.headers.raw
        headers = [(name, auth.redact(value)) for name, value in given]
        if headers != given or self._gzip:
            response.headers = httpx.Headers(headers)
            response.headers.pop("content-encoding", None)  # the body is unpacked now
        response.stream = httpx.ByteStream(raw)
        response.extensions[_BODY] = body


def parsed_body(response: httpx.Response) -> Json:
    """The body of a response that was read: an object, array, number or null if it is JSON, else its text."""
    return cast("Json", response.extensions[_BODY])


def raise_for_error(response: httpx.Response) -> None:
    """Raises the error that a response means, or `InvalidResponseError` if it is about another task."""
    body = parsed_body(response)
    if error := error_from_response(response.status_code, response.headers, body):
        raise error
    if asked := _FETCH.fullmatch(response.request.url.raw_path.partition(b"?")[0]):
        found, task_id = body.get("id") if isinstance(body, dict) else None, unquote(asked[1].decode())
        if isinstance(found, str) and found and found.lower() != task_id.lower():
            advice = f"The response is about another task, {quote(found)}: a proxy mixes up connections."
            raise InvalidResponseError(response.status_code, response.headers, body, advice)


def checked_base_url(base_url: str | None) -> httpx.URL:
    """The argument, else `ANYAPI_BASE_URL`, else AnyAPI's. Raises `ConfigurationError` if it is unusable."""
    given = cast("object", base_url if base_url is not None else os.environ.get("ANYAPI_BASE_URL") or BASE_URL)
    text = given.strip().rstrip("/") if isinstance(given, str) else ""
    if _TEMPLATE.search(text):
        raise ConfigurationError(f"The base URL {_TEMPLATE_ADVICE}: pass base_url=…, or set ANYAPI_BASE_URL.")
    try:
        url = httpx.URL(text)
        usable = _BASE_URL.fullmatch(str(url)) and url.host and (url.port is None or 0 < url.port < 2**16)
    except (httpx.InvalidURL, UnicodeError):  # idna's error is one, and comes when `host` is read
        url, usable = httpx.URL(), None
    if not usable:
        raise ConfigurationError(
            "A base URL is https:// or http://, a host, maybe a port and a path, and no user, password, query or "
            f'fragment: pass one such as base_url="{BASE_URL}", or set ANYAPI_BASE_URL.'
        )
    return url


def request_error(error: Exception, url: httpx.URL, task_id: str | None, auth: BearerAuth) -> MidjourneyError:
    """The `MidjourneyError` that an error of a request is or becomes.

    Neither it nor its causes have a traceback: frames of the HTTP stack hold the key, and crash reporters show locals.
    """
    if isinstance(error, httpx.HTTPStatusError) and _BODY in error.response.extensions:
        # A hook of the caller's called `raise_for_status`.
        response = error.response
        error = error_from_response(response.status_code, response.headers, parsed_body(response)) or error
    if not isinstance(error, MidjourneyError):
        timed_out = isinstance(error, httpx.TimeoutException | TimeoutError)
        found = APITimeoutError() if timed_out else APIConnectionError()
        found.__cause__ = error
        words = quote(auth.redact(f"{type(error).__name__} {error}".encode(errors="replace")).decode())
        late = " in time" if timed_out else ""
        found.args = (f"No response{late} from {url.host} ({words}): {connection_advice(found, url)}.",)
        error = found
    for link in causes(error):
        link.__traceback__ = None
        vars(link).pop("_request", None)  # httpx's, with the key; Dask pickles causes too
    error.task_id = task_id or error.task_id
    return error


def limit_duration(request: httpx.Request, seconds: float) -> None:
    """Bounds a request as a whole; httpx bounds only each of its steps."""
    end = request.extensions[_END] = time.monotonic() + seconds

    def shorten(*_: object) -> None:
        left = max(end - time.monotonic(), 0.001)
        request.extensions["timeout"].update(connect=left, read=left, write=left, pool=left)

    shorten()
    request.extensions["trace"] = shorten  # httpcore calls it before each step
