"""Typed uses of the public names, only ever checked: mypy and pyright read this file, nothing runs it."""

from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_type

import httpx

from anyapi_midjourney import AsyncMidjourney, Button, Midjourney, MidjourneyError, Task, TaskAction, TaskStatus, errors
from anyapi_midjourney_generated import AuthenticatedClient, models


def sync() -> None:
    with Midjourney("sk-1", base_url="https://x.example", timeout=7, max_retries=0, trust_env=False) as mj:
        assert_type(mj, Midjourney)
        assert_type(mj.fetch("1"), Task)
        assert_type(mj.fetch(mj.fetch("1")), Task)
        assert_type(mj.fetch_many({"1", "2"}), dict[str, Task])
        assert_type(mj.wait("1", timeout=None), Task)
        for task in mj.watch(Task(id="1"), timeout=60):
            assert_type(task, Task)
        outcomes = mj.as_completed([Task(id="1"), "2"], on_change=print)
        assert_type(next(outcomes), tuple[str, Task | MidjourneyError])
        outcomes.close()
        assert_type(mj.generated, AuthenticatedClient)
        assert_type(mj.base_url, str)
        assert_type(mj.download("1", "pig.png", overwrite=True), Path)


async def asynchronous() -> None:
    async with AsyncMidjourney(transport=httpx.AsyncHTTPTransport(), event_hooks={"request": []}) as mj:
        assert_type(mj, AsyncMidjourney)
        assert_type(await mj.fetch("1"), Task)
        assert_type(await mj.fetch_many(["1"]), dict[str, Task])
        assert_type(await mj.wait("1"), Task)
        assert_type(await mj.download(await mj.fetch("1"), Path("pictures")), Path)
        async for task in mj.watch("1"):
            assert_type(task, Task)
        async with aclosing(mj.as_completed({"1"}, timeout=60)) as outcomes:
            async for task_id, outcome in outcomes:
                assert_type(task_id, str)
                assert_type(outcome, Task | MidjourneyError)


def values(task: Task, error: errors.APIResponseError) -> None:
    assert_type(task.status, TaskStatus)
    assert_type(task.action, TaskAction | None)
    assert_type(task.progress, int | None)
    assert_type(task.finished_at, datetime | None)
    assert_type(task.ran_for, timedelta | None)
    assert_type(task.video_urls, tuple[str, ...])
    assert_type(task.picture_url, str | None)
    assert_type(task.buttons, tuple[Button, ...])
    assert_type(task.button("U1").index, int | None)
    assert_type(task.raw, models.Task)
    assert_type(Task.from_dict(task.to_dict()), Task)
    assert_type(Task(id="1", status="SUCCESS"), Task)
    assert_type(error.code, str | int | None)
    assert_type(error.retry_after, float | None)
    assert_type(error.is_transient, bool)
    if error.code == 4 or task.status == "SUCCESS":
        assert_type(task.status.lower(), str)
