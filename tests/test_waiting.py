"""Waiting, on both clients alike: what is asked for when, what ends it, and how. The clock is fake, the HTTP is not."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx
import pytest
import trio

from anyapi_midjourney import (
    APIConnectionError,
    APIResponseError,
    AuthenticationError,
    ConfigurationError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    ServerError,
    Task,
    TaskBlockedError,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    WaitTimeoutError,
)
from shells import EXAMPLE, KEY, TASK_ID, Clock, Shell, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOT_FOUND = reply({"code": 4, "description": "task_no_found "}, 400)
REFUSED = reply({"error": {"message": "无效的令牌"}}, 401)
FORBIDDEN = reply({"error": {"message": "no"}}, 403)
PAGE = reply("<html><title>New API</title></html>", 200, content_type="text/html")
BUSY = reply("", 502)
GOOD = reply(EXAMPLE)


def task(status: str, progress: str = "0%", **fields: Any) -> Callable[[httpx.Request], httpx.Response]:
    return reply({**EXAMPLE, "status": status, "progress": progress, "imageUrl": "", "buttons": None, **fields})


RUNNING = task("IN_PROGRESS", "30%")


def reset(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("Connection reset by peer")


class Server(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Gives one answer after the other, the last one again and again; a number is seconds that pass before the next."""

    def __init__(self, clock: Clock, *answers: Callable[[httpx.Request], httpx.Response] | float) -> None:
        self.clock, self.answers = clock, list(answers)
        self.moments: list[float] = []
        self.ids: list[str] = []

    def _next(self, request: httpx.Request) -> tuple[float, Callable[[httpx.Request], httpx.Response]]:
        self.moments.append(self.clock.now - 1000)
        self.ids.append(request.url.path.split("/")[-2])
        delay = self.answers.pop(0) if isinstance(self.answers[0], float) else 0.0
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        assert isinstance(delay, float)
        assert callable(answer)
        return delay, answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        delay, answer = self._next(request)
        limit = request.extensions["timeout"]["read"]
        self.clock.sleep(min(delay, limit))
        if delay > limit:
            raise httpx.ReadTimeout("timed out")
        return answer(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        delay, answer = self._next(request)
        if delay:
            await anyio.sleep(delay)
        return answer(request)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def wait(shell: Shell, clock: Clock) -> Callable[..., Any]:
    """Waits for the task; the server is a list of answers, or a `Server`."""

    def run(server: Any, timeout: float | None = 3700.0, task_id: str = TASK_ID, **options: Any) -> Task:
        server = server if isinstance(server, httpx.BaseTransport) else Server(clock, *server)
        task = shell.use(clock, server, lambda mj: mj.wait(task_id, timeout=timeout), **options)
        return cast("Task", task)

    return run


def test_a_finished_task_costs_one_request_and_no_sleep(wait: Callable[..., Task], clock: Clock) -> None:
    server = Server(clock, GOOD)
    assert wait(server).succeeded
    assert server.moments == [0]
    assert clock.now == 1000


def test_a_time_out_of_0_is_one_look(wait: Callable[..., Task], clock: Clock) -> None:
    server = Server(clock, RUNNING)
    with pytest.raises(WaitTimeoutError, match="last seen IN_PROGRESS 30 % 0 s ago") as caught:
        wait(server, timeout=0)
    assert server.moments == [0]
    assert caught.value.task is not None
    assert caught.value.task.progress == 30
    assert wait([GOOD], timeout=0).succeeded


def test_the_last_look_is_at_the_deadline(wait: Callable[..., Task], clock: Clock) -> None:
    server = Server(clock, RUNNING, RUNNING, RUNNING, GOOD)
    assert wait(server, timeout=10.0).succeeded
    assert server.moments[-1] == pytest.approx(10)


@pytest.mark.parametrize("timeout", [1.0, 5.1, 7.3, 40.0])
def test_it_is_back_half_a_second_after_the_deadline_even_if_the_server_hangs(
    wait: Callable[..., Task], clock: Clock, timeout: float
) -> None:
    with pytest.raises(WaitTimeoutError, match="last seen IN_PROGRESS 30 %") as caught:
        wait([RUNNING, *[1e6, RUNNING] * 50], timeout=timeout)
    assert clock.now - 1000 <= timeout + 0.6
    assert isinstance(caught.value.last_error, APIConnectionError)
    assert "the last look failed: no answer in time" in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.task, str(again)) == (caught.value.task, str(caught.value))


