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

from .beat import Beat, Interval
from .errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
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
    said,
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
_UNKNOWN_WORDS = 10  # are logged, and no more
_KEPT = 0.25  # seconds that an outcome is kept back for looks that are due
_LONGEST_HOLD = 60.0  # seconds that a `Retry-After` is obeyed for; a server can ask for years

_log = logging.getLogger("anyapi_midjourney")

Outcome: TypeAlias = Task | MidjourneyError


def is_programming_error(cause: BaseException | None) -> bool:
    """Whether a request failed for a mistake in the program, such as a hook's TypeError, and not for the network."""
    mistakes = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
    # A UnicodeError, which is a ValueError, comes of a redirect to a host with an impossible name.
    wrong = isinstance(cause, (*mistakes, httpx.UnsupportedProtocol, httpx.LocalProtocolError))
    return wrong and not isinstance(cause, UnicodeError)


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
            raise error.with_traceback(None)  # the frames below hold what the server sent, in which the key can be
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
    caught: Interval | None = None
    """In which its last refresh came."""
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
        check: Raises `ConfigurationError` for an id that cannot be one.
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
        check: Callable[[str], object],
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
            raise ConfigurationError(
                "as_completed takes ids in a list or another iterable, no async one; for one id there is wait."
            )
        self._ids: Iterator[str] | None = iter(task_ids)
        self._memory = memory
        self._check = check
        self._timeout = inf if timeout is None or timeout > 1e9 else timeout
        self._request_timeout = request_timeout
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._changes = changes
        self._deadline = clock() + self._timeout
        self._limit = self._deadline
        """When the wait is over; half a second later, once the last round of looks has begun."""
        self._last_round = False
        self._asked_again = False
        self._closed = False
        self._drawn: set[str] = set()
        self._drew = False
        self._heap: list[tuple[float, int, Look]] = []
        self._pushes = count()
        self._in_flight: set[Look] = set()
        self._outcomes: deque[tuple[str, Outcome]] = deque()
        self._kept_from = inf
        """Since when there has been an outcome that nobody took."""
        self._slowest = 0.0
        """About as many seconds as the slowest of the latest answers took."""
        self._broken: Exception | None = None

    @property
    def ready(self) -> bool:
        """Whether to take an outcome now.

        One that is there is kept back a little as long as looks are due, lest after each the line run empty; and in the
        last round, when there is no time for anything but looks.
        """
        if self._last_round or not (self._outcomes or self._broken):
            return False
        if len(self._outcomes) >= 4 * self._max_in_flight or self._max_in_flight == 1:
            return True
        now = self._clock()
        due = self._ids is not None or (self._heap and self._heap[0][0] <= now)
        return now >= self._kept_from + _KEPT or now < self._memory.held_until or not due

    def outcome(self) -> tuple[str, Outcome] | None:
        """An id and its task or error; None if there is none any more. Raises what the iterable of ids raised."""
        if self._outcomes:
            outcome = self._outcomes.popleft()
            self._kept_from = self._kept_from if self._outcomes else inf
            return outcome
        if self._broken:
            error, self._broken = self._broken, None
            raise error
        return None

    def step(self) -> Look | float | None:
        """What to do now: make this look; else sleep so many seconds, or until an answer comes; None: nothing more."""
        if self._closed:
            return None
        now = self._clock()
        if now >= self._deadline and not self._last_round:
            self._last_round, self._limit = True, now + GRACE
            self._heap = [(now, order, look) for _, order, look in sorted(self._heap)]
        held = now < self._memory.held_until
        if self._last_round and (now >= self._limit or (held and self._asked_again and not self._in_flight)):
            self._give_up(now)
            return None
        free = len(self._in_flight) < self._max_in_flight
        if free and (look := self._next_look(now)):
            now = self._clock()  # an id may take its time to be drawn
            look.sent = self._memory.beat_time(now)
            look.last = now > self._deadline - GRACE
            self._in_flight.add(look)
            return look
        if not self._heap and not self._in_flight and self._ids is None:
            return None
        until = min(self._limit, self._kept_from + _KEPT if not self._last_round else inf)
        if free:
            due = now if self._ids is not None else self._heap[0][0] if self._heap else inf
            until = min(until, max(due, self._memory.held_until))
        return max(0.0, until - now)

    def allowance(self) -> float:
        """Seconds that a request sent now may take."""
        left = self._limit - self._clock()
        return max(min(left if self._last_round else max(left, GRACE), self._request_timeout), 0.001)

    def grace(self) -> float:
        """Seconds that the looks in flight may still take, although somebody waits for an outcome that is there."""
        left = self._limit - self._clock()
        # As long as others took; a little in any case, so that one that is out of time can say so.
        return min(max(left, 0.05), GRACE if self._last_round else max(GRACE, min(2 * self._slowest, 5.0)))

    def answer(self, look: Look, answer: Outcome | None) -> None:
        """Takes the answer to a look; None if it was broken off, and the task is to be asked for again."""
        now = self._clock()
        self._in_flight.discard(look)
        if self._closed:
            return
        over = now >= (self._deadline if look.last else self._deadline + GRACE)
        if isinstance(answer, Task):
            over = now >= self._deadline
            outcome, pause = self._saw(look, answer, now)
        elif answer is not None:
            outcome, pause = self._missed(look, answer, now)
        else:
            look.faults += 1
            outcome, pause = None, _backoff(look.faults) if look.faults > 1 else 0.0
        if outcome is None and not over:
            heappush(self._heap, (now + pause, next(self._pushes), look))
        else:
            self._finish(look, outcome or self._timed_out(look, now), now)

    def close(self) -> None:
        """Ends it: there will be no more looks and no more outcomes."""
        self._closed = True
        self._outcomes.clear()
        self._broken = None

    def _next_look(self, now: float) -> Look | None:
        if now < self._memory.held_until:
            # One last look is not too many; the server may have thought better of it.
            if not self._last_round or self._asked_again:
                return None
            self._asked_again = True
        due = bool(self._heap) and self._heap[0][0] <= now
        # New ids and due ones take turns, so that neither starves.
        new = None if due and self._drew else self._draw()
        self._drew = new is not None
        return heappop(self._heap)[2] if due and not new else new

    def _draw(self) -> Look | None:
        """The next id, if there is one, it can be one, and it was not drawn before."""
        if self._ids is None:
            return None
        try:
            task_id = next(self._ids)
        except StopIteration:
            self._ids = None
            return None
        except Exception as error:  # noqa: BLE001  (the iterable is the caller's)
            self._ids, self._broken = None, error
            return None
        try:
            self._check(task_id)
        except ConfigurationError as error:
            self._finish(Look(task_id), error, self._clock())
            return None
        if task_id in self._drawn:
            return None
        self._drawn.add(task_id)
        return Look(task_id)

    def _saw(self, look: Look, task: Task, now: float) -> tuple[Outcome | None, float]:
        """The outcome, if there is one, else the pause until the next look."""
        moment, sent, first = self._memory.beat_time(now), look.sent or 0.0, look.task is None
        changed = look.task is not None and _visible(look.task) != _visible(task)
        if changed:
            quiet = look.shown - look.quiet_from
            look.caught = self._memory.beat.change(look.shown, moment, own=look.caught, quiet=quiet)
        if first or changed:
            look.quiet_from = sent
            if self._changes:
                self._put(look.task_id, task, now)
        self._slowest = max(moment - sent, 0.9 * self._slowest)
        look.task, look.seen_at, look.shown = task, now, sent
        look.faults = look.refusals = 0
        if task.status != TaskStatus.MODAL:
            look.blocked_from = None
        elif look.blocked_from is None:
            look.blocked_from = now
        unknown = self._memory.unknown
        if task.status not in (*TaskStatus, *unknown) and len(unknown) < _UNKNOWN_WORDS:
            unknown.add(task.status)
            _log.warning("A task has the status %s, which is not known here; it is waited for.", quoted(task.status))
        blocked = look.blocked_from is not None and now - look.blocked_from >= LASTING
        if task.done or blocked:
            return task if task.succeeded else task_error(task), 0.0
        return None, self._memory.beat.next_look(moment, first=first, own=look.caught) - moment

    def _missed(self, look: Look, error: MidjourneyError, now: float) -> tuple[Outcome | None, float]:
        """The same of a look that showed no task."""
        look.faults += 1
        if type(error) is not type(look.last_error) or not look.refusals:
            look.refusals, look.refused_from, look.sightings_before = 0, now, self._memory.sightings
        look.refusals += 1
        look.last_error = error
        _log.info("A look failed: %s", error)
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
        look = heappop(self._heap)[2] if self._heap else self._draw()
        while look:
            self._finish(look, self._timed_out(look, now), now)
            look = heappop(self._heap)[2] if self._heap else None

    def _timed_out(self, look: Look, now: float) -> WaitTimeoutError:
        seen = "it never got an answer"
        if look.sent is None:
            seen = "no time was left to ask for it"
        elif isinstance(look.last_error, APIResponseError):
            seen = "it was never seen"
        advice = "wait again"
        if isinstance(look.last_error, TaskNotFoundError):
            advice = "check the id, and wait again"
        elif isinstance(look.last_error, APIConnectionError | InvalidResponseError):
            advice = "check the network and the base URL, and wait again"
        if look.task:
            progress = f" {look.task.progress} %" if look.task.progress is not None else ""
            status = look.task.status if look.task.status in tuple(TaskStatus) else quoted(look.task.status)
            seen = f"last seen {status or 'accepted'}{progress} {now - look.seen_at:.0f} s ago"
            advice = "it goes on at the server, so wait again with the same id"
            if look.task.status == TaskStatus.MODAL:
                advice = "a window waits for an answer (POST /mj/submit/modal)"
        fault = "no answer in time" if isinstance(look.last_error, APITimeoutError) else "no answer"
        if isinstance(look.last_error, APIResponseError):
            fault = said(look.last_error.message, f"HTTP {look.last_error.status_code}")
        failed = f", and the last look failed: {fault}" if look.faults else ""
        error = WaitTimeoutError(
            f"Not done after {self._timeout:g} s: {seen}{failed}; {advice}.", look.task, look.last_error
        )
        error.task_id = look.task_id
        return error

    def _finish(self, look: Look, outcome: Outcome, now: float) -> None:
        if not self._changes or not isinstance(outcome, Task | TaskError):
            self._put(look.task_id, outcome, now)

    def _put(self, task_id: str, outcome: Outcome, now: float) -> None:
        self._outcomes.append((task_id, outcome))
        self._kept_from = min(self._kept_from, now)


def _visible(task: Task) -> tuple[object, ...]:
    """What a change is a change of. The gateway puts a new query on a preview's address at each look."""
    picture = (task.image_url or task.preview_url or "").partition("?")[0]
    return task.status, task.progress, task.fail_reason, task.buttons, picture


def _backoff(attempt: int) -> float:
    return 2.0 ** min(attempt - 2, 3) * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
