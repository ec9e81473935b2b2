"""Load shapes: how many users there are over time, as pure functions, and as Locust's LoadTestShapes for the web page's class picker.

``--users`` is the highest number, ``--run-time`` the end of the run; ``--shape-base``, ``--shape-start`` and ``--shape-length`` say the
rest. Locust asks a shape once a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from locust import LoadTestShape

from .settings import Settings

AT_ONCE_PER_S = 1e6
"""Connects a second where they are not to be paced at all."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a shape is made of: users at most and at least, seconds of the run (0: without end), of its start and of its piece."""

    users: int
    base: int
    run_time_s: float
    start_s: float
    length_s: float
    steps: tuple[tuple[int, float], ...] = ()


Wanted = tuple[int, float]
"""Users, and how many a second are to come or go on the way there."""


def _between(low: int, high: int, share: float) -> int:
    return round(low + (high - low) * min(1.0, max(0.0, share)))


def _pace(users: int, seconds: float) -> float:
    return max(1.0, users / max(1.0, seconds))


def steps(at_s: float, profile: Profile) -> Wanted | None:
    """Each number of users for its time, one after the other; without a list five equal steps up to the highest within the run."""
    levels = profile.steps or tuple(
        (max(1, _between(profile.base, profile.users, (number + 1) / 5)), (profile.run_time_s or 60.0) / 5) for number in range(5)
    )
    for users, seconds in levels:
        if at_s < seconds:
            return users, float(users)
        at_s -= seconds
    return None


def ramp(at_s: float, profile: Profile) -> Wanted:
    """The lowest number until the start, then evenly up to the highest within the length, then that."""
    users = _between(profile.base, profile.users, (at_s - profile.start_s) / profile.length_s)
    return users, _pace(abs(profile.users - profile.base), profile.length_s)


def spike(at_s: float, profile: Profile) -> Wanted:
    """The lowest number, but the highest for the length from the start on; who comes for it comes at once."""
    inside = profile.start_s <= at_s < profile.start_s + profile.length_s
    return (profile.users if inside else profile.base), float(max(profile.users, 1))


def soak(at_s: float, profile: Profile) -> Wanted:
    """Up to the highest number within the length, held for hours, and down again within the length before the end."""
    share = at_s / profile.length_s
    if profile.run_time_s:
        share = min(share, (profile.run_time_s - at_s) / profile.length_s)
    return _between(profile.base, profile.users, share), _pace(abs(profile.users - profile.base), profile.length_s)


def sawtooth(at_s: float, profile: Profile) -> Wanted:
    """Evenly up from the lowest to the highest number within the length, all away at once, and again: connects in teeth."""
    within = math.fmod(at_s, profile.length_s)
    users = _between(profile.base, profile.users, (within + 1.0) / profile.length_s)
    pace = _pace(abs(profile.users - profile.base), profile.length_s)
    return users, pace if within >= 1.0 else float(max(profile.users, 1))


def storm(at_s: float, profile: Profile) -> Wanted:
    """Everybody at once."""
    return profile.users, float(max(profile.users, 1))


class Shape(LoadTestShape):
    """A profile over time, read from the options when the run begins."""

    abstract = True
    use_common_options = True
    levels = False
    """Whether each number of users is a step of its own, with figures of its own."""
    evenly = False
    """Whether users come evenly over the length; else at once."""
    wanted: Callable[[float, Profile], Wanted | None]

    def reset_time(self) -> None:
        """A run begins."""
        super().reset_time()  # type: ignore[no-untyped-call]
        self.profile: Profile | None = None

    def connects_per_s(self) -> float:
        """How fast connects may come, in all."""
        profile = self._read()
        if self.evenly:
            return _pace(abs(profile.users - profile.base), profile.length_s)
        return float(max(profile.users, *(users for users, _ in profile.steps), 1))

    def tick(self) -> Wanted | None:
        """What Locust asks once a second; None ends the run."""
        profile = self.profile = getattr(self, "profile", None) or self._read()
        at_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if profile.run_time_s and at_s >= profile.run_time_s and type(self) is not StepsShape:
            return None
        wanted = type(self).wanted(at_s, profile)
        # Locust takes a run without users for none at all.
        return None if wanted is None else (max(1, wanted[0]), wanted[1])

    def _read(self) -> Profile:
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        levels = tuple(
            (int(users), float(seconds)) for users, _, seconds in (one.partition(":") for one in options.steps.split(",") if one)
        )
        return Profile(
            users=max(1, int(options.num_users or 1)), base=int(options.shape_base), run_time_s=float(options.run_time or 0),
            start_s=float(options.shape_start), length_s=max(1.0, float(options.shape_length)), steps=levels,
        )  # fmt: skip


class StepsShape(Shape):
    """--steps, or five equal steps up to --users within --run-time."""

    levels = True
    wanted = staticmethod(steps)


class RampShape(Shape):
    """Evenly from --shape-base to --users within --shape-length, from --shape-start on."""

    evenly = True
    wanted = staticmethod(ramp)


class SpikeShape(Shape):
    """--shape-base, and --users for --shape-length from --shape-start on."""

    wanted = staticmethod(spike)


class SoakShape(Shape):
    """Up within --shape-length, held, and down before the end of --run-time."""

    evenly = True
    wanted = staticmethod(soak)


class SawtoothShape(Shape):
    """Up within --shape-length, all away at once, again and again."""

    evenly = True
    wanted = staticmethod(sawtooth)


class StormShape(Shape):
    """All of --users connect at once."""

    wanted = staticmethod(storm)

    def connects_per_s(self) -> float:
        """Not paced at all."""
        return AT_ONCE_PER_S


SHAPES: dict[str, type[Shape]] = {
    "steps": StepsShape, "ramp": RampShape, "spike": SpikeShape, "soak": SoakShape, "sawtooth": SawtoothShape, "storm": StormShape,
}  # fmt: skip


def shape_of(settings: Settings) -> Shape | None:
    """The shape that the options ask for, or None."""
    return None if settings.shape == "none" else SHAPES[settings.shape]()
