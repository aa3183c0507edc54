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

from ._address import is_loopback, is_public, is_public_peer, origin
from ._task import TaskAction, link_expires_at
from ._text import format_message, quote
from .errors import DownloadError, InvalidResponseError, MidjourneyError, ServerError, error_from_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._task import Task
    from .errors import Json

MAX_SIZE = 256 * 2**20
"""Bytes of a picture. Real ones have up to some 30 MB, clips 50."""
_MAX_REDIRECTS = 5
# The first bytes of a file, by its ending. Most grids of version 7 are webp, and video grids, which are animated.
_KIND = re.compile(
    rb"(?P<png>\x89PNG\r\n\x1a\n)|(?P<webp>RIFF....WEBP)|(?P<jpg>\xff\xd8\xff)|(?P<gif>GIF8[79]a)|"
    rb"(?P<avif>....ftypavi[fs])|(?P<mov>....ftypqt  )|(?P<mp4>....ftyp)|(?P<webm>\x1aE\xdf\xa3)",
    re.DOTALL,
)


class Download:
    """One picture on its way into a file. A client requests `url`, passes the response to `follow`, and writes it.

    A context manager: whatever happens, it leaves no incomplete file.
    """

    def __init__(
        self, task: Task, path: str | os.PathLike[str] | None, base_url: httpx.URL, auth: httpx.Auth, *, overwrite: bool
    ) -> None:
        self.task_id = task.id
        self._task, self._base_url, self._key, self._overwrite = task, base_url, auth, overwrite
        self.path = Path(path or "")
        """The file, once it is finished."""
        self._is_folder = path is None or self.path.is_dir() or os.fspath(path).endswith(os.sep)
        replaceable = overwrite and (self.path.is_symlink() or self.path.is_file())  # no device
        if not self._is_folder and os.path.lexists(self.path) and not replaceable:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))
        self._part = (self.path if self._is_folder else self.path.parent) / f".{secrets.token_hex(8)}.part"
        if not self._part.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._part.parent))
        self._redirects, self._is_direct = 0, False
        self.auth: httpx.Auth | None = None
        """The key, once the gateway's own URL has answered 401 without it."""
        self._go_to(absolute_url(task, base_url), "http", "https")

    def __enter__(self) -> Self:
        self._file = self._part.open("x+b")
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):  # closing fails again on a full disk
            self._file.close()
        self._part.unlink(missing_ok=True)

    def follow(self, response: httpx.Response) -> bool:
        """Whether to request `url` again: it is another one after a redirect, or needs the key."""
        if response.status_code == 401 and self._is_own_host and not self.auth:  # which signs for its origin only
            self.auth = self._key
            return True
        if response.next_request is None:
            return False
        self._redirects += 1
        if self._redirects > _MAX_REDIRECTS:
            raise self._error(f"The picture's host redirects more than {_MAX_REDIRECTS} times.")
        self._go_to(response.next_request.url, "https", self.url.scheme)
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
        if self._task.action == TaskAction.MODAL and status in (403, 500) and self._is_own_host:
            return ServerError(status, {"retry-after": "5"}, body, "The gateway has it after its next refresh.")
        error = error_from_response(status, headers, body)
        if error and error.is_transient and not isinstance(error, InvalidResponseError):  # which speaks of the API
            return error
        why, expiry = f"Could not download the picture from {self.url.host}.", link_expires_at(str(self.url))
        if expiry and expiry < datetime.now(UTC):
            why = f"The signed link expired on {expiry:%Y-%m-%d at %H:%M} UTC, and such links are not renewed."
        return self._error(f"{format_message(error.message if error else '', f'HTTP {status}')}. {why}")

    def begin(self, headers: Mapping[str, str]) -> None:
        """Checks the headers of a picture."""
        if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
            raise self._error(f"The picture has the Content-Encoding {quote(encoding)}, which was not asked for.")

    def write(self, chunk: bytes) -> None:
        """Writes some bytes of the body."""
        if self._file.tell() + len(chunk) > MAX_SIZE:
            raise self._error(f"The picture is larger than {MAX_SIZE >> 20} MiB.")
        self._file.write(chunk)

    def finish(self) -> None:
        """Gives the file its name, `path`."""
        self._file.seek(0)
        head = self._file.read(16)
        self._file.close()
        if not (kind := file_kind(head)):
            begin = quote(head.decode("ascii", "replace"))
            raise self._error(f"The response from {quote(self.url.host)} is not a picture; it begins with {begin}.")
        if self._is_folder:
            self.path /= f"{_stem(self.task_id)}.{kind}"
        if not self._overwrite:
            with suppress(OSError, AttributeError, NotImplementedError):  # there may be no hard links
                os.link(self._part, self.path)  # atomic, and never replaces a file or a link
                return
            self.path.open("xb").close()
        try:
            self._part.replace(self.path)
        except OSError:
            if not self._overwrite:
                self.path.unlink()  # it is ours, and empty
            raise

    def _is_private(self, event: str, info: Mapping[str, Any]) -> bool:
        if event == "connection.connect_tcp.started":
            self._is_direct = info["host"] == self.url.raw_host.decode()  # a proxy resolves names itself
        if event != "connection.connect_tcp.complete" or not self._is_direct or self._is_own_host:
            return False
        return not is_public_peer(str(info["return_value"].get_extra_info("server_addr")[0]))

    def _go_to(self, url: httpx.URL, *schemes: str) -> None:
        self.url, self._is_own_host = url, url.host == self._base_url.host
        if url.scheme not in schemes:
            has = f"at {quote(url.host)} has the scheme {quote(url.scheme)}"
            raise self._error(f"The picture's URL {has}, not {' or '.join(dict.fromkeys(schemes))}.")
        if not self._is_own_host and not is_public(url.raw_host.decode()):
            raise self._private()

    def _private(self) -> DownloadError:
        return self._error(f"The picture's host {quote(self.url.host)} is private or loopback, which is refused.")

    def _error(self, text: str) -> DownloadError:
        return DownloadError(text, self.task_id)


