"""The clients: options, requests, retries, and bodies that no server should send."""

import contextlib
import copy
import gzip
import json
import pickle
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
from pytest_httpx import HTTPXMock

from anyapi_midjourney import (
    AsyncMidjourney,
    AuthenticationError,
    ConfigurationError,
    InvalidResponseError,
    Midjourney,
    MidjourneyError,
    RateLimitError,
    ServerError,
    Task,
    sandbox,
)
from anyapi_midjourney_generated import AuthenticatedClient, models
from anyapi_midjourney_generated.api.tasks import fetch_task
from anyapi_midjourney_generated.errors import UnexpectedStatus
from shells import EXAMPLE, KEY, TASK_ID, URL, Shell, Stream, listening, reply

Answer = Callable[[httpx.Request], httpx.Response]


def sequence(*answers: Answer) -> Answer:
    """A server that gives one answer after the other."""
    rest = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        return next(rest)(request)

    return answer


def test_a_fetch_is_one_signed_get(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=URL, method="GET", json=EXAMPLE)
    with Midjourney(KEY) as mj:
        assert mj.fetch(TASK_ID).button("U1").custom_id == EXAMPLE["buttons"][0]["customId"]
    (request,) = httpx_mock.get_requests()
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.content == b""


# Over a socket


def test_both_clients_fetch_from_a_real_server() -> None:
    async def fetch(base_url: str) -> Task:
        async with AsyncMidjourney(sandbox.API_KEY, base_url=base_url) as mj:
            return await mj.fetch(sandbox.EXAMPLE_ID)

    with sandbox.serve() as base_url:
        with Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
            here = mj.fetch(sandbox.EXAMPLE_ID)
        assert here.raw.to_dict() == EXAMPLE
        assert anyio.run(fetch, base_url, backend="asyncio") == here
        assert anyio.run(fetch, base_url, backend="trio") == here