def test_an_answer_that_comes_after_the_deadline_counts(wait: Callable[..., Task], clock: Clock) -> None:
    assert wait([RUNNING, 0.4, GOOD], timeout=4.9).succeeded
    assert clock.now - 1000 > 4.9


def test_an_outage_of_hours_is_gone_through(wait: Callable[..., Task], clock: Clock) -> None:
    assert wait([RUNNING, *[reset] * 1100, GOOD], timeout=None).succeeded
    assert clock.now - 1000 > 3600


def test_without_a_time_out_it_waits_for_as_long_as_it_takes(wait: Callable[..., Task], clock: Clock) -> None:
    assert wait([RUNNING] * 1000 + [GOOD], timeout=None).succeeded
    assert clock.now - 1000 > 3700


def test_by_itself_it_waits_a_little_longer_than_the_gateways_own_hour(shell: Shell, clock: Clock) -> None:
    with pytest.raises(WaitTimeoutError):
        shell.use(clock, Server(clock, RUNNING), lambda mj: mj.wait(TASK_ID))
    assert 3600 + 2 * 15 < clock.now - 1000 < 3800


@pytest.mark.parametrize("timeout", [-1, float("nan"), "10", [], -0.1])
def test_what_is_no_time_out_is_refused(wait: Callable[..., Task], clock: Clock, timeout: Any) -> None:
    server = Server(clock, GOOD)
    with pytest.raises(ConfigurationError, match="seconds"):
        wait(server, timeout=timeout)
    assert not server.moments


@pytest.mark.parametrize(
    "fault",
    [reset, BUSY, PAGE, reply("", 408), reply("", 429), reply("<html>", 522), reply("{", 200), REFUSED, NOT_FOUND],
)
def test_one_fault_ends_no_wait(wait: Callable[..., Task], fault: Any) -> None:
    assert wait([fault, RUNNING, fault, GOOD], retries=0).succeeded


@pytest.mark.parametrize("fault", [reset, BUSY, PAGE, reply("", 429), NOT_FOUND, reply("", 404), reply("", 302)])
def test_no_fault_that_may_pass_ends_a_wait_once_a_task_was_seen(wait: Callable[..., Task], fault: Any) -> None:
    assert wait([RUNNING, *[fault] * 100, GOOD]).succeeded


@pytest.mark.parametrize("fault", [reset, BUSY, reply("", 429)])
def test_nor_do_these_before_one_was_seen(wait: Callable[..., Task], fault: Any) -> None:
    assert wait([fault] * 100 + [GOOD]).succeeded
    with pytest.raises(WaitTimeoutError, match="never") as caught:
        wait([fault], timeout=60)
    assert caught.value.last_error is not None


@pytest.mark.parametrize(
    ("answers", "error", "looks"),
    [
        ([FORBIDDEN], PermissionDeniedError, 1),
        ([RUNNING, FORBIDDEN], PermissionDeniedError, 2),
        ([REFUSED, REFUSED], AuthenticationError, 2),
        ([RUNNING, REFUSED, RUNNING, REFUSED, REFUSED], AuthenticationError, 5),
        ([NOT_FOUND, NOT_FOUND], TaskNotFoundError, 2),
        ([PAGE] * 3, InvalidResponseError, 3),
        ([reply("", 404)] * 3, APIResponseError, 3),
        ([reply("", 301, location="https://elsewhere/")] * 3, APIResponseError, 3),
    ],
)
def test_what_does_not_pass_ends_it(
    wait: Callable[..., Task], clock: Clock, answers: list[Any], error: type[MidjourneyError], looks: int
) -> None:
    server = Server(clock, *answers, GOOD)
    with pytest.raises(error) as caught:
        wait(server)
    assert caught.value.task_id == TASK_ID
    assert len(server.moments) == looks
    assert clock.now - 1000 < 20


