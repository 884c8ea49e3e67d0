"""Every plan of the cookbook, in order in one database: there, back, there again and to the end, with both versions in use."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.chained import leftovers
from support.cookbook import FOLDER, RECIPES, Recipe, shape, visit
from support.cycle import UNHELD, Step
from support.harness import Harness, schema_dump
from support.plans import overlaid

from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase, State
from pgduet.plan.locate import read

Connection = psycopg.AsyncConnection[Any]

THROUGH: dict[str, Any] = overlaid(UNHELD, {"soak": {"window_s": 0}, "gates": {"shift": "manual"}})
"""To the overlap before cutover, then to the end."""

FILES = {file.name[:2]: file for file in sorted(FOLDER.glob("*.yaml"))}


class Page:
    """One plan of the cookbook on its way."""

    def __init__(self, stage: Harness, conn: Connection, file: Path, recipe: Recipe) -> None:
        data, _ = read(file.read_text())
        self.stage = stage
        self.conn = conn
        self.recipe = recipe
        self.number = 100 * int(file.name[:2])
        self.plan = data | {"database": stage.database}
        self.own = data.get("policy", {})
        self.old, self.new = (f"public_v{data['version'][side]}" for side in ("from", "to"))

    async def go(self, bin_dir: Path) -> None:
        """Go there and back, then to the end."""
        await self.conn.execute(self.recipe.seed.encode())
        await self._nothing_yet()
        await self.there_and_back(bin_dir)
        await self.to_the_end()

    async def there_and_back(self, bin_dir: Path) -> None:
        """Go beyond cutover, and have everything put back."""
        before = schema_dump(bin_dir, self.stage.dsn)
        await self.stage.start(self.plan | {"policy": overlaid(self.own, UNHELD)})
        await self._waits("window", Phase.SOAK)
        await self._talk(self.recipe.talk, self.recipe.bound)
        await self.stage.act("abort", reason="half of the way")
        status = await self.stage.until(lambda status: status.state in {State.ROLLED_BACK, State.FAILED}, 60)
        assert status.state is State.ROLLED_BACK, status.failure
        assert schema_dump(bin_dir, self.stage.dsn) == before
        await self.stage.result()

    async def to_the_end(self) -> None:
        """Go there, and see what is there in the end."""
        await self.stage.start(self.plan | {"policy": overlaid(self.own, THROUGH)})
        await self._waits("gate", Phase.SHADOW)
        await self._talk(self.recipe.talk)
        await self.stage.act("advance", reason="seen")
        assert (await self.stage.result(60)).state is State.DONE
        await self._there()
        await self._speak([step for step in self.recipe.final if step.version != "1"])

    async def _waits(self, kind: str, phase: Phase) -> None:
        def there(status: Any) -> bool:
            stuck = status.failure is not None or (status.waiting_for and status.waiting_for.kind in {"drift", "error"})
            return bool(stuck) or (
                status.phase is phase and status.waiting_for is not None and status.waiting_for.kind == kind
            )

        status = await self.stage.until(there, 60)
        assert status.failure is None, status.failure
        assert status.waiting_for is not None
        assert status.waiting_for.kind == kind, status.waiting_for

    async def _talk(self, *conversations: Any) -> None:
        """Speak as both versions' clients; then each visits every table that it has."""
        self.number += 10
        for steps in conversations:
            await self._speak(steps)
        for schema in (self.old, self.new):
            assert await visit(self.conn, schema) == len(await self._shown(schema))

    async def _shown(self, schema: str) -> list[str]:
        found = await self.conn.execute("SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace", (schema,))
        return [name for (name,) in await found.fetchall()]

    async def _speak(self, steps: Any) -> None:
        for step in steps:
            got = await self._say(step)
            wanted = step.expected(self.number)
            text = step.text.replace("{n}", str(self.number))
            if wanted is None:
                assert isinstance(got, list), f"{step.version}: {text}: refused with {got}"
            else:
                assert got == wanted, f"{step.version}: {text}: {got}"

    async def _say(self, step: Step) -> list[tuple[Any, ...]] | str | None:
        """Run one statement in a transaction of its own; gives its rows, or the SQLSTATE of its refusal."""
        path = {"": "public", "1": self.old, "2": self.new}[step.version]
        try:
            async with self.conn.transaction():
                await self.conn.execute("SELECT set_config('search_path', %s, true)", (f"{path}, pg_catalog",))
                cursor = await self.conn.execute(step.text.replace("{n}", str(self.number)).encode())
                return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            return error.sqlstate

    async def _nothing_yet(self) -> None:
        """See that what the plan wants is not there by itself, and what it takes away is."""
        if not (self.recipe.gives or self.recipe.takes):
            return
        missing = [
            line
            for table, lines in self.recipe.gives.items()
            for line in lines
            if line not in await shape(self.conn, table)
        ]
        taken = [cut for table, cuts in self.recipe.takes.items() for cut in cuts if await self._begins(table, cut)]
        assert missing or taken, "nothing would change"
        assert taken == [cut for cuts in self.recipe.takes.values() for cut in cuts]

    async def _begins(self, table: str, cut: str) -> bool:
        lines = [f"{line}$" for line in await shape(self.conn, table)]
        return any(line.startswith(cut) for line in lines)

    async def _there(self) -> None:
        """See that the catalogue has what the plan wants, and nothing of what it takes away or of its making."""
        for table, wanted in self.recipe.gives.items():
            found = await shape(self.conn, table)
            for line in wanted:
                assert line in found, f"{table} has no: {line}\n" + "\n".join(found)
        for table, cuts in self.recipe.takes.items():
            for cut in cuts:
                assert not await self._begins(table, cut), f"{table} still has: {cut}"
        assert await leftovers(self.conn) == []


@pytest.mark.early
@pytest.mark.timeout(1500)
async def test_every_plan_of_the_cookbook(stage: Harness, conn: Connection, postgres: EmbeddedPostgres) -> None:
    async with stage.worker():
        for number, file in FILES.items():
            try:
                await Page(stage, conn, file, RECIPES[number]).go(postgres.bin_dir)
            except BaseException as error:
                error.add_note(f"in {file.name}")
                raise