def test_one_client_serves_many_threads() -> None:
    tasks: list[Task] = []
    with sandbox.serve() as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        threads = [threading.Thread(target=lambda: tasks.append(mj.fetch(sandbox.EXAMPLE_ID))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tasks == [tasks[0]] * 8


# The generated client


def test_the_generated_client_works_alone(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=URL, json=EXAMPLE)
    with AuthenticatedClient("https://www.anyapi.vip", token=KEY) as client:
        task = fetch_task.sync(TASK_ID, client=client)
    assert isinstance(task, models.Task)
    assert task.to_dict() == EXAMPLE
    assert httpx_mock.get_requests()[0].headers["Authorization"] == f"Bearer {KEY}"


def test_generated_has_the_same_key_and_mapping_of_answers() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return reply(EXAMPLE)(request) if len(seen) == 1 else reply("", 522)(request)

    with Midjourney(KEY, transport=httpx.MockTransport(answer)) as mj:
        task = fetch_task.sync(TASK_ID, client=mj.generated)
        assert task is not None
        assert task.to_dict() == EXAMPLE
        with pytest.raises(ServerError):
            fetch_task.sync(TASK_ID, client=mj.generated)
    assert seen == [f"Bearer {KEY}"] * 2


def test_generated_works_asynchronously() -> None:
    async def run() -> models.Task | None:
        async with AsyncMidjourney(KEY, transport=httpx.MockTransport(reply())) as mj:
            return await fetch_task.asyncio(TASK_ID, client=mj.generated)

    task = anyio.run(run)
    assert task is not None
    assert task.to_dict() == EXAMPLE


def test_transport_errors_stay_those_of_httpx_in_generated() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with Midjourney(KEY, transport=httpx.MockTransport(refuse)) as mj, pytest.raises(httpx.ConnectError):
        fetch_task.sync(TASK_ID, client=mj.generated)


def test_the_generated_client_of_the_wrong_kind_is_loud_and_has_the_key() -> None:
    async def run(client: AuthenticatedClient) -> object:
        async with client:
            return await fetch_task.asyncio(client=client, task_id=sandbox.EXAMPLE_ID)

    with sandbox.serve() as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        assert anyio.run(run, mj.generated) is not None
        with mj.generated.with_headers({"X-Test": "1"}) as copied, pytest.raises(UnexpectedStatus):
            fetch_task.sync("unknown", client=copied)


# Options


@pytest.mark.parametrize("client", [Midjourney, AsyncMidjourney])
@pytest.mark.parametrize(
    "key", ["", "  ", "Bearer", "Bearer ", "sk-a b", "sk-a\nb", "sk-a\x00", "sk-é", "sk-\x7f", 7, b"sk-a"]
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(client: type, key: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"api_key=…, or set .* ANYAPI_API_KEY") as info:
        client(key)
    assert "sk-" not in str(info.value)


def test_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="No API key"):
        Midjourney()


@pytest.mark.parametrize("given", [KEY, f" {KEY}\n", f"Bearer {KEY}", f"bearer  {KEY} "])
def test_a_key_comes_bare_or_as_a_header(given: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return reply()(request)

    shell.fetch(answer, api_key=given)
    monkeypatch.setenv("ANYAPI_API_KEY", given)
    shell.fetch(answer, api_key=None)


def test_the_key_of_the_environment_is_read_when_the_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYAPI_API_KEY", "sk-first-one")
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return reply()(request)

    with Midjourney(transport=httpx.MockTransport(answer)) as mj:
        monkeypatch.setenv("ANYAPI_API_KEY", "sk-second-one")
        mj.fetch(TASK_ID)
    assert seen == ["Bearer sk-first-one"]


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "www.anyapi.vip",
        "ftp://www.anyapi.vip",
        "https://",
        "https://me:secret@x.example",
        "https://x.example?a=b",
        "https://x.example/#a",
        "https://x.example?",
        "https://x.example:99999",
        "http://[",
        "https://\x00",
        "https://x.example:0",
        "https://a/\ud800",
        "https://xn--/",
        "https://xn--a.com",
        7,
    ],
)
def test_a_base_url_that_is_none_is_refused_and_its_password_not_shown(base_url: Any) -> None:
    with pytest.raises(ConfigurationError, match="ANYAPI_BASE_URL") as info:
        Midjourney(KEY, base_url=base_url)
    assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://x.example", f"https://x.example/mj/task/{TASK_ID}/fetch"),
        ("https://x.example/mj-fast/", f"https://x.example/mj-fast/mj/task/{TASK_ID}/fetch"),
        ("http://localhost:8080", f"http://localhost:8080/mj/task/{TASK_ID}/fetch"),
        ("http://127.9.9.9", f"http://127.9.9.9/mj/task/{TASK_ID}/fetch"),
        ("http://[::1]:1", f"http://[::1]:1/mj/task/{TASK_ID}/fetch"),
    ],
)
def test_a_base_url_keeps_its_path(base_url: str, url: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == url
        return reply()(request)

    shell.fetch(answer, base_url=base_url)
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    shell.fetch(answer)


def test_a_key_over_plain_http_warns_where_the_client_is_made() -> None:
    with pytest.warns(UserWarning, match=r"goes to x\.example unencrypted") as caught:
        Midjourney(KEY, base_url="http://x.example")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("client", [Midjourney, AsyncMidjourney])
def test_options_are_a_closed_list(client: Any) -> None:
    with pytest.raises(TypeError, match="follow_redirects"):
        client(KEY, follow_redirects=True)
    wrongs: list[dict[str, Any]] = [
        *({"request_timeout": 0}, {"request_timeout": None}, {"request_timeout": float("inf")}),
        {"request_timeout": 1e300},
        *({"retries": -1}, {"retries": 2.5}, {"retries": "2"}, {"max_in_flight": 0}, {"max_in_flight": None}),
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            client(KEY, **wrong)


def test_options_reach_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(httpx, "Client", given.update)
    Midjourney(KEY, max_in_flight=3)
    assert given["limits"] == httpx.Limits(max_connections=3, max_keepalive_connections=3, keepalive_expiry=60.0)
    assert given["timeout"] == httpx.Timeout(30.0, pool=None)
    assert given["headers"]["Accept-Encoding"] == "gzip, deflate"
    limits = httpx.Limits(max_connections=1)
    Midjourney(KEY, proxy="http://localhost:1", verify=False, limits=limits, trust_env=False, http2=False)
    assert given.items() >= {"proxy": "http://localhost:1", "verify": False, "limits": limits}.items()


def test_what_httpx_refuses_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="httpx refuses the options"):
        Midjourney(KEY, proxy="nonsense")
    hooks: Any = {"response": len}
    with pytest.raises(ConfigurationError, match="httpx refuses the options"):
        Midjourney(KEY, event_hooks=hooks)
    monkeypatch.setenv("https_proxy", "foo://x")
    with pytest.raises(ConfigurationError, match="proxies of the environment"):
        AsyncMidjourney(KEY)


def test_proxies_of_the_environment_work(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        asked.append(connection.recv(65536).partition(b" HTTP")[0])
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"1"}')

    with listening(proxy) as address:
        monkeypatch.setenv("http_proxy", address)
        with pytest.warns(UserWarning, match="unencrypted"):
            shell.fetch(reply(), transport=None, base_url="http://anyapi.invalid")
    assert asked == [f"GET http://anyapi.invalid/mj/task/{TASK_ID}/fetch".encode()]


def test_no_more_requests_are_under_way_than_allowed() -> None:
    most = now = 0

    async def serve(stream: anyio.abc.ByteStream) -> None:
        nonlocal most, now
        async with stream:
            with contextlib.suppress(anyio.EndOfStream):
                while await stream.receive():
                    now += 1
                    most = max(most, now)
                    await anyio.sleep(0.01)
                    now -= 1
                    await stream.send(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"1"}')

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            async with (
                AsyncMidjourney(KEY, base_url=f"http://127.0.0.1:{port}", max_in_flight=3) as mj,
                anyio.create_task_group() as fetches,
            ):
                for _ in range(20):
                    fetches.start_soon(mj.fetch, TASK_ID)
            group.cancel_scope.cancel()

    anyio.run(main)
    assert most == 3


@pytest.mark.parametrize("client", [Midjourney, AsyncMidjourney])
def test_a_client_is_neither_pickled_nor_copied(client: type) -> None:
    mj = client(KEY)
    for do in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            do(mj)
    assert repr(mj) == f"{client.__name__}(base_url='https://www.anyapi.vip')"


def test_hooks_of_the_caller_see_every_answer_read_and_none_with_the_key() -> None:
    seen: list[str] = []

    def before(request: httpx.Request) -> None:
        seen.append(str(request.url))

    def after(response: httpx.Response) -> None:
        seen.append(response.read().decode())

    hooks: dict[str, list[Callable[..., object]]] = {"request": [before], "response": [after]}
    transport = httpx.MockTransport(sequence(reply({"id": "1"}), reply(f"wrong key {KEY}", 401)))
    with Midjourney(KEY, transport=transport, event_hooks=hooks) as mj:
        mj.fetch(TASK_ID)
        with pytest.raises(MidjourneyError):
            mj.fetch(TASK_ID)
    assert seen == [URL, '{"id": "1"}', URL, "wrong key [key]"]


def test_hooks_of_the_async_client_are_awaited_in_the_same_place() -> None:
    seen: list[str] = []

    async def after(response: httpx.Response) -> None:
        seen.append((await response.aread()).decode())

    async def run() -> None:
        transport = httpx.MockTransport(reply(f"wrong key {KEY}", 401))
        async with AsyncMidjourney(KEY, transport=transport, event_hooks={"response": [after]}) as mj:
            with pytest.raises(AuthenticationError):
                await mj.fetch(TASK_ID)

    anyio.run(run)
    assert seen == ["wrong key [key]"]


def test_a_hook_may_raise_for_status(pauses: list[float]) -> None:
    with pytest.raises(AuthenticationError):
        Shell("sync").fetch(reply("", 401), event_hooks={"response": [httpx.Response.raise_for_status]}, retries=2)
    assert pauses == []


# Ids


@pytest.mark.parametrize(
    "task_id",
    ["", " ", ".", "..", "a/b", "a%2Fb", "a b", "a\n", "é", "x" * 129, "?", "#", "\x00", None, 1730621826053455, b"1"],
)
def test_what_cannot_be_an_id_is_refused_before_any_request(task_id: Any, shell: Shell) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="A task id is"):
        shell.fetch(answer, task_id)


