"""The refresh cycle: how many polls it takes, and how late they come, at gateways of every kind. Nothing sleeps."""

import random
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from itertools import count
from statistics import mean, quantiles

import hypothesis.strategies as st
import pytest
from attrs import define, evolve
from hypothesis import given

from anyapi_midjourney._refresh import PLAIN_INTERVAL, RefreshCycle

Rounds = Callable[[], float]
STEADY, ALWAYS_30 = partial(float, 15), partial(float, 30)
DRIFTING, SLOW, NO_CYCLE = (
    partial(random.uniform, 15, 16.5),
    partial(random.uniform, 18, 19.5),
    partial(random.uniform, 2, 6),
)
GRID = partial(random.choice, (15.0, 15.0, 30.0, 30.0, 30.0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(1)


@define
class Client:
    """A client that waits for one task after another, or for each with a new cycle."""

    rounds: Rounds
    cycle: RefreshCycle
    refresh: float = 7.0
    now: float = 0.0

    def wait(self, pause: float = 20.0, offset: float = 0.0, lifetime: float | None = None) -> tuple[int, float]:
        """Polls, and the lag, for a task that takes 20 to 60 s and begins after a pause."""
        self.now = start = self.now + random.expovariate(1 / pause)
        end, changes = start + (random.uniform(20, 60) if lifetime is None else lifetime), [start]
        while self.refresh + offset < end:
            if self.refresh + offset > start and random.random() < 0.8:
                changes.append(self.refresh + offset)
            self.refresh += self.rounds()
        return self.poll([*changes, self.refresh + offset])

    def poll(self, changes: list[float]) -> tuple[int, float]:
        """Polls, and the lag, for a task that changes at these moments after its first poll, the first of them."""
        unchanged_from, own, seen = changes[0], None, 1
        for polls in count(1):
            if self.now >= changes[-1]:
                return polls, self.now - changes[-1]
            before, self.now = self.now, self.cycle.next_poll(self.now, first=polls == 1, own=own)
            assert before + 0.1 < self.now < before + 31
            if (visible := bisect_right(changes, self.now)) > seen:
                own = self.cycle.record_change(before, self.now, own=own, unchanged_for=before - unchanged_from)
                seen, unchanged_from = visible, self.now
        raise AssertionError


def known(rounds: Rounds, tasks: int = 30) -> Client:
    """A client that has waited for some tasks."""
    client = Client(rounds, RefreshCycle())
    for _ in range(tasks):
        client.wait()
    return client


@pytest.mark.parametrize(
    ("rounds", "first", "later"),
    [
        (STEADY, (10, 1.2), (6, 0.5)),
        (DRIFTING, (11, 1.3), (11.5, 0.8)),
        (SLOW, (12.5, 4), (12, 2)),
        (NO_CYCLE, (11, 3.5), (11, 3.2)),
        (GRID, (12, 1.3), (6.5, 0.5)),
        (ALWAYS_30, (13, 1.4), (7, 0.5)),
    ],
)
def test_a_wait_takes_few_polls_and_finds_the_end_soon_and_sooner_once_the_cycle_is_known(
    rounds: Rounds, first: tuple[float, float], later: tuple[float, float]
) -> None:
    client = Client(rounds, RefreshCycle())
    firsts = [evolve(client, cycle=RefreshCycle(), refresh=random.uniform(0, 20)).wait() for _ in range(500)]
    client = known(rounds)
    for waits, (polls, lag) in ((firsts, first), ([client.wait() for _ in range(500)], later)):
        assert mean(polls for polls, _ in waits) < polls
        assert mean(lag for _, lag in waits) < lag


def test_on_a_grid_it_polls_at_the_ticks_and_never_between() -> None:
    client = known(GRID)
    for _ in range(8):
        client.now = client.cycle.next_poll(client.now, first=False, own=None)
        assert abs((client.now - client.refresh + 5) % 15 - 5) < 1


@pytest.mark.parametrize(
    "rounds", [partial(float, 15.005), partial(float, 15.02), partial(random.uniform, 15, 15.1), DRIFTING]
)
@pytest.mark.parametrize("pause", [20, 600])
def test_a_gateway_that_sleeps_is_not_taken_for_a_grid_for_long(rounds: Rounds, pause: float) -> None:
    client = known(rounds)
    lags = [client.wait(pause)[1] for _ in range(300)]
    assert mean(lags) < 1
    assert quantiles(lags, n=20)[-1] < 3


@pytest.mark.parametrize("after", [STEADY, SLOW, NO_CYCLE, GRID])
@pytest.mark.parametrize("before", [STEADY, SLOW, NO_CYCLE, GRID])
def test_a_gateway_that_changes_its_cycle_is_learned_again(before: Rounds, after: Rounds) -> None:
    client = known(before)
    client.rounds, client.refresh = after, client.refresh + 4
    for _ in range(30):
        client.wait()
    assert mean(client.wait()[1] for _ in range(100)) < (0.7 if after in (STEADY, GRID) else 3)


def test_without_a_cycle_it_polls_every_five_seconds() -> None:
    client = known(NO_CYCLE)
    assert client.cycle.next_poll(0, first=False, own=None) == pytest.approx(5, abs=0.2)


def test_a_task_that_ends_before_anything_was_seen_is_found_within_five_seconds() -> None:
    for end in range(1, 15):
        polls, lag = Client(STEADY, RefreshCycle()).poll([0.0, float(end)])
        assert lag < PLAIN_INTERVAL + 0.2
        assert polls <= 5


@pytest.mark.parametrize("rounds", [STEADY, DRIFTING, GRID])
def test_after_the_machine_was_suspended_it_polls_as_at_first(rounds: Rounds) -> None:
    client = known(rounds)
    client.now += 1e6
    client.refresh = client.now + 3
    assert client.wait(lifetime=9)[1] < PLAIN_INTERVAL


@pytest.mark.parametrize("rounds", [STEADY, DRIFTING, GRID])
def test_tasks_of_a_proxy_that_is_asked_later_in_the_round_are_not_found_much_later(rounds: Rounds) -> None:
    client = known(rounds)
    lags = [client.wait(offset=random.choice((0, 2.5, 8)))[1] for _ in range(300)]
    assert mean(lags) < 3
    assert max(lags) < 16


def test_where_one_poll_serves_many_tasks_polls_are_closer_together() -> None:
    cycle = RefreshCycle()
    assert cycle.next_poll(0, first=False, own=None, cheap=True) < 2.5
    own = cycle.record_change(0, 2, own=None, unchanged_for=10)
    assert cycle.next_poll(15.2, first=False, own=own, cheap=True) < 15.7
    assert cycle.next_poll(15.2, first=False, own=own) > 16


moments = st.floats(-60, 1e4)


@given(st.lists(st.tuples(moments, st.floats(0, 60), st.integers(0, 3), st.booleans(), st.floats(0, 60)), max_size=60))
def test_whatever_it_is_told_in_whatever_order_it_polls_again_soon_but_not_at_once(
    changes: list[tuple[float, float, int, bool, float]],
) -> None:
    cycle, own = RefreshCycle(), dict[int, tuple[float, float] | None]()
    for since, width, task, cheap, unchanged_for in changes:
        now = since + width
        own[task] = cycle.record_change(since, now, own=own.get(task), unchanged_for=unchanged_for)
        for sighting in (own[task], None):
            for at in (now, now + 1000):
                assert at + 0.1 < cycle.next_poll(at, first=cheap, own=sighting, cheap=cheap) < at + 31
