"""The pages that describe the data say what the data are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtest.metrics import describe
from loadtest.tables import TABLES
from reports.validity import RULES, describe_rules

DOCS = Path(__file__).parents[2] / "docs"


def test_metrics_page_is_the_table_of_metrics() -> None:
    assert (DOCS / "metrics.md").read_text() == describe(), "run: python -m loadtest.metrics > docs/metrics.md"


def test_validity_page_is_the_table_of_rules() -> None:
    assert (DOCS / "validity.md").read_text() == describe_rules(), "run: python -m reports rules > docs/validity.md"


def test_readme_counts_the_rules() -> None:
    assert f" {len(RULES)} rules," in (DOCS.parent / "README.md").read_text()


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described_once_and_no_other(table: str) -> None:
    page = (DOCS / "run-directory.md").read_text()
    section = re.search(rf"^## {table}\.parquet\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    described = [name for row in re.findall(r"^\| (`.*?) \|", section.group(1), re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(described) == sorted(TABLES[table].names)
