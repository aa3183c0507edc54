"""Both clients behind one interface, so that each test is written once."""

from __future__ import annotations

import asyncio
import json
import math
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import trio.abc
from attrs import frozen

from anyapi_midjourney import AsyncMidjourney, Midjourney, Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    import pytest

KEY = "sk-canary-7f3a91c2"
TASK_ID = "1730621826053455"
URL = f"https://www.anyapi.vip/mj/task/{TASK_ID}/fetch"
ROOT = Path(__file__).parent.parent
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tests/cases").glob("*"))}
EXAMPLE: dict[str, Any] = CASES["pub-01-anyapi-imagine-success"]["body"]


def example(**changes: Any) -> Task:
    """The vendor's example with some fields changed."""
    return Task.from_dict(EXAMPLE | changes)


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in pieces, or breaks off, as one from a socket does."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = deque(chunks)

    def __iter__(self) -> Iterator[bytes]:
        while self._chunks:
            chunk = self._chunks.popleft()
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    async def aclose(self) -> None:
        self._chunks.clear()


@frozen
class Client:
    """One of the clients: "sync", or the async one on "asyncio" or "trio"."""

    name: str

    @property
    def type(self) -> Any:
        return Midjourney if self.name == "sync" else AsyncMidjourney

    def call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Calls a function, in an event loop if it is async."""
        return method(*args) if self.name == "sync" else anyio.run(method, *args, backend=self.name)

    def close(self, mj: Any) -> None:
        self.call(mj.close if self.name == "sync" else mj.aclose)

    def fetch(self, respond: Callable[[httpx.Request], httpx.Response], task_id: Any = TASK_ID, **options: Any) -> Task:
        """Fetches once, without retries, with a new client."""
        options = {"transport": httpx.MockTransport(respond), "max_retries": 0, **options}
        task: Task = self.run(lambda mj: mj.fetch(task_id), **options)
        return task

    def run(
        self, script: Callable[[Any], Any], transport: Any = None, clock: Clock | None = None, **options: Any
    ) -> Any:
        """Calls `script` with a new client, in the clock's time if there is one; returns its result, or its items."""
        options = {"api_key": KEY, "transport": transport, **options}
        if self.name == "sync":
            with Midjourney(**options) as mj:
                result = script(mj)
                return list(result) if hasattr(result, "__next__") else result

        async def run() -> Any:
            async with AsyncMidjourney(**options) as mj:
                result = script(mj)
                return [item async for item in result] if hasattr(result, "__anext__") else await result

        fake: dict[str, Any] = {"clock": clock}
        if clock and self.name == "asyncio":
            fake = {"loop_factory": lambda: asyncio.SelectorEventLoop(_Selector(clock))}
        return anyio.run(run, backend=self.name, backend_options=fake if clock else None)


SYNC = Client("sync")
"""For what both clients share."""


@contextmanager
def listening(handle: Callable[[socket.socket], object], *, accept: bool = True) -> Generator[str]:
    """A real server. `handle` gets its first connection, or the socket that accepts them; yields the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # the test is over
                if not accept:
                    handle(listener)
                    return
                with listener.accept()[0] as connection:
                    handle(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(OSError):  # it may be closed at the other end
                listener.shutdown(socket.SHUT_RDWR)  # or it waits for a connection that a failed test did not make
            thread.join()


def says(body: bytes, *, length: int | None = None, times: int = 1) -> Callable[[socket.socket], None]:
    """For `listening`: a server that sends this body, or says that it is longer, so many times."""

    def handle(connection: socket.socket) -> None:
        for _ in range(times):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (length or len(body), body))

    return handle


def reply(body: object = EXAMPLE, status: int = 200, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    """A server with one response: bytes and text as they are, all else as JSON."""
    content = body.encode() if isinstance(body, str) else body
    content = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, headers=names, stream=Stream(content))


def sequence(*servers: Callable[[httpx.Request], httpx.Response]) -> Callable[[httpx.Request], httpx.Response]:
    """A server with one response after the other."""
    rest = iter(servers)

    def respond(request: httpx.Request) -> httpx.Response:
        return next(rest)(request)

    return respond


def raises(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    """A transport that fails."""

    def respond(_: httpx.Request) -> httpx.Response:
        raise error

    return respond


class Clock(trio.abc.Clock):
    """Time for all three clients, in which every pause is over at once. Real sockets have no place in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: 1.7e9 + self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks only when nothing else is to be done."""
        if deadline < math.inf:
            self.now = max(self.now, deadline)
            return 0
        return math.inf


class _Selector(selectors.DefaultSelector):
    """The same for asyncio."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if events := super().select(0):
            return events
        self._clock.sleep(max(timeout or 0, 0))
        return []
