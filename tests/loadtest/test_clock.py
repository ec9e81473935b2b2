"""Two clocks: the offset between them is read well, kept, and changed only when the wall clock steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadtest import clock as module
from loadtest.clock import STEP_NS, Anchor, Clock, read_anchor

MONOTONIC, WALL = 5_000_000_000, 1_700_000_000_000_000_000


class TwoClocks:
    """Stands for the `time` module: every read takes as long as `read_costs` says, in turn."""

    def __init__(self, read_costs: Callable[[int], int] = lambda turn: 40) -> None:
        self.elapsed = 0
        self.step = 0
        self.turn = 0
        self.read_costs = read_costs

    def _pass(self) -> None:
        self.elapsed += self.read_costs(self.turn)
        self.turn += 1

    def monotonic_ns(self) -> int:
        self._pass()
        return MONOTONIC + self.elapsed

    def time_ns(self) -> int:
        self._pass()
        return WALL + self.elapsed + self.step


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> TwoClocks:
    fake = TwoClocks()
    monkeypatch.setattr(module, "time", fake)
    return fake


def test_an_anchor_is_one_instant_on_both_clocks(clocks: TwoClocks) -> None:
    anchor = read_anchor()
    assert anchor.offset == anchor.wall_ns - anchor.monotonic_ns == WALL - MONOTONIC
    assert anchor.uncertainty_ns == 40


def test_the_narrowest_of_the_readings_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # Preempted for 3 ms within every sandwich but the fifth.
    fake = TwoClocks(lambda turn: 30 if turn // 3 == 4 else 3_000_000)
    monkeypatch.setattr(module, "time", fake)
    anchor = read_anchor(9)
    assert anchor.uncertainty_ns == 30
    assert anchor.offset == WALL - MONOTONIC


def test_the_true_offset_lies_within_the_uncertainty(monkeypatch: pytest.MonkeyPatch) -> None:
    # All the time passes between the second read and the third: the worst case for the middle.
    fake = TwoClocks(lambda turn: 900 if turn % 3 == 2 else 1)
    monkeypatch.setattr(module, "time", fake)
    anchor = read_anchor()
    assert anchor.uncertainty_ns >= abs(anchor.offset - (WALL - MONOTONIC)) > 0


def test_an_offset_is_kept_until_the_wall_clock_steps(clocks: TwoClocks) -> None:
    clock = Clock()
    clocks.elapsed += 10**9
    clocks.step = STEP_NS // 2  # a reading error, not a step
    assert clock.check() == 0
    assert clock.offset == WALL - MONOTONIC


@pytest.mark.parametrize("step", [-3_600_000_000_000, -2 * STEP_NS, 2 * STEP_NS, 500_000_000])
def test_a_step_is_told_once_and_adopted(clocks: TwoClocks, step: int) -> None:
    clock = Clock()
    clocks.step = step
    assert clock.check() == step
    assert clock.offset == clock.anchor.offset == WALL - MONOTONIC + step
    assert clock.check() == 0


def test_what_a_bad_reading_cannot_tell_is_not_called_a_step(clocks: TwoClocks) -> None:
    clock = Clock()
    clocks.read_costs = lambda turn: 4_000_000
    clocks.step = 5_000_000
    assert clock.check() == 0
    clocks.read_costs = lambda turn: 40
    assert clock.check() == 5_000_000


def test_the_real_clocks_can_be_read() -> None:
    anchor = read_anchor(3)
    assert isinstance(anchor, Anchor)
    assert anchor.uncertainty_ns >= 0
    assert anchor.wall_ns > anchor.monotonic_ns > 0
