"""The sums behind Jain's index, held against the same sums made the long way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loadtest.fairness import LENGTHS_S, Shares, jain
from reports.findings import UNSERVED
from reports.load import load_run
from reports.quality_charts import chart_fairness
from reports.summary import summarise

Sums = dict[tuple[int, int], list[int]]


def gathered(shares: Shares, into: Sums | None = None) -> Sums:
    sums: Sums = into if into is not None else defaultdict(lambda: [0, 0, 0])
    for row in shares.take():
        for place, name in enumerate(("conversations", "tokens", "tokens_squared")):
            sums[row["second"], row["length_s"]][place] += row[name]
    return sums


def give(shares: Shares, *entries: tuple[int, int, int]) -> None:
    columns = np.array(entries, dtype=np.int64).reshape(-1, 3)
    shares.add(columns[:, 0], columns[:, 1], columns[:, 2])


def test_only_whole_intervals_count_and_silence_counts_with_nought() -> None:
    shares = Shares((1,))
    give(shares, (7, 2, 3), (7, 3, 10), (7, 6, 4), (8, 3, 2))
    sums = gathered(shares)
    # Of 7 the second of its first token is cut, 4 and 5 are silent, and 6 is not over; 8 has only begun.
    assert sums == {(3, 1): [1, 10, 100], (4, 1): [1, 0, 0], (5, 1): [1, 0, 0]}
    give(shares, (7, 6, 1))
    shares.end(8, 5)
    assert gathered(shares) == {(4, 1): [1, 0, 0]}
    shares.end(7, 7)
    assert gathered(shares) == {(6, 1): [1, 5, 25]}
    assert shares.take() == []


def test_the_second_of_the_end_is_cut() -> None:
    shares = Shares((1,))
    give(shares, (1, 0, 5), (1, 1, 5), (1, 2, 5))
    shares.end(1, 2)
    assert gathered(shares) == {(1, 1): [1, 5, 25]}


def test_a_conversation_that_no_longer_counts_leaves_what_was_certain() -> None:
    shares = Shares((1,))
    give(shares, (1, 0, 5), (1, 1, 5), (1, 2, 5))
    assert gathered(shares) == {(1, 1): [1, 5, 25]}
    shares.drop(1)
    assert gathered(shares) == {}
    give(shares, (1, 3, 5), (1, 4, 5))  # would be a new conversation
    assert gathered(shares) == {}


def test_a_conversation_without_a_token_counts_nowhere() -> None:
    shares = Shares()
    shares.end(3, 4)
    shares.drop(4)
    assert shares.take() == []


@pytest.mark.parametrize("seed", range(6))
def test_any_course_gives_the_sums_of_its_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    course = {c: np.sort(rng.choice(120, rng.integers(1, 60), replace=False)) for c in range(25)}
    counts = {(c, int(s)): int(rng.integers(1, 9)) for c, seconds in course.items() for s in seconds}
    ends = {c: int(seconds[-1]) + int(rng.integers(0, 40)) for c, seconds in course.items()}
    shares, sums = Shares(), None
    for begin in range(0, 200, 3):
        give(shares, *((c, s, n) for (c, s), n in counts.items() if begin <= s < begin + 3))
        for c, end in ends.items():
            if begin <= end < begin + 3:
                shares.end(c, end)
        sums = gathered(shares, sums)
    expected: Sums = defaultdict(lambda: [0, 0, 0])
    for length in LENGTHS_S:
        for c, seconds in course.items():
            for k in range(int(seconds[0]) // length + 1, ends[c] // length):
                x = sum(counts.get((c, s), 0) for s in range(k * length, (k + 1) * length))
                for place, value in enumerate((1, x, x * x)):
                    expected[k * length, length][place] += value
    assert sums == expected


def test_served_are_those_that_got_a_token() -> None:
    shares = Shares((1,))
    for conversation in range(4):
        give(shares, (conversation, 0, 1), *((conversation, 1, 2),) * (conversation < 3), (conversation, 4, 1))
    served = {row["second"]: (row["conversations"], row["served"]) for row in shares.take()}
    assert served == {1: (4, 3), 2: (4, 0), 3: (4, 0)}


def test_jains_index() -> None:
    assert jain([4, 4, 3, 0, 5], [40, 40, 9, 0, 0], [400, 1600, 33, 0, 0])[:3] == pytest.approx([1, 0.25, 81 / 99])
    assert np.isnan(jain([0, 5], [0, 0], [0, 0])).all()


# A server with a handler that blocks, and the same one without.

FROM_S = 3


def test_a_handler_that_blocks_shows_in_the_figures_and_in_the_chart(serve: Callable[..., Any], start_locust: Callable[..., Any]) -> None:
    # A token holds everybody up for 250 ms: four a second are left for twelve users who should get ten each. All have prompted before
    # the first token comes, and after 3.5 s each has had its first: only then does it count in who is served.
    plain = ("--ttft-ms", "500")
    servers = {"blocking": serve("--block-ms", "250", *plain), "sound": serve(*plain)}
    options = ("--tokens", "1000", "--gap-ms", "100", "--warm-up", str(FROM_S), "--stop-timeout", "1")
    load = ("-u", "12", "--spawn-rate", "100", "-t", "6s", *options)
    runs = {name: start_locust("-H", server.url, *load) for name, server in servers.items()}
    assert {name: run.wait() for name, run in runs.items()} == {"blocking": 0, "sound": 0}
    served, drawn, found = {}, {}, {}
    for name, run in runs.items():
        summary = summarise(run.path)
        served[name] = summary["served"]
        found[name] = {finding["finding"] for finding in summary["validity"]["findings"]}
        figure = chart_fairness(load_run(run.path), summary)
        assert figure is not None
        # The first curve is the share that got a token.
        curve = figure.axes[0].patches[0].get_data()  # type: ignore[attr-defined]
        drawn[name] = float(np.nanmean(curve.values[curve.edges[:-1] >= FROM_S]))
    assert served["sound"]["lowest"] == drawn["sound"] == 1.0
    assert served["blocking"]["mean"] < UNSERVED
    assert drawn["blocking"] < UNSERVED
    assert ("unserved" in found["blocking"], "unserved" in found["sound"]) == (True, False)
