"""Errors: which answer is which, what they say, and what they survive."""

import copy
import pickle
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
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    Task,
    TaskFailedError,
    TaskNotFoundError,
    WaitTimeoutError,
)
from anyapi_midjourney_generated import models
from shells import EXAMPLE, TASK_ID, Shell, Stream, reply

TASK = Task.from_model(models.Task.from_dict(EXAMPLE))
HTML = "<!doctype html><html><head><title>New API</title></head></html>"


def caught(shell: Shell, answer: Any) -> Any:
    """The error that an answer gives."""
    with pytest.raises(MidjourneyError) as info:
        shell.fetch(answer)
    return info.value


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, "[]", InvalidResponseError),
        (200, "{}", InvalidResponseError),
        (200, "null", InvalidResponseError),
        (200, '"x"', InvalidResponseError),
        (200, "{", InvalidResponseError),
        (200, HTML, InvalidResponseError),
        (200, " \n", TaskNotFoundError),
        (200, '""', InvalidResponseError),
        (204, "x", TaskNotFoundError),
        (204, EXAMPLE, TaskNotFoundError),
        (200, {"code": 1, "data": {"id": "1"}}, InvalidResponseError),
        (200, {"code": 4, "description": "任务不存在", "result": None}, TaskNotFoundError),
        (200, {"code": True}, InvalidResponseError),
        (200, {"code": "4"}, InvalidResponseError),
        (299, EXAMPLE, InvalidResponseError),
        (300, "", APIResponseError),
        (304, "", APIResponseError),
        (400, {"error": {"message": "no"}}, APIResponseError),
        (400, {"code": 4, "id": "1"}, APIResponseError),
        (402, "", APIResponseError),
        (403, HTML, PermissionDeniedError),
        (404, HTML, InvalidResponseError),
        (404, {"code": 4}, TaskNotFoundError),
        (404, {"error": "not found"}, APIResponseError),
        (404, {"error": {"type": "invalid_request_error"}}, InvalidResponseError),
        (408, "", APIResponseError),
        (409, "", APIResponseError),
        (429, {"error": {"code": "insufficient_quota"}}, RateLimitError),
        (500, {"code": 4}, ServerError),
        (522, HTML, ServerError),
        (600, "", InvalidResponseError),
        (999, EXAMPLE, InvalidResponseError),
    ],
)
def test_status_and_shape_tell_the_error(status: int, body: object, error: type, shell: Shell) -> None:
    assert type(caught(shell, reply(body, status))) is error


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_a_task_with_any_status_of_success_is_one(status: int, shell: Shell) -> None:
    assert shell.fetch(reply(EXAMPLE, status)) == TASK


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
        ("<html>", None, "", None),
        ("Authorization header missing.", None, "Authorization header missing.", None),
        ("", None, "", None),
    ],
)
def test_both_shapes_of_a_refusal_are_read(
    body: object, code: object, message: str, request_id: str | None, shell: Shell
) -> None:
    error: APIResponseError = caught(shell, reply(body, 400, x="y"))
    assert (error.code, error.message, error.request_id) == (code, message, request_id)
    assert (error.status_code, error.body, error.task_id) == (400, body, TASK_ID)
    assert str(error).startswith(f'"{message}" (HTTP 400). ' if message else "HTTP 400. ")


def test_the_request_id_of_the_header_comes_first(shell: Shell) -> None:
    assert caught(shell, reply("", 500, x_oneapi_request_id="2024xyz")).request_id == "2024xyz"


NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("9" * 400, None),
        ("nan", None),
        ("soon", None),
        ("Wed, 99 Foo 2024 00:00:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None, shell: Shell) -> None:
    date = format_datetime(NOW, usegmt=True)
    assert caught(shell, reply("", 429, retry_after=value, date=date)).retry_after == seconds


def test_a_401_says_that_the_account_may_be_empty(shell: Shell) -> None:
    error = caught(shell, reply({"error": {"message": "该令牌额度已用尽"}}, 401))
    assert str(error).startswith('"该令牌额度已用尽" (HTTP 401).')
    assert "account is empty" in str(error)
    assert isinstance(error, AuthenticationError)


def test_a_redirect_names_its_host_and_is_not_followed(shell: Shell) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"location": "https://evil.example/login?key=1"})

    text = str(caught(shell, answer))
    assert "https://evil.example/login" in text
    assert "key=1" not in text
    assert asked == ["www.anyapi.vip"]


@pytest.mark.parametrize("location", ["http://[", "\x00", "//", "http://a:99999/", ""])
def test_a_redirect_to_nowhere_is_a_redirect(location: str, shell: Shell) -> None:
    assert type(caught(shell, reply("", 302, location=location))) is APIResponseError


