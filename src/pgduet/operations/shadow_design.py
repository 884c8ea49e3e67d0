"""The design of a shadow: the rows of a table, the anchor, in another shape (ADR 28).

Two operations have one. `shadow_table`: each row of the anchor has one row in the shadow, which takes the anchor's place at
contract. `extract_table`: columns of the anchor move to a table of their own, whose rows are named by the anchor's key; a row is
there where `exists` says so. Like every design it holds names and expressions, no oids.
"""

from typing import Literal

from psycopg import sql

from pgduet.operations.column_design import BY_TEXT, Follows, image_differs, is_exact, without_length
from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.names import fit
from pgduet.operations.statement import Query, trusted


class KeyColumn(Frozen):
    """A column of the anchor's primary key, and the shadow's for it; the value is the same, in the other type."""

    anchor: str
    anchor_type: str
    shadow: str
    shadow_type: str


class ShadowColumn(Frozen):
    """A column of the shadow; `up` reads the anchor's row."""

    name: str
    type: str
    nullable: bool = True
    up: Expression | None = None
    """Nothing for a generated column, and for one that only the new version knows."""
    same: str | None = None
    """The column of the anchor whose value it has, in its own type."""
    default: str | None = None
    generated: str | None = None
    collation: str | None = None
    comment: str | None = None
    statistics: int | None = None
    follows: tuple[Follows, ...] = ()
    """What the anchor says of it, and not the plan."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The anchor's columns that it is made from."""
        if self.same is not None:
            return (self.same,)
        return self.up.columns if self.up else ()

    def up_value(self, row: sql.Composable) -> Query:
        """Render the column's value from a row of the anchor, as an assignment would convert it."""
        if self.same is not None:
            return sql.SQL("{}.{}").format(row, sql.Identifier(self.same))
        if self.up is None:
            return sql.SQL("NULL")
        return sql.SQL("({}::{})").format(self.up.over(row), trusted(without_length(self.type)))

    def of(self, row: sql.Composable) -> Query:
        """Render the column of a row."""
        return sql.SQL("{}.{}").format(row, sql.Identifier(self.name))

    def differs(self, left: sql.Composable, right: sql.Composable) -> Query:
        """Render that two values are not equal, by text for types that have no equality."""
        template = "({}::text IS DISTINCT FROM {}::text)" if self.type in BY_TEXT else "({} IS DISTINCT FROM {})"
        return sql.SQL(template).format(left, right)


class AnchorColumn(Frozen):
    """A column of the anchor that new clients' writes reach; `down` reads the shadow's row."""

    name: str
    type: str
    not_null: bool = False
    down: Expression | None = None
    same: str | None = None
    """The column of the shadow whose value it has."""
    may_raise: bool = True
    """Not every value of the shadow's column has its place in it."""
    emptied: str = "NULL"
    """What it holds while the extracted table has no row."""
    always: bool = False
    """It numbers itself: PostgreSQL refuses to update it, with its own value as well."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The shadow's columns that it is made from."""
        if self.same is not None:
            return (self.same,)
        return self.down.columns if self.down else ()

    def down_value(self, row: sql.Composable) -> Query:
        """Render the column's value from a row of the shadow, as an assignment would convert it."""
        if self.same is not None:
            return sql.SQL("{}.{}").format(row, sql.Identifier(self.same))
        if self.down is None:
            return sql.SQL("NULL")
        return sql.SQL("({}::{})").format(self.down.over(row), trusted(without_length(self.type)))

    def of(self, row: sql.Composable) -> Query:
        """Render the column of a row."""
        return sql.SQL("{}.{}").format(row, sql.Identifier(self.name))

    def differs(self, left: sql.Composable, right: sql.Composable) -> Query:
        """Render that two values are not equal, by text for types that have no equality."""
        template = "({}::text IS DISTINCT FROM {}::text)" if self.type in BY_TEXT else "({} IS DISTINCT FROM {})"
        return sql.SQL(template).format(left, right)

    def changed(self, left: sql.Composable, right: sql.Composable) -> Query:
        """Render that the column was changed between two rows of the anchor, bit by bit."""
        name = sql.Identifier(self.name)
        return image_differs(
            sql.SQL("{}.{}").format(left, name), sql.SQL("{}.{}").format(right, name), not is_exact(self.type)
        )


