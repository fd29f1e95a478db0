import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.errors import RecipeError
from reccocktail.training import schedule
from reccocktail.training.schedule import Length, cosine_with_warmup


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(schedule.time, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    "given_length", [{}, {"steps": 3, "minutes": 1.0}, {"steps": 0}, {"steps": -1}]
)
def test_exactly_one_positive_length(given_length):
    with pytest.raises(RecipeError):
        Length(**given_length)


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan])
def test_minutes_must_be_positive(minutes):
    with pytest.raises(RecipeError, match="minutes above 0"):
        Length(minutes=minutes)


def test_steps_count_progress():
    length = Length(steps=8)
    assert length.progress == 0.0
    length.done_steps = 2
    assert length.progress == 0.25
    length.done_steps = 9
    assert length.progress == 1.0


def test_only_running_time_counts(clock):
    length = Length(minutes=1.0)
    clock.now += 50
    assert length.elapsed == 0.0
    length.start()
    clock.now += 15
    assert length.elapsed == 15.0
    assert length.progress == 0.25
    length.pause()
    clock.now += 500
    assert length.elapsed == 15.0
    length.start()
    clock.now += 15
    assert length.progress == 0.5
    clock.now += 500
    assert length.progress == 1.0


def test_a_resumed_clock_goes_on(clock):
    length = Length(minutes=1.0)
    length.start(30.0)
    clock.now += 6
    assert length.elapsed == 36.0
    length.start()  # starting a clock that runs loses nothing
    clock.now += 6
    assert length.elapsed == 42.0


@given(st.floats(0, 1), st.floats(0, 0.99))
def test_learning_rate_stays_between_nought_and_its_peak(progress, warmup):
    assert 0.0 <= cosine_with_warmup(progress, warmup) <= 1.0


def test_learning_rate_by_hand():
    assert cosine_with_warmup(0.0, 0.0) == 1.0
    assert cosine_with_warmup(0.0, 0.1) == 0.02
    assert cosine_with_warmup(0.05, 0.1) == pytest.approx(0.5)
    assert cosine_with_warmup(0.1, 0.1) == 1.0
    assert cosine_with_warmup(0.55, 0.1) == pytest.approx(0.5)
    assert cosine_with_warmup(1.0, 0.1) == pytest.approx(0.0)


@given(st.floats(0, 0.99), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_learning_rate_rises_then_falls(warmup, points):
    points = sorted(points)
    values = [cosine_with_warmup(point, warmup) for point in points]
    rising = [v for p, v in zip(points, values, strict=True) if p < warmup]
    falling = [v for p, v in zip(points, values, strict=True) if p >= warmup]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
