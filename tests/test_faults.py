"""What a network can do, over a real socket: which faults a wait survives, and which end it."""

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
from attrs import frozen

from anyapi_midjourney import Task, _waiting, errors
from anyapi_midjourney._refresh import RefreshCycle
from clients import EXAMPLE, KEY, TASK_ID, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Step: TypeAlias = bytes | float | Literal["close", "reset"]
Response: TypeAlias = "Sequence[Step]"
"""Bytes to send, seconds to pause, and how to end the connection, if it is not kept."""


class Server:
    """Sends one response after the other, the last one again and again; each task may have responses of its own."""

    def __init__(self, *responses: Response, **of_tasks: Sequence[Response]) -> None:
        self._responses = {task_id: list(rest) for task_id, rest in {"": responses, **of_tasks}.items()}
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
                if received.endswith(b"\r\n\r\n" if received.startswith(b"GET") else b"}"):
                    for step in self._respond(received.decode()):
                        if isinstance(step, bytes):
                            connection.sendall(step)
                        elif isinstance(step, float):
                            self._over.wait(None if step == inf else step)
                        else:
                            linger = struct.pack("ii", step == "reset", 0)
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                            return
                    received = b""

    def _respond(self, request: str) -> Response:
        with self._lock:
            self.requests.append((time.monotonic(), request))
            task_id = request.split("/")[3].split(maxsplit=1)[0]
            rest = self._responses[task_id if task_id in self._responses else ""]
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


def drip(byte: bytes, seconds: float) -> list[Step]:
    return [seconds, byte] * 1000


@frozen
class Fault:
    """A response that is no task."""

    response: Response
    error: type[errors.MidjourneyError]
    """What it is to `fetch`."""
    end: int | None = None
    """How many in a row end a wait of a client that has seen no task; None if none do."""


FAULTS = {
    "reset before the response": Fault(["reset"], errors.APIConnectionError),
    "reset inside the headers": Fault([DONE[:30], 0.01, "reset"], errors.APIConnectionError),
    "reset inside the body": Fault([DONE[:-9], 0.01, "reset"], errors.APIConnectionError),
    "closed before the response": Fault(["close"], errors.APIConnectionError),
    "half a body": Fault([DONE[: len(DONE) // 2], "close"], errors.APIConnectionError),
    "length too long": Fault([LONG, "close"], errors.APIConnectionError),
    "length too short": Fault([SHORT], errors.InvalidResponseError),
    "length is no number": Fault([DONE.replace(b"length: ", b"length: x")], errors.APIConnectionError),
    "no chunks": Fault(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n", "close"], errors.APIConnectionError
    ),
    "garbage": Fault([b"SSH-2.0-OpenSSH\r\n", "close"], errors.APIConnectionError),
    "garbage in the headers": Fault([b"HTTP/1.1 200 OK\r\n\0\r\n\r\n", "close"], errors.APIConnectionError),
    "endless headers": Fault([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "close"], errors.APIConnectionError),
    "hangs before the headers": Fault([inf], errors.APITimeoutError),
    "hangs inside the headers": Fault([DONE[:30], inf], errors.APITimeoutError),
    "hangs inside the body": Fault([LONG, inf], errors.APITimeoutError),
    "200 HTML": Fault([http(200, PAGE)], errors.InvalidResponseError, end=3),
    "502 HTML": Fault([http(502, PAGE)], errors.ServerError),
    "503 HTML": Fault([http(503, PAGE), "close"], errors.ServerError),
    "401": Fault([refused(401)], errors.AuthenticationError, end=2),
    "403": Fault([refused(403)], errors.PermissionDeniedError, end=1),
    "429": Fault([refused(429)], errors.RateLimitError),
    "unknown id": Fault(
        [http(400, {"code": 4, "description": f"task_no_found {KEY}"})], errors.TaskNotFoundError, end=2
    ),
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def backoff(*_: object) -> float:
        return 0.002

    def next_poll(_: RefreshCycle, now: float, **__: object) -> float:
        return now + 0.005

    monkeypatch.setattr(_waiting, "backoff", backoff)
    monkeypatch.setattr(_waiting, "_AFTER_REFUSAL", 0.002)
    monkeypatch.setattr(_waiting, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(RefreshCycle, "next_poll", next_poll)


def ask(client: Client, server: Server, script: Callable[[Any], Any], **options: Any) -> Any:
    """What `script` returns for the server, or the error that it raises, in which there is no key."""
    options = {"base_url": server.url, "max_retries": 0, "verify": False, **options}
    try:
        return client.run(script, **options)
    except errors.MidjourneyError as caught:
        error, cause = caught, caught.__cause__
    assert KEY.removeprefix("sk-") not in f"{error} {error!r} {vars(error)} {cause!r} {vars(cause or error)}"
    return error


def fetch(mj: Any) -> Any:
    return mj.fetch(TASK_ID)


def wait(mj: Any) -> Any:
    return mj.wait(TASK_ID, timeout=30)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_raises_an_error_of_this_package(client: Client, name: str) -> None:
    fault = FAULTS[name]
    with Server(fault.response) as server:
        error = ask(client, server, fetch, timeout=0.02 if "hangs" in name else 9)
    assert type(error) is fault.error
    assert error.task_id == TASK_ID


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ("401", "403")])
def test_a_wait_survives_transient_faults_and_more_kinds_once_a_task_was_seen(client: Client, name: str) -> None:
    fault = FAULTS[name]
    before = 2 if fault.end is None else fault.end - 1
    with Server(*[fault.response] * before, RUNNING, *[fault.response] * 3, GOOD) as server:
        task = ask(client, server, wait, timeout=0.02 if "hangs" in name else 9)
    assert task.succeeded
    assert all(f"authorization: bearer {KEY}\r\n" in request.lower() for _, request in server.requests)


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "403"])
def test_each_of_many_tasks_survives_a_list_with_a_fault(client: Client, name: str) -> None:
    a, b = ({**EXAMPLE, "id": task_id} for task_id in "ab")
    lists: list[Response] = [FAULTS[name].response, [http(200, [b, a])]]
    with Server(a=[[http(200, a)]], b=[[http(200, b)]], **{"list-by-condition": lists}) as server:
        found = ask(
            client, server, lambda mj: mj.as_completed(["a", "b"], timeout=30), timeout=0.1 if "hangs" in name else 9
        )
    assert sorted(task_id for task_id, outcome in found if isinstance(outcome, Task)) == ["a", "b"]


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.end])
def test_faults_that_are_not_transient_end_a_wait(client: Client, name: str) -> None:
    fault = FAULTS[name]
    with Server(*[fault.response] * (fault.end or 0), GOOD) as server:
        assert type(ask(client, server, wait)) is fault.error
    assert len(server.requests) == fault.end


