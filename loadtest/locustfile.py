"""``locust -f loadtest/locustfile.py -H ws://127.0.0.1:8001/ws``: names the users and hooks the measuring in. Wiring only."""

import sys
from pathlib import Path

# Locust loads this file by path and puts its own folder on the path; the packages are beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from locust import events

from loadtest.installation import install
from loadtest.users import ConversationUser

__all__ = ["ConversationUser"]

install(events)
