"""Has a worker make records, once on a disk that waits until something else was done, and be told its users; prints what came of it."""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import gevent
from gevent.pool import Group
from locust import argument_parser
from locust.rpc import Message
from locust.runners import WorkerRunner

from loadtest.installation import remember_defaults
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.salvage import FOLDER
from loadtest.worker import Worker

WHERE = {"name": "run", "id": "1", "about": {"load": {}}}


def worker(folder):
    made = Worker.__new__(Worker)
    made.environment = SimpleNamespace(runner=SimpleNamespace(worker_index=3))
    made._folder = folder / FOLDER
    return made


def main(folder):
    of_this = worker(folder)
    records = [of_this.make_record(WHERE) for _ in range(2)]
    told = {"names": [record.path.name for record in records], "part_of": records[1].metadata()["part_of"]}

    create = RunDirectory.create
    waiting, beaten = os.pipe()

    def dawdle(path, metadata):
        os.read(waiting, 1)  # blocks the thread, whatever gevent has patched
        return create(path, metadata)

    RunDirectory.create = dawdle
    gevent.spawn(os.write, beaten, b".")
    told["after_a_wait"] = of_this.make_record(WHERE).metadata()["status"]
    RunDirectory.create = create

    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / FOLDER).write_text("a file")
    try:
        worker(folder / "elsewhere").make_record(WHERE)
    except RunDirectoryError as error:
        told["refused"] = str(error)
    told["parsers_made"] = parsers_made()
    return told


def parsers_made():
    """How often Locust makes a parser while it reads three messages that tell a worker its users."""
    made = []
    plain = argument_parser.get_empty_argument_parser
    argument_parser.get_empty_argument_parser = lambda *given, **named: made.append(1) or plain(*given, **named)
    remember_defaults()
    runner = WorkerRunner.__new__(WorkerRunner)
    runner.environment = SimpleNamespace(parsed_options=SimpleNamespace(), stop_timeout=None, host=None)
    runner.client = SimpleNamespace(send=lambda message: None)
    runner.client_id = "w"
    runner.worker_state = "spawning"
    runner.spawning_greenlet = None
    runner.greenlet, runner.start_worker = Group(), lambda counts: None
    runner.last_received_spawn_timestamp = 0
    options = {f"ours_{number}": number for number in range(100)} | {"num_users": 5}
    for stamp in (1, 2, 3):
        job = {"timestamp": stamp, "host": "ws://h", "stop_timeout": 1, "parsed_options": options, "user_classes_count": {}}
        runner.handle_message(Message("spawn", job, "w"))
    runner.greenlet.join()
    told = vars(runner.environment.parsed_options)
    assert told["ours_7"] == 7
    assert "num_users" not in told  # Locust's own options are the worker's affair
    return len(made)


print(json.dumps(main(Path(sys.argv[1]))))
