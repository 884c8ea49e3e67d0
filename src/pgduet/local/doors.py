"""The demo application's code for both versions of the flights table: one flight, and the statements of each version.

A door is one way into the table: a schema (or the session's search_path) with the columns of one version. The old version
has year, month, day and sched_dep_time; the new one has scheduled_departure and gate_note. Everything else is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, LiteralString

from psycopg import sql

TABLE = "flights"

_SHARED: dict[LiteralString, LiteralString] = {
    "other": "UPDATE {t} SET tailnum = %s, arr_delay = %s WHERE id = %s",
    "delete": "DELETE FROM {t} WHERE id = %s",
}
_OLD: dict[LiteralString, LiteralString] = _SHARED | {
    "insert": (
        "INSERT INTO {t} (year, month, day, sched_dep_time, tailnum, arr_delay, carrier, origin, dest)"
        " VALUES (%s, %s, %s, %s, %s, %s, 'PG', 'JFK', 'SFO') RETURNING id"
    ),
    "departure": "UPDATE {t} SET year = %s, month = %s, day = %s, sched_dep_time = %s WHERE id = %s",
    "read": "SELECT id, tailnum, arr_delay, year, month, day, sched_dep_time FROM {t} WHERE id = ANY (%s)",
    # The data says the scheduled hour twice, the second time with its zone.
    "untouched": (
        "SELECT count(*), bool_and(make_timestamp(year, month, day, sched_dep_time / 100, 0, 0)"
        " = time_hour AT TIME ZONE 'America/New_York' AND sched_dep_time %% 100 = minute) FROM {t} WHERE id = ANY (%s)"
    ),
}
_NEW: dict[LiteralString, LiteralString] = _SHARED | {
    "insert": (
        "INSERT INTO {t} (scheduled_departure, gate_note, tailnum, arr_delay, carrier, origin, dest)"
        " VALUES (%s, %s, %s, %s, 'PG', 'JFK', 'SFO') RETURNING id"
    ),
    "departure": "UPDATE {t} SET scheduled_departure = %s WHERE id = %s",
    "note": "UPDATE {t} SET gate_note = %s WHERE id = %s",
    "read": "SELECT id, tailnum, arr_delay, scheduled_departure, gate_note FROM {t} WHERE id = ANY (%s)",
    "untouched": (
        "SELECT count(*), bool_and(date_trunc('hour', scheduled_departure)"
        " = time_hour AT TIME ZONE 'America/New_York' AND extract(minute FROM scheduled_departure) = minute)"
        " FROM {t} WHERE id = ANY (%s)"
    ),
}


@dataclass(frozen=True, slots=True)
class Flight:
    """What the application knows of a flight; the note exists in the new version only."""

    departure: datetime
    tailnum: str | None
    arr_delay: int | None
    gate_note: str | None = None


@dataclass(frozen=True, slots=True)
class Door:
    """A way into the table: through a schema, or without one through the search_path."""

    schema: str | None
    is_new: bool

    def query(self, name: LiteralString) -> bytes:
        """Give a statement by name."""
        return _query(self.schema, self.is_new, name)

    def by_search_path(self) -> "Door":
        """Give the same version without naming the schema."""
        return replace(self, schema=None)

    def when(self, flight: Flight) -> list[Any]:
        """Give a departure as this version writes it."""
        at = flight.departure
        return [at] if self.is_new else [at.year, at.month, at.day, at.hour * 100 + at.minute]

    def values(self, flight: Flight) -> list[Any]:
        """Give the parameters of `insert`."""
        note = [flight.gate_note] if self.is_new else []
        return [*self.when(flight), *note, flight.tailnum, flight.arr_delay]

    def flight(self, row: Sequence[Any]) -> Flight:
        """Read a row of `read`; where a version has no note, there is none."""
        _, tailnum, arr_delay, *rest = row
        if self.is_new:
            return Flight(rest[0], tailnum, arr_delay, rest[1])
        year, month, day, clock = rest
        return Flight(datetime(year, month, day, clock // 100, clock % 100), tailnum, arr_delay)  # noqa: DTZ001

    def seen(self, flight: Flight) -> Flight:
        """Give a flight as this version shows it."""
        return flight if self.is_new else replace(flight, gate_note=None)


BASE = Door("public", is_new=False)
"""The table itself, as it was before there was any migration."""
V1 = Door("public_v1", is_new=False)
V2 = Door("public_v2", is_new=True)
BASE_AFTER = Door("public", is_new=True)
"""The table itself once the migration is done."""


@cache
def _query(schema: str | None, is_new: bool, name: LiteralString) -> bytes:  # noqa: FBT001  a key
    table = sql.Identifier(schema, TABLE) if schema else sql.Identifier(TABLE)
    return sql.SQL((_NEW if is_new else _OLD)[name]).format(t=table).as_bytes(None)
