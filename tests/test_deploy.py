"""The files of deploy/ and the Dockerfile: what they promise, and that the commands in them do run, as processes on this machine.

What schema validators say of them is `deploy/check`'s; these tests hold what no schema knows.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.ports import free_port
from tests.mortal import mortal

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
MANIFESTS: list[dict[str, Any]] = [
    document for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml")) for document in yaml.safe_load_all(path.read_text("utf-8"))
]
WORKLOADS = {document["metadata"]["name"]: document for document in MANIFESTS if document["kind"] in ("Deployment", "Job")}
USER = 10001


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return found


# -- what they promise -------------------------------------------------------------------------------------------------


def test_the_base_is_pinned_by_digest_and_every_package_by_hash() -> None:
    assert re.search(r"^ARG BASE=\S+:\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${BASE}", "runtime"}
    installs = re.findall(r"pip install[^&]*", DOCKERFILE)
    assert len(installs) == 2
    assert all("--require-hashes" in install and "--only-binary=:all:" in install for install in installs)


def test_no_image_runs_as_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    final = [stage for stage in stages if re.match(r"runtime AS ", stage)]
    assert len(final) == 2
    for stage in final:
        assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE) == [f"{USER}:{USER}"]
        assert "RUN" not in stage.partition("USER ")[2]


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    wanted = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {source for source, _ in re.findall(r"^COPY (?!--)(\S+) (\S+)$", DOCKERFILE, re.MULTILINE)}
    assert copied == wanted
    assert all((ROOT / name).exists() for name in wanted)


def test_the_servers_two_packages_are_found_in_the_lock() -> None:
    program = re.search(r"awk '([^']+)' requirements.lock", DOCKERFILE)
    assert program is not None
    found = subprocess.run(["awk", program[1], "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^([a-z0-9-]+)==", found, re.MULTILINE) == ["prometheus-client", "websockets"]
    assert found.count("--hash=sha256:") > 2


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cpus"] > 0
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_the_masters_own_port_is_not_published() -> None:
    assert COMPOSE["networks"]["control"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if "control" in service["networks"]] == ["master", "worker"]
    assert not any("5557" in port for service in SERVICES.values() for port in service.get("ports", ()))


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_is_hardened_and_limited(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == USER
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounts == {volume["name"] for volume in spec.get("volumes", ())}


@pytest.mark.parametrize("name", ["server", "master", "worker"])
def test_a_deployment_has_probes_and_finds_its_own_pods(name: str) -> None:
    workload = WORKLOADS[name]
    assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]
    container = pod(name)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    for probe in (container["readinessProbe"], container["livenessProbe"]):
        assert "exec" in probe or probe["httpGet"]["port"] in ports


def test_services_and_policies_name_what_is_there() -> None:
    ports = {name: {port["name"]: port["containerPort"] for port in pod(name)["containers"][0].get("ports", ())} for name in WORKLOADS}
    services = [document for document in MANIFESTS if document["kind"] == "Service"]
    assert {service["metadata"]["name"] for service in services} == {"server", "master"}
    for service in services:
        for port in service["spec"]["ports"]:
            assert ports[service["spec"]["selector"]["app"]][port["targetPort"]] == port["port"]
    for policy in (document for document in MANIFESTS if document["kind"] == "NetworkPolicy"):
        app = policy["spec"]["podSelector"]["matchLabels"]["app"]
        for rule in policy["spec"]["ingress"]:
            assert all(port["port"] in ports[app] for port in rule["ports"])


def test_master_and_workers_are_told_the_word_they_share() -> None:
    assert all("STREAMGAUGE_CHANNEL_KEY" in SERVICES[name]["environment"] for name in ("master", "worker"))
    told = [pod(name)["containers"][0]["env"] for name in ("master", "worker")]
    assert told[0] == told[1] == [
        {"name": "STREAMGAUGE_CHANNEL_KEY", "valueFrom": {"secretKeyRef": {"name": "channel", "key": "key", "optional": True}}},
    ]  # fmt: skip


def test_images_and_claims_agree() -> None:
    kustomization = next(document for document in MANIFESTS if document["kind"] == "Kustomization")
    tags = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in kustomization["images"]}
    assert {pod(name)["containers"][0]["image"] for name in ("server", "master", "worker")} == set(tags)
    assert pod("headless")["containers"][0]["image"] == tags["streamgauge"]
    assert {path.name for path in (ROOT / "deploy/kubernetes").glob("*.yaml")} == {
        *kustomization["resources"], "kustomization.yaml", "headless.yaml",
    }  # fmt: skip
    claims = {document["metadata"]["name"] for document in MANIFESTS if document["kind"] == "PersistentVolumeClaim"}
    used = {volume["persistentVolumeClaim"]["claimName"] for name in WORKLOADS for volume in pod(name).get("volumes", ())
            if "persistentVolumeClaim" in volume}  # fmt: skip
    assert used == claims


# -- the commands in them, run -----------------------------------------------------------------------------------------


class Running:
    """A command of a container, as a process of this machine; ended with its group on leaving."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                mortal(words), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "STREAMGAUGE_CHANNEL_KEY": "a word"},
            )  # fmt: skip

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def wait_for(self, answer: Callable[[], Any]) -> Any:
        """Ask again until the answer is true."""
        deadline, pause = time.monotonic() + 60, threading.Event()
        while not (found := answer()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            pause.wait(0.05)
        return found

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        found: re.Match[str] = self.wait_for(lambda: re.search(pattern, self.log.read_text()))
        return found


def entrypoint(target: str) -> list[str]:
    stage = DOCKERFILE.partition(f"FROM runtime AS {target}\n")[2].partition("\nFROM ")[0]
    found = re.search(r"^ENTRYPOINT (\[.*\])$", stage, re.MULTILINE)
    assert found is not None
    python, *words = json.loads(found[1])
    assert python == "python3"
    return [sys.executable, *words]


def here(words: list[str], runs: Path, server: str = "") -> list[str]:
    """The words of a command with the names of the network replaced by addresses of this machine, and variables by their defaults."""
    told = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]
    told = [word.replace("0.0.0.0", "127.0.0.1").replace("ws://server:8001/ws", server) for word in told]
    told = [word.replace("--master-host=master", "--master-host=127.0.0.1") for word in told]
    return [re.sub(r"--runs-folder=.*", f"--runs-folder={runs}", word) for word in told]


