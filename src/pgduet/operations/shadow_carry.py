"""What a shadow carries over, as statements of each phase (ADR 28).

`shape`: what must be there before the first row is copied. `before_publication`: what reads through the new version need.
`at_contract`: the rest, in the transaction in which the shadow takes its anchor's name, behind `shadow_final.finish`. What is made
before contract hangs on the shadow alone and goes with it: the undo is `shadow.drop`, or `undo_cutover` for what binds old clients.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import sql

from pgduet.operations import declare, shadow_security
from pgduet.operations.shadow import partition_name
from pgduet.operations.shadow_carried import (
    Carried,
    CarriedColumn,
    CarriedPolicy,
    CarriedStatistics,
    Right,
    as_table,
    late,
)
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Lock, Query, Role, Statement, identifiers, role, trusted
from pgduet.sql import block

_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}
COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_BY_DEFAULT = -1
"""The statistics target of a column that has none of its own."""
_IDENTITY = {"f": "FULL", "n": "NOTHING", "d": "DEFAULT"}

Parts = sql.Composable


def shape(design: ShadowDesign, carried: Carried) -> list[Statement]:
    """Give an empty shadow the form of its anchor's storage, and make it nobody else's: right behind `shadow.create`.

    A publication of all tables has it, too; without a key, PostgreSQL would refuse our own deletes.
    """
    tables = _heaps(design)
    made = [_private(table) for table in (design.shadow, *_partitions(design))]
    if design.kind == "shadow_table":
        made += [statement for table in tables for statement in _stored(table, carried)]
        if carried.tablespace is not None and design.partition_by is not None:
            made.append(_on(design.shadow, "set_tablespace", tablespace=sql.Identifier(carried.tablespace)))
    made += [
        statement for column in carried.columns for statement in _column(design.shadow, _partitions(design), column)
    ]
    if carried.unasked:
        made += [_on(table, "named_by_all") for table in (design.shadow, *_partitions(design))]
    if any(everything for _, everything in carried.unasked):
        made.append(_on(design.journal, "named_by_all"))
    return made


def before_key(carried: Carried) -> list[Statement]:
    """Say where the primary key's index is to be: in the transaction that builds it."""
    if carried.key is None or carried.key.tablespace is None:
        return []
    query = block("shadow_carry", "default_tablespace").format(tablespace=sql.Identifier(carried.key.tablespace))
    return [Statement(query, "where the key's index is")]


def before_publication(design: ShadowDesign, carried: Carried) -> list[Statement]:
    """Make extended statistics under working names, and have the planner know the rows; twice is no harm."""
    made = []
    for each in carried.statistics:
        name = sql.Identifier(each.schema_name, each.working)
        made.append(_alone("drop_statistics", f"clear an earlier {each.working}", name=name))
        definition = {"name": name, "definition": trusted(each.definition), "relation": design.shadow}
        query = block("shadow_carry", "create_statistics").format(**definition)
        made.append(Statement(query, f"statistics {each.name}", Lock.SHARE_UPDATE_EXCLUSIVE, design.shadow_label))
        if each.target is not None:
            made.append(_alone("statistics_target", "their target", name=name, target=sql.Literal(each.target)))
    query = block("shadow_carry", "analyze").format(relation=design.shadow)
    return [*made, Statement(query, f"analyze {design.shadow_label}", Lock.SHARE_UPDATE_EXCLUSIVE, design.shadow_label)]


def undo_cutover(design: ShadowDesign, carried: Carried) -> list[Statement]:
    """Drop the unique indexes that bind old clients: each outside any transaction, beside clients."""
    table = as_table(design)
    return [declare.drop_index(table, index) for index in late(carried)]