def test_what_a_terminal_obeys_is_not_in_the_text(shell: Shell) -> None:
    error = caught(shell, reply(rb'{"error": {"message": "a\u001b[31m\u0007\u202eb\nc\ud800"}}', 400))
    assert str(error).startswith('"a [31m b c\ufffd" (HTTP 400).')


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (httpx.ConnectError("refused"), APIConnectionError),
        (httpx.ReadError("reset"), APIConnectionError),
        (httpx.RemoteProtocolError("half a body"), APIConnectionError),
        (httpx.ReadTimeout("late"), APITimeoutError),
        (httpx.PoolTimeout("late"), APITimeoutError),
        (OSError("anything"), APIConnectionError),
        (TimeoutError("anything"), APITimeoutError),
        (KeyError("anything"), APIConnectionError),
    ],
)
def test_no_answer_is_a_connection_error(cause: Exception, error: type, shell: Shell) -> None:
    def before(_: httpx.Request) -> httpx.Response:
        raise cause

    def inside(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stream(b'{"id":', cause))

    for answer in (before, inside):
        failure = caught(shell, answer)
        assert type(failure) is error
        assert isinstance(failure, ConnectionError)
        assert isinstance(failure, TimeoutError) is (error is APITimeoutError)
        assert "www.anyapi.vip" in str(failure)
        assert vars(failure)["task_id"] == TASK_ID
        assert failure.__cause__ is cause


def test_an_error_that_is_its_own_cause_comes_out(shell: Shell) -> None:
    def circle(_: httpx.Request) -> httpx.Response:
        first, second = KeyError("first"), KeyError("second")
        first.__cause__, second.__context__ = second, first
        raise first

    assert type(caught(shell, circle)) is APIConnectionError


def test_a_mistake_in_the_program_is_not_called_a_fault_of_the_network(shell: Shell, pauses: list[float]) -> None:
    def mistaken(_: httpx.Request) -> httpx.Response:
        raise TypeError("a hook's")

    with pytest.raises(APIConnectionError, match=r"no fault of the network"):
        shell.fetch(mistaken, retries=2)
    assert pauses == []


def test_a_page_made_to_be_slow_to_read_is_not(shell: Shell) -> None:
    assert caught(shell, reply("<title" * 10**6, 502)).message == ""
    assert len(caught(shell, reply(f"<title>{'x' * 10**6}</title>", 502)).message) <= 4000


def test_raise_for_status_of_another_client_is_a_connection_error(shell: Shell) -> None:
    def wrapper(request: httpx.Request) -> httpx.Response:
        return httpx.Response(502, request=request).raise_for_status()

    assert type(caught(shell, wrapper)) is APIConnectionError


def test_the_text_of_an_error_names_its_task(shell: Shell) -> None:
    assert str(caught(shell, reply("", 500))).endswith(f"[task {TASK_ID}]")


def every_error() -> list[MidjourneyError]:
    """One error of each class, with all its fields set."""
    headers = {"retry-after": "7", "x-oneapi-request-id": "2024xyz"}
    errors: list[MidjourneyError] = []
    for name in anyapi_midjourney.__all__:
        kind = getattr(anyapi_midjourney, name)
        if not isinstance(kind, type) or not issubclass(kind, MidjourneyError):
            continue
        if issubclass(kind, APIResponseError):
            errors.append(kind(429, headers, {"error": {"message": "slow", "code": "rate"}}))
        elif issubclass(kind, anyapi_midjourney.TaskError):
            errors.append(kind("a reason", TASK))
        elif issubclass(kind, WaitTimeoutError):
            errors.append(kind("late", TASK, ServerError(502, headers, "")))
        else:
            errors.append(kind("a text"))
        errors[-1].task_id = TASK_ID
    return errors


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_pickles_and_copies_with_all_its_fields(error: Any) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert {**vars(twin), "last_error": None} == {**vars(error), "last_error": None}  # errors have no equality
        if isinstance(error, WaitTimeoutError):
            assert str(twin.last_error) == str(error.last_error)


def test_errors_are_caught_by_the_standard_names() -> None:
    builtin = {type(error).__name__: type(error).__mro__ for error in every_error()}
    assert ValueError in builtin["ConfigurationError"]
    assert LookupError in builtin["ButtonNotFoundError"]
    assert ConnectionError in builtin["APIConnectionError"]
    assert TimeoutError in builtin["WaitTimeoutError"]
    assert issubclass(APITimeoutError, APIConnectionError)
    assert issubclass(TaskFailedError, anyapi_midjourney.TaskError)