def test_a_mistake_in_the_program_ends_it(wait: Callable[..., Task]) -> None:
    def mistaken(_: httpx.Request) -> httpx.Response:
        raise TypeError("a mistake")

    with pytest.raises(APIConnectionError, match="no fault of the network"):
        wait([RUNNING, mistaken])


@pytest.mark.parametrize("task_id", ["", "a/b", 5])
def test_an_id_that_cannot_be_one_is_refused_without_a_request(
    wait: Callable[..., Task], clock: Clock, task_id: Any
) -> None:
    server = Server(clock, GOOD)
    with pytest.raises(ConfigurationError, match="A task id is"):
        wait(server, task_id=task_id)
    assert not server.moments


def test_retry_after_is_obeyed_up_to_a_minute(wait: Callable[..., Task], clock: Clock) -> None:
    for asked, least, most in [("20", 20, 21), ("99999999", 60, 61), ("-5", 0, 6), ("soon", 0, 6)]:
        server = Server(clock, reply("", 429, retry_after=asked), GOOD)
        start = clock.now
        wait(server)
        assert least <= clock.now - start <= most


def test_a_client_that_is_held_back_makes_one_last_look_and_no_more(shell: Shell, clock: Clock) -> None:
    server = Server(clock, reply("", 429, retry_after="100"))
    outcomes = shell.use(clock, server, lambda mj: mj.as_completed(map(str, range(50)), timeout=10), max_in_flight=2)
    assert len(outcomes) == 50
    assert all(isinstance(outcome, WaitTimeoutError) for _, outcome in outcomes)
    assert len(server.moments) <= 3
    assert clock.now - 1000 <= 10.6


def test_but_not_past_the_deadline(wait: Callable[..., Task], clock: Clock) -> None:
    assert wait([reply("", 503, retry_after="50"), GOOD], timeout=7).succeeded
    assert clock.now - 1000 == pytest.approx(7)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (task("FAILURE", failReason="Invalid link\x1b[31m"), TaskFailedError, '"Invalid link [31m"'),
        (task("FAILURE"), TaskFailedError, "no reason"),
        (task("", failReason="banned"), TaskFailedError, '"banned"'),
        (task("CANCEL"), TaskCancelledError, "cancelled"),
    ],
)
def test_a_task_that_ends_otherwise_raises_its_error_and_is_in_it(
    wait: Callable[..., Task], answer: Any, error: type[TaskError], text: str
) -> None:
    with pytest.raises(error, match=r"FAILURE|CANCEL") as caught:
        wait([RUNNING, answer])
    assert text in str(caught.value)
    assert caught.value.task.failed
    assert pickle.loads(pickle.dumps(caught.value)).task == caught.value.task


def test_modal_must_last_five_minutes(wait: Callable[..., Task], clock: Clock) -> None:
    assert wait([*[task("MODAL")] * 10, RUNNING, *[task("MODAL")] * 10, GOOD]).succeeded
    start = clock.now
    with pytest.raises(TaskBlockedError, match="window") as caught:
        wait([RUNNING, task("MODAL")])
    assert caught.value.task.status == "MODAL"
    assert 300 <= clock.now - start <= 325


def test_an_unknown_status_is_waited_on_and_logged_once(
    wait: Callable[..., Task], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "anyapi_midjourney"):
        assert wait([*[task("PAUSED\x1b[2J")] * 5, GOOD]).succeeded
    assert [record.getMessage() for record in caplog.records] == [
        'A task has the status "PAUSED [2J", which is not known here; it is waited for.'
    ]


def test_a_server_with_ever_new_words_fills_neither_log_nor_memory(
    wait: Callable[..., Task], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "anyapi_midjourney"):
        assert wait([*[task(f"PAUSED {n}") for n in range(50)], GOOD]).succeeded
    assert len(caplog.records) == 10


