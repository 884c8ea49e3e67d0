"""Finds the user's views and policies over altered columns, and tries them over the successors' types.

Mechanism: an empty temporary table of the table's own name has the columns with their new types; PostgreSQL's text of each view and
policy is tried on it, with the table's name replaced, and all of it is rolled back. So no table of anybody's is read or locked,
and what cannot be made anew is known before anything is done.
Limits: materialized views, rules, views with defaults of their own, and views that must be dropped while something else hangs on
them are refused. A view that names the table by text (`'public.t'::regclass`) is tried on the real one.
"""

import re
from typing import Any

import psycopg
from psycopg import sql

from pgduet.errors import NotSupported
from pgduet.operations.carry import successors
from pgduet.operations.dependents import (
    DependentPolicy,
    Dependents,
    DependentView,
    Grant,
    policy_query,
    view_query,
)
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import trusted
from pgduet.operations.views import OURS
from pgduet.postgres import catalogue
from pgduet.postgres.expressions import Rollback
from pgduet.postgres.session import Connection
from pgduet.sql import block

LATER = "Drop it first and create it again after contract, or leave the column out of the plan."


async def dependents_of(conn: Connection, table: TableDesign) -> Dependents:
    """Find what is to be made anew, and try it.

    Raises:
        NotSupported: naming the object that cannot be made anew, and why.
    """
    columns = successors(table.mappings)
    if not columns:
        return Dependents()
    where = {"relation": table.label, "columns": list(columns), "ours": OURS}
    try:
        async with conn.transaction():
            # Then PostgreSQL writes every name in its texts with its schema.
            await conn.execute("SET LOCAL search_path = ''")
            views = await _rows(conn, "views", where)
            policies = await _rows(conn, "policies", where)
            if views or policies:
                await _refuse_others(views, policies)
                await conn.execute(await _shape(conn, table))
                dropped = await _try_views(conn, table, views)
                await _try_policies(conn, table, policies)
                made = tuple(
                    [await _view(conn, v, v["oid"] in dropped) for v in views if v["direct"] or v["oid"] in dropped]
                )
                raise _Found(
                    Dependents(
                        columns=tuple(columns.items()),
                        views=made,
                        policies=tuple(
                            DependentPolicy(name=p["name"], using=p["using"], check=p["check"]) for p in policies
                        ),
                    )
                )
    except _Found as found:
        return found.dependents
    return Dependents()


class _Found(Rollback):
    """Ends the trial with what was found."""

    def __init__(self, dependents: Dependents) -> None:
        self.dependents = dependents
        super().__init__()


async def _rows(conn: Connection, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(block("dependents", name), parameters)).fetchall()


async def _refuse_others(views: list[dict[str, Any]], policies: list[dict[str, Any]]) -> None:
    for view in views:
        if view["kind"] != "v":
            raise _refusal(view, "it is no plain view")
        if view["ruled"]:
            raise _refusal(view, "it has rules or defaults of its own")
        if not view["owned"]:
            raise _refusal(view, f"the worker's role is no member of its owner {view['owner']}")
    for policy in policies:
        if not policy["own"]:
            raise NotSupported(f"{policy['what']} reads the column from another table", hint=LATER)


def _refusal(view: dict[str, Any], why: str) -> NotSupported:
    name = sql.Identifier(view["schema"], view["name"]).as_string(None)
    return NotSupported(f"view {name} reads the column and cannot be made anew over the new one: {why}", hint=LATER)


async def _shape(conn: Connection, table: TableDesign) -> sql.Composed:
    facts = await catalogue.table(conn, table.schema_name, table.table)
    after = {old.name: new for m in table.mappings for old, new in m.pairs}
    parts = []
    for column in facts.columns:
        new = after.get(column.name)
        kind, collation = (new.type, new.collation) if new else (column.type, column.collation)
        text = f"{kind} COLLATE {collation}" if collation else kind
        parts.append(sql.SQL("{} {}").format(sql.Identifier(column.name), trusted(text)))
    return block("carrying", "shape").format(shape=sql.Identifier(table.table), columns=sql.SQL(", ").join(parts))


