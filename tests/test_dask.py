"""The example of a Dask cluster: what travels between processes, and what happens when one dies."""

import os
import runpy
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import distributed
import pytest

from anyapi_midjourney import MidjourneyError, Task, errors, sandbox
from clients import KEY, ROOT

EXAMPLE = runpy.run_path(str(ROOT / "examples/dask_cluster.py"))
local_cluster: Callable[[str, str], Any] = EXAMPLE["local_cluster"]
outcomes: Callable[[Any, Iterable[str]], Iterator[tuple[str, Task | MidjourneyError]]] = EXAMPLE["outcomes"]

dask: Any = distributed  # which has types for some of its functions only
ENDS = {
    "success": Task,
    "failure": errors.TaskFailedError,
    "cancelled": errors.TaskCancelledError,
    "nowhere": errors.TaskNotFoundError,
}

pytestmark = pytest.mark.slow


@contextmanager
def cluster(speed: float = 100) -> Generator[Any]:
    """A client of the example's cluster, whose workers poll a sandbox."""
    with (
        sandbox.serve(speed=speed, api_key=KEY) as base_url,
        local_cluster(KEY, base_url) as workers,
        dask.Client(workers) as client,
    ):
        yield client


def ids(**counts: int) -> list[str]:
    """So many of each kind."""
    return [f"{kind}-{n}" for kind, count in counts.items() for n in range(count)]


def check(found: list[tuple[str, Task | MidjourneyError]], asked: list[str]) -> None:
    """Each id has one outcome, that of its kind."""
    assert sorted(task_id for task_id, _ in found) == sorted(asked)
    for task_id, outcome in found:
        assert type(outcome) is ENDS[task_id.partition("-")[0]], (task_id, outcome)
        assert (outcome.id if isinstance(outcome, Task) else outcome.task_id) == task_id


def test_two_thousand_ids_have_one_outcome_each() -> None:
    asked = ids(success=1500, failure=250, cancelled=240, nowhere=10)
    with cluster() as client:
        check(list(outcomes(client, [*asked, *asked[:50]])), asked)


def test_a_worker_that_is_killed_loses_nothing() -> None:
    asked = ids(nowhere=100, success=700)
    with cluster(speed=10) as client:
        found = outcomes(client, asked)
        first = next(found)  # of the batch of unknown ids, when the others need 4 s more
        worker = next(worker for worker, batches in client.processing().items() if batches)
        os.kill(client.run(os.getpid)[worker], signal.SIGKILL)
        check([first, *found], asked)


def test_the_key_is_in_no_message_of_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = bytearray()
    tcp = dask.comm.tcp
    to_frames, from_frames = tcp.to_frames, tcp.from_frames

    async def sent(*args: Any, **options: Any) -> Any:
        frames = await to_frames(*args, **options)
        passed.extend(b"".join(frames))
        return frames

    async def received(frames: Any, **options: Any) -> Any:
        passed.extend(b"".join(frames))
        return await from_frames(frames, **options)

    # The scheduler is in this process, and all its messages go through these two.
    monkeypatch.setattr(tcp, "to_frames", sent)
    monkeypatch.setattr(tcp, "from_frames", received)
    asked = ids(success=150, failure=40, nowhere=10)
    with cluster() as client:
        check(list(outcomes(client, asked)), asked)
    assert b"success-149" in passed
    assert b"Invalid parameter" in passed  # in an outcome
    assert KEY.removeprefix("sk-").encode() not in passed