def test_watch_gives_the_first_sight_and_every_change(shell: Shell, clock: Clock) -> None:
    url = "https://cdn/p.webp?rand="
    answers = [
        task(""),
        task(""),
        task("IN_PROGRESS", "1%", imageUrl=url + "1"),
        BUSY,
        task("IN_PROGRESS", "1%", imageUrl=url + "2"),
        task("IN_PROGRESS", "50%", imageUrl=url + "3"),
        task("IN_PROGRESS", "50%", imageUrl="https://cdn/q.webp?rand=3"),
        task("FAILURE", "100%", failReason="no"),
    ]
    seen = shell.use(clock, Server(clock, *answers), lambda mj: mj.watch(TASK_ID))
    assert [(one.status, one.progress) for one in seen] == [
        ("", 0),
        ("IN_PROGRESS", 1),
        ("IN_PROGRESS", 50),
        ("IN_PROGRESS", 50),
        ("FAILURE", 100),
    ]
    blocked = shell.use(clock, Server(clock, RUNNING, task("MODAL")), lambda mj: mj.watch(TASK_ID))
    assert [one.status for one in blocked] == ["IN_PROGRESS", "MODAL"]


@pytest.mark.parametrize(("answers", "error"), [([RUNNING], WaitTimeoutError), ([FORBIDDEN], PermissionDeniedError)])
def test_watch_raises_what_is_not_about_how_the_task_ended(
    shell: Shell, clock: Clock, answers: list[Any], error: type[MidjourneyError]
) -> None:
    with pytest.raises(error):
        shell.use(clock, Server(clock, *answers), lambda mj: mj.watch(TASK_ID, timeout=30))


