"""When a poll can show something new: the cycle in which a gateway refreshes its tasks."""

import random
from collections.abc import Iterator
from itertools import count
from math import ceil, floor
from typing import TypeAlias

from attrs import define, frozen

ROUND = 15.0
"""Seconds that a gateway sleeps between two rounds, or that lie between two ticks of its grid."""
PLAIN_INTERVAL = 5.0
"""Seconds between two polls where there is no cycle; more frequent polls bring nothing, by the vendors' own advice."""

_SEARCH_INTERVAL = 3.9  # seconds, in place of it until the first change, on which all that follows depends
_CHEAP_INTERVAL = 2.0  # seconds, in place of both where a poll is cheap
_JITTER = 0.1  # seconds by which a poll may be late, so that a million clients do not poll in the same millisecond

_WIDEST_SIGHTING = ROUND / 2  # seconds; a wider one does not tell when the refresh was
_PRECISE_SIGHTING = 3.5  # seconds; two such sightings tell how long a round was
_WIDEST_WINDOW = ROUND - 1  # seconds; a wider one is no better than plain polling
_INITIAL_DRIFT = 0.7  # seconds
_CLOSE_STEP, _WIDE_STEP = 0.5, 2.6  # seconds between two polls in a window
_CERTAIN = 3  # the highest confidence

_GRID_ERROR = 0.1  # seconds by which ticks may miss their grid
_GRID_ROUNDS, _MOST_GRID_ROUNDS = 8, 64
_WIDEST_PHASE = 0.8  # seconds
_CHECK_ROUNDS = 7

Interval: TypeAlias = tuple[float, float]


@frozen
class Phase:
    """Where the ticks of a grid lie: one from `start` to `end`, the others whole rounds before and after it."""

    start: float
    end: float
    first: float
    """The start of the first sighting that agreed."""

    def tick(self, rounds: int) -> Interval:
        """Where the tick lies that comes so many rounds after the last that was seen.

        A gateway that sleeps 15.01 s resembles a grid for a long time, so a tick may come later than on a grid: by as
        much a round as would explain what was seen since the first sighting.
        """
        seen = round((self.end - self.first) / ROUND)
        delay = max(self.end - self.first - ROUND * seen, 0.0) / seen if seen >= _GRID_ROUNDS else 0.0
        return self.start + ROUND * rounds, self.end + (ROUND + delay) * rounds

    def is_grid(self, now: float, least_rounds: int) -> bool:
        """Whether sightings have agreed for so many rounds, and tell precisely enough when the next tick comes."""
        start, end = self.tick(max(floor((now - self.end) / ROUND) + 1, 0))
        return self.end - self.first >= ROUND * least_rounds and end - start <= _WIDEST_PHASE