@pytest.mark.parametrize("task_id", ["1", "task-mj-1.2~3:4_5", "x" * 128, "...a"])
def test_other_gateways_ids_are_sent_as_one_segment(task_id: str, shell: Shell) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == f"/mj/task/{task_id}/fetch"
        return reply({"status": "SUCCESS"})(request)

    assert shell.fetch(answer, task_id).id == task_id


# Retries


def reset(_: httpx.Request) -> httpx.Response:
    """A server that breaks off."""
    raise httpx.ReadError("reset")


TRANSIENT = [
    reset,
    reply("", 408),
    reply("", 429),
    reply("", 500),
    reply("", 522),
    reply("<html>"),
    reply('{"id": "17'),
]
FINAL = [reply("", 400), reply("", 401), reply("", 403), reply({"code": 4}, 400), reply("", 204), reply([]), reply({})]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_is_tried_again_after_growing_pauses(
    fault: Answer, shell: Shell, pauses: list[float]
) -> None:
    assert shell.fetch(sequence(fault, fault, reply()), retries=2).succeeded
    first, second = pauses
    assert 0.25 <= first <= 0.5 <= second <= 1.0


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_fault_that_lasts_is_raised_after_the_last_retry(fault: Answer, shell: Shell, pauses: list[float]) -> None:
    with pytest.raises(MidjourneyError):
        shell.fetch(sequence(fault, fault, fault), retries=2)
    assert len(pauses) == 2


