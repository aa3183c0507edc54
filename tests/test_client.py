"""The clients: options, the environment, requests, retries, and the bodies of responses."""

import copy
import gzip
import json
import operator
import os
import pickle
import re
import socket
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from pytest_httpx import HTTPXMock

from anyapi_midjourney import AsyncMidjourney, Midjourney, Task, errors, sandbox
from anyapi_midjourney._operations import Retry
from anyapi_midjourney_generated import AuthenticatedClient
from anyapi_midjourney_generated.api.tasks import fetch_task
from anyapi_midjourney_generated.errors import UnexpectedStatus
from clients import EXAMPLE, KEY, SYNC, TASK_ID, URL, Client, Stream, example, listening, raises, reply, says, sequence

Server = Callable[[httpx.Request], httpx.Response]


def test_a_fetch_is_one_signed_get(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=URL, method="GET", json=EXAMPLE)
    with Midjourney(KEY) as mj:
        assert mj.fetch(TASK_ID).button("U1").custom_id == EXAMPLE["buttons"][0]["customId"]
    (request,) = httpx_mock.get_requests()
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.content == b""


def test_a_real_server_is_asked_by_id_and_by_task_and_for_many(client: Client) -> None:
    with sandbox.serve() as base_url:
        options: dict[str, Any] = {"api_key": sandbox.API_KEY, "base_url": base_url}
        task = client.run(lambda mj: mj.fetch(sandbox.EXAMPLE_ID), **options)
        assert task.raw.to_dict() == EXAMPLE
        assert client.run(lambda mj: mj.fetch(task), **options) == task
        assert client.run(lambda mj: mj.fetch_many([task]), **options) == {task.id: task}


def test_one_client_serves_many_threads() -> None:
    with (
        sandbox.serve() as base_url,
        Midjourney(sandbox.API_KEY, base_url=base_url) as mj,
        ThreadPoolExecutor() as pool,
    ):
        tasks = list(pool.map(mj.fetch, [sandbox.EXAMPLE_ID] * 8))
    assert tasks == [tasks[0]] * 8


# The generated client


def generated(mj: Any, task_id: str = TASK_ID) -> Any:
    """A fetch through `mj.generated`; of an async client to be awaited."""
    fetch = fetch_task.sync if isinstance(mj, Midjourney) else fetch_task.asyncio
    return fetch(task_id, client=mj.generated)


def test_generated_has_the_same_key_and_errors_but_httpx_transport_errors(client: Client) -> None:
    def signed(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return reply()(request)

    assert client.run(generated, httpx.MockTransport(signed)).to_dict() == EXAMPLE
    for server, error in ((reply("", 522), errors.ServerError), (raises(httpx.ConnectError("x")), httpx.ConnectError)):
        with pytest.raises(error):
            client.run(generated, httpx.MockTransport(server))


def test_the_generated_client_has_the_key_for_the_other_kind_of_function_too() -> None:
    async def run(other: AuthenticatedClient) -> object:
        async with other:
            return await fetch_task.asyncio(client=other, task_id=sandbox.EXAMPLE_ID)

    with sandbox.serve() as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        assert anyio.run(run, mj.generated) is not None
        with mj.generated.with_headers({"X-Test": "1"}) as copied, pytest.raises(UnexpectedStatus):
            fetch_task.sync("unknown", client=copied)


# The key and the base URL

UNSENDABLE: list[Any] = ["", "  ", "Bearer", "Bearer ", "sk-a b", "sk-a\nb", "sk-a\x00", "sk-é", "sk-\x7f", 7, b"sk-a"]
TEMPLATES = ['"{}"', "'{}'", "“{}”", "${{ANYAPI}}", "$ANYAPI", "{{{{ secrets.anyapi }}}}", "<{}>"]


@pytest.mark.parametrize("key", UNSENDABLE)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: Any, client: Client) -> None:
    with pytest.raises(errors.ConfigurationError, match="ANYAPI_API_KEY") as caught:
        client.type(key)
    assert not str(key).strip() or str(key) not in str(caught.value).replace("Bearer", "")


