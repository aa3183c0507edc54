"""When to poll, and when to stop: a `Watch` is one task, a `Schedule` is many. No I/O.

The clients sleep and send requests, as these say, and pass on the responses. Times are seconds of the client's clock.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterable
from copy import copy
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from attrs import Factory, define, field, frozen

from anyapi_midjourney_generated import models

from ._refresh import Interval, RefreshCycle
from ._task import Task, TaskAction, TaskStatus
from ._text import as_text, quote
from .errors import (
    APIConnectionError,
    APIResponseError,
    AuthenticationError,
    ConfigurationError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    TaskError,
    TaskNotFoundError,
    WaitTimeoutError,
    error_from_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


DEFAULT_TIMEOUT = 3700.0
"""Seconds. The gateway turns what is stuck into FAILURE an hour after its submission, at its next refresh."""
GRACE = 0.5
"""Seconds a request may run past the deadline."""
BLOCKED_AFTER = 300.0
"""Seconds after which a task in MODAL is blocked, and an id that was never found is unknown."""
LIST_SIZE = 500
"""Ids in one request. The gateway takes 32,765 (wire-submit.md, section 5); a body of 500 has up to 10 MiB."""
SINGLES = 16
"""Tasks that one step fetches one by one."""
_GATHERED = 0.5  # seconds: polls that are due so soon join a request
_LIST_ABSENT = 600.0  # seconds that a gateway is taken for one without the list
_WINDOW_ANSWERED = 60.0  # seconds in ACCEPTED after which the list may know more
_AFTER_REFUSAL = 2.0  # seconds, so that one database fault does not cause two refusals
_LONGEST_PAUSE = 60.0  # seconds of a `Retry-After`; a server can ask for years
_MAX_UNKNOWN = 10  # status words that are logged

_log = logging.getLogger("anyapi_midjourney")

Outcome: TypeAlias = Task | MidjourneyError
Row: TypeAlias = dict[str, Any]
T = TypeVar("T")


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
            return _backoff(self._made, error, overloaded=(5.0, 6.0))  # the gateway measures its load every 5 s
        return min(max(asked, 0.5) + random.uniform(0.0, 0.5), 30.0)  # noqa: S311  (not a secret)


@define(eq=False)
class GatewayState:
    """What a client knows about its gateway, from one wait to the next."""

    cycle: RefreshCycle = Factory(RefreshCycle)
    tasks_seen: int = 0
    """How often any task was received."""
    paused_until: float = -inf
    """When the server wants the next request; `Retry-After` pauses the whole client."""
    list_absent_until: float = -inf
    """Until when tasks are fetched one by one, since the gateway has no list."""
    _unknown: set[str] = Factory(set[str])

    def on_status(self, status: TaskStatus) -> None:
        """Logs a status that is not listed, once."""
        if status not in (*TaskStatus, *self._unknown) and len(self._unknown) < _MAX_UNKNOWN:
            self._unknown.add(status)
            _log.warning("A task has the unknown status %s; the wait goes on.", quote(status))

    def on_error(self, error: MidjourneyError, faults: int, now: float) -> float:
        """Logs an error. Returns the pause before the same request is sent again, and pauses the client if asked to."""
        _log.info("A poll failed: %s", error)
        pause = _backoff(faults + 1, error) if error.is_transient else _AFTER_REFUSAL
        if isinstance(error, APIResponseError):
            asked = pause if isinstance(error, RateLimitError) else 0.0
            asked = asked if error.retry_after is None else min(error.retry_after, _LONGEST_PAUSE)
            self.paused_until = max(self.paused_until, now + asked)
        return pause


@frozen
class Terms:
    """What all tasks of one wait share."""

    state: GatewayState
    clock: Callable[[], float]
    id_of: Callable[[Task | str], str]
    timeout: float
    """Seconds from the start; infinite for none."""
    request_timeout: float
    many: bool = False
    """Whether tasks share requests, so that a poll is cheap."""
    deadline: float = field(init=False, default=Factory(lambda self: self.clock() + self.timeout, takes_self=True))


@define(eq=False)
class Watch:
    """One task that is waited for: when to poll it next, what a response or an error means, and how it ended."""

    task_id: str
    _terms: Terms
    outcome: Outcome | None = None
    """The task that succeeded, or the error that the wait ends with."""
    task: Task | None = None
    """As it was last seen."""
    changed: bool = False
    """Whether it is new or has changed, and nobody was told yet."""
    next_poll: float = -inf
    faults: int = 0
    """Errors in a row, of any kind."""
    error: MidjourneyError | None = None
    """The last one."""
    alone: bool = False
    """Whether the list lacked it, so that it is fetched by itself."""
    missing_among_others: bool = False
    """Whether that list had others, so that it was not the empty one of a database fault."""
    _row: Row | None = None
    _same_errors: int = 0
    """Errors in a row, of the kind of `_error`."""
    _same_errors_from: float = 0.0
    _tasks_seen_before: int = 0
    """How often any task had been received when these errors began."""
    _sent: float = 0.0
    _shown_from: float = 0.0
    """When the first request was sent that showed the task as it is now."""
    _shown_until: float = 0.0
    """When the last one was sent."""
    _status_from: float = 0.0
    _changed_in: Interval | None = None
    """When the gateway last refreshed it with a change."""

    def pause(self) -> float:
        """Seconds until the next poll."""
        start = max(self.next_poll, self._terms.state.paused_until)
        return max(0.0, min(start, self._terms.deadline) - self._terms.clock())

    def begin(self, until: float = inf) -> float:
        """Notes that a request is sent. Returns the seconds that it may take."""
        self._sent = self._terms.clock()
        left = max(self._terms.deadline - self._sent, GRACE)
        return max(min(left, until - self._sent, self._terms.request_timeout), 0.001)

    @property
    def needs_list(self) -> bool:
        """Whether `fetch` may show an old row: once a window was answered, there are two rows with one id.

        Source: new-api, seen on real servers (wire-submit.md, section 3).
        """
        now = self._terms.clock()
        if not self.task or self.alone or now < self._terms.state.list_absent_until:
            return False
        accepted_for = now - self._status_from if self.task.status == TaskStatus.ACCEPTED else 0.0
        return TaskAction.MODAL in (self.task.status, self.task.action) or accepted_for > _WINDOW_ANSWERED

    def result(self) -> Task:
        """The task that succeeded. Raises what the wait ended with instead."""
        if isinstance(self.outcome, MidjourneyError):
            raise self.outcome
        return cast("Task", self.outcome)

    def on_response(self, row: Row | None, task: Task | None, *, without_list: bool) -> None:
        """Records what came of a poll. `without_list`: the gateway had no list a moment ago."""
        if row:
            self.on_row(row)
        elif task:
            if without_list:
                self._terms.state.list_absent_until = self._terms.clock() + _LIST_ABSENT
            self.on_task(task)

    def on_row(self, row: Row) -> None:
        """Records what a list has for this task."""
        if self.task is None or row != self._row:
            self._row = row
            self.on_task(Task.from_model(models.Task.from_dict(row), self.task_id))
        else:
            self.on_task(self.task)

    def on_task(self, task: Task) -> None:
        """Records the task as it is now."""
        now, last, state = self._terms.clock(), self.task, self._terms.state
        changed = last is not None and last is not task and _visible(last) != _visible(task)
        if changed:
            self._changed_in = state.cycle.record_change(
                self._shown_until, now, own=self._changed_in, unchanged_for=self._shown_until - self._shown_from
            )
        if last is None or changed:
            self.changed, self._shown_from = True, self._sent
        if last is None or last.status != task.status:
            self._status_from = now
            state.on_status(task.status)
        self.task, self._shown_until = task, self._sent
        self.faults = self._same_errors = 0
        self.alone = False
        state.tasks_seen += 1
        blocked = task.status == TaskStatus.MODAL and now - self._status_from >= BLOCKED_AFTER
        if task.done or blocked:
            self.outcome = task if task.succeeded else error_from_task(task)
        elif now >= self._terms.deadline:
            self.time_out()
        else:
            own, cheap = self._changed_in, self._terms.many
            self.next_poll = state.cycle.next_poll(now, first=last is None, own=own, cheap=cheap)

    def on_error(self, error: MidjourneyError, pause: float | None = None) -> None:
        """Records a request that failed. `pause` is given if others failed with it."""
        now, state = self._terms.clock(), self._terms.state
        if pause is None:
            pause = state.on_error(error, self.faults + 1, now)
        if type(error) is not type(self.error) or not self._same_errors:
            self._same_errors, self._same_errors_from = 0, now
            self._tasks_seen_before = state.tasks_seen
        self.faults += 1
        self._same_errors += 1
        self.error = error
        self.alone = False
        self.next_poll = now + pause
        if self._is_final(error, now):
            self.outcome = copy(error)  # others may have failed with it
            self.outcome.__cause__, self.outcome.task_id = error.__cause__, self.task_id
        elif now >= self._terms.deadline and self._sent > self._terms.deadline - GRACE:
            self.time_out()

    def time_out(self) -> None:
        """Ends the wait with a `WaitTimeoutError`."""
        seen, advice = "it was never seen", "check the network and the base URL, and wait again"
        if isinstance(self.error, TaskNotFoundError):
            advice = "check the id, and wait again"
        if self.task:
            progress = f" {self.task.progress} %" if self.task.progress is not None else ""
            name = self.task.status_name
            name = name if name in (*TaskStatus, "ACCEPTED") else quote(name)
            seen = f"last seen {name}{progress} {self._terms.clock() - self._shown_until:.0f} s ago"
            advice = "it goes on at the server, so wait again with the same id"
            if self.task.status == TaskStatus.MODAL:
                advice = "somebody must answer its window (POST /mj/submit/modal)"
        fault = f" The last poll failed: {self.error}" if self.error and self.faults else ""
        text = f"Not done after {self._terms.timeout:g} s: {seen}; {advice}.{fault}"
        self.outcome = WaitTimeoutError(text, self.task, self.error)
        self.outcome.task_id = self.task_id

    def _is_final(self, error: MidjourneyError, now: float) -> bool:
        seen = self._terms.state.tasks_seen
        third_before_any_task = self._same_errors > 2 and not seen
        match error:
            case APIConnectionError():
                return error.is_mistake or (not error.is_transient and third_before_any_task)
            case ConfigurationError() | PermissionDeniedError():
                return True
            case AuthenticationError():
                return self._same_errors > 1  # a database fault of the gateway refuses a good key once
            case TaskNotFoundError():
                # Such a fault also hides a task, but not one task alone while others are found, and not for long.
                lasting = now - self._same_errors_from >= BLOCKED_AFTER
                certain = not seen or seen > self._tasks_seen_before or lasting or self.missing_among_others
                return self.task is None and self._same_errors > 1 and certain
            case _:
                # Something else answers. Where the API has answered before, it is a maintenance page.
                wrong = isinstance(error, InvalidResponseError) or not error.is_transient
                return wrong and third_before_any_task


class Source(Protocol[T]):
    """What an iterator of a client asks for items."""

    items: deque[T]
    """What is there already."""

    def step(self) -> Watch | Batch | float | None:
        """What to do next: poll, or sleep so many seconds. None when there are items, or none will come."""

    def close(self) -> None:
        """Ends the wait."""


class Changes:
    """The changes of one task that is waited for."""

    def __init__(self, watch: Watch) -> None:
        self.items: deque[Task] = deque()
        self._watch: Watch | None = watch

    def step(self) -> Watch | float | None:
        """What to do next. Raises what the wait ended with, if it is not how the task ended."""
        watch = self._watch
        if watch and watch.changed and watch.task:
            watch.changed = False
            self.items.append(watch.task)
        elif watch and not watch.outcome:
            return watch.pause() or watch
        elif watch:
            self._watch = None
            if not isinstance(watch.outcome, TaskError):
                watch.result()
        return None

    def close(self) -> None:
        """Ends the wait: there are no more changes."""
        self._watch = None
        self.items.clear()


class Batch(NamedTuple):
    """Tasks to poll now: in one request, or one by one."""

    watches: list[Watch]
    one_by_one: bool
    until: float
    """When it must have ended."""

    @property
    def task_ids(self) -> list[str]:
        """What the request asks for."""
        return [watch.task_id for watch in self.watches]

    def begin(self) -> float:
        """Notes that the request is sent. Returns the seconds that it may take."""
        return min(watch.begin(self.until) for watch in self.watches)


class Schedule:
    """Many tasks that are waited for: which to poll next, and their outcomes."""

    def __init__(
        self, tasks: Iterable[Task | str], terms: Terms, on_change: Callable[[Task], object] | None = None
    ) -> None:
        if isinstance(tasks, str | bytes | Task) or not isinstance(cast("object", tasks), Iterable):
            raise ConfigurationError(
                "Many tasks are a list or another iterable of tasks or ids; for one there is wait."
            )
        self.items: deque[tuple[str, Outcome]] = deque()
        self._terms = terms
        self._on_change = on_change
        self._heap: list[tuple[float, int, Watch]] = []
        self._order = count()
        self._alone: deque[Watch] = deque()
        """Tasks that the list lacked."""
        self._polled: deque[Watch] = deque()
        """The last batch. It returns to the heap at the next step, so that a cancelled one is polled again."""
        self._undecided: list[Watch] = []
        """Tasks of a list that looked absent, until one of them was fetched."""
        self._were_alone = False
        self._last_round_ends = inf
        watches: dict[str, Watch] = {}
        for task in tasks:
            try:
                task_id = terms.id_of(task)
            except ConfigurationError as error:
                self.items.append((cast("str", task), error))
            else:
                watches.setdefault(task_id, Watch(task_id, terms))
        self._polled.extend(watches.values())

    def step(self) -> Batch | float | None:
        """What to do now: poll this batch, or sleep so many seconds. None when there is an outcome, or no task left."""
        self._return_polled()
        self._decide()
        if self.items or not (self._heap or self._alone):
            return None
        now, paused_until = self._terms.clock(), self._terms.state.paused_until
        due = now if self._alone else self._heap[0][0]
        if now >= self._terms.deadline:
            began = self._last_round_ends < inf
            self._last_round_ends = min(self._last_round_ends, now + GRACE)
            if now >= self._last_round_ends or (began and now < paused_until):
                self._time_out()
                return None
        elif max(due, paused_until) > now:
            return min(max(due, paused_until), self._terms.deadline) - now
        return self._batch(now)

    def on_rows(self, batch: Batch, rows: Sequence[Row] | None) -> None:
        """Records the elements of a list; None if the gateway seems to have no list."""
        if rows is None:
            # Believed only if the gateway answers a single GET at this moment.
            self._undecided = batch.watches
            self._undecided[0].alone = True
            self._polled = deque(batch.watches[:1])
            return
        found, missing = live_rows(rows), list[Watch]()
        for watch in batch.watches:
            if row := found.get(watch.task_id.lower()):
                watch.on_row(row)
            else:
                missing.append(watch)
        if len(missing) == len(batch.watches) > 1:
            # The list is also empty after a database fault. A few tasks at a time find out.
            first = not any(watch.faults for watch in missing)
            missing, failed = ([], missing) if first else (missing[:SINGLES], missing[SINGLES:])
            self.on_error(failed, InvalidResponseError(200, {}, [], "The list has none of the tasks."))
        for watch in missing:
            watch.alone, watch.missing_among_others = True, bool(found)

    def on_error(self, watches: Sequence[Watch], error: MidjourneyError) -> None:
        """Records a request that failed for all of these."""
        faults = max((watch.faults for watch in watches), default=0)
        pause = self._terms.state.on_error(error, faults + 1, self._terms.clock())  # one for all, or they scatter
        for watch in watches:
            watch.on_error(error, pause)

    def close(self) -> None:
        """Ends the wait: there are no more outcomes."""
        for tasks in (self.items, self._heap, self._alone, self._polled, self._undecided):
            tasks.clear()

    def _return_polled(self) -> None:
        while self._polled:
            watch = self._polled.popleft()
            if watch.outcome is not None:
                self.items.append((watch.task_id, watch.outcome))
            elif watch.alone:
                self._alone.append(watch)
            else:
                heappush(self._heap, (watch.next_poll, next(self._order), watch))
            if watch.changed and watch.task:
                watch.changed = False
                if self._on_change:
                    self._on_change(watch.task)

    def _decide(self) -> None:
        """Decides whether the gateway has a list, once the first task of a list that looked absent was fetched."""
        if not self._undecided or self._undecided[0].alone:
            return
        (probe, *others), self._undecided = self._undecided, []
        if not probe.faults or isinstance(probe.error, TaskNotFoundError):
            self._terms.state.list_absent_until = self._terms.clock() + _LIST_ABSENT
        elif probe.error:
            self.on_error(others, probe.error)
        self._polled.extend(others)
        self._return_polled()

    def _batch(self, now: float) -> Batch:
        last_round = now >= self._terms.deadline
        until = inf if last_round else now + _GATHERED
        alone = bool(self._alone) and not (self._were_alone and self._heap and self._heap[0][0] <= until)
        self._were_alone = alone
        one_by_one = alone or now < self._terms.state.list_absent_until
        size = SINGLES if one_by_one else LIST_SIZE
        polled = [self._alone.popleft() for _ in range(min(size, len(self._alone)))] if alone else []
        while not alone and self._heap and self._heap[0][0] <= until and len(polled) < size:
            polled.append(heappop(self._heap)[2])
        self._polled.extend(polled)
        share = max(self._terms.deadline - now, GRACE)
        if last_round:
            share = (self._last_round_ends - now) * len(polled) / (len(polled) + len(self._heap) + len(self._alone))
        return Batch(polled, one_by_one or (len(polled) == 1 and not polled[0].needs_list), now + share)

    def _time_out(self) -> None:
        left = [*self._alone, *(watch for _, _, watch in self._heap), *self._undecided[1:]]
        self.close()
        for watch in left:
            watch.time_out()
        self._polled.extend(left)
        self._return_polled()


def live_rows(rows: Iterable[Row]) -> dict[str, Row]:
    """The row of each id, in lower case. Of two rows with one id, the one whose action is MODAL is the live one."""
    live: dict[str, Row] = {}
    for row in rows:
        task_id = (as_text(row.get("id")) or "").lower()
        if task_id not in live or row.get("action") == TaskAction.MODAL:
            live[task_id] = row
    return live


def _visible(task: Task) -> tuple[object, ...]:
    """What a change is a change of. The gateway adds a new query to a preview's URL at each poll."""
    picture = (task.picture_url or task.preview_url or "").partition("?")[0]
    return task.status, task.progress, task.fail_reason, task.buttons, picture


def _backoff(attempt: int, error: MidjourneyError, overloaded: tuple[float, float] = (2.0, 5.0)) -> float:
    if isinstance(error, APIResponseError) and str(error.code).endswith("_overloaded"):
        return random.uniform(*overloaded)  # noqa: S311  (not a secret)
    return 2.0 ** min(attempt - 2, 3) * random.uniform(0.5, 1.0)  # noqa: S311  (not a secret)
