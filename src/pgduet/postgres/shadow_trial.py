"""An empty temporary table on which definitions are tried over a shadow's columns, and read back in PostgreSQL's words (ADR 28).

It bears the anchor's name and its columns' names, with the shadow's types; what was made on it is read once its columns have the
shadow's names. To be used inside a transaction with an empty search_path, which is rolled back: no table of anybody's is locked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.statement import Query, trusted
from pgduet.postgres.session import Connection
from pgduet.sql import block

Row = dict[str, Any]

_READS: dict[str, LiteralString] = {
    "index": "tried_index",
    "check": "tried_constraint",
    "publication": "tried_constraint",
    "statistics": "tried_statistics",
    "trigger": "tried_trigger",
    "policy": "tried_policy",
}


@dataclass
class _Made:
    """What was made under a name of ours, the row that it is from, and what is read of it."""

    kind: str
    row: Row
    name: str
    said: Row | None = None


@dataclass
class Trial:
    """The table, and what is tried on it."""

    conn: Connection
    design: ShadowDesign
    after: Mapping[str, ShadowColumn]
    made: list[_Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the anchor's present name, which its texts have."""
        self.named = self.design.anchor_name

    @property
    def shape(self) -> sql.Identifier:
        """The temporary table's quoted name."""
        return sql.Identifier("pg_temp", self.named)

    async def open(self, columns: Sequence[Row]) -> None:
        """Create it; `columns` are the anchor's, as the catalogue has them."""
        before = {row["name"]: row["collation"] for row in columns}
        parts = []
        for anchor in self.design.anchors:
            column = self.after.get(anchor.name)
            kind, collation = (column.type, column.collation) if column else (anchor.type, None)
            if column is not None and collation is None and column.type == anchor.type:
                collation = before.get(anchor.name)
            text = f"{kind} COLLATE {collation}" if collation else kind
            parts.append(sql.SQL("{} {}").format(sql.Identifier(anchor.name), trusted(text)))
        await self._run("shape", shape=sql.Identifier(self.named), columns=sql.SQL(", ").join(parts))

    async def index(self, row: Row) -> str | None:
        """Try an index; gives the reason where PostgreSQL refuses it, as the others do."""
        unique = sql.SQL("UNIQUE " if row["unique"] else "")
        return await self._made("index", row, "try_index", unique=unique, definition=trusted(row["definition"]))

    async def statistics(self, row: Row) -> str | None:
        """Try extended statistics."""
        return await self._made("statistics", row, "try_statistics", definition=trusted(row["definition"]))

    async def check(self, row: Row) -> str | None:
        """Try a check."""
        return await self._made("check", row, "try_check", definition=trusted(row["definition"]))

    async def row_filter(self, row: Row) -> str | None:
        """Try what a publication chooses rows by, as a check."""
        if row["condition"] is None:
            self.made.append(_Made("publication", row, "", said={"condition": None}))
            return None
        return await self._made("publication", row, "try_check", definition=trusted(f"CHECK ({row['condition']})"))

    async def policy(self, row: Row) -> str | None:
        """Try a policy."""
        using = trusted(f"USING ({row['using']})" if row["using"] is not None else "")
        check = trusted(f"WITH CHECK ({row['check']})" if row["check"] is not None else "")
        return await self._made("policy", row, "try_policy", using=using, check=check)

    async def trigger(self, row: Row, spelled: str) -> str | None:
        """Try a trigger; `spelled` is the anchor as PostgreSQL writes it."""
        text = row["definition"].replace(f" ON {spelled} ", f" ON {self.shape.as_string(None)} ", 1)
        return await self._try(_Made("trigger", row, row["name"]), trusted(text))

    async def close(self) -> None:
        """Give the columns the shadow's names, by way of names that nothing has, and read what was made."""
        names = [anchor.name for anchor in self.design.anchors]
        for number, name in enumerate(names):
            await self._rename(name, f"_pgduet_{number}")
        for number, name in enumerate(names):
            if name in self.after:
                await self._rename(f"_pgduet_{number}", self.after[name].name)
        if self.named != self.design.table:
            await self._run("shape_named", shape=self.shape, name=sql.Identifier(self.design.table))
            self.named = self.design.table
        final = sql.Identifier(self.design.schema_name, self.design.shown_as).as_string(None)
        for each in self.made:
            if each.said is None:
                asked = {"shape": self.shape.as_string(None), "name": each.name, "final": final}
                (each.said,) = await (
                    await self.conn.execute(block("shadow_carry", _READS[each.kind]), asked)
                ).fetchall()

    def said(self, kind: str) -> Iterator[tuple[Row, Row]]:
        """Give what was made of a kind: the row that it is from, and PostgreSQL's words for it now."""
        return ((each.row, each.said) for each in self.made if each.kind == kind and each.said is not None)

    async def _made(self, kind: str, row: Row, template: LiteralString, /, **parts: sql.Composable) -> str | None:
        name = f"_pgduet_{kind}_{len(self.made)}"
        query = block("shadow_carry", template).format(shape=self.shape, name=sql.Identifier(name), **parts)
        return await self._try(_Made(kind, row, name), query)

    async def _try(self, each: _Made, query: Query) -> str | None:
        try:
            async with self.conn.transaction():
                await self.conn.execute(query)
        except psycopg.Error as error:
            return error.diag.message_primary or "PostgreSQL refuses it"
        self.made.append(each)
        return None

    async def _rename(self, name: str, to: str) -> None:
        await self._run("shape_column", shape=self.shape, column=sql.Identifier(name), name=sql.Identifier(to))

    async def _run(self, name: LiteralString, /, **parts: sql.Composable) -> None:
        await self.conn.execute(block("shadow_carry", name).format(**parts))
