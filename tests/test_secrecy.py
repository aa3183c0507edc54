"""The key is shown nowhere of ours and sent to its own origin only: tests search all that comes out for it."""

import json
import logging
import pickle
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from anyapi_midjourney import ConfigurationError, Midjourney, MidjourneyError, Task
from anyapi_midjourney._http import BearerAuth
from clients import EXAMPLE, KEY, ROOT, SYNC, URL, Client, example, listening, reply, says

PNG = b"\x89PNG\r\n\x1a\n" + bytes(9000)


def shown(value: object) -> Iterator[str]:
    """What a log, a debugger or a crash reporter would show of a task or an error."""
    yield from (repr(value), str(value), pickle.dumps(value).decode("latin-1"))
    if isinstance(value, Task):
        yield json.dumps([value.raw.to_dict(), value.to_dict()])
    link = value if isinstance(value, BaseException) else None
    while link is not None:
        yield from (repr(vars(link)), pickle.dumps(vars(link)).decode("latin-1"))  # as Dask pickles causes
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if not Path(frame.f_code.co_filename).is_relative_to(ROOT / "tests"):
                yield f"{frame.f_code.co_qualname} {frame.f_locals!r}"
        link = link.__cause__ or link.__context__


def check_hidden(action: Callable[[], object], expected: type = MidjourneyError) -> Any:
    """Calls a function whose result or error must not show the key, and returns it."""
    try:
        result = action()
    except Exception as error:  # noqa: BLE001
        result = error
    assert isinstance(result, expected), result
    for text in shown(result):
        assert KEY not in text
    return result


ECHOES: list[object] = [
    {"error": {"message": f"wrong key {KEY} (request id: {KEY})", "code": KEY}},
    *({"code": 4, "description": KEY}, f"<title>{KEY}</title>", f"{KEY} and no more", [KEY]),
]


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 429, 500, 522, 600])
def test_an_echoed_key_is_not_shown_by_an_error(status: int) -> None:
    for body in ECHOES:
        respond = reply(body, status, x_oneapi_request_id=KEY, retry_after=KEY, location=KEY)
        check_hidden(partial(SYNC.fetch, respond))


def test_an_echoed_key_is_replaced_before_anything_parses_the_response(client: Client) -> None:
    sent = EXAMPLE | {"prompt": f"a pig {KEY}", "state": KEY, "new": {KEY: [KEY]}}
    task = check_hidden(lambda: client.fetch(reply(sent)), Task)
    assert (task.prompt, task.state, task.raw["new"]) == ("a pig [key]", "[key]", {"[key]": ["[key]"]})
    error = check_hidden(lambda: client.fetch(reply({"error": {"message": f"无效的令牌 {KEY}"}}, 401)))
    assert str(error).startswith('"无效的令牌 [key]" (HTTP 401).')
    assert error.body == {"error": {"message": "无效的令牌 [key]"}}


def test_a_key_under_six_characters_is_not_searched_for() -> None:
    assert SYNC.fetch(reply(), api_key="pig").prompt == "pig --v 6.1"
    assert SYNC.fetch(reply(), api_key="6.1").prompt == "pig --v 6.1"
    sent = EXAMPLE | {"prompt": "a desk-test of task-test"}
    assert SYNC.fetch(reply(sent), api_key="k-test").prompt == "a des[key] of tas[key]"


def broken(response: bytes | None, connection: socket.socket) -> None:
    """A server that sends so much and hangs up; with None it resets the connection."""
    if response is None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.recv(65536)
    connection.sendall(response or b"")
    if response == SILENCE:
        connection.recv(65536)  # until the client hangs up


SILENCE = b"HTTP/1.1 200"
CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"


@pytest.mark.parametrize("response", [None, b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", SILENCE, CUT_OFF])
@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.filterwarnings("ignore:The API key goes to")
def test_a_broken_connection_shows_no_key_in_any_frame(response: bytes | None, proxied: bool, client: Client) -> None:
    with listening(partial(broken, response)) as url:
        where = {"proxy": url, "base_url": "http://anyapi.invalid"} if proxied else {"base_url": url}
        check_hidden(partial(client.fetch, reply(), transport=None, timeout=0.2, **where), ConnectionError)


def test_a_download_that_breaks_off_after_the_key_was_sent_shows_no_key(client: Client, tmp_path: Path) -> None:
    requests: list[bytes] = []

    def asks_for_the_key_and_breaks_off(listener: socket.socket) -> None:
        for response in (b"401 No\r\nContent-Length: 0\r\n\r\n", b"200 OK\r\nContent-Length: 9999\r\n\r\n" + PNG):
            with listener.accept()[0] as connection:
                requests.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 " + response)

    def download(mj: Any) -> Any:
        return mj.download(example(imageUrl="/mj/image/1"), tmp_path)

    with listening(asks_for_the_key_and_breaks_off, accept=False) as base_url:
        options: dict[str, Any] = {"base_url": base_url, "max_retries": 0}
        check_hidden(lambda: client.run(download, **options), ConnectionError)
    assert [KEY.encode() in request for request in requests] == [False, True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("x"), OSError(5, "x"), ExceptionGroup("x", [OSError()])])
def test_a_hook_that_raises_shows_no_key(error: Exception, client: Client) -> None:
    def hook(_: object) -> None:
        raise error

    async def async_hook(_: object) -> None:
        raise error

    for event in ("request", "response"):
        hooks = {event: [hook if client.name == "sync" else async_hook]}
        check_hidden(partial(client.fetch, reply(), event_hooks=hooks), ConnectionError)


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY} {KEY}", f"{KEY}é", f'"{KEY}"', f"${{{KEY}}}"])
def test_a_key_that_cannot_be_sent_is_shown_nowhere(key: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    check_hidden(lambda: client.type(key), ConfigurationError)
    monkeypatch.setenv("ANYAPI_API_KEY", key)
    check_hidden(client.type, ConfigurationError)


WRONG: list[dict[str, Any]] = [{"base_url": "x"}, {"max_retries": -1}, {"unknown": 1}, {"verify": "/no/such/file"}]


@pytest.mark.parametrize("options", WRONG)
def test_an_option_that_fails_shows_no_key(options: dict[str, Any], client: Client) -> None:
    check_hidden(lambda: client.type(KEY, **options), Exception)


def test_a_client_and_what_it_holds_show_no_key(client: Client) -> None:
    mj = client.type(KEY)
    held: list[object] = [mj, vars(mj), mj.generated, mj.generated.get_httpx_client, vars(mj._http)]
    assert KEY not in repr(held)
    secrets: tuple[object, ...] = (mj, mj.generated, BearerAuth(KEY))
    for secret in secrets:
        with pytest.raises(TypeError):
            pickle.dumps(secret)


def test_no_log_record_shows_the_key(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with listening(says(b"refused")) as base_url:
        check_hidden(lambda: client.fetch(reply(), transport=None, base_url=base_url))
    assert "/fetch" in caplog.text
    assert KEY not in caplog.text


FOREIGN = ["https://evil.example/mj", "http://www.anyapi.vip/mj", "https://www.anyapi.vip:444/", "https://anyapi.vip/"]


def test_the_key_is_sent_to_its_own_origin_only() -> None:
    signed: list[bool] = []

    def respond(request: httpx.Request) -> httpx.Response:
        signed.append("Authorization" in request.headers)
        return httpx.Response(200, json={})

    with Midjourney(KEY, transport=httpx.MockTransport(respond)) as mj:
        for url in (*FOREIGN, URL, "https://www.anyapi.vip:443/"):
            mj.generated.get_httpx_client().get(url)
    assert signed == [False] * 4 + [True] * 2
