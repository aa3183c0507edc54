"""What can go wrong, and which response means what."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import httpx

from ._text import as_text, format_message, printable, quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ._task import Task

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

# Only those that the generated code knows; it raises ValueError for others.
_SUCCESSES = frozenset(status for status in HTTPStatus if 200 <= status < 300)
# Errors of a transport, a hook or an event loop that come from a mistake in the program, not from the network.
_MISTAKES = (
    *(RuntimeError, TypeError, ValueError, LookupError, AttributeError),
    *(httpx.UnsupportedProtocol, httpx.LocalProtocolError),
)


class MidjourneyError(Exception):
    """The base of every error of this package."""

    task_id: str | None
    """The id that was asked for, if the error is about one task."""

    def __init__(self, text: str = "", task_id: str | None = None) -> None:
        super().__init__(text)
        self.task_id = task_id

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [task {printable(self.task_id[:200])}]" if self.task_id and self.task_id not in text else text

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the class with `args` alone, which fails for a class that needs more.
        return type(self).__new__, (type(self),), {**vars(self), "args": self.args}

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later: after a lost connection, a timeout, 408, 429, 5xx, or HTML.

        Added in 0.2.
        """
        return False


class ConfigurationError(MidjourneyError, ValueError):
    """An unusable key, base URL, option or task id. Nothing was sent."""


class ButtonNotFoundError(MidjourneyError, LookupError):
    """A task has no such button, or several."""


class DownloadError(MidjourneyError):
    """The picture could not be downloaded: the task has none, its link expired, or its URL is refused."""


class APIConnectionError(MidjourneyError, ConnectionError):
    """No response: the name did not resolve, TLS failed, or the connection was refused, reset or closed.

    The cause (`__cause__`) has no traceback: frames of the HTTP stack hold the key, and crash reporters show locals.
    """

    @property
    def is_mistake(self) -> bool:
        """Whether the program caused it, such as a hook with a TypeError, and not the network. Added in 0.2."""
        # A UnicodeError is a ValueError, and comes from a redirect to an impossible host name.
        return isinstance(self.__cause__, _MISTAKES) and not isinstance(self.__cause__, UnicodeError)

    @property
    def is_transient(self) -> bool:
        """False for mistakes in the program, an untrusted certificate and a proxy that wants a password (407)."""
        untrusted = any(isinstance(link, ssl.SSLCertVerificationError) for link in causes(self))
        refused = isinstance(self.__cause__, httpx.ProxyError) and str(self.__cause__).startswith("407")
        return not (self.is_mistake or untrusted or refused)


class APITimeoutError(APIConnectionError, TimeoutError):
    """No response in time."""


class APIResponseError(MidjourneyError):
    """The server's response is an error."""

    _advice: ClassVar[str] = "The server refused the request, and its own words tell why."

    status_code: int
    """The HTTP status."""
    code: str | int | None
    """The server's own code, such as 4 (no such task) or "rate_limit_exceeded"."""
    message: str
    """The server's own words, in its own language; "" if it gave none. Of an HTML page, its title."""
    request_id: str | None
    """What support needs: `X-Oneapi-Request-Id`, or the id at the end of the server's words."""
    body: Json
    """The body: an object, array, number or null if it is JSON, else its text."""
    retry_after: float | None
    """Seconds to wait before the next request, as the server wants it; never negative."""

    def __init__(self, status_code: int, headers: Mapping[str, str], body: Json, advice: str = "") -> None:
        self.status_code = status_code
        self.body = body
        self.code, self.message = _code_and_message(body)
        ids = re.findall(r"\(request id: ([^\s()]+)\)", self.message)
        self.request_id = headers.get("x-oneapi-request-id") or (ids[-1] if ids else None)
        self.retry_after = _retry_after(headers)
        super().__init__(f"{format_message(self.message, f'HTTP {status_code}')}. {advice or self._advice}")

    @property
    def is_transient(self) -> bool:
        """Whether the status is 408, 429 or 5xx, or it is a web page or broken JSON where this API should answer."""
        is_page = isinstance(self, ServerError) or (
            isinstance(self, InvalidResponseError) and isinstance(self.body, str)
        )
        return self.status_code in (408, 429) or self.status_code >= 500 or is_page


