"""What the clients do, without I/O: as generators of steps, which each client carries out in its own way.

A step is a request to send, seconds to sleep, a picture to save, or several generators at once. httpx does the same
with `auth_flow`.
"""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeAlias, TypedDict, TypeVar, cast

import httpx
from attrs import define

from anyapi_midjourney_generated import AuthenticatedClient, models
from anyapi_midjourney_generated.api.tasks import fetch_task, list_tasks

from ._environment import options_error, proxy_variable, warn_if_plain
from ._http import checked_base_url, parsed_body
from ._submission import READ_TIMEOUT, Submission, press, unconfirmed
from ._task import Task, TaskAction, TaskStatus, id_of
from ._waiting import (
    LIST_ABSENT_FOR,
    LIST_SIZE,
    Batch,
    GatewayState,
    Schedule,
    Terms,
    Watch,
    backoff,
    live_rows,
)
from .errors import (
    APIResponseError,
    ConfigurationError,
    InvalidResponseError,
    MidjourneyError,
    TaskNotFoundError,
    task_fields,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
    from os import PathLike
    from pathlib import Path
    from ssl import SSLContext

    from ._button import Button
    from ._download import Download
    from ._http import BearerAuth
    from ._waiting import Row, Source

_MAX_CONNECTIONS = 16
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Result = TypeVar("Result")


class Call(NamedTuple):
    """A request to send."""

    request: httpx.Request
    seconds: float | None = None
    """Limit for the whole request. None limits only its parts."""
    task_id: str | None = None
    fresh: bool = False
    """Whether it needs a new connection."""


Step: TypeAlias = "float | list[Steps[None]] | Call | Download"
"""Sleep so many seconds, carry out several at once, send a request, or request and save a picture."""
Steps: TypeAlias = "Generator[Step, Any, Result]"


@define
class Retry:
    """How often one request may be sent again, and after what pause."""

    left: int
    _made: int = 0

    def backoff_or_raise(self, error: MidjourneyError) -> float:
        """Seconds to wait before the next try. Raises the error if it is not transient, or no retry is left.

        A `Retry-After` counts up to 30 s. Half a second of jitter keeps many clients from returning together.
        """
        if not self.left or not error.is_transient:
            raise error
        self.left -= 1
        self._made += 1
        asked = error.retry_after if isinstance(error, APIResponseError) else None
        if asked is None:
            return backoff(self._made, error, overloaded=(5.0, 6.0))  # the gateway measures its load every 5 s
        return min(max(asked, 0.5) + random.uniform(0.0, 0.5), 30.0)  # noqa: S311  (not a secret)


class Options(TypedDict, total=False):
    proxy: httpx.URL | str | httpx.Proxy | None
    verify: SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    limits: httpx.Limits
    trust_env: bool
    http2: bool


class SyncOptions(Options, total=False):
    transport: httpx.BaseTransport | None
    event_hooks: Mapping[str, Sequence[Callable[..., object]]]


class AsyncOptions(Options, total=False):
    transport: httpx.AsyncBaseTransport | None
    event_hooks: Mapping[str, Sequence[Callable[..., Awaitable[object]]]]


class Operations(Generic[Http]):
    """What both clients share."""

    _base_url = httpx.URL()  # repr() must work even if __init__ raised
    _http: Http
    _fresh: Http
    """For submissions and pictures: a new connection for each, and none of the caller's hooks.

    On a connection that the server closes meanwhile, it would not be certain whether a job arrived. A hook would read a
    picture whole.
    """

    def __init__(  # noqa: PLR0917  (both clients call it, and nobody else)
        self,
        http: type[Http],
        auth: BearerAuth,
        base_url: str | None,
        timeout: float,
        max_retries: int,
        options: Mapping[str, Any],
    ) -> None:
        if unknown := sorted(options.keys() - SyncOptions.__optional_keys__):
            names = ", ".join(["api_key, base_url, timeout, max_retries", *sorted(SyncOptions.__optional_keys__)])
            raise TypeError(f"Unknown option {', '.join(unknown)}: the options are {names}.")
        self._base_url = checked_base_url(base_url)
        self._auth = auth.bind(self._base_url)
        if not isinstance(cast("object", timeout), int | float) or not 0 < timeout < 10**6:
            raise ConfigurationError(f"timeout is seconds above 0 and below 1e6, not {timeout!r}.")
        if not isinstance(cast("object", max_retries), int) or max_retries < 0:
            raise ConfigurationError(f"max_retries is a whole number from 0, not {max_retries!r}.")
        self._timeout, self._max_retries, self._gateway = timeout, max_retries, GatewayState(self.base_url)
        # Its repr shows what it holds, so it holds no key; `auth` is for the copies that its `with_headers` makes.
        self._generated = AuthenticatedClient(
            str(self._base_url),
            token="[key]",  # noqa: S106
            httpx_args={"auth": self._auth},
            raise_on_unexpected_status=True,
        )
        self._http, self._fresh = self._open(http, options)

    def _open(self, http: type[Http], options: Mapping[str, Any]) -> tuple[Http, Http]:
        hooks: Mapping[str, Sequence[Callable[..., object]]] = options.get("event_hooks") or {}
        trust_env, transport = options.get("trust_env", True), options.get("transport")
        use_proxies = trust_env and not self._auth.is_sandbox
        proxied = options.get("proxy") or (use_proxies and not transport and proxy_variable(self._base_url))
        warn_if_plain(self._base_url, proxied)
        # httpx's own expiry would close a connection between two polls.
        limits = options.get("limits") or httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=60.0)
        shared: dict[str, Any] = {
            **options,
            "trust_env": use_proxies,
            "timeout": httpx.Timeout(self._timeout, pool=None),  # waiting for a connection is not a timeout
            "event_hooks": None,
            "headers": {"User-Agent": "anyapi-midjourney", "Accept-Encoding": "identity"},
        }
        try:
            if not transport and options.get("verify", True) is True and not options.get("cert"):
                # One for both clients: loading the certificates takes as long as all the rest.
                shared["verify"] = httpx.create_ssl_context(trust_env=trust_env)
            shared["limits"] = httpx.Limits(max_connections=limits.max_connections, max_keepalive_connections=0)
            shared["http2"] = False  # it would share a connection
            fresh = http(**shared)
            shared |= {"limits": limits, "http2": options.get("http2", False)}
            shared["headers"]["Accept-Encoding"] = "gzip"  # httpx would ask for all that is installed
            # The caller's hooks see every response, also an error, but none unread or with the key in it.
            shared["event_hooks"] = {**hooks, "response": [self._read, *hooks.get("response", ()), self._check]}
            return http(**shared, auth=self._auth, base_url=self._base_url), fresh
        except Exception as error:
            raise options_error(error) from error

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
        stay httpx's there, and a 200 without a task is not noticed. What its `with_headers`, `with_cookies` and
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

    def _terms(self, timeout: float | None, *, many: bool = False) -> Terms:
        given = cast("object", timeout)
        if given is not None and not (isinstance(given, int | float) and given >= 0):
            raise ConfigurationError(f"A timeout is seconds from 0, or None for no end, not {given!r:.100}.")
        seconds = inf if timeout is None or timeout > 1e9 else timeout
        return Terms(self._gateway, self._clock, self._id, seconds, self._timeout, many)

    def _watch(self, task: Task | str, timeout: float | None) -> Watch:
        return Watch(self._id(task), self._terms(timeout), isinstance(task, Task) and task.action == TaskAction.MODAL)

    def _request(
        self, arguments: Mapping[str, Any], until: float | None = None, task_id: str | None = None
    ) -> Steps[httpx.Response]:
        """Sends what a generated operation would send; its own `sync_detailed` parses the JSON a second time."""
        self._check_usable()
        seconds = None if until is None else max(until - self._clock(), 0.001)
        response: httpx.Response = yield Call(self._http.build_request(**arguments), seconds, task_id)
        return response

    def _row(self, task_id: str, until: float | None = None) -> Steps[Row]:
        response = yield from self._request(fetch_task._get_kwargs(task_id), until, task_id)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
        return task_fields(response.status_code, response.headers, parsed_body(response), task_id)

    def _rows(self, task_ids: Sequence[str], until: float | None = None) -> Steps[dict[str, Row]]:
        """What a list has, by id in lower case. If the gateway has no list, only the first task is there."""
        try:
            body = models.TaskCondition(list(task_ids))
            response = yield from self._request(list_tasks._get_kwargs(body=body), until)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
            if isinstance(rows := parsed_body(response), list):
                return live_rows(rows)
        except APIResponseError as error:
            if error.status_code not in (404, 405, 501) and not isinstance(error, InvalidResponseError):
                raise
        found: dict[str, Row] = {}
        with suppress(TaskNotFoundError):
            found[task_ids[0].lower()] = yield from self._row(task_ids[0], until)
        # The API answers at this moment, so it was no maintenance page.
        self._gateway.list_absent_until = self._clock() + LIST_ABSENT_FOR
        return found

    def _fetch(self, task_id: str) -> Steps[Task]:
        row = yield from self._row(task_id)
        self._gateway.task_seen_at = self._clock()
        return self._gateway.task(row, task_id)

    def _retried(
        self, attempt: Callable[[], Steps[Result]], max_retries: int | None = None, least: float = 0.0
    ) -> Steps[Result]:
        """Retries transient errors; after a response without `Retry-After` it sleeps so many seconds at least."""
        retry = Retry(self._max_retries if max_retries is None else max_retries)
        while True:
            try:
                return (yield from attempt())
            except MidjourneyError as error:
                pause = retry.backoff_or_raise(error)
                if isinstance(error, APIResponseError) and error.retry_after is None:
                    pause = max(pause, least)
            yield pause

    def _submit(self, submission: Submission) -> Steps[Task]:
        return (yield from self._retried(partial(self._submit_once, submission), least=5.0))

    def _submit_once(self, submission: Submission) -> Steps[Task]:
        self._check_usable()
        timeout = httpx.Timeout(self._timeout, read=max(self._timeout, READ_TIMEOUT), pool=None)
        try:
            request = self._http.build_request(**submission.arguments, timeout=timeout)
        except UnicodeError:
            raise ConfigurationError("A text cannot be encoded as UTF-8; nothing was sent.") from None
        try:
            response = yield Call(request, task_id=submission.parent, fresh=True)
        except MidjourneyError as error:
            failure = unconfirmed(error)
            raise failure from failure.__cause__
        return submission.task(response)

    def _press(self, task: Task | str, button: Button | str, state: str | None) -> Steps[Task]:
        return (yield from self._submit(press((yield from self._current(task)), button, state)))

    def _current(self, task: Task | str) -> Steps[Task]:
        """The task itself, or the one with this id as it is now."""
        if isinstance(task, Task):
            return task
        found = yield from self._retried(partial(self._fetch, self._id(task)))
        if found.status in (TaskStatus.ACCEPTED, TaskStatus.MODAL):  # its window may be answered: see Watch.needs_list
            rows = yield from self._retried(partial(self._rows, [task]))
            if row := rows.get(task.lower()):
                return self._gateway.task(row, task)
        return found

    def _fetch_many(self, tasks: Iterable[Task | str]) -> Steps[dict[str, Task]]:
        if isinstance(tasks, str | Task):
            raise ConfigurationError("fetch_many takes a list or another iterable of tasks or ids; fetch takes one.")
        ids, found = list(dict.fromkeys(map(self._id, tasks))), dict[str, Task]()
        for start in range(0, len(ids), LIST_SIZE):
            batch = ids[start : start + LIST_SIZE]
            rows: dict[str, Row] = {}
            if self._clock() >= self._gateway.list_absent_until:
                rows = yield from self._retried(partial(self._rows, batch))
                if not rows and len(batch) > 1:  # as after a database fault
                    rows = yield from self._retried(partial(self._rows, batch))
            for task_id in batch:
                if row := rows.get(task_id.lower()):
                    found[task_id] = self._gateway.task(row, task_id)
                else:
                    with suppress(TaskNotFoundError):
                        found[task_id] = yield from self._retried(partial(self._fetch, task_id))
        return found

    def _wait(self, watch: Watch) -> Steps[Task]:
        while watch.outcome is None:
            yield watch.pause()
            yield from self._poll(watch)
        return watch.result()

    def _until_item(self, source: Source[Any]) -> Steps[None]:
        while not source.items and (step := source.step()) is not None:
            if isinstance(step, Watch):
                yield from self._poll(step)
            elif isinstance(step, Batch):
                yield from self._poll_batch(cast("Schedule", source), step)
            else:
                yield step

    def _poll(self, watch: Watch, until: float = inf) -> Steps[None]:
        if until <= self._clock():
            return  # the others of its batch took all the time
        task_id, until = watch.task_id, watch.begin(until)
        try:
            rows = (yield from self._rows([task_id], until)) if watch.needs_list else {}
            watch.on_row(rows.get(task_id.lower()) or (yield from self._row(task_id, until)))
        except MidjourneyError as error:
            watch.on_error(error)

    def _poll_batch(self, schedule: Schedule, batch: Batch) -> Steps[None]:
        if batch.one_by_one:
            yield [self._poll(watch, batch.until) for watch in batch.watches]
            return
        until = min([watch.begin(batch.until) for watch in batch.watches])
        try:
            schedule.on_rows(batch.watches, (yield from self._rows([watch.task_id for watch in batch.watches], until)))
        except MidjourneyError as error:
            schedule.on_error(batch.watches, error)

    def _download(self, task: Task | str, path: str | PathLike[str] | None, *, overwrite: bool) -> Steps[Path]:
        from ._download import Download  # noqa: PLC0415  (not everybody downloads, and it takes time to import)

        self._check_usable()
        found = yield from self._current(task)
        # Once a window was answered, the gateway has the picture only after its next refresh.
        tries = max(self._max_retries, 8) if found.action == TaskAction.MODAL else self._max_retries

        def attempt() -> Steps[Path]:
            with Download(found, path, self._base_url, self._auth, overwrite=overwrite) as download:
                while not (yield download):
                    pass  # it was redirected
            return download.path

        return (yield from self._retried(attempt, tries))
