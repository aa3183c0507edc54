"""The clients: two thin shells around the generated one, which differ in `await`. What decides is shared."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypedDict, Unpack, cast

import httpx

from anyapi_midjourney_generated import AuthenticatedClient, models
from anyapi_midjourney_generated.api.tasks import fetch_task

from .errors import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    MidjourneyError,
    quoted,
    refusal,
    task_fields,
)
from .polling import Retry
from .task import Task
from .wire import BODY_LIMIT, BearerAuth, Body, check_task_id, checked_base_url, data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
    from ssl import SSLContext

BASE_URL = "https://www.anyapi.vip"
"""The first server of the vendor's document."""


class _Options(TypedDict, total=False):
    proxy: httpx.URL | str | httpx.Proxy | None
    verify: SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    limits: httpx.Limits
    trust_env: bool
    http2: bool


class HTTPXOptions(_Options, total=False):
    """What `Midjourney` hands on to `httpx.Client`; httpx documents it."""

    transport: httpx.BaseTransport | None
    event_hooks: Mapping[str, Sequence[Callable[..., object]]]


class AsyncHTTPXOptions(_Options, total=False):
    """What `AsyncMidjourney` hands on to `httpx.AsyncClient`; httpx documents it."""

    transport: httpx.AsyncBaseTransport | None
    event_hooks: Mapping[str, Sequence[Callable[..., Awaitable[object]]]]


