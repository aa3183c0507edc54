"""The key is shown nowhere and sent to its own origin only: a canary is planted, and searched for in what comes out."""

import contextlib
import json
import pickle
import socket
import struct
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anyapi_midjourney import AsyncMidjourney, ConfigurationError, Midjourney, MidjourneyError, Task
from anyapi_midjourney.auth import BearerAuth
from shells import EXAMPLE, KEY, ROOT, URL, Shell, Stream, listening, reply

BARE = KEY.removeprefix("sk-")  # what the gateway looks up, and its database may complain of
HIDDEN = json.dumps(KEY)[1:-1].replace("k", "\\u006b")  # as a hostile server would escape it


def shown(value: object) -> Iterator[str]:
    """All that a log, a debugger or a crash reporter would show of a task or an error."""
    yield repr(value)
    yield str(value)
    yield pickle.dumps(value).decode("latin-1")
    if isinstance(value, Task):
        yield repr(value.raw)
        yield json.dumps(value.raw.to_dict())
    if isinstance(value, BaseException):
        yield repr(vars(value))
        link: BaseException | None = value
        while link is not None:
            for frame, _ in traceback.walk_tb(link.__traceback__):
                if not Path(frame.f_code.co_filename).is_relative_to(ROOT / "tests"):
                    yield f"{frame.f_code.co_qualname} {frame.f_locals!r}"
            yield repr(vars(link))
            with contextlib.suppress(RuntimeError):
                yield repr(link.request.headers.raw if isinstance(link, httpx.RequestError) else None)
            link = link.__cause__ or link.__context__


def outcome(shell: Shell, answer: Any, **options: Any) -> object:
    """The task or the error."""
    try:
        return shell.fetch(answer, **options)
    except MidjourneyError as error:
        return error


def breaks_off(message: str) -> Any:
    """A server that breaks off inside a body that holds the key."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stream(KEY.encode(), httpx.ReadError(message)))

    return answer


def fails(error: BaseException) -> Any:
    """A transport that fails."""

    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


def says(reason: str) -> Any:
    """A server with a reason phrase of its own."""
    return lambda _: httpx.Response(401, extensions={"reason_phrase": reason.encode()}, stream=Stream(b""))  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]


class UnshowableError(Exception):
    """An error that fails when it is shown."""

    def __str__(self) -> str:
        raise RuntimeError(KEY)


class FrozenError(Exception):
    """An error that cannot be changed."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def noted() -> Exception:
    """An error whose note, cause and context hold the key."""
    error, cause = ValueError("harmless"), ValueError("harmless")
    error.add_note(KEY)
    error.__cause__, cause.__context__ = cause, OSError(5, KEY)
    return error


ANSWERS = [
    reply(EXAMPLE | {"prompt": f"a pig {KEY}", "state": KEY, "new": {KEY: [KEY]}}),
    reply(json.dumps(EXAMPLE).replace("pig", HIDDEN)),
    *[
        reply(body, status)
        for status in (200, 204, 302, 400, 401, 403, 404, 429, 500, 522, 600)
        for body in (
            {"error": {"message": f"wrong key {KEY} (request id: {KEY})", "code": KEY}},
            {"code": 4, "description": f"Bearer {KEY}"},
            f'{{"code": 4, "description": "{HIDDEN}"}}',
            f"<title>{KEY}</title>",
            f"{KEY} and no more",
            [KEY],
            {"error": {"message": f"token key='{BARE}' not found", "code": 1}},
            f"no row for {BARE}",
        )
    ],
    reply("", 401, x_oneapi_request_id=KEY, retry_after=KEY),
    reply("", 401, **{f"x-{number}": KEY for number in range(2000)}),
    reply("", 302, location=f"https://evil.example/{KEY}?{KEY}"),
    breaks_off(f"after {KEY}"),
    says(f"Invalid {KEY}"),
    *map(
        fails,
        [
            RuntimeError(f"Illegal header value b'Bearer {KEY}'"),
            OSError(5, f"bad {KEY}"),
            ConnectionResetError(104, KEY),
            ValueError(KEY.encode()),
            ValueError({"authorization": KEY}),
            httpx.ConnectError("x", request=httpx.Request("GET", URL, headers={"Authorization": KEY})),
            ExceptionGroup("several", [ValueError(KEY)]),
            UnshowableError(),
            FrozenError(KEY),
            noted(),
        ],
    ),
]


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_an_echoed_key_is_shown_nowhere(number: int, shell: Shell) -> None:
    result = outcome(shell, ANSWERS[number])
    everything = "\n".join(shown(result))
    assert BARE not in everything


