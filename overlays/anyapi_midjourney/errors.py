"""Everything that can go wrong, as exceptions, and the functions that tell which answer is which of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .task import Task

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

# Only those that the generated code knows; on others it raises ValueError.
_SUCCESSES = frozenset(status for status in HTTPStatus if 200 <= status < 300)


class MidjourneyError(Exception):
    """The base of every error that comes out of a request."""

    task_id: str | None
    """The id that was asked for, if the error is about one task."""

    def __init__(self, text: str = "", task_id: str | None = None) -> None:
        super().__init__(text)
        self.task_id = task_id

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [task {printable(self.task_id[:200])}]" if self.task_id and self.task_id not in text else text

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the class with `args` alone, which one that needs more does not survive.
        return type(self).__new__, (type(self),), {**vars(self), "args": self.args}


class ConfigurationError(MidjourneyError, ValueError):
    """No usable key, base URL, option or task id. Nothing was sent."""


class ButtonNotFoundError(MidjourneyError, LookupError):
    """A task has no such button, or several."""


class DownloadError(MidjourneyError):
    """The picture of a task is not to be had: it has none, its link has expired, or its address leads nowhere good."""


class APIConnectionError(MidjourneyError, ConnectionError):
    """No answer: the name did not resolve, or the connection was refused, reset or broken off, or TLS failed.

    The cause (`__cause__`) comes without its traceback: frames of the HTTP stack hold the key in their locals, and
    crash reporters show locals.
    """


class APITimeoutError(APIConnectionError, TimeoutError):
    """No answer in time."""


class APIResponseError(MidjourneyError):
    """The server answered, but not with a task."""

    _advice: ClassVar[str] = "The server refused the request, and its own words tell why."

    status_code: int
    """The HTTP status."""
    code: str | int | None
    """The server's own code, such as 4 (no such task) or "rate_limit_exceeded"."""
    message: str
    """The server's own words, in its own language; "" if it gave none. Of an HTML page, its title."""
    request_id: str | None
    """What support asks for: `X-Oneapi-Request-Id`, or the id at the end of the server's words."""
    body: Json
    """The body: an object, array, number or null if it is JSON, else its text."""
    retry_after: float | None
    """Seconds that the server asks us to wait, never negative."""

    def __init__(self, status_code: int, headers: Mapping[str, str], body: Json, advice: str = "") -> None:
        self.status_code = status_code
        self.body = body
        self.code, self.message = _words(body)
        ids = re.findall(r"\(request id: ([^\s()]+)\)", self.message)
        self.request_id = headers.get("x-oneapi-request-id") or (ids[-1] if ids else None)
        self.retry_after = _retry_after(headers)
        super().__init__(f"{said(self.message, f'HTTP {status_code}')}. {advice or self._advice}")


class AuthenticationError(APIResponseError):
    """HTTP 401: the key is refused, *or its account is empty*: the gateway answers 401 to both."""

    _advice = "The key is wrong, disabled or expired, or its account is empty: check the key and the balance."


class PermissionDeniedError(APIResponseError):
    """HTTP 403: the key is known, and may not do this."""

    _advice = (
        "The user is banned, this address is not allowed, the key is limited to certain models or groups, "
        "or a stray '-…' stands at its end: ask the vendor for another key."
    )


class TaskNotFoundError(APIResponseError):
    """No task with this id belongs to the account of this key."""

    _advice = "This key's account has no task with this id: check the id and the key."


class RateLimitError(APIResponseError):
    """HTTP 429: too many requests."""

    _advice = "Too many requests: ask less often."


class ServerError(APIResponseError):
    """HTTP 5xx, Cloudflare's 520 to 526 included: the gateway, or something before it, has a fault."""

    _advice = "The gateway or something before it has a fault: try again later."


class InvalidResponseError(APIResponseError):
    """An answer that is not this API's: HTML, not JSON, or not a task."""

    _advice = "This is no answer of the task API: the base URL is wrong, a proxy answered, or it was cut off."


