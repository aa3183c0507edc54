"""Pictures on their way into files: from where they may come, and what of them is kept."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import threading
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

import httpx

from .address import is_loopback, is_public, is_public_peer
from .errors import ConfigurationError, DownloadError, MidjourneyError, quoted, refusal, said
from .task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .errors import Json

SIZE_LIMIT = 256 * 2**20
"""Bytes of a picture, packed or not. Real ones have up to some 30 MB, clips 50."""
TIME_LIMIT = 900.0
"""Seconds that one may take to arrive, lest a server drip for ever."""
_REDIRECTS = 5
_HEAD = 16
"""Bytes that tell what a file is."""
_KINDS = (
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
    """One picture on its way into a file. A client asks for `url`, says what came, and writes it.

    It is a `with` block's: at its end nothing half-written is left.

    Args:
        task: A task with a picture or a video.
        path: The file, or a folder that is there, in which it is called by the task's id; None is the current folder.
        overwrite: Whether to replace a file, or a link itself, that is there.
        base_url: The client's; its host alone may be a local one.
        redact: Takes the key out of a text, since the server may echo it.

    Raises:
        ConfigurationError: No task.
        DownloadError: There is nothing to be had, or not from there.
        FileExistsError, FileNotFoundError: The file is there already, or its folder is not.

    """

    def __init__(
        self,
        task: Task,
        path: str | os.PathLike[str] | None,
        *,
        overwrite: bool,
        base_url: httpx.URL,
        redact: Callable[[str], str],
    ) -> None:
        if not isinstance(cast("object", task), Task):
            raise ConfigurationError("download takes a task, as fetch and wait give it; nothing was sent.")
        self.task_id = task.id
        self._expiry = task.image_expires_at
        self._redact = redact
        self._own_host = base_url.host
        self._overwrite = overwrite
        self._target = Path(path or "")
        self._named = path is not None and not self._target.is_dir() and not os.fspath(path).endswith(os.sep)
        self._folder = self._target.parent if self._named else self._target
        if self._named:
            self._refuse_to_overwrite()
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        self._file: BinaryIO | None = None
        self._part = self._folder / f".{secrets.token_hex(8)}.part"
        self._lock = threading.Lock()
        """An event loop may leave the block while a thread still writes."""
        self._closed = False
        self._head = b""
        self._came = self._size = 0
        self._unpack: Any = None
        self._redirects = 0
        self._guarded = False
        self._end = time.monotonic() + TIME_LIMIT
        address = picture_url(task, base_url)
        if address is None:
            why = f"{quoted(task.action or 'it')} succeeds without one" if task.succeeded else "it has not succeeded"
            raise self._error(f"The task has no picture: {why}.")
        self.url = address
        """What to ask for next."""
        self._check_url()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._closed = True
            if self._file:
                with suppress(OSError):  # on a full disk it fails again
                    self._file.close()
            self._part.unlink(missing_ok=True)

    @property
    def time_left(self) -> float:
        """Seconds that the picture may still take."""
        return self._end - time.monotonic()

    @property
    def host(self) -> str:
        """The host of `url`, as a connection names it."""
        return self.url.raw_host.decode("ascii")

    def resolve(self, host: str) -> None:
        """Raises `DownloadError` if a host to which a connection is about to go has a local address."""
        # A proxy resolves names itself, and is another host.
        self._guarded = host == self.host and self.url.host != self._own_host
        if self._guarded:
            with suppress(socket.gaierror):  # to connect will tell
                if not all(is_public_peer(str(found[4][0])) for found in socket.getaddrinfo(host, None)):
                    raise self._local()

    async def async_resolve(self, host: str) -> None:
        """`resolve`, awaited."""
        from anyio.to_thread import run_sync  # noqa: PLC0415  (it comes with httpx, which imports it only when needed)

        await run_sync(self.resolve, host, abandon_on_cancel=True)

    def guard(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore calls at each step: looks at where a connection goes, before and after it is made."""
        if event == "connection.connect_tcp.started":
            self.resolve(info["host"])
        elif self._is_misled(event, info):
            info["return_value"].close()
            raise self._local()

    async def async_guard(self, event: str, info: Mapping[str, Any]) -> None:
        """`guard`, awaited."""
        if event == "connection.connect_tcp.started":
            await self.async_resolve(info["host"])
        elif self._is_misled(event, info):
            await info["return_value"].aclose()
            raise self._local()

    def redirects(self, response: httpx.Response) -> bool:
        """Whether an answer says to ask elsewhere, where `url` then leads."""
        if response.next_request is None:
            return False
        self._redirects += 1
        if self._redirects > _REDIRECTS:
            raise self._error(f"The picture's host redirects more than {_REDIRECTS} times.")
        before, self.url = self.url, response.next_request.url
        if before.scheme == "https" and self.url.scheme == "http":
            raise self._error(f"The picture's host redirects from https to http, to {quoted(self.url.host)}.")
        self._check_url()
        return True

    def refused(self, status: int, headers: Mapping[str, str], body: Json) -> MidjourneyError:
        """The error that an answer without a picture is."""
        error = refusal(status, headers, body)
        if error and (status in (408, 429) or status >= 500):
            return error
        why = f"The picture is not to be had from {quoted(self.url.host)}."
        if self._expiry and self._expiry < datetime.now(UTC):
            why = f"The signed link expired on {self._expiry:%Y-%m-%d at %H:%M} UTC, and such links are not renewed."
        return self._error(f"{said(error.message if error else '', f'HTTP {status}')}. {why}")

    def begin(self, headers: Mapping[str, str]) -> None:
        """Gets ready for a body with these headers."""
        if headers.get("content-encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
            self._unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
        if headers.get("content-length", "").isdecimal():
            self._check_size(int(headers["content-length"][:20]))

    def write(self, chunk: bytes) -> None:
        """Takes some bytes of the body."""
        if self.time_left < 0:
            raise self.late()
        self._came += len(chunk)
        if self._unpack:
            chunk = self._unpacked(chunk)
        self._size += len(chunk)
        self._check_size(max(self._came, self._size))
        with self._lock:
            if self._closed:
                return
            if self._file is None:
                self._head += chunk
                if len(self._head) < _HEAD:
                    return
                self._open()
            else:
                self._file.write(chunk)

    def late(self) -> DownloadError:
        """The error of a picture that takes too long."""
        return self._error(f"The picture takes more than {TIME_LIMIT:.0f} s to arrive.")

    def keep(self) -> Path:
        """The file, which is whole now."""
        if self._unpack and not self._unpack.eof:
            raise self._error(f"What came from {quoted(self.url.host)} is cut off.")
        with self._lock:
            if self._closed:
                return self._target
            if self._file is None:
                self._open()
            cast("BinaryIO", self._file).close()
            if self._overwrite:
                self._part.replace(self._target)
                return self._target
            try:
                os.link(self._part, self._target)  # at once, and never over what is there, a link included
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                self._target.open("xb").close()
                try:
                    self._part.replace(self._target)
                except BaseException:
                    self._target.unlink()
                    raise
        return self._target

    def _error(self, text: str) -> DownloadError:
        return DownloadError(self._redact(text), self.task_id)

    def _local(self) -> DownloadError:
        return self._error(f"The picture's host {quoted(self.url.host)} is a local one: it is not asked.")

    def _is_misled(self, event: str, info: Mapping[str, Any]) -> bool:
        # A name may lead elsewhere the second time.
        if event != "connection.connect_tcp.complete" or not self._guarded:
            return False
        return not is_public_peer(str(info["return_value"].get_extra_info("server_addr")[0]))

    def _check_url(self) -> None:
        if self.url.scheme not in ("http", "https"):
            raise self._error(f"The picture's address is of the kind {quoted(self.url.scheme)}, not http or https.")
        if self.url.host != self._own_host and not is_public(self.host):
            raise self._local()

    def _check_size(self, size: int) -> None:
        if size > SIZE_LIMIT:
            raise self._error(f"The picture is larger than {SIZE_LIMIT >> 20} MiB.")

    def _unpacked(self, chunk: bytes) -> bytes:
        try:
            plain: bytes = self._unpack.decompress(chunk, SIZE_LIMIT + 1)
        except zlib.error as error:
            raise self._error(f"What came from {quoted(self.url.host)} cannot be unpacked: {error}.") from None
        if self._unpack.unused_data:
            raise self._error(f"What came from {quoted(self.url.host)} goes on after its end.")
        return plain

    def _open(self) -> None:
        """Opens the file, now that its first bytes are there, and writes them."""
        kind = next((end for magic, end in _KINDS if re.match(magic, self._head, re.DOTALL)), None)
        if kind is None:
            begins = quoted(self._redact(self._head.decode("ascii", "replace")))  # before it is cut
            raise self._error(f"What came from {quoted(self.url.host)} is no picture; it begins with {begins}.")
        if not self._named:
            self._target = self._folder / f"{_stem(self.task_id)}{kind}"
            self._refuse_to_overwrite()
        self._file = self._part.open("xb")
        self._file.write(self._head)

    def _refuse_to_overwrite(self) -> None:
        replaceable = self._overwrite and (self._target.is_symlink() or self._target.is_file())  # no device
        if os.path.lexists(self._target) and not replaceable:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._target))


