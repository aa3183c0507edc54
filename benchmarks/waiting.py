"""Waiting: how late a client knows that a task has ended, and how many requests that costs.

One task, simulated: 10,000 tasks at each kind of gateway, next to a client that polls every 5 s. A lag is the time from
the refresh that made the task's end visible until the client sees it. *First*: each task is the first that its client
waits for. *Known*: one client waits for one task after another.

Many tasks, over real HTTP: the sandbox in a process of its own, and in another one each client in turn, which waits for
all tasks at once. A task takes 60 s and is submitted when it is first asked for; the gateway refreshes every 15 s.
Memory is the most that the client held beyond what the imports take.
"""

import asyncio
import inspect
import json
import math
import multiprocessing
import random
import resource
import socket
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import anyio
import httpx
import uvicorn
from attrs import Factory, define, frozen
from runwayml import AsyncRunwayML, DefaultAsyncHttpxClient
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from anyapi_midjourney import AsyncMidjourney, Midjourney, sandbox
from anyapi_midjourney._operations import Step
from anyapi_midjourney._refresh import PLAIN_INTERVAL, ROUND, RefreshCycle

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


# Many tasks, over real HTTP


def serve(speed: float, out: Connection) -> None:
    """The sandbox in a process of its own, which also answers runwayml."""
    started = time.monotonic()
    gateway = sandbox.app(speed=speed)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if not path.startswith("/v1/tasks/"):
            return await gateway(scope, receive, send)
        task_id = path.rpartition("/")[2]
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            headers = {"Authorization": f"Bearer {sandbox.API_KEY}"}
            task = (await client.get(f"/mj/task/success-{task_id}/fetch", headers=headers)).json()
        status = {"SUCCESS": "SUCCEEDED", "": "PENDING"}.get(task["status"], "RUNNING")
        body: dict[str, Any] = {
            "id": task_id,
            "status": status,
            "createdAt": "2026-01-01T00:00:00Z",
            "output": [],
            "progress": 0.5,
        }
        return await JSONResponse(body)(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    out.send((f"http://127.0.0.1:{listener.getsockname()[1]}", started))
    config = uvicorn.Config(application, log_level="warning", lifespan="off", ws="none")
    uvicorn.Server(config).run(sockets=[listener])


@define
class Run:
    """What one client measures of itself. Times are seconds of the gateway's clock."""

    base_url: str
    speed: float
    started: float
    tasks: int
    requests: int = 0
    first_seen: dict[str, float] = Factory(dict[str, float])
    ended: dict[str, float] = Factory(dict[str, float])

    def now(self) -> float:
        """Seconds since the gateway started."""
        return (time.monotonic() - self.started) * self.speed

    def ids(self) -> list[str]:
        """The ids of the tasks."""
        return [f"success-17f20503-6c24-4c16-946b-{n:012}" for n in range(self.tasks)]

    def count(self, request: httpx.Request) -> None:
        """Notes a request, and when its tasks began, which is when they are first asked for."""
        self.requests += 1
        for task_id in json.loads(request.content)["ids"] if request.content else [request.url.path.split("/")[-2]]:
            self.first_seen.setdefault(task_id, self.now())

    async def async_count(self, request: httpx.Request) -> None:
        """`count`, awaited."""
        self.count(request)

    def lags(self) -> list[float]:
        """Seconds from the refresh that shows the end of a task until its client knows."""
        visible = {i: math.ceil((seen + 60) / ROUND) * ROUND for i, seen in self.first_seen.items()}
        return [self.ended[task_id] - visible[task_id] for task_id in self.ended]


async def plain_httpx(run: Run) -> None:
    """A GET of each task every 5 s, 16 in flight."""
    turns = asyncio.Semaphore(16)
    hooks = {"request": [run.async_count]}
    headers = {"Authorization": f"Bearer {sandbox.API_KEY}"}
    async with httpx.AsyncClient(base_url=run.base_url, headers=headers, event_hooks=hooks, timeout=None) as client:  # noqa: S113

        async def one(task_id: str) -> None:
            while True:
                async with turns:
                    task = (await client.get(f"/mj/task/{task_id}/fetch")).json()
                if task["status"] == "SUCCESS":
                    run.ended[task_id] = run.now()
                    return
                await asyncio.sleep(PLAIN_INTERVAL / run.speed)

        await asyncio.gather(*map(one, run.ids()))


async def runwayml(run: Run) -> None:
    """Its own waiting, of every task at once."""
    real_sleep = asyncio.sleep

    async def count(request: httpx.Request) -> None:
        run.requests += 1
        run.first_seen.setdefault(request.url.path.rpartition("/")[2], run.now())

    async def sleep(seconds: float) -> None:
        await real_sleep(seconds / run.speed)

    anyio.sleep = asyncio.sleep = sleep  # type: ignore[assignment]  # the same time for all clients
    http = DefaultAsyncHttpxClient(event_hooks={"request": [count]})
    client = AsyncRunwayML(api_key="key_benchmark", base_url=run.base_url, timeout=None, http_client=http)

    async def one(task_id: str) -> None:
        await (await client.tasks.retrieve(task_id)).wait_for_task_output(timeout=None)
        run.ended[task_id] = run.now()

    await asyncio.gather(*(one(task_id.removeprefix("success-")) for task_id in run.ids()))


class AsyncClient(AsyncMidjourney):
    """Ours, in the gateway's time."""

    speed: float

    def _clock(self) -> float:
        return super()._clock() * self.speed

    async def _do(self, step: Step) -> object:
        return await super()._do(step / self.speed if isinstance(step, float) else step)


class Client(Midjourney):
    """Ours, in the gateway's time."""

    speed: float

    def _clock(self) -> float:
        return super()._clock() * self.speed

    def _do(self, step: Step) -> object:
        return super()._do(step / self.speed if isinstance(step, float) else step)


async def ours(run: Run) -> None:
    """`as_completed`."""
    async with AsyncClient(sandbox.API_KEY, base_url=run.base_url, event_hooks={"request": [run.async_count]}) as mj:
        mj.speed = run.speed
        async for task_id, _ in mj.as_completed(run.ids()):
            run.ended[task_id] = run.now()


def ours_sync(run: Run) -> None:
    """`as_completed`, without an event loop."""
    with Client(sandbox.API_KEY, base_url=run.base_url, event_hooks={"request": [run.count]}) as mj:
        mj.speed = run.speed
        for task_id, _ in mj.as_completed(run.ids()):
            run.ended[task_id] = run.now()


PEERS: dict[str, Callable[[Run], Any]] = {
    "plain httpx": plain_httpx,
    "runwayml": runwayml,
    "ours": ours,
    "ours, sync": ours_sync,
}


def measure(peer: str, run: Run, out: Connection) -> None:
    """Runs one client in this process, and sends its figures."""
    work = PEERS[peer]
    memory, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if inspect.iscoroutinefunction(work):
        asyncio.run(work(run))
    else:
        work(run)
    cpu = time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    lags = sorted(run.lags())
    late = lags[int(len(lags) * 0.95)]
    out.send((run.requests / run.tasks, statistics.mean(lags), late, cpu / run.tasks * 1e3, memory / run.tasks))


# The number of tasks, and how many times as fast time runs.
MANY = {20: 5.0, 200: 5.0, 1_000: 1.0, 10_000: 1.0}


def many_tasks() -> None:
    """Waits for many tasks of the sandbox at once with each client, and prints the figures as a table."""
    processes = multiprocessing.get_context("spawn")
    head = (
        "tasks",
        "client",
        "requests a task",
        "mean lag, s",
        "95 % under, s",
        "CPU a task, ms",
        "KiB a task",
        "CPU ×",
    )
    print(f"\n| {' | '.join(head)} |\n" + "| --- " * len(head) + "|")
    for tasks, speed in MANY.items():
        base = 0.0
        for peer in PEERS:
            receiver, sender = processes.Pipe(duplex=False)
            server = processes.Process(target=serve, args=(speed, sender), daemon=True)
            server.start()
            base_url, started = receiver.recv()
            client = processes.Process(target=measure, args=(peer, Run(base_url, speed, started, tasks), sender))
            client.start()
            figures = receiver.recv()
            client.join()
            server.terminate()
            base = base or figures[3]
            cells = f"{figures[0]:.3f} | {figures[1]:.2f} | {figures[2]:.2f} | {figures[3]:.2f} | {figures[4]:.1f}"
            print(f"| {tasks} | {peer} | {cells} | {figures[3] / base:.3f} |", flush=True)


if __name__ == "__main__":
    one_task()
    many_tasks()
