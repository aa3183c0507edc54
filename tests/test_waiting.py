"""Waiting, on both clients alike: when they poll, what ends a wait, and how. The clock is fake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pickle
import ssl
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import anyio
import httpx
import pytest
import trio

from anyapi_midjourney import Task, errors
from clients import EXAMPLE, KEY, TASK_ID, Client, Clock, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Response: TypeAlias = "Callable[[httpx.Request], httpx.Response]"
Wait: TypeAlias = "Callable[..., Task]"

NOT_FOUND = reply({"code": 4, "description": "task_no_found "}, 400)
REFUSED = reply({"error": {"message": "无效的令牌"}}, 401)
FORBIDDEN = reply({"error": {"message": "no"}}, 403)
OVERLOADED = reply({"error": {"message": "CPU", "code": "system_cpu_overloaded"}}, 503)
PAGE = reply("<html><title>New API</title></html>", 200, content_type="text/html")
BUSY = reply("", 502)
GOOD = reply(EXAMPLE)


def fields(status: str, progress: str = "0%", **others: Any) -> dict[str, Any]:
    return {**EXAMPLE, "status": status, "progress": progress, "imageUrl": "", "buttons": None, **others}


def task(status: str, progress: str = "0%", **others: Any) -> Response:
    return reply(fields(status, progress, **others))


RUNNING = task("IN_PROGRESS", "30%")


def reset(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("Connection reset by peer")


class Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A server of the fake clock: each response takes so many seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def respond(self, request: httpx.Request) -> tuple[float, Response]:
        raise NotImplementedError

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        delay, response = self.respond(request)
        limit = request.extensions["timeout"]["read"]
        self.clock.sleep(min(delay, limit))
        if delay > limit:
            raise httpx.ReadTimeout("timed out")
        return response(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        delay, response = self.respond(request)
        await anyio.sleep(delay)
        return response(request)


class Server(Transport):
    """Sends one response after the other, the last one again and again; a number is seconds that the next one takes."""

    def __init__(self, clock: Clock, *responses: Response | float) -> None:
        super().__init__(clock)
        self.responses = list(responses)
        self.moments: list[float] = []

    def respond(self, request: httpx.Request) -> tuple[float, Response]:
        del request
        self.moments.append(self.clock.now - 1000)
        delay = self.responses.pop(0) if isinstance(self.responses[0], float) else 0.0
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        assert isinstance(delay, float)
        assert callable(response)
        return delay, response


class Gateway(Transport):
    """Many tasks, by their ids: "6s" succeeds 6 s after the start; "lost" is unknown, "bad" fails."""

    def __init__(self, clock: Clock, *, delay: float = 0.05) -> None:
        super().__init__(clock)
        self.delay = delay
        self.polls: list[tuple[float, str, list[str]]] = []
        """When each poll came, its method, and the ids."""
        self.instead: Callable[[float, httpx.Request], Response | None] = lambda _now, _request: None
        """What it responds with instead, given the seconds since the start and the request."""

    def row(self, task_id: str) -> dict[str, Any] | None:
        if task_id.startswith("lost"):
            return None
        if task_id.startswith("bad"):
            return fields("FAILURE", id=task_id, failReason="bad")
        seconds, age = float(task_id.split("s", maxsplit=1)[0]), self.clock.now - 1000
        if age < seconds:
            return fields("IN_PROGRESS", f"{int(age / seconds * 10) * 10}%", id=task_id)
        return {**EXAMPLE, "id": task_id}

    def rows(self, ids: list[str]) -> list[Any]:
        return [row for row in map(self.row, reversed(ids)) if row]

    def respond(self, request: httpx.Request) -> tuple[float, Response]:
        ids = json.loads(request.content)["ids"] if request.method == "POST" else [request.url.path.split("/")[-2]]
        self.polls.append((self.clock.now - 1000, request.method, ids))
        response = reply(self.rows(ids)) if request.method == "POST" else reply(self.row(ids[0]))
        if request.method == "GET" and not self.row(ids[0]):
            response = NOT_FOUND
        return self.delay, self.instead(self.clock.now - 1000, request) or response

    def count(self, method: str, start: float = 0, end: float = 1e9) -> int:
        return sum(one == method and start <= moment <= end for moment, one, _ in self.polls)


class Awaitable:
    """A sync client that can be awaited, so that a script of several statements is written once."""

    def __init__(self, mj: Any) -> None:
        self._mj = mj

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = getattr(self._mj, "close" if name == "aclose" else name)(*args, **options)
            return Awaitable(result) if hasattr(result, "__next__") else self._awaited(result)

        return call

    async def _awaited(self, result: Any) -> Any:
        return result

    def __aiter__(self) -> Awaitable:
        return self

    async def __anext__(self) -> Any:
        for item in self._mj:
            return item
        raise StopAsyncIteration


def run(client: Client, server: Transport, script: Callable[[Any], Any]) -> Any:
    """What an async script returns; with the sync client too."""

    def sync(mj: Any) -> Any:
        with pytest.raises(StopIteration) as stop:
            script(Awaitable(mj)).send(None)
        return stop.value.value

    return client.run(sync if client.name == "sync" else script, server, server.clock)


def complete(
    client: Client, gateway: Gateway, ids: Iterable[Any], **options: Any
) -> dict[str, Task | errors.MidjourneyError]:
    """The outcomes of `as_completed`, each id once."""
    found = client.run(lambda mj: mj.as_completed(ids, **options), gateway, gateway.clock)
    outcomes = {str(task_id): outcome for task_id, outcome in found}
    assert len(outcomes) == len(found)
    return outcomes


def kinds(outcomes: dict[str, Task | errors.MidjourneyError]) -> set[str]:
    return {type(outcome).__name__ for outcome in outcomes.values()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def gateway(clock: Clock) -> Gateway:
    return Gateway(clock)


@pytest.fixture
def wait(client: Client, clock: Clock) -> Wait:
    """Waits for the task; the server is a list of responses, or a `Transport`."""

    def run(server: Any, timeout: float | None = 3700.0, task_id: str = TASK_ID, **options: Any) -> Task:
        server = server if isinstance(server, Transport) else Server(clock, *server)
        task = client.run(lambda mj: mj.wait(task_id, timeout=timeout), server, clock, **options)
        return cast("Task", task)

    return run


def test_a_finished_task_costs_one_request_and_no_sleep(wait: Wait, clock: Clock) -> None:
    server = Server(clock, GOOD)
    assert wait(server).succeeded
    assert server.moments == [0]
    assert clock.now == 1000


def test_a_timeout_of_0_is_one_poll(wait: Wait, clock: Clock) -> None:
    server = Server(clock, RUNNING)
    with pytest.raises(errors.WaitTimeoutError, match="last seen IN_PROGRESS 30 % 0 s ago") as caught:
        wait(server, timeout=0)
    assert server.moments == [0]
    assert caught.value.task is not None
    assert caught.value.task.progress == 30
    assert wait([GOOD], timeout=0).succeeded


def test_the_last_poll_is_at_the_deadline(wait: Wait, clock: Clock) -> None:
    server = Server(clock, RUNNING, RUNNING, RUNNING, GOOD)
    assert wait(server, timeout=10.0).succeeded
    assert server.moments[-1] == pytest.approx(10)


@pytest.mark.parametrize("timeout", [1.0, 5.1, 7.3, 40.0])
def test_a_wait_returns_in_time_even_if_the_server_hangs(wait: Wait, clock: Clock, timeout: float) -> None:
    with pytest.raises(errors.WaitTimeoutError, match="last seen IN_PROGRESS 30 %") as caught:
        wait([RUNNING, *[1e6, RUNNING] * 50], timeout=timeout)
    assert clock.now - 1000 <= timeout + 0.6
    assert isinstance(caught.value.last_error, errors.APIConnectionError)
    assert "The last poll failed: No response in time" in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.task, str(again)) == (caught.value.task, str(caught.value))


def test_a_response_that_comes_after_the_deadline_counts(wait: Wait, clock: Clock) -> None:
    assert wait([RUNNING, 0.4, GOOD], timeout=4.9).succeeded
    assert clock.now - 1000 > 4.9


@pytest.mark.slow
def test_without_a_timeout_a_wait_survives_an_outage_of_hours(wait: Wait, clock: Clock) -> None:
    assert wait([RUNNING, *[reset] * 1100, *[RUNNING] * 1000, GOOD], timeout=None).succeeded
    assert clock.now - 1000 > 2 * 3600


def test_the_default_timeout_is_a_little_above_the_gateways_hour(client: Client, clock: Clock) -> None:
    with pytest.raises(errors.WaitTimeoutError):
        client.run(lambda mj: mj.wait(TASK_ID), Server(clock, RUNNING), clock)
    assert 3600 + 2 * 15 < clock.now - 1000 < 3800


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("timeout", one) for one in (-1, float("nan"), "10", -0.1)), *(("task_id", one) for one in ("", "a/b", 5))],
)
def test_an_unusable_timeout_or_id_is_refused_without_a_request(
    wait: Wait, clock: Clock, name: str, value: Any
) -> None:
    server = Server(clock, GOOD)
    with pytest.raises(errors.ConfigurationError, match=r"seconds|A task id is"):
        wait(server, **{name: value})
    assert not server.moments


@pytest.mark.parametrize(
    "fault",
    [reset, BUSY, PAGE, reply("", 408), reply("", 429), reply("<html>", 522), reply("{", 200), REFUSED, NOT_FOUND],
)
def test_a_single_fault_ends_no_wait(wait: Wait, fault: Any) -> None:
    assert wait([fault, RUNNING, fault, GOOD], max_retries=0).succeeded


@pytest.mark.parametrize("fault", [reset, BUSY, PAGE, reply("", 429), NOT_FOUND, reply("", 404), reply("", 302)])
def test_transient_faults_end_no_wait_once_a_task_was_seen(wait: Wait, fault: Any) -> None:
    assert wait([RUNNING, *[fault] * 100, GOOD]).succeeded


@pytest.mark.parametrize("fault", [reset, BUSY, reply("", 429)])
def test_lost_connections_5xx_and_429_end_no_wait_before_a_task_was_seen(wait: Wait, fault: Any) -> None:
    assert wait([fault] * 100 + [GOOD]).succeeded
    with pytest.raises(errors.WaitTimeoutError, match="never") as caught:
        wait([fault], timeout=60)
    assert caught.value.last_error is not None


@pytest.mark.parametrize(
    ("responses", "error", "polls"),
    [
        ([FORBIDDEN], errors.PermissionDeniedError, 1),
        ([RUNNING, FORBIDDEN], errors.PermissionDeniedError, 2),
        ([REFUSED, REFUSED], errors.AuthenticationError, 2),
        ([RUNNING, REFUSED, RUNNING, REFUSED, REFUSED], errors.AuthenticationError, 5),
        ([NOT_FOUND, NOT_FOUND], errors.TaskNotFoundError, 2),
        ([PAGE] * 3, errors.InvalidResponseError, 3),
        ([reply("", 404)] * 3, errors.APIResponseError, 3),
        ([reply("", 301, location="https://elsewhere/")] * 3, errors.APIResponseError, 3),
    ],
)
def test_lasting_refusals_end_a_wait(
    wait: Wait, clock: Clock, responses: list[Any], error: type[errors.MidjourneyError], polls: int
) -> None:
    server = Server(clock, *responses, GOOD)
    with pytest.raises(error) as caught:
        wait(server)
    assert caught.value.task_id == TASK_ID
    assert len(server.moments) == polls
    assert clock.now - 1000 < 20


def test_a_mistake_in_the_program_ends_a_wait(wait: Wait) -> None:
    def mistaken(_: httpx.Request) -> httpx.Response:
        raise TypeError("a mistake")

    with pytest.raises(errors.APIConnectionError, match="not a fault of the network"):
        wait([RUNNING, mistaken])


def test_a_wait_obeys_retry_after_up_to_a_minute_and_its_own_deadline(wait: Wait, clock: Clock) -> None:
    for asked, timeout, least, most in [("20", 99, 20, 21), ("9999", 99, 60, 61), ("-5", 99, 0, 6), ("50", 7, 7, 7.01)]:
        start = clock.now
        assert wait([reply("", 429, retry_after=asked), GOOD], timeout=timeout).succeeded
        assert least <= clock.now - start <= most


@pytest.mark.parametrize(
    ("response", "error", "text"),
    [
        (task("FAILURE", failReason="Invalid link\x1b[31m"), errors.TaskFailedError, '"Invalid link [31m"'),
        (task("FAILURE"), errors.TaskFailedError, "no reason"),
        (task("", failReason="banned"), errors.TaskFailedError, '"banned"'),
        (task("CANCEL"), errors.TaskCancelledError, "cancelled"),
    ],
)
def test_a_failed_task_raises_an_error(wait: Wait, response: Any, error: type[errors.TaskError], text: str) -> None:
    with pytest.raises(error, match=r"FAILURE|CANCEL") as caught:
        wait([RUNNING, response])
    assert text in str(caught.value)
    assert caught.value.task.failed
    assert pickle.loads(pickle.dumps(caught.value)).task == caught.value.task


def test_a_task_in_modal_for_five_minutes_is_blocked(wait: Wait, clock: Clock) -> None:
    assert wait([*[task("MODAL")] * 10, RUNNING, *[task("MODAL")] * 10, GOOD]).succeeded
    start = clock.now
    with pytest.raises(errors.TaskBlockedError, match="window") as caught:
        wait([RUNNING, task("MODAL")])
    assert caught.value.task.status == "MODAL"
    assert 300 <= clock.now - start <= 325


def test_a_wait_goes_on_at_an_unknown_status(wait: Wait, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anyapi_midjourney"):
        assert wait([*[task("PAUSED\x1b[2J")] * 5, *[task(f"PAUSED {n}") for n in range(50)], GOOD]).succeeded
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == 'A task has the unknown status "PAUSED [2J"; the wait goes on.'
    assert len(texts) == len(set(texts)) == 10


def test_watch_gives_the_task_at_first_sight_and_at_every_change(client: Client, clock: Clock) -> None:
    states = ["", "", "1% p?1", "1% p?2", "50% p?3", "50% q?3"]
    responses = [
        task("IN_PROGRESS" if state else "", state.split(" ")[0], imageUrl=f"https://cdn/{state[-3:]}")
        for state in states
    ]
    server = Server(clock, *responses[:3], BUSY, *responses[3:], task("FAILURE", "100%", failReason="no"))
    seen = client.run(lambda mj: mj.watch(TASK_ID), server, clock)
    assert [one.progress for one in seen] == [None, 1, 50, 50, 100]
    blocked = client.run(lambda mj: mj.watch(TASK_ID), Server(clock, RUNNING, task("MODAL")), clock)
    assert [one.status for one in blocked] == ["IN_PROGRESS", "MODAL"]


@pytest.mark.parametrize(
    ("responses", "error"), [([RUNNING], errors.WaitTimeoutError), ([FORBIDDEN], errors.PermissionDeniedError)]
)
def test_watch_raises_what_is_not_a_task_error(
    client: Client, clock: Clock, responses: list[Any], error: type[errors.MidjourneyError]
) -> None:
    with pytest.raises(error):
        client.run(lambda mj: mj.watch(TASK_ID, timeout=30), Server(clock, *responses), clock)


def test_a_wait_that_timed_out_ends_with_the_words_of_its_last_fault(wait: Wait) -> None:
    with pytest.raises(errors.WaitTimeoutError, match=r"The last poll failed: HTTP 502\.") as caught:
        wait([RUNNING, BUSY], timeout=60)
    assert isinstance(caught.value.last_error, errors.ServerError)


@pytest.mark.parametrize("cause", ["certificate", "407"])
def test_what_can_never_pass_ends_a_wait_at_the_third_time(wait: Wait, clock: Clock, cause: str) -> None:
    def fault(_: httpx.Request) -> httpx.Response:
        if cause == "407":
            raise httpx.ProxyError("407 Proxy Authentication Required")
        raise httpx.ConnectError("untrusted") from ssl.SSLCertVerificationError("self-signed certificate")

    server = Server(clock, fault)
    with pytest.raises(errors.APIConnectionError):
        wait(server)
    assert len(server.moments) == 3
    assert wait([RUNNING, *[fault] * 9, GOOD]).succeeded


def test_an_overloaded_gateway_is_polled_again_after_2_to_5_seconds(wait: Wait, clock: Clock) -> None:
    server = Server(clock, RUNNING, *[OVERLOADED] * 9, GOOD)
    assert wait(server).succeeded
    assert all(2 <= later - earlier <= 5 for earlier, later in pairwise(server.moments[1:]))


class Window(Gateway):
    """A task whose window was answered: `fetch` reads the old row until the end, a list has both rows."""

    old_status = "MODAL"

    def row(self, task_id: str) -> dict[str, Any]:
        ended = self.clock.now > 1900
        return {**EXAMPLE, "id": task_id} if ended else fields(self.old_status, action="INPAINT", id=task_id)

    def rows(self, ids: list[str]) -> list[Any]:
        live = fields("IN_PROGRESS", f"{int(self.clock.now - 1000) // 10}%", action="MODAL", id=ids[0])
        rows = [self.row(ids[0]), live if self.clock.now < 1900 else {**EXAMPLE, "action": "MODAL", "id": ids[0]}]
        return rows if len(self.polls) % 2 else rows[::-1]  # the list has no order


@pytest.mark.parametrize("old_status", ["MODAL", ""])
def test_a_task_whose_window_was_answered_is_not_blocked(client: Client, clock: Clock, old_status: str) -> None:
    gateway = Window(clock)
    gateway.old_status = old_status
    seen = client.run(lambda mj: mj.watch(TASK_ID), gateway, clock)
    assert len({one.progress for one in seen}) > 50
    assert seen[-1].succeeded
    assert gateway.count("GET") < 20
    again = complete(client, Window(clock), [TASK_ID])[TASK_ID]
    assert isinstance(again, Task)


def test_as_completed_gives_each_id_once_with_its_outcome(client: Client, gateway: Gateway) -> None:
    ids: list[Any] = ["30s", "6s", "lost", "bad", "a/b", "6s", None, [], KEY, object, "900s"]
    outcomes = complete(client, gateway, iter(ids), timeout=200)
    assert KEY not in str(outcomes[KEY])
    assert [task_id for task_id, outcome in outcomes.items() if isinstance(outcome, Task)] == ["6s", "30s"]
    assert sum(isinstance(outcome, errors.ConfigurationError) for outcome in outcomes.values()) == 5
    kinds = {"lost": errors.TaskNotFoundError, "bad": errors.TaskFailedError, "900s": errors.WaitTimeoutError}
    assert all(type(outcomes[task_id]) is kind for task_id, kind in kinds.items())
    assert list(outcomes)[-1] == "900s"
    assert gateway.clock.now - 1000 <= 200.6


def test_a_list_that_has_strange_elements_harms_no_task(client: Client, gateway: Gateway) -> None:
    strange: list[Any] = [None, {}, 5, "1", [], {"id": None}, {"id": {}}, fields("FAILURE", id="foreign")]
    rows = [{**EXAMPLE, "id": task_id} for task_id in (3, 1, "2")]
    gateway.instead = lambda _now, _request: reply([*strange, *rows, *strange])
    assert kinds(complete(client, gateway, ["1", "2", "3"])) == {"Task"}
    assert len(gateway.polls) == 1


@pytest.mark.slow
def test_thousands_of_tasks_and_one_database_fault_make_few_requests(client: Client, gateway: Gateway) -> None:
    gateway.instead = lambda now, _: reply([]) if 4 < now < 5 else None
    number = 10_000 if client.name == "sync" else 2_000
    outcomes = complete(client, gateway, [f"6s-{n}" for n in range(number)])
    assert kinds(outcomes) == {"Task"}
    assert gateway.count("GET") == 0
    assert gateway.count("POST") < 0.02 * number
    assert max(len(ids) for _, _, ids in gateway.polls) == 500


@pytest.mark.slow
@pytest.mark.parametrize(("start", "response"), [(-1, BUSY), (4, NOT_FOUND)])
def test_a_lasting_database_fault_makes_no_storm(client: Client, gateway: Gateway, start: float, response: Any) -> None:
    def instead(now: float, request: httpx.Request) -> Any:
        return (reply([]) if request.method == "POST" else response) if start < now < start + 120 else None

    gateway.instead = instead
    outcomes = complete(client, gateway, [f"6s-{n}" for n in range(1_500)])
    assert kinds(outcomes) == {"Task"}
    assert gateway.count("POST", start, start + 120) < 150
    assert gateway.count("GET") < 1000  # plain polling every 5 s would make 36,000


def test_tasks_that_a_list_lacks_are_fetched_one_by_one_at_most_sixteen_at_once(
    client: Client, gateway: Gateway
) -> None:
    at_once: list[int] = []

    def instead(now: float, request: httpx.Request) -> Response | None:
        at_once.append(sum(method == "GET" and moment > now - 0.04 for moment, method, _ in gateway.polls))
        return reply(gateway.rows(gateway.polls[-1][2][::2])) if request.method == "POST" else None

    gateway.instead = instead
    assert kinds(complete(client, gateway, [f"6s-{n}" for n in range(200)])) == {"Task"}
    assert max(at_once) == (1 if client.name == "sync" else 16)


@pytest.mark.parametrize("other", ["0s", "600s"])
def test_a_mistyped_id_beside_another_is_found_unknown_soon(client: Client, gateway: Gateway, other: str) -> None:
    async def script(mj: Any) -> None:
        async for task_id, outcome in mj.as_completed([other, "lost"]):
            if task_id == "lost":
                assert isinstance(outcome, errors.TaskNotFoundError)
                return

    run(client, gateway, script)
    assert gateway.clock.now - 1000 < 5


def test_an_id_that_is_never_found_is_given_up_after_five_minutes(client: Client, gateway: Gateway) -> None:
    async def script(mj: Any) -> None:
        await mj.fetch("0s")
        await mj.wait("lost")

    with pytest.raises(errors.TaskNotFoundError):
        run(client, gateway, script)
    assert 300 <= gateway.clock.now - 1000 <= 310


def test_three_responses_about_another_task_end_a_wait(client: Client, gateway: Gateway) -> None:
    async def script(mj: Any) -> None:
        await mj.fetch("0s")
        await mj.wait("60s")

    gateway.instead = lambda now, _: reply({**EXAMPLE, "id": "foreign"}) if now > 0 else None
    with pytest.raises(errors.InvalidResponseError, match="another task"):
        run(client, gateway, script)
    assert gateway.clock.now - 1000 < 30


ABSENT = [reply("", 404), reply("", 405), reply("", 501), PAGE, reply({"data": []})]


@pytest.mark.slow
@pytest.mark.parametrize("absent", ABSENT)
def test_an_absent_list_is_tried_again_after_ten_minutes(client: Client, gateway: Gateway, absent: Any) -> None:
    gateway.instead = lambda _, request: absent if request.method == "POST" else None
    outcomes = complete(client, gateway, [f"700s-{n}" for n in range(2)])
    assert kinds(outcomes) == {"Task"}
    assert gateway.count("POST") == 1 + gateway.count("POST", 600, 630) == 2


def test_a_maintenance_page_is_not_taken_for_a_gateway_without_the_list(client: Client, gateway: Gateway) -> None:
    gateway.instead = lambda now, _: PAGE if 20 < now < 50 else None
    outcomes = complete(client, gateway, [f"90s-{n}" for n in range(100)])
    assert kinds(outcomes) == {"Task"}
    assert gateway.count("GET", 51) == 0


@pytest.mark.parametrize("delay", [0.05, 2.0])
def test_many_tasks_share_one_deadline_and_one_last_round(client: Client, clock: Clock, delay: float) -> None:
    gateway = Gateway(clock, delay=delay)
    outcomes = complete(client, gateway, [f"1.9s-{n}" for n in range(1200)], timeout=2)
    assert clock.now - 1000 <= 2.6
    assert kinds(outcomes) == {"Task" if delay < 1 else "WaitTimeoutError"}
    assert len({task_id for _, _, ids in gateway.polls for task_id in ids}) == 1200


def test_a_paused_client_polls_once_more_at_the_deadline(client: Client, clock: Clock, gateway: Gateway) -> None:
    gateway.instead = lambda _now, _request: reply("", 429, retry_after="100")
    outcomes = complete(client, gateway, map(str, range(1200)), timeout=10)
    assert kinds(outcomes) == {"WaitTimeoutError"}
    assert len(gateway.polls) == 2
    assert clock.now - 1000 <= 10.6


def test_retry_after_pauses_all_waits_of_a_client(client: Client, gateway: Gateway) -> None:
    limited = reply("", 429, retry_after="40")
    gateway.instead = lambda _now, _request: limited if len(gateway.polls) == 2 else None
    complete(client, gateway, [f"20s-{n}" for n in range(1200)])
    assert all(moment < 1 or moment >= 40 for moment, _, _ in gateway.polls)
    assert len(gateway.polls) > 4


def test_on_change_gets_each_change_before_the_outcome(client: Client, gateway: Gateway) -> None:
    changes: list[Task] = []

    async def script(mj: Any) -> None:
        async for task_id, outcome in mj.as_completed(["0s", "30s", "30s-b"], on_change=changes.append):
            assert [one for one in changes if one.id == task_id][-1] is outcome

    run(client, gateway, script)
    progress = [one.progress or 0 for one in changes if one.id == "30s"]
    assert progress == sorted(set(progress))
    assert (progress[0], progress[-1]) == (0, 100)
    assert len(progress) > 4


def test_an_on_change_that_raises_loses_nothing(client: Client, gateway: Gateway) -> None:
    async def script(mj: Any) -> None:
        found: list[str] = []

        def on_change(_: Task) -> None:
            found.append("raised")
            raise ZeroDivisionError

        outcomes = mj.as_completed(["0s", "0s-b", "bad"], on_change=on_change)
        while len(found) < 6:
            with contextlib.suppress(ZeroDivisionError):
                found.append((await anext(outcomes))[0])
        assert sorted(found) == ["0s", "0s-b", "bad", "raised", "raised", "raised"]
        assert [outcome async for outcome in outcomes] == []

    run(client, gateway, script)
    assert len(gateway.polls) == 1


@pytest.mark.parametrize("ids", [TASK_ID, b"1", 5, None])
def test_what_is_no_iterable_of_ids_is_refused(client: Client, gateway: Gateway, ids: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="wait"):
        complete(client, gateway, ids)


def test_a_loop_can_be_left_and_continued_until_it_is_closed(client: Client, gateway: Gateway) -> None:
    async def script(mj: Any) -> None:
        outcomes = mj.as_completed(["6s", "30s", "300s"])
        async for task_id, _ in outcomes:
            assert task_id == "6s"
            break
        assert (await anext(outcomes))[0] == "30s"
        await outcomes.aclose()
        assert [outcome async for outcome in outcomes] == []

    run(client, gateway, script)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("ids", [["6s"], ["6s", "6s-b"], ["lost", "6s"]])
def test_an_awaited_outcome_may_be_cancelled_and_awaited_again(clock: Clock, backend: str, ids: list[str]) -> None:
    gateway = Gateway(clock, delay=0.5)

    async def script(mj: Any) -> list[str]:
        outcomes, found = mj.as_completed(ids), list[str]()
        for seconds in [0.2, 0.3, 0.4] * 3 + [0.52] * 40:
            with anyio.move_on_after(seconds):
                found += [(await anext(outcomes))[0]] if len(found) < len(ids) else []
        return found

    assert sorted(Client(backend).run(script, gateway, clock)) == sorted(ids)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_runs_after_a_loop_was_left(gateway: Gateway, backend: str) -> None:
    async def script(mj: Any) -> None:
        living = trio.lowlevel.current_statistics().tasks_living if backend == "trio" else 0
        async for _ in mj.as_completed(["0s", *[f"60s-{n}" for n in range(50)]]):
            break
        assert backend == "trio" or len(asyncio.all_tasks()) == 1
        assert backend == "asyncio" or trio.lowlevel.current_statistics().tasks_living == living

    Client(backend).run(script, gateway, gateway.clock)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_ends_what_somebody_awaits_and_two_cannot_await_one_item(gateway: Gateway, backend: str) -> None:
    async def script(mj: Any) -> None:
        outcomes, found = mj.as_completed(["60s"]), list[Any]()

        async def collect() -> None:
            found.extend([outcome async for outcome in outcomes])

        async with anyio.create_task_group() as group:
            group.start_soon(collect)
            await anyio.sleep(7)
            with pytest.raises(RuntimeError, match="already"):
                await anext(outcomes)
            await outcomes.aclose()
        assert found == []

    Client(backend).run(script, gateway, gateway.clock)
    assert gateway.polls[-1][0] < 7


class Refreshing(Gateway):
    """As the real one: it shows what it read at the last multiple of 15 s."""

    def row(self, task_id: str) -> dict[str, Any]:
        age = self.clock.now // 15 * 15 - float(task_id)
        return {**EXAMPLE, "id": task_id} if age > 40 else fields("IN_PROGRESS", f"{int(max(age, 0))}%", id=task_id)


def test_a_client_learns_the_refresh_cycle_and_keeps_it_from_one_wait_to_the_next(client: Client, clock: Clock) -> None:
    gateway = Refreshing(clock)
    lags: list[float] = []

    async def script(mj: Any) -> None:
        for _ in range(11):
            clock.sleep(8.0)  # between two waits
            await mj.wait(f"{clock.now:.0f}")
            lags.append(clock.now % 15)

    run(client, gateway, script)
    assert max(lags[2:]) < 1.2
    assert len(gateway.polls) / 11 < 10  # every 5 s it would be 11
