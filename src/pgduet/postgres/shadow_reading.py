"""What the catalogue says of an anchor, and what PostgreSQL makes of it over the shadow's columns (ADR 28).

Mechanism: see `shadow_trial`. What reads a column without a successor, or is refused over the other type, is `lost`, with the
reason.
Limits: a policy that asks its own table is refused; exclusion constraints are not carried, which is refused, too.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import LiteralString

from pgduet.operations.shadow_carried import CarriedSequence, Lost, Right, keeps_values, set_aside, successors
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_trial import Row, Trial
from pgduet.sql import block

GONE = "it reads {}, which the new shape does not have"
_HOLDS = "it names columns that move, and would keep them from being dropped"
_READ: tuple[LiteralString, ...] = (
    *("columns", "indexes", "statistics", "constraints", "triggers", "policies", "publications"),
    *("published_unasked", "grants", "labels", "rules"),
)


async def open_reading(conn: Connection, design: ShadowDesign) -> "Reading":
    """Begin to read; what is tried has the session's own search_path, in which functions may find what they name."""
    (found,) = await (await conn.execute(block("shadow_carry", "path"))).fetchall()
    return Reading(conn, design, found["path"])


@dataclass
class Reading:
    """What the catalogue says of an anchor, and what PostgreSQL makes of it over the shadow's columns."""

    conn: Connection
    design: ShadowDesign
    path: str
    table: Row = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    identities: list[CarriedSequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find the columns' successors."""
        self.after = successors(self.design)
        self.whole = self.design.kind == "shadow_table"
        self.before = set_aside(self.design)
        self.trial = Trial(self.conn, self.design, self.after)

    async def read(self) -> None:
        """Read everything, and try it."""
        await self._ask(*_READ)
        for row in await self._rows("sequences", {"oid": self.table["oid"]}):
            grants = await self._rows("sequence_grants", {"oid": row["oid"]})
            self.identities.append(
                CarriedSequence(
                    schema_name=row["schema"],
                    name=row["name"],
                    comment=row["comment"],
                    grants=tuple(Right(**each) for each in grants),
                )
            )
        await self._open()
        await self._try_indexes()
        for row in self.rows["statistics"]:
            if self._stands("statistics", row):
                await self._tried("statistics", row, self.trial.statistics(row))
        await self._try_constraints()
        await self._try_triggers()
        await self._try_policies()
        await self._try_publications()
        await self._close()

    async def read_hung(self) -> None:
        """Read constraints and triggers alone."""
        await self._ask("columns", "constraints", "triggers")
        await self._open()
        await self._try_constraints()
        await self._try_triggers()
        await self._close()

    def names(self, columns: list[str]) -> list[str] | None:
        """Give the shadow's names of columns; nothing where one has no successor."""
        found = [self.after.get(name) for name in columns]
        return [column.name for column in found if column] if all(found) else None

    def kept(self, name: str) -> bool:
        """Tell whether a column has its values in the shadow, too."""
        column = self.after.get(name)
        return column is not None and keeps_values(self.design, name, column)

    def spans(self, row: Row) -> bool:
        """Tell whether a uniqueness would be one across the shadow's partitions."""
        return bool(row["unique"] and set(self.design.partition_key) - set(self.names(row["key"]) or ()))

    def lose(self, kind: str, what: str, why: str, *, grave: bool = False) -> None:
        """Note what is not carried over."""
        self.lost.append(Lost(kind=kind, what=what, why=why, grave=grave))

    async def _open(self) -> None:
        await self.trial.open(self.rows["columns"])
        await self.conn.execute(block("shadow_carry", "set_path"), {"path": self.path})

    async def _close(self) -> None:
        await self.conn.execute(block("shadow_carry", "set_path"), {"path": ""})
        await self.trial.close()

    async def _ask(self, *names: LiteralString) -> None:
        # Then PostgreSQL writes every name in its texts with its schema.
        await self.conn.execute(block("shadow_carry", "set_path"), {"path": ""})
        (self.table,) = await self._rows("table", {"relation": self.design.relation_label})
        for name in names:
            self.rows[name] = [self._known(row) for row in await self._rows(name, {"oid": self.table["oid"]})]

    def _known(self, row: Row) -> Row:
        """Say a row of the catalogue by the names that a swap has taken from the anchor."""
        if self.design.swapped is None:
            return row
        known, us = dict(row), (self.design.schema_name, self.design.anchor_name)
        if row.get("table", self.design.anchor_name) == self.design.anchor_name and row.get("name") in self.before:
            known["name"] = self.before[row["name"]]
        if (row.get("schema"), row.get("table")) == us:
            known["table"] = self.design.table
        if (row.get("target_schema"), row.get("target")) == us:
            known["target"] = self.design.table
        return known

    async def _rows(self, name: LiteralString, values: Row) -> list[Row]:
        return await (await self.conn.execute(block("shadow_carry", name), values)).fetchall()

    async def _tried(self, kind: str, row: Row, trial: Awaitable[str | None], *, grave: bool = False) -> None:
        why = await trial
        if why is not None:
            self.lose(kind, row["name"], why, grave=grave)

    def _stands(self, kind: str, row: Row, *, grave: bool = False) -> bool:
        """Tell whether all that something reads has a successor, and whether it belongs to an extracted table at all."""
        if not self._touched(row):
            return False
        gone = [name for name in row["columns"] if name not in self.after]
        if gone:
            self.lose(kind, row["name"], GONE.format(", ".join(gone)), grave=grave)
        return not gone

    def _touched(self, row: Row) -> bool:
        """Tell whether something is about columns that go to the shadow; its key alone does not count."""
        keys = {column.anchor for column in self.design.key}
        return self.whole or bool(set(row["columns"]) & self.after.keys() - keys)

    async def _try_indexes(self) -> None:
        for row in self.rows["indexes"]:
            if row["primary"]:
                if row["includes"] and self.whole:
                    self.lose("index", row["name"], "what a primary key includes is not carried")
            elif not self._touched(row):
                continue
            elif row["constraint"] == "x":
                why = "PostgreSQL cannot build it beside clients"
                self.lose("exclusion constraint", row["name"], why, grave=self.whole)
            elif not row["valid"]:
                self.lose("index", row["name"], "it is not valid")
            elif self._stands("index", row):
                if self.spans(row):
                    why = "PostgreSQL keeps rows unique within partitions, not across them: it becomes an index that is not unique"
                    self.lose("index", row["name"], why)
                await self._tried("index", row, self.trial.index(row))

    async def _try_constraints(self) -> None:
        for row in self.rows["constraints"]:
            if self._holds_what_moves(row):
                self.lose("foreign key", f"{row['name']} of {row['table']}", _HOLDS, grave=True)
            if not (row["own"] and row["kind"] in {"c", "f"} and self._touched(row)):
                continue
            kind = "check" if row["kind"] == "c" else "foreign key"
            if not self.whole:
                self.lose(kind, row["name"], "it goes with the columns that move")
            elif self.design.partition_by and row["definition"].endswith(" NO INHERIT"):
                self.lose(kind, row["name"], "a partitioned table has no check that its partitions lack", grave=True)
            elif self._stands(kind, row) and row["kind"] == "c":
                await self._tried(kind, row, self.trial.check(row))

    def _holds_what_moves(self, row: Row) -> bool:
        """Tell whether a foreign key refers to columns that an extraction drops."""
        us = (self.design.schema_name, self.design.table)
        if self.whole or row["kind"] != "f" or (row["target_schema"], row["target"]) != us:
            return False
        return self._touched({"columns": row["targets"]})

    async def _try_triggers(self) -> None:
        for row in self.rows["triggers"]:
            if not self.whole:
                if self._touched(row):
                    self.lose("trigger", row["name"], _HOLDS, grave=True)
            elif row["row"] and row["transition"] and self.design.partition_by:
                self.lose("trigger", row["name"], "a partitioned table has none with a transition table", grave=True)
            elif self._stands("trigger", row, grave=True):
                await self._tried("trigger", row, self.trial.trigger(row, self.table["spelled"]), grave=True)

    async def _try_policies(self) -> None:
        if not self.whole:
            if self.rows["policies"] or self.table["secured"]:
                why = "the extracted table would have no policy"
                self.lose("row level security", self.design.table, why, grave=True)
            return
        for row in self.rows["policies"]:
            changed = [name for name in row["columns"] if not self.kept(name)]
            if changed:
                why = f"it reads {', '.join(changed)}, which the new version has otherwise"
                self.lose("policy", row["name"], why, grave=True)
            elif row["itself"]:
                self.lose("policy", row["name"], "it asks the table that it is for", grave=True)
            else:
                await self._tried("policy", row, self.trial.policy(row), grave=True)

    async def _try_publications(self) -> None:
        for row in self.rows["publications"]:
            if not self.whole:
                if self._touched(row):
                    self.lose("publication", row["name"], _HOLDS, grave=True)
                continue
            gone = [name for name in row["listed"] if name not in self.after]
            if gone:
                why = f"it lists {', '.join(gone)}, which the new shape does not have"
                self.lose("publication", row["name"], why, grave=True)
            elif not row["owned"]:
                self.lose("publication", row["name"], "the worker's role may not put a table into it", grave=True)
            elif self._stands("publication", row, grave=True):
                await self._tried("publication", row, self.trial.row_filter(row), grave=True)
