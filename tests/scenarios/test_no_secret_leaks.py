"""Law 7: a database's password is nowhere but where the worker was given it.

A whole migration on a server that really asks for a password, with every failure that could carry it along: a wrong password, an
address that cannot be parsed, a server that goes away, rows and expressions that fail. Then everything that was said or stored is
searched: Temporal's histories, answers and file, telemetry, all output at the most talkative levels, PostgreSQL's log, a dump.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import yaml
from google.protobuf.json_format import MessageToJson
from psycopg import sql
from support import leaks
from support.collector import Collector
from support.plans import NAME, create_reviews, plan
from support.processes import within
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryRequest
from temporalio.client import Client

from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.messages import workflow_id

MARKS = ("Hx9vQ2Lw", "Jd8kX4Tn", "Kt5mZ8Rb")
WRONG_MARKS = ("Wn3cY7Pd", "Rq2hM9Zs", "Gf6sB1Vj")
BETWEEN = (""" p%40ss/""", """/w:rd'"\\ """)
"""A blank on either side: who cannot parse an address quotes the words of it that he does not understand."""
PASSWORD = leaks.marked(MARKS, BETWEEN)
WRONG = leaks.marked(WRONG_MARKS, BETWEEN)
LOOKED_FOR = leaks.forms(PASSWORD, *MARKS) | leaks.forms(WRONG, *WRONG_MARKS)