def at_contract(
    design: ShadowDesign,
    carried: Carried,
    names: dict[str, str] | None = None,
    there: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Statement]:
    """Give the successor the rest of what its anchor had; behind `shadow_final.finish`, in its transaction.

    `names` has the names that PostgreSQL gave the shadow's NOT NULLs, by column (18); `there` how its columns are stored,
    where that is to be compared: of what somebody took away from the anchor's, statistics targets alone are taken away.
    """
    make = _Contract(design, carried)
    made = [*make.indexes(), *make.statistics(), *make.columns(names or {}), *make.stored(there or {})]
    if design.kind == "shadow_table":
        made += [*make.table(), *make.constraints(), *make.sequences(), *make.security(), *make.published()]
    return [*made, *make.rights(), *shadow_security.drop_functions(design)]


def view_rights(carried: Carried, view: sql.Identifier) -> list[Statement]:
    """Grant on columns of the new version's view what was granted on the anchor's: in the transaction that publishes it."""
    return [
        Statement(
            block("shadow_carry", "grant_columns").format(
                relation=view, column=sql.Identifier(right.column), **_right(right)
            ),
            "its column grants",
        )
        for right in carried.rights
        if right.column is not None
    ]


class _Contract:
    def __init__(self, design: ShadowDesign, carried: Carried) -> None:
        self.design = design
        self.carried = carried
        self.final = sql.Identifier(design.schema_name, design.shown_as)

    def indexes(self) -> Iterable[Statement]:
        """Give the indexes their names, comments and targets; those of UNIQUE constraints have been named by `finish`."""
        known = {key.name for key in self.design.unique}
        parted = self.design.partition_by is not None
        for each in self.carried.indexes:
            index = self._named(each.name)
            if each.constraint and each.name in known:
                pass  # `finish`, or a swap, has named it
            elif each.constraint and not parted:
                working = sql.Identifier(each.working)
                yield self._on("unique_using", each.name, name=sql.Identifier(each.name), index=working)
            else:
                yield declare.rename_index(as_table(self.design), self.design.schema_name, each.working, each.name)
            for place, target in each.targets:
                yield _alone(
                    "index_statistics", "its target", index=index, place=_number(place), target=_number(target)
                )
            if each.comment is not None:
                yield _alone("comment_index", "its comment", index=index, text=sql.Literal(each.comment))
        if key := self.carried.key:
            if key.options:
                yield _alone(
                    "index_options", "as its key was", index=self._named(key.name), options=_listed(key.options)
                )
            if key.comment is not None:
                text = sql.Literal(key.comment)
                yield _alone("comment_index", "its comment", index=self._named(key.name), text=text)

    def statistics(self) -> Iterable[Statement]:
        """Give extended statistics their names."""
        for each in self.carried.statistics:
            yield from self._statistics(each)

    def columns(self, names: dict[str, str]) -> Iterable[Statement]:
        """Comment the columns, and give each NOT NULL its name."""
        for each in self.carried.columns:
            column = sql.Identifier(each.name)
            if each.comment is not None:
                yield self._on("comment_column", "its comment", column=column, text=sql.Literal(each.comment))
            given = names.get(each.name)
            if given is not None and each.not_null is not None and given != each.not_null:
                old, new = sql.Identifier(given), sql.Identifier(each.not_null)
                yield self._on("rename_constraint", f"{each.not_null} keeps its name", constraint=old, name=new)

    def stored(self, there: Mapping[str, Mapping[str, Any]]) -> Iterable[Statement]:
        """Store columns as the anchor's are by now, where the shadow's are not."""
        for each in self.carried.columns:
            if (was := there.get(each.name)) is not None:
                other = each.model_copy(
                    update={
                        "storage": each.storage if each.storage != was["storage"] else None,
                        "compression": each.compression if each.compression != was["compression"] else None,
                        "statistics": _BY_DEFAULT if each.statistics is None else each.statistics,
                        "options": each.options if list(each.options) != list(was["options"]) else (),
                    }
                )
                if each.statistics == was["statistics"]:
                    other = other.model_copy(update={"statistics": None})
                yield from _column(self.final, _partitions(self.design), other)

    def table(self) -> Iterable[Statement]:
        """Carry the mark of CLUSTER, by what rows are named, and who owns the partitions."""
        carried = self.carried
        if carried.clustered is not None and self.design.partition_by is None:
            yield self._on("cluster_on", "clustered as before", index=sql.Identifier(carried.clustered))
        if carried.identity == "i" and carried.identity_index is not None:
            how: Parts = sql.SQL("USING INDEX {}").format(sql.Identifier(carried.identity_index))
        else:
            how = trusted(_IDENTITY.get(carried.identity, "DEFAULT"))
        for relation in (self.final, *_partitions(self.design)):
            if relation is self.final or carried.identity != "i":
                yield _on(relation, "identity", how=how)
        for relation in _partitions(self.design):
            yield _on(relation, "owner", role=Role(carried.owner))

    def constraints(self) -> Iterable[Statement]:
        """Comment constraints and triggers."""
        for name, text in self.carried.constraint_comments:
            parts = {"constraint": sql.Identifier(name), "text": sql.Literal(text)}
            yield self._on("comment_constraint", "its comment", **parts)
        for name, text in self.carried.trigger_comments:
            yield self._on("comment_trigger", "its comment", trigger=sql.Identifier(name), text=sql.Literal(text))

    def sequences(self) -> Iterable[Statement]:
        """Carry what an identity's sequence has beside its numbers."""
        for each in self.carried.sequences:
            name = sql.Identifier(each.schema_name, each.name)
            if self.design.partition_by is None:
                # Before PostgreSQL 17 a partitioned table has a plain sequence instead, with rights that an identity needs not.
                yield _private(name)
            if each.comment is not None:
                yield _alone("comment_sequence", "its comment", sequence=name, text=sql.Literal(each.comment))
            for right in each.grants:
                yield _alone("grant_sequence", "its grants", sequence=name, **_right(right))

    def security(self) -> Iterable[Statement]:
        """Make the user's own policies anew, and turn them on if they were."""
        for policy in self.carried.policies:
            yield self._final(policy_query(self.final, policy), f"policy {policy.name}")
            if policy.comment is not None:
                parts = {"policy": sql.Identifier(policy.name), "text": sql.Literal(policy.comment)}
                yield self._on("comment_policy", "its comment", **parts)
        if self.carried.secured:
            yield self._on("enable", "row level security")
        if self.carried.forced:
            yield self._on("force", "for the owner, too")

    def published(self) -> Iterable[Statement]:
        """Put the table into the publications that named it."""
        for each in self.carried.publications:
            columns = sql.SQL(" ({})").format(identifiers(each.columns)) if each.columns else sql.SQL("")
            condition = trusted(f" WHERE ({each.condition})" if each.condition is not None else "")
            parts = {"publication": sql.Identifier(each.name), "columns": columns, "condition": condition}
            yield self._on("publish", f"published by {each.name}", **parts)

    def rights(self) -> Iterable[Statement]:
        """Give exactly the rights that there were; last, when the owner is who it was."""
        owner = self.carried.owner
        if self.design.kind == "shadow_table":
            yield _private(self.final)
            yield self._on("revoke_owner", "as its owner had it", role=Role(owner))
        for right in self.carried.rights:
            if right.column is None:
                yield self._on("grant", "its grants", **_right(right))
            else:
                yield self._on("grant_columns", "its grants", column=sql.Identifier(right.column), **_right(right))

    def _statistics(self, each: CarriedStatistics) -> Iterable[Statement]:
        working = sql.Identifier(each.schema_name, each.working)
        name = sql.Identifier(each.schema_name, each.name)
        yield _alone("rename_statistics", f"{each.name} keep their name", name=working, final=sql.Identifier(each.name))
        if each.comment is not None:
            yield _alone("comment_statistics", "their comment", statistics=name, text=sql.Literal(each.comment))
        yield _alone("statistics_owner", "their owner", name=name, role=Role(each.owner))

    def _named(self, name: str) -> sql.Identifier:
        return sql.Identifier(self.design.schema_name, name)

    def _on(self, template: str, summary: str, /, **parts: Parts) -> Statement:
        return self._final(block("shadow_carry", template).format(relation=self.final, **parts), summary)

    def _final(self, query: Query, summary: str) -> Statement:
        """Make a statement on the table under its final name: it is locked already."""
        return Statement(query, summary)


