"""Which origins are ours, what an operator may write as an origin, and the page's own rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.front import is_same_origin, parse_origin

PAGE = (Path(__file__).resolve().parents[2] / "server/page.html").read_text()


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8001", "localhost:8001", True),
        ("http://LOCALHOST:8001", "localhost:8001", True),
        ("https://example.com", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com", "example.com:80", True),
        ("http://[::1]:8001", "[::1]:8001", True),
        ("http://example.com", "example.com:443", False),
        ("http://example.com:8001", "example.com", False),
        ("http://example.com.evil.example", "example.com", False),
        ("http://evil.example/example.com", "example.com", False),
        ("http://example.com@evil.example", "example.com", False),
        ("file://", "", False),
        ("null", "null", False),
        ("example.com", "example.com", False),
        ("ftp://example.com", "example.com", False),
    ],
)
def test_same_origin(origin: str, host: str, same: bool) -> None:
    assert is_same_origin(origin, host) is same


@pytest.mark.parametrize("text", ["*", "null", "http://a", "https://a.example:8443", "http://[::1]:8001"])
def test_an_origin_is_taken(text: str) -> None:
    assert parse_origin(text) == text


@pytest.mark.parametrize("text", ["", "a", "http://", "http://a/", "http://a?b", "http://u@a", "http://[::1", "a:b"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an origin is"):
        parse_origin(text)


def test_the_page_loads_nothing_and_writes_no_markup() -> None:
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", PAGE)
    assert not re.search(r"\bon[a-z]+=", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|style=", PAGE)
    assert "@import" not in PAGE
    assert "url(" not in PAGE