class ShadowKey(Frozen):
    """A uniqueness that both tables have, by the columns of each in the same order."""

    name: str
    working: str
    anchor: tuple[str, ...]
    shadow: tuple[str, ...]


class Partition(Frozen):
    """A partition of the shadow; `bound` is PostgreSQL's text from `FOR VALUES` on, or `DEFAULT`."""

    name: str
    bound: str


class Swapped(Frozen):
    """What the way back from a swap gives back."""

    key: str
    """The name of the anchor's primary key, which the shadow's has meanwhile."""


class ShadowDesign(Frozen):
    """A table in another shape beside the anchor."""

    kind: Literal["shadow_table", "extract_table"]
    position: int
    schema_name: str
    table: str
    """The anchor."""
    physical: str
    """The shadow's name until contract, in the anchor's schema."""
    shown_as: str
    """What the new version calls the shadow."""
    key: tuple[KeyColumn, ...]
    columns: tuple[ShadowColumn, ...]
    anchors: tuple[AnchorColumn, ...]
    primary: tuple[str, ...] = ()
    """The shadow's primary key, where it has more columns than the anchor's (a partitioned shadow's must)."""
    unique: tuple[ShadowKey, ...] = ()
    """All but the primary key."""
    freed: tuple[ShadowKey, ...] = ()
    """Those that are no constraints, but indexes over columns that keep their values."""
    exists: Expression | None = None
    """Whether the extracted table has a row, over the anchor's; nothing where each row has one."""
    unmappable: Literal["refuse", "archive"] = "refuse"
    guarded: bool = True
    """`up` can raise, or leave empty what must not be."""
    rereads: bool = False
    """The anchor has triggers of the user's, or generated columns: what was written is read again."""
    postpones: bool = False
    """What triggers write beside waits for the end of a new client's statement (`shadow_postponed`)."""
    identity: bool = False
    """The anchor numbers its rows itself."""
    numbering: str | None = None
    """What gives a new row its key, in PostgreSQL's words."""
    numbered: str = ""
    """The column of a key of several that it is for."""
    moves: bool = False
    """The anchor's row is written under its new key by the way: it is partitioned, or refers to itself."""
    parted: bool = False
    """The anchor is partitioned."""
    partition_by: str | None = None
    """`RANGE (at)` and the like."""
    partition_key: tuple[str, ...] = ()
    partitions: tuple[Partition, ...] = ()
    inbound: tuple[str, ...] = ()
    """The quoted names of tables whose foreign keys point to the anchor, and are made anew at contract."""
    outbound: tuple[str, ...] = ()
    """Those to which its own foreign keys point."""
    swaps: bool = False
    """Cutover gives the shadow the anchor's name (`policy.cutover.mode: swap`)."""
    swapped: Swapped | None = None
    """It has done so: written down in the transaction of the swap."""

    @property
    def relation(self) -> sql.Identifier:
        """The anchor's quoted name, as it is called now."""
        return sql.Identifier(self.schema_name, self.anchor_name)

    @property
    def anchor_name(self) -> str:
        """The anchor's name, as it is called now."""
        return self.set_aside if self.swapped else self.table

    @property
    def relation_label(self) -> str:
        """That name as text: what is locked."""
        return self.relation.as_string(None)

    @property
    def named(self) -> sql.Identifier:
        """The quoted name by which clients know the table, whichever of the two has it."""
        return sql.Identifier(self.schema_name, self.table)

    @property
    def label(self) -> str:
        """That name as text: by it rows of the metadata are found, and messages speak of it."""
        return self.named.as_string(None)

    @property
    def set_aside(self) -> str:
        """The anchor's name while the shadow has its own: never the shadow's, lest a stale statement mistake them."""
        return fit(f"{self.physical}_old")

    @property
    def shadow(self) -> sql.Identifier:
        """The shadow's quoted name, as it is called now."""
        return sql.Identifier(self.schema_name, self.shadow_name)

    @property
    def shadow_name(self) -> str:
        """The shadow's name, as it is called now."""
        return self.table if self.swapped else self.physical

    @property
    def shadow_label(self) -> str:
        """The shadow's quoted name as text: what marks rows that are written for both."""
        return self.shadow.as_string(None)

    @property
    def own(self) -> frozenset[str]:
        """The quoted names of what is ours in the user's schema until contract: no version shows it as a table."""
        ours = [self.physical, self.set_aside]
        return frozenset(sql.Identifier(self.schema_name, name).as_string(None) for name in ours)

    @property
    def touched(self) -> frozenset[str]:
        """The quoted names of all tables that it changes or brings."""
        names = [self.physical, self.shown_as, *(each.name for each in self.partitions)]
        labels = (sql.Identifier(self.schema_name, name).as_string(None) for name in names)
        return frozenset([self.label, *labels, *self.inbound])

    @property
    def shown(self) -> frozenset[str]:
        """The quoted names by which clients reach the new shape while it has the table's name: the table and its partitions."""
        names = [self.table, *(each.name for each in self.partitions)]
        return frozenset(sql.Identifier(self.schema_name, name).as_string(None) for name in names)

    @property
    def journal(self) -> sql.Identifier:
        """The table that lists keys of rows changed while they are copied."""
        return sql.Identifier("pgduet", fit(f"journal_{self.schema_name}.{self.physical}"))

    def routine(self, kind: str) -> sql.Identifier:
        """Name one of the shadow's functions."""
        return sql.Identifier("pgduet", fit(f"{kind}_{self.schema_name}.{self.physical}"))

    @property
    def written(self) -> tuple[ShadowColumn, ...]:
        """The shadow's columns that are written: all but generated ones."""
        return tuple(column for column in self.columns if column.generated is None)

    @property
    def mapped(self) -> tuple[ShadowColumn, ...]:
        """The written columns that are made from the anchor's row."""
        return tuple(column for column in self.written if column.same is not None or column.up is not None)

    @property
    def apart(self) -> tuple[ShadowColumn, ...]:
        """The columns that only the new version has: no `down` reads them, and from publication on they follow nothing."""
        read = {name for column in self.anchors for name in column.sources}
        return tuple(column for column in self.written if column.same is None and column.name not in read)

    @property
    def releases(self) -> bool:
        """Tell that a trigger of the user's may write a unique value that its own statement has just freed."""
        return self.rereads and bool(self.released)

    @property
    def released(self) -> tuple[ShadowKey, ...]:
        """Each uniqueness of columns that both tables have."""
        return (*self.unique, *self.freed)

    @property
    def lossy(self) -> tuple[ShadowColumn, ...]:
        """The columns that may hold what the anchor cannot, and should."""
        apart = {column.name for column in self.apart}
        return tuple(column for column in self.mapped if column.same is None and column.name not in apart)

    @property
    def doubtful(self) -> tuple[ShadowColumn, ...]:
        """The columns by which a row may lose its place in the shadow: `up` raises, or NULL comes where it must not be."""
        empty = {column.name for column in self.anchors if not column.not_null}
        return (*self.lossy, *(column for column in self.mapped if not column.nullable and column.same in empty))

    @property
    def numbered_ahead(self) -> bool:
        """Tell that a new row must have its number before PostgreSQL chooses its partition: no trigger may give it then."""
        return self.numbering is not None and self.numbered_column in self.partition_key

    @property
    def numbered_column(self) -> str:
        """The shadow's column that `numbering` is for."""
        return self.numbered or self.key[0].shadow

    @property
    def key_names(self) -> tuple[str, ...]:
        """The shadow's columns for the anchor's key."""
        return tuple(column.shadow for column in self.key)

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The shadow's primary key."""
        return self.primary or self.key_names

    @property
    def downs(self) -> tuple[AnchorColumn, ...]:
        """The anchor's columns that new clients' writes reach."""
        return tuple(column for column in self.anchors if column.sources)
