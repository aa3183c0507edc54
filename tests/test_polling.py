"""What holds for a wait whatever comes, in whatever order and however late: no I/O, and a clock of its own."""

from __future__ import annotations

import gc
import tracemalloc
from collections import defaultdict
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

import hypothesis.strategies as st
from anyapi_midjourney.polling import GRACE, Look, Memory, Wait
from attrs import Factory, define
from hypothesis import given

from anyapi_midjourney import (
    APIConnectionError,
    AuthenticationError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    Task,
    TaskBlockedError,
    TaskFailedError,
    TaskNotFoundError,
    WaitTimeoutError,
)
from anyapi_midjourney_generated import models
from shells import EXAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterable


def seen(status: str, progress: int = 0) -> Task:
    return Task.from_model(models.Task.from_dict({**EXAMPLE, "status": status, "progress": f"{progress}%"}))


END = {"SUCCESS": seen("SUCCESS"), "FAILURE": seen("FAILURE")}
ANSWERS: dict[str, Task | MidjourneyError] = {
    **END,
    "MODAL": seen("MODAL"),
    "unknown": seen("PAUSED"),
    **{f"{n}%": seen("IN_PROGRESS", n) for n in (0, 40, 80)},
    "lost": APIConnectionError("reset"),
    "502": ServerError(502, {}, ""),
    "429": RateLimitError(429, {}, ""),
    "429, 20 s": RateLimitError(429, {"retry-after": "20"}, ""),
    "429, a year": RateLimitError(429, {"retry-after": "31536000"}, ""),
    "html": InvalidResponseError(200, {}, "<html>"),
    "401": AuthenticationError(401, {}, {}),
    "403": PermissionDeniedError(403, {}, {}),
    "404": TaskNotFoundError(400, {}, {"code": 4}),
}


@define
class Ask:
    """What a server makes of one request: an answer after some seconds."""

    answer: str
    seconds: float


Flight: TypeAlias = tuple[float, Look, Task | MidjourneyError]


@define
class World:
    """Does what a wait says, as the clients do, and watches it."""

    timeout: float | None
    max_in_flight: int
    scripts: dict[str, list[Ask]]
    now: float = 100.0
    asked: list[tuple[float, str]] = Factory(list[tuple[float, str]])
    outcomes: list[tuple[str, Task | MidjourneyError]] = Factory(list[tuple[str, Task | MidjourneyError]])
    answers: dict[str, list[Task | MidjourneyError]] = Factory(lambda: defaultdict(list))
    """What came to each id, in time or not."""

    def run(self, ids: Iterable[str]) -> None:
        wait = Wait(
            ids,
            Memory(),
            check=str,
            timeout=self.timeout,
            request_timeout=30,
            max_in_flight=self.max_in_flight,
            clock=lambda: self.now,
        )
        deadline = inf if self.timeout is None else self.now + self.timeout
        flying: list[Flight] = []
        for _ in range(20_000):
            step = None if wait.ready else wait.step()
            if isinstance(step, Look):
                self._send(step, wait.allowance(), deadline, flying)
            elif step is not None:
                limit = self.now + step
                assert limit <= (deadline if self.now < deadline else deadline + GRACE + 0.1) + 1e-6, "slept too long"
                self._land(wait, flying, limit, most=1)
            elif flying:
                self._land(wait, flying, self.now + wait.grace(), most=99)
                while flying:  # as the asynchronous client does
                    wait.answer(flying.pop()[1], None)
            elif outcome := wait.outcome():
                assert outcome[0] not in dict(self.outcomes), "two outcomes"
                self.outcomes.append(outcome)
            else:
                assert self.now <= deadline + GRACE + 0.1, "came back too late"
                return
        raise AssertionError("it never ends")

    def _send(self, look: Look, allowance: float, deadline: float, flying: list[Flight]) -> None:
        assert look.task_id not in dict(self.outcomes), "asked after its end"
        assert look.task_id not in {one[1].task_id for one in flying}, "asked twice at once"
        assert len(flying) < self.max_in_flight
        assert self.now <= deadline + GRACE + 0.1
        assert 0 < allowance <= 30
        assert self.now > deadline or allowance >= GRACE - 1e-6
        self.asked.append((self.now, look.task_id))
        script = self.scripts[look.task_id]
        ask = script.pop(0) if len(script) > 1 else script[0]
        late = ask.seconds > allowance
        answer = APIConnectionError("timed out") if late else ANSWERS[ask.answer]
        flying.append((self.now + min(ask.seconds, allowance), look, answer))

    def _land(self, wait: Wait, flying: list[Flight], limit: float, most: int) -> None:
        landing = sorted((one for one in flying if one[0] <= limit), key=lambda one: one[0])[:most]
        assert landing or limit < inf, "it sleeps for ever"
        for one in landing:
            self.now = max(self.now, one[0])
            flying.remove(one)
            self.answers[one[1].task_id].append(one[2])
            wait.answer(one[1], one[2])
        self.now = self.now if landing else max(self.now, limit)