def saved_picture(task: Task, folder: Path) -> Path | None:
    """The file that an earlier download of this very task has left in a folder."""
    files = [folder / f"{task.id}{kind}" for _, kind in _KINDS] if _stem(task.id) == task.id else []
    return next((f for f in files if f.is_file() and not f.is_symlink() and f.stat().st_size), None)


def picture_url(task: Task, base_url: httpx.URL) -> httpx.URL | None:
    """Where the picture or the video of a task that succeeded is; None if it has none.

    An operator of a gateway may have forgotten to set its own address, which is then http://localhost:3000 (new-api,
    `setting/system_setting`): the path is right, and the host is the base URL's.
    """
    text = next(filter(None, (task.image_url, task.video_url, *task.video_urls)), None) if task.succeeded else None
    if text is None:
        return None
    try:
        url = httpx.URL(text)
        forgotten = is_loopback(url.host) and "/mj/image/" in url.path
    except (httpx.InvalidURL, UnicodeError):  # idna's error is one, and comes when the host is asked for
        raise DownloadError(f"{quoted(text)} is no address of a picture.", task.id) from None
    return base_url.copy_with(raw_path=url.raw_path) if forgotten else url


def _stem(task_id: str) -> str:
    return re.sub(r"[^\w.-]", "", task_id, flags=re.ASCII).lstrip(".-")[:128] or "task"
