"""`pgduet dev`: one line of JSON once all are up, servers that really answer, and nothing left after SIGTERM."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgduet.client import Migrations


@pytest.fixture
def here() -> Iterator[Path]:
    """Give a working directory that the server's own account can reach, as pytest's are for their owner only."""
    path = Path(tempfile.mkdtemp(prefix="pgduet-dev-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own server
        return bytes(answer.read()).decode()


@contextmanager
def running(here: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run `pgduet dev --json` for the block; gives its process and its line."""
    inherited = {name: value for name, value in os.environ.items() if name != "TEMPORAL_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-m", "pgduet.cli.main", "dev", "--json", *options],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | environment,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


async def test_everything_answers_and_ends_at_sigterm(here: Path) -> None:
    with running(here, "--name", "shop") as (process, facts):
        assert set(facts) == {"temporal", "ui", "console", "dsn"}
        assert facts["console"] is None
        assert "<html" in await asyncio.to_thread(get, facts["ui"])
        migrations = await Migrations.connect(facts["temporal"], task_queue="pgduet")
        found = await migrations.setup("shop")
        assert any("schemas pgduet" in line for line in found.done)
        with psycopg.connect(facts["dsn"], autocommit=True) as conn:
            assert conn.execute("SELECT to_regclass('pgduet.audit')").fetchone() != (None,)
            conn.execute("CREATE TABLE kept (id int)")
        process.send_signal(signal.SIGTERM)
        rest, complaints = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, ""), complaints
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(facts["dsn"], connect_timeout=5)
    assert (here / ".pgduet" / "temporal.db").exists()


def test_what_was_stored_is_there_again_at_the_next_start(here: Path) -> None:
    with running(here, "--no-worker") as (_, facts), psycopg.connect(facts["dsn"], autocommit=True) as conn:
        conn.execute("CREATE TABLE kept (id int)")
    with running(here, "--no-worker") as (_, facts), psycopg.connect(facts["dsn"]) as conn:
        assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_parts_that_are_left_out_are_null_and_ctrl_c_is_a_clean_end(here: Path) -> None:
    with running(here, "--no-postgres", "--no-worker") as (process, facts):
        assert facts["dsn"] is None
        assert facts["temporal"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_server_that_ends_by_itself_ends_all_with_an_error(here: Path) -> None:
    with running(here, "--no-worker") as (process, facts):
        with psycopg.connect(facts["dsn"]) as conn:
            folder = conn.execute("SHOW data_directory").fetchone()
        assert folder is not None
        postmaster = int((Path(folder[0]) / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "PostgreSQL has ended by itself" in process.stderr.read()


def test_a_temporal_address_at_which_nobody_answers_is_an_error(here: Path) -> None:
    command = [sys.executable, "-m", "pgduet.cli.main", "dev", "--no-postgres", "--no-worker"]
    told = os.environ | {"TEMPORAL_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(command, cwd=here, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Temporal server answers at 127.0.0.1:1" in done.stderr
    assert "unset it" in done.stderr
