"""What holds for a schedule whatever a server does and however late. No I/O, and a clock of its own."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections import defaultdict
from math import inf
from typing import Any

import hypothesis.strategies as st
import pytest
from attrs import Factory, define
from hypothesis import given

from anyapi_midjourney import Task, errors
from anyapi_midjourney._waiting import (
    GRACE,
    LIST_ABSENT_FOR,
    LIST_SIZE,
    SINGLES,
    Batch,
    GatewayState,
    Schedule,
    Terms,
    Watch,
)
from clients import EXAMPLE

TRANSIENT: dict[str, errors.MidjourneyError] = {
    "lost": errors.APIConnectionError("reset"),
    "502": errors.ServerError(502, {}, ""),
    "429": errors.RateLimitError(429, {}, ""),
    "429, 20 s": errors.RateLimitError(429, {"retry-after": "20"}, ""),
}
FINAL: dict[str, errors.MidjourneyError] = {
    "429, a year": errors.RateLimitError(429, {"retry-after": "31536000"}, ""),
    "html": errors.InvalidResponseError(200, {}, "<html>"),
    "401": errors.AuthenticationError(401, {}, {}),
    "403": errors.PermissionDeniedError(403, {}, {}),
    "404": errors.TaskNotFoundError(400, {}, {"code": 4}),
}
ERRORS = TRANSIENT | FINAL
LISTS = ["", "empty", "half", "absent", "cancelled"]
"""What a list can be, if not an error: "" has all tasks, "half" has every second one."""


@define
class Life:
    """What becomes of a task, and when."""

    end: str
    seconds: float

    def row(self, task_id: str, age: float) -> dict[str, Any]:
        status = self.end if age >= self.seconds else "IN_PROGRESS"
        progress = f"{int(min(age / max(self.seconds, 1), 1) * 5) * 20}%"
        return {**EXAMPLE, "id": task_id, "status": status, "progress": progress, "buttons": None}


@define
class World:
    """Does what a schedule says, as the clients do, and checks it."""

    timeout: float
    lives: dict[str, Life]
    script: list[tuple[str, float]]
    """What becomes of each request, and the seconds that it takes. After the last one all is well."""
    now: float = 100.0
    state: GatewayState = Factory(GatewayState)
    outcomes: list[tuple[str, Task | errors.MidjourneyError]] = Factory(list[tuple[str, Task | errors.MidjourneyError]])
    responses: dict[str, list[dict[str, Any] | errors.MidjourneyError]] = Factory(lambda: defaultdict(list))
    changes: list[Task] = Factory(list[Task])
    requests: int = 0

    def run(self) -> None:
        terms = Terms(self.state, lambda: self.now, str, self.timeout, 30, many=True)
        schedule = Schedule([*self.lives, *self.lives], terms, self.changes.append)
        for _ in range(20_000):
            step = schedule.step()
            if step is None and not schedule.items:
                assert self.now <= terms.deadline + GRACE + 0.1, "returned too late"
                return
            while schedule.items:
                self.outcomes.append(schedule.items.popleft())
            if isinstance(step, Batch):
                assert not {watch.task_id for watch in step.watches} & dict(self.outcomes).keys(), (
                    "polled after its end"
                )
                assert len({watch.task_id for watch in step.watches}) == len(step.watches) <= LIST_SIZE
                if step.one_by_one:
                    self._poll_each(step)
                else:
                    self._poll_together(schedule, step)
            elif step is not None:
                assert 0 < step < inf
                self.now += step
                assert self.now <= terms.deadline + 1e-6, "slept too long"
        raise AssertionError("it never ends")

    def _next(self, until: float) -> str:
        self.requests += 1
        assert until - self.now <= 30 + 1e-6
        what, seconds = self.script.pop(0) if self.script else ("", 0.05)
        late = self.now + seconds > until
        self.now = max(self.now, min(self.now + seconds, until))
        return "lost" if late else what

    def _poll_each(self, batch: Batch) -> None:
        assert len(batch.watches) <= SINGLES
        for watch in batch.watches:
            if (until := watch.begin(batch.until)) > self.now:
                if (what := self._next(until)) == "cancelled":
                    return
                if error := ERRORS.get(what):
                    watch.on_error(error)
                else:
                    watch.on_row(self._row(watch.task_id))
                self.responses[watch.task_id].append(error or self._row(watch.task_id))

    def _poll_together(self, schedule: Schedule, batch: Batch) -> None:
        what = self._next(min([watch.begin(batch.until) for watch in batch.watches]))
        ids = [watch.task_id for watch in batch.watches]
        if what in ERRORS:
            for task_id in ids:
                self.responses[task_id].append(ERRORS[what])
            schedule.on_error(batch.watches, ERRORS[what])
        elif what != "cancelled":
            if what == "absent":
                self.state.list_absent_until = self.now + LIST_ABSENT_FOR
            shown = {"": ids, "half": ids[::2], "absent": ids[:1], "empty": []}[what]
            rows = {task_id: self._row(task_id) for task_id in shown}
            for task_id, row in rows.items():
                self.responses[task_id].append(row)
            schedule.on_rows(batch.watches, rows)

    def _row(self, task_id: str) -> dict[str, Any]:
        return self.lives[task_id].row(task_id, self.now - 100)


seconds = st.one_of(st.just(0.05), st.floats(0, 1), st.floats(0, 60))
numbered = st.lists(
    st.builds(Life, st.sampled_from(["SUCCESS", "FAILURE", "MODAL", "PAUSED"]), st.floats(0, 100)),
    min_size=1,
    max_size=40,
).map(lambda lives: {str(n): life for n, life in enumerate(lives)})


@given(
    st.one_of(st.sampled_from([0.0, 1.0, 20.0, 400.0, 3700.0]), st.floats(0, 100)),
    numbered,
    st.lists(st.tuples(st.sampled_from([*LISTS, *ERRORS]), seconds), max_size=40),
)
def test_every_id_has_one_outcome_in_time_that_agrees_with_the_last_response(
    timeout: float, lives: dict[str, Life], script: list[tuple[str, float]]
) -> None:
    world = World(timeout, lives, script)
    world.run()
    assert sorted(task_id for task_id, _ in world.outcomes) == sorted(lives)
    for task_id, outcome in world.outcomes:
        responses = world.responses[task_id]
        rows = [row for row in responses if isinstance(row, dict)]
        seen = [change for change in world.changes if change.id == task_id]
        assert len(seen) == len({(row["status"], row["progress"]) for row in rows})
        assert not any(row["status"] in ("SUCCESS", "FAILURE") for row in rows[:-1])
        if isinstance(outcome, Task | errors.TaskFailedError | errors.TaskBlockedError):
            ended = outcome if isinstance(outcome, Task) else outcome.task
            assert ended.raw.to_dict()["status"] == rows[-1]["status"] == ended.status
            assert ended is seen[-1] or isinstance(outcome, errors.TaskBlockedError)
        elif isinstance(outcome, errors.WaitTimeoutError):
            assert world.now >= 100 + timeout
            assert bool(outcome.task) == bool(rows)
        else:
            assert type(outcome) in {type(error) for error in FINAL.values()}
            assert type(responses[-1]) is type(outcome)


@given(numbered, st.lists(st.tuples(st.sampled_from([*LISTS, *TRANSIENT]), seconds), max_size=60))
def test_without_a_deadline_no_transient_fault_loses_a_task(
    lives: dict[str, Life], script: list[tuple[str, float]]
) -> None:
    lives = {task_id: Life("SUCCESS", life.seconds) for task_id, life in lives.items()}
    world = World(inf, lives, script)
    world.run()
    assert sorted(task_id for task_id, _ in world.outcomes) == sorted(lives)
    assert all(isinstance(outcome, Task) for _, outcome in world.outcomes)


def waiting(count: int) -> tuple[Schedule, list[Watch]]:
    """A schedule of many tasks that were all in a list once; and the tasks."""
    now = 0.0
    schedule = Schedule(
        [f"17306218260{n:05}" for n in range(count)], Terms(GatewayState(), lambda: now, str, 3700, 30, many=True)
    )
    watches: list[Watch] = []
    while len(watches) < count:
        batch = schedule.step()
        assert isinstance(batch, Batch)
        watches += batch.watches
        schedule.on_rows(batch.watches, {watch.task_id: body(watch.task_id) for watch in batch.watches})
    return schedule, watches


def body(task_id: str) -> dict[str, Any]:
    """As JSON gives it: no string is shared with another task's."""
    running = {"id": task_id, "status": "IN_PROGRESS", "progress": "40%", "imageUrl": "", "properties": None}
    values: dict[str, Any] = json.loads(json.dumps(EXAMPLE | running | {"buttons": []}))
    return values


@pytest.mark.slow
def test_a_waiting_task_takes_at_most_4_kib() -> None:
    waiting(500)
    gc.collect()
    tracemalloc.start()
    try:
        kept = waiting(10_000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / len(kept[1]) < 4096
    finally:
        tracemalloc.stop()


def test_a_row_that_has_not_changed_is_not_converted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, watches = waiting(500)
    monkeypatch.delattr(Task, "from_model")
    schedule.on_rows(watches, {watch.task_id: body(watch.task_id) for watch in watches})
    assert not any(watch.faults for watch in watches)
