"""The garbage collector is calm while something is measured, and as it was afterwards."""

from __future__ import annotations

import gc

from loadtest.collector import SEARCHES_BETWEEN_FULL, CalmCollector


def test_full_searches_are_rare_until_the_end_and_leave_out_what_stood() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    calm = CalmCollector()
    calm.begin()
    try:
        assert gc.get_threshold() == (*before[:2], SEARCHES_BETWEEN_FULL)
        assert gc.get_freeze_count() > frozen
    finally:
        calm.end()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_beginning_twice_and_ending_twice_restores_what_was_first() -> None:
    before = gc.get_threshold()
    calm = CalmCollector()
    calm.end()
    assert gc.get_threshold() == before
    calm.begin()
    calm.begin()
    calm.end()
    calm.end()
    assert gc.get_threshold() == before


def test_cycles_are_still_found_while_calm() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    calm = CalmCollector()
    calm.begin()
    try:
        gc.collect(0)
        made = [Cycle() for _ in range(10)]
        del made
        assert gc.collect(0) >= 10
    finally:
        calm.end()
