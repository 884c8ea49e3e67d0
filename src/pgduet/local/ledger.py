"""The ledger of acknowledged writes, and the proof that each of them is found.

Each client owns its rows, so what must be stored is known exactly: the last acknowledged values, or that the row is gone.
`verify_ledger` reads every owned row back through a door. A value of the new version only is not visible through the old
one; after a rollback it must be in the archive, which `verify_archive` compares both ways: nothing missing, nothing more.

Limits: meant for a moment without writes. A write without an answer leaves its row in doubt; it is counted, not compared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psycopg

from pgduet.local.doors import Door, Flight

Rows = Mapping[int, Flight | None]
"""What must be stored: a flight by its key, None where it was deleted."""
APPLICATION = "pgduet/demo"
_PAGE = 2000
_SHOWN = 5


@dataclass(slots=True)
class Ledger:
    """One client's rows and the number of writes it was told were done."""

    rows: dict[int, Flight | None] = field(default_factory=dict)
    inserted: set[int] = field(default_factory=set)
    in_doubt: set[int] = field(default_factory=set)
    writes: int = 0

    def adopt(self, key: int, flight: Flight) -> None:
        """Own a row that was there before."""
        self.rows[key] = flight

    def wrote(self, key: int, flight: Flight | None, *, inserted: bool = False) -> None:
        """Note an acknowledged write."""
        self.rows[key] = flight
        self.writes += 1
        if inserted:
            self.inserted.add(key)
        if flight is None:
            self.inserted.discard(key)

    def doubt(self, keys: Iterable[int]) -> None:
        """Note that nobody knows what became of a write: leave these rows alone from here on."""
        for key in keys:
            self.in_doubt.add(key)
            self.inserted.discard(key)
            self.rows.pop(key, None)

    def living(self) -> list[int]:
        """Name the rows that are there."""
        return [key for key, flight in self.rows.items() if flight is not None]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison found: rows (or values) compared, and what is wrong with them, in words."""

    compared: int
    wrong: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Tell whether everything is as acknowledged."""
        return not self.wrong

    def told(self) -> str:
        """Say it in a line."""
        more = f" and {len(self.wrong) - _SHOWN:,} more" if len(self.wrong) > _SHOWN else ""
        return "; ".join(self.wrong[:_SHOWN]) + more


def compare(expected: Rows, found: Mapping[int, Flight], door: Door) -> list[str]:
    """Name the rows that are not as acknowledged; pure."""
    wrong = []
    for key, flight in expected.items():
        stored = found.get(key)
        if flight is None:
            if stored is not None:
                wrong.append(f"row {key} was deleted and is there")
        elif stored is None:
            wrong.append(f"row {key} is missing")
        elif stored != door.seen(flight):
            wrong.append(f"row {key} is {stored}, acknowledged was {door.seen(flight)}")
    return wrong


def compare_notes(expected: Rows, found: Mapping[int, str | None]) -> list[str]:
    """Name the notes that are not in the archive as acknowledged, and those that nobody wrote; pure.

    A row may have been deleted after its note was saved.
    """
    notes = {key: flight.gate_note for key, flight in expected.items() if flight and flight.gate_note is not None}
    deleted = {key for key, flight in expected.items() if flight is None}
    wrong = [
        f"the note of row {key} is {found.get(key)!r} in the archive, acknowledged was {note!r}"
        for key, note in notes.items()
        if found.get(key) != note
    ]
    foreign = found.keys() - notes.keys() - deleted
    return wrong + [f"the archive has a note of row {key} that nobody wrote" for key in sorted(foreign)]


async def verify_ledger(dsn: str, rows: Rows, *, via: Door) -> Findings:
    """Read every owned row back through a door and compare it with what was acknowledged."""
    keys, wrong = list(rows), []
    async with await connect(dsn) as conn:
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            cursor = await conn.execute(via.query("read"), [page])
            found = {row[0]: via.flight(row) for row in await cursor.fetchall()}
            wrong += compare({key: rows[key] for key in page}, found, via)
    return Findings(len(keys), tuple(wrong))


async def verify_archive(dsn: str, rows: Rows, *, migration: str) -> Findings:
    """Compare the new version's own values with what a rollback saved and no later run has brought back."""
    async with await connect(dsn) as conn:
        cursor = await conn.execute(
            """
            SELECT (key ->> 'id')::bigint, kept ->> 'gate_note' FROM pgduet_archive.value
             WHERE migration = %s AND side = 'new' AND kept ? 'gate_note' AND restored_at IS NULL
            """,
            [migration],
        )
        found: dict[int, str | None] = dict(await cursor.fetchall())
    return Findings(len(found), tuple(compare_notes(rows, found)))


async def connect(dsn: str) -> psycopg.AsyncConnection:
    """Connect as the demo, which the census does not count as a client."""
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name=APPLICATION)
