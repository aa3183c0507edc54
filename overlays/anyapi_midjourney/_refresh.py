"""When a look can show something new: the beat in which a gateway refreshes its tasks."""

from __future__ import annotations

import random
from itertools import count
from math import ceil, floor
from typing import TypeAlias

from attrs import define

ROUND = 15.0
"""Seconds that the gateway sleeps between rounds (new-api, `controller/midjourney.go`, UpdateMidjourneyTaskBulk)."""
PACE = 5.0
"""Seconds between two looks where there is no beat; more often brings nothing, by the vendors' own advice."""

_EAGER = 4.1  # seconds between two looks until the first change is seen, on which all that follows hangs
_LOOKS = 3  # spread over a window
_CLOSEST = 0.5  # seconds between two looks
_SHARP = 2.6  # seconds; two catches this narrow tell how long a round was
_VAGUE = ROUND - 1  # seconds; a window this wide tells nothing
_CERTAIN = 3  # the most trust


Interval: TypeAlias = tuple[float, float]


@define(eq=False)
class RefreshCycle:
    """The rhythm in which a gateway's tasks change, learned from the changes that looks happen to find.

    The gateway answers a look from its own table, and one loop refreshes that table: it sleeps 15 s, asks the proxies
    behind the gateway one after the other, writes down what they say, and begins anew. Between two refreshes of a task
    every look is wasted. A task that had not changed at t0, and had at t1, was refreshed in between: a *catch*. No
    round is shorter than its sleep, nor longer by more than rounds were seen to be (`late`, slowly forgotten), so

        the k-th refresh after it comes in [t0 + 15 k, t1 + (15 + late) k], its *window*.

              t0    t1                  window                            window
        ──────(──────]──────────────[──|──|──|──]────────|──────────[───|───|───|───]──── time
               change               looks       one more

    Nothing is to be seen before a window, so it sleeps. Up to three looks share a window evenly, and the next change is
    caught between two of them: a narrower catch makes a narrower window, down to what the rounds themselves vary.

    What may be otherwise:

    - A refresh need not change a task, so a silent window proves nothing; with each the next one is wider. One look
      after it (after 5 s while little is known, 1 s when much is) catches a slower gateway, and `late` grows.
    - There may be no such loop, as at a proxy without a gateway. Then changes come at the first looks already, so if
      one does, there is one more look halfway to the first window, until a second catch fits. A task that changes twice
      within 15 s is the proof: from then on it is plain polling, until three catches in a row fit.
    - Tasks of another proxy come earlier or later in the round, so a task's own catches outrank those of others; for
      one that has none yet there is a look just before the window, and the one after it comes later.
    - The machine may have slept. Times are seconds of a clock that goes on meanwhile, so windows are then wider than a
      round, and not used.

    One beat serves all tasks of a client, together and one after another.
    """

    _caught: Interval | None = None
    """The last catch, (t0, t1]. One tuple, so that no thread sees half of one."""
    _late: float = 1.5
    _trust: int = 0
    """How many catches have fitted, up to three. Below 0: how many fits are missing until there is a beat again."""

    def record_change(self, since: float, now: float, *, own: Interval | None, unchanged_for: float) -> Interval | None:
        """Learns that a task has changed between two looks at it. Returns the task's own last catch from now on.

        Args:
            since: When it was last seen as it was.
            now: When it was seen changed.
            own: The task's own last catch.
            unchanged_for: Seconds up to `since` for which looks had found it as it was.
        """
        last = own or self._caught
        caught = since, now
        if own and now - own[0] < ROUND:
            self._trust = 0 if self._trust > 1 else -3
        elif last:
            caught = self._compare(last, since, now)
        elif self._trust == 0 and unchanged_for >= 2 * PACE:
            self._trust = 1
        if caught[1] - caught[0] > ROUND / 2:  # says nothing
            return None
        self._caught = caught
        return caught

    def next_poll(self, now: float, *, first: bool, own: Interval | None, cheap: bool = False) -> float:
        """When to look again at a task that is not done.

        Args:
            now: When it was looked at.
            first: Whether for the first time.
            own: The task's own last catch. The proxies are asked one after the other, so it outranks those of others.
        """
        last = own or self._caught
        if last is None or self._trust < 0:
            return now + (PACE if first or self._trust < 0 else _EAGER)
        for rounds in count(max(1 if own else 0, floor((now - last[1]) / (ROUND + self._late)))):
            start, end = self._window(last, rounds)
            if end - start > _VAGUE:
                break
            looks = min(_LOOKS, ceil((end - start) / _CLOSEST))
            step = (end - start) / looks
            plan = [] if own else [start - 2 * _CLOSEST]
            plan += [start + step * n for n in range(1, looks + 1)]
            plan.append(end + (self._patience if own else max(self._patience, 3.5)))
            if rounds == 1 and self._trust < 1:
                plan.insert(0, (last[1] + start) / 2)
            for look in plan:
                if look > now + _CLOSEST / 4:  # the jitter of one look does not cost the next
                    # Jitter, so that a million clients do not look in the same millisecond.
                    return look + random.uniform(0, min(0.5, step / 4))  # noqa: S311  (no secret)
        return now + PACE

    def _compare(self, last: Interval, since: float, now: float) -> Interval:
        """Learns from a catch and the one before it. Returns the catch in the light of that one."""
        rounds = floor((now - last[0]) / ROUND)
        if rounds < 1 and since < last[1] and now > last[0]:  # another task, changed by the same refresh
            return max(since, last[0]), min(now, last[1])
        start, end = self._window(last, rounds)
        if end - start > _VAGUE:
            return since, now
        if rounds < 1 or since >= end + self._patience:
            self._trust = -3 if self._trust < 0 else 0
            return since, now
        late = min(max(((since + now) / 2 - sum(last) / 2) / rounds - ROUND, 0.0), 9.0)
        certain = since >= end or max(now - since, last[1] - last[0]) <= _SHARP
        if rounds <= 2 and (certain or late < self._late):  # of more rounds there might be one more or less
            self._late = max(late, self._late + (late - self._late) / 10)
        if since >= start - 2 * _CLOSEST:  # else the first look found it, and it may have come long before
            self._trust = min(self._trust + 1, _CERTAIN)
        return max(since, min(last[0] + ROUND * rounds, now)), now

    def _window(self, last: Interval, rounds: int) -> Interval:
        return last[0] + ROUND * rounds, last[1] + (ROUND + self._late) * rounds

    @property
    def _patience(self) -> float:
        return 1.0 if self._trust == _CERTAIN else 5.0
