"""Many tasks awaited at once: plain httpx, runwayml and ours, each in its own process, against one loopback server.

200 waiters wait for five tasks each, one after another, and 2,000 for one each. The server answers each request after
50 ms with the vendor's example, finished, so a task takes one request. Printed are requests per second, the client's
CPU per request, the 99th percentile of the time of a request from its sending (when it has got its turn, and a
connection is taken or made for it) to the end of its answer, and the most memory held beyond what the imports take.
Medians of 3 runs; of 2,000 waiters there is one run, since the peers take minutes.
"""

import asyncio
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import httpx
from httpx_aiohttp import AiohttpTransport
from runwayml import AsyncRunwayML, DefaultAsyncHttpxClient

from anyapi_midjourney import AsyncMidjourney

RUNS = {(200, 5): 3, (2000, 1): 1}
"""How often (waiters, tasks of each) is run."""
DELAY = 0.05
KEY = "sk-benchmark"
PAGE = Path(__file__).parent.parent / "tests" / "cases" / "pub-01-anyapi-imagine-success.json"
TASK = json.dumps(json.loads(PAGE.read_text(encoding="utf-8"))["body"], ensure_ascii=False).encode()
ANSWER = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(TASK)}\r\n\r\n".encode() + TASK

Hook: TypeAlias = Callable[[httpx.Request], Awaitable[None]]
Wait: TypeAlias = Callable[[str], Awaitable[object]]
Figures: TypeAlias = tuple[float, float, float, float]


class Server(asyncio.Protocol):
    """Answers every request after the delay. A GET has no body and comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps what to write to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        """Takes one request."""
        asyncio.get_running_loop().call_later(DELAY, self._transport.write, ANSWER)


async def serve(port: Connection) -> None:
    """Serves for ever."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=4096)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def start_server(port: Connection) -> None:
    """Serves in this process."""
    asyncio.run(serve(port))


def plain(base_url: str, hook: Hook) -> Wait:
    """One GET for a task."""
    headers = {"Authorization": f"Bearer {KEY}"}
    client = httpx.AsyncClient(base_url=base_url, timeout=None, event_hooks={"request": [hook]}, headers=headers)  # noqa: S113

    async def wait(task_id: str) -> object:
        return (await client.get(f"/mj/task/{task_id}/fetch")).json()

    return wait


def runway(base_url: str, hook: Hook) -> Wait:
    """One `retrieve` for a task: its own waiting would sleep 6 s first."""
    http = DefaultAsyncHttpxClient(event_hooks={"request": [hook]})
    return AsyncRunwayML(api_key="key_benchmark", base_url=base_url, timeout=None, http_client=http).tasks.retrieve


def ours(base_url: str, hook: Hook) -> Wait:
    """`wait`, as it is."""
    return AsyncMidjourney(KEY, base_url=base_url, event_hooks={"request": [hook]}).wait


def ours_with_aiohttp(base_url: str, hook: Hook) -> Wait:
    """`wait` on the extra's transport."""
    hooks = {"request": [hook]}
    transport = AiohttpTransport(limits=httpx.Limits(max_connections=200, keepalive_expiry=60))
    return AsyncMidjourney(KEY, base_url=base_url, event_hooks=hooks, transport=transport, max_in_flight=200).wait


PEERS = {
    "plain httpx": plain,
    "runwayml": runway,
    "ours": ours,
    "ours, aiohttp": ours_with_aiohttp,
}


async def measure(peer: str, base_url: str, waiters: int, tasks: int) -> Figures:
    """All waits of a peer at once."""
    times: list[float] = []

    async def clock(request: httpx.Request) -> None:
        begun: list[float] = []

        async def trace(event: str, _: Mapping[str, object]) -> None:
            begun.append(time.perf_counter())  # while a request waits in httpcore's pool, nothing is told
            if event == "http11.receive_response_body.complete":
                times.append(begun[-1] - begun[0])

        request.extensions["trace"] = trace

    wait = PEERS[peer](base_url, clock)

    async def one(waiter: int) -> None:
        for task in range(tasks):
            sent = time.perf_counter()
            assert await wait(f"17f20503-6c24-4c16-946b-{waiter * tasks + task:012}")
            if peer == "ours, aiohttp":  # whose transport tells nothing; so this is with the wait for its turn
                times.append(time.perf_counter() - sent)

    before, cpu, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.perf_counter()
    await asyncio.gather(*map(one, range(waiters)))
    number, seconds, cpu = waiters * tasks, time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return number / seconds, cpu / number * 1e3, statistics.quantiles(times, n=100)[-1] * 1e3, memory / 1024


def run(peer: str, base_url: str, waiters: int, tasks: int, out: Connection) -> None:
    """Measures in this process, and tells the figures, or how it failed."""
    try:
        out.send(asyncio.run(measure(peer, base_url, waiters, tasks)))
    except Exception as error:  # noqa: BLE001
        out.send(repr(error))


def main() -> None:
    """Measures, and prints the figures."""
    processes = multiprocessing.get_context("forkserver")
    receiver, sender = processes.Pipe(duplex=False)
    server = processes.Process(target=start_server, args=(sender,), daemon=True)
    server.start()
    base_url = f"http://127.0.0.1:{receiver.recv()}"
    for (waiters, tasks), runs in RUNS.items():
        print(f"{waiters} waiters      requests/s    CPU     p99  memory   of plain httpx")
        base = 0.0
        for peer in PEERS:
            figures: list[Figures | str] = []
            for _ in range(runs):
                process = processes.Process(target=run, args=(peer, base_url, waiters, tasks, sender))
                process.start()
                figures.append(receiver.recv())
                process.join()
            if failures := [one for one in figures if isinstance(one, str)]:
                print(f"{peer:18}gives up: {failures[0]}", flush=True)
                continue
            good = [one for one in figures if not isinstance(one, str)]
            rate, cpu, p99, memory = map(statistics.median, zip(*good, strict=True))
            base = base or rate
            print(f"{peer:18}{rate:8.0f}{cpu:8.2f} ms{p99:5.0f} ms{memory:4.0f} MiB{rate / base:9.1f} ×", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