@define(eq=False)
class RefreshCycle:
    """Learns when a gateway's tasks change, from the changes that polls happen to find.

    A gateway answers a poll from its own table. One loop *refreshes* the table: it asks the proxies behind the gateway
    one after the other, and writes down the state of each task. Between two refreshes every poll is wasted.

    - A *sighting* is the interval between two polls in which a task changed: a refresh lies in it.
    - A *window* is the interval in which the next refresh can come, by the last sighting. Polls are spread over it.
    - *Drift* is how much longer than 15 s a round takes.
    - *Confidence* counts the sightings that fitted, up to three. Below 0 there is no cycle, and it counts those that
      must fit until there is one again.
    - The *phase* is the interval in which the ticks of a *grid* lie, moved by whole rounds.

    **A gateway that sleeps** (new-api before June 2026) sleeps 15 s after each round. A round is never shorter, and may
    be longer by the drift, so each window is wider than the one before, until there is a sighting again:

              sighting              window                        window
        ─────(────────]──────|─────[───|───|]─────|──────────────[───|────|──]─────|──── time
             t0      t1   halfway  t0 + 15    final            t0 + 30           final
                           poll    to t1 + 15  poll            to t1 + 30         poll
                                   + drift                     + 2 drift

    A refresh need not change a task, so a window without a change proves nothing. The final poll finds a gateway that
    is slower than its drift. The halfway poll finds one that has no cycle: a task that changes twice in 15 s proves it.
    A task without a sighting of its own may be at a proxy that is asked earlier or later, so it is also polled just
    before a window; so is every task after a change that neither cycle explains, such as a gateway's restart.

    **A gateway with a grid** (new-api since June 2026) refreshes at ticks that lie 15 s apart, and skips more than half
    of them:

            phase            phase            phase            phase
        ─────[─]|─────────────[─]|─────────────[─]|───────────|[|]|───── time
            tick            skipped            tick        now and then, to check

    Each sighting that agrees, moved by whole rounds, makes the phase narrower. There is a grid once sightings agree
    over eight rounds and the phase is narrow: then there is one poll after each tick. A change at another time
    disproves the grid, and for the next one sightings must agree over twice as many rounds.

    The numbers come from simulations (`benchmarks/waiting.py`): what saves requests at one kind of gateway costs lag at
    another. One object serves all waits of a client. Times are seconds of one clock; if it stops while the machine
    sleeps, the next change disproves what was learned. Threads may share the object: each attribute is replaced as a
    whole, and one lost update does no harm.
    """

    _last: Interval | None = None
    """The last sighting of any task."""
    _drift: float = _INITIAL_DRIFT
    """The longest that was seen, forgotten slowly."""
    _confidence: int = 0
    _phase: Phase | None = None
    _grid_rounds: int = _GRID_ROUNDS
    """For how many rounds sightings must agree."""

    def record_change(self, since: float, now: float, *, own: Interval | None, unchanged_for: float) -> Interval | None:
        """Learns that a task changed between two polls. Returns the task's own last sighting from now on.

        Args:
            since: When the poll was sent that showed the task as it was before.
            now: When the response came that showed the change.
            own: What this returned for the task before.
            unchanged_for: Seconds up to `since` in which polls had shown no change.
        """
        self._fit_grid(since, now)
        last, sighting = own or self._last, (since, now)
        if own and now - own[0] < ROUND - 2 * _GRID_ERROR:
            self._confidence = 0 if self._confidence > 1 else -3
        elif last:
            sighting = self._fit_sleep(last, since, now)
        elif self._confidence == 0 and unchanged_for >= 2 * PLAIN_INTERVAL:
            self._confidence = 1
        own = sighting if sighting[1] - sighting[0] <= _WIDEST_SIGHTING else None
        if own or not self._phase:  # neither cycle explains a wide one, so search again
            self._last = own
        return own

    def next_poll(self, now: float, *, first: bool, own: Interval | None, cheap: bool = False) -> float:
        """When to poll a task again that is not done.

        Args:
            now: When it was polled.
            first: Whether for the first time.
            own: The task's own last sighting. Proxies are asked one after the other, so it counts more than others.
            cheap: Whether one poll serves many tasks, so that more of them are well spent.
        """
        interval = PLAIN_INTERVAL if first or self._confidence < 0 else _SEARCH_INTERVAL
        polls: Iterator[float] = iter(())
        if (phase := self._phase) and phase.is_grid(now, self._grid_rounds):
            polls = self._polls_at_ticks(phase, now)
        elif self._confidence >= 0 and (last := own or self._last):
            polls = self._polls_in_windows(last, now, is_own=own is not None, cheap=cheap)
        at = next((at for at in polls if at > now + 0.1), now + (_CHEAP_INTERVAL if cheap else interval))
        return min(at, now + 2 * ROUND) + random.uniform(0, _JITTER)  # noqa: S311  (no secret)

    def _polls_in_windows(self, last: Interval, now: float, *, is_own: bool, cheap: bool) -> Iterator[float]:
        for rounds in count(max(1 if is_own else 0, floor((now - last[1]) / (ROUND + self._drift)))):
            start, end, final = self._window(last, rounds)
            width = end - start
            if width > _WIDEST_WINDOW:
                return
            if rounds == 1 and self._confidence < 1:
                yield last[1] + 0.75 * (start - last[1])
            if not (is_own and self._phase) and start - now > _WIDEST_SIGHTING:
                yield start - 2 * _CLOSE_STEP
            steps = ceil(width / _CLOSE_STEP)
            if not cheap and self._confidence == _CERTAIN:
                steps = min(steps, 3)
            elif not cheap:  # the final poll covers the drift too, unless the window is narrow
                width = max(last[1] - last[0] + 0.2, min(width, 2.8))
                steps = max(min(steps, 2), ceil(width / _WIDE_STEP))
            for step in range(1, steps + 1):
                yield start + width * step / steps
            yield final if is_own else final + PLAIN_INTERVAL / 2

    def _polls_at_ticks(self, phase: Phase, now: float) -> Iterator[float]:
        for rounds in count(floor((now - phase.end) / ROUND)):
            start, end = phase.tick(rounds)
            if rounds > _CHECK_ROUNDS or end - start > _WIDEST_PHASE / 2:
                yield start - 3 * _GRID_ERROR
                if end - start > 1.5 * _GRID_ERROR:
                    yield (start + end) / 2
            yield end + _GRID_ERROR

    def _fit_sleep(self, last: Interval, since: float, now: float) -> Interval:
        """Compares a sighting with the one before it. Returns the part of it in which the refresh can have been."""
        rounds = floor((now - last[0]) / ROUND)
        if rounds < 1 and since < last[1] and now > last[0]:  # another task, changed by the same refresh
            return max(since, last[0]), min(now, last[1])
        start, end, final = self._window(last, rounds)
        if end - start > _WIDEST_WINDOW:
            return since, now
        if rounds < 1 or since >= final:
            self._confidence = -3 if self._confidence < 0 else 0
            return since, now
        drift = max((since + now - last[0] - last[1]) / 2 / rounds - ROUND, 0.0)
        certain = since >= end or max(now - since, last[1] - last[0]) <= _PRECISE_SIGHTING
        if certain or drift < self._drift:
            self._drift = max(drift, self._drift + (drift - self._drift) / 10)
        if since >= start - 2 * _CLOSE_STEP:  # else the first poll found it, and it may have come long before
            self._confidence = min(self._confidence + 1, _CERTAIN)
        return max(since, min(last[0] + ROUND * rounds, now)), now

    def _fit_grid(self, since: float, now: float) -> None:
        """Compares a sighting with the phase. A wide one can only disprove it."""
        narrow, phase = now - since <= _WIDEST_SIGHTING, self._phase or Phase(since, now, since)
        middle = (since + now - phase.start - phase.end) / 2
        rounds = round(middle / ROUND) if narrow else floor((now - phase.start) / ROUND)
        start, end = phase.tick(rounds)
        start, end = max(start, since), min(end, now)
        missed, is_grid = start - end > _GRID_ERROR, phase.is_grid(now, self._grid_rounds)
        if missed and is_grid:
            self._grid_rounds = min(2 * self._grid_rounds, _MOST_GRID_ROUNDS)
        if missed or (rounds > 2 * _GRID_ROUNDS and not is_grid):  # the other was too long ago to tell
            self._phase = Phase(since, now, since) if narrow else None
        elif narrow and rounds >= 0:
            # If they miss each other by the grid's error, the tick lies between them.
            self._phase = Phase(min(start, end), max(start, end), phase.first)

    def _window(self, last: Interval, rounds: int) -> tuple[float, float, float]:
        """The start and the end of a window, and its final poll: the less is known, the later it comes."""
        end = last[1] + (ROUND + self._drift) * rounds
        return last[0] + ROUND * rounds, end, end + 0.8 + 0.6 * (last[1] - last[0])
