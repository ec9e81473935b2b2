"""How the generator's own record is checked for seconds that are missing."""

from __future__ import annotations

import pandas as pd
import pytest

from reports.instrument import missing_seconds

SECOND = 10**9
Rows = list[tuple[int, float]]

# (second, seconds covered): the engine began 0.1 s after the run, and ended 7.4 s after it.
WHOLE: Rows = [(0, 0.9), *((second, 1.0) for second in range(1, 7)), (7, 0.4)]


def missing(rows: Rows, drain_end_s: float = 7.4) -> int | None:
    frame = pd.DataFrame({"second": [second for second, _ in rows], "covered_ns": [covered * SECOND for _, covered in rows]})
    return missing_seconds(frame, round(drain_end_s * SECOND))


@pytest.mark.parametrize(
    "rows",
    [
        WHOLE,
        [(second, covered + (0.0004 if second % 2 else -0.0004)) for second, covered in WHOLE],
        # The process stood still from 2.4 to 4.4 s, and wrote then what it should have written at 3 s.
        [*WHOLE[:2], (3, 2.4), (4, 0.6), *WHOLE[5:]],
        # The same until 4.7 s, which is nearer to the end of the next second.
        [*WHOLE[:2], (4, 2.7), (4, 0.3), *WHOLE[5:]],
        [(0, 0.5)],
    ],
)
def test_a_whole_record_misses_nothing(rows: Rows) -> None:
    assert missing(rows, 7.4 if len(rows) > 1 else 0.5) == 0


@pytest.mark.parametrize("gone", range(1, 7))
@pytest.mark.parametrize("length", [1, 2])
def test_seconds_lost_in_between_are_counted(gone: int, length: int) -> None:
    rows = [row for row in WHOLE if not gone <= row[0] < min(7, gone + length)]
    assert missing(rows) == len(WHOLE) - len(rows)


@pytest.mark.parametrize(("kept", "lost"), [(6, 1), (5, 2), (3, 4)])
def test_seconds_lost_at_the_end_are_counted(kept: int, lost: int) -> None:
    assert missing(WHOLE[:kept]) == lost


def test_seconds_lost_at_the_start_are_counted() -> None:
    assert missing(WHOLE[2:]) == 2


def test_without_a_record_nothing_is_known() -> None:
    assert missing([]) is None


def test_a_worker_that_begins_before_all_users_run_misses_nothing() -> None:
    late = pd.DataFrame({"second": [1, 2, 3], "covered_ns": [0.95 * SECOND, SECOND, 0.4 * SECOND]})
    begins = round(1.05 * SECOND)
    assert missing_seconds(late, round(3.4 * SECOND)) == 1
    assert missing_seconds(late, round(3.4 * SECOND), begins) == 0
    assert missing_seconds(late[1:].reset_index(drop=True), round(3.4 * SECOND), begins - SECOND) == 1
