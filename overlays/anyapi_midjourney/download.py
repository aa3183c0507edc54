"""Pictures on their way into files: from where they may come, and what of them is kept."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
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
    from collections.abc import Iterable, Mapping

    from .errors import Json

SIZE_LIMIT = 256 * 2**20
"""Bytes of a picture, unpacked. Real ones have up to some 30 MB, clips 50."""
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

    Raises:
        ConfigurationError: No task.
        DownloadError: There is nothing to be had, or not from there.
        FileExistsError, FileNotFoundError: The file is there already, or its folder is not.

    """

    def __init__(
        self, task: Task, path: str | os.PathLike[str] | None, *, overwrite: bool, base_url: httpx.URL
    ) -> None:
        if not isinstance(cast("object", task), Task):
            raise ConfigurationError("download takes a task, as fetch and wait give it; nothing was sent.")
        self.task_id = task.id
        self._expiry = task.image_expires_at
        self._overwrite = overwrite
        self._own_host = base_url.host
        self._target = Path(path or "")
        self._named = path is not None and not self._target.is_dir() and not os.fspath(path).endswith(os.sep)
        self._folder = self._target.parent if self._named else self._target
        if self._named:
            self._refuse_to_overwrite()
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        self._file: BinaryIO | None = None
        self._part: Path | None = None
        self._head = b""
        self._size = 0
        self._unpack: Any = None
        self._redirects = 0
        self._guarded = False
        self._end = time.monotonic() + TIME_LIMIT
        address = picture_url(task, base_url)
        if address is None:
            why = f"{task.action or 'such a task'} succeeds without one" if task.succeeded else "it has not succeeded"
            raise DownloadError(f"The task has no picture: {why}.", self.task_id)
        self.url = address
        """What to ask for next."""
        self._check_url()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file:
            self._file.close()
        if self._part:
            self._part.unlink(missing_ok=True)

    def look_up(self, host: str) -> None:
        """Raises `DownloadError` if a host to which a connection is about to go has a local address."""
        if self._is_guarded(host):
            with suppress(socket.gaierror):  # to connect will tell
                self._check_peers(found[4] for found in socket.getaddrinfo(host, None))

    async def async_look_up(self, host: str) -> None:
        """`look_up`, awaited."""
        import anyio  # noqa: PLC0415  (it comes with httpx, which imports it only when it is needed, as we do)

        if self._is_guarded(host):
            with suppress(socket.gaierror):
                self._check_peers([found[4] for found in await anyio.getaddrinfo(host, None)])

    def guard(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore calls at each step: looks at where a connection goes, before and after it is made."""
        if event == "connection.connect_tcp.started":
            self.look_up(info["host"])
        elif event == "connection.connect_tcp.complete" and self._guarded:
            stream = info["return_value"]
            try:  # a name may lead elsewhere the second time
                self._check_peers([stream.get_extra_info("server_addr")])
            except DownloadError:
                stream.close()
                raise

    async def async_guard(self, event: str, info: Mapping[str, Any]) -> None:
        """`guard`, awaited."""
        if event == "connection.connect_tcp.started":
            await self.async_look_up(info["host"])
        elif event == "connection.connect_tcp.complete" and self._guarded:
            stream = info["return_value"]
            try:
                self._check_peers([stream.get_extra_info("server_addr")])
            except DownloadError:
                await stream.aclose()
                raise

    def redirects(self, response: httpx.Response) -> bool:
        """Whether an answer says to ask elsewhere, where `url` then leads."""
        if response.next_request is None:
            return False
        self._redirects += 1
        if self._redirects > _REDIRECTS:
            raise DownloadError(f"The picture's host redirects more than {_REDIRECTS} times.", self.task_id)
        before, self.url = self.url, response.next_request.url
        if before.scheme == "https" and self.url.scheme == "http":
            raise DownloadError(
                f"The picture's host redirects from https to http, to {quoted(self.url.host)}.", self.task_id
            )
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
        return DownloadError(f"{said(error.message if error else '', f'HTTP {status}')}. {why}", self.task_id)

    def begin(self, headers: Mapping[str, str]) -> None:
        """Gets ready for a body with these headers."""
        if headers.get("content-encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
            self._unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
        if headers.get("content-length", "").isdecimal() and int(headers["content-length"][:20]) > SIZE_LIMIT:
            self._check_size(SIZE_LIMIT + 1)

    def write(self, chunk: bytes) -> None:
        """Takes some bytes of the body."""
        if time.monotonic() > self._end:
            raise DownloadError(f"The picture took more than {TIME_LIMIT:.0f} s to arrive.", self.task_id)
        if self._unpack:
            try:
                chunk = self._unpack.decompress(chunk, SIZE_LIMIT + 1)
            except zlib.error as error:
                raise DownloadError(
                    f"What came from {quoted(self.url.host)} cannot be unpacked: {error}.", self.task_id
                ) from None
        self._size += len(chunk)
        self._check_size(self._size)
        if self._file is None:
            self._head += chunk
            if len(self._head) < _HEAD:
                return
            chunk = self._head
        self._opened().write(chunk)

    def keep(self) -> Path:
        """The file, which is whole now."""
        if self._file is None:
            self._opened().write(self._head)
        file, part = self._opened(), cast("Path", self._part)
        file.close()
        if self._overwrite:
            part.replace(self._target)
            return self._target
        self._target.open("xb").close()  # claims the name; raises if it is taken, by a link too
        try:
            part.replace(self._target)
        except OSError:
            self._target.unlink()
            raise
        return self._target

    def _is_guarded(self, host: str) -> bool:
        # A proxy looks up names itself, and is another host.
        self._guarded = host == self.url.raw_host.decode("ascii") and self.url.host != self._own_host
        return self._guarded

    def _check_peers(self, peers: Iterable[tuple[object, ...]]) -> None:
        if not all(is_public_peer(str(peer[0])) for peer in peers):
            raise DownloadError(
                f"The picture's host {quoted(self.url.host)} is a local one: it is not asked.", self.task_id
            )

    def _check_url(self) -> None:
        if self.url.scheme not in ("http", "https"):
            raise DownloadError(
                f"The picture's address is of the kind {quoted(self.url.scheme)}, not http or https.", self.task_id
            )
        if self.url.host != self._own_host and not is_public(self.url.raw_host.decode("ascii")):
            raise DownloadError(
                f"The picture's host {quoted(self.url.host)} is a local one: it is not asked.", self.task_id
            )

    def _check_size(self, size: int) -> None:
        if size > SIZE_LIMIT:
            raise DownloadError(f"The picture is larger than {SIZE_LIMIT >> 20} MiB.", self.task_id)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            kind = next((end for magic, end in _KINDS if re.match(magic, self._head, re.DOTALL)), None)
            if kind is None:
                begins = quoted(self._head.decode("ascii", "replace"))
                raise DownloadError(
                    f"What came from {quoted(self.url.host)} is no picture; it begins with {begins}.", self.task_id
                )
            if not self._named:
                self._target = self._folder / f"{_stem(self.task_id)}{kind}"
                self._refuse_to_overwrite()
            part = self._folder / f".{secrets.token_hex(8)}.part"
            self._file = part.open("xb")
            self._part = part
        return self._file

    def _refuse_to_overwrite(self) -> None:
        if not self._overwrite and os.path.lexists(self._target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._target))


def saved_picture(task: Task, folder: Path) -> Path | None:
    """The file that an earlier download into a folder has left there."""
    files = (folder / f"{_stem(task.id)}{kind}" for _, kind in _KINDS)
    return next((file for file in files if file.is_file()), None)


def _stem(task_id: str) -> str:
    return re.sub(r"[^\w.-]", "", task_id, flags=re.ASCII).lstrip(".-")[:128] or "task"


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
        forgotten = is_loopback(url.host) and url.host != base_url.host and "/mj/image/" in url.path
    except (httpx.InvalidURL, UnicodeError):  # idna's error is one, and comes when the host is asked for
        raise DownloadError(f"{quoted(text)} is no address of a picture.", task.id) from None
    return base_url.copy_with(raw_path=url.raw_path) if forgotten else url