@pytest.mark.parametrize("template", TEMPLATES)
def test_quotes_and_templates_around_a_key_or_a_base_url_are_refused_with_the_reason(template: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"API key .*template .*env-file"):
        Midjourney(template.format(KEY))
    with pytest.raises(errors.ConfigurationError, match=r"base URL .*template .*env-file"):
        Midjourney(KEY, base_url=template.format("https://x.example"))


def test_no_key_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="No API key"):
        Midjourney()


@pytest.mark.parametrize("given", [KEY, f" {KEY}\n", f"Bearer {KEY}", f"bearer  {KEY} "])
def test_a_key_comes_bare_or_as_a_header(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return reply()(request)

    SYNC.fetch(respond, api_key=given)
    monkeypatch.setenv("ANYAPI_API_KEY", given)
    with Midjourney(transport=httpx.MockTransport(respond)) as mj:
        monkeypatch.setenv("ANYAPI_API_KEY", "sk-set-after-the-client-was-made")
        mj.fetch(TASK_ID)


NO_BASE_URLS: list[Any] = [
    *["", "www.anyapi.vip", "ftp://www.anyapi.vip", "https://", "https://me:secret@x.example", "https://x.example?a=b"],
    *["https://x.example/#a", "https://x.example?", "https://x.example:99999", "http://[", "https://\x00", 7],
    *["https://x.example:0", "https://a/\ud800", "https://xn--/", "https://xn--a.com"],
]


@pytest.mark.parametrize("base_url", NO_BASE_URLS)
def test_a_base_url_that_is_none_is_refused_and_its_password_not_shown(base_url: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="ANYAPI_BASE_URL") as caught:
        Midjourney(KEY, base_url=base_url)
    assert "secret" not in str(caught.value)


BASE_URLS = ["https://x.example", "https://x.example/mj-fast/", "http://localhost:8080", "http://[::1]:1"]


@pytest.mark.parametrize("base_url", BASE_URLS)
def test_a_base_url_keeps_its_path_and_port(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == f"{base_url.rstrip('/')}/mj/task/{TASK_ID}/fetch"
        return reply()(request)

    SYNC.fetch(respond, base_url=base_url)
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    SYNC.fetch(respond)


# Options and the environment


def test_a_key_that_is_sent_unencrypted_warns_where_the_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match=r"goes to x\.example unencrypted") as caught:
        Midjourney(KEY, base_url="http://x.example")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="goes to a proxy unencrypted"):
        AsyncMidjourney(KEY, base_url="http://127.0.0.1:1", proxy="http://proxy.example")
    monkeypatch.setenv("http_proxy", "http://proxy.example")
    with pytest.warns(UserWarning, match="goes to a proxy unencrypted"):
        Midjourney(KEY, base_url="http://127.0.0.1:1")
    Midjourney(KEY, base_url="https://x.example")
    Midjourney(KEY, base_url="http://127.0.0.1:1", trust_env=False)


