"""What leads new clients' writes to the anchor: policies and a trigger on the shadow (ADR 28).

The anchor comes first: whoever writes a row of the shadow holds the anchor's row, so both versions' clients meet at one lock. The
policies lock it, which run before PostgreSQL locks the shadow's row; the BEFORE trigger writes it. A row that gets another key
while it is waited for is followed by its place, or PostgreSQL would lock the shadow's next version first.
Limits: a deadlock is possible where somebody writes the shadow past its policies (a superuser who names the shadow itself).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from pgduet.operations import shadow_conflicts, shadow_postponed, shadow_rekeyed
from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_conflicts import Uniqueness
from pgduet.operations.shadow_design import AnchorColumn, ShadowColumn, ShadowDesign
from pgduet.operations.shadow_keys import (
    NEW,
    NOTHING,
    OLD,
    TRUE,
    D,
    O,
    R,
    S,
    anchor_changed,
    anchor_key,
    any_of,
    assigned,
    cast,
    fields,
    function,
    lines,
    listed,
    locked_row,
    quoted,
    same,
    shadow_changed,
    shadow_key,
    to_anchor,
    token,
    trigger,
    where,
)
from pgduet.operations.shadow_rekeyed import lock_row
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.sql import block


def policies(design: ShadowDesign) -> list[Statement]:
    """Create what leads new clients to the anchor's row before the shadow's: while nobody but us uses the shadow."""
    label = design.shadow_label
    made = lock_functions(design)
    parts = {"shadow": design.shadow, "key": locked_row(design)}
    for name, routine in (
        ("policy_read", None),
        ("policy_insert", None),
        ("policy_update", "lock_update"),
        ("policy_delete", "lock_delete"),
        ("secure", None),
        ("force", None),
    ):
        called = {"function": design.routine(routine)} if routine else {}
        query = block("shadow", name).format(**parts, **called)
        made.append(Statement(query, f"{name} on {label}", Lock.ACCESS_EXCLUSIVE, label))
    return made


def lock_functions(design: ShadowDesign) -> list[Statement]:
    """Create or replace what the policies call: it locks the anchor's row."""
    return [_lock_function(design, "lock_update", "NO KEY UPDATE"), _lock_function(design, "lock_delete", "UPDATE")]


def reverse_function(design: ShadowDesign, plan: str, unique: Uniqueness | None = None) -> Statement:
    """Create or replace what writes the anchor; `unique` is what the shadow has of indexes, or else what the design knows of."""
    known = unique if unique is not None else shadow_conflicts.designed(design)
    return function(design, "shadow_reverse", _Reverse(design, plan, known).body())


def reverse(design: ShadowDesign, plan: str, unique: Uniqueness | None = None) -> list[Statement]:
    """Create what writes the anchor before the shadow: to be there before the shadow is published, and no earlier, for it costs."""
    made = [reverse_function(design, plan, unique), *_number(design)]
    when = "BEFORE INSERT OR UPDATE OR DELETE"
    return [
        *made,
        *shadow_postponed.settling(design, plan),
        *shadow_rekeyed.triggers(design, plan),
        *trigger(design, design.shadow, trigger_name(plan, "shadow_reverse"), "shadow_reverse", when, "ROW"),
    ]


def _number(design: ShadowDesign) -> list[Statement]:
    """Create what numbers a new row for whoever may insert one, where the view must."""
    if not design.numbered_ahead or design.numbering is None:
        return []
    body = block("shadow", "number_body").format(value=trusted(design.numbering))
    kind = next(column.shadow_type for column in design.key if column.shadow == design.numbered_column)
    query = block("shadow", "number_function").format(
        function=design.routine("number"), type=trusted(kind), body=quoted(body)
    )
    return [Statement(query, f"number of {design.label}")]


