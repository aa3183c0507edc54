"""When a poll can show something new: the cycle in which a gateway refreshes its tasks."""

from __future__ import annotations

import random
from itertools import count
from math import ceil, floor
from typing import TYPE_CHECKING, TypeAlias

from attrs import define, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUND = 15.0
"""Seconds that a gateway sleeps between two rounds, or that lie between two ticks of its grid."""
PLAIN_INTERVAL = 5.0
"""Seconds between two polls where there is no cycle; more frequent polls bring nothing, by the vendors' own advice."""

_SEARCH_INTERVAL = 4.0  # seconds between two polls until the first change, on which all that follows depends
_CHEAP_INTERVAL = 2.0  # seconds, in place of these two where a poll is cheap
_SHORTEST_INTERVAL = 0.1  # seconds
_JITTER = 0.15  # seconds by which a poll may be late, so that a million clients do not poll in the same millisecond

_WIDEST_SIGHTING = ROUND / 2  # seconds; a wider one does not tell when the refresh was
_PRECISE_SIGHTING = 3.5  # seconds; two such sightings tell how long a round was
_WIDEST_WINDOW = ROUND - 1  # seconds; a wider one is no better than plain polling
_DRIFT, _MOST_DRIFT = 0.7, 9.0  # seconds, at first and at most
_CLOSE_STEP, _WIDE_STEP = 0.5, 2.3  # seconds between two polls in a window
_CERTAIN = 3  # the highest confidence

_GRID_ERROR = 0.1  # seconds by which ticks may miss their grid
_GRID_SIGHTINGS = 3
_GRID_ROUNDS, _MOST_GRID_ROUNDS = 8, 64  # fewer would take a gateway that sleeps 15.3 s for a grid
_WIDEST_PHASE = 0.6  # seconds
_CHECK_ROUNDS = 6
_AFT = 0.1

Interval: TypeAlias = tuple[float, float]


@frozen
class Phase:
    """Where the ticks of a grid lie: one from `start` to `end`, the others any number of rounds away."""

    start: float
    end: float
    first: float
    """The start of the first sighting that agreed."""
    rounds_seen: int
    """In how many rounds a sighting agreed."""

    def tick(self, rounds: int) -> Interval:
        """When the tick comes that lies so many rounds after the last that was seen.

        It may come a little later than on a grid, as it did since the first: a gateway may sleep 15.01 s as well.
        """
        since_first = round((self.end - self.first) / ROUND)
        delay = (
            max(self.end - self.first - ROUND * since_first, 0.0) / since_first if since_first >= _GRID_ROUNDS else 0.0
        )
        return self.start + ROUND * rounds, self.end + (ROUND + delay) * rounds

    def is_grid(self, now: float, least_rounds: int) -> bool:
        """Whether enough sightings agree, and the phase is narrow enough for the next tick."""
        start, end = self.tick(max(floor((now - self.end) / ROUND) + 1, 0))
        enough = self.rounds_seen >= _GRID_SIGHTINGS and self.end - self.first >= least_rounds * ROUND
        return enough and end - start <= _WIDEST_PHASE