@pytest.mark.parametrize("fault", FINAL)
def test_a_refusal_is_final(fault: Answer, shell: Shell, pauses: list[float]) -> None:
    with pytest.raises(MidjourneyError):
        shell.fetch(sequence(fault), retries=2)
    assert pauses == []


@pytest.mark.parametrize(("asked", "least", "most"), [("7", 7, 7.5), ("0", 0.5, 1), ("3600", 30, 30), ("30", 30, 30)])
def test_retry_after_is_obeyed_up_to_half_a_minute(
    asked: str, least: float, most: float, shell: Shell, pauses: list[float]
) -> None:
    shell.fetch(sequence(reply("", 429, retry_after=asked), reply()), retries=1)
    (pause,) = pauses
    assert least <= pause <= most


@pytest.mark.parametrize("headers", [{}, {"retry_after": "7"}])
def test_no_two_clients_return_together(headers: dict[str, str], pauses: list[float]) -> None:
    for _ in range(20):
        Shell("sync").fetch(sequence(reply("", 429, **headers), reply()), retries=1)
    assert len(set(pauses)) > 10


def test_pauses_grow_no_further_than_eight_seconds(pauses: list[float]) -> None:
    with pytest.raises(RateLimitError):
        Shell("sync").fetch(reply("", 429), retries=12)
    assert len(pauses) == 12
    assert 4.0 <= max(pauses) <= 8.0


def test_a_closed_client_says_so_at_once(pauses: list[float]) -> None:
    mj = Midjourney(KEY)
    mj.close()
    with pytest.raises(ConfigurationError, match="closed: make a new one"):
        mj.fetch(TASK_ID)
    assert pauses == []


def test_with_may_come_after_the_first_fetch() -> None:
    mj = Midjourney(KEY, transport=httpx.MockTransport(reply()))
    mj.fetch(TASK_ID)
    with mj:
        mj.fetch(TASK_ID)


# Bodies