def file_kind(content: bytes) -> str | None:
    """What a picture or a video is by its first 16 bytes, as the ending of its name; None if it is neither."""
    found = _KIND.match(content)
    return found.lastgroup if found else None


def saved_picture(task_id: str, folder: Path) -> Path | None:
    """The file that an earlier download of a task left in a folder."""
    files = [folder / f"{_stem(task_id)}.{ending}" for ending in _KIND.groupindex]
    with suppress(OSError):  # a name may be too long
        return next((f for f in files if f.is_file() and not f.is_symlink() and f.stat().st_size), None)
    return None


def absolute_url(task: Task, base_url: httpx.URL) -> httpx.URL:
    """Where the picture of a task that succeeded is. Raises `DownloadError` if it has none, or no valid URL.

    A relative URL, `localhost`, `127.0.0.1` and the base URL's host are the gateway itself: operators leave new-api's
    own address at its default, http://localhost:3000 (`setting/system_setting`).
    """
    if task.picture_url is None:
        if not task.succeeded:
            why = "this Task has not succeeded; pass the one that wait returns"
        elif task.action and task.action.makes_words:
            why = f"{task.action} makes words, which are its final_prompt"
        else:
            why = "the gateway sent no URL of one"
        raise DownloadError(f"The task has no picture: {why}.", task.id)
    try:
        url = httpx.URL(task.picture_url)
        is_default = is_loopback(url.host) or not (url.scheme or url.host)
    except (httpx.InvalidURL, UnicodeError):  # idna's error is one, and comes when `host` is read
        raise DownloadError(f"{quote(task.picture_url)} is not a URL.", task.id) from None
    if origin(url) == origin(base_url) or (not is_default and url.host != base_url.host):
        return url
    path, mount = b"/" + url.raw_path.lstrip(b"/"), base_url.raw_path.rstrip(b"/")
    return base_url.copy_with(raw_path=mount + path if is_default and not path.startswith(mount + b"/") else path)


def _stem(task_id: str) -> str:
    """A file name for each id: another one for each, and safe whatever the server sends."""
    name = percent_encoded(task_id, safe="", errors="replace")
    return name.replace(".", "%2E", 1) if name.startswith(".") else name or "task"
