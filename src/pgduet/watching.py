"""The part of the Python client that looks at migrations and waits for them.

Mechanism: what stands in Temporal is described, what runs is asked by query, and a wait asks again and again, ever more slowly.
Limits: the status of a running migration needs a worker; one that is silent for a while is borne, since workers are restarted.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError

from pgduet import messages
from pgduet.errors import ActRefused, PgduetError, UnknownMigration
from pgduet.finding import newest_runs, parts, unknown
from pgduet.messages import Status
from pgduet.observe import QUERY_LIMIT_S, Look, WorkerMissing, listed, look
from pgduet.phases import Phase, State

PATIENCE_S = 60.0
"""How long `wait` bears that no worker answers: workers are restarted, and migrations go on after that."""
_ENDED = {State.DONE, State.ROLLED_BACK}


class StillWaiting(TimeoutError):
    """The migration did not get there in time; `status` is where it stands, None when nobody could tell."""

    def __init__(self, message: str, status: Status | None) -> None:
        """Take what was waited for and what was seen last."""
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Listing:
    """Every migration, and why some are told about briefly: no worker answered."""

    statuses: list[Status]
    missing: WorkerMissing | None


class Watching:
    """Looks at migrations through one Temporal namespace."""

    client: Client

    # Looking

    async def look(self, name: str, database: str | None = None) -> Look:
        """Look at a migration: its status, whether its run has ended, and with which error."""
        return await self._look(await self.find(name, database))

    async def status(self, name: str, database: str | None = None) -> Status:
        """Tell where a migration stands; a run that ended in an error has state `failed` and says why."""
        return (await self.look(name, database)).status

    async def statuses(self, database: str | None = None) -> list[Status]:
        """Tell about every migration, newest first; briefly where no worker answers."""
        return (await self.listing(database)).statuses

    async def listing(self, database: str | None = None) -> Listing:
        """Tell about every migration, newest first, and whether workers answered for them."""
        runs = await newest_runs(self.client, database)
        limit = asyncio.Semaphore(10)
        missing: WorkerMissing | None = None

        async def seen(run: WorkflowExecution) -> Status:
            nonlocal missing
            async with limit:
                if missing:
                    return listed(run)
                try:
                    return (await look(self.client, run.id)).status
                except WorkerMissing as error:
                    missing = error
                except (PgduetError, RPCError):
                    pass
                return listed(run)

        found = list(await asyncio.gather(*(seen(run) for run in runs.values())))
        return Listing(found, missing)

    async def find(self, name: str, database: str | None = None) -> str:
        """Give the id of a migration's workflow; without a database the name must be unique.

        Raises:
            UnknownMigration: no migration, or several databases' migrations, have the name.
        """
        if database is not None:
            return messages.workflow_id(database, name)
        known: dict[str, WorkflowExecution] = {}
        for _ in range(4):  # What was started a moment ago may not be listed yet.
            known = await newest_runs(self.client)
            found = [workflow for workflow in known if parts(workflow)[1] == name]
            if len(found) == 1:
                return found[0]
            if found:
                msg = f"several databases have a migration `{name}`"
                raise UnknownMigration(
                    msg,
                    hint=f"Say which: `--database` {', '.join(sorted(parts(each)[0] for each in found))}.",
                )
            await asyncio.sleep(0.25)
        raise unknown(name, known)

    async def _look(self, workflow: str, *, heartbeats: bool = True, limit_s: float = QUERY_LIMIT_S) -> Look:
        try:
            return await look(self.client, workflow, heartbeats=heartbeats, limit_s=limit_s)
        except UnknownMigration:
            database, name = parts(workflow)
            raise unknown(name, await newest_runs(self.client), database) from None

    # Waiting

    async def wait(
        self,
        name: str,
        phase: Phase | str,
        timeout_s: float | None = None,
        *,
        database: str | None = None,
        on_look: Callable[[Status], None] | None = None,
    ) -> Status:
        """Wait until a phase has been entered or passed; `done` and `rolled_back` are phases too.

        A migration that stopped waits for a person, and so does this; `on_look` sees each status on the way.

        Raises:
            StillWaiting: not within `timeout_s`; it is a TimeoutError.
            ActRefused: the migration ended, or is being rolled back, and will not get there.
            PgduetError: what the migration failed with.
        """
        target = Phase(phase)

        def reached(seen: Look) -> bool:
            status = seen.status
            if on_look:
                on_look(status)
            if target.reached(status.phase) and seen.error is None:
                return True
            turned = status.state is State.ROLLING_BACK and target is not Phase.ROLLED_BACK
            if turned or (seen.closed and seen.error is None):
                how = as_words(status.state)
                msg = f"`{name}` is {how} and will not reach {as_words(target)}"
                raise ActRefused(msg)
            return False

        return await self._poll(await self.find(name, database), reached, timeout_s, f"reached {as_words(target)}")

    async def wait_safe(self, name: str, *, database: str | None = None, timeout_s: float | None = None) -> Status:
        """Wait until a rollback has put the old version back in charge; the new one may still be in use."""
        turned = {State.ROLLING_BACK, State.ROLLED_BACK}

        def safe(seen: Look) -> bool:
            return seen.status.safe and (seen.status.state in turned or seen.status.phase is Phase.ROLLED_BACK)

        return await self._poll(await self.find(name, database), safe, timeout_s, "put the old version back in charge")

    async def _poll(
        self, workflow: str, enough: Callable[[Look], bool], timeout_s: float | None, awaited: str
    ) -> Status:
        """Look until it is enough; a run that ended in an error raises it, a silent worker is borne for a while."""
        began = answered = time.monotonic()
        ends = math.inf if timeout_s is None else began + timeout_s
        pause_s, seen = 0.1, None
        while True:
            limit_s = min(QUERY_LIMIT_S, max(0.5, ends - time.monotonic()))
            try:
                seen = await self._look(workflow, heartbeats=False, limit_s=limit_s)
                answered = time.monotonic()
            except WorkerMissing:
                if time.monotonic() - answered > PATIENCE_S:
                    raise
            else:
                if enough(seen):
                    return seen.status
                if seen.error is not None:
                    raise seen.error
                if seen.closed:
                    msg = f"`{seen.status.name}` ended as {as_words(seen.status.state)} and has not {awaited}"
                    raise ActRefused(msg)
            if timeout_s is not None and time.monotonic() + pause_s > ends:
                raise StillWaiting(_late(workflow, awaited, timeout_s, seen), seen.status if seen else None)
            await asyncio.sleep(pause_s)
            pause_s = min(0.5, pause_s * 1.2)


def as_words(word: Phase | State) -> str:
    """Write a phase or a state as people say it."""
    return word.value.replace("_", " ")


def _late(workflow: str, awaited: str, timeout_s: float, seen: Look | None) -> str:
    name = parts(workflow)[1]
    if seen is None:
        return f"`{name}` has not {awaited} within {timeout_s:g} s: no worker answers"
    waiting = seen.status.waiting_for
    why = f", waits for {waiting.detail}" if waiting else ""
    return f"`{name}` has not {awaited} within {timeout_s:g} s: it is in {as_words(seen.status.phase)}{why}"
