"""The sync triggers: what keeps both representations in step inside the writers' own transactions.

There are two triggers on a table, one for INSERT and one for UPDATE, in three forms (`SyncMode`). A form changes by replacing
the functions, which locks no table, and by narrowing the UPDATE trigger to the columns it cares for at publication.
Limits: a row that a client changes in both representations at once is left as it is written; parity finds it if it differs.
"""

from collections.abc import Iterable

from psycopg import sql

from pgduet.operations import binding, claims
from pgduet.operations.column_design import ROW, ColumnMapping, NewColumn, image_differs, is_exact
from pgduet.operations.design import Design, TableDesign, down_is_sure, up_is_sure
from pgduet.operations.names import BY_VIEW, MARKER, trigger_name
from pgduet.operations.rekey import concerns
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.phases import SyncMode
from pgduet.sql import block

NEW = sql.SQL("NEW")
OLD = sql.SQL("OLD")
_MARKER = sql.Identifier(MARKER)
_MOVED = sql.Literal(2)
"""The marker's value in a row that may be on its way to another partition."""


def install(design: Design, table: TableDesign, migration_id: int, mode: SyncMode) -> list[Statement]:
    """Create or change a table's triggers and functions; to be run in one transaction."""
    made = [*functions(design, table, migration_id, mode), *claims.triggers(design, table)]
    return [*made, *triggers(design, table, mode)]


def functions(design: Design, table: TableDesign, migration_id: int, mode: SyncMode) -> list[Statement]:
    """Create or replace a table's sync functions; takes no lock on the table."""
    bodies = _Bodies(design, table, migration_id, mode)
    routines = [("sync_insert", bodies.insert()), ("sync_update", bodies.update())]
    made = [
        Statement(
            block("sync", "function").format(function=design.routine(table, kind), body=_quoted(body)),
            f"{kind} of {table.label}: form {mode}",
        )
        for kind, body in routines
    ]
    made.append(Statement(_try_up(design, table), f"try_up of {table.label}"))
    looking = [*binding.functions(design, table), *claims.functions(design, table)]
    return [*looking, *made, Statement(_try_down(design, table), f"try_down of {table.label}")]


def triggers(design: Design, table: TableDesign, mode: SyncMode) -> list[Statement]:
    """Create or replace a table's triggers in the form that `mode` needs."""
    made = []
    for kind, events in (("insert", sql.SQL("INSERT")), ("update", _update_events(table, mode))):
        name = sql.Identifier(trigger_name(design.name, kind))
        create = block("sync", "trigger").format(
            trigger=name, events=events, relation=table.relation, function=design.routine(table, f"sync_{kind}")
        )
        enable = block("sync", "enable_trigger").format(trigger=name, relation=table.relation)
        summary = f"sync trigger for {kind} on {table.label}"
        made.append(Statement(create, summary, Lock.SHARE_ROW_EXCLUSIVE, table.label))
        made.append(Statement(enable, f"{summary}, always", Lock.SHARE_ROW_EXCLUSIVE, table.label))
    return made


def remove(design: Design, table: TableDesign) -> list[Statement]:
    """Drop a table's triggers, then its functions."""
    dropped = [
        Statement(
            block("sync", "drop_trigger").format(
                trigger=sql.Identifier(trigger_name(design.name, kind)), relation=table.relation
            ),
            f"drop the sync trigger for {kind} on {table.label}",
            Lock.ACCESS_EXCLUSIVE,
            table.label,
        )
        for kind in ("insert", "update")
    ]
    return (
        claims.untriggers(design, table)
        + dropped
        + [
            Statement(
                block("sync", "drop_function").format(function=design.routine(table, kind)),
                f"drop {kind} of {table.label}",
            )
            for kind in ("sync_insert", "sync_update", "try_up", "try_down")
        ]
        + binding.drops(design, table)
        + claims.drops(design, table)
    )


def judged(table: TableDesign) -> dict[str, str]:
    """Give the types of the table's columns by which it was judged that something cannot raise.

    They must be the same when the triggers are installed. From then on PostgreSQL keeps them: `UPDATE OF` names the columns.
    """
    ups = [mapping.derived for mapping in table.mappings if up_is_sure(table, mapping)]
    downs = [mapping.replaces for mapping in table.mappings if down_is_sure(table, mapping)]
    read = [pair for derived in ups for column in derived if column.up for pair in column.up.certain.types]
    return dict(read) | {old.name: old.type for replaced in downs for old in replaced}


def _update_events(table: TableDesign, mode: SyncMode) -> Query:
    """Name the columns whose update fires the trigger; every update of a client while rows are still empty.

    A client's UPDATE names a column of the table, the backfill's only columns in the making: for it the trigger need not fire,
    which spares it a quarter of its work (ADR 24). `UPDATE OF` does not see what the user's BEFORE triggers change: such
    tables keep the form that always fires.
    """
    if table.always_fire:
        return sql.SQL("UPDATE")
    if mode is SyncMode.FILL:
        return _update_of(table.columns)
    names = [
        name
        for mapping in table.mappings
        if _matters(table, mapping) and mapping.columns
        for name in (*mapping.sources, *(column.physical for column in mapping.columns))
    ]
    names += table.partition_key
    if not names:  # nothing to do on updates, but a trigger needs a column
        names = [MARKER]
    return _update_of(names)


