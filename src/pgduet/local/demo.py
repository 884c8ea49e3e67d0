"""`pgduet demo`: real data, live traffic, one whole migration with one rollback on the way, and the proof that nothing was lost.

Starts PostgreSQL, Temporal with its UI and a worker, each a process of its own, on fresh data; tells the story (`story.py`);
prints the closing table. Exit code 0 only if all of it held: no client error, no drift, every acknowledged write found, rows
counted, audit log verified. Ctrl-C ends everything in order at any moment.

Limit: the data are thrown away, so PostgreSQL runs without fsync; the stalls that are shown are locks and processors, not
the disk of this machine.
"""

import asyncio
import secrets
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from rich.console import Console

from pgduet.cli.reporting import rendered
from pgduet.cli.session import console as make_console
from pgduet.client import Migrations
from pgduet.errors import PgduetError
from pgduet.local.flights import load_flights
from pgduet.local.postgres import EmbeddedPostgres
from pgduet.local.servers import LocalWorker, Temporal, database_variable, temporal
from pgduet.local.stopping import interruptible
from pgduet.local.story import Stage, Story
from pgduet.local.verdict import Verdict, closing, stalls
from pgduet.messages import workflow_id
from pgduet.plan.load import load_plan
from pgduet.plan.models import Plan
from pgduet.report.facts import Report
from pgduet.report.pages import answer

PLAN = Path("examples", "flights", "plan.yaml")
KEPT = Path(".pgduet")
"""Where the report stays when the data are gone."""
INTERRUPTED = 130
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
}
_STALL_MS = 200.0


@dataclass(frozen=True, slots=True)
class Servers:
    """What runs, and where."""

    dsn: str
    temporal: Temporal
    queue: str
    logs: Path


def main(keep: bool = False) -> int:  # noqa: FBT001, FBT002  the one flag of a command
    """Run the demo; gives the exit code."""
    console = make_console()
    plan = load_plan(find_plan()).plan
    code = INTERRUPTED
    with interruptible() as ending:
        try:
            with ExitStack() as stack:
                servers = start(stack, plan, console)
                verdict, told = asyncio.run(_told(servers, plan, console))
                if told:
                    page = keep_report(told, KEPT)
                    console.print(f"\n{answer(told)}\n  the whole report: {page}, .md beside it", soft_wrap=True)
                code = 0 if verdict.holds else 1
                _close(verdict, servers, console)
                if keep:
                    stay(servers, plan, console)
                ending()
        except KeyboardInterrupt:
            console.print("everything is ended")
    return code


def find_plan() -> Path:
    """Find the demo's plan: in the clone that this package is installed from, or below the working directory."""
    here = Path(__file__).resolve()
    for root in (*here.parents, Path.cwd()):
        if (root / PLAN).is_file():
            return root / PLAN
    message = f"The demo's plan {PLAN} is not there."
    raise PgduetError(message, hint="Run the demo in a clone of the repository: `make demo`.")


def start(stack: ExitStack, plan: Plan, console: Console) -> Servers:
    """Start everything, on fresh data; the stack ends it."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgduet-demo-")))
    say(f"pgduet demo: one migration of real data under live traffic, with one rollback on the way ({plan.name})")
    postgres = stack.enter_context(EmbeddedPostgres(settings=_SETTINGS))
    dsn = _create(postgres, plan.database)
    say(f"  PostgreSQL {postgres.version}   {dsn}")
    server = stack.enter_context(temporal(say))
    say(f"  Temporal        {server.address}" + (f"   UI {server.ui}" if server.ui else ""))
    queue = f"pgduet-demo-{secrets.token_hex(4)}"
    addresses = {"TEMPORAL_ADDRESS": server.address, database_variable(plan.database): dsn}
    stack.enter_context(LocalWorker(addresses, queue=queue, log_path=logs / "worker.log"))
    rows = asyncio.run(load_flights(dsn))
    say(f"  data            {rows:,} flights that left New York City in 2013")
    link = server.workflow_link(workflow_id(plan.database, plan.name))
    if link:
        say(f"  the workflow    {link}")
    return Servers(dsn, server, queue, logs)


def stay(servers: Servers, plan: Plan, console: Console) -> None:
    """Leave the servers up until Ctrl-C, and say how to look at them."""
    console.print("\nthe servers stay up until Ctrl-C; in another shell:", soft_wrap=True)
    console.print(f"  export TEMPORAL_ADDRESS={servers.temporal.address} PGDUET_TASK_QUEUE={servers.queue}")
    console.print(f"  pgduet status {plan.name}")
    console.print(f"  psql {servers.dsn}")
    if servers.temporal.ui:
        console.print(f"  {servers.temporal.workflow_link(workflow_id(plan.database, plan.name))}", soft_wrap=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("everything is ended")


async def _told(servers: Servers, plan: Plan, console: Console) -> tuple[Verdict, Report | None]:
    migrations = await Migrations.connect(servers.temporal.address, task_queue=servers.queue)
    stage = Stage(servers.dsn, plan, migrations, console, servers.logs / "traffic.log")
    verdict = await Story(stage).run()
    try:
        return verdict, await migrations.report(plan.name, plan.database)
    except PgduetError as wrong:
        verdict.failures.append(f"no report: {wrong}")
        return verdict, None


def keep_report(report: Report, folder: Path) -> Path:
    """Write the report as HTML and as Markdown, to stay when the data are gone; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder.resolve() / f"report-{report.facts.name}.html"
    page.write_text(rendered(report, as_html=True), encoding="utf-8")
    page.with_suffix(".md").write_text(rendered(report, as_html=False), encoding="utf-8")
    return page


def _close(verdict: Verdict, servers: Servers, console: Console) -> None:
    console.print(closing(verdict))
    report = verdict.report
    if report and max(group.stall_ms for group in report.groups.values()) > _STALL_MS:
        console.print("the slowest statements:\n" + stalls(report), soft_wrap=True)
    if not verdict.holds:
        lines = (servers.logs / "worker.log").read_text(errors="replace").splitlines()[-15:]
        console.print("the worker's last lines:\n" + "\n".join(lines), soft_wrap=True)


def _create(postgres: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(postgres.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres.dsn(name)


if __name__ == "__main__":
    raise SystemExit(main())