class AuthenticationError(APIResponseError):
    """HTTP 401: the key is refused, *or its account is empty*: the gateway answers 401 to both."""

    _advice = "The key is wrong, disabled or expired, or its account is empty: check the key and the balance."


class PermissionDeniedError(APIResponseError):
    """HTTP 403: the key is known, and may not do this."""

    _advice = (
        "The user is banned, this IP address is not allowed, the key is limited to certain models or groups, "
        "or it ends in a stray '-…': ask the vendor for another key."
    )


class TaskNotFoundError(APIResponseError):
    """No task with this id belongs to the account of this key."""

    _advice = "This key's account has no task with this id: check the id and the key."


class RateLimitError(APIResponseError):
    """HTTP 429: too many requests."""

    _advice = "Too many requests: send fewer."


class ServerError(APIResponseError):
    """HTTP 5xx, or 403 with a web page: a fault of the gateway, or of a firewall or CDN in front of it."""

    _advice = "The gateway or something in front of it has a fault: try again later."


class InvalidResponseError(APIResponseError):
    """A response that is not this API's: HTML, broken JSON, no task, or another task than the one asked for."""

    _advice = "This is not a response of the task API: the base URL is wrong, a proxy answered, or it was cut off."


class SubmissionError(MidjourneyError):
    """A submission failed. `is_transient` is False: a submission costs money each time it arrives.

    Added in 0.2, with the errors below it.
    """

    @property
    def is_transient(self) -> bool:
        """False."""
        return False


class SubmissionRefusedError(SubmissionError, APIResponseError):
    """The gateway did not take the job: nothing was submitted."""

    _advice = "Nothing was submitted: fix what the server's words say."


class PromptRejectedError(SubmissionRefusedError):
    """Code 24: the prompt has a banned word."""

    _advice = "Nothing was submitted: take the banned word out of the prompt."

    @property
    def banned_word(self) -> str | None:
        """The word, if the gateway tells."""
        properties = self.body.get("properties") if isinstance(self.body, dict) else None
        return as_text(properties.get("bannedWord")) if isinstance(properties, dict) else None


class QueueFullError(SubmissionRefusedError):
    """Codes 23 and 30: the queue of Midjourney's proxy is full."""

    _advice = "Nothing was submitted: the queue is full, so submit it again later."


class InsufficientQuotaError(SubmissionRefusedError):
    """The key's account has too little left for this job."""

    _advice = "Nothing was submitted: top up the account of this key."


class SubmissionUnconfirmedError(SubmissionError):
    """There is no clear response: **the job may have been taken and billed**. Look in the gateway's own log of tasks.

    `__cause__` is what happened. This is not a connection error, so that a retry for those does not catch it.
    """


