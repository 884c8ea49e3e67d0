"""Version schemas: one view per table and version, with the table's own owner and grants.

A changed table has two views for the new version: the published one, and an inner one in `pgduet_views` that also has the
marker column with a default. So an insert through the new version is known as such without any session setting, behind every
pooler. Both run with the caller's rights (`security_invoker`), so row level security holds.
"""

from dataclasses import dataclass

from psycopg import sql

from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import MARKER, inner_view, version_schema
from pgduet.operations.statement import Lock, Statement, trusted
from pgduet.sql import block

_TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRIGGER", "REFERENCES")
OURS = "pgduet version "
"""How the comment of a version schema begins."""
PUBLIC = ""
"""How a grant to everybody names its grantee."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the views need it: its columns in order, and who may do what (grantee to privileges)."""

    schema: str
    table: str
    columns: tuple[str, ...]
    owner: str
    grants: dict[str, tuple[str, ...]]
    may_give: bool = False


def create_schema(schema: str, version: str, usage: tuple[str, ...]) -> list[Statement]:
    """Create a version schema, usable by everybody who may use the schema of the tables."""
    name = sql.Identifier(version_schema(schema, version))
    made = [
        Statement(block("views", "create_schema").format(schema=name), f"schema of version {version}"),
        # By this comment pgduet knows its own schemas: it never touches another's that has such a name.
        Statement(block("views", "comment").format(schema=name, text=sql.Literal(f"{OURS}{version}")), "whose it is"),
    ]
    return made + [
        Statement(block("views", "grant_usage").format(schema=name, role=_role(role)), "its grants") for role in usage
    ]


def plain_view(relation: Relation, version: str) -> list[Statement]:
    """Create the view of a table that has the same shape in this version."""
    view = sql.Identifier(version_schema(relation.schema, version), relation.table)
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in relation.columns)
    base = sql.Identifier(relation.schema, relation.table)
    return [_view(view, columns, base), *_rights(view, relation)]


def changed_view(design: Design, table: TableDesign, relation: Relation) -> list[Statement]:
    """Create the two views of a table that changes: from here on new clients can read and write."""
    inner, view = _inner(design, table), _published(design, table)
    kept = [sql.Composed([sql.Identifier(name)]) for name in table.kept]
    new = [
        sql.SQL("{} AS {}").format(sql.Identifier(column.physical), sql.Identifier(column.name))
        for column in table.new_columns
    ]
    marker = sql.Composed([sql.Identifier(MARKER)])
    names = [sql.Identifier(name) for name in (*table.kept, *(column.name for column in table.new_columns))]
    made = [
        _view(inner, sql.SQL(", ").join([*kept, *new, marker]), table.relation),
        _default(inner, MARKER, sql.SQL("1")),
        *_rights(inner, relation),
        _view(view, sql.SQL(", ").join(names), inner),
    ]
    made += [
        _default(view, column.name, trusted(column.default))
        for column in table.new_columns
        if column.default is not None
    ]
    return made + _rights(view, relation)


def drop_inner_view(design: Design, table: TableDesign) -> Statement:
    """Drop the view that carries the insert marker, once the published one is gone."""
    query = block("views", "drop_view").format(view=_inner(design, table))
    return Statement(query, f"drop the inner view of {table.label}", Lock.ACCESS_EXCLUSIVE)


def lock_changed_view(design: Design, table: TableDesign) -> Statement:
    """Lock the published view, and by it (PostgreSQL locks what a view reads) the inner view and the table, in clients' order."""
    view = _published(design, table)
    return Statement(
        block("locks", "access_exclusive").format(relation=view),
        f"lock {view.as_string(None)}",
        Lock.ACCESS_EXCLUSIVE,
        view.as_string(None),
    )


def direct_view(design: Design, table: TableDesign) -> list[Statement]:
    """Point the published view at the table itself, once the new columns have their own names; drop the inner view."""
    view = _published(design, table)
    names = (*table.kept, *(column.name for column in table.new_columns))
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    return [_view(view, columns, table.relation), drop_inner_view(design, table)]


def drop_schema(schema: str, version: str, names: tuple[str, ...]) -> list[Statement]:
    """Drop a version's views by name, then its schema: what a user built upon them is not ours to drop."""
    name = version_schema(schema, version)
    views = [
        Statement(
            block("views", "drop_view").format(view=sql.Identifier(name, view)),
            f"drop {name}.{view}",
            Lock.ACCESS_EXCLUSIVE,
        )
        for view in names
    ]
    drop = block("views", "drop_schema").format(schema=sql.Identifier(name))
    return [*views, Statement(drop, f"drop version {version}", Lock.ACCESS_EXCLUSIVE)]


def published_name(table: TableDesign, version: str) -> sql.Identifier:
    """Name the view that clients of a version use for a table."""
    return sql.Identifier(version_schema(table.schema_name, version), table.table)


def _inner(design: Design, table: TableDesign) -> sql.Identifier:
    return sql.Identifier("pgduet_views", inner_view(table.schema_name, design.to_version, table.table))


def _published(design: Design, table: TableDesign) -> sql.Identifier:
    return published_name(table, design.to_version)


def _view(view: sql.Identifier, columns: sql.Composable, base: sql.Composable) -> Statement:
    query = block("views", "plain_view").format(view=view, columns=columns, relation=base)
    return Statement(query, f"view {view.as_string(None)}")


def _default(view: sql.Identifier, column: str, value: sql.Composable) -> Statement:
    query = block("views", "default").format(view=view, column=sql.Identifier(column), value=value)
    return Statement(query, f"default of {column}")


def _rights(view: sql.Identifier, relation: Relation) -> list[Statement]:
    made = []
    if relation.may_give:
        # Only a superuser can give a view away at once; the owner's rights, which are granted in any case, are what counts.
        made.append(
            Statement(block("views", "owner").format(view=view, role=sql.Identifier(relation.owner)), "its owner")
        )
    for grantee, privileges in sorted(relation.grants.items()):
        rights = [trusted(right) for right in _TABLE_RIGHTS if right in privileges]
        if rights:
            query = block("views", "grant").format(
                privileges=sql.SQL(", ").join(rights), view=view, role=_role(grantee)
            )
            made.append(Statement(query, "its grants"))
    return made


def _role(name: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if name == PUBLIC else sql.Identifier(name)