@define(eq=False)
class RefreshCycle:
    """Learns when a gateway's tasks change, from the changes that polls happen to find.

    A gateway answers a poll from its own table. One loop *refreshes* the table: it asks the proxies behind the gateway
    one after the other, and writes down the state of each task. Between two refreshes every poll is wasted.

    - A *sighting* is the interval between two polls in which a task changed: in it lies a refresh.
    - A *window* is when the next refresh can come, by the last sighting. Polls are spread over it.
    - *Drift* is how much longer than 15 s a round takes.
    - The *phase* is where the ticks of a *grid* lie, if sightings agree that there is one.
    - *Confidence* counts the sightings that fitted, up to three. Below 0 there is no cycle, and it counts those that
      must fit until there is one again.

    **A gateway that sleeps** (new-api before June 2026) sleeps 15 s after each round. A round is never shorter, and
    drift makes windows wider, one after the other, until the next sighting:

            sighting     halfway       window 1    final        window 2          final
        ────(──────]─────────|───────[───|───|]──────|─────────[───|────|──]────────|─── time
            t0    t1             t0+15       t1+15+drift     t0+30      t1+30+2·drift

    A refresh need not change a task, so a window without a change proves nothing. One final poll after it finds a
    slower gateway. The halfway poll finds a gateway without a cycle: a task that changes twice in 15 s proves that there
    is none. A task that was not seen to change yet may be at another proxy, so it is polled just before a window too.

    **A gateway with a grid** (newer ones) refreshes at ticks that lie 15 s apart, and skips more than half of them:

             phase           phase           phase           phase
        ──────[]|─────────────[]|───────────|[]|────────────|[]|──────── time
                  one poll after each tick     now and then also one before, as a check

    Each sighting, moved by whole rounds, makes the phase narrower. There is a grid when at least three agree over eight
    rounds. A change at another time disproves it; it then takes twice as many rounds to believe in a grid again.

    One object serves all waits of a client. Times are seconds of one clock that goes on while the machine sleeps. Every
    attribute is replaced as a whole, so threads can share it.
    """

    _last: Interval | None = None
    """The last sighting of any task."""
    _drift: float = _DRIFT
    """About the longest that was seen; it is forgotten slowly."""
    _confidence: int = 0
    _phase: Phase | None = None
    _grid_rounds: int = _GRID_ROUNDS

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
        if sighting[1] - sighting[0] > _WIDEST_SIGHTING:
            return None
        self._last = sighting
        return sighting

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
        at = next((at for at in polls if at > now + _SHORTEST_INTERVAL), now + (_CHEAP_INTERVAL if cheap else interval))
        return at + random.uniform(0, _JITTER)  # noqa: S311  (no secret)

    def _polls_in_windows(self, last: Interval, now: float, *, is_own: bool, cheap: bool) -> Iterator[float]:
        certain = self._confidence == _CERTAIN
        for rounds in count(max(1 if is_own else 0, floor((now - last[1]) / (ROUND + self._drift)))):
            start, end = self._window(last, rounds)
            width = end - start
            if width > _WIDEST_WINDOW:
                return
            if rounds == 1 and self._confidence < 1:
                yield last[1] + 0.75 * (start - last[1])
            if not is_own and start - now > _WIDEST_SIGHTING:
                yield start - 2 * _CLOSE_STEP
            steps = ceil(width / _CLOSE_STEP)
            if not cheap and certain:
                steps = min(steps, 3)
            elif not cheap:
                # The final poll covers the drift, unless the window is narrow: on a grid there is none.
                width = max(last[1] - last[0], min(width, 2.8))
                steps = max(min(steps, 2), ceil(width / _WIDE_STEP))
            for step in range(1, steps + 1):
                yield start + width * step / steps
            yield end + self._final_delay + (0.0 if is_own else PLAIN_INTERVAL / 2)

    def _polls_at_ticks(self, phase: Phase, now: float) -> Iterator[float]:
        for rounds in count(floor((now - phase.end) / ROUND)):
            start, end = phase.tick(rounds)
            if rounds > _CHECK_ROUNDS:
                yield start - 3 * _GRID_ERROR
                if end - start > 2.5 * _GRID_ERROR:
                    yield (start + end) / 2
            yield end + _AFT

    def _fit_sleep(self, last: Interval, since: float, now: float) -> Interval:
        """Compares a sighting with the one before it. Returns the part of it in which the refresh can have been."""
        rounds = floor((now - last[0]) / ROUND)
        if rounds < 1 and since < last[1] and now > last[0]:  # another task, changed by the same refresh
            return max(since, last[0]), min(now, last[1])
        start, end = self._window(last, rounds)
        if end - start > _WIDEST_WINDOW:
            return since, now
        if rounds < 1 or since >= end + self._final_delay:
            self._confidence = -3 if self._confidence < 0 else 0
            return since, now
        drift = min(max((since + now - last[0] - last[1]) / 2 / rounds - ROUND, 0.0), _MOST_DRIFT)
        certain = since >= end or max(now - since, last[1] - last[0]) <= _PRECISE_SIGHTING
        if rounds <= 2 and (certain or drift < self._drift):  # of more rounds there might be one more or less
            self._drift = max(drift, self._drift + (drift - self._drift) / 10)
        if since >= start - 2 * _CLOSE_STEP:  # else the first poll found it, and it may have come long before
            self._confidence = min(self._confidence + 1, _CERTAIN)
        return max(since, min(last[0] + ROUND * rounds, now)), now

    def _fit_grid(self, since: float, now: float) -> None:
        """Compares a sighting with the phase. A wide one can only disprove it."""
        narrow = now - since <= _WIDEST_SIGHTING
        new = Phase(since, now, since, 1) if narrow else None
        if not (phase := self._phase):
            self._phase = new
            return
        middle = (phase.start + phase.end) / 2
        rounds = round(((since + now) / 2 - middle) / ROUND) if narrow else floor((now - phase.start) / ROUND)
        start, end = phase.tick(rounds)
        start, end = max(start, since), min(end, now)
        is_grid = phase.is_grid(now, self._grid_rounds)
        if start - end > _GRID_ERROR:
            if is_grid:
                self._grid_rounds = min(2 * self._grid_rounds, _MOST_GRID_ROUNDS)
            self._phase = new
        elif rounds > _GRID_ROUNDS and not is_grid:
            self._phase = new
        elif narrow and rounds >= 0:
            # If the two miss each other a little, the tick lies between them.
            self._phase = Phase(min(start, end), max(start, end), phase.first, phase.rounds_seen + (rounds > 0))

    def _window(self, last: Interval, rounds: int) -> Interval:
        return last[0] + ROUND * rounds, last[1] + (ROUND + self._drift) * rounds

    @property
    def _final_delay(self) -> float:
        """Seconds from a window's end to its final poll."""
        return 1.0 if self._confidence == _CERTAIN else 2.4