_BY_STATUS: dict[int, type[APIResponseError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    429: RateLimitError,
}


class TaskError(MidjourneyError):
    """The task failed, was cancelled or is blocked."""

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
    """MODAL: the task waits until somebody answers its window."""


class WaitTimeoutError(MidjourneyError, TimeoutError):
    """The task was not done in time. It goes on at the server: wait again with the same id."""

    task: Task | None
    """The task as it was last seen."""
    last_error: MidjourneyError | None
    """The last error during the wait."""

    def __init__(self, text: str, task: Task | None = None, last_error: MidjourneyError | None = None) -> None:
        super().__init__(text)
        self.task = task
        self.last_error = last_error


def error_from_response(status: int, headers: Mapping[str, str], body: Json) -> APIResponseError | None:
    """The error that a response means, whatever was asked for; None for JSON with a status of success.

    The body is parsed JSON, or text. Statuses and shapes decide, never words: the server speaks several languages.
    """
    error, advice = _BY_STATUS.get(status, APIResponseError), ""
    if status in _SUCCESSES:
        if status != 204 and not isinstance(body, str):
            return None
        # The proxies behind the gateway send an empty body for an unknown id.
        error = TaskNotFoundError if status == 204 or not body else InvalidResponseError
    elif status < 500 and _says_no_such_task(body):
        error = TaskNotFoundError
    elif 300 <= status < 400:
        place = quote(headers.get("location", "nowhere").split("?")[0])
        advice = f"It redirects to {place}, and redirects are not followed: check the base URL."
    elif status == 404:
        is_api = not _is_html(headers, body) and _error_type(body) != "invalid_request_error"
        error, advice = error if is_api else InvalidResponseError, "Nothing is there: check the base URL."
    elif 500 <= status < 600 or (status == 403 and _is_html(headers, body)):
        error = ServerError
    elif not 400 <= status < 500:
        error = InvalidResponseError
    return error(status, headers, body, advice)


def task_fields(status: int, headers: Mapping[str, str], body: Json, task_id: str) -> dict[str, Json]:
    """The body of a successful response if it is a task: an object with an id or a status. Else raises its error."""
    if isinstance(body, dict) and ("id" in body or "status" in body):
        return body
    error = (TaskNotFoundError if _says_no_such_task(body) else InvalidResponseError)(status, headers, body)
    error.task_id = task_id
    raise error


def error_from_task(task: Task) -> TaskError:
    """What a wait raises if the task did not succeed."""
    if task.status == task.status.CANCEL:
        return TaskCancelledError("The task was cancelled at the proxy (CANCEL): submit it again.", task)
    if task.status == task.status.MODAL:
        text = "The task waits for somebody to answer its window (MODAL): answer it with answer_modal."
        return TaskBlockedError(text, task)
    if not task.fail_reason:
        return TaskFailedError("The task failed (FAILURE) and the server gave no reason: submit it again.", task)
    advice = "The task failed: fix what the reason says, and submit it again."
    return TaskFailedError(f"{format_message(task.fail_reason, 'FAILURE')}. {advice}", task)


def is_overload(error: MidjourneyError) -> bool:
    """Whether the gateway is overloaded, such as 503 with `system_cpu_overloaded`; it measures its load every 5 s."""
    return isinstance(error, APIResponseError) and str(error.code).endswith("_overloaded")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from, one after the other."""
    link: BaseException | None = error
    for _ in range(100):  # a chain can be a circle
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _says_no_such_task(body: Json) -> bool:
    # Some gateways say so with 200. True == 1, hence the check of the type.
    if not isinstance(body, dict) or "id" in body or "status" in body:
        return False
    code = body.get("code")
    return type(code) is int and code == 4


def _error_type(body: Json) -> Json:
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("type") if isinstance(error, dict) else None


def _is_html(headers: Mapping[str, str], body: Json) -> bool:
    # S3 and OSS refuse in XML.
    is_page = "html" in headers.get("content-type", "").lower() or re.match(r"<(?!\?xml)", str(body))
    return isinstance(body, str) and bool(is_page)


def _code_and_message(body: Json) -> tuple[str | int | None, str]:
    """The server's code and words: from `{"error": {"message": …}}`, `{"code": 4, "description": …}`, HTML or text."""
    if isinstance(body, str):
        # The title of a web page, or the message in the XML of OSS and S3.
        words = re.search(r"<(?:title|Message)\b[^<>]*>([^<]*)", body[:4000], re.IGNORECASE)
        return None, words[1].strip() if words else "" if body.startswith("<") else body[:1000].strip()
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
        except (ValueError, TypeError, IndexError, OverflowError):  # not a date, or one without a time zone
            return None
    return max(seconds, 0.0) if isfinite(seconds) else None