def policy_query(relation: sql.Composable, policy: CarriedPolicy) -> Query:
    """Render the statement that creates a policy as the user had it."""
    roles: Parts = sql.SQL(", ").join(Role(name) for name in policy.roles) if policy.roles else sql.SQL("PUBLIC")
    return block("shadow_carry", "policy").format(
        policy=sql.Identifier(policy.name),
        relation=relation,
        kind=trusted("PERMISSIVE" if policy.permissive else "RESTRICTIVE"),
        command=trusted(COMMANDS[policy.command]),
        roles=roles,
        using=trusted(f"USING ({policy.using})" if policy.using is not None else ""),
        check=trusted(f"WITH CHECK ({policy.check})" if policy.check is not None else ""),
    )


def _heaps(design: ShadowDesign) -> list[sql.Identifier]:
    """Name what has pages: the shadow, or its partitions."""
    return _partitions(design) or [design.shadow]


def _partitions(design: ShadowDesign) -> list[sql.Identifier]:
    return [partition_name(design, each) for each in design.partitions]


def _stored(table: sql.Identifier, carried: Carried) -> Iterable[Statement]:
    if carried.persistence == "u":
        yield _on(table, "set_unlogged")
    if carried.tablespace is not None:
        yield _on(table, "set_tablespace", tablespace=sql.Identifier(carried.tablespace))
    if carried.options:
        yield _on(table, "set_options", options=_listed(carried.options))


