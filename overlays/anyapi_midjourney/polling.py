"""When to ask, and when to stop: no I/O, so that both clients obey it and tests need no clock."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, TypeAlias, cast

import httpx
from attrs import Factory, define

from .beat import Beat
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
    quoted,
    task_error,
)
from .task import Task, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_TIMEOUT = 3700.0
"""Seconds. The gateway turns what is stuck into FAILURE an hour after its submission, and tells at its next round."""
GRACE = 0.5
"""Seconds that an answer may take when it is time to be back."""
LASTING = 300.0
"""Seconds after which MODAL, or an id that was never found, is taken for what it says."""
_BETWEEN_REFUSALS = 2.0  # seconds, lest one hiccup make two
_LONGEST_HOLD = 60.0  # seconds that a `Retry-After` is obeyed for; a server can ask for years

_log = logging.getLogger("anyapi_midjourney")

Outcome: TypeAlias = Task | MidjourneyError


def is_programming_error(cause: BaseException | None) -> bool:
    """Whether a request failed for a mistake in the program, such as a hook's TypeError, and not for the network."""
    mistakes = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
    return isinstance(cause, (*mistakes, httpx.UnsupportedProtocol, httpx.LocalProtocolError))


def is_transient(error: MidjourneyError) -> bool:
    """Whether the next request may well succeed where this one failed.

    Transient are lost connections, time-outs, 408, 429, 5xx, and bodies that are HTML or broken off.
    """
    if isinstance(error, APIConnectionError):
        return not is_programming_error(error.__cause__)
    if isinstance(error, InvalidResponseError):
        return isinstance(error.body, str)
    return isinstance(error, APIResponseError) and (error.status_code in (408, 429) or error.status_code >= 500)


@define
class Retry:
    """How often one `fetch` may try again, and after what pause."""

    left: int
    """Retries that may still be made."""
    _made: int = 0

    def pause(self, error: MidjourneyError) -> float:
        """Seconds to wait before trying again. Raises the error if it is not transient, or no retry is left.

        A `Retry-After` is obeyed up to 30 s. Jitter of half a second keeps many clients from returning together.
        """
        if not self.left or not is_transient(error):
            raise error
        self.left -= 1
        self._made += 1
        asked = error.retry_after if isinstance(error, APIResponseError) else None
        if asked is None:
            return _backoff(self._made)
        return min(max(asked, 0.5) + random.uniform(0.0, 0.5), 30.0)  # noqa: S311  (no secret)


@define(eq=False)
class Memory:
    """What a client knows from one wait to the next."""

    beat: Beat = Factory(Beat)
    sightings: int = 0
    """How often any task was seen."""
    held_until: float = -inf
    """When the server wants to be asked again; `Retry-After` holds back the whole client."""
    unknown: set[str] = Factory(set[str])
    """Status words that were logged."""
    _ahead: float = inf
    _slept: float = 0.0

    def beat_time(self, now: float) -> float:
        """The time that `Beat` means: a monotonic clock may stop while the machine sleeps, the wall clock does not."""
        ahead = time.time() - now
        if ahead - self._ahead > 2:
            self._slept += ahead - self._ahead
        self._ahead = ahead
        return now + self._slept


@define(eq=False)
class Look:
    """A task that is waited for, and what is known of it: in the heap, or being asked for, never both."""

    task_id: str
    task: Task | None = None
    """As it was last seen."""
    seen_at: float = 0.0
    last: bool = False
    """Whether this is the look at the deadline."""
    sent: float | None = None
    """When it was asked for; this and the next three in `Memory.beat_time`."""
    shown: float = 0.0
    """When the request was sent that showed `task`."""
    quiet_from: float = 0.0
    """Since when it has not changed."""
    change_since: float | None = None
    """The beginning of the interval in which it changed."""
    blocked_from: float | None = None
    faults: int = 0
    """In a row, of any kind."""
    refusals: int = 0
    """In a row, of the kind of `last_error`."""
    refused_from: float = 0.0
    sightings_before: int = 0
    """Of any task, when these refusals began."""
    last_error: MidjourneyError | None = None


