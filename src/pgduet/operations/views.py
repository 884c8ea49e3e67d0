"""Version schemas: one view per table and version, with the table's own owner and grants.

A table with two representations has two views for the new version: the published one, and an inner one in `pgduet_views` that also
has the marker column with a default. So an insert through the new version is known as such without any session setting, behind
every pooler. Both run with the caller's rights (`security_invoker`), so row level security holds. Later versions show such a table
by way of the same inner view.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql

from pgduet.operations.alter_column import is_null
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import BY_VIEW, MARKER, inner_view, version_schema
from pgduet.operations.statement import Lock, Role, Statement, locking, role, trusted
from pgduet.sql import block

_TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRIGGER", "REFERENCES")
_COLUMN_RIGHTS = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
OURS = "pgduet version "
"""How the comment of a version schema begins; the version follows, and ` of ` with the schema of the tables."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the views need it: its columns in order, and who may do what (grantee to privileges)."""

    schema: str
    table: str
    columns: tuple[str, ...]
    owner: str
    grants: dict[str, tuple[str, ...]]
    may_give: bool = False
    column_grants: tuple[tuple[str, str, str], ...] = ()
    """Column, grantee, privilege."""

    @property
    def relation(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema, self.table)

    @property
    def label(self) -> str:
        """The table's quoted name as text."""
        return self.relation.as_string(None)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a version shows a table: `columns` pairs what is read with how it is called."""

    relation: Relation
    name: str
    base: sql.Identifier
    columns: tuple[tuple[str, str], ...]
    defaults: tuple[tuple[str, str], ...] = ()
    shown: dict[str, str] = field(default_factory=dict)
    """Columns of the table to columns of the view, for grants."""


def create_schema(schema: str, version: str, usage: tuple[str, ...]) -> list[Statement]:
    """Create a version schema, usable by everybody who may use the schema of the tables."""
    name = sql.Identifier(version_schema(schema, version))
    text = sql.Literal(f"{OURS}{version} of {schema}")
    made = [
        Statement(block("views", "create_schema").format(schema=name), f"schema of version {version}"),
        # By this comment pgduet knows its own schemas: it never touches another's that has such a name.
        Statement(block("views", "comment").format(schema=name, text=text), "whose it is"),
    ]
    return made + [
        Statement(block("views", "grant_usage").format(schema=name, role=role(who)), "its grants") for who in usage
    ]


def plain(relation: Relation) -> Shape:
    """Show a table as it is."""
    columns = tuple((name, name) for name in relation.columns)
    return Shape(relation, relation.table, relation.relation, columns, shown=dict(columns))


def changed(design: Design, table: TableDesign, relation: Relation) -> Shape:
    """Show a table as the new version has it: through the inner view where there is one."""
    if table.synced:
        columns = tuple((name, name) for name in table.new_names)
        base = inner_name(design, table)
    else:
        columns = table.kept_names
        base = table.relation
    return Shape(relation, table.shown_as, base, columns, defaults(table), _shown(table))


def final(table: TableDesign, relation: Relation) -> Shape:
    """Show a table as it is once its columns have their own names."""
    columns = tuple((name, name) for name in table.new_names)
    return Shape(relation, table.shown_as, table.relation, columns, defaults(table), _shown(table))


def defaults(table: TableDesign) -> tuple[tuple[str, str], ...]:
    """Give the defaults that the new version has instead of the table's own."""
    made = [(column.name, column.default) for column in table.new_columns if column.default is not None]
    made += [
        (alias.new_name, _default(alias.default, alias.type)) for alias in table.aliases if alias.default is not None
    ]
    return tuple(made)


def _default(default: str, kind: str) -> str:
    # A view's `DEFAULT NULL` would say nothing, and the table's own default would be taken.
    return f"CASE WHEN true THEN NULL::{kind} END" if is_null(default) else default


def _shown(table: TableDesign) -> dict[str, str]:
    """Map the table's columns to the new version's, those in the making included."""
    return dict(table.kept_names) | {column.physical: column.name for column in table.new_columns}


def view(shape: Shape, version: str) -> list[Statement]:
    """Create a version's view of a table."""
    name = sql.Identifier(version_schema(shape.relation.schema, version), shape.name)
    made = [_view(name, shape.columns, shape.base)]
    made += [_set_default(name, column, trusted(value)) for column, value in shape.defaults]
    return made + _rights(name, shape.relation, shape.shown)


def inner(design: Design, table: TableDesign, relation: Relation) -> list[Statement]:
    """Create the view that carries the insert marker, where the table has two representations."""
    if not table.synced:
        return []
    name = inner_name(design, table)
    columns = [*table.kept_names, *((column.physical, column.name) for column in table.new_columns), (MARKER, MARKER)]
    made = [_view(name, tuple(columns), table.relation), _set_default(name, MARKER, sql.Literal(BY_VIEW))]
    return made + _rights(name, relation, _shown(table))


