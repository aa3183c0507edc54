"""When a look can show something new: the beat in which a gateway refreshes its tasks."""

from __future__ import annotations

import random
from itertools import count
from math import ceil, floor

from attrs import define

ROUND = 15.0
"""Seconds that the gateway sleeps between rounds (new-api, `controller/midjourney.go`, UpdateMidjourneyTaskBulk)."""
PACE = 5.0
"""Seconds between two looks where there is no beat; more often brings nothing, by the vendors' own advice."""

_EAGER = 3.9  # seconds between two looks until the first change is seen, on which all that follows hangs
_LOOKS = 3  # spread over a window
_CLOSEST = 0.5  # seconds between two looks
_SHARP = 2.6  # seconds; two catches this narrow tell how long a round was
_VAGUE = ROUND - 1  # seconds; a window this wide tells nothing
_CERTAIN = 3  # the most trust


@define(eq=False)
class Beat:
    """The rhythm in which a gateway's tasks change, learned from the changes that looks happen to find.

    The gateway answers a look from its own table, and one loop refreshes that table: it sleeps 15 s, asks the proxies
    behind the gateway, writes down what they say, and begins anew. Between two refreshes every look is wasted.

    *Catch.* If a task is found changed at t1 and was not at t0, a refresh came in (t0, t1].

    *Window.* No round is shorter than its sleep. So the k-th refresh after a catch comes in
    [t0 + 15 k, t1 + (15 + late) k], with `late` the most by which rounds were seen to be longer, slowly forgotten. Of a
    gateway that was caught after the window, `early` is what its rounds take at least.

    *Looks.* Three, spread over the window. A refresh that comes between two of them is a catch a third as wide, so each
    catch makes the next window narrower, down to what the rounds themselves vary.

    *Silence.* A refresh need not change a task, so a silent window proves nothing. One look after it, 5 s later while
    little is known and 1 s when much is, finds a slower gateway; and the windows widen with k by themselves.

    *Doubt.* A task that changes twice within 15 s has no such loop behind it, as at a proxy without a gateway. That is
    likely if the very first looks find a change, so then, until a second catch fits, one more look is made halfway to
    the window. Disproved, the beat gives way to plain polling until three changes in a row fit. And since the proxies
    are asked one after the other, a task that was not caught yet may come earlier or later in the round than those that
    were: for it there is a look just before the window, and if it has changed by then, the last catch is forgotten.

    One beat serves all tasks of a client, together and one after another. Times are seconds of a clock that goes on
    while the machine sleeps: after an hour under a closed lid windows are wider than a round, and are not used.
    """

    _caught: tuple[float, float] | None = None
    """The last catch, (t0, t1]. One tuple, so that no thread sees half of one."""
    _early: float = 0.0
    _late: float = 1.5
    _trust: int = 0
    """How many catches have fitted, up to three. Below 0: how many fits are missing until there is a beat again."""

    def change(self, since: float, now: float, *, before: float | None, quiet: float) -> None:
        """Learns that a task has changed between two looks at it.

        Args:
            since: When it was last seen as it was.
            now: When it was seen changed.
            before: The `since` of the same task's previous change, if there was one.
            quiet: Seconds up to `since` for which looks had found it as it was.
        """
        last = self._caught
        if before is not None and now - before < ROUND:
            self._trust = 0 if self._trust > 1 else -3
        elif last is None:
            self._trust = max(self._trust, 1) if quiet >= 2 * PACE and self._trust >= 0 else self._trust
        else:
            since, now = self._compare(last, since, now)
        if now - since <= ROUND / 2:  # else it says nothing
            self._caught = since, now

    def next_look(self, now: float, *, first: bool, caught: bool) -> float:
        """When to look again at a task that is not done.

        Args:
            now: When it was looked at.
            first: Whether for the first time.
            caught: Whether a change of this task was seen already.
        """
        last = self._caught
        if last is None or self._trust < 0:
            return now + (PACE if first or self._trust < 0 else _EAGER)
        for rounds in count(max(1, floor((now - last[1]) / (ROUND + self._late)))):
            start, end = self._window(last, rounds)
            if end - start > _VAGUE:
                break
            looks = min(_LOOKS, ceil((end - start) / _CLOSEST))
            step = (end - start) / looks
            plan = [] if caught else [start - 2 * _CLOSEST]
            plan += [start + step * n for n in range(1, looks + 1)]
            plan.append(end + self._patience)
            if rounds == 1 and self._trust < 1:
                plan.insert(0, (last[1] + start) / 2)
            for look in plan:
                if look > now + _CLOSEST / 4:  # the jitter of one look does not cost the next
                    # Jitter, so that a million clients do not look in the same millisecond.
                    return look + random.uniform(0, min(0.5, step / 4))  # noqa: S311  (no secret)
        return now + PACE

    def _compare(self, last: tuple[float, float], since: float, now: float) -> tuple[float, float]:
        """Learns from a catch and the one before it. Returns the catch in the light of that one."""
        rounds = floor((now - last[0]) / ROUND)
        if rounds < 1 and since < last[1] and now > last[0]:  # another task, changed by the same refresh
            return max(since, last[0]), min(now, last[1])
        start, end = self._window(last, rounds)
        if end - start > _VAGUE:
            return since, now
        if rounds < 1 or since >= end + self._patience:
            self._trust = -3 if self._trust < 0 else 0
            self._caught = None
            return since, now
        late = min(max(((since + now) / 2 - sum(last) / 2) / rounds - ROUND, 0.0), 6.0)
        certain = since >= end or max(now - since, last[1] - last[0]) <= _SHARP
        if rounds <= 2 and (certain or late < self._late):  # of more rounds there might be one more or less
            self._late = max(late, self._late + (late - self._late) / 10)
            if since >= end:
                self._early = max(0.0, min((since - last[1]) / rounds - ROUND, late))
        if since < start:  # found by the first look: who knows how long before
            self._early = 0.0
        if since >= start - _CLOSEST:
            self._trust = min(self._trust + 1, _CERTAIN)
        return max(since, min(last[0] + ROUND * rounds, now)), now

    def _window(self, last: tuple[float, float], rounds: int) -> tuple[float, float]:
        return last[0] + (ROUND + self._early) * rounds, last[1] + (ROUND + self._late) * rounds

    @property
    def _patience(self) -> float:
        return 1.0 if self._trust == _CERTAIN else 5.0