def test_a_body_that_drips_does_not_outlast_the_timeout_of_a_request(client: Client) -> None:
    with Server([HEAD, *drip(b" ", 0.03)], GOOD) as server:
        assert ask(client, server, wait, timeout=0.1).succeeded
    assert server.requests[1][0] - server.requests[0][0] < 5


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_never_followed_to_another_host(client: Client, status: int) -> None:
    with Server(GOOD) as elsewhere:
        place = elsewhere.url.replace("127.0.0.1", "localhost") + f"/mj/task/{TASK_ID}/fetch"
        there = [http(status, location=place)]
        for script, responses in ((fetch, [there]), (wait, [there] * 3), (wait, [RUNNING, *[there] * 4, GOOD])):
            with Server(*responses) as server:
                result = ask(client, server, script)
            assert len(server.requests) == len(responses)
            assert isinstance(result, Task) or place in str(result)
    assert elsewhere.connections == 0


HANGING: dict[str, Response] = {
    "it runs for ever": [0.05, *RUNNING],
    "it hangs before the headers": [inf],
    "inside the headers": [HEAD[:30], inf],
    "inside the body": [LONG, inf],
    "late inside the body": [HEAD, 0.8, LONG, inf],
    "the body drips": [HEAD, *drip(b" ", 0.2)],
    "the headers drip": [HEAD[:30], *drip(b"x", 0.2)],
}
LATE = [("sync", "late inside the body"), ("sync", "the body drips")]  # httpcore reads its time-out once a body
CASES = [(client, name) for client in ("sync", "asyncio", "trio") for name in HANGING]
CASES.remove(("sync", "the headers drip"))  # which nothing bounds


def test_a_wait_returns_half_a_second_after_its_timeout_whatever_the_server_does() -> None:
    def back(case: tuple[str, str]) -> float:
        with Server(RUNNING, HANGING[case[1]]) as server:
            error = ask(Client(case[0]), server, lambda mj: mj.wait(TASK_ID, timeout=1))
            seconds = time.monotonic() - server.requests[0][0]
        assert type(error) is errors.WaitTimeoutError
        assert error.task is not None
        assert "last seen IN_PROGRESS 30 %" in str(error)
        return seconds

    with ThreadPoolExecutor(len(CASES)) as threads:  # they take their time all at once
        seconds = dict(zip(CASES, threads.map(back, CASES), strict=True))
    late = {case: after for case, after in seconds.items() if not 0.9 < after < 2.4}  # 1.5, and a busy machine
    assert late.keys() <= set(LATE)
    assert all(after < 3.5 for after in late.values())