asks = st.builds(
    Ask,
    st.sampled_from(sorted(ANSWERS)),
    st.one_of(st.just(0.05), st.floats(0, 1), st.floats(0, 60)),
)
endings = st.builds(Ask, st.sampled_from([*sorted(END), "40%", "502"]), st.just(0.05))
scripts = st.tuples(st.lists(asks, max_size=12), endings).map(lambda script: [*script[0], script[1]])


@given(
    st.one_of(st.sampled_from([0.0, 1.0, 20.0, 400.0, 3700.0]), st.floats(0, 100)),
    st.integers(1, 4),
    st.lists(scripts, min_size=1, max_size=5),
)
def test_every_id_has_one_outcome_in_time_and_no_answer_is_lost(
    timeout: float, max_in_flight: int, scripts: list[list[Ask]]
) -> None:
    world = World(timeout, max_in_flight, {str(n): script for n, script in enumerate(scripts)})
    world.run([*world.scripts, *world.scripts])
    assert sorted(dict(world.outcomes)) == sorted(world.scripts)
    for task_id, outcome in world.outcomes:
        *before, last = [None, *world.answers[task_id]]
        assert not any(isinstance(answer, Task) and answer.done for answer in before)
        if isinstance(last, Task) and last.done:
            assert outcome is last or (isinstance(outcome, TaskFailedError) and outcome.task is last)
        elif isinstance(outcome, WaitTimeoutError):
            assert world.now >= 100 + timeout
            assert outcome.task is next((one for one in [last, *before[::-1]] if isinstance(one, Task)), None)
            errors = [one for one in [*before, last] if isinstance(one, MidjourneyError)]
            assert outcome.last_error is (errors[-1] if errors else None)
        elif isinstance(outcome, TaskBlockedError):
            assert outcome.task is last
        else:
            assert outcome is last
            assert isinstance(
                outcome, (PermissionDeniedError, AuthenticationError, TaskNotFoundError, InvalidResponseError)
            )
            assert isinstance(outcome, PermissionDeniedError) or isinstance(before[-1], type(outcome))


@given(st.lists(asks, max_size=30))
def test_without_a_deadline_it_waits_until_the_end(script: list[Ask]) -> None:
    world = World(None, 1, {"1": [*script, Ask("SUCCESS", 0.05)]})
    world.run(["1"])
    (outcome,) = world.outcomes
    assert isinstance(outcome[1], Task | MidjourneyError)
    assert not isinstance(outcome[1], WaitTimeoutError)


@given(st.lists(st.sampled_from(["0%", "40%", "80%", "unknown"]), min_size=1, max_size=200))
def test_looks_are_never_closer_than_an_eighth_of_a_second_nor_further_apart_than_a_slow_round(
    answers: list[str],
) -> None:
    world = World(None, 1, {"1": [Ask(answer, 0.05) for answer in [*answers, "SUCCESS"]]})
    world.run(["1"])
    moments = [moment for moment, _ in world.asked]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert all(0.12 <= gap <= 27 for gap in gaps)


def test_a_waiting_task_takes_less_than_4_kib() -> None:
    number = 10_000
    body: dict[str, Any] = {
        **EXAMPLE,
        "status": "IN_PROGRESS",
        "progress": "40%",
        "buttons": [],
        "imageUrl": "",
        "properties": None,
    }
    now = 0.0
    gc.collect()
    tracemalloc.start()
    try:
        wait = Wait(
            (f"17306218260{n:05}" for n in range(number)),
            Memory(),
            check=str,
            timeout=3700,
            request_timeout=30,
            max_in_flight=16,
            clock=lambda: now,
        )
        for _ in range(number):
            look = wait.step()
            assert isinstance(look, Look)
            task = Task.from_model(models.Task.from_dict({name: _copy(value) for name, value in body.items()}))
            wait.answer(look, task)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / number < 4096
    finally:
        tracemalloc.stop()


def _copy(value: Any) -> Any:
    return value.encode().decode() if isinstance(value, str) else value
