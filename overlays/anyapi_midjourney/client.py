"""The clients: two thin shells around the generated one, which differ in `await`. What decides is shared."""

from __future__ import annotations

import operator
import re
import time
from contextlib import aclosing, closing, suppress
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypedDict, TypeVar, Unpack, cast

import httpx

from anyapi_midjourney_generated import AuthenticatedClient, models
from anyapi_midjourney_generated.api.tasks import fetch_task

from .answer import Body, parsed_body, was_read
from .auth import BearerAuth, checked_base_url
from .errors import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    MidjourneyError,
    quoted,
    refusal,
    task_fields,
)
from .outcomes import AsyncOutcomes, Outcomes, pair, task_of
from .polling import DEFAULT_TIMEOUT, Memory, Retry, Wait, is_programming_error
from .task import Task

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )
    from os import PathLike
    from pathlib import Path
    from ssl import SSLContext

    import anyio

    from .download import Download
    from .errors import Json
    from .polling import Outcome

BASE_URL = "https://www.anyapi.vip"
"""The first server of the vendor's document."""

_TASK_ID = re.compile(r"(?!\.+\Z)[\w.~:-]{1,128}", re.ASCII)
_END = "anyapi_midjourney.end"
_Http = TypeVar("_Http", httpx.Client, httpx.AsyncClient)
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


class _NoCookies(CookieJar):
    def extract_cookies(self, response: object, request: object) -> None:
        """Keeps none: the API has none, and the standard library warns of some that a hostile server can send."""