def drop_reverse(design: ShadowDesign, plan: str) -> list[Statement]:
    """Drop the shadow's triggers, once the new version's view is gone."""
    label = design.shadow_label
    own = (trigger_name(plan, "shadow_reverse"), shadow_postponed.shadow_trigger_name(plan))
    names = map(sql.Identifier, (*own, *shadow_rekeyed.trigger_names(plan)))
    queries = [block("sync", "drop_trigger").format(trigger=name, relation=design.shadow) for name in names]
    return [Statement(query, f"drop the trigger on {label}", Lock.ACCESS_EXCLUSIVE, label) for query in queries]


def _lock_function(design: ShadowDesign, kind: str, strength: str) -> Statement:
    names = [sql.Identifier(f"_key_{number}") for number, _ in enumerate(design.key)]
    pairs = list(zip(names, design.key, strict=True))
    given = [cast(name, column.anchor_type) for name, column in pairs]
    arguments: list[sql.Composable] = [
        sql.SQL("{} {}").format(name, trusted(column.shadow_type)) for name, column in pairs
    ]
    label, partitioned = sql.Literal(design.shadow_label), design.partition_by is not None
    body = block("shadow", "lock_body").format(
        token=token(design, names),
        label=label,
        shadow=design.shadow,
        heap=sql.SQL("_leaf::regclass::text") if partitioned else label,
        known=sql.SQL("_leaf <> 0") if partitioned else TRUE,
        key=listed(names),
        s_key=listed(shadow_key(design, S)),
        s_is_there=sql.SQL("s.ctid = _place AND s.tableoid = _leaf" if partitioned else "s.ctid = _place"),
        lock=lock_row(design, same(anchor_key(design, O), given), strength),
    )
    query = block("shadow", "lock_function").format(
        function=design.routine(kind),
        arguments=listed(
            [
                *arguments,
                sql.SQL("_leaf oid, _place tid, _since boolean" if partitioned else "_place tid, _since boolean"),
            ]
        ),
        body=quoted(body),
    )
    return Statement(query, f"{kind} of {design.label}")