@pytest.fixture(scope="module", params=["compose", "kubernetes"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(flavour: str, tmp_path: Path) -> Iterator[str]:
    """The server as it is started there, but on a free port; its URL."""
    words = SERVICES["server"]["command"] if flavour == "compose" else pod("server")["containers"][0]["args"]
    with Running([*entrypoint("server"), *here(words, tmp_path), "--port", "0"], tmp_path / "server.log") as server:
        yield server.wait_for_line(r"listening on (ws://\S+)")[1]


def fetch(url: str, form: dict[str, str] | None = None) -> bytes:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(url, data, timeout=10) as answer:
            content: bytes = answer.read()
            return content
    except OSError:
        return b""


def test_the_headless_command_makes_a_run(flavour: str, served: str, tmp_path: Path) -> None:
    words = SERVICES["headless"]["command"] if flavour == "compose" else pod("headless")["containers"][0]["args"]
    words = [re.sub(r"--run-time=.*", "--run-time=2s", word) for word in here(words, tmp_path / "runs", served)]
    words = [re.sub(r"--users=.*", "--users=3", word) for word in words if not word.startswith("--processes")]
    with Running([*entrypoint("streamgauge"), *words], tmp_path / "generator.log") as generator:
        assert generator.process.wait(60) == 0, generator.log.read_text()
    (run,) = (tmp_path / "runs").glob("*/run.json")
    assert json.loads(run.read_text())["status"] == "complete"


def test_master_and_workers_find_each_other(flavour: str, served: str, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        told = SERVICES[name]["command"] if flavour == "compose" else pod(name)["containers"][0]["args"]
        return [*entrypoint("streamgauge"), *here(told, tmp_path / name, served)]

    # Port 0 is not to be had for a master: its workers have to know it before. Two that are free now.
    control, web = free_port(), free_port()
    where = [f"--master-bind-port={control}", f"--web-port={web}"]
    page = f"http://127.0.0.1:{web}"
    with (
        Running([*command("master"), *where], tmp_path / "master.log") as master,
        Running([*command("worker"), f"--master-port={control}"], tmp_path / "worker-1.log"),
        Running([*command("worker"), f"--master-port={control}"], tmp_path / "worker-2.log") as worker,
    ):
        master.wait_for(lambda: fetch(page + "/") != b"")
        master.wait_for(lambda: len(json.loads(fetch(page + "/stats/requests") or b"{}").get("workers", ())) == 2)
        # The worker's probe in Kubernetes looks for the same, at the port that is the master's there.
        probe = WORKLOADS["worker"]["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"]
        assert probe[2] == f":{5557:04X} 01"
        looked = [probe[0], probe[1], f":{control:04X} 01", *(f"/proc/{worker.process.pid}/net/{name}" for name in ("tcp", "tcp6"))]
        assert subprocess.run(looked, check=False).returncode == 0
        fetch(page + "/swarm", {"user_count": "4", "spawn_rate": "4", "host": served, "tokens": "5", "gap_ms": "10"})
        metrics = re.sub(r"^ws(.*)/ws$", r"http\1/metrics", served)
        master.wait_for(lambda: re.search(rb'answers_total\{outcome="completed"\} [1-9]', fetch(metrics)))
        fetch(page + "/stop")
