"""Following a migration: a page drawn anew twice a second, with rate and time left measured while it is watched.

Limits: without a terminal nothing is redrawn; then each change is one line. A worker that does not answer is borne, and
named on the page.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pgduet.cli.faces import one_line, status_page
from pgduet.client import Look, Migrations, WorkerMissing
from pgduet.messages import Status
from pgduet.phases import Phase

INTERVAL_S = 0.5
_SPAN_S = 10.0


@dataclass
class Pace:
    """The rate at which rows are filled, over the last ten seconds of looking."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)
    rows: int = 0
    percent: float = 0.0

    def applied(self, status: Status, at_s: float) -> Status:
        """Give the status with the rate and the time left that were measured here."""
        if status.phase is not Phase.BACKFILL:
            return status
        filled = status.backfill
        # A range between two slices says nothing for a moment: figures never go back.
        self.rows, self.percent = max(self.rows, filled.rows_done), max(self.percent, filled.percent)
        filled = filled.model_copy(update={"rows_done": self.rows, "percent": self.percent})
        status = status.model_copy(update={"backfill": filled})
        self.seen.append((at_s, filled.rows_done))
        while at_s - self.seen[0][0] > _SPAN_S:
            self.seen.popleft()
        (_since_s, rows), seconds = self.seen[0], at_s - self.seen[0][0]
        if seconds < 1 or filled.rows_done <= rows:
            return status
        rate = (filled.rows_done - rows) / seconds
        left_s = max(0, filled.rows_total - filled.rows_done) / rate if filled.rows_total else None
        update = {"rows_per_second": rate, "eta_s": left_s}
        return status.model_copy(update={"backfill": filled.model_copy(update=update)})


async def watch(migrations: Migrations, workflow: tuple[str, str], console: Console) -> Look:
    """Show a migration, given by name and database, until its run has ended."""
    follow = _redrawn if console.is_terminal else _in_lines
    return await follow(migrations, workflow, console)


async def _redrawn(migrations: Migrations, workflow: tuple[str, str], console: Console) -> Look:
    pace, page = Pace(), status_of_nothing()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                seen = await migrations.look(*workflow)
            except WorkerMissing as missing:
                live.update(Group(page, Text(f"\n{missing.message}; still asking", style="red")), refresh=True)
            else:
                page = status_page(pace.applied(seen.status, time.monotonic()), width=console.width)
                live.update(page, refresh=True)
                if seen.closed:
                    return seen
            await asyncio.sleep(INTERVAL_S)


async def _in_lines(migrations: Migrations, workflow: tuple[str, str], console: Console) -> Look:
    said: object = None
    while True:
        what: object
        try:
            seen = await migrations.look(*workflow)
        except WorkerMissing as missing:
            what = line = missing.message
            ended = None
        else:
            what, line, ended = _milestone(seen.status), one_line(seen.status), seen if seen.closed else None
        if what != said:
            console.print(line, soft_wrap=True)
            said = what
        if ended:
            return ended
        await asyncio.sleep(INTERVAL_S)


def _milestone(status: Status) -> object:
    """Tell what must change for a new line to be worth it: a tenth of the backfill, not every second of a wait."""
    waits = status.waiting_for.kind if status.waiting_for else None
    return status.phase, status.state, waits, status.read_percent, status.backfill.percent // 10, status.failure


def status_of_nothing() -> RenderableType:
    """Give the page that stands until the first answer."""
    return Text("asking the workflow …", style="dim")