def _update_of(names: Iterable[str]) -> Query:
    return sql.SQL("UPDATE OF ") + identifiers(dict.fromkeys(names))


class _Bodies:
    """Renders the PL/pgSQL bodies of one table's sync functions in one form."""

    def __init__(self, design: Design, table: TableDesign, migration_id: int, mode: SyncMode) -> None:
        self.design = design
        self.table = table
        self.migration_id = migration_id
        self.mode = mode

    def insert(self) -> Query:
        if self.mode is SyncMode.FILL:
            return self._fill()
        mappings = [
            block("sync", "insert_key_mapping" if concerns(self.table, mapping) else "insert_mapping").format(
                marker=_MARKER,
                by_view=sql.Literal(BY_VIEW),
                new_empty=_all(sql.SQL("{} IS NULL").format(column.of(NEW)) for column in mapping.columns),
                up=self._up(mapping),
                down=self._down(mapping),
            )
            for mapping in self.table.mappings
            if _matters(self.table, mapping)
        ]
        if self.table.partition_key:
            return block("sync", "insert_moved").format(
                mappings=_lines(mappings or [sql.SQL("    NULL;")]), marker=_MARKER, moved=_MOVED
            )
        return block("sync", "insert").format(mappings=_lines(mappings), marker=_MARKER)

    def update(self) -> Query:
        if self.mode is SyncMode.FILL:
            return self._fill()
        mappings = [self._update_mapping(m) for m in self.table.mappings if _matters(self.table, m) and m.columns]
        if self.table.partition_key:
            changed = _changed(self.table, self.table.partition_key)
            mappings.append(block("sync", "moving").format(key_changed=changed, marker=_MARKER, moved=_MOVED))
        return block("sync", "update").format(mappings=_lines(mappings))

    def _update_mapping(self, mapping: ColumnMapping) -> Query:
        changed = [
            image_differs(column.of(OLD), column.of(NEW), not is_exact(column.type)) for column in mapping.columns
        ]
        if not mapping.mirrors:
            # An added column is the new version's own once new clients may write it: `up` gave it its first value.
            return block("sync", "update_added").format(new_changed=_any(changed), down=self._down(mapping))
        return block("sync", "update_mapping").format(
            new_changed=sql.SQL("({})").format(_any(changed)),
            new_same=sql.SQL("NOT ({})").format(_any(changed)),
            sources_changed=sql.SQL("({})").format(_changed(self.table, mapping.sources)),
            old_same=sql.SQL("NOT ({})").format(_changed(self.table, tuple(old.name for old in mapping.replaces))),
            marker=_MARKER,
            up=self._up(mapping),
            down=self._down(mapping),
        )

    def _fill(self) -> Query:
        ups = [self._up(mapping) for mapping in self.table.mappings if mapping.derived]
        return block("sync", "fill").format(mappings=_lines(ups))

    def _up(self, mapping: ColumnMapping) -> Query:
        if not mapping.derived:
            return sql.SQL("      NULL;")
        assign = _lines(
            sql.SQL("      {} := {};").format(column.of(NEW), column.up_value(NEW)) for column in mapping.derived
        )
        if up_is_sure(self.table, mapping):
            return block("sync", "assigned").format(assign=assign, checks=self._must_hold(mapping))
        if self.mode is SyncMode.ENFORCE:
            return block("sync", "up_enforced").format(
                assign=assign,
                message=sql.Literal(f"version {self.design.to_version} of {self.table.label} cannot hold this row: "),
                hint=sql.Literal("This version is in force since its cutover; write values that it can represent."),
                checks=self._must_hold(mapping),
                **self._where(),
            )
        return block("sync", "up_guarded").format(
            assign=assign,
            clear=_lines(sql.SQL("      {} := NULL;").format(column.of(NEW)) for column in mapping.derived),
            **self._note(),
        )

    def _down(self, mapping: ColumnMapping) -> Query:
        checks = self._required(mapping)
        if not mapping.replaces:
            return sql.SQL("{}\n      NULL;").format(checks)
        assign = _lines(
            sql.SQL("      NEW.{} := {};").format(sql.Identifier(old.name), old.down_value(NEW, self.table.physical))
            for old in mapping.replaces
        )
        names = ", ".join(column.name for column in mapping.columns or mapping.replaces)
        message = sql.Literal(
            f"value of {names} in {self.table.label} has no equivalent in version {self.design.from_version}"
        )
        if self.design.unmappable == "archive" and not concerns(self.table, mapping):
            if down_is_sure(self.table, mapping):
                return sql.SQL("{}\n{}").format(checks, assign)
            return block("sync", "down_archive").format(
                checks=checks,
                assign=assign,
                empty=_any(
                    sql.SQL("NEW.{} IS NULL").format(sql.Identifier(old.name))
                    for old in mapping.replaces
                    if old.not_null
                ),
                message=message,
                hint=sql.Literal(
                    f"That version requires one, and `down` of migration {self.design.name} gives none: let it fall back on"
                    " a value."
                ),
                **self._where(),
                **self._note(),
            )
        late_checks = _lines(self._bound(mapping) if self.mode is SyncMode.ENFORCE else [])
        told = {
            "message": message,
            "hint": sql.Literal(
                f"Migration {self.design.name} refuses it while version {self.design.from_version} is in use "
                "(policy.unmappable: refuse)."
            ),
            **self._where(),
        }
        attempt = block("sync", "down_attempt").format(assign=assign, late_checks=late_checks, **told)
        return block("sync", "down_refuse").format(
            checks=checks,
            attempt=assign if down_is_sure(self.table, mapping) else attempt,
            late_checks=late_checks,
            lossy=_any(column.differs(column.of(NEW), column.up_value(NEW)) for column in mapping.derived),
            **told,
        )

    def _must_hold(self, mapping: ColumnMapping) -> Query:
        """Check what `up` may have left empty, from cutover on."""
        if self.mode is not SyncMode.ENFORCE:
            return sql.SQL("")
        return _lines(
            self._required_check(column)
            for column in mapping.columns
            if not (column.nullable or (column.up and column.up.certain.filled))
        )

    def _required(self, mapping: ColumnMapping) -> Query:
        filled = [self._required_check(column) for column in mapping.columns if not column.nullable]
        # From cutover on PostgreSQL's own constraints hold.
        bound = [] if self.mode is SyncMode.ENFORCE else self._bound(mapping)
        return _lines([*filled, *bound])

    def _bound(self, mapping: ColumnMapping) -> list[Query]:
        return [*binding.refusals(self.design, self.table, mapping)]

    def _required_check(self, column: NewColumn) -> Query:
        return block("sync", "required").format(
            value=column.of(NEW),
            message=sql.Literal(
                f'null value in column "{column.name}" of relation "{self.table.table}" violates not-null constraint'
            ),
            hint=sql.Literal(f"Version {self.design.to_version} requires it (migration {self.design.name})."),
            column=sql.Literal(column.name),
            **self._where(),
        )

    def _where(self) -> dict[str, sql.Composable]:
        return {"schema": sql.Literal(self.table.schema_name), "table": sql.Literal(self.table.table)}

    def _note(self) -> dict[str, sql.Composable]:
        return {
            "migration_id": sql.Literal(self.migration_id),
            "relation": sql.Literal(self.table.label),
            "key": self.table.key_of(NEW),
        }