IMPOSSIBLE: list[tuple[str, Any]] = [
    *(("timeout", value) for value in (0, None, float("inf"), float("nan"), 1e300)),
    *(("max_retries", value) for value in (-1, 2.5, "2")),
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_an_impossible_timeout_or_number_of_retries_is_refused(name: str, value: Any, client: Client) -> None:
    with pytest.raises(errors.ConfigurationError, match=re.escape(f"not {value!r}")):
        client.type(KEY, **{name: value})


def test_an_unknown_option_is_a_type_error_that_lists_the_options(client: Client) -> None:
    with pytest.raises(
        TypeError, match=r"follow_redirects: the options are api_key, base_url, timeout, max_retries, cert"
    ):
        client.type(KEY, follow_redirects=True)


def test_options_reach_httpx_for_the_api_and_for_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def make(**options: Any) -> None:
        given.append(options | {"headers": dict(options["headers"])})

    monkeypatch.setattr(httpx, "Client", make)
    Midjourney(KEY, timeout=7, proxy="http://localhost:1", trust_env=False)
    downloads, api = given
    assert downloads["limits"] == httpx.Limits(max_connections=16, max_keepalive_connections=0)
    assert api["limits"] == httpx.Limits(max_connections=16, keepalive_expiry=60.0)
    assert ("auth" in downloads, "auth" in api) == (False, True)
    for options, encoding in ((downloads, "identity"), (api, "gzip")):
        assert options["headers"]["Accept-Encoding"] == encoding
        assert options["timeout"] == httpx.Timeout(7, pool=None)
        assert options.items() >= {"proxy": "http://localhost:1", "trust_env": False}.items()
    Midjourney(KEY, limits=httpx.Limits(max_connections=1))
    assert [options["limits"].max_connections for options in given[2:]] == [1, 1]


def test_options_that_httpx_refuses_are_a_configuration_error() -> None:
    wrong: Any
    for wrong in ({"proxy": "nonsense"}, {"event_hooks": {"response": len}}, {"verify": "/no/such/file"}):
        with pytest.raises(errors.ConfigurationError, match="httpx cannot use the options"):
            Midjourney(KEY, **wrong)


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("NO_PROXY", "localhost,[::1] ,x.example", "'[::1]'"),
        ("no_proxy", "10.0.0.0/8,fe80::/10", "'fe80::/10'"),
        ("https_proxy", "foo://user:secret@x", "'foo'"),
        ("ALL_PROXY", "socks://127.0.0.1:1080", "'socks'"),
        ("SSL_CERT_FILE", "/no/such/file.pem", "'/no/such/file.pem'"),
    ],
)
def test_an_unusable_variable_of_the_environment_is_named_with_its_offending_part(
    variable: str, value: str, part: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # which is in order
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        errors.ConfigurationError, match=re.escape(f"{part} in the environment variable {variable}")
    ) as caught:
        client.type(KEY)
    assert "secret" not in str(caught.value)


def test_a_socks_proxy_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(errors.ConfigurationError, match=r"'socks5' in .*all_proxy.*anyapi-midjourney\[socks\]"):
        Midjourney(KEY)