class Wait:
    """Waits for tasks: says what to do next, is told what came of it, and collects the outcomes.

    It never sleeps and never sends; a client does, as `step` says, until an outcome is `ready`.

    Args:
        task_ids: Drawn one by one, as there is time to ask for them. One that comes again is not waited for again.
        memory: The client's.
        timeout: Seconds from now until all must have ended; None means for ever.
        request_timeout: Seconds that one look may take.
        max_in_flight: How many looks may be made at once.
        clock: Seconds that never go back.
        changes: Whether the outcomes are all changes of a task, and how it ended is not told besides.

    Raises:
        ConfigurationError: A time-out that is none, or no iterable of ids.

    """

    def __init__(
        self,
        task_ids: Iterable[str],
        memory: Memory,
        *,
        timeout: float | None,
        request_timeout: float,
        max_in_flight: int = 1,
        clock: Callable[[], float] = time.monotonic,
        changes: bool = False,
    ) -> None:
        given = cast("object", timeout)
        if given is not None and not (isinstance(given, int | float) and given >= 0):
            raise ConfigurationError(f"A timeout is seconds from 0, or None for no end, not {given!r:.100}.")
        if isinstance(task_ids, str | bytes) or not isinstance(cast("object", task_ids), Iterable):
            raise ConfigurationError("as_completed takes the ids in a list or another iterable; for one there is wait.")
        self._ids: Iterator[str] | None = iter(task_ids)
        self._memory = memory
        self._timeout = inf if timeout is None else float(timeout)
        self._request_timeout = request_timeout
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._changes = changes
        self._deadline = clock() + self._timeout
        self._end: float | None = None
        """Of the last round of looks, which begins at the deadline."""
        self._drawn: set[str] = set()
        self._drew = False
        self._heap: list[tuple[float, int, Look]] = []
        self._pushes = count()
        self._in_flight: set[Look] = set()
        self._outcomes: deque[tuple[str, Outcome]] = deque()
        self._broken: Exception | None = None

    @property
    def ready(self) -> bool:
        """Whether to take an outcome now. In the last round there is no time for it: the looks come first."""
        return bool(self._outcomes or self._broken) and self._end is None

    def outcome(self) -> tuple[str, Outcome] | None:
        """An id and its task or error; None if there is none any more. Raises what the iterable of ids raised."""
        if self._outcomes:
            return self._outcomes.popleft()
        if self._broken:
            error, self._broken = self._broken, None
            raise error
        return None

    def step(self) -> Look | float | None:
        """What to do now: make this look; else sleep so many seconds, or until an answer comes; None: nothing more."""
        now = self._clock()
        if self._end is None and now >= self._deadline:
            self._end = now + GRACE
            self._heap = [(now, order, look) for _, order, look in sorted(self._heap)]
        if self._end is not None and now >= self._end:
            self._give_up(now)
            return None
        if len(self._in_flight) < self._max_in_flight:
            look = self._next_look(now)
            if look:
                look.sent = self._memory.beat_time(now)
                look.last = self._end is not None
                self._in_flight.add(look)
                return look
            if not self._heap and not self._in_flight and self._ids is None:
                return None
        until = self._deadline if self._end is None else self._end
        if len(self._in_flight) < self._max_in_flight:
            due = now if self._ids is not None else self._heap[0][0] if self._heap else inf
            until = min(until, max(due, self._memory.held_until if self._end is None else now))
        return max(0.0, until - now)

    def allowance(self) -> float:
        """Seconds that a request sent now may take."""
        now = self._clock()
        left = max(self._deadline - now, GRACE) if self._end is None else self._end - now
        return max(min(left, self._request_timeout), 0.001)

    def grace(self) -> float:
        """Seconds that the looks in flight may still take, although somebody waits for an outcome that is there."""
        left = (self._deadline if self._end is None else self._end) - self._clock()
        return min(max(left, 0.05), GRACE)  # so that one that is out of time can say so

    def answer(self, look: Look, answer: Outcome | None) -> None:
        """Takes the answer to a look; None if it was broken off, and the task is to be asked for again."""
        now = self._clock()
        self._in_flight.discard(look)
        outcome, pause, over = None, 0.0, self._end is not None and now >= self._end
        if isinstance(answer, Task):
            over = now >= self._deadline
            outcome, pause = self._saw(look, answer, now)
        elif answer is not None:
            over = look.last
            outcome, pause = self._missed(look, answer, now)
        if outcome is None and not over:
            heappush(self._heap, (now + pause, next(self._pushes), look))
        else:
            self._finish(look, outcome or self._timed_out(look, now))

    def close(self) -> None:
        """Ends it: there will be no more looks and no more outcomes."""
        self._ids = None
        self._heap.clear()
        self._outcomes.clear()

    def _next_look(self, now: float) -> Look | None:
        if now < self._memory.held_until and self._end is None:
            return None
        due = bool(self._heap) and self._heap[0][0] <= now
        # New ids and due ones take turns, so that neither starves.
        new = None if due and self._drew else self._draw()
        self._drew = new is not None
        return heappop(self._heap)[2] if due and not new else new

    def _draw(self) -> Look | None:
        try:
            for task_id in self._ids or ():
                if not isinstance(cast("object", task_id), str):
                    return Look(task_id)  # the client has an error for it
                if task_id not in self._drawn:
                    self._drawn.add(task_id)
                    return Look(task_id)
        except Exception as error:  # noqa: BLE001  (the iterable is the caller's)
            self._broken = error
        self._ids = None
        return None

    def _saw(self, look: Look, task: Task, now: float) -> tuple[Outcome | None, float]:
        """The outcome, if there is one, else the pause until the next look."""
        moment, sent, first = self._memory.beat_time(now), look.sent or 0.0, look.task is None
        changed = look.task is not None and _visible(look.task) != _visible(task)
        if changed:
            quiet = look.shown - look.quiet_from
            self._memory.beat.change(look.shown, moment, before=look.change_since, quiet=quiet)
            look.change_since = look.shown
        if first or changed:
            look.quiet_from = sent
            if self._changes:
                self._outcomes.append((look.task_id, task))
        look.task, look.seen_at, look.shown = task, now, sent
        look.faults = look.refusals = 0
        if task.status != TaskStatus.MODAL:
            look.blocked_from = None
        elif look.blocked_from is None:
            look.blocked_from = now
        if task.status not in tuple(TaskStatus) and task.status not in self._memory.unknown:
            self._memory.unknown.add(task.status)
            _log.warning("A task has the status %s, which is not known here; it is waited for.", quoted(task.status))
        blocked = look.blocked_from is not None and now - look.blocked_from >= LASTING
        if task.done or blocked:
            return task if task.succeeded else task_error(task), 0.0
        return None, self._memory.beat.next_look(moment, first=first, caught=look.change_since is not None) - moment

    def _missed(self, look: Look, error: MidjourneyError, now: float) -> tuple[Outcome | None, float]:
        """The same of a look that showed no task."""
        look.faults += 1
        if type(error) is not type(look.last_error) or not look.refusals:
            look.refusals, look.refused_from, look.sightings_before = 0, now, self._memory.sightings
        look.refusals += 1
        look.last_error = error
        pause = _backoff(look.faults + 1) if is_transient(error) else _BETWEEN_REFUSALS
        if isinstance(error, APIResponseError):
            asked = pause if isinstance(error, RateLimitError) else 0.0
            asked = asked if error.retry_after is None else min(error.retry_after, _LONGEST_HOLD)
            self._memory.held_until = max(self._memory.held_until, now + asked)
        return error if self._is_final(look, error, now) else None, pause

    def _is_final(self, look: Look, error: MidjourneyError, now: float) -> bool:
        nothing_seen = not self._memory.sightings
        match error:
            case APIConnectionError():
                return is_programming_error(error.__cause__)
            case ConfigurationError() | PermissionDeniedError():
                return True
            case AuthenticationError():
                return look.refusals > 1  # a fault of the gateway's database answers one 401 to a good key
            case TaskNotFoundError():
                # So does such a fault to a good id, but not to one id while others are found, and not for ever.
                others_seen = self._memory.sightings > look.sightings_before
                lasting = now - look.refused_from >= LASTING
                return look.task is None and look.refusals > 1 and (nothing_seen or others_seen or lasting)
            case APIResponseError() if isinstance(error, InvalidResponseError) or not is_transient(error):
                # Something else answers. Once the API has been seen there, it is a maintenance page.
                return look.refusals > 2 and nothing_seen
            case _:
                return False

    def _give_up(self, now: float) -> None:
        if not self._heap and (look := self._draw()):
            self._finish(look, self._timed_out(look, now))
        while self._heap:
            look = heappop(self._heap)[2]
            self._finish(look, self._timed_out(look, now))

    def _timed_out(self, look: Look, now: float) -> WaitTimeoutError:
        seen = "it never got an answer"
        if look.sent is None:
            seen = "no time was left to ask for it"
        elif isinstance(look.last_error, APIResponseError):
            seen = "it was never seen"
        if look.task:
            progress = f" {look.task.progress} %" if look.task.progress is not None else ""
            status = look.task.status if look.task.status in tuple(TaskStatus) else quoted(look.task.status)
            seen = f"last seen {status or 'accepted'}{progress} {now - look.seen_at:.0f} s ago"
        text = f"Not done after {self._timeout:g} s: {seen}. It goes on at the server: wait again with the same id."
        if look.faults:
            text += f" The last look failed: {look.last_error}"
        error = WaitTimeoutError(text, look.task, look.last_error)
        error.task_id = look.task_id
        return error

    def _finish(self, look: Look, outcome: Outcome) -> None:
        if not self._changes or not isinstance(outcome, Task | TaskError):
            self._outcomes.append((look.task_id, outcome))


def _visible(task: Task) -> tuple[object, ...]:
    """What a change is a change of. The gateway puts a new query on a preview's address at each look."""
    picture = (task.image_url or task.preview_url or "").partition("?")[0]
    return task.status, task.progress, task.fail_reason, task.buttons, picture


def _backoff(attempt: int) -> float:
    return min(2.0 ** (attempt - 2), 8.0) * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