def _try_up(design: Design, table: TableDesign) -> Query:
    values: list[tuple[str, sql.Composable]] = [(column.physical, column.up_value(ROW)) for column in table.derived]
    return _attempt(design, table, "try_up", values)


def _try_down(design: Design, table: TableDesign) -> Query:
    values: list[tuple[str, sql.Composable]] = [
        (old.name, old.down_value(ROW, table.physical)) for old in table.old_columns if old.down
    ]
    return _attempt(design, table, "try_down", values)


def _attempt(design: Design, table: TableDesign, name: str, values: list[tuple[str, sql.Composable]]) -> Query:
    """Make a function that assigns each value to a variable of its column's type, and tells what went wrong."""
    body = block("sync", "try_body").format(
        variables=_lines(
            sql.SQL("  {} {}.{}%TYPE;").format(trusted(f"v{number}"), table.relation, sql.Identifier(column))
            for number, (column, _) in enumerate(values)
        ),
        assign=_lines(
            sql.SQL("  {} := {};").format(trusted(f"v{number}"), value) for number, (_, value) in enumerate(values)
        ),
    )
    return block("sync", "try").format(
        function=design.routine(table, name), relation=table.relation, body=_quoted(body)
    )


def _matters(table: TableDesign, mapping: ColumnMapping) -> bool:
    """Tell whether there is anything to do: an empty added column that may stay so needs no code."""
    if not mapping.columns:
        return any(old.down for old in mapping.replaces)
    bound = table.checks or table.foreign_keys or any(index.position is None for index in table.indexes)
    return bool(bound or mapping.replaces or mapping.derived or any(not column.nullable for column in mapping.columns))


def _quoted(body: sql.Composable) -> sql.Literal:
    return sql.Literal(body.as_string(None))


def _changed(table: TableDesign, names: tuple[str, ...]) -> Query:
    return _any(table.changed(name, OLD, NEW) for name in names) if names else sql.SQL("false")


def _any(conditions: Iterable[sql.Composable]) -> Query:
    return sql.SQL(" OR ").join([*conditions] or [sql.SQL("false")])


def _all(conditions: Iterable[sql.Composable]) -> Query:
    return sql.SQL(" AND ").join([*conditions] or [sql.SQL("true")])


def _lines(parts: Iterable[sql.Composable]) -> Query:
    return sql.SQL("\n").join(parts)
