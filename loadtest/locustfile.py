"""``locust -f loadtest/locustfile.py -H ws://127.0.0.1:8001/ws``: names the users and hooks the measuring in. Wiring only."""

import os
import sys
from pathlib import Path

# Locust loads this file by path and puts its own folder on the path; the packages are beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from locust import events

from loadtest.installation import install
from loadtest.shapes import SHAPES
from loadtest.users import USERS, ConversationUser

__all__ = ["ConversationUser"]

headless = "--headless" in sys.argv or os.environ.get("LOCUST_HEADLESS", "").lower() in ("1", "true")
worker = "--worker" in sys.argv
# Locust starts users of every class that it finds, in equal parts, and the first shape. So it finds all of them only where somebody
# chooses: the page's picker, the command line, a worker's master. Where nobody does, the options alone say what users do.
if not headless or worker or {one.__name__ for one in USERS} & set(sys.argv):
    globals().update({one.__name__: one for one in USERS})
if not headless and not worker:
    globals().update({one.__name__: one for one in SHAPES.values()})

install(events)