def drop_inner_view(design: Design, table: TableDesign) -> list[Statement]:
    """Drop the view that carries the insert marker, once the published ones are gone."""
    if not table.synced:
        return []
    name = inner_name(design, table)
    return [_dropped(name, f"drop the inner view of {table.label}")]


def lock_views(table: TableDesign, versions: Sequence[str]) -> list[Statement]:
    """Lock the published views, and by them (PostgreSQL locks what a view reads) inner view and table, in clients' order."""
    return [locking(published_name(table, version), Lock.ACCESS_EXCLUSIVE) for version in versions]


def direct_views(design: Design, table: TableDesign, relation: Relation, versions: Sequence[str]) -> list[Statement]:
    """Point the published views at the table itself, once the new columns have their own names; drop the inner view."""
    made = [statement for version in versions for statement in _redirected(table, relation, version)]
    # The published views' locks are on it as well; to take it first by dropping it would drop it under them.
    return [*made, *(replace(each, taking=None) for each in drop_inner_view(design, table))]


def _redirected(table: TableDesign, relation: Relation, version: str) -> list[Statement]:
    shape = final(table, relation)
    return [_view(published_name(table, version), shape.columns, shape.base)]


def drop_schema(schema: str, version: str, names: tuple[str, ...]) -> list[Statement]:
    """Drop a version's views by name, then its schema: what a user built upon them is not ours to drop."""
    name = version_schema(schema, version)
    views = [drop_view(name, each) for each in names]
    drop = block("views", "drop_schema").format(schema=sql.Identifier(name))
    return [*views, Statement(drop, f"drop version {version}", Lock.ACCESS_EXCLUSIVE)]


def drop_view(schema: str, name: str) -> Statement:
    """Drop one view of a version."""
    return _dropped(sql.Identifier(schema, name), f"drop {schema}.{name}")


def _dropped(view: sql.Identifier, summary: str) -> Statement:
    """Drop a view. To do so is to lock it alone: `LOCK TABLE` would lock what it reads, too."""
    query = block("views", "drop_view").format(view=view)
    return Statement(query, summary, Lock.ACCESS_EXCLUSIVE, view.as_string(None), taking=query)


def published_name(table: TableDesign, version: str) -> sql.Identifier:
    """Name the view that clients of the new version, or a later one, use for a table."""
    return sql.Identifier(version_schema(table.schema_name, version), table.shown_as)


def old_name(table: TableDesign, version: str) -> sql.Identifier:
    """Name the view that clients of the old version use for a table."""
    return sql.Identifier(version_schema(table.schema_name, version), table.table)


def inner_name(design: Design, table: TableDesign) -> sql.Identifier:
    """Name the view with the insert marker."""
    return sql.Identifier("pgduet_views", inner_view(table.schema_name, design.to_version, table.table))


def _view(name: sql.Identifier, columns: Sequence[tuple[str, str]], base: sql.Composable) -> Statement:
    listed = [sql.Identifier(source) if source == shown else _as(source, shown) for source, shown in columns]
    query = block("views", "view").format(view=name, columns=sql.SQL(", ").join(listed), relation=base)
    return Statement(query, f"view {name.as_string(None)}")


def _as(source: str, shown: str) -> sql.Composed:
    return sql.SQL("{} AS {}").format(sql.Identifier(source), sql.Identifier(shown))


def _set_default(name: sql.Identifier, column: str, value: sql.Composable) -> Statement:
    query = block("views", "default").format(view=name, column=sql.Identifier(column), value=value)
    return Statement(query, f"default of {column}")


def _rights(name: sql.Identifier, relation: Relation, shown: dict[str, str]) -> list[Statement]:
    made = []
    if relation.may_give:
        # Only a superuser can give a view away at once; the owner's rights, which are granted in any case, are what counts.
        owner = block("views", "owner").format(view=name, role=Role(relation.owner))
        made.append(Statement(owner, "its owner"))
    for grantee, privileges in sorted(relation.grants.items()):
        rights = [trusted(right) for right in _TABLE_RIGHTS if right in privileges]
        if rights:
            query = block("views", "grant").format(privileges=sql.SQL(", ").join(rights), view=name, role=role(grantee))
            made.append(Statement(query, "its grants"))
    for column, grantee, right in relation.column_grants:
        if column in shown and right in _COLUMN_RIGHTS:
            query = block("views", "grant_column").format(
                right=trusted(right), column=sql.Identifier(shown[column]), view=name, role=role(grantee)
            )
            made.append(Statement(query, "its column grants"))
    return made
