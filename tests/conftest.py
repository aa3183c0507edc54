"""Fixtures."""

import os
import signal
import time

import anyio
import hypothesis
import pytest

from clients import Client

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

# What starts the tests in the background may have turned these off, and the commands that tests start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests start first, so that others run beside them.

    Coverage doubles the time of a test: slow ones are not measured, nor those on trio, which run the lines of asyncio.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("slow") or "trio" in item.name:
            item.add_marker("no_cover")


@pytest.fixture(params=["sync", "asyncio", "trio"])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANYAPI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a client makes, none of which is waited for."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(anyio, "sleep", sleep)
    return made
