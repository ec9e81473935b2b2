"""Stops a Locust runner at each point of a start, with or without ``Starts`` before it, and prints as JSON what is left running."""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import json
import os
import sys

import gevent
from gevent.event import Event
from locust import LoadTestShape, User, constant, task
from locust.env import Environment

from loadtest.ports import free_port
from loadtest.starts import Starts

GUARDED = sys.argv[1] == "guarded"


class Sleeper(User):
    wait_time = constant(0)

    @task
    def sleep(self):
        gevent.sleep(3600)


class Growing(LoadTestShape):
    def tick(self):
        return 1000, 50


class Scene:
    def __init__(self, shape=None):
        self.environment = Environment(user_classes=[Sleeper], shape_class=shape)
        self.fired = {"test_start": 0, "test_stopping": 0, "test_stop": 0}
        for name in self.fired:
            getattr(self.environment.events, name).add_listener(lambda name=name, **_: self.count(name))
        self.runner = self.environment.create_local_runner()
        if GUARDED:
            Starts(self.runner)

    def count(self, name):
        self.fired[name] += 1

    def left(self):
        """What still starts users, and how many there are: all must be nothing once a stop has returned."""
        alive = [one for one in (self.runner.spawning_greenlet, self.runner.shape_greenlet) if one is not None and not one.ready()]
        return [len(alive), self.runner.user_count]

    def run_once(self):
        self.runner.start(1, 100)
        wait_until(lambda: self.runner.state == "running")
        self.runner.stop()


def wait_until(true):
    with gevent.Timeout(10):
        while not true():
            gevent.sleep(0.001)


def not_begun(runs_before):
    scene = Scene()
    for _ in range(runs_before):
        scene.run_once()
    scene.runner.start(3, 100)
    scene.runner.stop()
    return scene.left()


def beginning(runs_before):
    scene, entered, held = Scene(), Event(), Event()
    for _ in range(runs_before):
        scene.run_once()

    def hold(**_):
        entered.set()
        held.wait(5)

    scene.environment.events.test_start.add_listener(hold)
    scene.runner.start(3, 100)
    entered.wait()
    scene.runner.stop()
    return scene.left()


def draining(shape):
    """How many users came between the stop's first word and its last; Locust starts a second's users at once."""
    scene, seen = Scene(Growing() if shape else None), []

    def drain(**_):
        seen.append(scene.runner.user_count)
        gevent.sleep(1.2)
        seen.append(scene.runner.user_count)

    scene.environment.events.test_stopping.add_listener(drain)
    scene.runner.start_shape() if shape else scene.runner.start(1000, 50)
    wait_until(lambda: scene.runner.user_count >= 2)
    scene.runner.stop()
    return [seen[1] - seen[0], *scene.left()]


def twice():
    scene = Scene()
    scene.environment.events.test_stopping.add_listener(lambda **_: gevent.sleep(0.1))
    scene.runner.start(2, 100)
    wait_until(lambda: scene.runner.state == "running")
    gevent.joinall([gevent.spawn(scene.runner.stop) for _ in range(3)])
    return scene.fired


def master():
    """A stop that does not come from where the start did, as at the end of a run time; what the master and its worker do afterwards."""
    port = free_port()
    ours, theirs = (Environment(user_classes=[Sleeper], stop_timeout=0) for _ in range(2))
    runner = ours.create_master_runner("127.0.0.1", port)
    worker = theirs.create_worker_runner("127.0.0.1", port)
    if GUARDED:
        Starts(runner)
        Starts(worker)
    wait_until(lambda: len(runner.clients.ready) == 1)
    start = gevent.spawn(runner.start, 1000, 100)
    wait_until(lambda: worker.user_count >= 20)
    runner.stop()
    return [not start.ready(), worker.user_count, runner.state in ("stopping", "stopped")]


scenes = {
    "not_begun": (lambda: [not_begun(0), not_begun(1)]),
    "beginning": (lambda: [beginning(0), beginning(1)]),
    "draining": lambda: draining(False),
    "shape": lambda: draining(True),
    "twice": twice,
    "master": master,
}
running = {name: gevent.spawn(scene) for name, scene in scenes.items()}
sys.stdout.write(json.dumps({name: one.get() for name, one in running.items()}))
sys.stdout.flush()
# What Locust left running in the unguarded case would be waited for.
os._exit(0)