class _Reverse:
    """Renders the body of the trigger on the shadow."""

    def __init__(self, design: ShadowDesign, plan: str, unique: Uniqueness) -> None:
        self.design = design
        self.plan = plan
        self.unique = unique
        self.extracts = design.kind == "extract_table"
        keys = {column.anchor for column in design.key}
        self.downs = [column for column in design.downs if not (self.extracts and column.name in keys)]

    def body(self) -> Query:
        design = self.design
        delete = "delete_columns" if self.extracts else "delete_row"
        parts = self._parts()
        return block("shadow", "reverse").format(
            **parts,
            moved_away=self._moved("moved_away", OLD),
            delete=block("shadow", delete).format(
                **parts, clear=assigned((column.name, trusted(column.emptied)) for column in self.downs)
            ),
            number=self._number(),
            update=self._update(),
            insert=self._insert_columns() if self.extracts else self._insert_row(),
            refreshed=self._refreshed() if design.rereads else NOTHING,
        )

    def _parts(self) -> dict[str, sql.Composable]:
        design = self.design
        return {
            "relation": design.relation,
            "shadow": design.shadow,
            "label": sql.Literal(design.shadow_label),
            "old_token": token(design, shadow_key(design, OLD)),
            "new_token": token(design, shadow_key(design, NEW)),
            "o_is_old": same(anchor_key(design, O), to_anchor(design, OLD)),
            "o_is_new": same(anchor_key(design, O), to_anchor(design, NEW)),
            "s_is_new": same(shadow_key(design, S), shadow_key(design, NEW)),
            "leaving": shadow_postponed.leaving(design),
            "settled": shadow_postponed.settled(design),
        }

    def _number(self) -> Query:
        if self.design.numbering is None or self.design.numbered_ahead:
            return NOTHING
        column = sql.SQL("{}.{}").format(NEW, sql.Identifier(self.design.numbered_column))
        return block("shadow", "number").format(column=column, value=trusted(self.design.numbering))

    def _update(self) -> Query:
        design = self.design
        downs = [
            column.assign
            if column.plain
            else block("shadow", "down_of_changed").format(changed=column.changed, down=self._guarded([column]))
            for column in map(self._down, self.downs)
        ]
        if self.extracts:
            downs.insert(0, self._key_stays())
        downs += [self._numbers_itself(column) for column in self.downs if column.always]
        lossy = [
            sql.SQL("({} AND {})").format(
                shadow_changed(design, column.name, OLD, NEW), column.differs(column.of(NEW), column.up_value(D))
            )
            for column in self._lossy()
        ]
        written = [column for column in self.downs if not column.always]
        moves: Query = NOTHING
        if design.partition_key:
            moved = any_of(shadow_changed(design, name, OLD, NEW) for name in design.partition_key)
            moves = block("shadow", "moves").format(**self._parts(), partition_changed=moved)
        return block("shadow", "update").format(
            **self._parts(),
            down=lines([*downs, *self._refusals(lossy)]),
            keys_change=shadow_rekeyed.keys_change(design, written),
            write=self._write(written),
            moving=block("shadow", "moving").format(**self._parts()) if design.moves else NOTHING,
            moved=block("shadow", "moved") if design.moves else NOTHING,
            moves=moves,
            gone=shadow_postponed.gone(design),
            met=shadow_postponed.met(design),
        )

    def _write(self, columns: list[AnchorColumn]) -> Query:
        rest = shadow_rekeyed.keyless(self.design, columns)
        name: LiteralString = "write_keyless" if rest else "write"
        return block("shadow", name).format(
            **self._parts(), assign=self._written(columns), assign_keyless=self._written(rest)
        )

    def _down(self, column: AnchorColumn) -> "_Down":
        design = self.design
        assign = sql.SQL("    d.{} := {};").format(sql.Identifier(column.name), column.down_value(NEW))
        changed = any_of(shadow_changed(design, name, OLD, NEW) for name in column.sources)
        return _Down(column.same is not None and not column.may_raise, assign, changed)

    def _guarded(self, columns: "Sequence[_Down]") -> Query:
        """Assign what `down` gives; what it raises is told as what it is."""
        plain = [column.assign for column in columns if column.plain]
        rest = [column.assign for column in columns if not column.plain]
        if not rest:
            return lines(plain)
        names = ", ".join(column.name for column in self.design.lossy) or ", ".join(self.design.key_names)
        return lines([*plain, block("shadow", "down").format(assign=lines(rest), **self._told(names))])

    def _lossy(self) -> tuple[ShadowColumn, ...]:
        return () if self.design.unmappable == "archive" else self.design.lossy

    def _refusals(self, lossy: Sequence[Query]) -> list[Query]:
        made: list[Query] = []
        if lossy:
            names = ", ".join(column.name for column in self._lossy())
            made.append(block("shadow", "lossy").format(lossy=any_of(lossy), **self._told(names)))
        if self.design.exists is not None:
            gone = sql.SQL("NOT coalesce({}, false)").format(self.design.exists.over(D))
            made.append(block("shadow", "lossy").format(lossy=gone, **self._told("a row")))
        return made

    def _told(self, names: str) -> dict[str, sql.Composable]:
        message = f"value of {names} in {self.design.shown_as} has no equivalent in the version before"
        hint = f"Migration {self.plan} refuses it while that version is in use (policy.unmappable: refuse)."
        return {"message": sql.Literal(message), "hint": sql.Literal(hint), **where(self.design)}

    def _written(self, columns: Sequence[AnchorColumn]) -> Query:
        return assigned((column.name, sql.SQL("d.{}").format(sql.Identifier(column.name))) for column in columns)

    def _numbers_itself(self, column: AnchorColumn) -> Query:
        """Refuse what PostgreSQL refuses old clients: to give another number to what numbers itself."""
        changed = any_of(shadow_changed(self.design, name, OLD, NEW) for name in column.sources)
        return block("shadow", "numbers_itself").format(
            changed=changed,
            message=sql.Literal(f'column "{column.name}" can only be updated to DEFAULT'),
            detail=sql.Literal(f'Column "{column.name}" is an identity column defined as GENERATED ALWAYS.'),
            **where(self.design),
        )

    def _key_stays(self) -> Query:
        design = self.design
        changed = any_of(shadow_changed(design, name, OLD, NEW) for name in design.key_names)
        message = f"the key of a row of {design.shown_as} cannot change while both versions are in use"
        return block("shadow", "key_stays").format(key_changed=changed, message=sql.Literal(message), **where(design))

    def _insert_row(self) -> Query:
        design = self.design
        lossy = [column.differs(column.of(NEW), column.up_value(D)) for column in self._lossy()]
        written: dict[str, sql.Composable] = {
            "relation": design.relation,
            "columns": identifiers(column.name for column in self.downs),
            "overriding": sql.SQL(" OVERRIDING SYSTEM VALUE" if design.identity else ""),
            "values": listed(fields(D, (column.name for column in self.downs))),
        }
        return block("shadow", "insert_row").format(
            **{**self._parts(), **written},
            arrived=self._moved("arrived", NEW),
            down=lines([self._guarded([self._down(column) for column in self.downs]), *self._refusals(lossy)]),
            attempt=self._attempt(written),
            plainly=self._trial(plainly=True),
            probes=shadow_conflicts.probes(design, self.unique),
        )

    def _attempt(self, written: dict[str, sql.Composable]) -> Query:
        """Render how the anchor takes a row, if nothing is in its way."""
        template = "attempt_on_trial" if self.unique.tried else "attempt"
        return block("shadow", template).format(**written, trial=self._trial())

    def _trial(self, *, plainly: bool = False) -> Query:
        refreshed = self._refreshed() if self.design.rereads else NOTHING
        return shadow_conflicts.trial(self.design, self.unique, refreshed, plainly=plainly)

    def _insert_columns(self) -> Query:
        design = self.design
        lossy = [column.differs(column.of(NEW), column.up_value(D)) for column in self._lossy()]
        message = f"a row of {design.shown_as} has no row of {design.label} that it belongs to"
        parts: dict[str, sql.Composable] = {
            **self._parts(),
            "down": lines([self._guarded([self._down(column) for column in self.downs]), *self._refusals(lossy)]),
            "assign": self._written(self.downs),
            "message": sql.Literal(message),
            **where(design),
        }
        if self.unique.indexes:
            tried = {"trial": self._trial(), "plainly": self._trial(plainly=True)}
            return block("shadow", "insert_unique_columns").format(
                **parts, **tried, probes=shadow_conflicts.probes(design, self.unique)
            )
        lock = lock_row(design, parts["o_is_new"], "NO KEY UPDATE") if design.parted else NOTHING
        return block("shadow", "insert_columns").format(**parts, lock=lock)

    def _moved(self, name: str, row: sql.Composable) -> Query:
        """Tell the two halves of a move between partitions from a client's own DELETE and INSERT."""
        design = self.design
        if not design.partition_key:
            return NOTHING
        columns = {column.name: column for column in design.columns}
        differs = any_of(
            columns[name].differs(columns[name].of(row), columns[name].up_value(R)) for name in design.partition_key
        )
        return block("shadow", name).format(**self._parts(), differs=differs)

    def _refreshed(self) -> Query:
        design = self.design
        refresh = [
            block("shadow", "refresh").format(
                changed=any_of(anchor_changed(design, name, D, R) for name in column.sources),
                column=column.of(NEW),
                value=column.up_value(R),
            )
            for column in design.mapped
        ]
        return block("shadow", "refreshed").format(**self._parts(), refresh=lines(refresh))


@dataclass(frozen=True, slots=True)
class _Down:
    """How a column of the anchor follows the shadow."""

    plain: bool
    assign: Query
    changed: Query
