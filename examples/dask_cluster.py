"""Waits for thousands of tasks on a Dask cluster: ids, tasks and errors are plain values that can be pickled.

Each worker takes ANYAPI_API_KEY and ANYAPI_BASE_URL from its own environment; the key never passes the scheduler.
"""

# distributed has types for some of its functions only.
# mypy: allow-untyped-calls
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections import Counter
from collections.abc import Iterable, Iterator

from distributed import Client, LocalCluster, as_completed

from anyapi_midjourney import Midjourney, MidjourneyError, Task, sandbox

BATCH = 100
"""Ids that are polled together, in one request."""


def wait_for(ids: list[str]) -> list[tuple[str, Task | MidjourneyError]]:
    """The outcomes of a batch. If its worker is lost, Dask runs it again on another: safe, since it only reads."""
    with Midjourney() as mj:  # on the worker, since a client cannot be pickled
        return list(mj.as_completed(ids))


def outcomes(client: Client, ids: Iterable[str]) -> Iterator[tuple[str, Task | MidjourneyError]]:
    """Each id once, with its task or error, as the batches end."""
    unique = list(dict.fromkeys(ids))
    batches = [unique[n : n + BATCH] for n in range(0, len(unique), BATCH)]
    # Impure, so that Dask does not take a second result from the first one.
    for _, batch in as_completed(client.map(wait_for, batches, pure=False), with_results=True):
        yield from batch


def local_cluster(api_key: str, base_url: str) -> LocalCluster:
    """Two worker processes, which have the key in their environment as the machines of a real cluster would."""
    return LocalCluster(
        n_workers=2,
        threads_per_worker=10,  # batches at a time
        dashboard_address="127.0.0.1:0",
        env={"ANYAPI_API_KEY": api_key, "ANYAPI_BASE_URL": base_url},
        # By default Dask gives up a batch when the fourth of its workers is lost.
        scheduler_kwargs={"allowed_failures": 1000},
    )


if __name__ == "__main__":  # each worker process imports this file
    kinds = ("success", "upscale", "failure", "cancelled", "no-such-task")
    ids = [f"{kind}-{n}" for n in range(400) for kind in kinds]
    with (
        sandbox.serve(speed=100) as base_url,
        local_cluster(sandbox.API_KEY, base_url) as cluster,
        Client(cluster) as client,
    ):
        counts = Counter(type(outcome).__name__ for _, outcome in outcomes(client, ids))
    print(f"{counts.total()} outcomes: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")
