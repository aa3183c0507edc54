"""When to poll, and when to stop: a `Watch` is one task, a `Schedule` is many. No I/O.

The clients sleep and send requests as these say, and pass on the responses. Times are seconds of the client's clock.
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
    ServerError,
    TaskError,
    TaskNotFoundError,
    WaitTimeoutError,
    error_from_task,
    is_overload,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


DEFAULT_TIMEOUT = 3700.0
"""Seconds. The gateway turns a task that is stuck into FAILURE an hour after its submission, at its next refresh."""
GRACE = 0.5
"""Seconds the last poll may run past the deadline."""
BLOCKED_AFTER = 300.0
"""Seconds after which a task in MODAL is blocked, and an id that was never found is unknown."""
LIST_SIZE = 500
"""Ids in one request. The gateway takes 32,765 (with SQLite); the body of 500 finished tasks has up to 10 MiB."""
SINGLES = 16
"""Tasks that one step fetches in a request each."""
LIST_ABSENT_FOR = 600.0
"""Seconds for which a gateway is believed to have no list."""
_GATHERED = 0.5  # seconds: polls that are due so soon share a request
_WINDOW_ANSWERED = 60.0  # seconds in ACCEPTED after which the task may have a second row
_AFTER_REFUSAL = 2.0  # seconds, so that one database fault does not cause two refusals
_LONGEST_PAUSE = 60.0  # seconds of a `Retry-After`; a server can ask for years
_MAX_UNKNOWN = 10  # status words that are logged

_log = logging.getLogger("anyapi_midjourney")

Outcome: TypeAlias = Task | MidjourneyError
Row: TypeAlias = dict[str, Any]
T = TypeVar("T")


@define(eq=False)
class GatewayState:
    """What a client knows about its gateway, from one wait to the next."""

    base_url: str = ""
    cycle: RefreshCycle = Factory(RefreshCycle)
    task_seen_at: float = -inf
    """When any task was last received."""
    paused_until: float = -inf
    """When the server wants the next poll; it pauses the whole client."""
    list_absent_until: float = -inf
    """Until when tasks are fetched in a request each, since the gateway has no list."""
    _unknown: set[str] = Factory(set[str])

    def task(self, row: Row, task_id: str) -> Task:
        """The task as the server sent it; `task_id` is the one asked for, should the row have none."""
        return Task.from_model(models.Task.from_dict(row), task_id, self.base_url)

    def on_status(self, status: TaskStatus) -> None:
        """Logs a status that is not listed, once."""
        if status not in (*TaskStatus, *self._unknown) and len(self._unknown) < _MAX_UNKNOWN:
            self._unknown.add(status)
            _log.warning("A task has the unknown status %s; the wait goes on.", quote(status))

    def on_error(self, error: MidjourneyError, attempt: int, now: float) -> float:
        """Logs an error. Returns the pause before the same request is sent again, and pauses the client if asked to."""
        _log.info("A poll failed: %s", error)
        pause = backoff(attempt, error) if error.is_transient else _AFTER_REFUSAL
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

    def pause(self, next_poll: float) -> float:
        """Seconds until a poll that is due then. The last one is at the deadline; none is in the half second before."""
        start = max(next_poll, self.state.paused_until)
        start = self.deadline if start > self.deadline - GRACE else start
        return max(0.0, start - self.clock())


@define(eq=False)
class Watch:
    """One task that is waited for: when to poll it next, what a response or an error means, and how it ended."""

    task_id: str
    _terms: Terms
    has_old_row: bool = False
    """Whether it is known from the start that `fetch` shows an old row: its window was just answered."""
    outcome: Outcome | None = None
    """The task that succeeded, or the error that the wait ends with."""
    task: Task | None = None
    """As it was last seen."""
    next_poll: float = -inf
    alone: bool = False
    """Whether to fetch it in a request of its own, since a list lacked it."""
    faults: int = 0
    """Errors in a row."""
    _error: MidjourneyError | None = None
    """The last one."""
    _same_faults: int = 0
    """Errors in a row of the class of the last one."""
    _same_faults_from: float = 0.0
    """When the first request that failed with this class was sent."""
    _row: Row | None = None
    """The task as the server sent it."""
    _changed: bool = False
    """Whether nobody has taken the last change yet."""
    _sent: float = 0.0
    """When the last request was sent."""
    _shown_from: float = 0.0
    """When the first request was sent that showed the task as it is now."""
    _shown_until: float = 0.0
    """When the last one was sent."""
    _changed_in: Interval | None = None
    """When the gateway last refreshed it with a change."""

    def pause(self) -> float:
        """Seconds until the next poll."""
        return self._terms.pause(self.next_poll)

    def begin(self, until: float = inf) -> float:
        """Notes that a poll begins. Returns when it must have ended."""
        self._sent = now = self._terms.clock()
        deadline = self._terms.deadline if now < self._terms.deadline else now + GRACE
        return min(deadline, until, now + self._terms.request_timeout)

    @property
    def needs_list(self) -> bool:
        """Whether only a list shows how the task is: once a window was answered, the gateway has two rows with its id.

        `fetch` shows the old row, in MODAL or not started, until after the end (new-api's `model/midjourney.go`).
        """
        now = self._terms.clock()
        if self.alone or now < self._terms.state.list_absent_until:
            return False
        if not self.task:
            return self.has_old_row
        not_started = self.task.status == TaskStatus.ACCEPTED and now - self._shown_from > _WINDOW_ANSWERED
        return not_started or TaskAction.MODAL in (self.task.status, self.task.action)

    def take_change(self) -> Task | None:
        """The task, if it is new or has changed since the last call."""
        changed, self._changed = self._changed, False
        return self.task if changed else None

    def result(self) -> Task:
        """The task that succeeded. Raises what the wait ended with instead."""
        if isinstance(self.outcome, MidjourneyError):
            raise self.outcome
        return cast("Task", self.outcome)

    def on_row(self, row: Row) -> None:
        """Records the task as the server sent it."""
        now, last, state = self._terms.clock(), self.task, self._terms.state
        same = last if row == self._row else None  # a conversion takes longer than all the rest
        task = same or state.task(row, self.task_id)
        changed = not same and (not last or _visible(last) != _visible(task))
        if last and changed:
            self._changed_in = state.cycle.record_change(
                self._shown_until, now, own=self._changed_in, unchanged_for=self._shown_until - self._shown_from
            )
        if changed:
            self._changed, self._shown_from = True, self._sent
            state.on_status(task.status)
        self.task, self._row, self._shown_until, state.task_seen_at = task, row, self._sent, now
        self.faults, self.alone = 0, False
        blocked = task.status == TaskStatus.MODAL and now - self._shown_from >= BLOCKED_AFTER
        if task.done or blocked:
            self.outcome = task if task.succeeded else error_from_task(task)
        elif now >= self._terms.deadline:
            self.time_out()
        else:
            own, cheap = self._changed_in, self._terms.many
            self.next_poll = state.cycle.next_poll(now, first=not last, own=own, cheap=cheap)

    def on_error(self, error: MidjourneyError, pause: float | None = None) -> None:
        """Records a poll that failed. `pause` is given if others failed with it."""
        now = self._terms.clock()
        if pause is None:
            pause = self._terms.state.on_error(error, self.faults + 1, now)
        self._count_fault(error)
        self.alone, self.next_poll = False, now + pause
        if self._is_final(error, now):
            self.outcome = copy(error)  # others may have failed with it
            self.outcome.__cause__, self.outcome.task_id = error.__cause__, self.task_id
        elif self._sent >= self._terms.deadline:  # it was the last poll
            self.time_out()

    def on_missing(self, next_poll: float, error: MidjourneyError | None) -> None:
        """Records that a list lacked it: a request of its own decides. `error` is given if the list had other tasks."""
        self.alone, self.next_poll = True, next_poll
        if error:
            self._count_fault(error)

    def time_out(self) -> None:
        """Ends the wait with a `WaitTimeoutError`."""
        seen, advice = "it was never seen", "check the id, the network and the base URL, and wait again"
        if self.task:
            progress = f" {self.task.progress} %" if self.task.progress is not None else ""
            age = self._terms.clock() - self._shown_until
            seen = f"last seen {quote(self.task.status_name)[1:-1]}{progress} {age:.0f} s ago"
            advice = "it goes on at the server, so wait again with the same id"
            if self.task.status == TaskStatus.MODAL:
                advice = "somebody must answer its window, with answer_modal"
        fault = f" The last poll failed: {self._error}" if self.faults else ""
        text = f"Not done after {self._terms.timeout:g} s: {seen}; {advice}.{fault}"
        self.outcome = WaitTimeoutError(text, self.task, self._error)
        self.outcome.task_id = self.task_id

    def _count_fault(self, error: MidjourneyError) -> None:
        if not self.faults or type(error) is not type(self._error):
            self._same_faults, self._same_faults_from = 0, self._sent
        self.faults, self._same_faults, self._error = self.faults + 1, self._same_faults + 1, error

    def _is_final(self, error: MidjourneyError, now: float) -> bool:
        seen_at = self._terms.state.task_seen_at
        match error:
            case ConfigurationError() | PermissionDeniedError():
                return True
            case AuthenticationError():
                return self._same_faults > 1  # a database fault of the gateway refuses a good key once
            case TaskNotFoundError():
                # Such a fault also hides a task, but not one task alone while others are seen, and not for long.
                lasting = now - self._same_faults_from >= BLOCKED_AFTER
                certain = seen_at == -inf or seen_at > self._same_faults_from or lasting
                return not self.task and self._same_faults > 1 and certain
            case APIConnectionError() if error.is_mistake:
                return True
            case _:
                # Where the API has answered before, it is a maintenance page or a change of the network. Mixed-up
                # responses are neither.
                wrong = isinstance(error, InvalidResponseError) or not error.is_transient
                is_other_task = isinstance(error, InvalidResponseError) and isinstance(error.body, dict)
                return wrong and self._same_faults > 2 and (seen_at == -inf or is_other_task)


class Source(Protocol[T]):
    """What an iterator of a client takes its items from."""

    items: deque[T]
    """Those that are there already."""

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
        if not (watch := self._watch):
            return None
        if change := watch.take_change():
            self.items.append(change)
            return None
        if not watch.outcome:
            return watch.pause() or watch
        self._watch = None
        if not isinstance(watch.outcome, TaskError):
            watch.result()
        return None

    def close(self) -> None:
        """Ends the wait: there are no more changes."""
        self._watch = None
        self.items.clear()


class Batch(NamedTuple):
    """Tasks to poll now: in one request, or in a request each."""

    watches: list[Watch]
    one_by_one: bool
    until: float
    """When it must have ended."""


class Schedule:
    """Many tasks that are waited for: which to poll next, and their outcomes."""

    def __init__(
        self, tasks: Iterable[Task | str], terms: Terms, on_change: Callable[[Task], object] | None = None
    ) -> None:
        if isinstance(tasks, str | bytes | Task) or not isinstance(cast("object", tasks), Iterable):
            raise ConfigurationError("as_completed takes a list or another iterable of tasks or ids; wait takes one.")
        self.items: deque[tuple[str, Outcome]] = deque()
        self._terms, self._on_change = terms, on_change
        watches: dict[str, Watch] = {}
        for task in tasks:
            try:
                task_id = terms.id_of(task)
            except ConfigurationError as error:
                self.items.append((task.id if isinstance(task, Task) else task, error))
            else:
                watches.setdefault(task_id, Watch(task_id, terms))
        self._polled = deque(watches.values())
        """The last batch. It returns to the heap at the next step, so that it is polled again if it was cancelled."""
        self._heap: list[tuple[float, int, Watch]] = []
        self._order = count()
        self._unknown = 0
        """Tasks that were not found."""
        self._paused_until = -inf
        """When the next poll may be sent, after an empty list."""
        self._last_round_ends = inf
        """When the last polls must have ended, once the deadline has passed."""

    def step(self) -> Batch | float | None:
        """What to do next: poll a batch, or sleep so many seconds. None when there are items, or none will come."""
        self._return_polled()
        if self.items or not self._heap:
            return None
        if pause := self._terms.pause(max(self._heap[0][0], self._paused_until)):
            return pause
        now, is_first = self._terms.clock(), self._last_round_ends == inf
        if now >= self._terms.deadline:
            self._last_round_ends = min(self._last_round_ends, now + GRACE)
            if now >= self._last_round_ends or (now < self._terms.state.paused_until and not is_first):
                self._time_out()
                return None
        return self._batch(now)

    def on_rows(self, watches: Sequence[Watch], rows: Mapping[str, Row]) -> None:
        """Records the rows of a list, by id in lower case."""
        now, missing = self._terms.clock(), list[Watch]()
        for watch in watches:
            if row := rows.get(watch.task_id.lower()):
                watch.on_row(row)
            else:
                missing.append(watch)
        if now < self._terms.state.list_absent_until:
            return  # there is no list, and they are still due
        is_empty = len(missing) == len(watches) > 1
        for number, watch in enumerate(self._on_empty_list(missing) if is_empty else missing):
            error = None if len(watches) == 1 else TaskNotFoundError(200, {}, [], "The list of tasks lacks it.")
            watch.on_missing(now + number // SINGLES * _GATHERED, error)

    def on_error(self, watches: Sequence[Watch], error: MidjourneyError) -> float:
        """Records a request that failed for all of these. Returns the pause before it is sent again."""
        faults = max(watch.faults for watch in watches)
        pause = self._terms.state.on_error(
            error, faults + 1, self._terms.clock()
        )  # one for all, so that they stay together
        for watch in watches:
            watch.on_error(error, pause)
        return pause

    def close(self) -> None:
        """Ends the wait: there are no more outcomes."""
        for tasks in (self.items, self._heap, self._polled):
            tasks.clear()

    def _on_empty_list(self, watches: list[Watch]) -> list[Watch]:
        """Returns the tasks to fetch in a request each: none after a first empty list, often a database fault.

        Later some, and the more of them turn out to be unknown, the more.
        """
        singles = SINGLES + 2 * self._unknown if any(watch.faults for watch in watches) else 0
        if failed := watches[singles:]:
            error = ServerError(200, {}, "", "The list of tasks is empty, as after a database fault of the gateway.")
            self._paused_until = self._terms.clock() + self.on_error(failed, error)
        return watches[:singles]

    def _return_polled(self) -> None:
        while self._polled:
            watch = self._polled.popleft()
            if watch.outcome is not None:
                self.items.append((watch.task_id, watch.outcome))
                self._unknown += isinstance(watch.outcome, TaskNotFoundError)
            else:
                heappush(self._heap, (watch.next_poll, next(self._order), watch))
            if (change := watch.take_change()) and self._on_change:
                self._on_change(change)

    def _batch(self, now: float) -> Batch:
        due = inf if now >= self._terms.deadline else now + _GATHERED
        alone = self._heap[0][2].alone
        one_by_one = alone or now < self._terms.state.list_absent_until
        size = SINGLES if one_by_one else LIST_SIZE
        watches: list[Watch] = []
        while self._heap and self._heap[0][0] <= due and self._heap[0][2].alone == alone and len(watches) < size:
            watches.append(heappop(self._heap)[2])
        self._polled.extend(watches)
        until = self._terms.deadline
        if now >= until:  # the batches share what is left of the last round
            until = now + (self._last_round_ends - now) * len(watches) / (len(watches) + len(self._heap))
        return Batch(watches, one_by_one or (len(watches) == 1 and not watches[0].needs_list), until)

    def _time_out(self) -> None:
        for _, _, watch in self._heap:
            watch.time_out()
            self._polled.append(watch)
        self._heap.clear()
        self._return_polled()


def live_rows(rows: Iterable[object]) -> dict[str, Row]:
    """The rows of a list, by id in lower case. Of two with one id, the one whose action is MODAL is the live one."""
    found = [cast("Row", row) for row in rows if isinstance(row, dict)]
    found.sort(key=lambda row: row.get("action") == TaskAction.MODAL)
    return {(as_text(row.get("id")) or "").lower(): row for row in found}


def _visible(task: Task) -> tuple[object, ...]:
    """What makes a change if it differs. The gateway adds a new query to a preview's URL at each poll."""
    picture = (task.picture_url or task.preview_url or "").partition("?")[0]
    return task.status, task.progress, task.fail_reason, task.buttons, picture


def backoff(attempt: int, error: MidjourneyError, overloaded: tuple[float, float] = (2.0, 5.0)) -> float:
    """Seconds before the next attempt: up to 0.5, 1, 2, 4 and then 8; or within these bounds after an overload."""
    if is_overload(error):
        return random.uniform(*overloaded)  # noqa: S311  (not a secret)
    return 2.0 ** min(attempt - 2, 3) * random.uniform(0.5, 1.0)  # noqa: S311  (not a secret)