def _column(
    relation: sql.Identifier, partitions: Sequence[sql.Identifier], column: CarriedColumn
) -> Iterable[Statement]:
    name = sql.Identifier(column.name)
    everywhere = (relation, *partitions)
    if column.storage is not None:
        yield _on(relation, "set_storage", column=name, storage=trusted(_STORAGE[column.storage]))
    if column.compression is not None:
        compression = trusted(_COMPRESSION[column.compression])
        # Like options, and unlike the others, it never reaches the partitions by itself.
        yield from (_on(table, "set_compression", column=name, compression=compression) for table in everywhere)
    if column.statistics is not None:
        target = _number(column.statistics)
        yield from (_on(table, "set_statistics", column=name, target=target) for table in everywhere)
    if column.options:
        options = _listed(column.options)
        yield from (_on(table, "set_column_options", column=name, options=options) for table in everywhere)


def _private(relation: sql.Identifier) -> Statement:
    label = relation.as_string(None)
    body = block("shadow_carry", "private_body").format(relation=sql.Literal(label)).as_string(None)
    return Statement(block("shadow_carry", "private").format(body=sql.Literal(body)), f"nobody else's: {label}")


def _right(right: Right) -> dict[str, Parts]:
    option = trusted(" WITH GRANT OPTION" if right.grantable else "")
    return {"right": trusted(right.privilege), "role": role(right.grantee), "option": option}


def _listed(options: Sequence[str]) -> Query:
    """Render options as the catalogue has them: `name=value`."""
    pairs = [option.partition("=") for option in options]
    return sql.SQL(", ").join(sql.SQL("{} = {}").format(trusted(name), sql.Literal(value)) for name, _, value in pairs)


def _number(value: int) -> sql.Literal:
    return sql.Literal(value)


def _on(relation: sql.Identifier, template: str, /, **parts: Parts) -> Statement:
    label = relation.as_string(None)
    query = block("shadow_carry", template).format(relation=relation, **parts)
    return Statement(query, f"{template.replace('_', ' ')} ({label})", Lock.ACCESS_EXCLUSIVE, label)


def _alone(template: str, summary: str, /, **parts: Parts) -> Statement:
    return Statement(block("shadow_carry", template).format(**parts), summary)