class _Client(Generic[_Http]):
    """What both clients are made of. No I/O."""

    _base_url = httpx.URL()  # repr() must work even if __init__ raised
    _http: _Http
    _pictures: _Http
    """Without the key, which pictures do not need, and without hooks, which would read a picture whole."""

    def _clock(self) -> float:
        """Seconds that never go back, of the event loop if there is one."""
        raise NotImplementedError

    def __init__(
        self, auth: BearerAuth, base_url: str | None, request_timeout: float, retries: int, max_in_flight: int
    ) -> None:
        self._base_url = checked_base_url(base_url, BASE_URL)
        self._auth = auth.bind(self._base_url)
        try:
            usable = 0 < request_timeout < 10**6 and operator.index(retries) >= 0 < operator.index(max_in_flight)
        except TypeError:
            usable = False
        if not usable:
            raise ConfigurationError(
                "request_timeout is seconds above 0 and below 1e6, retries a whole number from 0 and max_in_flight one "
                f"from 1, not {request_timeout!r}, {retries!r} and {max_in_flight!r}."
            )
        self._retries = retries
        self._request_timeout = request_timeout
        self._at_once = max_in_flight
        """Looks that one wait may have under way."""
        self._memory = Memory()
        self._timeout = httpx.Timeout(request_timeout, pool=None)  # to wait one's turn is no fault of the network
        self._limits = httpx.Limits(
            max_connections=max_in_flight,
            max_keepalive_connections=max_in_flight,
            keepalive_expiry=60.0,  # httpx's 5 s would close a connection between any two looks at a task
        )
        # It shows what it holds, so it holds no key; `auth` is for the copies that its `with_headers` makes.
        self._generated = AuthenticatedClient(
            str(self._base_url),
            token="[held elsewhere]",  # noqa: S106
            httpx_args={"auth": self._auth},
            raise_on_unexpected_status=True,
        )

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
        `with_timeout` make has connections of its own, and its own errors.
        """
        return self._generated

    def _open(
        self,
        http: type[_Http],
        given: Mapping[str, Any],
        known: frozenset[str],
        read: Callable[..., object],
        judge: Callable[..., object],
    ) -> tuple[_Http, _Http]:
        """The httpx client, with the caller's options and our hooks around the caller's; and one for pictures."""
        if unknown := sorted(given.keys() - known):
            names = "api_key, base_url, request_timeout, retries, max_in_flight, " + ", ".join(sorted(known))
            raise TypeError(f"There is no option {', '.join(unknown)}, but there are {names}.")
        try:
            hooks: Mapping[str, Sequence[Callable[..., object]]] = given.get("event_hooks") or {}
            options: dict[str, Any] = {
                "limits": self._limits,
                **given,
                "event_hooks": None,
                "timeout": self._timeout,
                "cookies": _NoCookies(),
                "follow_redirects": False,
            }
            transport: object = given.get("transport")
            self._resolves = not isinstance(transport, httpx.HTTPTransport | httpx.AsyncHTTPTransport | None)
            if transport is None and given.get("verify", True) is True and not given.get("cert"):
                # One for both clients: to load the certificates takes as long as all the rest.
                options["verify"] = httpx.create_ssl_context(trust_env=given.get("trust_env", True))
            options["headers"] = {"Accept-Encoding": "identity", "User-Agent": "anyapi-midjourney"}
            pictures = http(**options)
            # Only what `Body` unpacks: httpx would ask for more where more is installed.
            options["headers"] = {**options["headers"], "Accept-Encoding": "gzip, deflate"}
            # The caller's hooks see every answer, refusals too, but none unread or with the key in it.
            options["event_hooks"] = {**hooks, "response": [read, *hooks.get("response", ()), judge]}
            return http(**options, auth=self._auth, base_url=self._base_url), pictures
        except Exception as error:
            raise ConfigurationError(
                f"httpx refuses the options, or the proxies of the environment: {error}"
            ) from error

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise ConfigurationError("This client is closed: make a new one.")

    def _check(self, task_id: str) -> None:
        self._check_open()
        given = cast("object", task_id)
        if isinstance(given, str) and self._auth.is_key(given):
            raise ConfigurationError("This is an API key, not a task id; nothing was sent.")
        # A blank one or a slash would ask the gateway for something else.
        if not isinstance(given, str) or not _TASK_ID.fullmatch(given):
            allowed = "a string of 1 to 128 of A-Z, a-z, 0-9, '_', '-', '.', '~' and ':'"
            shown = f"{given!a:.100}" if isinstance(given, str) else f"of type {type(given).__name__}"
            raise ConfigurationError(f"A task id is {allowed}, not {shown}.")

    def _judge(self, response: httpx.Response) -> None:
        """Raises for an answer that is no JSON with a status of success, before generated code sees it."""
        if error := refusal(*_answer(response)):
            raise error

    def _request(self, task_id: str) -> dict[str, Any]:
        # `sync_detailed` and `asyncio_detailed` would read the answer and parse its JSON again.
        return fetch_task._get_kwargs(task_id)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001

    def _task(self, response: httpx.Response, task_id: str) -> Task:
        task = Task.from_model(models.Task.from_dict(task_fields(*_answer(response))), task_id)
        self._memory.sightings += 1
        return task

    def _wait(self, task_ids: Iterable[str], timeout: float | None, *, changes: bool = False) -> Wait:
        return Wait(
            task_ids,
            self._memory,
            check=self._check,
            timeout=timeout,
            request_timeout=self._request_timeout,
            max_in_flight=self._at_once,
            clock=self._clock,
            changes=changes,
        )

    def _download(self, task: Task, path: str | PathLike[str] | None, overwrite: bool) -> Download:
        from .download import Download  # noqa: PLC0415  (not everybody downloads, and it takes time to load)

        self._check_open()
        return Download(task, path, overwrite=overwrite, base_url=self._base_url, redact=self._auth.redact)

    def _failure(self, error: Exception, task_id: str, host: str = "") -> MidjourneyError:
        """The `MidjourneyError` that an error of a request, to the API or a picture's host, is or becomes."""
        if isinstance(error, httpx.HTTPStatusError) and was_read(error.response):
            # The caller's hook calls `raise_for_status`.
            error = refusal(*_answer(error.response)) or error
        if not isinstance(error, MidjourneyError):
            late = _is_late(error)
            cause = self._auth.safe_cause(error)
            words = quoted(f"{type(error).__name__} {cause}") if cause else type(error).__name__
            advice = f"check the network{'' if host else ' and the base URL'}, then ask again."
            if is_programming_error(error):
                advice = "this is no fault of the network, so check the transport, the hooks and the event loop."
            where = self._auth.redact(host) or self._base_url.host
            text = f"No answer{' in time' if late else ''} from {where} ({words}): {advice}"
            error = APITimeoutError(text) if late else APIConnectionError(text)
            error.__cause__ = cause
        error.task_id = task_id
        return error


def _answer(response: httpx.Response) -> tuple[int, httpx.Headers, Json]:
    return response.status_code, response.headers, parsed_body(response)


