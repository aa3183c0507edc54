"""What goes over the wire: the key and where it may go, answers read safely, and JSON values of any type."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import warnings
import zlib
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeVar, cast

import httpx

from .errors import ConfigurationError, Json

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

BODY_LIMIT = 8 * 2**20
"""Bytes of a body, unpacked. Real ones have 0.2 to 7 kB."""
DEPTH_LIMIT = 64
"""Objects and arrays within each other. Real bodies have 3."""

_TASK_ID = re.compile(r"(?!\.+\Z)[\w.~:-]{1,128}", re.ASCII)
# Escapes behind which a key or half a character can hide. Go escapes the three left out here in ordinary answers.
_HIDING = re.compile(r"\\/|\\u(?!0026|003[ce])")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class BearerAuth(httpx.Auth):
    """Sends the key to one origin and to nobody else, and shows it to no one."""

    def __init__(self, api_key: str | None) -> None:
        key = cast("object", os.environ.get("ANYAPI_API_KEY") if api_key is None else api_key)
        self._key = re.sub(r"(?i)^bearer(\s+|$)", "", key.strip()) if isinstance(key, str) else ""
        # A short word is no secret, and would be found in ordinary sentences.
        self._secret = len(self._key) >= 8 or self._key.startswith("sk-")
        self._escapable = not re.fullmatch(r"[\w.~+=-]*", self._key, re.ASCII)
        self._origin: tuple[str, str, int | None] | None = None

    def __repr__(self) -> str:
        return "BearerAuth([key])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An API key is neither pickled nor copied: make a client where it is needed.")

    def bind(self, base_url: httpx.URL) -> Self:
        """Names the origin that the key belongs to. Raises `ConfigurationError` for a key that cannot be sent."""
        if not self._key or not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            problem = "No API key." if not self._key else "The API key has characters that no key has."
            raise ConfigurationError(f"{problem} Pass api_key=…, or set the environment variable ANYAPI_API_KEY.")
        self._origin = _origin(base_url)
        return self

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Signs a request to the key's own origin, and leaves any other as it is."""
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._key}"
        yield request

    def redact(self, text: str) -> str:
        """The text, with "[key]" where the key stood, and whole characters only."""
        clean = text.replace(self._key, "[key]") if self._secret else text
        return clean if clean.isascii() else _HALF_CHARACTER.sub("\ufffd", clean)

    def strip(self, error: BaseException) -> None:
        """Takes the key out of an error and its causes: out of their words, and with the frames that hold requests."""
        link: BaseException | None = error
        while link is not None:
            link.__traceback__ = None
            link.args = tuple(
                self.redact(arg) if isinstance(arg, str) else arg for arg in cast("list[object]", link.args)
            )
            link = link.__cause__ or link.__context__

    def may_hide_in(self, text: str) -> bool:
        """Whether JSON text may hold, once parsed, what `redact` would change."""
        return (self._secret and (self._key in text or self._escapable)) or _HIDING.search(text) is not None


class Body:
    """The body of one answer: bounded, unpacked, decoded, and without the key, whatever the server sends."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def take(self, chunk: bytes) -> None:
        """Adds what has arrived."""
        self._raw += chunk

    def exceeds(self, limit: int = BODY_LIMIT) -> bool:
        """Whether more than so many bytes have arrived."""
        return len(self._raw) > limit

    def settle(self, response: httpx.Response, auth: BearerAuth) -> None:
        """Puts what was read into the response, for `data` and for the generated code."""
        headers = dict(response.headers.items())
        plain = bytes(self._raw)
        if encoding := headers.get("content-encoding"):
            plain = _unpacked(plain, encoding)
            del response.headers["content-encoding"]
        # By the contract always UTF-8, whatever charset is declared.
        text = plain.decode("utf-8", "replace").removeprefix("\ufeff")
        if len(plain) > BODY_LIMIT:
            text = f"(a body of more than {BODY_LIMIT >> 20} MiB)"
        data: Json
        try:
            data = json.loads(text)
            if auth.may_hide_in(text) or text.count("{") + text.count("[") > DEPTH_LIMIT:
                data = _redacted(data, auth)
                text = json.dumps(data)
        except (ValueError, RecursionError):
            data = text = auth.redact(text).strip()
        for name, value in headers.items():
            if (clean := auth.redact(value)) != value:
                response.headers[name] = clean
        response.stream = httpx.ByteStream(text.encode())
        response.extensions["anyapi_midjourney.data"] = data


def data(response: httpx.Response) -> Json:
    """The JSON of an answer, parsed once; its text, if it is no JSON."""
    return cast("Json", response.extensions["anyapi_midjourney.data"])


def checked_base_url(base_url: str | None, default: str) -> httpx.URL:
    """The argument, else `ANYAPI_BASE_URL`, else the default. Raises `ConfigurationError` if it is no base URL."""
    given = cast("object", base_url if base_url is not None else os.environ.get("ANYAPI_BASE_URL") or default)
    advice = 'Pass one such as base_url="https://www.anyapi.vip", or set ANYAPI_BASE_URL.'
    try:
        url = httpx.URL(given.strip().rstrip("/")) if isinstance(given, str) else None
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"The base URL cannot be read: {error} {advice}") from None
    if (
        url is None
        or url.scheme not in ("http", "https")
        or not re.fullmatch(r"[\w.:-]+", url.host)
        or not 0 < (url.port or 443) < 2**16
    ):
        raise ConfigurationError(f"The base URL must begin with https:// or http:// and name a host. {advice}")
    if url.userinfo or url.query or url.fragment or "?" in str(url) or "#" in str(url):
        raise ConfigurationError(f"The base URL must have no user, password, query or fragment. {advice}")
    if url.scheme == "http" and not is_loopback(url.host):
        warnings.warn(f"The API key goes to {url.host} unencrypted: use https.", stacklevel=4)
    return url


def check_task_id(task_id: str) -> None:
    """Raises `ConfigurationError` for what cannot be an id: a blank or a slash would ask for something else."""
    given = cast("object", task_id)
    if isinstance(given, str) and _TASK_ID.fullmatch(given):
        return
    what = f"{given[:50]!r}" if isinstance(given, str) else f"a {type(given).__name__}"
    error = ConfigurationError(
        f"A task id is a string of 1 to 128 ASCII letters, digits, '_', '-', '.', '~' or ':', and {what} is none."
    )
    error.task_id = given if isinstance(given, str) else None
    raise error


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by name or by address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def as_text(value: object) -> str | None:
    """A string; a number as its text; None for "" and all else."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def as_int(value: object) -> int | None:
    """A number, or up to 18 digits as text; None for all else."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, str):
        return int(value) if len(value) <= 18 and value.isascii() and value.isdecimal() else None
    return int(value) if isinstance(value, float) and math.isfinite(value) else None


class _Model(Protocol):
    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self: ...


M = TypeVar("M", bound=_Model)


def as_list(model: type[M], value: object) -> list[M]:
    """The models in a list. For one bad element the generated code hands back the whole list unconverted."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [
        item if isinstance(item, model) else model.from_dict(cast("dict[str, Any]", item))
        for item in items
        if isinstance(item, (model, dict))
    ]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


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
