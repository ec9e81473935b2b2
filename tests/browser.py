"""A real browser for tests, where there is one."""

from __future__ import annotations

import shutil
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def expect(locator: Any) -> Any:
    """Playwright's assertions, which ask again until they hold."""
    from playwright.sync_api import expect as expect_

    expect_.set_options(timeout=30_000)
    return expect_(locator)
