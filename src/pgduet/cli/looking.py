"""`status` and `wait`: where migrations stand."""

from typing import Annotated

import typer

from pgduet.cli import options
from pgduet.cli.faces import migrations_table, status_page
from pgduet.cli.progress import watch
from pgduet.cli.session import DONE, FAILED, Screen, console, run
from pgduet.client import Look, Migrations
from pgduet.finding import parts
from pgduet.phases import State

MaybeName = Annotated[str | None, typer.Argument(metavar="NAME", help="The migration's name; without it, all.")]


def status(
    name: MaybeName = None,
    *,
    watching: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    database: options.Database = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell where a migration stands, and what it waits for. Its last lines are the commands that move it on."""
    if watching and name is None:
        raise typer.BadParameter("--watch follows one migration: give its NAME", param_hint="NAME")

    async def job(screen: Screen) -> int:
        migrations = await Migrations.connect()
        if name is None:
            found = await migrations.listing(database)
            facts = {
                "migrations": [each.model_dump(mode="json") for each in found.statuses],
                "worker_answers": found.missing is None,
            }
            screen.show(migrations_table(found.statuses, missing=found.missing), facts)
            return DONE
        if watching:
            return await _watched(migrations, name, database, screen)
        seen = await migrations.look(name, database)
        page = status_page(seen.status, width=console().width, database=database)
        screen.show(page, seen.status.model_dump(mode="json"))
        return DONE

    run(job, as_json=as_json)


def wait(
    name: options.Name,
    *,
    phase: options.PhaseName,
    timeout: options.Timeout = None,
    database: options.Database = None,
    as_json: options.AsJson = False,
) -> None:
    """Wait until a phase is entered or passed. Exit 1 when the migration ended otherwise, 3 when time is over."""

    async def job(screen: Screen) -> None:
        migrations = await Migrations.connect()
        found = await migrations.wait(name, phase, timeout, database=database, on_look=screen.follow)
        page = status_page(found, width=console().width, database=database)
        screen.show(page, found.model_dump(mode="json"))

    run(job, as_json=as_json)


async def _watched(migrations: Migrations, name: str, database: str | None, screen: Screen) -> int:
    found_database, _ = parts(await migrations.find(name, database))
    shown = console(stderr=screen.as_json)
    seen = await watch(migrations, (name, found_database), shown)
    if screen.as_json:
        screen.show("", seen.status.model_dump(mode="json"))
    return _ended(seen)


def _ended(seen: Look) -> int:
    return FAILED if seen.status.state is State.FAILED else DONE
