"""What a new client's INSERT does where a row is in its way, by whichever of the shadow's unique indexes (ADR 28).

PostgreSQL looks for such rows itself once the trigger has returned; it locks the one that ON CONFLICT is for, in the shadow. So the
trigger locks the anchor's rows of all that are in the way, in the key's order, and writes nothing. What an index is over is said in
PostgreSQL's own words, over the row that is to come as over those that are there.

The anchor refuses what its own indexes are over before anything is written. What only the shadow has is unique from cutover on:
then the row is put into the shadow on trial, and taken out again, in a subtransaction that takes the anchor's back if it fails. A
value that was put in stays one's own until the transaction ends, so nobody else can have it in between.
Limits: what a BEFORE trigger of the user's makes of a value is not looked for. The row that a trial takes out is left to vacuum.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from pgduet.operations.shadow_carried import Carried, IndexPart, ShadowIndex
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_keys import (
    MET,
    NEW,
    NOTHING,
    D,
    O,
    S,
    anchor_key,
    any_of,
    fields,
    lines,
    listed,
    same,
    shadow_key,
    to_anchor,
    token,
    where,
)
from pgduet.operations.shadow_rekeyed import lock_row
from pgduet.operations.statement import Query, identifiers, trusted
from pgduet.sql import block


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """The shadow's unique indexes beside its key."""

    indexes: tuple[ShadowIndex, ...] = ()
    tried: bool = False
    """The shadow may refuse what the anchor accepts: new rows are put into it on trial."""


def published(carried: Carried) -> Uniqueness:
    """Give what is unique from publication on."""
    return Uniqueness(tuple(each for each in carried.indexes if each.unique and not each.binds))


def in_force(carried: Carried) -> Uniqueness:
    """Give what is unique from cutover on."""
    unique = tuple(each for each in carried.indexes if each.unique)
    return Uniqueness(unique, tried=any(each.binds for each in unique))


def designed(design: ShadowDesign) -> Uniqueness:
    """Give what the design knows by itself: indexes over columns alone."""
    return Uniqueness(
        tuple(
            ShadowIndex(
                name=each.name,
                working=each.working,
                definition="",
                unique=True,
                equal=True,
                parts=tuple(IndexPart(text=f"({sql.Identifier(name).as_string(None)})") for name in each.shadow),
            )
            for each in design.released
        )
    )


def probes(design: ShadowDesign, unique: Uniqueness) -> Query:
    """Render how all that is in the way of a row is locked in the anchor; of an extraction, the row's own parent as well."""
    found = in_the_way(design, unique)
    extracts = design.kind == "extract_table"
    met, own = to_anchor(design, MET), listed(shadow_key(design, NEW))
    return block("shadow", "probes").format(
        in_the_way=found,
        and_own=sql.SQL(" UNION ALL SELECT {}").format(own) if extracts else NOTHING,
        order=listed(sql.Literal(number + 1) for number, _ in enumerate(design.key)),
        lock=lock_row(design, same(anchor_key(design, O), met), "NO KEY UPDATE"),
        met_token=token(design, shadow_key(design, MET)),
        s_token=token(design, shadow_key(design, S)),
        alone=NOTHING if extracts else lines(_alone(design, found)),
    )


def in_the_way(design: ShadowDesign, unique: Uniqueness) -> Query:
    """Render the keys of the shadow's rows that are in the way of NEW, for each index anew."""
    own = same(fields(S, design.primary_key), fields(NEW, design.primary_key))
    conditions = [own, *(_alike(design, each) for each in unique.indexes)]
    template = sql.SQL("SELECT {} FROM {} AS s WHERE {}")
    keys = listed(shadow_key(design, S))
    return sql.SQL(" UNION ALL ").join(template.format(keys, design.shadow, condition) for condition in conditions)


def trial(design: ShadowDesign, unique: Uniqueness, refreshed: Query, *, plainly: bool = False) -> Query:
    """Render how a row that the anchor has taken is put into the shadow on trial; `plainly`, PostgreSQL says why it cannot."""
    if not unique.tried:
        return NOTHING
    names = [column.name for column in design.written]
    return block("shadow", "trial").format(
        refreshed=refreshed,
        shadow=design.shadow,
        columns=identifiers(names),
        values=listed(fields(NEW, names)),
        or_nothing=NOTHING if plainly else sql.SQL(" ON CONFLICT DO NOTHING"),
        s_is_new=same(shadow_key(design, S), shadow_key(design, NEW)),
    )


def _alone(design: ShadowDesign, found: Query) -> Iterator[Query]:
    keys = [("primary key", tuple(column.anchor for column in design.key))]
    keys += [(key.name, key.anchor) for key in design.unique]
    for name, columns in keys:
        yield block("shadow", "alone").format(
            relation=design.relation,
            o_has_it=same(fields(O, columns), fields(D, columns)),
            in_the_way=found,
            constraint=sql.Literal(name),
            message=sql.Literal(f'duplicate key value violates unique constraint "{name}"'),
            **where(design),
        )


def _alike(design: ShadowDesign, index: ShadowIndex) -> Query:
    """Render that a row of the shadow has in an index what NEW would have in it."""
    conditions: list[sql.Composable] = []
    if index.predicate is not None:
        conditions += [sql.SQL("({})").format(trusted(index.predicate)), _said(design, f"({index.predicate})")]
    for part in index.parts:
        value: Query = _said(design, part.text, index.predicate)
        if part.collation is not None:
            value = sql.SQL("({} COLLATE {})").format(value, trusted(part.collation))
        equal: Query = sql.SQL("{} {} {}").format(trusted(part.text), trusted(part.operator), value)
        if not index.nulls_distinct:
            equal = any_of([equal, sql.SQL("{} IS NULL AND {} IS NULL").format(trusted(part.text), value)])
        conditions.append(equal)
    return sql.SQL(" AND ").join(conditions)


def _said(design: ShadowDesign, text: str, predicate: str | None = None) -> Query:
    """Render what a text over the shadow's columns says of NEW; nothing, where an index has no such row.

    Computed only when it is asked for (OFFSET 0): of other rows it may raise.
    """
    only = sql.SQL(" WHERE {}").format(trusted(predicate)) if predicate is not None else NOTHING
    return sql.SQL("(SELECT {} FROM {} AS n{})").format(trusted(text), _row(design), only)


def _row(design: ShadowDesign) -> Query:
    """Render NEW as a table of one row, with its generated columns, which PostgreSQL computes later."""
    row = sql.SQL("(SELECT ({}).* OFFSET 0)").format(NEW)
    if not any(column.generated for column in design.columns):
        return row
    return sql.SQL("(SELECT {} FROM {} AS n OFFSET 0)").format(listed(_columns(design)), row)


def _columns(design: ShadowDesign) -> Iterator[sql.Composable]:
    for column in design.columns:
        name = sql.Identifier(column.name)
        if column.generated is None:
            yield name
        else:
            yield sql.SQL("({}) AS {}").format(trusted(column.generated), name)
