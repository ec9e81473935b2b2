"""What real conversations are like: quantile tables of a public trace, as the workloads `chat` and `code`. Data and arithmetic only.

Source: Azure LLM inference trace 2023, conversation (19 366 requests in 3 502 s) and code (8 819 in 3 436 s),
github.com/Azure/AzurePublicDataset, CC-BY 4.0; nearest rank. Between two points values are interpolated geometrically, which gives
the trace's mean number of answer tokens to 1 % (211.1 and 27.9). Prompts and answers are drawn independently: in the trace their
ranks hardly go together (0.07 and -0.02).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

WORKLOADS: Final = ("chat", "code")
PERCENTS: Final = (0, 1, 2.5, *range(5, 100, 5), 97.5, 99, 99.5, 99.9, 100)
ANSWER_TOKENS: Final = {
    "chat": (7, 16, 28, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151, 177, 217, 384, 395, 400, 411, 424, 451, 522, 601, 644, 954, 1000),
    "code": (6, 6, 6, 6, 7, 7, 8, 9, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 29, 39, 55, 90, 145, 252, 361, 831, 1899),
}
PROMPT_TOKENS: Final = {
    "chat": (
        2, 29, 120, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1020, 1045, 1071, 1097, 1130, 1189, 1315, 1877, 2735, 4083, 4092, 4142,
        4831, 6212, 14050,
    ),
    "code": (
        3, 17, 44, 75, 147, 232, 385, 578, 770, 938, 1075, 1261, 1469, 1690, 1909, 2164, 2433, 2745, 3193, 3923, 5194, 7315, 7435, 7436,
        7436, 7437, 7437,
    ),
}  # fmt: skip
GAPS: Final = {
    "chat": (
        1.19e-5, 0.00297, 0.0101, 0.035, 0.0892, 0.146, 0.202, 0.267, 0.336, 0.406, 0.483, 0.564, 0.655, 0.761, 0.877, 1.01, 1.18, 1.36,
        1.6, 1.91, 2.33, 3.13, 3.9, 4.93, 5.81, 7.91, 23.9,
    ),
    "code": (
        1.47e-5, 5.69e-5, 0.000133, 0.000226, 0.000536, 0.00227, 0.00304, 0.00533, 0.00845, 0.0137, 0.0388, 0.0981, 0.164, 0.23, 0.244,
        0.251, 0.257, 0.267, 0.411, 0.51, 0.701, 1.03, 1.73, 5.66, 26.0, 212.0, 557.0,
    ),
}  # fmt: skip
"""Time between two arrivals, in multiples of its mean (181 ms and 390 ms in the trace)."""


def quantile(table: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of a table's population lies."""
    percent = 100.0 * share
    index = min(len(table) - 2, max(0, bisect.bisect_right(PERCENTS, percent) - 1))
    low, high = PERCENTS[index], PERCENTS[index + 1]
    part = min(1.0, max(0.0, (percent - low) / (high - low)))
    ratio: float = (table[index + 1] / table[index]) ** part
    return table[index] * ratio
