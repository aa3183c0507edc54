"""Waiting: how late a client knows that a task has ended, and how many requests that costs.

One task, simulated: 10,000 tasks at each kind of gateway, next to a client that polls every 5 s. A lag is the time from
the refresh that made the task's end visible until the client sees it. *First*: each task is the first that its client
waits for. *Known*: one client waits for one task after another.
"""

import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from itertools import count

from attrs import frozen

from anyapi_midjourney._refresh import PLAIN_INTERVAL, RefreshCycle

TASKS = 10_000


@frozen
class Figures:
    """The means over many waits, and the lag that 95 % of them stay under."""

    requests: float
    lag: float
    late: float

    @property
    def cost(self) -> float:
        """Requests × lag."""
        return self.requests * self.lag


Limit = Callable[[Figures, Figures], float]
"""Takes our figures and those of the plain client, and returns what share of the limit ours are: 1 is the most."""


def cost(most: float) -> Limit:
    """A limit to requests × lag."""
    return lambda ours, _: ours.cost / most


def times_plain(most: float) -> Limit:
    """A limit to requests × lag, as a multiple of the plain client's."""
    return lambda ours, plain: ours.cost / plain.cost / most


def requests_and_lag(requests: float, lag: float) -> Limit:
    """A limit to each; infinite requests stand for those of the plain client."""
    return lambda ours, plain: max(ours.requests / min(requests, plain.requests), ours.lag / lag)


def long_and_short(rng: random.Random) -> float:
    """Seconds that a task takes: most half a minute, some a few seconds, some minutes."""
    kind = rng.random()
    if kind < 0.6:
        return max(1.0, rng.gauss(35, 7))
    return rng.uniform(8, 15) if kind < 0.85 else rng.uniform(55, 210)


@frozen
class Gateway:
    """A gateway, its tasks, and the limits for first waits and for those at a known gateway."""

    name: str
    seconds: Callable[[random.Random], float]
    """From one refresh to the next."""
    first: Limit
    known: Limit
    grid_error: float = 0.0
    changes: float = 0.7
    """The share of the refreshes that change a task visibly; its end always does."""
    lifetime: Callable[[random.Random], float] = long_and_short

    def refreshes(self, rng: random.Random) -> Iterator[float]:
        """The moments of all refreshes."""
        now = rng.uniform(0, 15)
        while True:
            now += self.seconds(rng)
            yield now + rng.uniform(-self.grid_error, self.grid_error)

    def tasks(self, *, known: bool, seed: int) -> Generator[list[float], float]:
        """One task after another: the moment of its first poll, then those of its visible changes, its end last.

        Send the moment when the client saw the end.
        """
        rng = random.Random(f"{self.name} {seed}")  # noqa: S311  (no secret)
        refreshes = self.refreshes(rng)
        refresh = seen_at = 0.0
        while True:
            start = seen_at + rng.expovariate(1 / 20) if known else refresh + rng.uniform(60, 180)
            end, changes = start + self.lifetime(rng), [start]
            while refresh < end:
                if refresh > start and rng.random() < self.changes:
                    changes.append(refresh)
                refresh = next(refreshes)
            seen_at = yield [*changes, refresh]


def of_grid(skipped: float) -> Callable[[random.Random], float]:
    """The seconds between refreshes on a grid some of whose ticks are skipped."""
    return lambda rng: 30.0 if rng.random() < skipped else 15.0


def twenty_to_sixty(rng: random.Random) -> float:
    """Seconds that a task takes."""
    return rng.uniform(20, 60)


def on_grid(name: str, skipped: float, first: Limit, known: Limit) -> Gateway:
    """A gateway with a grid."""
    return Gateway(name, of_grid(skipped), first, known, grid_error=0.05, changes=1.0, lifetime=twenty_to_sixty)


GATEWAYS = (
    Gateway("sleeps: every 15 s", lambda _: 15.0, cost(12), cost(5)),
    Gateway("sleeps: 15.2 to 15.4 s", lambda rng: rng.uniform(15.2, 15.4), cost(12), cost(5)),
    Gateway("drifts: 15 to 16.5 s", lambda rng: rng.uniform(15, 16.5), cost(13), cost(7)),
    Gateway("slow channels: 18 to 19.5 s", lambda rng: rng.uniform(18, 19.5), times_plain(1.25), times_plain(1.25)),
    Gateway("no cycle: changes every 2 to 6 s", lambda rng: rng.uniform(2, 6), times_plain(1.1), times_plain(1.1)),
    on_grid("grid: 15 s (0.4) or 30 s", 0.6, requests_and_lag(11, 1), requests_and_lag(6, 0.4)),
    on_grid("grid: 15 s (0.7) or 30 s", 0.3, requests_and_lag(11, 1), requests_and_lag(6, 0.4)),
    on_grid("grid: always 30 s", 1.0, requests_and_lag(math.inf, 1.2), requests_and_lag(6.5, 0.4)),
)


def wait(cycle: RefreshCycle, changes: list[float]) -> tuple[int, float]:
    """Polls a task until its end is seen. Returns the requests and the lag."""
    now = unchanged_from = changes[0]
    own, seen = None, 1
    for polls in count(1):
        if now >= changes[-1]:
            return polls, now - changes[-1]
        before, now = now, cycle.next_poll(now, first=polls == 1, own=own)
        if (visible := bisect_right(changes, now)) > seen:
            own = cycle.record_change(before, now, own=own, unchanged_for=before - unchanged_from)
            seen, unchanged_from = visible, now
    raise AssertionError


def plain(changes: list[float]) -> tuple[int, float]:
    """The same of a client that polls every 5 s."""
    polls = math.ceil((changes[-1] - changes[0]) / PLAIN_INTERVAL)
    return 1 + polls, changes[0] + PLAIN_INTERVAL * polls - changes[-1]


def figures(waits: list[tuple[int, float]]) -> Figures:
    """The figures of some waits."""
    requests, lags = zip(*waits, strict=True)
    return Figures(statistics.fmean(requests), statistics.fmean(lags), statistics.quantiles(lags, n=20)[-1])


def simulated(gateway: Gateway, *, known: bool, seed: int = 1, tasks: int = TASKS) -> tuple[Figures, Figures]:
    """Our figures and those of the plain client at the same tasks."""
    random.seed(seed)  # `RefreshCycle` draws from it
    shown, cycle = gateway.tasks(known=known, seed=seed), RefreshCycle()
    changes = next(shown)
    ours, theirs = list[tuple[int, float]](), list[tuple[int, float]]()
    for _ in range(tasks):
        ours.append(wait(cycle if known else RefreshCycle(), changes))
        theirs.append(plain(changes))
        changes = shown.send(changes[-1] + ours[-1][1])
    return figures(ours), figures(theirs)


def one_task() -> None:
    """Simulates waits for one task, and prints the figures as a table."""
    print("| gateway | | requests | mean lag | 95 % under | × | plain 5 s | × | of the limit |\n" + "| --- " * 9 + "|")
    for gateway in GATEWAYS:
        for known, limit in ((False, gateway.first), (True, gateway.known)):
            ours, theirs = simulated(gateway, known=known)
            row = (
                "" if known else gateway.name,
                "known" if known else "first",
                f"{ours.requests:.1f}",
                f"{ours.lag:.2f} s",
                f"{ours.late:.2f} s",
                f"{ours.cost:.1f}",
                f"{theirs.requests:.1f}, {theirs.lag:.2f} s",
                f"{theirs.cost:.1f}",
                f"{(share := limit(ours, theirs)):.2f}" + " **missed**" * (share > 1),
            )
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    one_task()
