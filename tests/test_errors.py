"""Errors: which response is which, what they say, and what they survive."""

import copy
import pickle
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

import anyapi_midjourney
from anyapi_midjourney import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    AuthenticationError,
    ButtonNotFoundError,
    ConfigurationError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    WaitTimeoutError,
)
from anyapi_midjourney._http import BearerAuth, request_error
from anyapi_midjourney.errors import Json, error_from_response, task_fields
from clients import EXAMPLE, KEY, SYNC, TASK_ID, Client, Stream, example, raises, reply

TASK = example()
UNTRUSTED = httpx.ConnectError("self-signed")
UNTRUSTED.__cause__ = ssl.SSLCertVerificationError("self-signed")
XML = '<?xml version="1.0"?><Error><Message>Request has expired</Message></Error>'
HTML = "<!doctype html><html><head><title>New API</title></head></html>"


def error_of(status: int, body: Json, **headers: str) -> APIResponseError:
    """The error that a parsed response means."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if error := error_from_response(status, names, body):
        return error
    with pytest.raises(APIResponseError) as caught:
        task_fields(status, names, body, TASK_ID)
    assert caught.value.task_id == TASK_ID
    return caught.value


MEANINGS: list[tuple[type[APIResponseError], bool, int, list[Json]]] = [
    (InvalidResponseError, False, 200, [[], {}, None, 7, {"code": True}, {"code": "4"}, {"code": 1, "data": {}}]),
    (InvalidResponseError, True, 200, [HTML, '{"id": "17', "x"]),
    (InvalidResponseError, False, 299, [EXAMPLE]),
    (InvalidResponseError, True, 404, [HTML]),
    (InvalidResponseError, False, 404, [{"error": {"type": "invalid_request_error"}}]),
    (InvalidResponseError, True, 600, [{}, EXAMPLE]),
    (TaskNotFoundError, False, 200, ["", {"code": 4, "description": "任务不存在", "result": None}]),
    (TaskNotFoundError, False, 204, ["", EXAMPLE]),
    (TaskNotFoundError, False, 404, [{"code": 4}]),
    *((APIResponseError, False, status, list[Json](["", {}, XML])) for status in (300, 304, 400, 402, 409, 418)),
    (APIResponseError, False, 400, [{"error": {"message": "no"}}, {"code": 4, "id": "1"}]),
    (APIResponseError, False, 404, [{"error": "not found"}, XML]),
    (APIResponseError, True, 408, [""]),
    (AuthenticationError, False, 401, ["", HTML]),
    (PermissionDeniedError, False, 403, [{"error": {"message": "banned"}}, "", XML]),
    (ServerError, True, 403, [HTML]),
    (ServerError, True, 500, [{"code": 4}, HTML]),
    (ServerError, True, 522, [HTML]),
    (RateLimitError, True, 429, [{"error": {"code": "insufficient_quota"}}]),
]


@pytest.mark.parametrize(("error", "is_transient", "status", "bodies"), MEANINGS)
def test_status_and_shape_decide_which_error_it_is(
    error: type, is_transient: bool, status: int, bodies: list[Json]
) -> None:
    for body in bodies:
        found = error_of(status, body)
        assert (type(found), found.is_transient) == (error, is_transient), body


def test_a_task_with_any_status_of_success_is_no_error() -> None:
    for status in (200, 201, 202, 203, 206):
        assert error_from_response(status, {}, EXAMPLE) is None
        assert task_fields(status, {}, EXAMPLE, TASK_ID) == EXAMPLE


@pytest.mark.parametrize(
    ("body", "code", "message", "request_id"),
    [
        ({"code": 4, "description": "task_no_found ", "type": "upstream_error"}, 4, "task_no_found", None),
        ({"error": {"message": "无 (request id: 2024ab)", "code": ""}}, None, "无 (request id: 2024ab)", "2024ab"),
        ({"error": {"message": "x (request id: a) (request id: b)"}}, None, "x (request id: a) (request id: b)", "b"),
        ({"error": {"message": None, "code": "rate"}, "message": "outer"}, "rate", "outer", None),
        ({"error": "proxy_url_invalid"}, None, "proxy_url_invalid", None),
        ({"detail": "Not Found"}, None, "Not Found", None),
        ({"error": {"code": [1], "message": {}}}, None, "", None),
        (HTML, None, "New API", None),
        (XML, None, "Request has expired", None),
        ("<html>", None, "", None),
        ("Authorization header missing.", None, "Authorization header missing.", None),
        ("", None, "", None),
    ],
)
def test_every_shape_of_a_refusal_is_read(body: Json, code: object, message: str, request_id: str | None) -> None:
    error = error_of(400, body)
    assert (error.code, error.message, error.request_id) == (code, message, request_id)
    assert (error.status_code, error.body) == (400, body)
    assert str(error).startswith(f'"{message}" (HTTP 400). ' if message else "HTTP 400. ")


def test_the_request_id_of_the_header_comes_first() -> None:
    assert error_of(500, "x (request id: a)", x_oneapi_request_id="2024xyz").request_id == "2024xyz"


NOW = datetime.now(UTC).replace(microsecond=0)
LATER, EARLIER = (format_datetime(NOW + timedelta(seconds=seconds), usegmt=True) for seconds in (90, -90))
NO_DELAY = ["9" * 400, "nan", "soon", "Wed, 99 Foo 2024 00:00:00 GMT", "Wed, 21 Oct 2015 07:28:00", ""]


def test_retry_after_is_seconds_or_a_date() -> None:
    delays = {"7": 7.0, "1.5": 1.5, "-3": 0.0, LATER: 90.0, EARLIER: 0.0, **dict.fromkeys(NO_DELAY)}
    for value, seconds in delays.items():
        date = format_datetime(NOW, usegmt=True)
        assert error_of(429, "", retry_after=value, date=date).retry_after == seconds, value


def test_a_401_says_that_the_account_may_be_empty() -> None:
    text = str(error_of(401, {"error": {"message": "该令牌额度已用尽"}}))
    assert text.startswith('"该令牌额度已用尽" (HTTP 401).')
    assert "account is empty" in text


@pytest.mark.parametrize("location", ["https://evil.example/login?key=1", "http://[", "//", "http://a:99999/", ""])
def test_a_redirect_is_an_error_that_names_its_target_and_is_not_followed(location: str, client: Client) -> None:
    with pytest.raises(APIResponseError) as caught:
        client.fetch(reply("", 302, location=location))
    assert type(caught.value) is APIResponseError
    assert f'It redirects to "{location.partition("?")[0]}"' in str(caught.value)
    assert "key=1" not in str(caught.value)


def test_what_a_terminal_interprets_is_not_in_the_text() -> None:
    error = error_of(400, {"error": {"message": "a\x1b[31m\u0007\u202eb\nc"}})
    assert str(error).startswith('"a [31m b c" (HTTP 400).')


def test_a_page_made_to_be_slow_to_search_is_not_slow() -> None:
    assert error_of(502, "<title" * 10**6).message == ""
    assert len(error_of(502, f"<title>{'x' * 10**6}</title>").message) <= 4000


@pytest.mark.parametrize(
    ("cause", "error", "is_transient"),
    [
        (httpx.ConnectError("refused"), APIConnectionError, True),
        (httpx.RemoteProtocolError("half a body"), APIConnectionError, True),
        (httpx.ReadTimeout("late"), APITimeoutError, True),
        (httpx.PoolTimeout("late"), APITimeoutError, True),
        (OSError("anything"), APIConnectionError, True),
        (TimeoutError("anything"), APITimeoutError, True),
        (httpx.ProxyError("503 busy"), APIConnectionError, True),
        (httpx.ProxyError("407 Proxy Authentication Required"), APIConnectionError, False),
        (UNTRUSTED, APIConnectionError, False),
        (TypeError("a hook's"), APIConnectionError, False),
        (KeyError("a hook's"), APIConnectionError, False),
    ],
)
def test_no_response_is_a_connection_error(cause: Exception, error: type, is_transient: bool, client: Client) -> None:
    def breaks_off(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stream(b'{"id":', cause))

    for server in (raises(cause), breaks_off):
        with pytest.raises(MidjourneyError) as caught:
            client.fetch(server)
        assert (type(caught.value), caught.value.is_transient) == (error, is_transient)
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value, TimeoutError) is (error is APITimeoutError)
        assert "www.anyapi.vip" in str(caught.value)
        assert caught.value.task_id == TASK_ID
        assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (TypeError("a hook's"), "check the transport, the hooks and the event loop"),
        (UNTRUSTED, "set SSL_CERT_FILE to one that signs x.example"),
        (OSError("refused"), "check the network and the base URL"),
    ],
)
def test_a_connection_error_says_what_to_fix(cause: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = httpx.URL("https://x.example")
    assert advice in str(request_error(cause, url, None, BearerAuth(KEY)))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@localhost:1")
    text = str(request_error(OSError("refused"), url, None, BearerAuth(KEY)))
    assert "check the proxy that HTTPS_PROXY names" in text
    assert "secret" not in text


def test_an_error_whose_causes_form_a_circle_comes_out() -> None:
    first, second = KeyError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    with pytest.raises(APIConnectionError):
        SYNC.fetch(raises(first))


def test_raise_for_status_of_another_client_is_a_connection_error() -> None:
    with pytest.raises(APIConnectionError):
        SYNC.fetch(lambda request: httpx.Response(502, request=request).raise_for_status())


def test_the_text_of_an_error_names_its_task() -> None:
    with pytest.raises(ServerError, match=rf"\[task {TASK_ID}\]$"):
        SYNC.fetch(reply("", 500))


def every_error() -> Iterator[MidjourneyError]:
    """One error of each class, with all its fields set."""
    headers = {"retry-after": "7", "x-oneapi-request-id": "2024xyz"}
    for kind in map(anyapi_midjourney.__dict__.get, anyapi_midjourney.__all__):
        error: MidjourneyError
        if not (isinstance(kind, type) and issubclass(kind, MidjourneyError)):
            continue
        if issubclass(kind, APIResponseError):
            error = kind(429, headers, {"error": {"message": "slow", "code": "rate"}})
        elif issubclass(kind, TaskError):
            error = kind("a reason", TASK)
        else:
            error = kind("late", TASK, error_of(502, "")) if issubclass(kind, WaitTimeoutError) else kind("a text")
        error.task_id = TASK_ID
        yield error


@pytest.mark.parametrize("error", list(every_error()), ids=lambda error: type(error).__name__)
def test_every_error_pickles_and_copies_with_all_its_fields(error: Any) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(twin), str(twin)) == (type(error), str(error))
        assert {**vars(twin), "last_error": None} == {**vars(error), "last_error": None}  # errors have no equality
        assert str(getattr(twin, "last_error", None)) == str(getattr(error, "last_error", None))


def test_errors_are_caught_by_the_standard_names() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(ButtonNotFoundError, LookupError)
    assert issubclass(APIConnectionError, ConnectionError)
    assert issubclass(APITimeoutError, APIConnectionError)
    assert issubclass(WaitTimeoutError, TimeoutError)
    assert issubclass(TaskFailedError, TaskError)
