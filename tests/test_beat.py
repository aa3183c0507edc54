"""The beat: how many looks it takes, and how late they come, for gateways of every kind. Seconds are numbers here."""

from __future__ import annotations

import random
from statistics import mean

import hypothesis.strategies as st
import pytest
from attrs import define
from hypothesis import given

from anyapi_midjourney.beat import PACE, ROUND, Beat
from anyapi_midjourney.polling import Memory


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(1)


@define
class Followed:
    looks: int
    lag: float
    end: float


def follow(beat: Beat, start: float, refreshes: list[float], seen: set[int] | None = None) -> Followed:
    """Looks at a task that ends with the last refresh; `seen` are the others that show something."""
    shown = [at for n, at in enumerate(refreshes) if seen is None or n in seen or n == len(refreshes) - 1]
    now, looked, changed, own, quiet_from = start, 0.0, 0, None, start
    for looks in range(1, 10_000):
        count = sum(at <= now for at in shown if at > start)
        if count > changed:
            own = beat.change(looked, now, own=own, quiet=looked - quiet_from)
            changed, quiet_from = count, now
        if now >= refreshes[-1]:
            return Followed(looks, now - refreshes[-1], now)
        looked, now = now, beat.next_look(now, first=looks == 1, own=own)
        assert looked + 0.12 <= now <= looked + 27
    raise AssertionError


def every(seconds: tuple[float, float], rounds: int, first: float) -> list[float]:
    """The moments of refreshes, from the first on; each round takes from so many to so many seconds."""
    moments = [first]
    for _ in range(rounds - 1):
        moments.append(moments[-1] + random.uniform(*seconds))
    return moments


STEADY, DRIFTING, SLOW, NO_BEAT = (ROUND, ROUND), (ROUND, ROUND + 1.5), (18, 19.5), (2, 6)


def learned(seconds: tuple[float, float]) -> tuple[Beat, float]:
    """A beat that has followed ten tasks, and the moment of the next refresh."""
    beat, first = Beat(), 7.0
    for _ in range(10):
        *moments, first = every(seconds, 6, first)
        follow(beat, moments[0] - 5, moments)
    return beat, first


@pytest.mark.parametrize(
    ("seconds", "looks", "lag"), [(STEADY, 2, 0.7), (DRIFTING, 3.5, 1.0), (SLOW, 3.75, 2.0), (NO_BEAT, 1.0, 3.0)]
)
def test_a_known_beat_takes_few_looks_and_finds_the_end_soon(
    seconds: tuple[float, float], looks: float, lag: float
) -> None:
    beat, first = learned(seconds)
    followed: list[Followed] = []
    for _ in range(50):
        *moments, first = every(seconds, 5, first)
        followed.append(follow(beat, moments[0] - min(8, seconds[0] / 2), moments))
    assert mean(one.lag for one in followed) < lag
    assert mean(one.looks for one in followed) < 1 + looks * 4 + (seconds == NO_BEAT)


def test_where_there_is_no_beat_it_is_plain_polling() -> None:
    beat, now = learned(NO_BEAT)
    own = None
    for _ in range(20):
        assert beat.next_look(now, first=False, own=own) == pytest.approx(now + PACE)
        own = beat.change(now, now + PACE, own=own, quiet=0)
        now += PACE


def test_and_three_changes_that_fit_bring_it_back() -> None:
    beat, first = learned(NO_BEAT)
    follow(beat, first + 100, every(STEADY, 12, first + 103))
    followed = [follow(beat, first + 350 + 60 * n, every(STEADY, 4, first + 358 + 60 * n)) for n in range(10)]
    assert mean(one.lag for one in followed[2:]) < 1


def test_a_task_that_ends_before_anything_was_seen_is_found_within_five_seconds() -> None:
    for first in range(15):
        followed = follow(Beat(), 0, [first + 0.1])
        assert followed.lag <= PACE
        assert followed.looks <= 6


def test_a_refresh_that_shows_nothing_disturbs_nothing() -> None:
    beat, first = learned(STEADY)
    followed = [follow(beat, first - 8 + 120 * n, every(STEADY, 8, first + 120 * n), {0, 3}) for n in range(10)]
    assert max(one.lag for one in followed) < 1.5


def test_after_the_machine_slept_it_looks_as_at_first() -> None:
    beat, first = learned(DRIFTING)
    later = first + 3600
    assert beat.next_look(later, first=True, own=None) - later <= PACE + 0.5
    assert follow(beat, later, [later + 9]).lag <= PACE


def test_the_clock_of_the_beat_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = 1.7e9
    monkeypatch.setattr("time.time", lambda: wall)
    memory = Memory()
    start = memory.beat_time(100)
    wall += 3610
    assert memory.beat_time(110) - start == pytest.approx(3610)
    wall += 5
    assert memory.beat_time(115) - start == pytest.approx(3615)
    wall -= 7200  # somebody sets the clock
    assert memory.beat_time(120) - start == pytest.approx(3620)
    wall += 5
    assert memory.beat_time(125) - start == pytest.approx(3625)


def test_a_task_of_a_proxy_that_is_asked_later_in_the_round_is_not_missed_for_long() -> None:
    lags: list[float] = []
    for offset in (0, 2.5, 5, 8, 12):
        for rounds in (1, 2, 3, 4):
            beat, first = learned(STEADY)
            lags.append(follow(beat, first - 8, every(STEADY, rounds, first + offset)).lag)
    assert mean(lags) < 3
    assert max(lags) < ROUND


@given(
    st.lists(st.tuples(st.floats(0.5, 40), st.floats(0.5, 40), st.booleans()), max_size=40),
    st.floats(0, 1e9),
)
def test_whatever_it_is_told_it_looks_again_soon_and_never_at_once(
    changes: list[tuple[float, float, bool]], start: float
) -> None:
    beat, now, own = Beat(), start, None
    for gap, width, same in changes:
        since = now + gap
        now = since + width
        own = beat.change(since, now, own=own if same else None, quiet=gap)
        for catch in (own, None):
            assert now + 0.12 <= beat.next_look(now, first=False, own=catch) <= now + 27
