"""The design of a migration: a plan resolved against one database's catalogue.

It is computed once, at preflight, and kept in `pgduet.migration.design`; every later phase, and an undo after the workflow
was lost, renders its statements from it. So it holds physical names, canonical expressions and nothing that can go stale
but the oids, which are not in it.
"""

from typing import Literal

from psycopg import sql

from pgduet.operations.aggregates import Aggregate
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.column_design import Alias, ColumnMapping, NewColumn, OldColumn, image_differs
from pgduet.operations.constraints import CarriedIndex, Check, DroppedIndex, Exclusion, ForeignKey, ReplicaIdentity
from pgduet.operations.expressions import Frozen
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.names import physical_column, routine_name, version_schema
from pgduet.operations.referring import Rekey
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Query
from pgduet.operations.whole_tables import CreatedTable, DroppedTable, Script


class TableDesign(Frozen):
    """All that a migration does to one table."""

    schema_name: str
    table: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    columns: tuple[str, ...]
    opaque: tuple[str, ...]
    """Columns that are compared as text."""
    inexact: tuple[str, ...] = ()
    """Columns whose equal values can differ: 1.0 and 1.00, 24 hours and a day."""
    always_fire: bool
    mappings: tuple[ColumnMapping, ...]
    aliases: tuple[Alias, ...] = ()
    new_name: str | None = None
    """The table's name in the new version, where it is another one."""
    checks: tuple[Check, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[CarriedIndex, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    filled: tuple[tuple[str, str], ...] = ()
    """Columns that a new primary key needs filled, and that may be empty now: in the table and in the new version."""
    dropped_constraints: tuple[str, ...] = ()
    renamed_constraints: tuple[tuple[str, str], ...] = ()
    identity: ReplicaIdentity | None = None
    rekey: Rekey | None = None
    """Where columns of the primary key change."""
    computed: tuple[str, ...] = ()
    """Columns that nobody can set: generated ones, and identities."""
    partitioned: bool = False
    partition_key: tuple[str, ...] = ()
    """The columns that decide in which partition a row belongs."""
    leaf: tuple[str, str] | None = None
    """Schema and name of the partition that statements over pages are for (see `heap`); a design that is kept has none."""

    @property
    def heap(self) -> sql.Identifier:
        """Name what has pages: the table, or one of its partitions."""
        return sql.Identifier(*self.leaf) if self.leaf else self.relation

    @property
    def heap_label(self) -> str:
        """The quoted name of what has pages, as text."""
        return self.heap.as_string(None)

    @property
    def relation(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema_name, self.table)

    @property
    def label(self) -> str:
        """The table's quoted name as text: the key of its rows in the metadata."""
        return self.relation.as_string(None)

    @property
    def synced(self) -> bool:
        """Tell whether there are two representations to be kept in step."""
        return bool(self.mappings)

    @property
    def bound(self) -> bool:
        """Tell whether the new version requires something of the rows."""
        asked = any(index.counted for index in self.indexes)
        return bool(asked or self.checks or self.foreign_keys or self.exclusions or self.must_fill)

    @property
    def must_fill(self) -> tuple[tuple[str, str], ...]:
        """The columns that must not be empty from cutover on: in the table and in the new version."""
        return (*((column.physical, column.name) for column in self.required), *self.filled)

    @property
    def shown_as(self) -> str:
        """The table's name in the new version."""
        return self.new_name or self.table

    @property
    def new_columns(self) -> tuple[NewColumn, ...]:
        """Every column in the making."""
        return tuple(column for mapping in self.mappings for column in mapping.columns)

    @property
    def derived(self) -> tuple[NewColumn, ...]:
        """Every column in the making that `up` fills."""
        return tuple(column for column in self.new_columns if column.up is not None)

    @property
    def required(self) -> tuple[NewColumn, ...]:
        """Every column in the making that must not be empty."""
        return tuple(column for column in self.new_columns if not column.nullable)

    @property
    def old_columns(self) -> tuple[OldColumn, ...]:
        """Every column that the new version does without."""
        return tuple(column for mapping in self.mappings for column in mapping.replaces)

    @property
    def mirrored(self) -> tuple[OldColumn, ...]:
        """Every old column that follows new ones."""
        return tuple(column for mapping in self.mappings if mapping.mirrors for column in mapping.replaces)

    @property
    def physical(self) -> dict[str, str]:
        """Physical names of the new version's columns, for expressions over a row of the new version."""
        return {alias.new_name: alias.name for alias in self.aliases} | {c.name: c.physical for c in self.new_columns}

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that both versions have, in the table's order."""
        gone = {column.name for column in self.old_columns}
        return tuple(column for column in self.columns if column not in gone)

    @property
    def kept_names(self) -> tuple[tuple[str, str], ...]:
        """The columns that both versions have: each by its name in the table and its name in the new version."""
        renamed = {alias.name: alias.new_name for alias in self.aliases}
        return tuple((name, renamed.get(name, name)) for name in self.kept)

    @property
    def new_names(self) -> tuple[str, ...]:
        """The columns of the new version, in its order."""
        return (*(name for _, name in self.kept_names), *(column.name for column in self.new_columns))

    @property
    def new_key(self) -> tuple[str, ...]:
        """The primary key as the new version calls its columns."""
        names = dict(self.kept_names) | {old.name: new.name for m in self.mappings for old, new in m.pairs}
        return tuple(names[name] for name in self.key)

    def differs(self, column: str, left: sql.Composable, right: sql.Composable) -> sql.Composable:
        """Render that a column of the table differs between two rows."""
        return self.differs_from(column, left, sql.SQL("{}.{}").format(right, sql.Identifier(column)))

    def differs_from(self, column: str, row: sql.Composable, value: sql.Composable) -> sql.Composable:
        """Render that a column of a row differs from a value."""
        template = "({}.{}::text IS DISTINCT FROM {}::text)" if column in self.opaque else "({}.{} IS DISTINCT FROM {})"
        return sql.SQL(template).format(row, sql.Identifier(column), value)

    def changed(self, column: str, left: sql.Composable, right: sql.Composable) -> Query:
        """Render that a column was changed between two rows; a value that is equal but not the same counts."""
        name = sql.Identifier(column)
        return image_differs(
            sql.SQL("{}.{}").format(left, name), sql.SQL("{}.{}").format(right, name), column in self.inexact
        )

    def key_of(self, row: sql.Composable) -> sql.Composable:
        """Render a row's key as jsonb: the primary key, or where there is none every column that both versions have."""
        pairs = [
            sql.SQL("{}, {}.{}").format(sql.Literal(name), row, sql.Identifier(name))
            for name in (self.key or self.kept)
        ]
        # A call takes 100 arguments at most: wide keys are built in pieces.
        pieces = [sql.SQL(", ").join(pairs[start : start + 40]) for start in range(0, len(pairs), 40)]
        return sql.SQL(" || ").join(sql.SQL("jsonb_build_object({})").format(piece) for piece in pieces)


def up_is_sure(table: TableDesign, mapping: ColumnMapping) -> bool:
    """Tell that no row makes `up` raise; where the trigger fires on any UPDATE, a column may yet get another type."""
    return not table.always_fire and all(column.sure for column in mapping.derived)


def down_is_sure(table: TableDesign, mapping: ColumnMapping) -> bool:
    """Tell that no row makes `down` raise; a column that it reads beside the new ones may yet get another type."""
    own = {column.name for column in mapping.columns}
    read = {name for old in mapping.replaces if old.down for name in old.down.columns}
    return not table.always_fire and read <= own and all(old.sure for old in mapping.replaces)


class Design(Frozen):
    """A whole migration, ready to be rendered."""

    name: str
    from_version: str
    to_version: str
    unmappable: Literal["refuse", "archive"]
    tables: tuple[TableDesign, ...]
    """The tables that both versions have."""
    created: tuple[CreatedTable, ...] = ()
    dropped: tuple[DroppedTable, ...] = ()
    scripts: tuple[Script, ...] = ()
    dropped_indexes: tuple[DroppedIndex, ...] = ()
    shadows: tuple[ShadowDesign, ...] = ()
    attached: tuple[AttachDesign, ...] = ()
    merged: tuple[MergeDesign, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    also_schemas: tuple[str, ...] = ()
    """Schemas whose tables do not change, but which have a version schema."""

    @property
    def synced(self) -> tuple[TableDesign, ...]:
        """The tables that have two representations."""
        return tuple(table for table in self.tables if table.synced)

    @property
    def compared(self) -> tuple[TableDesign, ...]:
        """The tables whose rows can be wrong: by their two representations, or by what the new version requires."""
        return tuple(table for table in self.tables if table.synced or table.bound)

    @property
    def whole(self) -> tuple[ShadowDesign | AttachDesign | MergeDesign, ...]:
        """The tables that get another shape by a second table beside them, or above them, in the plan's order."""
        return tuple(sorted((*self.shadows, *self.attached, *self.merged), key=lambda each: each.position))

    @property
    def own(self) -> frozenset[str]:
        """The quoted names of tables of ours in the user's schemas: no version shows them as they are."""
        return frozenset(name for each in self.whole for name in each.own)

    @property
    def filled(self) -> tuple[str, ...]:
        """The quoted names of the tables whose rows are read by the backfill."""
        kept = [table.label for table in self.tables if table.derived]
        return (*kept, *(each.label for each in self.shadows), *(each.label for each in self.merged))

    @property
    def schemas(self) -> tuple[str, ...]:
        """The schemas that get a version schema."""
        kept, made, gone = self.tables, self.created, self.dropped
        changed = [*(t.schema_name for t in kept), *(t.schema_name for t in made), *(t.schema_name for t in gone)]
        changed += [index.schema_name for index in self.dropped_indexes]
        changed += [each.schema_name for each in self.whole]
        return tuple(dict.fromkeys([*changed, *self.also_schemas]))

    @property
    def touched(self) -> frozenset[str]:
        """The quoted names of all tables that the migration changes, brings or takes."""
        new = [sql.Identifier(t.schema_name, t.new_name).as_string(None) for t in self.tables if t.new_name]
        said = [name for script in self.scripts for name in script.tables]
        whole = [*(t.label for t in self.created), *(t.label for t in self.dropped)]
        whole += [index.table for index in self.dropped_indexes]
        whole += [name for each in self.whole for name in each.touched]
        whole += [inbound.label for t in self.tables if t.rekey for inbound in t.rekey.inbound]
        return frozenset([*(t.label for t in self.tables), *whole, *new, *said])

    @property
    def index_names(self) -> frozenset[str]:
        """The quoted names that indexes have until contract, and those that they get."""
        made = [
            (table.schema_name, name) for table in self.tables for i in table.indexes for name in (i.name, i.working)
        ]
        made += [(table.schema_name, exclusion.name) for table in self.tables for exclusion in table.exclusions]
        made += [(table.schema_name, name) for table in self.created for name, _ in table.whole]
        made += [(table.schema_name, name) for table in self.created for _, name in table.unique]
        return frozenset(sql.Identifier(*name).as_string(None) for name in made)

    def contract_scripts(self, table: TableDesign | None = None) -> list[Script]:
        """Give the plan's SQL that runs at contract with a table (the first changed one that it names), or by itself."""
        mine = [script for script in self.scripts if script.at == "contract"]
        home = {s.position: next((t.label for t in self.tables if t.label in s.tables), None) for s in mine}
        return [script for script in mine if home[script.position] == (table.label if table else None)]

    @property
    def referred(self) -> frozenset[str]:
        """The quoted names of all tables to which its foreign keys refer, those that are carried over included."""
        keys = [key for table in self.tables for key in table.foreign_keys]
        keys += [key for made in self.created for key in made.foreign_keys]
        outbound = [name for each in self.shadows for name in each.outbound]
        outbound += [name for each in self.attached for name in each.outbound]
        return frozenset([*(key.target_relation.as_string(None) for key in keys), *outbound])

    def routine(self, table: TableDesign, kind: str) -> sql.Identifier:
        """Name one of the table's functions (`sync_insert`, `sync_update`, `try_up`)."""
        return sql.Identifier("pgduet", routine_name(self.name, kind, table.schema_name, table.table))

    def physical(self, column: str) -> str:
        """Name a column in the making."""
        return physical_column(self.name, column)

    def version_schemas(self, version: str) -> tuple[str, ...]:
        """Name the version schemas of one version."""
        return tuple(version_schema(schema, version) for schema in self.schemas)
