"""Downloads: which URLs may be requested, and a file that is whole or not there."""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote as percent_encoded

import httpx

from ._address import is_loopback, is_public, is_public_peer
from ._task import TaskAction, link_expires_at
from ._text import format_message, quote
from .errors import DownloadError, MidjourneyError, ServerError, error_from_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._task import Task
    from .errors import Json

MAX_SIZE = 256 * 2**20
"""Bytes of a picture. Real ones have up to some 30 MB, clips 50."""
_MAX_REDIRECTS = 5
_KINDS = (  # the first bytes of a file, and its ending
    (rb"\x89PNG\r\n\x1a\n", ".png"),
    (rb"RIFF....WEBP", ".webp"),  # most grids of version 7, and video grids, which are animated
    (rb"\xff\xd8\xff", ".jpg"),
    (rb"GIF8[79]a", ".gif"),
    (rb"....ftypavi[fs]", ".avif"),
    (rb"....ftypqt  ", ".mov"),
    (rb"....ftyp", ".mp4"),
    (rb"\x1aE\xdf\xa3", ".webm"),
)


class Download:
    """One picture on its way into a file. A client requests `url`, passes the response to `follow`, and writes it.

    A context manager: whatever happens, it leaves no incomplete file.
    """

    def __init__(
        self,
        task: Task,
        path: str | os.PathLike[str] | None,
        base_url: httpx.URL,
        auth: httpx.Auth,
        *,
        overwrite: bool,
    ) -> None:
        self.task_id = task.id
        self._task = task
        self._base_url = base_url
        self._overwrite = overwrite
        self.path = Path(path or "")
        self._is_file_path = path is not None and not self.path.is_dir() and not os.fspath(path).endswith(os.sep)
        self._folder = self.path.parent if self._is_file_path else self.path
        if self._is_file_path:
            self._refuse_to_overwrite()
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        self._part = self._folder / f".{secrets.token_hex(8)}.part"
        self._redirects = 0
        self._to_host = False
        self.auth: httpx.Auth | None = None
        """The key, once the gateway's own URL has answered 401 without it."""
        self._auth = auth
        self.url = absolute_url(task, base_url)
        """What to request next."""
        self._check_url()

    def __enter__(self) -> Self:
        self._file = self._part.open("x+b")
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):  # closing fails again on a full disk
            self._file.close()
        self._part.unlink(missing_ok=True)

    def follow(self, response: httpx.Response) -> bool:
        """Whether to request `url` again: it is another one after a redirect, or needs the key."""
        own = (response.url.scheme, response.url.netloc) == (self._base_url.scheme, self._base_url.netloc)
        if response.status_code == 401 and own and not self.auth:
            self.auth = self._auth
            return True
        if response.next_request is None:
            return False
        self._redirects += 1
        if self._redirects > _MAX_REDIRECTS:
            raise self._error(f"The picture's host redirects more than {_MAX_REDIRECTS} times.")
        before, self.url = self.url, response.next_request.url
        if before.scheme == "https" and self.url.scheme == "http":
            raise self._error(f"The picture's host redirects from https to http, to {quote(self.url.host)}.")
        self._check_url()
        return True

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Closes a connection if a name led to a private address. Called by httpcore at each step."""
        if self._is_private(event, info):
            info["return_value"].close()
            raise self._private()

    async def async_trace(self, event: str, info: Mapping[str, Any]) -> None:
        """`trace`, awaited."""
        if self._is_private(event, info):
            await info["return_value"].aclose()
            raise self._private()

    def refusal(self, response: httpx.Response, body: Json) -> MidjourneyError:
        """The error that a response without a picture means."""
        status, headers = response.status_code, response.headers
        if self._task.action == TaskAction.MODAL and status in (403, 500) and self.url.host == self._base_url.host:
            return ServerError(status, {"retry-after": "5"}, body, "The gateway has it after its next refresh.")
        error = error_from_response(status, headers, body)
        if error and error.is_transient:
            return error
        why, expiry = f"Could not download the picture from {self.url.host}.", link_expires_at(str(self.url))
        if expiry and expiry < datetime.now(UTC):
            why = f"The signed link expired on {expiry:%Y-%m-%d at %H:%M} UTC, and such links are not renewed."
        return self._error(f"{format_message(error.message if error else '', f'HTTP {status}')}. {why}")

    def begin(self, headers: Mapping[str, str]) -> None:
        """Checks the headers of a picture."""
        encoding, length = headers.get("content-encoding", "identity"), headers.get("content-length", "")
        if encoding.lower() != "identity":
            raise self._error(f"The picture has the Content-Encoding {quote(encoding)}, which was not asked for.")
        self._check_size(int(length) if length.isdecimal() else 0)

    def write(self, chunk: bytes) -> None:
        """Writes some bytes of the body."""
        self._file.write(chunk)
        self._check_size(self._file.tell())

    def finish(self) -> None:
        """Gives the file its name, `path`."""
        self._file.seek(0)
        head = self._file.read(16)
        kind = next((ending for magic, ending in _KINDS if re.match(magic, head, re.DOTALL)), None)
        if kind is None:
            begin = quote(head.decode("ascii", "replace"))
            raise self._error(f"The response from {quote(self.url.host)} is not a picture; it begins with {begin}.")
        if not self._is_file_path:
            self.path = self._folder / f"{_stem(self._task)}{kind}"
            self._refuse_to_overwrite()
        self._file.close()
        if self._overwrite:
            self._part.replace(self.path)
            return
        try:
            os.link(self._part, self.path)  # atomic, and never replaces a file or a link
        except FileExistsError:
            raise
        except (OSError, AttributeError, NotImplementedError):  # no hard links on this file system or platform
            self.path.open("xb").close()
            try:
                self._part.replace(self.path)
            except BaseException:
                self.path.unlink()
                raise

    def _is_private(self, event: str, info: Mapping[str, Any]) -> bool:
        if event == "connection.connect_tcp.started":
            # A proxy is another host, and resolves names itself.
            self._to_host = info["host"] == self.url.raw_host.decode() and self.url.host != self._base_url.host
        if event != "connection.connect_tcp.complete" or not self._to_host:
            return False
        return not is_public_peer(str(info["return_value"].get_extra_info("server_addr")[0]))

    def _private(self) -> DownloadError:
        return self._error(f"The picture's host {quote(self.url.host)} is private or loopback, which is refused.")

    def _error(self, text: str) -> DownloadError:
        return DownloadError(text, self._task.id)

    def _check_size(self, size: int) -> None:
        if size > MAX_SIZE:
            raise self._error(f"The picture is larger than {MAX_SIZE >> 20} MiB.")

    def _check_url(self) -> None:
        if self.url.scheme not in ("http", "https"):
            raise self._error(f"The picture's URL has the scheme {quote(self.url.scheme)}, not http or https.")
        if self.url.host != self._base_url.host and not is_public(self.url.raw_host.decode()):
            raise self._private()

    def _refuse_to_overwrite(self) -> None:
        replaceable = self._overwrite and (self.path.is_symlink() or self.path.is_file())  # no device
        if os.path.lexists(self.path) and not replaceable:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))


def saved_picture(task: Task, folder: Path) -> Path | None:
    """The file that an earlier download of this task left in a folder."""
    files = [folder / f"{_stem(task)}{ending}" for _, ending in _KINDS]
    return next((f for f in files if f.is_file() and not f.is_symlink() and f.stat().st_size), None)


def absolute_url(task: Task, base_url: httpx.URL) -> httpx.URL:
    """Where the picture of a task that succeeded is. Raises `DownloadError` if it has none, or no valid URL.

    A relative URL, `localhost`, `127.0.0.1` and the base URL's host are the gateway itself: operators leave new-api's
    own address at its default, http://localhost:3000 (`setting/system_setting`).
    """
    if task.picture_url is None:
        why = f"{quote(task.action or 'it')} succeeds without one" if task.succeeded else "it has not succeeded"
        raise DownloadError(f"The task has no picture: {why}.", task.id)
    try:
        url = httpx.URL(task.picture_url)
        is_default = is_loopback(url.host) or not (url.scheme or url.host)
    except (httpx.InvalidURL, UnicodeError):  # idna's error is one, and comes when `host` is read
        raise DownloadError(f"{quote(task.picture_url)} is not a URL.", task.id) from None
    path = url.raw_path if url.raw_path.startswith(b"/") else b"/" + url.raw_path
    mount = base_url.raw_path.rstrip(b"/")
    if is_default and not path.startswith(mount + b"/"):
        path = mount + path
    return base_url.copy_with(raw_path=path) if is_default or url.host == base_url.host else url


def _stem(task: Task) -> str:
    """A file name for each id: another one for each, and safe whatever the server sends."""
    name = percent_encoded(task.id, safe="", errors="replace")
    return name.replace(".", "%2E", 1) if name.startswith(".") else name or "task"
