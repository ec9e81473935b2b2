"""Several hosts on one machine: network namespaces, each with an address of its own, on one bridge that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final

NETWORK: Final = "10.87.41"
"""Exists in namespaces of our own alone: nothing else on the machine sees it."""


class NetworkError(Exception):
    """The namespaces could not be made; the message says what the system said."""


def unavailable() -> str | None:
    """Why there can be no namespaces here; None when there can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip (iproute2)"
    tried = subprocess.run(["ip", "netns", "add", name := f"sgtry{os.getpid()}"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces are not allowed here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


class Network:
    """Namespaces named ``hosts``, each with an address, joined by a bridge in a namespace of its own; leaving it removes them all."""

    def __init__(self, hosts: Sequence[str], tag: str) -> None:
        self._tag = f"sg{tag}"
        self._hosts = list(hosts)

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def address(self, host: str) -> str:
        """The address of a host."""
        return f"{NETWORK}.{self._hosts.index(host) + 1}"

    def inside(self, host: str) -> list[str]:
        """What to put before a command so that it runs on a host."""
        return ["ip", "netns", "exec", self._namespace(host)]

    def cut(self, host: str) -> None:
        """Let nothing through to or from a host any more; it notices nothing but silence."""
        self._ip("-n", self._bridge, "link", "set", self._port(host), "nomaster")

    def mend(self, host: str) -> None:
        """Let everything through again."""
        self._ip("-n", self._bridge, "link", "set", self._port(host), "master", "bridge")

    def lose(self, host: str, share: float) -> None:
        """Lose that share of the packets that come to a host, each by chance; NetworkError where the kernel cannot."""
        rule = ["-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", f"{share:g}", "-j", "DROP"]
        try:
            done = subprocess.run([*self.inside(host), "iptables", *rule], capture_output=True, text=True, check=False)
        except OSError as error:
            raise NetworkError(f"losing packets needs the program iptables: {error}") from None
        if done.returncode:
            raise NetworkError(f"losing packets needs iptables with its match 'statistic': {done.stderr.strip()}")

    def lost(self, host: str) -> int:
        """How many packets to a host have been lost."""
        command = [*self.inside(host), "iptables", "-L", "INPUT", "-v", "-x", "-n"]
        counts = [line.split()[0] for line in subprocess.check_output(command, text=True).splitlines() if "DROP" in line]
        return sum(int(one) for one in counts if one.isdigit())

    @property
    def _bridge(self) -> str:
        return f"{self._tag}-b"

    def _namespace(self, host: str) -> str:
        return f"{self._tag}-{host}"

    def _port(self, host: str) -> str:
        return f"port{self._hosts.index(host)}"

    def _make(self) -> None:
        self._ip("netns", "add", self._bridge)
        self._ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", self._bridge, "link", "set", "bridge", "up")
        for host in self._hosts:
            inside = self._namespace(host)
            self._ip("netns", "add", inside)
            self._ip("-n", self._bridge, "link", "add", self._port(host), "type", "veth", "peer", "name", "eth0", "netns", inside)
            self._ip("-n", self._bridge, "link", "set", self._port(host), "master", "bridge", "up")
            self._ip("-n", inside, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._ip("-n", inside, "link", "set", "lo", "up")
            self._ip("-n", inside, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        for name in (*map(self._namespace, self._hosts), self._bridge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    @staticmethod
    def _ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NetworkError(f"ip {' '.join(words)}: {done.stderr.strip()}")
