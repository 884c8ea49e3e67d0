"""`setup`, `check`, `start`, `schema`: what is done with a database or a plan file before a migration runs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from pgduet.cli import options
from pgduet.cli.check_face import check_page
from pgduet.cli.faces import status_page
from pgduet.cli.located import errors_located
from pgduet.cli.session import DONE, Screen, run
from pgduet.client import Migrations, Started, StillWaiting
from pgduet.describe import operation_line
from pgduet.messages import CheckResult, SetupResult, Status
from pgduet.phases import Phase
from pgduet.plan.checksum import checksum
from pgduet.plan.load import Located, load_plan
from pgduet.plan.schema import json_schema

Until = Annotated[Phase | None, typer.Option("--until", help="Wait until this phase is entered or passed.")]


def setup(
    database: Annotated[str, typer.Argument(metavar="DATABASE", help="The database's logical name.")],
    *,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Change nothing; print SQL and grants.")] = False,
    actor: options.Actor = "",
    as_json: options.AsJson = False,
) -> None:
    """Prepare a database. Creates pgduet's schema, and the search attributes in Temporal; safe to run again."""

    async def job(screen: Screen) -> None:
        migrations = await Migrations.connect()
        result = await migrations.setup(database, print_sql=print_sql, actor=actor or options.os_user())
        screen.show(_setup_page(result), result.model_dump(mode="json"))

    run(job, as_json=as_json)


def check(
    plan: options.PlanFile,
    *,
    policy: options.PolicyFile = None,
    database: Annotated[bool, typer.Option("--database", help="Ask the database's catalogue too.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Check a plan. Nothing is changed."""

    async def job(screen: Screen) -> int:
        located = _load(plan, policy)
        live = await _live(located) if database else None
        mark = checksum(located.plan)
        screen.show(check_page(located.plan, mark, live, plan), _check_facts(located, mark, live))
        return DONE

    run(job, as_json=as_json)


def start(
    plan: options.PlanFile,
    *,
    policy: options.PolicyFile = None,
    until: Until = None,
    timeout: options.Timeout = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Start a migration. One of the same plan that runs already is joined."""

    async def job(screen: Screen) -> None:
        located = _load(plan, policy)
        migrations = await Migrations.connect()
        with errors_located(located):
            started = await migrations.start(located.plan, actor=actor or options.os_user(), reason=reason)
            screen.note(_started_line(started))
            if until is None:
                status = await _settled(migrations, started)
            else:
                status = await migrations.wait(
                    started.name, until, timeout, database=started.database, on_look=screen.follow
                )
        _show_started(screen, started, status)

    run(job, as_json=as_json)


def schema(*, as_json: options.AsJson = False) -> None:
    """Print the JSON Schema of plan files. For editors and other tools."""
    typer.echo(json.dumps(json_schema(), indent=None if as_json else 2, ensure_ascii=False))


def _load(plan: str, policy: str | None) -> Located:
    return load_plan(Path(plan), Path(policy) if policy else None)


async def _live(located: Located) -> CheckResult:
    migrations = await Migrations.connect()
    with errors_located(located):
        return await migrations.check(located.plan)


async def _settled(migrations: Migrations, started: Started) -> Status | None:
    """Look how preflight went, for a while; the migration runs on in any case."""
    try:
        return await migrations.begun(started.name, started.database)
    except StillWaiting as late:
        return late.status


def _show_started(screen: Screen, started: Started, status: Status | None) -> None:
    if status is None:
        screen.note("no worker answers yet: start one with `pgduet worker`")
    facts: dict[str, Any] = {
        "name": started.name,
        "database": started.database,
        "workflow_id": started.workflow_id,
        "plan_checksum": started.checksum,
        **(status.model_dump(mode="json") if status else {}),
        "run_id": started.run_id,
        "joined": started.joined,
    }
    screen.show(status_page(status) if status else Text(f"next  pgduet status {started.name}"), facts)


def _started_line(started: Started) -> str:
    if not started.joined:
        return f"started {started.workflow_id}"
    if started.done:
        return f"{started.name} is done: this plan has been carried out"
    policy = "" if started.same_policy else "; it keeps the policy that it was started with"
    return f"joined {started.workflow_id}, which runs with the same plan{policy}"


def _setup_page(result: SetupResult) -> Group | Text:
    if result.sql is not None:
        return Text(result.sql)
    lines = [Text(f"  {line}") for line in result.done or ["nothing was missing"]]
    return Group(Text(f"{result.database} is ready"), *lines, "", Text("next  pgduet check PLAN --database"))


def _check_facts(located: Located, mark: str, live: CheckResult | None) -> dict[str, Any]:
    plan = located.plan
    return {
        "ok": True,
        "name": plan.name,
        "database": plan.database,
        "version": {"from": plan.version.from_, "to": plan.version.to},
        "checksum": mark,
        "operations": [operation_line(operation) for operation in plan.operations],
        "live": live is not None,
        "hazards": live.hazards if live else [],
        "estimate": live.estimate if live else {},
        "standing": live.standing if live else None,
    }
