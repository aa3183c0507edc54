"""The clients: a method for each thing that a user can do. Both share everything but `await`."""

from __future__ import annotations

import operator
import time
from contextlib import aclosing, closing, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypedDict, TypeVar, Unpack, cast

import httpx

from anyapi_midjourney_generated import AuthenticatedClient, models
from anyapi_midjourney_generated.api.tasks import fetch_task, list_tasks

from . import _http
from ._http import BearerAuth, Body, parsed_body, raise_for_error, request_error
from ._task import Task, TaskAction, id_of
from ._waiting import (
    DEFAULT_TIMEOUT,
    Changes,
    GatewayState,
    Retry,
    Schedule,
    Terms,
    Watch,
    batches,
    live_rows,
    means_no_list,
    rows_of,
)
from .errors import (
    APIResponseError,
    ConfigurationError,
    MidjourneyError,
    TaskNotFoundError,
    error_without_task,
    is_task,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from os import PathLike
    from pathlib import Path
    from ssl import SSLContext

    from ._download import Download
    from ._waiting import Batch, Outcome, Row, Source

_MAX_CONNECTIONS = 16
_Http = TypeVar("_Http", httpx.Client, httpx.AsyncClient)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Options(TypedDict, total=False):
    proxy: httpx.URL | str | httpx.Proxy | None
    verify: SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    limits: httpx.Limits
    trust_env: bool
    http2: bool


class _SyncOptions(_Options, total=False):
    transport: httpx.BaseTransport | None
    event_hooks: Mapping[str, Sequence[Callable[..., object]]]


class _AsyncOptions(_Options, total=False):
    transport: httpx.AsyncBaseTransport | None
    event_hooks: Mapping[str, Sequence[Callable[..., Awaitable[object]]]]


class _Client(Generic[_Http]):
    """What both clients share. No I/O."""

    _base_url = httpx.URL()  # repr() must work even if __init__ raised
    _http: _Http
    _fresh: _Http
    """For pictures: with a new connection each time, and without the caller's hooks, which would read a picture whole."""

    def __init__(
        self,
        http: type[_Http],
        auth: BearerAuth,
        base_url: str | None,
        timeout: float,
        max_retries: int,
        options: Mapping[str, Any],
    ) -> None:
        if unknown := sorted(options.keys() - _SyncOptions.__optional_keys__):
            names = ", ".join(["api_key, base_url, timeout, max_retries", *sorted(_SyncOptions.__optional_keys__)])
            raise TypeError(f"Unknown option {', '.join(unknown)}: the options are {names}.")
        self._base_url = _http.checked_base_url(base_url)
        self._auth = auth.bind(self._base_url)
        try:
            usable = 0 < timeout < 10**6 and operator.index(max_retries) >= 0
        except TypeError:
            usable = False
        if not usable:
            raise ConfigurationError(
                "timeout is a number of seconds above 0 and below 1e6, and max_retries a whole number from 0, "
                f"not {timeout!r} and {max_retries!r}."
            )
        self._timeout, self._max_retries, self._gateway = timeout, max_retries, GatewayState()
        # Its repr shows what it holds, so it holds no key; `auth` is for the copies that its `with_headers` makes.
        self._generated = AuthenticatedClient(
            str(self._base_url),
            token="[key]",  # noqa: S106
            httpx_args={"auth": self._auth},
            raise_on_unexpected_status=True,
        )
        self._http, self._fresh = self._open(http, options)

    def _open(self, http: type[_Http], options: Mapping[str, Any]) -> tuple[_Http, _Http]:
        hooks: Mapping[str, Sequence[Callable[..., object]]] = options.get("event_hooks") or {}
        trust_env, transport = options.get("trust_env", True), options.get("transport")
        use_proxies = trust_env and not transport and not self._auth.is_sandbox
        _http.warn_if_plain(
            self._base_url, options.get("proxy") or (use_proxies and _http.proxy_variable(self._base_url))
        )
        # httpx's own expiry would close a connection between two polls.
        limits = options.get("limits") or httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=60.0)
        shared: dict[str, Any] = {
            **options,
            "trust_env": trust_env and (use_proxies or transport),
            "timeout": httpx.Timeout(self._timeout, pool=None),  # waiting for a connection is not a timeout
            "event_hooks": None,
            "headers": {"User-Agent": "anyapi-midjourney", "Accept-Encoding": "identity"},
        }
        try:
            if not transport and options.get("verify", True) is True and not options.get("cert"):
                # One for both clients: loading the certificates takes as long as all the rest.
                shared["verify"] = httpx.create_ssl_context(trust_env=trust_env)
            shared["limits"] = httpx.Limits(max_connections=limits.max_connections, max_keepalive_connections=0)
            fresh = http(**shared)
            shared["limits"] = limits
            shared["headers"]["Accept-Encoding"] = "gzip"  # httpx would ask for all that is installed
            # The caller's hooks see every response, also an error, but none unread or with the key in it.
            shared["event_hooks"] = {**hooks, "response": [self._read, *hooks.get("response", ()), self._check]}
            return http(**shared, auth=self._auth, base_url=self._base_url), fresh
        except Exception as error:
            raise _http.options_error(error) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={str(self._base_url)!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A client holds a key and connections: make one in each process instead of pickling one.")

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return str(self._base_url)

    @property
    def generated(self) -> AuthenticatedClient:
        """The generated client, for its raw operations over the same connections, with the same key and error classes.

        A `Midjourney` has one for `sync` functions, an `AsyncMidjourney` one for `asyncio` functions. Transport errors
        stay httpx's there, and a 200 that is no task is not noticed. What its `with_headers`, `with_cookies` and
        `with_timeout` return has connections and errors of its own.
        """
        return self._generated

    def _read(self, response: httpx.Response) -> object:
        """Reads a response, within its limit. Called by httpx before the caller's hooks."""
        raise NotImplementedError

    def _check(self, response: httpx.Response) -> object:
        """Raises the error that a response means, before generated code sees it."""
        raise NotImplementedError

    def _clock(self) -> float:
        """Seconds that never go back; the event loop's, if there is one."""
        raise NotImplementedError

    def _check_usable(self) -> None:
        self._auth.check_process()
        if self._http.is_closed:
            raise ConfigurationError("This client is closed: make a new one.")

    def _id(self, task: Task | str) -> str:
        task_id = id_of(task)
        if self._auth.is_in(task_id):
            raise ConfigurationError("This is an API key, not a task id; nothing was sent.")
        return task_id

    def _fetch_request(self, task_id: str) -> httpx.Request:
        self._check_usable()
        # `sync_detailed` and `asyncio_detailed` would parse the JSON a second time.
        return self._http.build_request(**fetch_task._get_kwargs(task_id))  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001

    def _list_request(self, task_ids: Sequence[str]) -> httpx.Request:
        self._check_usable()
        return self._http.build_request(**list_tasks._get_kwargs(body=models.TaskCondition(list(task_ids))))  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001

    def _task(self, response: httpx.Response, task_id: str) -> Task:
        body = parsed_body(response)
        if not is_task(body):
            raise error_without_task(response.status_code, response.headers, body)
        return Task.from_model(models.Task.from_dict(cast("dict[str, Any]", body)), task_id)

    def _tasks(self, rows: Iterable[Row], task_ids: Iterable[str]) -> dict[str, Task]:
        live = live_rows(rows)
        found = {task_id: live[task_id.lower()] for task_id in task_ids if task_id.lower() in live}
        return {task_id: Task.from_model(models.Task.from_dict(row)) for task_id, row in found.items()}

    def _unique(self, tasks: Iterable[Task | str]) -> dict[str, Task | None]:
        return dict.fromkeys(map(self._id, tasks))

    def _terms(self, timeout: float | None, *, many: bool = False) -> Terms:
        given = cast("object", timeout)
        if given is not None and not (isinstance(given, int | float) and given >= 0):
            raise ConfigurationError(f"A timeout is seconds from 0, or None for no end, not {given!r:.100}.")
        seconds = inf if timeout is None or timeout > 1e9 else timeout
        return Terms(self._gateway, self._clock, self._id, seconds, self._timeout, many)

    def _tries(self, task: Task) -> int:
        # Once a window was answered, the gateway has the picture after its next refresh.
        return max(self._max_retries, 8) if task.action == TaskAction.MODAL else self._max_retries

    def _download(self, task: Task, path: str | PathLike[str] | None, *, overwrite: bool) -> Download:
        from ._download import Download  # noqa: PLC0415  (not everybody downloads, and it takes time to import)

        return Download(task, path, self._base_url, overwrite=overwrite)


class Items(Generic[_Item]):
    """What `watch` and `as_completed` return: an iterator, which may be left or closed at any time."""

    def __init__(self, source: Source[_Item], poll: Callable[[Any], None]) -> None:
        self._source, self._poll = source, poll

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Item:
        source = self._source
        while not source.items and (step := source.step()) is not None:
            if isinstance(step, float):
                time.sleep(step)
            else:
                self._poll(step)
        if not source.items:
            raise StopIteration
        return source.items.popleft()

    def close(self) -> None:
        """Ends the wait: no more items come."""
        self._source.close()


class AsyncItems(Generic[_Item]):
    """`Items` for `async for`. Between two items no task runs, and no cancel scope is open."""

    def __init__(self, source: Source[_Item], poll: Callable[[Any], Awaitable[None]]) -> None:
        self._source, self._poll = source, poll
        self._awaited = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        import anyio  # noqa: PLC0415  (see `AsyncMidjourney.wait`)

        source = self._source
        if self._awaited:
            raise RuntimeError("The next item is being awaited already.")
        self._awaited = True
        try:
            while not source.items and (step := source.step()) is not None:
                await (anyio.sleep(step) if isinstance(step, float) else self._poll(step))
        finally:
            self._awaited = False
        if not source.items:
            raise StopAsyncIteration
        return source.items.popleft()

    async def aclose(self) -> None:
        """Ends the wait: no more items come."""
        self._source.close()


class Midjourney(_Client[httpx.Client]):
    """Midjourney at AnyAPI.

    Make one and share it: it is safe in many threads, and keeps connections open until `close()` or the end of `with`.
    In another process than its own, after a fork, it raises `ConfigurationError`.

    Args:
        api_key: The bearer token; without one, the environment variable `ANYAPI_API_KEY` is read.
        base_url: Where the API is; else `ANYAPI_BASE_URL`, else https://www.anyapi.vip. A path in it is kept.
        timeout: Seconds for each of connecting, sending and each read of one request.
        max_retries: How often a request is sent again after a transient error.
        httpx_options: Passed to `httpx.Client`: `transport`, `proxy`, `verify`, `cert`, `limits` (without it, at most
            16 connections), `event_hooks`, `trust_env`, `http2`.

    Raises:
        ConfigurationError: No key, or one that cannot be sent, or an unusable option.
        TypeError: An unknown option.

    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 2,
        **httpx_options: Unpack[_SyncOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(httpx.Client, auth, base_url, timeout, max_retries, httpx_options)
        self._generated.set_httpx_client(self._http)

    def fetch(self, task: Task | str) -> Task:
        """The task as it is now. A failed task is a task too: `fetch` raises no `TaskError`.

        Transient errors (connection, 408, 429, 5xx, HTML, a body that was cut off) are retried `max_retries` times,
        after up to 0.5, 1, 2, 4 and then 8 seconds, or after what `Retry-After` asks, up to 30.

        Raises:
            ConfigurationError: The id cannot be one, or the client is closed; nothing was sent.
            AuthenticationError: The key is refused, or its account is empty.
            PermissionDeniedError: The key may not do this.
            TaskNotFoundError: The key's account has no such task.
            RateLimitError, ServerError, APIConnectionError, APITimeoutError: A transient error that lasted.
            InvalidResponseError: The response is not this API's; the base URL is probably wrong.
            APIResponseError: Any other refusal.

        """
        task_id = self._id(task)
        return self._retried(lambda: self._fetch(task_id))

    def fetch_many(self, tasks: Iterable[Task | str]) -> dict[str, Task]:
        """The tasks as they are now, by id, in one request per five hundred. An unknown id is left out.

        An id that the list lacks is fetched by itself first: the gateway answers an empty list after a database fault
        (new-api's `model/midjourney.go`). It raises what `fetch` raises, but for `TaskNotFoundError`.
        """
        found = self._unique(tasks)
        for batch in batches(found):
            rows = self._retried(partial(self._rows, batch)) or self._retried(partial(self._rows, batch))
            if rows is None:  # the gateway has no list
                break
            found.update(self._tasks(rows, batch))
        for task_id in [task_id for task_id, task in found.items() if task is None]:
            with suppress(TaskNotFoundError):
                found[task_id] = self.fetch(task_id)
        return {task_id: task for task_id, task in found.items() if task}

    def watch(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Items[Task]:
        """The task at first sight and at every change, until it ends or is blocked for 5 minutes.

        A change is one of status, progress, fail reason, buttons, or picture (without the query of its URL). The last
        task shows how it ended (one in `MODAL` is blocked). What else `wait` raises is raised here too, such as
        `WaitTimeoutError`, but no `TaskError`.
        """
        return Items(Changes(Watch(self._id(task), self._terms(timeout))), self._poll)

    def wait(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Task:
        """The task once it has succeeded.

        It polls at once, and then when the gateway can have something new: it refreshes its tasks every 15 s or a
        little more, and the client learns when. Transient errors are retried until the timeout, and `Retry-After`
        pauses the whole client, up to a minute each time.

        Args:
            task: A task, or the id that the submission gave.
            timeout: Seconds; None for no end, 0 for one poll. The default is a little above the hour after which the
                gateway itself gives up. The call returns at most half a second later, unless the server sends headers
                byte by byte, or name servers or several addresses do not answer: httpx does not bound these.

        Raises:
            TaskFailedError: FAILURE; its text begins with the server's reason.
            TaskCancelledError: CANCEL.
            TaskBlockedError: MODAL for 5 minutes: a window waits for somebody's answer.
            WaitTimeoutError: Not done in time; it has the task as last seen. Waiting can go on with the same id.
            AuthenticationError: Two refusals in a row.
            PermissionDeniedError: The key may not do this.
            TaskNotFoundError: Two in a row, and this client has not seen a task before, or has seen another meanwhile;
                or for 5 minutes. Not of a task that was there before.
            InvalidResponseError, APIResponseError: Three in a row, and this client has not seen a task before.
            APIConnectionError: A mistake in the program, such as a hook's; or, three times in a row if this client has
                not seen a task before, an untrusted certificate or a proxy that wants a password.
            ConfigurationError: An unusable id or timeout, or the client is closed; nothing was sent.

        """
        watch = Watch(self._id(task), self._terms(timeout))
        while watch.outcome is None:
            time.sleep(watch.pause())
            self._poll(watch)
        return watch.result()

    def as_completed(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        on_change: Callable[[Task], object] | None = None,
    ) -> Items[tuple[str, Outcome]]:
        """Each id with its task, or with the error that `wait` would raise, in the order in which they end.

        Tasks are polled together, up to 500 in one request, so thousands cost little more than one.

        Args:
            tasks: Tasks or ids. An id that comes twice has one outcome.
            timeout: Seconds for all of them together, from now, including the time between two outcomes.
            on_change: Called with a task at first sight and at each change, before its outcome is given.

        Raises:
            ConfigurationError: Not an iterable of tasks or ids, or not a timeout. An id that cannot be one has this error
                for its outcome.

        """
        schedule = Schedule(tasks, self._terms(timeout, many=True), on_change)
        return Items(schedule, partial(self._poll_batch, schedule))

    def download(self, task: Task | str, path: str | PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Saves the picture, or the video, of a task that succeeded, and returns the file's path.

        The file is whole or not there: the picture first goes to a temporary file beside it. Transient errors are
        retried as by `fetch`. The URL comes from the server, so it is not trusted: http or https, at most 5 redirects,
        none from https to http. Private and loopback addresses are refused, but for the base URL's own host; a proxy and
        a transport of your own must see to that themselves. `localhost` is taken for the base URL, since operators leave
        that default in place. The key is sent to the base URL's origin only, and only after a 401. Event hooks see
        nothing of it.

        Args:
            task: The task, or its id, which is fetched first.
            path: The file to write, or an existing folder; None is the current folder. In a folder the file is called
                by the task's id, with the ending of its type: .png, .webp, .jpg, .mp4 …
            overwrite: Whether to replace an existing file. A link is replaced itself, not what it leads to.

        Raises:
            DownloadError: The task has no picture, its link has expired (Discord's last 24 hours), its URL is refused,
                or the response is not a picture, or larger than 256 MiB.
            RateLimitError, ServerError, APIConnectionError, APITimeoutError: A transient error that lasted.
            ConfigurationError: Not a task or id, or the client is closed; nothing was sent.
            FileExistsError: The file exists, and `overwrite` is not given.
            OSError: The file cannot be written.

        """
        self._check_usable()
        found = task if isinstance(task, Task) else self.fetch(task)
        return self._retried(lambda: self._save(self._download(found, path, overwrite=overwrite)), self._tries(found))

    def close(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        if self._auth.is_own_process:
            self._http.close()
            self._fresh.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _clock(self) -> float:
        return time.monotonic()

    def _retried(self, attempt: Callable[[], _Result], max_retries: int | None = None) -> _Result:
        retry = Retry(self._max_retries if max_retries is None else max_retries)
        while True:
            try:
                return attempt()
            except MidjourneyError as error:
                pause = retry.backoff_or_raise(error)
            time.sleep(pause)

    def _fetch(self, task_id: str, seconds: float | None = None) -> Task:
        return self._task(self._send(self._fetch_request(task_id), seconds, task_id), task_id)

    def _rows(self, task_ids: Sequence[str], seconds: float | None = None) -> list[Row] | None:
        try:
            return rows_of(parsed_body(self._send(self._list_request(task_ids), seconds)))
        except APIResponseError as error:
            if means_no_list(error):
                return None
            raise

    def _send(self, request: httpx.Request, seconds: float | None, task_id: str | None = None) -> httpx.Response:
        try:
            if seconds is not None:
                _http.limit_duration(request, seconds)
            return self._http.send(request, stream=True)  # `_read` has read it already
        except Exception as error:  # noqa: BLE001  (each transport has its own)
            failure = request_error(error, request.url, task_id)
        raise failure from failure.__cause__

    def _poll(self, watch: Watch, until: float = inf) -> None:
        seconds = watch.begin(until)
        try:
            rows = self._rows([watch.task_id], seconds) if watch.needs_list else []
            row = live_rows(rows or ()).get(watch.task_id.lower())
            task = None if row else self._fetch(watch.task_id, seconds)
        except MidjourneyError as error:
            watch.on_error(error)
        else:
            watch.on_response(row, task, without_list=rows is None)

    def _poll_batch(self, schedule: Schedule, batch: Batch) -> None:
        if batch.one_by_one:
            for watch in batch.watches:
                self._poll(watch, batch.until)
            return
        try:
            rows = self._rows(batch.task_ids, batch.begin())
        except MidjourneyError as error:
            schedule.on_error(batch.watches, error)
        else:
            schedule.on_rows(batch, rows)

    def _save(self, download: Download) -> Path:
        try:
            with download:
                while True:
                    request = self._fresh.build_request("GET", download.url, extensions={"trace": download.trace})
                    auth = self._auth if download.signed else None
                    with closing(self._fresh.send(request, stream=True, auth=auth)) as response:
                        if download.follow(response):
                            continue
                        if response.status_code != 200:
                            self._read(response)
                            raise download.refusal(response, parsed_body(response))
                        download.begin(response.headers)
                        for chunk in response.iter_raw():
                            download.write(chunk)
                        return download.finish()
        except (httpx.HTTPError, httpx.InvalidURL, MidjourneyError) as error:  # an OSError is the disk's
            failure = request_error(error, download.url, download.task_id)
        raise failure from failure.__cause__

    def _read(self, response: httpx.Response) -> None:
        body = Body(response)
        with closing(cast("httpx.SyncByteStream", response.stream)) as stream:
            for chunk in stream:
                if not body.add(chunk):
                    break
        body.finish(self._auth)

    def _check(self, response: httpx.Response) -> None:
        raise_for_error(response)


class AsyncMidjourney(_Client[httpx.AsyncClient]):
    """`Midjourney` with `async with`, `await` and `async for`, on asyncio and trio.

    Each event loop needs a client of its own. The arguments and errors are those of `Midjourney`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 2,
        **httpx_options: Unpack[_AsyncOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(httpx.AsyncClient, auth, base_url, timeout, max_retries, httpx_options)
        self._generated.set_async_httpx_client(self._http)

    async def fetch(self, task: Task | str) -> Task:
        """`Midjourney.fetch`, awaited."""
        task_id = self._id(task)
        return await self._retried(lambda: self._fetch(task_id))

    async def fetch_many(self, tasks: Iterable[Task | str]) -> dict[str, Task]:
        """`Midjourney.fetch_many`, awaited."""
        found = self._unique(tasks)
        for batch in batches(found):
            rows = await self._retried(partial(self._rows, batch)) or await self._retried(partial(self._rows, batch))
            if rows is None:  # the gateway has no list
                break
            found.update(self._tasks(rows, batch))
        for task_id in [task_id for task_id, task in found.items() if task is None]:
            with suppress(TaskNotFoundError):
                found[task_id] = await self.fetch(task_id)
        return {task_id: task for task_id, task in found.items() if task}

    def watch(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncItems[Task]:
        """`Midjourney.watch`, for `async for`."""
        return AsyncItems(Changes(Watch(self._id(task), self._terms(timeout))), self._poll)

    async def wait(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Task:  # noqa: ASYNC109
        """`Midjourney.wait`, awaited; here the timeout holds whatever the server does."""
        import anyio  # noqa: PLC0415  (httpx, which brings it, also imports it only when it is needed)

        watch = Watch(self._id(task), self._terms(timeout))
        while watch.outcome is None:
            await anyio.sleep(watch.pause())
            await self._poll(watch)
        return watch.result()

    def as_completed(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        on_change: Callable[[Task], object] | None = None,
    ) -> AsyncItems[tuple[str, Outcome]]:
        """`Midjourney.as_completed`, for `async for`.

        Nothing runs between two outcomes, so a loop may be left at any time, and a cancelled `anext` repeated.
        """
        schedule = Schedule(tasks, self._terms(timeout, many=True), on_change)
        return AsyncItems(schedule, partial(self._poll_batch, schedule))

    async def download(
        self, task: Task | str, path: str | PathLike[str] | None = None, *, overwrite: bool = False
    ) -> Path:
        """`Midjourney.download`, awaited. Threads write the file, so the event loop is not blocked."""
        self._check_usable()
        found = task if isinstance(task, Task) else await self.fetch(task)
        tries = self._tries(found)
        return await self._retried(lambda: self._save(self._download(found, path, overwrite=overwrite)), tries)

    async def aclose(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        if self._auth.is_own_process:
            await self._http.aclose()
            await self._fresh.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _clock(self) -> float:
        import anyio  # noqa: PLC0415  (see `wait`)

        return anyio.current_time()

    async def _retried(self, attempt: Callable[[], Awaitable[_Result]], max_retries: int | None = None) -> _Result:
        import anyio  # noqa: PLC0415  (see `wait`)

        retry = Retry(self._max_retries if max_retries is None else max_retries)
        while True:
            try:
                return await attempt()
            except MidjourneyError as error:
                pause = retry.backoff_or_raise(error)
            await anyio.sleep(pause)

    async def _fetch(self, task_id: str, seconds: float | None = None) -> Task:
        return self._task(await self._send(self._fetch_request(task_id), seconds, task_id), task_id)

    async def _rows(self, task_ids: Sequence[str], seconds: float | None = None) -> list[Row] | None:
        try:
            return rows_of(parsed_body(await self._send(self._list_request(task_ids), seconds)))
        except APIResponseError as error:
            if means_no_list(error):
                return None
            raise

    async def _send(self, request: httpx.Request, seconds: float | None, task_id: str | None = None) -> httpx.Response:
        import anyio  # noqa: PLC0415  (see `wait`)

        try:
            with anyio.fail_after(seconds):
                return await self._http.send(request, stream=True)  # `_read` has read it already
        except Exception as error:  # noqa: BLE001  (each transport has its own)
            failure = request_error(error, request.url, task_id)
        raise failure from failure.__cause__

    async def _poll(self, watch: Watch, until: float = inf) -> None:
        seconds = watch.begin(until)
        try:
            rows = await self._rows([watch.task_id], seconds) if watch.needs_list else []
            row = live_rows(rows or ()).get(watch.task_id.lower())
            task = None if row else await self._fetch(watch.task_id, seconds)
        except MidjourneyError as error:
            watch.on_error(error)
        else:
            watch.on_response(row, task, without_list=rows is None)

    async def _poll_batch(self, schedule: Schedule, batch: Batch) -> None:
        import anyio  # noqa: PLC0415  (see `wait`)

        if batch.one_by_one:
            async with anyio.create_task_group() as group:
                for watch in batch.watches:
                    group.start_soon(self._poll, watch, batch.until)
            return
        try:
            rows = await self._rows(batch.task_ids, batch.begin())
        except MidjourneyError as error:
            schedule.on_error(batch.watches, error)
        else:
            schedule.on_rows(batch, rows)

    async def _save(self, download: Download) -> Path:
        from anyio.to_thread import run_sync  # noqa: PLC0415  (see `wait`)

        try:
            with download:
                while True:
                    request = self._fresh.build_request("GET", download.url, extensions={"trace": download.async_trace})
                    auth = self._auth if download.signed else None
                    async with aclosing(await self._fresh.send(request, stream=True, auth=auth)) as response:
                        if download.follow(response):
                            continue
                        if response.status_code != 200:
                            await self._read(response)
                            raise download.refusal(response, parsed_body(response))
                        download.begin(response.headers)
                        async for chunk in response.aiter_raw():
                            await run_sync(download.write, chunk)
                        return await run_sync(download.finish)
        except (httpx.HTTPError, httpx.InvalidURL, MidjourneyError) as error:  # an OSError is the disk's
            failure = request_error(error, download.url, download.task_id)
        raise failure from failure.__cause__

    async def _read(self, response: httpx.Response) -> None:
        body = Body(response)
        async with aclosing(cast("httpx.AsyncByteStream", response.stream)) as stream:
            async for chunk in stream:
                if not body.add(chunk):
                    break
        body.finish(self._auth)

    async def _check(self, response: httpx.Response) -> None:
        raise_for_error(response)
