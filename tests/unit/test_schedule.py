import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.errors import RecipeError
from reccocktail.training import schedule
from reccocktail.training.schedule import Clock, Length, cosine_with_warmup


class Monotonic:
    """Stands in for `time.monotonic`."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    time = Monotonic()
    monkeypatch.setattr(schedule.time, "monotonic", time)
    return time


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
    clock = Clock(Length(steps=8))
    assert clock.progress == 0.0
    clock.done_steps = 2
    assert clock.progress == 0.25
    clock.done_steps = 9
    assert clock.progress == 1.0


def test_only_running_time_counts(time):
    clock = Clock(Length(minutes=1.0))
    time.now += 50
    assert clock.elapsed == 0.0
    clock.start()
    time.now += 15
    assert clock.elapsed == 15.0
    assert clock.progress == 0.25
    clock.pause()
    time.now += 500
    assert clock.elapsed == 15.0
    clock.start()
    time.now += 15
    assert clock.progress == 0.5
    time.now += 500
    assert clock.progress == 1.0


def test_a_resumed_clock_goes_on(time):
    clock = Clock(Length(minutes=1.0))
    clock.start(30.0)
    time.now += 6
    assert clock.elapsed == 36.0
    clock.start()  # starting a clock that runs loses nothing
    time.now += 6
    assert clock.elapsed == 42.0


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
