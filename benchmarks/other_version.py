"""A locustfile for proofs only: a worker that says it is of another version than it is."""

from __future__ import annotations

import sys
from pathlib import Path

# Locust loads this file by path and puts its own folder on the path; the packages are beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest import environment
from loadtest.locustfile import ConversationUser

__all__ = ["ConversationUser"]

environment._own_version = lambda: "0.0.0-other"
