"""When a percentile is stated, and when it is withheld."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.metrics import MINIMUM_CONVERSATIONS, MINIMUM_SAMPLES
from reports.measures import PERCENTILES, Censored, measure
from reports.sample import Sample, sample_rows


def rows(n: int) -> Sample:
    return sample_rows(np.arange(1.0, n + 1), np.arange(n) % 10, np.zeros(10, np.int64))


@pytest.mark.parametrize(("name", "q"), PERCENTILES.items())
def test_stated_from_the_smallest_sound_sample_on(name: str, q: float) -> None:
    needed = MINIMUM_SAMPLES[q]
    enough = measure("ttft", rows(needed))["percentiles"][name]
    short = measure("ttft", rows(needed - 1))["percentiles"][name]
    assert enough["value"] == np.ceil(round(q * needed, 9))
    assert short["value"] is None
    assert short["text"] == f"n/a ({needed - 1} of {needed})"


def test_tokens_count_by_their_effective_number() -> None:
    figures = measure("itl", rows(6620), conversations=100, effect=10.01)
    assert figures["percentiles"]["p99"]["text"] == "n/a (661 of 662)"
    assert figures["n_effective"] == 661
    assert measure("itl", rows(6620), conversations=100, effect=10.0)["percentiles"]["p99"]["value"] is not None


def test_tokens_need_enough_conversations() -> None:
    few = measure("itl", rows(5000), conversations=MINIMUM_CONVERSATIONS - 1)["percentiles"]["p50"]
    assert (few["value"], few["text"]) == (None, "n/a (29 of 30 conversations)")
    assert measure("itl", rows(5000), conversations=MINIMUM_CONVERSATIONS)["percentiles"]["p50"]["value"] is not None


def test_empty_metric_is_not_a_crash() -> None:
    figures = measure("ttft", rows(0), censored=Censored())
    assert (figures["n"], figures["mean"], figures["percentiles"]["p50"]["text"]) == (0, None, "n/a (0 of 11)")


def test_censored_share_is_of_both() -> None:
    assert Censored(np.ones(25), np.ones(75)).share == 0.25
    assert Censored().share == 0.0


def test_censored_that_could_move_a_percentile_withhold_it() -> None:
    values = np.linspace(10.0, 20.0, 1000)
    # Ten that were cut at once may all have been the slowest: p99 is unknown, p50 stays where it is.
    censored = Censored(np.zeros(10), values)
    figures = measure("ttft", sample_rows(values, np.arange(1000) % 10, np.zeros(10, np.int64)), censored=censored)
    assert figures["percentiles"]["p99"]["value"] is not None or figures["percentiles"]["p99"]["withheld"] == "censored"
    assert figures["percentiles"]["p50"]["value"] == pytest.approx(15, abs=0.1)
    many = Censored(np.zeros(300), values)
    withheld = measure("ttft", sample_rows(values, np.arange(1000) % 10, np.zeros(10, np.int64)), censored=many)["percentiles"]
    assert {name: withheld[name]["withheld"] for name in ("p50", "p90", "p99")} == dict.fromkeys(("p50", "p90", "p99"), "censored")
    assert withheld["p50"]["text"] == "n/a (censored 23.1 %)"


def test_censored_beyond_the_percentile_do_not_touch_it() -> None:
    # Cut only after the value of every observed one: whatever they are, the median is the same within a rank.
    values = np.full(1000, 5.0)
    assert not Censored(np.full(300, 50.0), values).moves(0.5)
    assert Censored(np.full(300, 50.0), values).moves(0.9)