class _Client:
    """What both clients are made of. No I/O."""

    _base_url = httpx.URL()

    def __init__(
        self, auth: BearerAuth, base_url: str | None, request_timeout: float, retries: int, max_in_flight: int
    ) -> None:
        self._base_url = checked_base_url(base_url, BASE_URL)
        self._auth = auth.bind(self._base_url)
        if not request_timeout > 0 or retries < 0 or max_in_flight < 1:
            raise ConfigurationError("request_timeout is above 0 s, retries at least 0, and max_in_flight at least 1.")
        self._request_timeout = request_timeout
        self._retries = retries
        self._max_in_flight = max_in_flight
        # Its repr shows what it holds, so it holds no key; the httpx client that it is given signs the requests.
        self._generated = AuthenticatedClient(str(self._base_url), token="[held elsewhere]")  # noqa: S106

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={str(self._base_url)!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A client holds a key and connections: make one in each process instead of pickling one.")

    @property
    def generated(self) -> AuthenticatedClient:
        """The generated client, for its raw operations: the same connections, key and error classes.

        Transport errors stay httpx's there, and a 200 that is no task is not noticed.
        """
        return self._generated

    def _httpx_options(
        self, given: Mapping[str, Any], known: frozenset[str], read: Callable[..., object], judge: Callable[..., object]
    ) -> dict[str, Any]:
        if unknown := given.keys() - known:
            raise TypeError(f"Unknown options {sorted(unknown)}; httpx's that can be passed on are {sorted(known)}.")
        hooks: Mapping[str, Sequence[Callable[..., object]]] = given.get("event_hooks") or {}
        return {
            "limits": httpx.Limits(max_keepalive_connections=self._max_in_flight),
            **given,
            "base_url": self._base_url,
            "auth": self._auth,
            "timeout": self._request_timeout,
            "headers": {"Accept-Encoding": "gzip, deflate", "User-Agent": "anyapi-midjourney"},
            "follow_redirects": False,
            # The caller's hooks see every answer, refusals too, but none unread or with the key in it.
            "event_hooks": {**hooks, "response": [read, *hooks.get("response", ()), judge]},
        }

    def _judge(self, response: httpx.Response) -> None:
        """Raises for an answer that is no JSON with a status of success, before generated code sees it."""
        if error := refusal(response.status_code, response.headers, data(response)):
            raise error

    def _request(self, task_id: str) -> dict[str, Any]:
        # `sync_detailed` and `asyncio_detailed` would parse the JSON again, and take no time-out for one request.
        return fetch_task._get_kwargs(task_id)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001

    def _task(self, response: httpx.Response, task_id: str) -> Task:
        fields = task_fields(response.status_code, response.headers, data(response))
        return Task.from_model(models.Task.from_dict(fields), task_id)

    @contextmanager
    def _asking(self, task_id: str) -> Generator[None]:
        """Makes a `MidjourneyError` that names the task of whatever goes wrong inside."""
        try:
            yield
        except MidjourneyError as error:
            error.task_id = task_id
            raise
        except Exception as error:
            self._auth.strip(error)
            late = isinstance(error, httpx.TimeoutException)
            what = "No answer in time" if late else "No answer"
            said = quoted(f"{type(error).__name__} {error}")
            failure = (APITimeoutError if late else APIConnectionError)(
                f"{what} from {self._base_url.host} ({said}). Check the network and the base URL, then ask again."
            )
            failure.task_id = task_id
            raise failure from error


class Midjourney(_Client):
    """Follows Midjourney tasks at AnyAPI by their ids.

    Made once and shared: it is safe in many threads, and keeps connections open until `close()` or the end of `with`.

    Args:
        api_key: The bearer token; without one, the environment variable `ANYAPI_API_KEY` is read.
        base_url: Where the API is; else `ANYAPI_BASE_URL`, else https://www.anyapi.vip. A path in it is kept.
        request_timeout: Seconds for each of connecting, sending and each read of one request.
        retries: How often `fetch` tries again after a passing fault.
        max_in_flight: How many connections are kept open for the next requests.
        httpx_options: Handed on to `httpx.Client`; `HTTPXOptions` lists them.

    Raises:
        ConfigurationError: No key, or one that cannot be sent, or no usable base URL.
        TypeError: An option that is not in the list.

    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        request_timeout: float = 30.0,
        retries: int = 2,
        max_in_flight: int = 16,
        **httpx_options: Unpack[HTTPXOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(auth, base_url, request_timeout, retries, max_in_flight)
        known = HTTPXOptions.__optional_keys__
        self._http = httpx.Client(**self._httpx_options(httpx_options, known, self._read, self._judge))
        self._generated.set_httpx_client(self._http)

    def fetch(self, task_id: str) -> Task:
        """The task as it stands now. A failed task is a task too: no `TaskError` is raised here.

        Passing faults (connection, 408, 429, 5xx, HTML) are tried again `retries` times, after pauses of 0.5, 1, 2 …
        seconds, or what `Retry-After` asks, up to 30.

        Raises:
            ConfigurationError: The id cannot be one; nothing was sent.
            AuthenticationError: The key is refused, or its account is empty.
            PermissionDeniedError: The key may not do this.
            TaskNotFoundError: The key's account has no such task.
            RateLimitError, ServerError, APIConnectionError, APITimeoutError: A passing fault that did not pass.
            InvalidResponseError: The answer is none of this API's; the base URL is probably wrong.
            APIResponseError: Any other refusal.

        """
        check_task_id(task_id)
        retry = Retry(self._retries)
        while True:
            try:
                return self._look(task_id, self._request_timeout)
            except MidjourneyError as error:
                pause = retry.pause(error)
            time.sleep(pause)

    def close(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        self._http.close()

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _look(self, task_id: str, timeout: float) -> Task:
        with self._asking(task_id):
            request = self._http.build_request(**self._request(task_id), timeout=timeout)
            # `stream` because `_read` has read the body already.
            return self._task(self._http.send(request, stream=True), task_id)

    def _read(self, response: httpx.Response) -> None:
        body, stream = Body(), cast("httpx.SyncByteStream", response.stream)
        for chunk in stream:
            body.take(chunk)
            del chunk  # tracebacks can show locals, and a body can echo the key
            if body.exceeds():
                break
        stream.close()
        body.settle(response, self._auth)


class AsyncMidjourney(_Client):
    """`Midjourney` with `async with`, `await` and `async for`, on asyncio and trio. One event loop, one client.

    The arguments and errors are those of `Midjourney`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        request_timeout: float = 30.0,
        retries: int = 2,
        max_in_flight: int = 16,
        **httpx_options: Unpack[AsyncHTTPXOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(auth, base_url, request_timeout, retries, max_in_flight)
        known = AsyncHTTPXOptions.__optional_keys__
        self._http = httpx.AsyncClient(**self._httpx_options(httpx_options, known, self._read, self._async_judge))
        self._generated.set_async_httpx_client(self._http)

    async def fetch(self, task_id: str) -> Task:
        """`Midjourney.fetch`, awaited."""
        import anyio  # noqa: PLC0415  (a third of the time that importing this package takes)

        check_task_id(task_id)
        retry = Retry(self._retries)
        while True:
            try:
                return await self._look(task_id, self._request_timeout)
            except MidjourneyError as error:
                pause = retry.pause(error)
            await anyio.sleep(pause)

    async def aclose(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _look(self, task_id: str, timeout: float) -> Task:  # noqa: ASYNC109  (httpx's own, for one request)
        with self._asking(task_id):
            request = self._http.build_request(**self._request(task_id), timeout=timeout)
            return self._task(await self._http.send(request, stream=True), task_id)

    async def _read(self, response: httpx.Response) -> None:
        body, stream = Body(), cast("httpx.AsyncByteStream", response.stream)
        try:
            async for chunk in stream:
                body.take(chunk)
                del chunk  # as above
                if body.exceeds():
                    # Ends the generators below; a `break` leaves them to the garbage collector, of which trio warns.
                    await stream.aclose()
                if body.exceeds(2 * BODY_LIMIT):
                    break  # this one goes on all the same
        except Exception:
            if not body.exceeds():
                raise
        await stream.aclose()
        body.settle(response, self._auth)

    async def _async_judge(self, response: httpx.Response) -> None:
        self._judge(response)
