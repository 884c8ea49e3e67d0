"""The compose file: valid, hardened, reachable from this machine only, and without a secret in it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.compose import COMPOSE, in_order, project, seconds

from pgduet.runtime import GRACE_S

SERVICES: dict[str, Any] = project()["services"]
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_it_is_what_the_compose_specification_says() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@every_service
def test_a_container_can_write_nowhere_and_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["CHOWN"] if name == "secrets" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108  (the container's)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert not service.get("privileged")


@every_service
def test_ports_are_open_to_this_machine_only_and_images_are_pinned(name: str) -> None:
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert re.search(r":[\w.-]+$", service["image"])
    assert not service["image"].endswith(":latest")


@every_service
def test_no_secret_is_in_an_environment_and_only_workers_get_an_address(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        assert "postgresql:" not in value
        assert variable.endswith(("_FILE", "_SECRETS")) or not re.search("PASSWORD|DSN|DATABASE_SHOP", variable)
    mounted = {each.split(":")[0] for each in service.get("volumes", []) if isinstance(each, str)}
    assert ("worker-secrets" in mounted) == (name in {"secrets", "worker"})
    assert ("database-secrets" in mounted) == (name in {"secrets", "postgres"})
    assert all(each.endswith(":ro") for each in service.get("volumes", []) if "-secrets:" in each and name != "secrets")


@every_service
def test_a_service_waits_for_what_its_neighbours_really_tell(name: str) -> None:
    for needed, facts in SERVICES[name].get("depends_on", {}).items():
        condition = facts["condition"]
        assert condition in {"service_healthy", "service_completed_successfully"}
        assert ("healthcheck" in SERVICES[needed]) == (condition == "service_healthy")


def test_a_worker_has_time_to_finish_its_batches() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= 2 * GRACE_S


@pytest.mark.parametrize("version", ["15", "16", "17", "18"])
def test_every_supported_postgresql_keeps_its_data_in_the_volume(version: str) -> None:
    service = project(POSTGRES_VERSION=version)["services"]["postgres"]
    assert service["image"] == f"docker.io/library/postgres:{version}-bookworm"
    assert service["environment"]["PGDATA"] == f"/var/lib/postgresql/{version}/docker"
    assert "postgres:/var/lib/postgresql" in service["volumes"]


def test_the_command_line_starts_only_when_it_is_asked_to() -> None:
    assert in_order(SERVICES) == ["secrets", "postgres", "temporal", "worker"]
