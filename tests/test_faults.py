"""What a network can do, over a real socket and on each transport: what a wait goes through, and what ends it."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import pytest
from anyapi_midjourney.beat import Beat
from attrs import frozen
from httpx_aiohttp import AiohttpTransport

from anyapi_midjourney import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    AuthenticationError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    Task,
    TaskNotFoundError,
    WaitTimeoutError,
    polling,
)
from shells import EXAMPLE, KEY, TASK_ID, Shell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Step: TypeAlias = bytes | float | Literal["close", "reset"]
Answer: TypeAlias = "Sequence[Step]"
"""Bytes to send, seconds to pause, and how to end the connection, if it is not kept."""


class Server:
    """Gives one answer a request, the last one again and again; one list for all tasks, or each its own."""

    def __init__(self, *answers: Answer, **of_tasks: Sequence[Answer]) -> None:
        self._answers = {task_id: list(rest) for task_id, rest in {"": answers, **of_tasks}.items()}
        self.connections = 0
        self.requests: list[tuple[float, str]] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self._address[1]}"
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        socket.create_connection(self._address).close()  # wakes `accept`
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with self._listener:
            while True:
                connection = self._listener.accept()[0]
                if self._over.is_set():
                    return connection.close()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        with connection, contextlib.suppress(OSError):
            while not self._over.is_set() and (chunk := connection.recv(65536)):
                received += chunk
                if received.endswith(b"\r\n\r\n"):
                    for step in self._answer(received.decode()):
                        if isinstance(step, bytes):
                            connection.sendall(step)
                        elif isinstance(step, float):
                            self._over.wait(None if step == inf else step)
                        else:
                            linger = struct.pack("ii", step == "reset", 0)
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                            return
                    received = b""

    def _answer(self, request: str) -> Answer:
        with self._lock:
            self.requests.append((time.monotonic(), request))
            task_id = request.split("/")[3]
            rest = self._answers[task_id if task_id in self._answers else ""]
            return rest.pop(0) if len(rest) > 1 else rest[0]


def http(status: int, body: object = "", /, **headers: object) -> bytes:
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"content_length": len(content), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", content]).encode()


def refused(status: int, **headers: str) -> bytes:
    return http(status, {"error": {"message": f"no: {KEY}"}}, **headers)


PAGE = f"<!doctype html><title>{KEY}</title>"
DONE = http(200, EXAMPLE)
GOOD = [DONE]
RUNNING = [http(200, {**EXAMPLE, "status": "IN_PROGRESS", "progress": "30%"})]
HEAD = http(200, content_length=9999)
LONG, SHORT = http(200, EXAMPLE, content_length=9999), http(200, EXAMPLE, content_length=500)
ECHO = KEY.encode()


def drip(byte: bytes, seconds: float) -> list[Step]:
    return [seconds, byte] * 1000


@frozen
class Fault:
    """An answer that is no task."""

    answer: Answer
    error: type[MidjourneyError]
    """What it is to `fetch`."""
    end: int | None = None
    """How many in a row end a wait of a client that has seen no task; None if none do."""


FAULTS = {
    "reset before the answer": Fault(["reset"], APIConnectionError),
    "reset inside the headers": Fault([DONE[:30], 0.01, "reset"], APIConnectionError),
    "reset inside the body": Fault([DONE[:-9], 0.01, "reset"], APIConnectionError),
    "closed before the answer": Fault(["close"], APIConnectionError),
    "half a body": Fault([DONE[: len(DONE) // 2], "close"], APIConnectionError),
    "length too long": Fault([LONG, "close"], APIConnectionError),
    "length too short": Fault([SHORT], InvalidResponseError),
    "length is no number": Fault([DONE.replace(b"length: ", b"length: x")], APIConnectionError),
    "no chunks": Fault([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n", "close"], APIConnectionError),
    "garbage": Fault([b"SSH-2.0-OpenSSH " + ECHO + b"\r\n", "close"], APIConnectionError),
    "garbage in the headers": Fault([b"HTTP/1.1 200 OK\r\n\0" + ECHO + b"\r\n\r\n", "close"], APIConnectionError),
    "endless headers": Fault([b"HTTP/1.1 200 OK\r\nX: " + ECHO * 10_000, "close"], APIConnectionError),
    "hangs before the headers": Fault([inf], APITimeoutError),
    "hangs inside the headers": Fault([DONE[:30], inf], APITimeoutError),
    "hangs inside the body": Fault([LONG, inf], APITimeoutError),
    "200 HTML": Fault([http(200, PAGE)], InvalidResponseError, end=3),
    "502 HTML": Fault([http(502, PAGE)], ServerError),
    "503 HTML": Fault([http(503, PAGE), "close"], ServerError),
    "401": Fault([refused(401)], AuthenticationError, end=2),
    "403": Fault([refused(403)], PermissionDeniedError, end=1),
    "429": Fault([refused(429)], RateLimitError),
    "unknown id": Fault([http(400, {"code": 4, "description": f"task_no_found {KEY}"})], TaskNotFoundError, end=2),
}


@pytest.fixture(params=["sync", "asyncio", "trio", "aiohttp"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def backoff(_: int) -> float:
        return 0.002

    def next_look(_: Beat, now: float, **__: bool) -> float:
        return now + 0.005

    monkeypatch.setattr(polling, "_backoff", backoff)
    monkeypatch.setattr(polling, "_BETWEEN_REFUSALS", 0.002)
    monkeypatch.setattr(polling, "_LONGEST_HOLD", 0.05)
    monkeypatch.setattr(Beat, "next_look", next_look)


def ask(client: str, server: Server, script: Callable[[Any], Any], **options: Any) -> Any:
    """What `script` makes of the server: a result, a list of them, or the error, in which there is no key."""
    options = {"base_url": server.url, "retries": 0, "verify": False, **options}
    transport = AiohttpTransport(verify=False) if client == "aiohttp" else None
    try:
        return Shell("asyncio" if client == "aiohttp" else client).use(None, transport, script, **options)
    except MidjourneyError as caught:
        error, cause = caught, caught.__cause__
    assert KEY.removeprefix("sk-") not in f"{error} {error!r} {vars(error)} {cause!r} {vars(cause or error)}"
    return error


def fetch(mj: Any) -> Any:
    return mj.fetch(TASK_ID)


def wait(mj: Any) -> Any:
    return mj.wait(TASK_ID, timeout=30)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_an_error_of_ours(client: str, name: str) -> None:
    fault, expected = FAULTS[name], FAULTS[name].error
    if (client, name) == ("aiohttp", "length too short"):
        expected = APIConnectionError  # it complains of the rest
    with Server(fault.answer) as server:
        error = ask(client, server, fetch, request_timeout=0.02 if "hangs" in name else 9)
    assert type(error) is expected
    assert error.task_id == TASK_ID


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ("401", "403")])
def test_a_wait_goes_through_what_passes_and_more_so_once_a_task_was_seen(client: str, name: str) -> None:
    fault = FAULTS[name]
    before = 2 if fault.end is None else fault.end - 1
    with Server(*[fault.answer] * before, RUNNING, *[fault.answer] * 3, GOOD) as server:
        task = ask(client, server, wait, request_timeout=0.02 if "hangs" in name else 9)
    assert task.succeeded
    assert all(f"authorization: bearer {KEY}\r\n" in request.lower() for _, request in server.requests)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.end])
def test_what_does_not_pass_ends_it_at_once(client: str, name: str) -> None:
    fault = FAULTS[name]
    with Server(*[fault.answer] * (fault.end or 0), GOOD) as server:
        assert type(ask(client, server, wait)) is fault.error
    assert len(server.requests) == fault.end


def test_one_401_among_good_answers_passes_but_neither_two_nor_a_403(client: str) -> None:
    no, never = FAULTS["401"].answer, FAULTS["403"].answer
    with Server(RUNNING, no, RUNNING, no, GOOD) as server:
        assert ask(client, server, wait).succeeded
    for answers, error in (([no, no], AuthenticationError), ([never], PermissionDeniedError)):
        with Server(RUNNING, *answers, GOOD) as server:
            assert type(ask(client, server, wait)) is error


def test_a_body_that_drips_is_waited_for_no_longer_than_one_that_does_not_come(client: str) -> None:
    with Server([HEAD, *drip(b" ", 0.03)], GOOD) as server:
        assert ask(client, server, wait, request_timeout=0.1).succeeded
    assert server.requests[1][0] - server.requests[0][0] < 5


def test_a_burst_of_5xx_passes(client: str) -> None:
    burst = [[refused(status)] for status in (500, 502, 503, 504, *range(520, 527))]
    with Server(*burst, GOOD) as server:
        assert ask(client, server, wait).succeeded
    for answer in burst:
        with Server(answer) as server:
            assert type(ask(client, server, fetch)) is ServerError


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_never_followed_to_another_host(client: str, status: int) -> None:
    with Server(GOOD) as elsewhere:
        place = elsewhere.url.replace("127.0.0.1", "localhost") + f"/mj/task/{TASK_ID}/fetch"
        there = [http(status, location=place)]
        for script, requests in ((fetch, 1), (wait, 3)):
            with Server(there) as server:
                error = ask(client, server, script)
            assert type(error) is APIResponseError
            assert place in str(error)
            assert len(server.requests) == requests
        with Server(RUNNING, *[there] * 4, GOOD) as server:
            assert ask(client, server, wait).succeeded
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("7", 7),
        ("Wed, 21 Oct 2026 07:28:20 GMT", 20),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("31536000", 31536000),
        ("-5", 0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_every_form(client: str, asked: str, seconds: float | None) -> None:
    busy = [refused(429, date="Wed, 21 Oct 2026 07:28:00 GMT", **{"retry_after": asked} if asked else {})]
    with Server(busy) as server:
        error = ask(client, server, fetch)
    assert type(error) is RateLimitError
    assert error.retry_after == seconds
    with Server(busy, GOOD) as server:
        assert ask(client, server, wait).succeeded
    (first, _), (second, _) = server.requests
    assert second - first >= min(seconds or 0, 0.05)


# Those that take their time do so all at once.


def at_once(measure: Callable[[Any], float], cases: Sequence[Any]) -> dict[Any, float]:
    """What each case gives."""
    with ThreadPoolExecutor(len(cases)) as threads:
        return dict(zip(cases, threads.map(measure, cases), strict=True))


def test_retry_after_holds_back_the_whole_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(client: str) -> float:
        with Server(limited=[[refused(429, retry_after="1")], GOOD], other=[*[RUNNING] * 20, GOOD]) as server:
            outcomes = ask(client, server, lambda mj: mj.as_completed(["limited", "other"], timeout=30))
        assert all(isinstance(outcome, Task) for _, outcome in outcomes)
        answered = next(moment for moment, request in server.requests if "/limited/" in request)
        later = [moment - answered for moment, _ in server.requests if moment - answered > 0.3]  # it was surely read
        assert len(later) > 3
        return later[0]

    monkeypatch.setattr(polling, "_LONGEST_HOLD", 60)
    assert min(at_once(hold, ["sync", "asyncio", "aiohttp"]).values()) >= 1


HANGING: dict[str, Answer] = {
    "it runs for ever": [0.05, *RUNNING],
    "it hangs before the headers": [inf],
    "inside the headers": [HEAD[:30], inf],
    "inside the body": [LONG, inf],
    "late inside the body": [HEAD, 0.8, LONG, inf],
    "the body drips": [HEAD, *drip(b" ", 0.2)],
    "the headers drip": [HEAD[:30], *drip(b"x", 0.2)],
}
LATE = [("sync", "late inside the body"), ("sync", "the body drips")]  # httpcore reads its time-out once a body
CASES = [(client, name) for client in ("sync", "asyncio", "aiohttp") for name in HANGING]
CASES.remove(("sync", "the headers drip"))  # which nothing bounds


def test_a_wait_is_back_half_a_second_after_its_time_out() -> None:
    def back(case: tuple[str, str]) -> float:
        with Server(RUNNING, HANGING[case[1]]) as server:
            error = ask(case[0], server, lambda mj: mj.wait(TASK_ID, timeout=1))
            seconds = time.monotonic() - server.requests[0][0]
        assert type(error) is WaitTimeoutError
        assert error.task is not None
        assert "last seen IN_PROGRESS 30 %" in str(error)
        return seconds

    late = {
        case: after for case, after in at_once(back, CASES).items() if not 0.9 < after < 1.8
    }  # 1.5, and a busy machine
    assert [case for case in late if case not in LATE] == []
    assert all(after < 2.6 for after in late.values())