ROLE = "leaky"
LONG_S = 90.0
TALKATIVE = {
    "fsync": "off",
    "jit": "off",
    "log_statement": "all",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_error_verbosity": "verbose",
    "log_min_messages": "debug1",
    "log_line_prefix": "%m [%p] %a %u@%d %r ",
}
WHO_IS_ASKED = f"local all all trust\nhost all {ROLE} all scram-sha-256\nhost all all 127.0.0.1/32 trust\n"

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Give a server that asks one role for its password, and logs all it can."""
    with EmbeddedPostgres(settings=TALKATIVE) as own:
        with psycopg.connect(own.dsn(), autocommit=True) as admin:
            admin.execute("SET log_statement = 'none'")
            role = sql.Identifier(ROLE)
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
            admin.execute(sql.SQL("CREATE DATABASE shop OWNER {}").format(role))
            admin.execute(
                sql.SQL("GRANT SET ON PARAMETER deadlock_timeout, session_replication_role TO {}").format(role)
            )
            (own.data_dir / "pg_hba.conf").write_text(WHO_IS_ASKED)
            admin.execute("SELECT pg_reload_conf()")
        yield own


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[LocalTemporal]:
    """Give a Temporal server whose file can be searched."""
    with LocalTemporal(ui=False, db_file=tmp_path / "temporal.db") as own:
        yield own


class Scene:
    """A worker that knows the password, people who do not, and what all of them said."""

    def __init__(self, server: EmbeddedPostgres, temporal: LocalTemporal, collector: Collector, scratch: Path) -> None:
        self.server = server
        self.temporal = temporal
        self.collector = collector
        self.scratch = scratch
        self.said: dict[str, bytes] = {}
        self.address = scratch / "shop.dsn"
        self.config = scratch / "pgduet.toml"
        self.config.write_text(f'[databases.shop]\ndsn_file = "{self.address}"\n')
        self.everybody = os.environ | collector.environment("traces", "logs", "metrics")
        self.everybody |= {
            "TEMPORAL_ADDRESS": temporal.address,
            "PGDUET_LOG": "DEBUG",
            "PGDUET_CONFIG": str(scratch / "none.toml"),
        }
        self.worker: subprocess.Popen[bytes] | None = None
        self.workers = 0

    def url(self, password: str) -> str:
        return f"postgresql://{ROLE}:{quote(password, safe='')}@127.0.0.1:{self.server.port}/shop"

    def words(self, password: str, *, quoted: bool = True) -> str:
        escaped = password.replace("\\", "\\\\").replace("'", "\\'")
        told = f"'{escaped}'" if quoted else password
        return f"host=127.0.0.1 port={self.server.port} user={ROLE} dbname=shop password={told}"

    @property
    def log(self) -> Path:
        return self.scratch / f"worker-{self.workers}.log"

    def start_worker(self, **environment: str) -> None:
        self.workers += 1
        command = [sys.executable, "-m", "pgduet.cli.main", "worker"]
        with self.log.open("wb") as out:
            self.worker = subprocess.Popen(command, env=self.everybody | environment, stdout=out, stderr=out)
        assert within(LONG_S, lambda: b"worker on task queue" in self.log.read_bytes()), self.log.read_text()

    def end_worker(self) -> None:
        assert self.worker is not None
        self.worker.send_signal(signal.SIGTERM)
        assert self.worker.wait(LONG_S) == 0, self.log.read_text()[-3000:]
        self.worker = None
        self.said[self.log.name] = self.log.read_bytes()

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pgduet.cli.main", *words]
        return subprocess.Popen(
            command, env=self.everybody, cwd=self.scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def end(self, process: subprocess.Popen[bytes], code: int = 0) -> str:
        told, _ = process.communicate(timeout=2 * LONG_S)
        self.said[f"{len(self.said)} {' '.join(map(str, process.args[3:]))}"] = told  # type: ignore[index]
        assert process.returncode == code, told.decode()
        return told.decode()

    def cli(self, *words: str, code: int = 0) -> str:
        return self.end(self.begin(*words), code)

    def as_shop(self, statement: str) -> None:
        with psycopg.connect(self.server.dsn("shop"), autocommit=True) as conn:
            conn.execute(statement.encode())


@pytest.fixture
async def scene(server: EmbeddedPostgres, recorder: LocalTemporal, tmp_path: Path) -> AsyncIterator[Scene]:
    with Collector() as collector:
        made = Scene(server, recorder, collector, tmp_path)
        async with await psycopg.AsyncConnection.connect(server.dsn("shop"), autocommit=True) as conn:
            await conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(ROLE)))
            await create_reviews(conn, 2_000)
            await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 1999")
        for name, written in {
            "plan.yaml": plan(gates={"contract": "auto"}),
            "bad.yaml": plan({"add_column": bad_column()}, name="bad"),
        }.items():
            (tmp_path / name).write_text(yaml.safe_dump(written))
        yield made
        if made.worker is not None:
            made.worker.kill()
            made.worker.wait()


def bad_column() -> dict[str, Any]:
    return {"table": "public.reviews", "column": {"name": "sum", "type": "int", "up": "no_such_function(rating)"}}


def wrong_addresses(scene: Scene) -> None:
    """Set up while the password is wrong, the address cannot be parsed, or stands in the wrong place; then correct it."""
    scene.address.write_text(scene.words(PASSWORD, quoted=False))
    scene.cli("setup", "shop", "--json", code=1)
    scene.config.write_text(f"[databases.shop]\ndsn_file = {json.dumps(scene.url(PASSWORD))}\n")
    scene.cli("setup", "shop", code=1)
    scene.config.write_text(f'[databases.shop]\ndsn_file = "{scene.address}"\n')
    scene.address.write_text(scene.url(WRONG))
    waiting = scene.begin("setup", "shop")
    asked = f'password authentication failed for user "{ROLE}"'.encode()
    assert within(LONG_S, lambda: asked in scene.server.log_path.read_bytes())
    scene.address.write_text(scene.url(PASSWORD))
    scene.end(waiting)


async def last_failure(scene: Scene) -> str:
    """Read what the last try of an activity of the migration failed with."""
    client = await Client.connect(scene.temporal.address)
    described = await client.get_workflow_handle(workflow_id("shop", NAME)).describe()
    return " ".join(each.last_failure.message for each in described.raw_description.pending_activities)


def to_soak_through_failures(scene: Scene) -> None:
    """Let an expression, a row and the server fail on the way to soak."""
    assert "CREATE" in scene.cli("setup", "shop", "--print-sql")
    scene.cli("check", "bad.yaml", "--database", code=1)
    scene.cli("start", "bad.yaml", "--json", code=1)
    scene.cli("check", "plan.yaml", "--database", "--json")
    scene.cli("start", "plan.yaml")
    assert within(LONG_S, lambda: '"kind": "error"' in scene.cli("status", NAME, "--json"))
    scene.as_shop("UPDATE public.reviews SET rating = '5' WHERE id = 1999")
    scene.cli("advance", NAME)
    scene.cli("wait", NAME, "--phase", "soak", "--timeout", str(LONG_S))
    scene.server.stop()
    verifying = scene.begin("verify", NAME, "--json")
    assert within(LONG_S, lambda: "SQLSTATE none: the connection" in asyncio.run(last_failure(scene)))
    scene.server.start()
    scene.end(verifying)


async def everything(scene: Scene) -> dict[str, bytes]:
    """Collect all that was said or stored."""
    places = dict(scene.said)
    client = await Client.connect(scene.temporal.address)
    async for execution in client.list_workflows():
        name = f"{execution.id} {execution.run_id}"
        described = await client.workflow_service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution.raw_info.execution)
        )
        places[f"description of {name}"] = leaks.laid_open(described, MessageToJson(described))
        history = await client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(namespace=client.namespace, execution=execution.raw_info.execution)
        )
        assert not history.next_page_token
        places[f"history of {name}"] = leaks.laid_open(history, MessageToJson(history))
        if execution.workflow_type == "Migration" and execution.id.endswith(NAME):
            handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
            for query in ("status", "plan", "next_commands", "__temporal_workflow_metadata"):
                places[f"{query} of {name}"] = str(await handle.query(query)).encode()
    command = [scene.server.bin_dir / "pg_dump", scene.server.dsn("shop")]
    dump = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    places["dump"] = dump.stdout
    places["telemetry"] = bytes(scene.collector.raw)
    places["PostgreSQL's log"] = scene.server.log_path.read_bytes()
    return places


@pytest.mark.early
async def test_the_password_is_nowhere_but_with_the_worker(scene: Scene) -> None:
    scene.start_worker(PGDUET_CONFIG=str(scene.config))
    await asyncio.to_thread(wrong_addresses, scene)
    await asyncio.to_thread(to_soak_through_failures, scene)
    await asyncio.to_thread(scene.cli, "rollback", NAME, "--wait", "--reason", "to see it")
    scene.end_worker()

    scene.start_worker(PGDUET_DATABASE_SHOP=scene.words(PASSWORD))
    await asyncio.to_thread(scene.cli, "start", "plan.yaml", "--until", "soak", "--timeout", str(LONG_S), "--json")
    await asyncio.to_thread(scene.cli, "advance", NAME)
    await asyncio.to_thread(scene.cli, "wait", NAME, "--phase", "done", "--timeout", str(LONG_S), "--json")
    await asyncio.to_thread(scene.cli, "status")
    await asyncio.to_thread(scene.cli, "audit", "export", "shop")
    places = await everything(scene)
    scene.end_worker()
    places |= scene.said | {"telemetry": bytes(scene.collector.raw)}
    scene.temporal.stop()
    places |= {path.name: path.read_bytes() for path in scene.scratch.glob("temporal.db*")}

    speaking = [
        name for name in places if "worker-" in name or "of migration/" in name or name.startswith("temporal.db")
    ]
    for name in ("dump", "telemetry", "PostgreSQL's log", *speaking):
        assert NAME.encode() in places[name] or b"bad" in places[name], f"{name} says nothing of the migration"
    assert b'"kind": "error"' in b"".join(places.values())
    assert leaks.found(LOOKED_FOR, places) == {}


@pytest.mark.parametrize("password", [PASSWORD, WRONG])
def test_the_search_finds_a_password_in_every_form(password: str) -> None:
    quoted = quote(password, safe="")
    neighbours = [f"{'a' * count}{text}z".encode() for count in range(3) for text in (password, quoted)]
    texts = [
        *(
            quoted,
            json.dumps(password),
            repr(password),
            sql.Literal(password).as_string(None),
            password[5:],
            password[:-5],
        ),
        *(leaks.base64.b64encode(each).decode() for each in neighbours),
        *(leaks.base64.urlsafe_b64encode(each).decode() for each in neighbours),
        *(each.hex() for each in neighbours),
    ]
    assert [text for text in texts if not leaks.found(LOOKED_FOR, {"": text.encode()})] == []