class Gateway(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Many tasks, by their ids: "6s" succeeds 6 s after it was first asked for; "lost", "denied" and "bad" do not."""

    def __init__(self, clock: Clock, delay: float = 0.05) -> None:
        self.clock, self.delay = clock, delay
        self.first: dict[str, float] = {}
        self.log: list[tuple[float, str]] = []
        self.busy = self.most = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        task_id = request.url.path.split("/")[-2]
        self.log.append((self.clock.now - 1000, task_id))
        age = self.clock.now - self.first.setdefault(task_id, self.clock.now)
        special = {"lost": NOT_FOUND, "denied": FORBIDDEN, "bad": task("FAILURE", failReason="bad")}
        if answer := special.get(task_id):
            return answer(request)
        seconds = float(task_id.split("s")[0])
        return (task("IN_PROGRESS", f"{int(age / seconds * 99)}%") if age < seconds else GOOD)(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await anyio.sleep(self.delay)
            return self.handle_request(request)
        finally:
            self.busy -= 1


def test_as_completed_gives_each_id_once_with_its_outcome(shell: Shell, clock: Clock) -> None:
    ids: list[Any] = ["30s", "6s", "lost", "denied", "bad", "a/b", "6s", None, [], "900s", "6s-too"]
    gateway = Gateway(clock)
    outcomes = shell.use(clock, gateway, lambda mj: mj.as_completed(iter(ids), timeout=200))
    kinds: dict[str, type] = {str(task_id): type(outcome) for task_id, outcome in outcomes}
    assert kinds == {
        "30s": Task,
        "6s": Task,
        "6s-too": Task,
        "lost": TaskNotFoundError,
        "denied": PermissionDeniedError,
        "bad": TaskFailedError,
        "a/b": ConfigurationError,
        "None": ConfigurationError,
        "[]": ConfigurationError,
        "900s": WaitTimeoutError,
    }
    assert len(outcomes) == len(kinds)
    assert clock.now - 1000 <= 200.6
    order = [task_id for task_id, _ in outcomes]
    assert order.index("6s") < order.index("30s") < order.index("900s")


def test_ids_are_drawn_when_there_is_time_to_ask_for_them(shell: Shell, clock: Clock) -> None:
    drawn: list[str] = []

    def ids() -> Iterator[str]:
        for n in range(1000):
            drawn.append(f"0s-{n}")
            yield drawn[-1]

    gateway = Gateway(clock)

    def script(mj: Any) -> Any:
        outcomes = mj.as_completed(ids())
        if shell.name == "sync":
            return next(outcomes)

        return anext(outcomes)

    shell.use(clock, gateway, script, max_in_flight=4)
    assert len(drawn) <= 1 if shell.name == "sync" else 24
    assert 1 <= gateway.most + (shell.name == "sync") <= 4


def test_an_iterable_that_fails_loses_no_task_that_was_drawn(shell: Shell, clock: Clock) -> None:
    def ids() -> Iterator[str]:
        yield "6s"
        raise OSError("the file of ids is gone")

    def sync(mj: Any) -> list[Any]:
        outcomes = mj.as_completed(ids())
        with pytest.raises(OSError, match="gone"):
            next(outcomes)
        return list(outcomes)

    async def awaited(mj: Any) -> list[Any]:
        outcomes = mj.as_completed(ids())
        with pytest.raises(OSError, match="gone"):
            await anext(outcomes)
        return [outcome async for outcome in outcomes]

    outcomes = shell.use(clock, Gateway(clock), sync if shell.name == "sync" else awaited)
    assert [task_id for task_id, _ in outcomes] == ["6s"]


@pytest.mark.parametrize("ids", [TASK_ID, b"1", 5, None])
def test_what_is_no_iterable_of_ids_is_refused(shell: Shell, clock: Clock, ids: Any) -> None:
    with pytest.raises(ConfigurationError, match="wait"):
        shell.use(clock, Gateway(clock), lambda mj: mj.as_completed(ids))


def test_a_loop_can_be_left_and_taken_up_again(shell: Shell, clock: Clock) -> None:
    def sync(mj: Any) -> list[Any]:
        outcomes = mj.as_completed(["6s", "30s", "300s"])
        first = [next(outcomes)]
        for outcome in outcomes:
            first.append(outcome)
            break
        outcomes.close()
        return [*first, *outcomes]

    async def awaited(mj: Any) -> list[Any]:
        outcomes = mj.as_completed(["6s", "30s", "300s"])
        first = [await anext(outcomes)]
        async for outcome in outcomes:
            first.append(outcome)
            break
        await outcomes.aclose()
        return [*first, *[outcome async for outcome in outcomes]]

    outcomes = shell.use(clock, Gateway(clock), sync if shell.name == "sync" else awaited)
    assert [task_id for task_id, _ in outcomes] == ["6s", "30s"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_awaited_outcome_may_be_cancelled_and_awaited_anew(clock: Clock, backend: str) -> None:
    async def script(mj: Any) -> Any:
        outcomes = mj.as_completed(["6s"])
        for _ in range(40):
            with anyio.move_on_after(0.52):
                return await anext(outcomes)
        return None

    task_id, outcome = Shell(backend).use(clock, Gateway(clock, delay=0.5), script)
    assert (task_id, outcome.succeeded) == ("6s", True)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_request_that_hangs_holds_up_nothing_else(clock: Clock, backend: str) -> None:
    class Hanging(Gateway):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "slow" in request.url.path:
                await anyio.sleep_forever()
            return await super().handle_async_request(request)

    ids = ["0s", "0s-slow", "6s"]
    outcomes = Shell(backend).use(clock, Hanging(clock), lambda mj: mj.as_completed(ids, timeout=60))
    assert [task_id for task_id, _ in outcomes] == ["0s", "6s", "0s-slow"]
    assert isinstance(outcomes[2][1], WaitTimeoutError)
    assert clock.now - 1000 <= 60.6


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_many_waits_at_once_make_no_more_requests_at_once(clock: Clock, backend: str) -> None:
    gateway = Gateway(clock)

    async def script(mj: Any) -> list[Task]:
        tasks: list[Task] = []

        async def one(task_id: str) -> None:
            tasks.append(await mj.wait(task_id))

        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(one, f"6s-{n}")
        return tasks

    tasks = Shell(backend).use(clock, gateway, script, max_in_flight=4)
    assert len(tasks) == 50
    assert gateway.most == 4


def test_retry_after_holds_back_the_whole_client(shell: Shell, clock: Clock) -> None:
    class Limited(Gateway):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if len(self.log) == 3:
                self.log.append((self.clock.now - 1000, "429"))
                return reply("", 429, retry_after="40")(request)
            return super().handle_request(request)

    gateway = Limited(clock)
    shell.use(clock, gateway, lambda mj: mj.as_completed([f"20s-{n}" for n in range(6)]), max_in_flight=1)
    at = next(moment for moment, what in gateway.log if what == "429")
    assert all(moment <= at or moment >= at + 40 for moment, _ in gateway.log)


def test_an_id_that_is_not_found_while_others_are_ends_soon(shell: Shell, clock: Clock) -> None:
    outcomes = shell.use(clock, Gateway(clock), lambda mj: mj.as_completed(["600s", "lost"], timeout=900))
    assert [task_id for task_id, _ in outcomes] == ["lost", "600s"]
    assert isinstance(outcomes[0][1], TaskNotFoundError)


def test_an_id_that_is_never_found_is_given_up_after_five_minutes(shell: Shell, clock: Clock) -> None:
    async def awaited(mj: Any) -> None:
        await mj.fetch("0s")
        await mj.wait("lost")

    def sync(mj: Any) -> None:
        mj.fetch("0s")
        mj.wait("lost")

    with pytest.raises(TaskNotFoundError):
        shell.use(clock, Gateway(clock), sync if shell.name == "sync" else awaited)
    assert 300 <= clock.now - 1000 <= 310


def test_a_closed_client_says_so(shell: Shell, clock: Clock) -> None:
    def sync(mj: Any) -> None:
        mj.close()
        mj.wait(TASK_ID)

    async def awaited(mj: Any) -> None:
        await mj.aclose()
        await mj.wait(TASK_ID)

    with pytest.raises(ConfigurationError, match="closed"):
        shell.use(clock, Gateway(clock), sync if shell.name == "sync" else awaited)


def test_a_5xx_is_in_the_time_outs_text(wait: Callable[..., Task]) -> None:
    with pytest.raises(WaitTimeoutError) as caught:
        wait([RUNNING, BUSY], timeout=60)
    assert isinstance(caught.value.last_error, ServerError)
    assert "HTTP 502" in str(caught.value)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_runs_after_a_loop_was_left(clock: Clock, backend: str) -> None:
    def running() -> int:
        if backend == "asyncio":
            return len(asyncio.all_tasks())
        return trio.lowlevel.current_statistics().tasks_living

    async def script(mj: Any) -> tuple[int, int]:
        before = running()
        async for _ in mj.as_completed(["0s", *[f"60s-{n}" for n in range(50)]]):
            break
        return before, running()

    before, after = Shell(backend).use(clock, Gateway(clock), script)
    assert before == after


def test_many_new_ids_and_due_ones_take_turns(shell: Shell, clock: Clock) -> None:
    def ids() -> Iterator[str]:
        for n in range(10_000):
            clock.sleep(0.05)
            yield f"8s-{n}"

    def sync(mj: Any) -> str:
        return cast("str", next(mj.as_completed(ids()))[0])

    async def awaited(mj: Any) -> str:
        return cast("str", (await anext(mj.as_completed(ids())))[0])

    shell.use(clock, Gateway(clock), sync if shell.name == "sync" else awaited, max_in_flight=1)
    assert clock.now - 1000 < 30


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_waits_that_never_get_their_turn_time_out(clock: Clock, backend: str) -> None:
    async def script(mj: Any) -> list[Any]:
        found: list[Any] = []

        async def one(n: int) -> None:
            found.extend([outcome async for outcome in mj.as_completed([f"0s-{n}", f"99s-{n}"], timeout=1.5)])

        async with anyio.create_task_group() as group:
            for n in range(100):
                group.start_soon(one, n)
        return found

    found = Shell(backend).use(clock, Gateway(clock, delay=0.7), script, max_in_flight=4)
    assert len(found) == len(dict(found)) == 200


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_cannot_await_the_same_next_item(clock: Clock, backend: str) -> None:
    async def script(mj: Any) -> None:
        outcomes = mj.as_completed(["6s"])
        async with anyio.create_task_group() as group:
            group.start_soon(anext, outcomes)
            await anyio.sleep(0.01)
            with pytest.raises(RuntimeError, match="already"):
                await anext(outcomes)

    Shell(backend).use(clock, Gateway(clock), script)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_ends_what_somebody_awaits(clock: Clock, backend: str) -> None:
    gateway = Gateway(clock)

    asked = 0

    async def script(mj: Any) -> None:
        nonlocal asked
        outcomes = mj.as_completed(["60s"])
        async with anyio.create_task_group() as group:

            async def rest() -> None:
                assert [outcome async for outcome in outcomes] == []

            group.start_soon(rest)
            await anyio.sleep(7)
            await outcomes.aclose()
            asked = len(gateway.log)

    Shell(backend).use(clock, gateway, script)
    assert len(gateway.log) == asked


def test_ids_that_come_for_ever_end_with_the_time_out(shell: Shell, clock: Clock) -> None:
    def ids() -> Iterator[str]:
        while True:
            clock.sleep(0.01)
            yield "99s"

    outcomes = shell.use(clock, Gateway(clock), lambda mj: mj.as_completed(itertools.islice(ids(), 1000), timeout=3))
    assert [task_id for task_id, _ in outcomes] == ["99s"]


def test_an_id_that_is_no_id_is_said_so_even_when_no_time_is_left(shell: Shell, clock: Clock) -> None:
    ids: list[Any] = ["99s", KEY, 10**5000, object]
    server = Server(clock, 9.0, RUNNING)
    outcomes = shell.use(clock, server, lambda mj: mj.as_completed(ids, timeout=0), max_in_flight=1)
    kinds = sorted(type(outcome).__name__ for _, outcome in outcomes)
    assert kinds == [*["ConfigurationError"] * 3, "WaitTimeoutError"]
    assert all(KEY not in str(outcome) for _, outcome in outcomes)


class Beating(Gateway):
    """As the real one: what it shows, it has looked up at the last multiple of 15 s."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        now, task_id = self.clock.now, request.url.path.split("/")[-2]
        self.log.append((now - 1000, task_id))
        age = now // 15 * 15 - self.first.setdefault(task_id, now)
        return (GOOD if age > 40 else task("IN_PROGRESS", f"{int(max(age, 0))}%"))(request)


def test_a_client_learns_the_beat_and_keeps_it_from_one_wait_to_the_next(shell: Shell, clock: Clock) -> None:
    gateway = Beating(clock)
    lags: list[float] = []

    def note(n: int) -> str:
        if n:
            lags.append(clock.now % 15)
        clock.sleep(8.0)  # between two waits
        return f"40s-{n}"

    def sync(mj: Any) -> None:
        for n in range(11):
            mj.wait(note(n))

    async def awaited(mj: Any) -> None:
        for n in range(11):
            await mj.wait(note(n))

    shell.use(clock, gateway, sync if shell.name == "sync" else awaited)
    later = [task_id for _, task_id in gateway.log if task_id not in ("40s-0", "40s-1")]
    assert max(lags[2:]) < 1.2
    assert len(later) / 9 < 9  # every 5 s it would be 11


def test_many_tasks_share_the_beat(shell: Shell, clock: Clock) -> None:
    gateway = Beating(clock, delay=0.01)
    ids = [f"40s-{n}" for n in range(30)]
    outcomes = shell.use(clock, gateway, lambda mj: mj.as_completed(ids, timeout=300))
    assert all(isinstance(outcome, Task) for _, outcome in outcomes)
    assert clock.now % 15 < 3
    assert len(gateway.log) / 30 < 12