def test_proxies_of_the_environment_are_used_but_not_with_the_sandboxs_key(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(says(b'{"id":"1"}')) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.warns(UserWarning, match="unencrypted"):
            task = client.fetch(reply(), "1", transport=None, base_url="http://anyapi.invalid")
    assert task.id == "1"
    with sandbox.serve() as base_url:  # the proxy is gone
        client.fetch(reply(), transport=None, base_url=base_url, api_key=sandbox.API_KEY)


# One client, one process


def test_a_client_is_neither_pickled_nor_copied(client: Client) -> None:
    mj = client.type(KEY)
    for do in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            do(mj)
    assert repr(mj) == f"{client.type.__name__}(base_url='https://www.anyapi.vip')"


def forked(action: Callable[[], object]) -> str:
    """How an action ends in a forked process."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writing, repr(action()).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(writing, repr(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_client_used_after_a_fork_raises_in_the_child(client: Client) -> None:
    mj = client.type(KEY, transport=httpx.MockTransport(reply()))
    for method, argument in ((mj.fetch, TASK_ID), (mj.download, example()), (generated, mj)):
        assert forked(partial(client.call, method, argument)).startswith("ConfigurationError('This client was made in")
    assert client.call(mj.fetch, TASK_ID).id == TASK_ID


def test_closing_a_client_in_a_forked_child_is_silent_and_leaves_the_parents_connection_open() -> None:
    body = json.dumps(EXAMPLE).encode()
    with listening(says(body, times=2)) as base_url, Midjourney(KEY, base_url=base_url) as mj:
        mj.fetch(TASK_ID)
        assert forked(mj.close) == "None"
        assert mj.fetch(TASK_ID).id == TASK_ID
    assert forked(partial(anyio.run, AsyncMidjourney(KEY).aclose)) == "None"


def crossed(listener: socket.socket) -> None:
    """A proxy that gives each of two requests the response to the other."""
    with listener.accept()[0] as first, listener.accept()[0] as second:
        ids = [connection.recv(65536).split(b"/")[3] for connection in (first, second)]
        for connection, task_id in zip((second, first), ids, strict=True):
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"%s"}' % task_id)


@pytest.mark.parametrize("through_generated", [False, True])
def test_a_server_that_crosses_two_responses_gives_no_task(through_generated: bool, client: Client) -> None:
    def fetch(task_id: str, base_url: str) -> object:
        script = partial(generated, task_id=task_id) if through_generated else operator.methodcaller("fetch", task_id)
        return client.run(script, base_url=base_url)

    with listening(crossed, accept=False) as base_url, ThreadPoolExecutor() as pool:
        for future in [pool.submit(fetch, task_id, base_url) for task_id in "12"]:
            with pytest.raises(errors.InvalidResponseError, match="is about another task"):
                future.result()


@pytest.mark.parametrize("sent", ["", None, 7, "TASK-a"])
def test_a_missing_or_numeric_id_passes_and_case_does_not_matter(sent: object) -> None:
    body = {"status": "SUCCESS"} if sent is None else {"status": "SUCCESS", "id": sent}
    assert SYNC.fetch(reply(body), "task-A").id == str(sent or "task-A")


# Hooks


def test_hooks_see_every_response_after_it_was_read_and_none_with_the_key(client: Client) -> None:
    seen: list[str] = []

    def before(request: httpx.Request) -> None:
        seen.append(str(request.url))

    def after(response: httpx.Response) -> None:
        seen.append(response.read().decode())

    async def async_before(request: httpx.Request) -> None:
        before(request)

    async def async_after(response: httpx.Response) -> None:
        seen.append((await response.aread()).decode())

    hooks = (before, after) if client.name == "sync" else (async_before, async_after)
    with pytest.raises(errors.AuthenticationError):
        client.fetch(reply(f"wrong key {KEY}", 401), event_hooks={"request": [hooks[0]], "response": [hooks[1]]})
    assert seen == [URL, "wrong key [key]"]


def test_a_hook_may_raise_for_status(pauses: list[float]) -> None:
    hooks = {"response": [httpx.Response.raise_for_status]}
    with pytest.raises(errors.AuthenticationError):
        SYNC.fetch(reply("", 401), event_hooks=hooks, max_retries=2)
    assert pauses == []


# Retries

TRANSIENT = [raises(httpx.ReadError("reset")), reply("", 429), reply("", 503), reply("<html>"), reply('{"id": "17')]
FINAL = [reply("", 400), reply("", 401), reply({"code": 4}, 400), reply("", 204), reply([]), raises(TypeError("hook"))]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_is_retried_after_growing_pauses(fault: Server, client: Client, pauses: list[float]) -> None:
    assert client.fetch(sequence(fault, fault, reply()), max_retries=2).succeeded
    first, second = pauses
    assert 0.25 <= first <= 0.5 <= second <= 1.0
    with pytest.raises(errors.MidjourneyError):
        client.fetch(sequence(fault, fault), max_retries=1)


@pytest.mark.parametrize("fault", FINAL)
def test_a_final_error_is_not_retried(fault: Server, client: Client, pauses: list[float]) -> None:
    with pytest.raises(errors.MidjourneyError):
        client.fetch(sequence(fault), max_retries=2)
    assert pauses == []


@pytest.mark.parametrize(("asked", "least", "most"), [("7", 7, 7.5), ("0", 0.5, 1), ("3600", 30, 30), ("30", 30, 30)])
def test_retry_after_is_obeyed_up_to_half_a_minute(asked: str, least: float, most: float) -> None:
    error = errors.RateLimitError(429, {"retry-after": asked}, "")
    pauses = {Retry(1).backoff_or_raise(error) for _ in range(20)}
    assert least <= min(pauses) <= max(pauses) <= most
    assert len(pauses) > 10 or least == most  # no two clients return together


def test_pauses_grow_to_eight_seconds_and_are_longer_for_an_overloaded_gateway() -> None:
    retry, error = Retry(12), errors.ServerError(502, {}, "")
    pauses = [retry.backoff_or_raise(error) for _ in range(12)]
    assert 0.25 <= pauses[0] <= 0.5
    assert 4 <= max(pauses) <= 8
    with pytest.raises(errors.ServerError):
        retry.backoff_or_raise(error)
    overloaded = errors.ServerError(503, {}, {"error": {"code": "system_cpu_overloaded"}})
    assert 5 <= Retry(1).backoff_or_raise(overloaded) <= 6


def test_a_closed_client_says_so(client: Client, pauses: list[float]) -> None:
    mj = client.type(KEY, transport=httpx.MockTransport(reply()))
    client.call(mj.fetch, TASK_ID)
    client.close(mj)
    with pytest.raises(errors.ConfigurationError, match="closed: make a new one"):
        client.call(mj.fetch, TASK_ID)
    assert pauses == []


def test_a_key_in_the_place_of_an_id_is_not_sent(client: Client) -> None:
    for given in (KEY, KEY.removeprefix("sk-")):
        with pytest.raises(errors.ConfigurationError, match="is an API key") as caught:
            client.fetch(raises(AssertionError()), given)
        assert given not in f"{caught.value!r} {vars(caught.value)}"


# Many tasks in one request


def gateway(*, lists: list[Any], known: str = "1 2") -> tuple[httpx.MockTransport, list[str]]:
    """A gateway with these answers to the list, and tasks that are fetched singly; and what it was asked."""
    asked: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(",".join(json.loads(request.content)["ids"]))
            listed: httpx.Response = lists.pop(0)(request)
            return listed
        task_id = request.url.path.split("/")[3]
        asked.append(task_id)
        return reply({"id": task_id} if task_id in known.split() else "", 200)(request)

    return httpx.MockTransport(respond), asked


def many(client: Client, transport: httpx.MockTransport, tasks: list[Any]) -> dict[str, Task]:
    found: dict[str, Task] = client.run(lambda mj: mj.fetch_many(tasks), transport, max_retries=0)
    return found


def test_many_tasks_are_fetched_in_one_request_and_a_missing_one_singly(client: Client) -> None:
    transport, asked = gateway(lists=[reply([{"id": "1"}, {"id": "A"}, 5, {"id": "other"}])])
    found = many(client, transport, ["1", Task(id="a"), "2", "1", "unknown"])
    assert asked == ["1,a,2,unknown", "2", "unknown"]
    assert found == {"1": Task(id="1"), "a": Task(id="A"), "2": Task(id="2")}
    assert list(found) == ["1", "a", "2"]


def test_an_empty_list_is_asked_for_again_and_then_each_task_as_after_a_database_fault(client: Client) -> None:
    for second, singly in ((reply([{"id": "1"}, {"id": "2"}]), []), (reply([]), ["1", "2"])):
        transport, asked = gateway(lists=[reply([]), second])
        assert [*many(client, transport, ["1", "2"])] == ["1", "2"]
        assert asked == ["1,2", "1,2", *singly]


@pytest.mark.parametrize("absent", [reply("", 404), reply("", 405), reply("", 501), reply("<html>"), reply({"a": 1})])
def test_a_gateway_without_a_list_is_asked_for_each_task(absent: Server, client: Client) -> None:
    transport, _ = gateway(lists=[absent, absent])
    assert [*many(client, transport, ["1", "2"])] == ["1", "2"]


def test_a_refused_list_is_an_error_and_thousands_of_ids_are_several_lists(client: Client) -> None:
    transport, asked = gateway(lists=[reply("", 401)])
    with pytest.raises(errors.AuthenticationError):
        many(client, transport, ["1"])
    ids = [f"id-{number}" for number in range(1001)]
    rows = [{"id": task_id} for task_id in ids]
    large = b" " * (9 * 2**20) + json.dumps(rows[:500]).encode()  # more than one task may have
    transport, asked = gateway(lists=[reply(large), reply(rows[500:1000]), reply(rows[1000:])])
    assert [*many(client, transport, ids)] == ids
    assert len(asked) == 3


# Bodies

PLAIN = json.dumps(EXAMPLE).encode()


def packed(body: bytes, encoding: str) -> Server:
    """A body in some content encoding."""
    return lambda _: httpx.Response(200, headers={"content-encoding": encoding}, stream=Stream(body[:9], body[9:]))


@pytest.mark.parametrize("encoding", ["gzip", " GZIP ", "identity", ""])
def test_a_body_is_unpacked(encoding: str, client: Client) -> None:
    body = b"\xef\xbb\xbf" + b" " * 2**20 + PLAIN
    body = gzip.compress(body) if encoding.strip().lower() == "gzip" else body
    assert client.fetch(packed(body, encoding)).raw.to_dict() == EXAMPLE


LARGE = b" " * (9 * 2**20) + PLAIN


@pytest.mark.parametrize(
    ("body", "encoding", "text"),
    [
        (LARGE, "", "more than 8 MiB"),
        (gzip.compress(LARGE), "gzip", "more than 8 MiB"),
        (zlib.compress(PLAIN), "deflate", "Content-Encoding deflate, which was not asked for"),
        (PLAIN, "br", "Content-Encoding br, which was not asked for"),
        (gzip.compress(gzip.compress(PLAIN)), "gzip, gzip", "Content-Encoding gzip, gzip, which was not asked for"),
        (PLAIN, "gzip", "not the gzip that it is labelled as"),
        *[
            (body, "", "not a response of the task API")
            for body in (b"[" * 10**5, b'{"id":' + b"9" * 5000 + b"}", b"\xff")
        ],
        (gzip.compress(PLAIN)[:-20], "gzip", "not a response of the task API"),
    ],
)
def test_a_body_that_is_too_large_or_cannot_be_read_is_an_invalid_response(
    body: bytes, encoding: str, text: str, client: Client
) -> None:
    with pytest.raises(errors.InvalidResponseError, match=text):
        client.fetch(packed(body, encoding))


def test_an_endless_body_is_read_no_further_than_the_limit(client: Client) -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += connection.send(b" " * 2**16)

    with listening(endless) as base_url, pytest.raises(errors.InvalidResponseError, match="more than 8 MiB"):
        client.fetch(reply(), transport=None, base_url=base_url)
    assert sent < 32 * 2**20  # buffers on the way included


@pytest.mark.parametrize("charset", ["no-such-charset", "utf-16", "latin-1", "idna", "zlib", "\udc80"])
def test_a_declared_charset_is_not_believed(charset: str) -> None:
    header = f"application/json; charset={charset}".encode("utf-8", "surrogateescape")
    body = '{"prompt":"猪","id":""}'.encode()
    response = httpx.Response(200, headers=[(b"content-type", header)], stream=Stream(body))
    assert SYNC.fetch(lambda _: response).prompt == "猪"


def test_bytes_that_are_no_utf8_and_half_characters_are_replaced() -> None:
    task = SYNC.fetch(reply(b'{"id":"","prompt":"a\xff","state":"\\ud83d","failReason":"\\ud83d\\udd04"}'))
    assert (task.prompt, task.state, task.fail_reason) == ("a\ufffd", "\ufffd", "🔄")
