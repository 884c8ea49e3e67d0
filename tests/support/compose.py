"""The compose file, read; and what stands in for a container engine where there is none: this machine.

Mechanism: volumes become directories, configurations files, published ports free ones, addresses of services addresses of this
machine; all that, and nothing else, is put in the place of what the compose file says. A process starts with the variables that
the image and the compose file give it, and with no other.
Limits: no limits of resources, no read-only root, no dropped capabilities; one address for all services.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pgduet.local.ports import free_ports
from support.image import ROOT, Image

COMPOSE = ROOT / "deploy" / "compose.yaml"
UNITS_S = {"s": 1.0, "m": 60.0}
PATIENCE_S = 60.0
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")

Facts = dict[str, Any]


def project(**variables: str) -> Facts:
    """Read the compose file; `${NAME:-default}` is the only form of a variable in it."""
    text = re.sub(r"^ *#.*$", "", COMPOSE.read_text(), flags=re.MULTILINE)
    filled = _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2], text)
    assert "$" not in filled
    read: Facts = yaml.safe_load(filled)
    return read


def seconds(duration: str) -> float:
    """Read a duration."""
    return float(duration[:-1]) * UNITS_S[duration[-1]]


def in_order(services: Mapping[str, Facts]) -> list[str]:
    """Give the services that start by themselves, each behind those that it depends on."""
    placed: list[str] = []

    def place(name: str) -> None:
        for needed in services[name].get("depends_on", {}):
            place(needed)
        if name not in placed:
            placed.append(name)

    for name, service in services.items():
        if not service.get("profiles"):
            place(name)
    return placed


class Machine:
    """This machine in place of an engine: `programs` says where commands are, `accounts` who stands for a container's user."""

    def __init__(
        self, scratch: Path, programs: Mapping[str, Path], accounts: Mapping[str, int], **variables: str
    ) -> None:
        self.facts = project(**variables)
        self.services: dict[str, Facts] = self.facts["services"]
        self.image = Image()
        self.programs = programs
        self.accounts = accounts
        self.scratch = scratch
        self.ports = dict(self._ports())

    def _ports(self) -> Iterator[tuple[tuple[str, str], int]]:
        """Choose a port for each that a service listens on; the worker's probes are not published."""
        listening = [(name, each) for name, service in self.services.items() for each in service.get("ports", [])]
        wanted = [(name, published.rpartition(":")[2]) for name, published in listening]
        wanted.append(("worker", self.image.environment()["PGDUET_HEALTH"].rpartition(":")[2]))
        return zip(wanted, free_ports(len(wanted)), strict=True)

    def mounts(self, name: str) -> dict[str, Path]:
        """Tell what stands at which place in a container."""
        service = self.services[name]
        found: dict[str, Path] = {}
        for each in service.get("volumes", []):
            if isinstance(each, str):
                volume, target = each.split(":")[:2]
                assert volume in self.facts["volumes"]
                found[target] = self.scratch / "volumes" / volume
                found[target].mkdir(parents=True, exist_ok=True)
            else:
                found[each["target"]] = (COMPOSE.parent / each["source"]).resolve()
        for each in service.get("configs", []):
            found[each["target"]] = self.scratch / "configs" / name / each["source"]
        return found

    def write_configs(self, name: str) -> None:
        """Write a service's configurations, with the addresses of this machine."""
        for each in self.services[name].get("configs", []):
            source = COMPOSE.parent / self.facts["configs"][each["source"]]["file"]
            target = self.mounts(name)[each["target"]]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self.local(name, source.read_text()))

    def local(self, name: str, text: str) -> str:
        """Put this machine's places and addresses in the place of the container's."""
        for target, here in sorted(self.mounts(name).items(), key=lambda each: -len(each[0])):
            text = text.replace(target, str(here))
        for (service, port), here in self.ports.items():
            text = re.sub(rf"\b{service}:{port}\b", f"127.0.0.1:{here}", text)
            if service == name:
                text = re.sub(rf"(?<![\w.]){port}\b", str(here), text)
        return text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104

    def environment(self, name: str) -> dict[str, str]:
        """Give a container's variables, and no other."""
        service = self.services[name]
        given: dict[str, str] = service.get("environment", {})
        if "build" in service:
            given = self.image.environment() | given
        local = {key: self.local(name, value) for key, value in given.items() if key != "PATH"}
        users = {key: str(self.accounts.get(value, value)) for key, value in local.items() if key.endswith("_USER")}
        path = ":".join(dict.fromkeys(str(each.parent) for each in self.programs.values()))
        return {"HOME": "/nonexistent", "PATH": f"{path}:/usr/bin:/bin"} | local | users

    def command(self, name: str, *instead: str) -> list[str]:
        """Give the command of a container: its entry point, and what it says or is said instead."""
        service = self.services[name]
        entry = service.get("entrypoint") or (self.image.final("ENTRYPOINT").exec_form if "build" in service else [])
        program, *words = [*entry, *(instead or service["command"])]
        return [str(self.programs.get(program, program)), *(self.local(name, word) for word in words)]

    def who(self, name: str) -> dict[str, Any]:
        """Tell `subprocess` whose process it is; only root can start one of another account."""
        service = self.services[name]
        user = service.get("user") or (self.image.final("USER").value.split(":")[0] if "build" in service else "root")
        number = self.accounts.get(user)
        if os.geteuid() != 0 or number is None:
            return {}
        return {"user": number, "group": number, "extra_groups": []}

    def run(self, name: str, *instead: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        return subprocess.run(
            self.command(name, *instead),
            env=self.environment(name),
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * PATIENCE_S,
            cwd=self.local(name, self.image.final("WORKDIR").value) if "build" in self.services[name] else "/",
            **self.who(name),
            **options,
        )

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a container."""
        with self.log(name).open("wb") as out:
            return subprocess.Popen(
                self.command(name), env=self.environment(name), stdout=out, stderr=out, cwd="/", **self.who(name)
            )

    def log(self, name: str) -> Path:
        """Give the file in which a container's output is."""
        return self.scratch / f"{name}.log"

    def wait_healthy(self, name: str, process: subprocess.Popen[bytes] | None) -> None:
        """Ask a service's own health check until it passes."""
        service = self.services[name]
        test = service["healthcheck"]["test"] if "healthcheck" in service else None
        form, program, *words = test or ["CMD", *self.image.final("HEALTHCHECK").exec_form]
        assert form == "CMD"
        command = [str(self.programs[program]), *(self.local(name, word) for word in words)]
        ends = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(
                command,
                env=self.environment(name),
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                **self.who(name),
            )
            if done.returncode == 0:
                return
            told = f"{done.stdout}{done.stderr}{self.log(name).read_text() if self.log(name).exists() else ''}"
            assert process is None or process.poll() is None, told
            assert time.monotonic() < ends, told
            time.sleep(0.1)