def test_an_echoed_key_is_replaced_by_a_word(shell: Shell) -> None:
    error = outcome(shell, reply({"error": {"message": f"无效的令牌 {KEY}"}}, 401))
    assert str(error).startswith('"无效的令牌 [key]" (HTTP 401).')
    assert vars(error)["body"] == {"error": {"message": "无效的令牌 [key]"}}


@pytest.mark.parametrize("key", ['sk-"quoted"\\key', "sk-/slash/", "sk-<&>-key"])
def test_a_key_that_json_escapes_is_found_too(key: str, shell: Shell) -> None:
    for body in (json.dumps({"id": key}), json.dumps({"id": key}).replace("/", "\\/").replace("<", "\\u003c")):
        task = outcome(shell, reply(body), api_key=key)
        assert isinstance(task, Task)
        assert task.id == "[key]"


def test_a_short_word_for_a_key_changes_no_task(shell: Shell) -> None:
    assert shell.fetch(reply(), api_key="pig").prompt == "pig --v 6.1"
    prompt = "a desk-test of task-test, but sk-test"
    assert shell.fetch(reply({"id": "1", "prompt": prompt}), api_key="sk-test").prompt == prompt[:-7] + "[key]"
    assert shell.fetch(reply({"id": "1", "prompt": prompt}), api_key="sk-").prompt == prompt


def test_a_key_in_the_place_of_an_id_is_not_sent(shell: Shell) -> None:
    for given in (KEY, BARE, f"Bearer {KEY}"):
        with pytest.raises(ConfigurationError, match="is an API key") as caught:
            shell.fetch(fails(AssertionError()), given)
        assert BARE not in f"{caught.value!r} {vars(caught.value)}"


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY} {KEY}", f"{KEY}é"])
@pytest.mark.parametrize("client", [Midjourney, AsyncMidjourney])
def test_a_key_that_cannot_be_sent_is_shown_nowhere(key: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MidjourneyError) as given:
        client(key)
    monkeypatch.setenv("ANYAPI_API_KEY", key)
    with pytest.raises(MidjourneyError) as found:
        client()
    assert KEY not in "".join((*shown(given.value), *shown(found.value)))


def test_a_wrong_base_url_or_option_does_not_show_the_key() -> None:
    wrong: list[dict[str, Any]] = [{"base_url": "x"}, {"retries": -1}, {"unknown": 1}, {"verify": "/no/such/file"}]
    for options in wrong:
        error: Any = None
        try:
            Midjourney(KEY, **options)
        except Exception as caught:  # noqa: BLE001
            error = caught
        frames = [f.f_locals for f, _ in traceback.walk_tb(error.__traceback__) if "tests" not in f.f_code.co_filename]
        assert KEY not in f"{error!r} {frames!r}"


def test_a_client_and_what_it_holds_show_no_key() -> None:
    for client in (Midjourney(KEY), AsyncMidjourney(KEY)):
        generated = client.generated
        assert KEY not in repr((client, vars(client), generated, generated.get_httpx_client))
        with pytest.raises(TypeError):
            pickle.dumps(generated)
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps(BearerAuth(KEY))


def test_a_broken_connection_shows_no_key_in_any_frame() -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.recv(65536)

    for name in ("sync", "asyncio", "trio"):
        with listening(reset) as base_url:
            error = outcome(Shell(name), None, transport=None, base_url=base_url)
        assert isinstance(error, ConnectionError)
        assert KEY not in "\n".join(shown(error))


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/mj", "http://www.anyapi.vip/mj", "https://www.anyapi.vip:444/mj", "https://anyapi.vip/mj"],
)
def test_the_key_is_sent_to_its_own_origin_only(url: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        signed.append("Authorization" in request.headers)
        return httpx.Response(200, json={})

    signed: list[bool] = []
    with Midjourney(KEY, transport=httpx.MockTransport(answer)) as mj:
        mj.generated.get_httpx_client().get(url)
        mj.generated.get_httpx_client().get(URL)
        mj.generated.get_httpx_client().get("https://www.anyapi.vip:443/")
    assert signed == [False, True, True]
