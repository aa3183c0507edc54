"""When to ask: how late answers come and how many requests they cost, for ours and for the schedules of other clients.

First by formulas, nothing sleeping: 20,000 tasks at each of six kinds of gateway. Then, in two minutes, ours over HTTP
against the sandbox, next to what the same formulas say of the same tasks; `--no-sandbox` leaves that out.

A lag is the time from the refresh that made a task's end visible until the caller has it.
"""

import asyncio
import math
import random
import statistics
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from heapq import heapify, heappop, heappush
from itertools import cycle, product
from typing import TypeAlias

import httpx
from attrs import define

from anyapi_midjourney import AsyncMidjourney, sandbox
from anyapi_midjourney.beat import Beat

Wait: TypeAlias = tuple[int, float]
"""Requests and lag."""

TASKS, REPEATS = 20_000, 200
OURS, PLAIN = "ours", "plain 5 s"
PERIODS = {"fal 0.1 s": 0.1, "replicate 0.5 s": 0.5, "legnext 3 s": 3.0, PLAIN: 5.0}
"""Of the clients that look at once and then at a fixed period."""
CLIENTS = (OURS, *PERIODS, "runwayml 6 ± 1.5 s", "google-api-core 1 to 20 s")
MODES = FIRST, KNOWN = "each the first wait of its client", "one client, wait after wait"
TARGETS = {
    "steady: every 15 s": (12, 5),
    "drifting: every 15 to 16.5 s": (13, 7),
    "wandering: every 15 to 16.5 s, slowly changing": (13, 7),
    "slow channels: every 18 to 19.5 s": (1.25, 1.25),
    "hanging: every 15 s, one round in ten 30 s": (1.25, 1.25),
    "no beat: changes every 2 to 6 s": (1.1, 1.1),
}
"""Gateways, and what requests × lag of ours may be in each mode; below 2, as a multiple of that of plain 5 s."""
HEAD = f"{'':26}  requests         lag  95 % under  requests × lag"


@define
class Figures:
    """What there is to say of some waits: means, and the lag that 95 % stay under."""

    requests: float
    lag: float
    late: float
    cost: float

    def __str__(self) -> str:
        return f"{self.requests:10.2f}{self.lag:10.2f} s{self.late:10.2f} s{self.cost:16.2f}"


def figures(waits: list[Wait]) -> Figures:
    """The figures of some waits."""
    lags = [lag for _, lag in waits]
    requests, lag = statistics.fmean(requests for requests, _ in waits), statistics.fmean(lags)
    return Figures(requests, lag, statistics.quantiles(lags, n=20)[-1], requests * lag)


def refreshes(gateway: str, rng: random.Random) -> Generator[float]:
    """The moments at which a gateway looks at its upstream, for ever."""
    now, step = 0.0, 15.0
    while True:
        match gateway.partition(":")[0]:
            case "drifting":
                step = rng.uniform(15, 16.5)
            case "wandering":
                step = min(max(step + rng.uniform(-0.25, 0.25), 15), 16.5)
            case "slow channels":
                step = rng.uniform(18, 19.5)
            case "hanging":
                step = 30.0 if rng.random() < 0.1 else 15.0
            case "no beat":
                step = rng.uniform(2, 6)
            case _:
                pass
        now += step
        yield now


def tasks(gateway: str, mode: str) -> Generator[list[float], float]:
    """One task after another, as a gateway shows them; the same for all clients, but for what came before.

    Of each, the moment of the first look, and then the refreshes that change what is seen of it, its end last. What is
    sent is when the caller had that.
    """
    rng, lives = random.Random(gateway), random.Random(0)  # noqa: S311  (no secrets)
    times = refreshes(gateway, rng)
    refresh = had = 0.0
    while True:
        start = had + rng.expovariate(1 / 20) if mode == KNOWN else refresh + rng.uniform(60, 180)
        kind, seen = lives.random(), [start]
        if kind < 0.6:
            end = start + max(1.0, lives.gauss(35, 7))
        else:
            end = start + (lives.uniform(8, 15) if kind < 0.85 else lives.uniform(55, 210))
        while refresh < end:
            if refresh > start and rng.random() >= 0.3:
                seen.append(refresh)
            refresh = next(times)
        had = yield [*seen, refresh]


def looks(beat: Beat, seen: list[float]) -> Generator[float]:
    """When ours looks at a task, until it is done: what `polling.Wait._saw` makes of it, without HTTP."""
    now = quiet_from = seen[0]
    own, version = None, 1
    yield now
    while now < seen[-1]:
        look = beat.next_look(now, first=now == seen[0], own=own)
        yield look
        if (newest := bisect_right(seen, look)) > version:
            own = beat.change(now, look, own=own, quiet=now - quiet_from)
            version, quiet_from = newest, look
        now = look