class Midjourney(_Client[httpx.Client]):
    """Follows Midjourney tasks at AnyAPI by their ids.

    Made once and shared: it is safe in many threads, and keeps connections open until `close()` or the end of `with`.

    Args:
        api_key: The bearer token; without one, the environment variable `ANYAPI_API_KEY` is read.
        base_url: Where the API is; else `ANYAPI_BASE_URL`, else https://www.anyapi.vip. A path in it is kept.
        request_timeout: Seconds for each of connecting, sending and each read of one request.
        retries: How often `fetch` tries again after a transient fault.
        max_in_flight: How many requests may be under way at once; more wait their turn. On httpx's own transport
            more than some 32 are slower, since its pool looks at every connection for every request.
        httpx_options: Handed on to `httpx.Client`: `transport`, `proxy`, `verify`, `cert`, `limits`, `event_hooks`,
            `trust_env`, `http2`.

    Raises:
        ConfigurationError: No key, or one that cannot be sent, or an option that cannot be used.
        TypeError: An option that does not exist.

    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        request_timeout: float = 30.0,
        retries: int = 2,
        max_in_flight: int = 16,
        **httpx_options: Unpack[_SyncOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(auth, base_url, request_timeout, retries, max_in_flight)
        self._at_once = 1
        known = _SyncOptions.__optional_keys__
        self._http, self._pictures = self._open(httpx.Client, httpx_options, known, self._read, self._judge)
        self._generated.set_httpx_client(self._http)

    def fetch(self, task_id: str) -> Task:
        """The task as it stands now. A failed task is a task too: no `TaskError` is raised here.

        Transient faults (connection, 408, 429, 5xx, HTML, a body cut off) are tried again `retries` times, after pauses
        of up to 0.5, 1, 2, 4 and then 8 seconds, or what `Retry-After` asks, up to 30.

        Raises:
            ConfigurationError: The id cannot be one, or the client is closed; nothing was sent.
            AuthenticationError: The key is refused, or its account is empty.
            PermissionDeniedError: The key may not do this.
            TaskNotFoundError: The key's account has no such task.
            RateLimitError, ServerError, APIConnectionError, APITimeoutError: A transient fault that lasted.
            InvalidResponseError: The answer is none of this API's; the base URL is probably wrong.
            APIResponseError: Any other refusal.

        """
        return self._retried(lambda: self._look(task_id))

    def watch(self, task_id: str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Outcomes[Task]:
        """The task at first sight and at every change, the last one done, or blocked for 5 minutes.

        A change is one of status, progress, fail reason, buttons, or picture (without the query of its address). How it
        ended is in the last task (one in `MODAL` is blocked); what else `wait` raises is raised here too, such as
        `WaitTimeoutError`, but no `TaskError`.
        """
        return Outcomes(self._look, self._wait([task_id], timeout, changes=True), task_of)

    def wait(self, task_id: str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Task:
        """The task once it has succeeded.

        It looks at once, and then when there can be something new: the gateway refreshes its tasks every 15 s or a
        little more, and the client learns when. Transient faults are gone through, and `Retry-After` is obeyed, up to a
        minute, by the whole client.

        Args:
            task_id: The id that the submission gave.
            timeout: Seconds; None for no end, 0 for one look. The default is a little above the hour after which the
                gateway itself gives a task up. It is back at most half a second after it, unless the server sends
                headers byte by byte or a body in drops, or a name does not resolve, or several of its addresses do not
                answer: httpx does not bound these.

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
            APIConnectionError: A mistake in the program, such as a hook's; others are transient.
            ConfigurationError: No usable id or time-out, or the client is closed; nothing was sent.

        """
        return task_of(next(self.as_completed([task_id], timeout=timeout)))

    def as_completed(
        self, task_ids: Iterable[str], *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> Outcomes[tuple[str, Outcome]]:
        """Each id with its task, or with the error that `wait` would raise, as they end.

        There is one request under way at a time: for more than a hundred ids or so take `AsyncMidjourney`.

        Args:
            task_ids: Any number, drawn as there is time to ask for them. An id that comes twice has one outcome. Those
                for which no time was left have a `WaitTimeoutError`, so an iterable without end is left by `break`.
            timeout: Seconds for all of them together, from now, the time between two outcomes included.

        Raises:
            ConfigurationError: No iterable of ids, or no time-out. What the iterable raises is raised once; waiting for
                the ids that it gave goes on.

        """
        return Outcomes(self._look, self._wait(task_ids, timeout), pair)

    def download(self, task: Task, path: str | PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Saves the picture, or the video, of a task that succeeded, and returns the file.

        It comes into being whole or not at all: what arrives goes to a temporary file beside it. Transient faults are
        tried again as `fetch` does. The address is the server's, so it is followed with care: over http or https, up to
        5 redirects, none from https to http, never to a host of this machine or of a private network but the base URL's
        own, and no key is sent. A proxy, and a transport of your own, resolve names themselves. An address at
        `localhost`, because the gateway's operator did not set another, is asked for at the base URL. Event hooks see
        nothing of it.

        Args:
            task: As `wait` or `fetch` gave it.
            path: The file to write, or a folder to write it in, that is there; None is the current folder. In a folder
                the file is called by the task's id, with the ending of what it is: .png, .webp, .jpg, .mp4 …
            overwrite: Whether to replace what is there; a link is replaced itself, not what it leads to.

        Raises:
            DownloadError: The task has no picture, its link has expired (Discord's last 24 hours), its address leads
                where it may not, or what came is no picture, larger than 256 MiB or takes more than 15 minutes.
            RateLimitError, ServerError, APIConnectionError, APITimeoutError: A transient fault that lasted.
            ConfigurationError: No task, or the client is closed; nothing was sent.
            FileExistsError: The file is there, and `overwrite` is not given.
            OSError: The file cannot be written.

        """
        return self._retried(lambda: self._save(self._download(task, path, overwrite)))

    def close(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        self._http.close()
        self._pictures.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _clock(self) -> float:
        return time.monotonic()

    def _retried(self, attempt: Callable[[], _Result]) -> _Result:
        retry = Retry(self._retries)
        while True:
            try:
                return attempt()
            except MidjourneyError as error:
                pause = retry.pause(error)
            time.sleep(pause)

    def _look(self, task_id: str, allowance: Callable[[], float] | None = None) -> Task:
        self._check(task_id)
        try:
            request = self._http.build_request(**self._request(task_id))
            if allowance:
                _bound(request, allowance())
            return self._task(self._http.send(request, stream=True), task_id)  # `_read` has read it already
        except Exception as error:  # noqa: BLE001  (each transport has its own)
            failure = self._failure(error, task_id)
        raise failure  # here, so that neither its context nor this frame holds the original

    def _save(self, download: Download) -> Path:
        with download, closing(self._chunks(download)) as chunks:
            for chunk in chunks:
                download.write(chunk)
            return download.keep()

    def _chunks(self, download: Download) -> Generator[bytes]:
        """The bytes of a picture. Faults of the network are ours here; those of the disk, outside, stay OSErrors."""
        try:
            while True:
                if self._resolves:
                    download.resolve(download.host)
                request = self._pictures.build_request("GET", download.url, extensions={"trace": download.guard})
                response = self._pictures.send(request, stream=True)
                try:
                    if download.redirects(response):
                        continue
                    if response.status_code != 200:
                        self._read(response)
                        raise download.refused(*_answer(response))
                    download.begin(response.headers)
                    yield from response.iter_raw()
                    return
                finally:
                    response.close()
        except Exception as error:  # noqa: BLE001  (as above)
            failure = self._failure(error, download.task_id, download.url.host)
        raise failure

    def _read(self, response: httpx.Response) -> None:
        body, stream = Body(), cast("httpx.SyncByteStream", response.stream)
        end = response.request.extensions.get(_END)
        for chunk in stream:
            body.take(chunk)
            del chunk  # tracebacks can show locals, and a body can echo the key
            if end and time.monotonic() > end:
                raise httpx.ReadTimeout("The body takes too long.")
            if body.exceeds_limit():
                break
        stream.close()
        body.replace_in(response, self._auth)


class AsyncMidjourney(_Client[httpx.AsyncClient]):
    """`Midjourney` with `async with`, `await` and `async for`, on asyncio and trio.

    Each event loop needs a client of its own. The arguments and errors are those of `Midjourney`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        request_timeout: float = 30.0,
        retries: int = 2,
        max_in_flight: int = 16,
        **httpx_options: Unpack[_AsyncOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(auth, base_url, request_timeout, retries, max_in_flight)
        known = _AsyncOptions.__optional_keys__
        self._turns: anyio.Semaphore | None = None  # made where the event loop runs
        self._http, self._pictures = self._open(httpx.AsyncClient, httpx_options, known, self._read, self._async_judge)
        self._generated.set_async_httpx_client(self._http)

    async def fetch(self, task_id: str) -> Task:
        """`Midjourney.fetch`, awaited."""
        return await self._retried(lambda: self._look(task_id))

    def watch(self, task_id: str, *, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncOutcomes[Task]:
        """`Midjourney.watch`, for `async for`."""
        return AsyncOutcomes(self._look, self._wait([task_id], timeout, changes=True), task_of)

    async def wait(self, task_id: str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Task:  # noqa: ASYNC109
        """`Midjourney.wait`, awaited; here the time-out holds whatever the server does."""
        return task_of(await anext(self.as_completed([task_id], timeout=timeout)))

    def as_completed(
        self, task_ids: Iterable[str], *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> AsyncOutcomes[tuple[str, Outcome]]:
        """`Midjourney.as_completed`, for `async for`, with up to `max_in_flight` requests under way, for any number.

        Nothing is under way between two outcomes, so a loop may be left at any time. To draw an id must not block.
        """
        return AsyncOutcomes(self._look, self._wait(task_ids, timeout), pair)

    async def download(self, task: Task, path: str | PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """`Midjourney.download`, awaited. It does not block the event loop, and does not take turns with looks."""
        return await self._retried(lambda: self._save(self._download(task, path, overwrite)))

    async def aclose(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        await self._http.aclose()
        await self._pictures.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _clock(self) -> float:
        import anyio  # noqa: PLC0415  (it comes with httpx, which imports it only when it is needed, as we do)

        return anyio.current_time()

    async def _retried(self, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
        import anyio  # noqa: PLC0415  (as above)

        retry = Retry(self._retries)
        while True:
            try:
                return await attempt()
            except MidjourneyError as error:
                pause = retry.pause(error)
            await anyio.sleep(pause)

    async def _look(self, task_id: str, allowance: Callable[[], float] | None = None) -> Task:
        import anyio  # noqa: PLC0415  (as above)

        self._check(task_id)
        if self._turns is None:
            # Without it more would wait in httpx's pool, where each costs time for each.
            self._turns = anyio.Semaphore(self._at_once, fast_acquire=True)
        try:
            request = self._http.build_request(**self._request(task_id))
            async with self._turns:
                with anyio.fail_after(allowance() if allowance else None):
                    return self._task(await self._http.send(request, stream=True), task_id)
        except Exception as error:  # noqa: BLE001  (as above)
            failure = self._failure(error, task_id)
        raise failure

    async def _save(self, download: Download) -> Path:
        import anyio.to_thread  # noqa: PLC0415  (as above)

        with download, anyio.move_on_after(download.time_left):
            async with aclosing(self._chunks(download)) as chunks:
                async for chunk in chunks:
                    await anyio.to_thread.run_sync(download.write, chunk)
            return await anyio.to_thread.run_sync(download.keep)
        raise download.late()

    async def _chunks(self, download: Download) -> AsyncGenerator[bytes]:
        """The bytes of a picture. Faults of the network are ours here; those of the disk, outside, stay OSErrors."""
        try:
            while True:
                if self._resolves:
                    await download.async_resolve(download.host)
                request = self._pictures.build_request("GET", download.url, extensions={"trace": download.async_guard})
                response = await self._pictures.send(request, stream=True)
                chunks = response.aiter_raw()
                try:
                    if download.redirects(response):
                        continue
                    if response.status_code != 200:
                        await self._read(response)
                        raise download.refused(*_answer(response))
                    download.begin(response.headers)
                    async for chunk in chunks:
                        yield chunk
                    return
                finally:
                    await response.aclose()
                    await _end(chunks)
        except Exception as error:  # noqa: BLE001  (as above)
            failure = self._failure(error, download.task_id, download.url.host)
        raise failure

    async def _read(self, response: httpx.Response) -> None:
        body, stream = Body(), cast("httpx.AsyncByteStream", response.stream)
        chunks = aiter(stream)
        async for chunk in chunks:
            body.take(chunk)
            del chunk  # as above
            if body.exceeds_limit():
                await stream.aclose()
                await _end(chunks)
                break
        await stream.aclose()
        body.replace_in(response, self._auth)

    async def _async_judge(self, response: httpx.Response) -> None:
        self._judge(response)


async def _end(chunks: AsyncIterator[bytes]) -> None:
    """Ends the generators below a closed body: left halfway to the garbage collector, trio would warn of them."""
    with suppress(Exception):
        for _ in range(1000):  # one may not end
            await anext(chunks)


def _is_late(error: Exception) -> bool:
    cause = error.__cause__
    if isinstance(error, httpx.ConnectTimeout) and type(cause).__module__.startswith("aiohttp"):
        return isinstance(cause, TimeoutError)  # httpx-aiohttp calls every lost connection so
    return isinstance(error, httpx.TimeoutException | TimeoutError)


def _bound(request: httpx.Request, seconds: float) -> None:
    """Has a request end in time as a whole: httpx bounds only each of its steps."""
    end = request.extensions[_END] = time.monotonic() + seconds

    def clip(*_: object) -> None:
        left = max(end - time.monotonic(), 0.001)
        request.extensions["timeout"].update(connect=left, read=left, write=left, pool=left)

    clip()
    request.extensions["trace"] = clip  # httpcore calls it before each step
