"""`rollback` and `verify`: one command back, and one that proves that both versions hold the same."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from pgduet import messages
from pgduet.cli import options
from pgduet.cli.faces import example_line, status_page
from pgduet.cli.session import DONE, FAILED, Screen, console, run
from pgduet.cli.words import times
from pgduet.client import Migrations
from pgduet.messages import Answer, Parity
from pgduet.phases import Phase
from pgduet.plan.load import load_plan
from pgduet.plan.models import Plan

LostPlan = Annotated[
    str | None, typer.Option("--plan", metavar="FILE", help="Its plan, where Temporal forgot the run.")
]


def rollback(
    name: options.Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Withdraw although new clients are left.")] = False,
    cascade: Annotated[bool, typer.Option("--cascade", help="Roll back later plans that build on it first.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the new version is withdrawn.")] = False,
    timeout: options.Timeout = None,
    plan: LostPlan = None,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Put everything back, from any phase before contract. Returns once the old version is in charge again."""
    abort = messages.Abort(force=force, cascade=cascade, actor=actor or options.os_user(), reason=reason)

    async def job(screen: Screen) -> None:
        given = _named_plan(plan, name)
        migrations = await Migrations.connect()
        answer = await migrations.rollback(name, abort, database=database, plan=given)
        screen.note(answer.message)
        where = given.database if given else database
        if wait:
            status = await migrations.wait(name, Phase.ROLLED_BACK, timeout, database=where, on_look=screen.follow)
        else:
            status = await migrations.wait_safe(name, database=where, timeout_s=timeout)
        screen.show(status_page(status, width=console().width, database=database), status.model_dump(mode="json"))

    run(job, as_json=as_json)


def verify(
    name: options.Name,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Give rows that differ what the authority says.")] = False,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare all rows of both versions now. Exit 1 when some differ; their keys are named."""
    act = messages.VerifyNow(repair=repair, actor=actor or options.os_user(), reason=reason)

    async def job(screen: Screen) -> int:
        migrations = await Migrations.connect()
        answer, status = await migrations.verify(name, act, database=database)
        parity = status.parity
        facts = answer.model_dump(mode="json") | {"parity": parity.model_dump(mode="json") if parity else None}
        screen.show(parity_page(name, answer, parity), facts)
        return FAILED if parity and (parity.mismatches or parity.off) else DONE

    run(job, as_json=as_json)


def parity_page(name: str, answer: Answer, parity: Parity | None) -> RenderableType:
    """Render a comparison, with the key of each row that differs."""
    if parity is None:
        return Text(answer.message)
    keys = [Text(f"  {example_line(example)}") for example in parity.examples]
    more = parity.mismatches - len(keys)
    if keys and more > 0:
        keys.append(Text(f"  … and {more:,} more"))
    counted = f"{times(parity.rows, 'row')} compared, {parity.mismatches:,} differ, {parity.repaired:,} repaired"
    cure = [Text(""), Text(f"next  pgduet verify {name} --repair   give them what the authority says")]
    off = [Text(f"  {each.told}") for each in parity.off]
    return Group(Text(counted), *keys, *off, *(cure if parity.mismatches else []))


def _named_plan(file: str | None, name: str) -> Plan | None:
    if file is None:
        return None
    plan = load_plan(Path(file)).plan
    if plan.name != name:
        message = f"{file} is the plan of `{plan.name}`, not of `{name}`"
        raise typer.BadParameter(message, param_hint="--plan")
    return plan
