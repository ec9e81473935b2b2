"""``python -m loadtest ...`` is ``locust -f loadtest/locustfile.py ...``, with a ``--help`` that lists our options too.

Locust prints its help before it loads a locustfile, so that ``locust -f ... --help`` cannot know the options the file adds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Print the whole help, or become Locust."""
    if "-h" in arguments or "--help" in arguments:
        from locust import argument_parser, events

        from .installation import install

        install(events)
        parser = argument_parser.get_parser()
        parser.prog = "python -m loadtest"
        parser.print_help()
        return
    locustfile = Path(__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), *arguments]
    os.execv(sys.executable, command)  # noqa: S606  # the same process, so that signals and the exit code are Locust's


if __name__ == "__main__":
    main(sys.argv[1:])
