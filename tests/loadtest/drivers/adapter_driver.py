"""Holds conversations through adapters, without Locust: cases come as a JSON list on stdin, what came of them goes to stdout."""

import json
import sys

import gevent

from loadtest.adapter import load_adapter
from loadtest.arrivals import Stop
from loadtest.opening import ConnectError
from loadtest.trial import Trial


def run(case):
    trial = Trial(load_adapter(case["adapter"]), {"window": 1, **case.get("options", {})}, case["url"], case.get("patience_s", 10.0))
    if "max_message_bytes" in case:
        import dataclasses

        trial._target = dataclasses.replace(trial._target, max_message_bytes=case["max_message_bytes"])
    rows, error = [], None
    try:
        for turn in range(case.get("turns", 1)):
            stop = Stop(**case["stop"]) if "stop" in case and turn in case.get("stop_turns", [turn]) else None
            rows.append(trial.row(trial.converse(case.get("prompt", f"prompt {turn}"), stop)))
    except ConnectError as refused:
        error = str(refused)
    trial.wait(case.get("wait_s", 0.0))
    trial.close()
    plain = [{name: value.item() if hasattr(value, "item") else value for name, value in row.items()} for row in rows]
    return {"rows": plain, "error": error, "counts": {name: int(count) for name, count in trial.memory.counts.items()}}


cases = json.loads(sys.stdin.read())
print(json.dumps([job.get() for job in [gevent.spawn(run, case) for case in cases]]))
