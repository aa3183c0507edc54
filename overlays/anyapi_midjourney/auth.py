"""The key and where it may go: sent to one origin, shown to nobody."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Self, cast

import httpx

from .address import is_loopback
from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

# Escapes behind which a key or a lone surrogate can hide in JSON. Go escapes the three left out in ordinary answers.
_HIDING = re.compile(r"\\/|\\u(?!0026|003[ce])")
_BASE_URL = re.compile(r"https?://[\w.:\[\]-]+(/[^?#]*)?")  # so no user, password, query or fragment
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class BearerAuth(httpx.Auth):
    """Signs requests to one origin, and takes the key out of whatever comes back.

    Made in two steps: `__init__` takes the key and never raises, and `bind` raises once the caller has deleted its own
    variable, so that no frame of a traceback holds the key.
    """

    def __init__(self, api_key: str | None) -> None:
        given = cast("object", os.environ.get("ANYAPI_API_KEY") if api_key is None else api_key)
        self._key = re.sub(r"(?i)^bearer(\s+|$)", "", given.strip()) if isinstance(given, str) else ""
        self._problem = None
        if given is not None and not isinstance(given, str):
            self._problem = "The API key is no string"
        elif not self._key:
            self._problem = "No API key"
        elif not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            self._problem = "The API key has a blank, a control character or a character beyond ASCII in it"
        self._origin: tuple[str, str, int | None] | None = None
        self._escapable = not re.fullmatch(r"[\w.~+=-]*", self._key, re.ASCII)
        # The gateway cuts "sk-" off, and may echo the rest alone. A short word is looked for as a whole word only, and
        # one without "sk-" not at all: it would be found in ordinary sentences.
        self._key_without_prefix = self._key.removeprefix("sk-")
        escaped = re.escape(self._key_without_prefix)
        if len(self._key_without_prefix) >= 8:
            self._echo_pattern = re.compile(f"(?:sk-)?{escaped}")
        elif self._key_without_prefix and self._key_without_prefix != self._key:
            self._echo_pattern = re.compile(f"(?<![A-Za-z0-9])sk-{escaped}(?![A-Za-z0-9])")
        else:
            self._echo_pattern = re.compile("(?!)")

    def __repr__(self) -> str:
        return "BearerAuth([key])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An API key is neither pickled nor copied: make a client where it is needed.")

    def bind(self, base_url: httpx.URL) -> Self:
        """Names the origin that the key belongs to. Raises `ConfigurationError` for a key that cannot be sent."""
        if self._problem:
            raise ConfigurationError(f"{self._problem}: pass api_key=…, or set the variable ANYAPI_API_KEY.")
        self._origin = _origin(base_url)
        return self

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Signs a request to the key's own origin, and leaves any other as it is."""
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._key}"
        yield request

    def redact(self, text: str) -> str:
        """The text with "[key]" where the key stood, and U+FFFD for lone surrogates, which nobody could print."""
        clean = self._echo_pattern.sub("[key]", text) if self._key_without_prefix in text else text
        return clean if clean.isascii() else _LONE_SURROGATE.sub("\ufffd", clean)

    def is_key(self, text: str) -> bool:
        """Whether the text holds the key."""
        return self._echo_pattern.search(text) is not None

    def may_hide_in(self, text: str) -> bool:
        """Whether JSON text may hold, once parsed, what `redact` would change."""
        return self._key_without_prefix in text or self._escapable or _HIDING.search(text) is not None

    def safe_cause(self, error: BaseException) -> BaseException | None:
        """The error without its tracebacks, whose frames hold requests; None if it would still show the key."""
        links, seen = [error], set[int]()
        while links:
            link = links.pop()
            if id(link) in seen:
                continue
            seen.add(id(link))
            try:
                link.__traceback__ = None
                if isinstance(link, httpx.RequestError):
                    with suppress(RuntimeError):  # it was raised without one
                        link.request = httpx.Request(link.request.method, link.request.url)
                words = f"{link} {link!r} {link.args} {vars(link)}"
            except Exception:  # noqa: BLE001  (it cannot be changed, or not even shown)
                return None
            if self.redact(words) != words:
                return None
            links += filter(None, (link.__cause__, link.__context__))
            if isinstance(link, BaseExceptionGroup):
                links += cast("BaseExceptionGroup[BaseException]", link).exceptions
        return error


def checked_base_url(base_url: str | None, default: str) -> httpx.URL:
    """The argument, else `ANYAPI_BASE_URL`, else the default. Raises `ConfigurationError` if it is no base URL."""
    given = cast("object", base_url if base_url is not None else os.environ.get("ANYAPI_BASE_URL") or default)
    try:
        url = httpx.URL(given.strip().rstrip("/") if isinstance(given, str) else "")
        usable = _BASE_URL.fullmatch(str(url)) and url.host and (url.port is None or 0 < url.port < 2**16)
    except (httpx.InvalidURL, UnicodeError):  # idna's error is one, and comes when the host is asked for
        url, usable = httpx.URL(), None
    if not usable:
        raise ConfigurationError(
            "A base URL is https:// or http://, a host, maybe a port and a path, and no user, password, query or "
            f'fragment: pass one such as base_url="{default}", or set ANYAPI_BASE_URL.'
        )
    if url.scheme == "http" and not is_loopback(url.host):
        warnings.warn(f"The API key goes to {url.host} unencrypted: use https.", stacklevel=4)
    return url


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx makes a default port None