_BY_STATUS: dict[int, type[APIResponseError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    429: RateLimitError,
}


class TaskError(MidjourneyError):
    """The task ended without what it was submitted for, or stands still."""

    task: Task
    """The task as it was last seen."""

    def __init__(self, text: str, task: Task) -> None:
        super().__init__(text, task.id)
        self.task = task


class TaskFailedError(TaskError):
    """FAILURE: the text begins with the reason that the server gave."""


class TaskCancelledError(TaskError):
    """CANCEL: the task was cancelled at the proxy."""


class TaskBlockedError(TaskError):
    """MODAL: the task waits for a window that somebody must answer."""


class WaitTimeoutError(MidjourneyError, TimeoutError):
    """The task was not done in time. It goes on at the server: wait again with the same id."""

    task: Task | None
    """The task as it was last seen."""
    last_error: MidjourneyError | None
    """The last fault that the wait went through."""

    def __init__(self, text: str, task: Task | None = None, last_error: MidjourneyError | None = None) -> None:
        super().__init__(text)
        self.task = task
        self.last_error = last_error


def refusal(status: int, headers: Mapping[str, str], body: Json) -> APIResponseError | None:
    """The error that an answer is, whatever was asked for; None for JSON with a status of success.

    The body is JSON, parsed, or text. Statuses and shapes decide, never words: the server speaks several languages.
    """
    error, advice = _BY_STATUS.get(status, APIResponseError), ""
    if status in _SUCCESSES:
        if status != 204 and not isinstance(body, str):
            return None
        # Empty is what the proxies behind the gateway send for an unknown id.
        error = TaskNotFoundError if status == 204 or not body else InvalidResponseError
    elif status < 500 and _says_no_such_task(body):
        error = TaskNotFoundError
    elif 300 <= status < 400:
        place = quoted(headers.get("location", "nowhere").split("?")[0])
        advice = f"It redirects to {place}, and redirects are not followed: check the base URL."
    elif status == 404 and (_error_type(body) == "invalid_request_error" or _is_html(headers, body)):
        error = InvalidResponseError
    elif status == 404:
        advice = "Nothing is there: check the base URL."
    elif 500 <= status < 600:
        error = ServerError
    elif not 400 <= status < 500:
        error = InvalidResponseError
    return error(status, headers, body, advice)


def task_fields(status: int, headers: Mapping[str, str], body: Json) -> dict[str, Json]:
    """The body of a successful answer, if it is a task; else raises what it is instead."""
    if isinstance(body, dict) and ("id" in body or "status" in body):
        return body
    raise (TaskNotFoundError if _says_no_such_task(body) else InvalidResponseError)(status, headers, body)


def task_error(task: Task) -> TaskError:
    """What a wait ends with, if the task did not succeed."""
    if task.status == "CANCEL":
        return TaskCancelledError("The task was cancelled at the proxy (CANCEL): submit it anew.", task)
    if task.status == "MODAL":
        return TaskBlockedError("The task waits for a window (MODAL): answer it with POST /mj/submit/modal.", task)
    if not task.fail_reason:
        return TaskFailedError("The task failed (FAILURE) and the server gave no reason: submit it anew.", task)
    advice = "The task failed: mend what the reason says, and submit it anew."
    return TaskFailedError(f"{said(task.fail_reason, 'FAILURE')}. {advice}", task)


def quoted(text: str) -> str:
    """A server's words in quotation marks, on one line, without what a terminal obeys, and not endless."""
    line = " ".join(printable(text[:1000]).split())
    return f'"{line[:300]}…"' if len(line) > 300 else f'"{line}"'


def printable(text: str) -> str:
    """The text on one line, with a blank for each character that a terminal may obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def said(words: str, fact: str) -> str:
    """How an error's text begins: with the server's own words, if there are any, and the fact that they came with."""
    return f"{quoted(words)} ({fact})" if words else fact


def _says_no_such_task(body: Json) -> bool:
    # Some gateways answer this with 200. True == 1, hence the check of the type.
    if not isinstance(body, dict) or "id" in body or "status" in body:
        return False
    code = body.get("code")
    return type(code) is int and code == 4


def _error_type(body: Json) -> Json:
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("type") if isinstance(error, dict) else None


def _is_html(headers: Mapping[str, str], body: Json) -> bool:
    return isinstance(body, str) and ("html" in headers.get("content-type", "").lower() or body.startswith("<"))


def _words(body: Json) -> tuple[str | int | None, str]:
    """The server's code and words, from `{"error": {"message": …}}`, `{"code": 4, "description": …}` or text."""
    if isinstance(body, str):
        title = re.search(r"<title[^<>]*>([^<]*)", body[:4000], re.IGNORECASE)
        return None, title[1].strip() if title else "" if body.startswith("<") else body[:1000].strip()
    code: str | int | None = None
    message = ""
    outer = body if isinstance(body, dict) else {}
    error = outer.get("error")
    inner = error if isinstance(error, dict) else {"message": error}
    for part in (inner, outer):
        value = part.get("code")
        if not code and isinstance(value, str | int) and not isinstance(value, bool):
            code = None if value == "" else value
        for name in ("message", "description", "msg", "detail"):
            text = part.get(name)
            if not message and isinstance(text, str):
                message = text.strip()
    return code, message


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):  # no date, or one without a zone
            return None
    return max(seconds, 0.0) if isfinite(seconds) else None