def packed(body: bytes, encoding: str) -> Answer:
    """A body in some content encoding."""
    return lambda _: httpx.Response(200, headers={"content-encoding": encoding}, stream=Stream(body[:9], body[9:]))


PLAIN = json.dumps(EXAMPLE).encode()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(PLAIN), "gzip"),
        (gzip.compress(PLAIN), " GZIP "),
        (zlib.compress(PLAIN), "deflate"),
        (zlib.compress(PLAIN, wbits=-15), "deflate"),
        (PLAIN, "identity"),
        (PLAIN, "gzip"),  # the header lies
        (PLAIN, "br"),
        (b"\xef\xbb\xbf" + PLAIN, ""),
    ],
)
def test_a_packed_body_is_unpacked(body: bytes, encoding: str, shell: Shell) -> None:
    assert shell.fetch(packed(body, encoding)).raw.to_dict() == EXAMPLE


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b" " * (9 * 2**20) + PLAIN, ""),
        (b" " * (17 * 2**20) + PLAIN, ""),
        (b'{"id":"1","buttons":[' + b"{}," * 2**20 + b"0]}", ""),
        (gzip.compress(b" " * (9 * 2**20) + PLAIN), "gzip"),
        (gzip.compress(gzip.compress(b" " * 2**26)), "gzip, gzip"),
        (gzip.compress(PLAIN)[:-20], "gzip"),
        (b"[" * 100_000, ""),
        (b'{"id":"1","x":' + b"[" * 64 + b"]" * 64 + b"}", ""),
        (b'{"id":' + b"9" * 5000 + b"}", ""),
        (b"\xff\xfe\x00", ""),
    ],
)
def test_a_body_that_is_too_large_too_deep_or_broken_is_no_answer(body: bytes, encoding: str, shell: Shell) -> None:
    with pytest.raises(InvalidResponseError):
        shell.fetch(packed(body, encoding))


@pytest.mark.parametrize("name", ["sync", "asyncio"])  # of generators that cannot be ended trio warns
def test_a_body_that_does_not_end_when_it_is_closed_is_left(name: str) -> None:
    class Endless(Stream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield bytes(2**20)

    with pytest.raises(InvalidResponseError, match="more than 8 MiB"):
        Shell(name).fetch(lambda _: httpx.Response(200, stream=Endless()))


def test_an_endless_body_is_read_no_further_than_the_limit(shell: Shell) -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                sent += connection.send(b" " * 2**16)

    with listening(endless) as base_url, pytest.raises(InvalidResponseError, match="more than 8 MiB"):
        shell.fetch(reply(), transport=None, base_url=base_url)
    assert sent < 32 * 2**20  # buffers on the way included


def test_depth_up_to_the_limit_is_a_task(shell: Shell) -> None:
    assert shell.fetch(reply(b'{"id":"1","x":' + b"[" * 63 + b"]" * 63 + b"}")).id == "1"


@pytest.mark.parametrize("charset", ["no-such-charset", "utf-16", "latin-1", "idna", "zlib", "\udc80"])
def test_a_declared_charset_is_not_believed(charset: str, shell: Shell) -> None:
    header = f"application/json; charset={charset}".encode("utf-8", "surrogateescape")

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers=[(b"content-type", header)], stream=Stream('{"prompt":"猪","id":""}'.encode())
        )

    assert shell.fetch(answer).prompt == "猪"


def test_bytes_that_are_no_utf8_and_half_characters_are_replaced(shell: Shell) -> None:
    task = shell.fetch(reply(b'{"id":"1","prompt":"a\xff","state":"\\ud83d","failReason":"\\ud83d\\udd04"}'))
    assert (task.prompt, task.state, task.fail_reason) == ("a\ufffd", "\ufffd", "🔄")


def test_cookies_of_a_hostile_server_are_harmless(shell: Shell) -> None:
    shell.fetch(reply(EXAMPLE, set_cookie=f"a={KEY}; expires=Mon, 01-Jan-{'9' * 5000} 00:00:00 GMT"))