async def _try_views(conn: Connection, table: TableDesign, views: list[dict[str, Any]]) -> set[int]:
    """Make each view over the new types; gives those that must be dropped, because a column of them changes its type."""
    dropped: set[int] = set()
    moved = [(table.schema_name, table.table)]
    for view in views:
        # In the one temporary schema, a view may have the name of the table, or of another schema's view: unless it is read
        # by that name, it has one of its own.
        read = any(_names(each["definition"], (view["schema"], view["name"])) for each in views if each is not view)
        if read and view["name"] in {name for _, name in moved}:
            raise _refusal(
                view, "views are read upon it, and something beneath them has the same name in another schema"
            )
        name = sql.Identifier("pg_temp", view["name"] if read else f"_pgduet_trial_{view['oid']}")
        try:
            async with conn.transaction():
                await conn.execute(view_query(name, _moved(view["definition"], moved)))
        except psycopg.Error as error:
            raise _refusal(view, error.diag.message_primary or "PostgreSQL refuses it") from None
        if read:
            moved.append((view["schema"], view["name"]))
        types = (await _rows(conn, "types_of", {"relation": name.as_string(None)}))[0]["types"]
        beneath = any(
            _names(view["definition"], (each["schema"], each["name"])) for each in views if each["oid"] in dropped
        )
        if types != view["types"] or beneath:
            dropped.add(view["oid"])
            if not view["may_make"]:
                # It would come to light after the point of no return.
                why = (
                    f"it must be dropped for that, and the worker's role, or its owner {view['owner']}, may create none"
                )
                raise _refusal(view, f"{why} in schema {view['schema']}")
            if view["hanging"]:
                raise _refusal(view, f"it must be dropped for that, and {view['hanging'][0]} depends on it")
    return dropped


async def _try_policies(conn: Connection, table: TableDesign, policies: list[dict[str, Any]]) -> None:
    relation = sql.Identifier("pg_temp", table.table)
    for number, row in enumerate(policies):
        moved = [(table.schema_name, table.table)]
        policy = DependentPolicy(
            name=row["name"],
            using=_moved(row["using"], moved) if row["using"] else None,
            check=_moved(row["check"], moved) if row["check"] else None,
        )
        try:
            async with conn.transaction():
                await conn.execute(policy_query(f"trial {number}", relation, policy, trial=True))
        except psycopg.Error as error:
            message = f"{row['what']} cannot be made anew over the new column: {error.diag.message_primary}"
            raise NotSupported(message, hint=LATER) from None


async def _view(conn: Connection, row: dict[str, Any], dropped: bool) -> DependentView:  # noqa: FBT001
    oid = {"oid": row["oid"]}
    comments = await _rows(conn, "column_comments", oid)
    return DependentView(
        schema_name=row["schema"],
        name=row["name"],
        definition=row["definition"],
        owner=row["owner"],
        options=tuple(row["options"]),
        comment=row["comment"],
        column_comments=tuple((each["column"], each["comment"]) for each in comments),
        grants=tuple(Grant(**each) for each in await _rows(conn, "grants", oid)),
        dropped=dropped,
    )


def _pattern(relation: tuple[str, str]) -> str:
    """Match a qualified name as PostgreSQL writes it: a part is quoted only where it must be."""
    parts = [
        "(?:" + "|".join(re.escape(text) for text in {part, '"' + part.replace('"', '""') + '"'}) + ")"
        for part in relation
    ]
    return rf'(?<![\w$".]){parts[0]}\.(?P<name>{parts[1]})(?![\w$"])'


def _names(definition: str, relation: tuple[str, str]) -> bool:
    return re.search(_pattern(relation), definition) is not None


def _moved(definition: str, relations: list[tuple[str, str]]) -> str:
    for relation in relations:
        definition = re.sub(_pattern(relation), lambda found: f"pg_temp.{found['name']}", definition)
    return definition
