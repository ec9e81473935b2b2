"""Runs one scene of a master's gate in a process of its own, and prints what came of it as JSON."""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - patching comes first
import json
import logging
import sys
from types import SimpleNamespace

from locust.rpc import Message

from loadtest.gate import Gate, introduce, is_exposed, proof


class Runner:
    """A master as far as the gate is concerned."""

    def __init__(self):
        self.heard, self.said, self.listeners = [], [], {}
        self.server = SimpleNamespace(socket=SimpleNamespace(setsockopt=lambda *_: None))

    def handle_message(self, identity, message):
        if message.type == "bomb":
            raise KeyError("state")
        self.heard.append([identity, message.type])

    def register_message(self, kind, listener):
        self.listeners[kind] = listener

    def send_message(self, kind, data=None, client_id=None):
        self.said.append([client_id, kind, data])


def gate():
    """What comes from peers of every kind, and what a master's gate makes of it."""
    logging.disable()
    told = {}
    hellos = {
        "own": lambda me: introduce(me, ""),
        "keyed": lambda me: {**introduce(me, "word"), "family": "x"},
        "wrong key": lambda me: {**introduce(me, "guess"), "family": "x"},
        "stranger": lambda me: {**introduce(me, ""), "family": proof("another family", me)},
        "borrowed": lambda me: introduce("somebody else", "word") | {"family": "x"},
        "old": lambda me: {**introduce(me, "word"), "versions": {**introduce(me, "")["versions"], "streamgauge": "0.0.0"}},
        "rubbish": lambda me: [1, 2],
        "mute": None,
    }
    for key in ("", "word"):
        for family_only in (True, False):
            for name, hello in hellos.items():
                runner = Runner()
                guard = Gate(runner, key, family_only)

                def say(kind, data=None, node=name, runner=runner, me=name):
                    runner.handle_message(me, Message(kind, data, node))

                say("stats")
                say("client_ready")
                say("heartbeat")
                if hello is not None:
                    say("streamgauge_hello", hello(name))
                say("streamgauge_ready")
                say("stats")
                say("bomb")
                say("quit", node="other")
                told[f"{name}/{key}/{family_only}"] = {
                    "heard": [kind for _, kind in runner.heard], "refused": guard.refused,
                    "said": [kind for _, kind, _ in runner.said if kind != "ack"],
                }  # fmt: skip
    return told


def exposed(*hosts):
    return [is_exposed(host) for host in hosts]


scene, *arguments = sys.argv[1:]
sys.stdout.write(json.dumps({"gate": gate, "exposed": exposed}[scene](*arguments)))
