"""The Temporal dev server: found or built in the stated order, answers once started, leaves nothing behind."""

import asyncio
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.processes import is_gone, within
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client, WorkflowHandle

from pgduet.errors import ServerMissing
from pgduet.local import SEARCH_ATTRIBUTES, LocalTemporal, find_temporal, resolve_address, temporal, temporal_binary
from pgduet.local.ports import free_ports

HOLDER = """
import time
from pgduet.local import LocalTemporal
server = LocalTemporal(ui=False)
server.start()
print(server.pid, server._own_dir, flush=True)
time.sleep(600)
"""


def get(url: str | None) -> str:
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
        return bytes(answer.read()).decode()


def program(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def started_workflow(server: LocalTemporal) -> WorkflowHandle[object, object]:
    client = await Client.connect(server.address, namespace=server.namespace)
    return await client.start_workflow("Nothing", id="w", task_queue="none")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a machine with nothing: an empty PATH, an empty cache, and no way to download."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PGDUET_CACHE", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path


async def test_the_shared_server_answers_and_knows_our_search_attributes(temporal: LocalTemporal) -> None:
    client = await Client.connect(temporal.address)
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
    assert set(SEARCH_ATTRIBUTES) <= set(listed.custom_attributes)
    assert temporal.ui_url is None


async def test_ui_metrics_and_a_namespace_of_choice_are_served() -> None:
    with LocalTemporal(namespace="mine", search_attributes=False) as server:
        client = await Client.connect(server.address, namespace="mine")
        listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="mine"))
        assert not set(SEARCH_ATTRIBUTES) & set(listed.custom_attributes)
        assert "<html" in await asyncio.to_thread(get, server.ui_url)
        assert "# TYPE" in await asyncio.to_thread(get, server.metrics)


async def test_two_servers_run_side_by_side() -> None:
    with LocalTemporal(ui=False) as one, LocalTemporal(ui=False) as other:
        await started_workflow(one)
        await started_workflow(other)
        assert one.address != other.address


def test_leaving_the_block_leaves_no_process_and_no_file() -> None:
    with LocalTemporal(ui=False) as server:
        pid, directory = server.pid, server._own_dir
    assert pid is not None
    assert is_gone(pid)
    assert directory is not None
    assert not directory.exists()


async def test_a_crashed_server_with_a_file_comes_back_at_the_same_address(tmp_path: Path) -> None:
    with LocalTemporal(ui=False, db_file=tmp_path / "temporal.db") as server:
        address = server.address
        handle = await started_workflow(server)
        server.kill()
        server.start()
        assert server.address == address
        assert (await handle.describe()).id == "w"


def test_ports_that_were_taken_meanwhile_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalTemporal(ui=False) as first:
        answers = iter([first._ports, free_ports(4)])
        monkeypatch.setattr(temporal, "free_ports", lambda _: next(answers))
        with LocalTemporal(ui=False) as second:
            assert second.address != first.address


def test_an_address_before_the_start_is_an_error() -> None:
    with pytest.raises(ServerMissing, match="not been started"):
        _ = LocalTemporal().address


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_when_its_starter_is_killed(signal_number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid, directory = holder.stdout.readline().split()
        holder.send_signal(signal_number)
        assert within(15, lambda: is_gone(int(pid)))
        assert within(5, lambda: not Path(directory).exists())


def test_the_users_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    assert resolve_address() == "temporal.example:7233"
    monkeypatch.setenv("TEMPORAL_ADDRESS", "")
    assert resolve_address() is None
    monkeypatch.delenv("TEMPORAL_ADDRESS")
    assert resolve_address() is None


def test_the_command_on_the_path_comes_first_then_the_cached_one(bare: Path) -> None:
    cached = program(bare / "cache" / "bin" / "temporal")
    assert find_temporal() == cached
    on_path = program(bare / "path" / "temporal")
    assert find_temporal() == on_path


def test_the_sdks_download_comes_before_a_build(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare / "path" / "go", "exit 1")

    def succeeds(command: list[str], **_: object) -> bool:
        assert command[1:3] == ["-m", "pgduet.local.sdk_download"]
        program(Path(command[3]) / "temporal-sdk-python-1.0.0")
        return True

    monkeypatch.setattr(temporal_binary, "_succeeds", succeeds)
    assert find_temporal() == bare / "cache" / "bin" / "temporal"
    assert (bare / "cache" / "bin" / "temporal").is_file()


def test_go_builds_the_stated_version_into_the_cache_and_only_once(bare: Path) -> None:
    build = f'[ "$1 $2" = "install {temporal_binary.GO_PACKAGE}" ] && /bin/cp "$0" "$GOBIN/temporal"'
    program(bare / "path" / "go", build)
    said: list[str] = []
    cached = bare / "cache" / "bin" / "temporal"
    assert find_temporal(said.append) == cached
    assert [line for line in said if "few minutes" in line] == said[1:]
    assert sorted(each.name for each in cached.parent.iterdir()) == ["temporal", "temporal.lock"]
    assert find_temporal(said.append) == cached
    assert len(said) == 2


def test_a_program_that_does_not_finish_in_time_counts_as_failed(tmp_path: Path) -> None:
    slow = program(tmp_path / "slow", "exec sleep 60")
    assert not temporal_binary._succeeds([str(slow)], limit_s=0.2)


def test_a_machine_with_nothing_gets_one_error_that_names_the_four_ways(bare: Path) -> None:
    with pytest.raises(ServerMissing) as caught, LocalTemporal():
        pass
    for way in ("TEMPORAL_ADDRESS", "PATH", "download", "go install github.com/temporalio/cli/cmd/temporal@v1.5.1"):
        assert way in str(caught.value)
    assert not (bare / "cache" / "bin" / "temporal").exists()


def test_a_program_that_is_no_temporal_server_is_reported_with_its_own_words(bare: Path) -> None:
    program(bare / "path" / "temporal", "echo wrong tool; exit 3")
    with pytest.raises(ServerMissing, match="wrong tool"), LocalTemporal(ui=False):
        pass