def other(client: str, rng: random.Random, start: float, end: float) -> Wait:
    """How another client fares with a task that it can see done from `end` on."""
    if period := PERIODS.get(client):
        later = math.ceil((end - start) / period)
        return 1 + later, start + later * period - end
    google = client.startswith("google")  # looks at once, runwayml sleeps first
    now, requests, longest = start, 1 if google else 0, 1.0
    while now < end:
        now += rng.uniform(0, longest) if google else rng.uniform(4.5, 7.5)
        longest = min(longest * 1.5, 20.0)
        requests += 1
    return requests, now - end


def simulated(job: tuple[str, str, str]) -> Figures:
    """How a client fares with the tasks of a gateway in one of the modes."""
    gateway, mode, client = job
    random.seed(gateway)  # `Beat` draws from it
    rng = random.Random(client)  # noqa: S311  (as above)
    shown, beat, waits = tasks(gateway, mode), Beat(), list[Wait]()
    seen = next(shown)
    for _ in range(TASKS):
        if client == OURS:
            times = list(looks(beat if mode == KNOWN else Beat(), seen))
            waits.append((len(times), times[-1] - seen[-1]))
        else:
            waits.append(other(client, rng, seen[0], seen[-1]))
        seen = shown.send(seen[-1] + waits[-1][1])
    return figures(waits)


def simulate() -> None:
    """Simulates all of it, and prints the figures."""
    jobs = list(product(TARGETS, MODES, CLIENTS))
    with ProcessPoolExecutor(2) as pool:
        results = dict(zip(jobs, pool.map(simulated, jobs), strict=True))
    for gateway, mode in product(TARGETS, MODES):
        print(f"\n{gateway}; {mode}\n{HEAD}  of plain 5 s")
        ours, plain = results[gateway, mode, OURS], results[gateway, mode, PLAIN]
        for client in CLIENTS if mode == FIRST else (OURS, PLAIN):
            row = results[gateway, mode, client]
            print(f"{client:26}{row}{row.cost / plain.cost:12.2f} ×")
        most = TARGETS[gateway][MODES.index(mode)] * (1 if TARGETS[gateway][0] > 2 else plain.cost)
        late = math.inf if gateway.startswith("no beat") else 3
        reached = [(ours.requests, plain.requests), (ours.late, late), (ours.cost, most)]
        words = [f"{limit:.2f} {'ok' if figure <= limit else 'MISSED'}" for figure, limit in reached]
        print(f"{'ours is to reach':26}{words[0]:>13}{words[1]:>22}{words[2]:>15}")


# The sandbox's tasks: begun half a second apart. Each of its refreshes changes what is seen of one.
STARTS = [5.25 + n / 2 for n in range(60)]


def in_sandbox(start: float) -> list[float]:
    """What `tasks` gives: the fifth refresh is the first that comes more than 60 s after the submission."""
    return [start, *(15.0 * (start // 15 + n) for n in range(1, 6))]


def predicted(mode: str) -> list[Wait]:
    """What the formulas say of the sandbox's tasks, which overlap, many times over."""
    waits: list[Wait] = []
    for _ in range(REPEATS):
        beat = Beat()
        under_way = [looks(beat if mode == KNOWN else Beat(), in_sandbox(start)) for start in STARTS]
        due = [(next(task), n, 1) for n, task in enumerate(under_way)]
        heapify(due)
        while due:
            now, n, requests = heappop(due)
            if later := next(under_way[n], None):
                heappush(due, (later, n, requests + 1))
            else:
                waits.append((requests, now - in_sandbox(STARTS[n])[-1]))
    return waits


async def measured(mode: str, base_url: str, began: float) -> list[Wait]:
    """The same tasks over HTTP, awaited at once."""
    requests: Counter[str] = Counter()

    async def count(request: httpx.Request) -> None:
        requests[request.url.path] += 1

    async def wait(client: AsyncMidjourney, start: float) -> Wait:
        task_id = f"success-{MODES.index(mode)}-{start}"
        await asyncio.sleep(began + start - time.monotonic())
        async for _, task in client.as_completed([task_id]):
            if isinstance(task, Exception):
                raise task
        return requests[f"/mj/task/{task_id}/fetch"], time.monotonic() - began - in_sandbox(start)[-1]

    hooks = {"request": [count]}
    many = len(STARTS) if mode == FIRST else 1
    clients = [AsyncMidjourney(sandbox.API_KEY, base_url=base_url, event_hooks=hooks) for _ in range(many)]
    return await asyncio.gather(*map(wait, cycle(clients), STARTS))


async def check() -> None:
    """Measures against the sandbox, and prints the figures next to the simulated ones."""
    began = time.monotonic()  # the sandbox's clock begins here, and it refreshes every 15 s of it
    with sandbox.serve() as base_url:
        results = await asyncio.gather(*(measured(mode, base_url, began) for mode in MODES))
    for mode, waits in zip(MODES, results, strict=True):
        print(f"\nsandbox: every 15 s; {'one client for all' if mode == KNOWN else mode}\n{HEAD}")
        print(f"{'measured over HTTP':26}{figures(waits)}\n{'simulated':26}{figures(predicted(mode))}")


if __name__ == "__main__":
    simulate()
    if "--no-sandbox" not in sys.argv:
        asyncio.run(check())
