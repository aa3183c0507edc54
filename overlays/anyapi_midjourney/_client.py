"""The clients: a method for each thing that a user can do."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, Self, TypeVar, Unpack, cast

import httpx

from . import _submission
from ._http import BearerAuth, Body, limit_duration, parsed_body, raise_for_error, request_error
from ._operations import AsyncOptions, Call, Operations, SyncOptions
from ._waiting import DEFAULT_TIMEOUT, Changes, Schedule
from .errors import MidjourneyError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from os import PathLike
    from pathlib import Path

    from ._button import Button
    from ._download import Download
    from ._operations import Result, Step, Steps
    from ._submission import Image
    from ._task import Task
    from ._waiting import Outcome, Source

_Item = TypeVar("_Item")


class Items(Generic[_Item]):
    """What `watch` and `as_completed` return: an iterator, which may be left or closed at any time."""

    def __init__(self, source: Source[_Item], get_item: Callable[[], None]) -> None:
        self._source, self._get_item = source, get_item

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Item:
        self._get_item()
        if not self._source.items:
            raise StopIteration
        return self._source.items.popleft()

    def close(self) -> None:
        """Ends the wait: no more items come."""
        self._source.close()


class AsyncItems(Generic[_Item]):
    """`Items` for `async for`. Between two items no task runs, and no cancel scope is open."""

    def __init__(self, source: Source[_Item], get_item: Callable[[], Awaitable[None]]) -> None:
        self._source, self._get_item = source, get_item
        self._is_awaited = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        if self._is_awaited:
            raise RuntimeError("The next item is being awaited already.")
        self._is_awaited = True
        try:
            await self._get_item()
        finally:
            self._is_awaited = False
        if not self._source.items:
            raise StopAsyncIteration
        return self._source.items.popleft()

    async def aclose(self) -> None:
        """Ends the wait: no more items come."""
        self._source.close()


class Midjourney(Operations[httpx.Client]):
    """Midjourney at AnyAPI.

    Make one and share it: it is safe in many threads, and keeps connections open until `close()` or the end of `with`.
    After a fork, the child must make its own client: this one raises `ConfigurationError` there.

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
        **httpx_options: Unpack[SyncOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(httpx.Client, auth, base_url, timeout, max_retries, httpx_options)
        self._generated.set_httpx_client(self._http)

    def imagine(
        self, prompt: str, *, images: Sequence[Image] = (), bot_type: str | None = None, state: str | None = None
    ) -> Task:
        """Submits a prompt, and returns the accepted task. Pass it to `wait`, which returns the finished one.

        A submission costs money each time it arrives, so it is sent once. It is sent again, up to `max_retries` times,
        only when nothing can have arrived: if the connection could not be made, or after 429 or 503 with
        `system_cpu_overloaded`. The response may take 90 s, since the gateway itself waits 60 s. Added in 0.2.

        Args:
            prompt: What to draw, with its parameters: "a pig on the moon --v 7". It is sent as it is.
            images: Images to refer to: paths, bytes of PNG, JPEG, WebP or GIF up to 20 MiB, or data URLs.
            bot_type: "MID_JOURNEY", the gateway's default, or "NIJI_JOURNEY".
            state: Any text; it comes back as the task's `state`.

        Raises:
            ConfigurationError: A blank prompt, or a file that is not an image; nothing was sent.
            SubmissionUnconfirmedError: There is no clear response: the job may have been taken and billed.
            PromptRejectedError: A banned word. Nothing was submitted after this and the errors below.
            QueueFullError: The queue of Midjourney's proxy is full.
            InsufficientQuotaError: The account has too little left.
            SubmissionRefusedError: Any other refusal, in the server's words.
            AuthenticationError, PermissionDeniedError: The key is refused, its account is empty, or it may not do this.
            RateLimitError, ServerError, APIConnectionError: Too many requests, an overloaded gateway, or no connection,
                after `max_retries` retries.
            OSError: An image file cannot be read.

        """
        return self._run(self._submit(_submission.imagine(prompt, images, bot_type, state)))

    def press(self, task: Task | str, button: Button | str, *, state: str | None = None) -> Task:
        """Presses a button of a task that has succeeded, and returns the accepted task. It costs what `imagine` costs.

        A button that opens a window (`button.opens_modal`, such as Vary (Region)) leads to a task in MODAL: answer it
        with `answer_modal`, then wait for it. Added in 0.2.

        Args:
            task: The task, or its id, which is fetched first.
            button: A label or an emoji ("U1", "🔄", "Vary (Region)"), a `Button`, or a custom id.
            state: Any text; it comes back as the new task's `state`.

        Raises:
            ConfigurationError: The task has not succeeded, or the button is a link or has no valid custom id. Nothing
                was submitted.
            ButtonNotFoundError: The task has no such button, or several. Nothing was submitted.
            SubmissionRefusedError: Among others: most gateways take no bookmark, animate and describe buttons
                (new-api, `service/midjourney.go`).

        It also raises what `imagine` raises and, given an id, what `fetch` raises.
        """
        return self._run(self._press(task, button, state))

    def answer_modal(self, task: Task | str, *, prompt: str | None = None, mask: Image | None = None) -> Task:
        """Answers the window of a task in MODAL, and returns the task, which has the same id. Added in 0.2.

        Args:
            task: The task, or its id.
            prompt: What to draw instead, or with `--zoom 1.8` how far to zoom out.
            mask: The region to draw again, white on black: an image like those of `imagine`.

        It raises what `imagine` raises.
        """
        return self._run(self._submit(_submission.answer_modal(self._id(task), prompt, mask)))

    def describe(self, image: Image, *, bot_type: str | None = None, state: str | None = None) -> Task:
        """Submits an image to describe. The descriptions are the finished task's `final_prompt`. See `imagine`.

        Added in 0.2.
        """
        return self._run(self._submit(_submission.describe(image, bot_type, state)))

    def blend(
        self,
        images: Sequence[Image],
        *,
        dimensions: str | None = None,
        bot_type: str | None = None,
        state: str | None = None,
    ) -> Task:
        """Submits two to five images to blend into one picture. See `imagine`.

        `dimensions` is "PORTRAIT", "SQUARE" or "LANDSCAPE". Added in 0.2.
        """
        return self._run(self._submit(_submission.blend(images, dimensions, bot_type, state)))

    def shorten(self, prompt: str, *, bot_type: str | None = None, state: str | None = None) -> Task:
        """Submits a prompt to shorten. Shorter versions are the finished task's `final_prompt`. See `imagine`.

        Added in 0.2.
        """
        return self._run(self._submit(_submission.shorten(prompt, bot_type, state)))

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
        return self._run(self._retried(partial(self._fetch, self._id(task))))

    def fetch_many(self, tasks: Iterable[Task | str]) -> dict[str, Task]:
        """The tasks as they are now, by id, in one request per five hundred. An unknown id is left out.

        An id that the list lacks is first fetched in a request of its own: the gateway answers an empty list after a
        database fault (new-api's `model/midjourney.go`). It raises the errors of `fetch`, except `TaskNotFoundError`.
        Added in 0.2.
        """
        return self._run(self._fetch_many(tasks))

    def watch(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Items[Task]:
        """The task at first sight and at every change, until it ends or is blocked for 5 minutes.

        A change is one of status, progress, fail reason, buttons, or picture (without the query of its URL). The last
        task shows how it ended (one in `MODAL` is blocked). It raises the errors of `wait`, such as
        `WaitTimeoutError`, except `TaskError`.
        """
        return self._items(Changes(self._watch(task, timeout)))

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
            TaskNotFoundError: The second in a row, if the client has seen no task yet, or another one since the first;
                else after 5 minutes. Never once it has seen this task.
            InvalidResponseError, APIResponseError: Three in a row, and this client has not seen a task before.
            APIConnectionError: A mistake in the program, such as a hook's; or, three times in a row if this client has
                not seen a task before, an untrusted certificate or a proxy that wants a password.
            ConfigurationError: An unusable id or timeout, or the client is closed; nothing was sent.

        """
        return self._run(self._wait(self._watch(task, timeout)))

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
            on_change: Called with a task at first sight and at each change, before its outcome is given. Added in 0.2.

        Raises:
            ConfigurationError: Not an iterable of tasks or ids, or not a timeout. An id that cannot be one has this
                error as its outcome.

        """
        return self._items(Schedule(tasks, self._terms(timeout, many=True), on_change))

    def download(self, task: Task | str, path: str | PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Saves the picture, or the video, of a task that succeeded, and returns the file's path.

        The file is whole or not there: the picture first goes to a temporary file beside it. Transient errors are
        retried as by `fetch`. The server gives the URL, so it is not trusted: http or https, at most 5 redirects, none
        from https to http. Private and loopback addresses are refused, except for the base URL's own host; a proxy or a
        transport of your own must do that itself. `localhost` means the gateway, since operators leave that default in
        place. The key is sent to the base URL's origin only, and only after a 401. Event hooks are not called.

        Args:
            task: The task, or its id, which is fetched first.
            path: The file to write, or an existing folder; None is the current folder. In a folder the file is
                named after the task's id and its type: .png, .webp, .jpg, .mp4 …
            overwrite: Whether to replace an existing file. A symbolic link itself is replaced, not its target.

        Raises:
            DownloadError: The task has no picture, its link has expired (Discord's last 24 hours), its URL is refused,
                or the response is not a picture, or larger than 256 MiB.
            RateLimitError, ServerError, APIConnectionError, APITimeoutError: A transient error that lasted.
            ConfigurationError: Not a task or id, or the client is closed; nothing was sent.
            FileExistsError: The file exists, and `overwrite` is not given.
            OSError: The file cannot be written.

        """
        return self._run(self._download(task, path, overwrite=overwrite))

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

    def _items(self, source: Source[_Item]) -> Items[_Item]:
        return Items(source, lambda: self._run(self._until_item(source)))

    def _run(self, steps: Steps[Result]) -> Result:
        resume: Callable[[], Step] = partial(next, steps)
        with closing(steps):
            while True:
                try:
                    step = resume()
                except StopIteration as stop:
                    return cast("Result", stop.value)
                try:
                    resume = partial(steps.send, self._do(step))
                except MidjourneyError as error:
                    resume = partial(steps.throw, error)

    def _do(self, step: Step) -> object:
        match step:
            case Call():
                return self._send(step)
            case list():
                return [self._run(steps) for steps in step]
            case float() | int():
                time.sleep(step)
                return None
            case _:
                return self._save(step)

    def _send(self, call: Call) -> httpx.Response:
        try:
            if call.fresh:
                response = self._fresh.send(call.request, stream=True, auth=self._auth)
                self._read(response)
                return response
            if call.seconds is not None:
                limit_duration(call.request, call.seconds)
            return self._http.send(call.request, stream=True)  # `_read` has read it already
        except Exception as error:  # noqa: BLE001  (each transport has its own)
            failure = request_error(error, call.request.url, call.task_id, self._auth)
        raise failure from failure.__cause__

    def _save(self, download: Download) -> bool:
        """Whether it is saved; False after a redirect."""
        try:
            request = self._fresh.build_request("GET", download.url, extensions={"trace": download.trace})
            with closing(self._fresh.send(request, stream=True, auth=download.auth)) as response:
                if download.follow(response):
                    return False
                if response.status_code != 200:
                    self._read(response)
                    raise download.refusal(response, parsed_body(response))
                download.begin(response.headers)
                for chunk in cast("httpx.SyncByteStream", response.stream):
                    download.write(chunk)
            download.finish()
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, MidjourneyError) as error:  # an OSError is the disk's
            failure = request_error(error, download.url, download.task_id, self._auth)
            raise failure from failure.__cause__
        return True

    def _read(self, response: httpx.Response) -> None:
        body = Body(response)
        with closing(cast("httpx.SyncByteStream", response.stream)) as stream:
            for chunk in stream:
                if not body.add(chunk):
                    break
        body.finish(self._auth)

    def _check(self, response: httpx.Response) -> None:
        raise_for_error(response)


@asynccontextmanager
async def _chunks(response: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes]]:
    """The body as it arrives. The generators below it end here even if it is left: trio warns about unfinished ones."""
    stream = cast("httpx.AsyncByteStream", response.stream)
    chunks = aiter(stream)
    try:
        yield chunks
    finally:
        await stream.aclose()
        with suppress(Exception):  # there is no connection any more
            await anext(chunks)


class AsyncMidjourney(Operations[httpx.AsyncClient]):
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
        **httpx_options: Unpack[AsyncOptions],
    ) -> None:
        auth = BearerAuth(api_key)
        del api_key  # tracebacks can show locals
        super().__init__(httpx.AsyncClient, auth, base_url, timeout, max_retries, httpx_options)
        self._generated.set_async_httpx_client(self._http)

    async def imagine(
        self, prompt: str, *, images: Sequence[Image] = (), bot_type: str | None = None, state: str | None = None
    ) -> Task:
        """`Midjourney.imagine`, awaited."""
        return await self._run(self._submit(_submission.imagine(prompt, images, bot_type, state)))

    async def press(self, task: Task | str, button: Button | str, *, state: str | None = None) -> Task:
        """`Midjourney.press`, awaited."""
        return await self._run(self._press(task, button, state))

    async def answer_modal(self, task: Task | str, *, prompt: str | None = None, mask: Image | None = None) -> Task:
        """`Midjourney.answer_modal`, awaited."""
        return await self._run(self._submit(_submission.answer_modal(self._id(task), prompt, mask)))

    async def describe(self, image: Image, *, bot_type: str | None = None, state: str | None = None) -> Task:
        """`Midjourney.describe`, awaited."""
        return await self._run(self._submit(_submission.describe(image, bot_type, state)))

    async def blend(
        self,
        images: Sequence[Image],
        *,
        dimensions: str | None = None,
        bot_type: str | None = None,
        state: str | None = None,
    ) -> Task:
        """`Midjourney.blend`, awaited."""
        return await self._run(self._submit(_submission.blend(images, dimensions, bot_type, state)))

    async def shorten(self, prompt: str, *, bot_type: str | None = None, state: str | None = None) -> Task:
        """`Midjourney.shorten`, awaited."""
        return await self._run(self._submit(_submission.shorten(prompt, bot_type, state)))

    async def fetch(self, task: Task | str) -> Task:
        """`Midjourney.fetch`, awaited."""
        return await self._run(self._retried(partial(self._fetch, self._id(task))))

    async def fetch_many(self, tasks: Iterable[Task | str]) -> dict[str, Task]:
        """`Midjourney.fetch_many`, awaited."""
        return await self._run(self._fetch_many(tasks))

    def watch(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncItems[Task]:
        """`Midjourney.watch`, for `async for`."""
        return self._items(Changes(self._watch(task, timeout)))

    async def wait(self, task: Task | str, *, timeout: float | None = DEFAULT_TIMEOUT) -> Task:  # noqa: ASYNC109
        """`Midjourney.wait`, awaited; here the timeout holds whatever the server does."""
        return await self._run(self._wait(self._watch(task, timeout)))

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
        return self._items(Schedule(tasks, self._terms(timeout, many=True), on_change))

    async def download(
        self, task: Task | str, path: str | PathLike[str] | None = None, *, overwrite: bool = False
    ) -> Path:
        """`Midjourney.download`, awaited. Threads write the file, so the event loop is not blocked."""
        return await self._run(self._download(task, path, overwrite=overwrite))

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
        import anyio  # noqa: PLC0415  (see `_do`)

        return anyio.current_time()

    def _items(self, source: Source[_Item]) -> AsyncItems[_Item]:
        return AsyncItems(source, lambda: self._run(self._until_item(source)))

    async def _run(self, steps: Steps[Result]) -> Result:
        resume: Callable[[], Step] = partial(next, steps)
        with closing(steps):
            while True:
                try:
                    step = resume()
                except StopIteration as stop:
                    return cast("Result", stop.value)
                try:
                    resume = partial(steps.send, await self._do(step))
                except MidjourneyError as error:
                    resume = partial(steps.throw, error)

    async def _do(self, step: Step) -> object:
        import anyio  # noqa: PLC0415  (httpx, which brings it, also imports it only when it is needed)

        match step:
            case Call():
                return await self._send(step)
            case list():
                async with anyio.create_task_group() as group:
                    for steps in step:
                        group.start_soon(self._run, steps)
            case float() | int():
                await anyio.sleep(step)
            case _:
                return await self._save(step)
        return None

    async def _send(self, call: Call) -> httpx.Response:
        import anyio  # noqa: PLC0415  (see `_do`)

        try:
            if call.fresh:
                response = await self._fresh.send(call.request, stream=True, auth=self._auth)
                await self._read(response)
                return response
            with anyio.fail_after(call.seconds):
                return await self._http.send(call.request, stream=True)  # `_read` has read it already
        except Exception as error:  # noqa: BLE001  (each transport has its own)
            failure = request_error(error, call.request.url, call.task_id, self._auth)
        raise failure from failure.__cause__

    async def _save(self, download: Download) -> bool:
        from anyio.to_thread import run_sync  # noqa: PLC0415  (see `_do`)

        try:
            request = self._fresh.build_request("GET", download.url, extensions={"trace": download.async_trace})
            async with aclosing(await self._fresh.send(request, stream=True, auth=download.auth)) as response:
                if download.follow(response):
                    return False
                if response.status_code != 200:
                    await self._read(response)
                    raise download.refusal(response, parsed_body(response))
                download.begin(response.headers)
                async with _chunks(response) as chunks:
                    async for chunk in chunks:
                        await run_sync(download.write, chunk)
            await run_sync(download.finish)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, MidjourneyError) as error:  # an OSError is the disk's
            failure = request_error(error, download.url, download.task_id, self._auth)
            raise failure from failure.__cause__
        return True

    async def _read(self, response: httpx.Response) -> None:
        body = Body(response)
        async with _chunks(response) as chunks:
            async for chunk in chunks:
                if not body.add(chunk):
                    break
        body.finish(self._auth)

    async def _check(self, response: httpx.Response) -> None:
        raise_for_error(response)
