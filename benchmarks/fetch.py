"""CPU per fetch: plain httpx, the generated client, runwayml and ours, in turn, against one loopback server.

Prints the median of each over the rounds, and ours as ratios of those medians.
"""

import json
import multiprocessing
import socketserver
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
from runwayml import RunwayML

from anyapi_midjourney import Midjourney
from anyapi_midjourney_generated import AuthenticatedClient
from anyapi_midjourney_generated.api.tasks import fetch_task

ROUNDS, FETCHES = 40, 100
TASK_ID = "1730621826053455"
RUNWAY_ID = "17f20503-6c24-4c16-946b-35dbbce2af2f"
PAGE = Path(__file__).parent.parent / "tests" / "cases" / "pub-01-anyapi-imagine-success.json"
TASK = json.dumps(json.loads(PAGE.read_text(encoding="utf-8"))["body"], ensure_ascii=False).encode()


class Server(socketserver.StreamRequestHandler):
    """Answers every request at once with the vendor's example."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Serves one connection until it is closed."""
        while self.rfile.readline():
            while self.rfile.readline() != b"\r\n":
                pass
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(TASK)}\r\n\r\n"
            self.wfile.write(head.encode() + TASK)


def serve(port: Connection) -> None:
    """Runs the server in a process of its own, so that only the clients' CPU is measured."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        port.send(server.server_address[1])
        server.serve_forever()


def clients(base_url: str) -> dict[str, Callable[[], object]]:
    """One fetch of each client, over a connection that stays open."""
    plain = httpx.Client(base_url=base_url, headers={"Authorization": "Bearer sk-benchmark"})
    generated = AuthenticatedClient(base_url, token="sk-benchmark")  # noqa: S106
    runway = RunwayML(api_key="key_benchmark", base_url=base_url)
    ours = Midjourney("sk-benchmark", base_url=base_url)
    return {
        "httpx.Client.get(…).json()": lambda: plain.get(f"/mj/task/{TASK_ID}/fetch").json(),
        "the generated client": lambda: fetch_task.sync(TASK_ID, client=generated),
        "runwayml tasks.retrieve": lambda: runway.tasks.retrieve(RUNWAY_ID),
        "Midjourney.fetch": lambda: ours.fetch(TASK_ID),
    }


def main() -> None:
    """Measures, and prints the figures."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(sender,), daemon=True)
    server.start()
    fetches = clients(f"http://127.0.0.1:{receiver.recv()}")
    costs: dict[str, list[float]] = {name: [] for name in fetches}
    for turn in range(ROUNDS + 1):
        for name, fetch in fetches.items():
            start = time.process_time()
            for _ in range(FETCHES):
                fetch()
            if turn:  # the first is for warming up
                costs[name].append((time.process_time() - start) / FETCHES)
    server.terminate()
    medians = {name: statistics.median(times) for name, times in costs.items()}
    ours = medians["Midjourney.fetch"]
    for name, median in medians.items():
        print(f"{name:28}{median * 1e6:7.0f} µs   ours is {ours / median:.2f} ×")


if __name__ == "__main__":
    main()
