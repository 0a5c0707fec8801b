"""An overlay on this machine: its containers as processes, with their environment, their Secrets and their probes.

What a cluster adds is taken away again: addresses become free ports of loopback, mounted Secrets folders of a test.
What it takes away is missed here too: capabilities, and places to write to but for /tmp, which the entrypoint fills.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.k8s.objects import ROOT, Object, Objects, Pod

Secrets = Mapping[str, Mapping[str, bytes]]
_JOB_S = 60.0
_READY_S = 90.0


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod, as a process."""

    pod: Pod
    spec: Object
    ports: Mapping[int, int]
    """Its ports, and those of this machine in their place."""
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.log_file.read_text()

    def await_probe(self, name: str) -> None:
        """Wait until a probe succeeds: for as long as a start may take, or readiness, whose failure ends nothing."""
        probe = self.spec[name]
        succeeds: Callable[[Mapping[str, Any], int], bool] = _grpc_answers if "grpc" in probe else _page_answers
        how = probe.get("grpc") or probe["httpGet"]
        named = {port["name"]: port["containerPort"] for port in self.spec["ports"]}
        port = self.ports[named.get(how["port"], how["port"])]
        allowed_s = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        deadline = time.monotonic() + (_READY_S if name == "readinessProbe" else allowed_s)
        while not succeeds(how, port):
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, f"{self.pod.owner}: {name} fails\n{self.log[-3000:]}"
            time.sleep(0.1)

    def stop(self) -> int:
        """Ask it to end as a kubelet does; return its exit code, that of SIGKILL when its grace is over."""
        slept = self.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        self.process.send_signal(signal.SIGTERM)
        return self.await_end(self.pod.spec["terminationGracePeriodSeconds"] - slept)

    def await_end(self, timeout_s: float = _JOB_S) -> int:
        """Wait for its end, kill it after the time it has; return its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Emulation:
    """The Jobs and Deployments of an overlay; one process stands for all replicas."""

    def __init__(self, objects: Objects, home: Path, secrets: Secrets, kernels: Path) -> None:
        self._objects, self._home, self._secrets, self._kernels = objects, home, secrets, kernels
        self._ports: dict[tuple[str, int], int] = {}
        self.containers: dict[str, Container] = {}
        for name, content in secrets.items():
            (home / name).mkdir(parents=True)
            for key, value in content.items():
                (home / name / key).write_bytes(value)

    def migrate(self) -> None:
        """Run the Jobs to their end."""
        for pod in self._pods("Job"):
            for spec in pod.containers:
                container = self._start(pod, spec)
                assert container.await_end() == 0, container.log[-3000:]

    def start(self) -> None:
        """Start the Deployments and wait until all their probes succeed."""
        for pod in self._pods("Deployment"):
            [spec] = pod.containers
            self.containers[pod.owner] = self._start(pod, spec)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for container in self.containers.values():
                if probe in container.spec:
                    container.await_probe(probe)

    def stop(self) -> dict[str, int]:
        """Stop what runs; return the exit codes."""
        return {name: container.stop() for name, container in reversed(self.containers.items())}

    def target(self, service: str) -> str:
        """Return host:port of a Service's pod."""
        found = self._objects.named("Service", service)
        assert found is not None, service
        return self._reached(service, found["spec"]["ports"][0]["port"])

    def value(self, owner: str, name: str) -> str:
        """Return a variable of a Deployment's container as the manifests have it."""
        value = self._objects.environment(self.containers[owner].spec)[name]
        assert value is not None, name
        return value

    def compiled(self, owner: str) -> set[str]:
        """Return the kernels a container compiled, which the image should have brought."""
        own = self._home / f"{owner}-{self.containers[owner].spec['name']}" / "tmp" / "numba"
        return {path.name for path in own.rglob("*.nbc")} - {path.name for path in self._kernels.rglob("*.nbc")}

    def _pods(self, kind: str) -> list[Pod]:
        owners = {one["metadata"]["name"] for one in self._objects.of(kind)}
        return [pod for pod in self._objects.pods() if pod.owner in owners]

    def _start(self, pod: Pod, spec: Object) -> Container:
        ports = {port: self._port(pod.owner, port) for port in pod.ports.values()}
        folder = self._home / f"{pod.owner}-{spec['name']}"
        (folder / "tmp").mkdir(parents=True)
        (folder / "app").mkdir(mode=0o555)
        log_file = folder / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [*_powerless(), "sh", str(self._entrypoint(folder)), *spec["args"]],
                env=_image_environment(folder / "tmp") | self._environment(pod, spec),
                cwd=folder / "app",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return Container(pod, spec, ports, process, log_file)

    def _entrypoint(self, folder: Path) -> Path:
        """Write the image's entrypoint, its kernels those of this machine."""
        script, kernels = folder / "entrypoint", "/opt/klinecast/kernels"
        text = (ROOT / "image" / "entrypoint").read_text()
        assert kernels in text
        script.write_text(text.replace(kernels, str(self._kernels)))
        return script

    def _environment(self, pod: Pod, spec: Object) -> dict[str, str]:
        found = {name: value for name, value in self._objects.environment(spec).items() if value is not None}
        found = {name: self._placed(pod, spec, value) for name, value in found.items()}
        for variable in spec.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                found[variable["name"]] = self._secrets[reference["name"]][reference["key"]].decode()
        return found

    def _placed(self, pod: Pod, spec: Object, value: str) -> str:
        """Return the value of a variable as it is on this machine."""
        if value.startswith("0.0.0.0:"):
            return f"127.0.0.1:{self._port(pod.owner, int(value.partition(':')[2]))}"
        if value.startswith("dns:///"):
            host, _, port = value.removeprefix("dns:///").partition(":")
            return f"dns:///{self._reached(host, int(port))}"
        secrets = {one["name"]: one["secret"]["secretName"] for one in pod.spec["volumes"] if "secret" in one}
        for mount in spec.get("volumeMounts", []):
            if mount["name"] in secrets and value.startswith(f"{mount['mountPath']}/"):
                return value.replace(mount["mountPath"], str(self._home / secrets[mount["name"]]))
        return value

    def _reached(self, service: str, port: int) -> str:
        """Return what a Service's port leads to, by its selector and its target port."""
        found = self._objects.named("Service", service)
        assert found is not None, service
        [target] = [one["targetPort"] for one in found["spec"]["ports"] if one["port"] == port]
        [pod] = [one for one in self._pods("Deployment") if found["spec"]["selector"].items() <= one.labels.items()]
        return f"localhost:{self._port(pod.owner, pod.ports.get(target, target))}"

    def _port(self, owner: str, port: int) -> int:
        if (owner, port) not in self._ports:
            self._ports[owner, port] = _free_port()
        return self._ports[owner, port]


def compile_kernels(folder: Path) -> None:
    """Do what the image does when it is built."""
    [program] = re.findall(r'bin/python" -c "(.*warm.*)"$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    variables = _image_environment(folder) | {"NUMBA_CACHE_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)


def _image_environment(scratch: Path) -> dict[str, str]:
    """Return the variables of the Dockerfile, its paths those of this machine, `scratch` its /tmp."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CACHE_DIR": str(scratch / "numba"),
    }


def _powerless() -> list[str]:
    """Return what takes from root the capabilities that pods drop: it writes no more where modes forbid it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def _free_port() -> int:
    """Return a port nobody listens at, below those that outgoing connections take."""
    for _ in range(100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := random.randrange(20_000, 32_000)))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def _grpc_answers(how: Mapping[str, Any], port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        request = health_pb2.HealthCheckRequest(service=how["service"])
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _page_answers(how: Mapping[str, Any], port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{how['path']}", timeout=1) as page:
            return bool(page.status == 200)
    except OSError:
        return False
