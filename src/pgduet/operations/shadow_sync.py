"""The triggers and policies that keep a shadow and its anchor in step (ADR 28).

The anchor comes first: whoever writes a row of the shadow holds the anchor's row, so both versions' clients meet at one lock. Old
clients' writes reach the shadow by an AFTER trigger on the anchor. New clients' are led to the anchor by the policies on the shadow, which
run before PostgreSQL locks its row, and by a BEFORE trigger, which writes the anchor. `pgduet.row` names the row that is being written for
both, so that neither trigger answers the other; a trigger of the user's that writes other rows meanwhile is heard.

The trigger on the anchor has four forms (`Form`). A form changes by replacing the function, which locks no table: transactions that are
under way may still write in the form before, and each form bears its neighbours.
Limits: a deadlock is possible where somebody writes the shadow past its policies (a superuser who names the shadow itself).
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from psycopg import sql

from pgduet.operations.design import image_differs, is_exact
from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_design import AnchorColumn, ShadowColumn, ShadowDesign
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.sql import block

OLD, NEW = sql.SQL("OLD"), sql.SQL("NEW")
R, D, N, O, S = sql.SQL("r"), sql.SQL("d"), sql.SQL("n"), sql.SQL("o"), sql.SQL("s")  # noqa: E741  (as the blocks call them)
FALSE, TRUE = sql.SQL("false"), sql.SQL("true")


class Form(StrEnum):
    """What the trigger on the anchor does."""

    NOTE = "note"
    """Writes down the keys of changed rows, while rows are copied."""
    MIRROR = "mirror"
    """Writes the shadow, or notes the key where the writer's snapshot may be older than the copied row."""
    BOTH = "both"
    """Writes the shadow, which new clients write, too."""
    ENFORCE = "enforce"
    """The same, and refuses what the shadow cannot hold: the new version is in force."""


# Keys


def anchor_key(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the key of a row of the anchor."""
    return [sql.SQL("{}.{}").format(row, sql.Identifier(column.anchor)) for column in design.key]


def shadow_key(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the key of a row of the shadow."""
    return [sql.SQL("{}.{}").format(row, sql.Identifier(column.shadow)) for column in design.key]


def to_shadow(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the shadow's key for a row of the anchor."""
    return [_cast(value, c.shadow_type) for value, c in zip(anchor_key(design, row), design.key, strict=True)]


def to_anchor(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the anchor's key for a row of the shadow."""
    return [_cast(value, c.anchor_type) for value, c in zip(shadow_key(design, row), design.key, strict=True)]


def same(left: Sequence[sql.Composable], right: Sequence[sql.Composable]) -> Query:
    """Render that two keys are equal."""
    pairs = zip(left, right, strict=True)
    return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(*pair) for pair in pairs)


def _cast(value: sql.Composable, kind: str) -> Query:
    return sql.SQL("({}::{})").format(value, trusted(kind))


def _token(design: ShadowDesign, values: Sequence[sql.Composable]) -> Query:
    """Render what names a row in `pgduet.row`, from its key in the shadow's types."""
    parts = [sql.Literal(f"{design.shadow_label}/"), *(sql.SQL("{}::text").format(value) for value in values)]
    return sql.SQL(" || '/' || ").join([sql.SQL(" || ").join(parts[:2]), *parts[2:]])


# Old to new


def functions(design: ShadowDesign, plan: str, migration_id: int, form: Form) -> list[Statement]:
    """Create or replace the functions of the anchor's triggers in a form; takes no lock on any table."""
    published = form in {Form.BOTH, Form.ENFORCE}
    made = [_fits(design)] if design.guarded else []
    made.append(_function(design, "shadow_forward", _forward(design, plan, migration_id, form)))
    made.append(_function(design, "shadow_truncate", _truncate(design, published=published)))
    return made


def triggers(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create the anchor's triggers: ahead of the user's AFTER triggers, so that what those write comes later here, too."""
    return [
        *_trigger(design, design.relation, _name(plan, "row"), "shadow_forward", "AFTER INSERT OR UPDATE OR DELETE", "ROW"),
        *_trigger(design, design.relation, _name(plan, "all"), "shadow_truncate", "AFTER TRUNCATE", "STATEMENT"),
    ]


def drop_triggers(design: ShadowDesign, plan: str) -> list[Statement]:
    """Drop the anchor's triggers."""
    return [
        Statement(
            block("sync", "drop_trigger").format(trigger=sql.Identifier(_name(plan, kind)), relation=design.relation),
            f"drop the shadow's trigger on {design.label}",
            Lock.ACCESS_EXCLUSIVE,
            design.label,
        )
        for kind in ("row", "all")
    ]


def drop_functions(design: ShadowDesign) -> list[Statement]:
    """Drop all functions, once nothing calls them."""
    kinds = ["shadow_forward", "shadow_truncate", "shadow_reverse"]
    names: list[sql.Composable] = [sql.SQL("{}()").format(design.routine(kind)) for kind in kinds]
    names += [sql.SQL("{}({})").format(design.routine(kind), _key_types(design)) for kind in ("lock_update", "lock_delete")]
    names.append(sql.SQL("{}({})").format(design.routine("shadow_fits"), design.relation))
    names.append(sql.SQL("{}(integer, tid)").format(design.routine("drain")))
    query = block("shadow", "drop_function")
    return [Statement(query.format(function=name), "drop a function of the shadow") for name in names]


def _name(plan: str, kind: str) -> str:
    return "!" + trigger_name(plan, f"shadow_{kind}")[1:]


def _trigger(
    design: ShadowDesign, relation: sql.Identifier, name: str, function: str, when: str, each: str
) -> list[Statement]:
    label = relation.as_string(None)
    create = block("shadow", "trigger").format(
        trigger=sql.Identifier(name),
        when=trusted(when),
        relation=relation,
        each=trusted(each),
        function=design.routine(function),
    )
    always = block("sync", "enable_trigger").format(trigger=sql.Identifier(name), relation=relation)
    return [
        Statement(create, f"trigger on {label}", Lock.SHARE_ROW_EXCLUSIVE, label),
        Statement(always, f"trigger on {label}, always", Lock.SHARE_ROW_EXCLUSIVE, label),
    ]


def _function(design: ShadowDesign, kind: str, body: sql.Composable) -> Statement:
    query = block("shadow", "function").format(function=design.routine(kind), body=_quoted(body))
    return Statement(query, f"{kind} of {design.label}")


def _forward(design: ShadowDesign, plan: str, migration_id: int, form: Form) -> Query:
    changed = _any(_anchor_changed(design, name, OLD, NEW) for name in (column.anchor for column in design.key))
    noted = {
        "journal": design.journal,
        "old_key": _list(anchor_key(design, OLD)),
        "new_key": _list(anchor_key(design, NEW)),
        "key_changed": changed,
    }
    if form is Form.NOTE:
        return block("shadow", "note").format(**noted)
    keep = form is not Form.MIRROR  # before publication nobody but us has written the shadow
    carried = _carried(design, plan, migration_id, form, keep=keep)
    keys: dict[str, sql.Composable] = {
        "relation": design.relation,
        "shadow": design.shadow,
        "old_token": _token(design, to_shadow(design, OLD)),
        "new_token": _token(design, to_shadow(design, NEW)),
        "s_is_old": same(shadow_key(design, S), to_shadow(design, OLD)),
        "s_is_new": same(shadow_key(design, S), to_shadow(design, NEW)),
        "o_is_old": same(anchor_key(design, O), anchor_key(design, OLD)),
        "o_is_new": same(anchor_key(design, O), anchor_key(design, NEW)),
        "carried": carried,
    }
    rekey = _assign(zip(design.key_names, to_shadow(design, NEW), strict=True))
    moved = sql.SQL(" OR {} = current_setting('pgduet.row_to', true)").format(keys["new_token"])
    return block("shadow", "forward").format(
        **keys,
        or_moved=moved if design.parted else sql.SQL(""),
        late=sql.SQL("") if keep else block("shadow", "note_always").format(**noted),
        key_changed=changed,
        rekeyed=block("shadow", "rekeyed").format(**keys, rekey=rekey),
    )


def _carried(design: ShadowDesign, plan: str, migration_id: int, form: Form, *, keep: bool) -> Query:
    exists = sql.SQL(" OR NOT coalesce({}, false)").format(design.exists.over(R)) if design.exists else sql.SQL("")
    return block("shadow", "carried").format(
        shadow=design.shadow,
        s_is_r=same(shadow_key(design, S), to_shadow(design, R)),
        judge=_judge(design, plan, migration_id, form, keep=keep),
        unless_exists=exists,
        and_fits=_and_fits(design, keep=keep),
        assign=_assign((column.name, _forwarded(design, column, keep=keep)) for column in design.mapped),
        columns=identifiers(column.name for column in design.mapped),
        values=_list(column.up_value(R) for column in design.mapped),
    )


def _forwarded(design: ShadowDesign, column: ShadowColumn, *, keep: bool) -> Query:
    """Render what a column becomes: a value that the anchor cannot hold stays, unless what it is made from has changed."""
    value = column.up_value(R)
    if not keep or column.same is not None:
        return value
    changed = _any(_anchor_changed(design, name, OLD, R) for name in column.sources)
    return sql.SQL("CASE WHEN TG_OP = 'INSERT' OR {} THEN {} ELSE {} END").format(changed, value, column.of(S))


def _sources_changed(design: ShadowDesign, *, keep: bool) -> Query:
    if not keep:
        return TRUE
    names = dict.fromkeys(name for column in design.lossy for name in column.sources)
    return sql.SQL("TG_OP = 'INSERT' OR {}").format(_any(_anchor_changed(design, name, OLD, R) for name in names))


def _and_fits(design: ShadowDesign, *, keep: bool) -> Query:
    if not (design.guarded and keep):
        return sql.SQL("")
    return sql.SQL(" AND ({} OR {}(r) IS NULL)").format(_sources_changed(design, keep=keep), design.routine("shadow_fits"))


def _judge(design: ShadowDesign, plan: str, migration_id: int, form: Form, *, keep: bool) -> Query:
    if not design.guarded:
        return sql.SQL("")
    parts: dict[str, sql.Composable] = {
        "changed": _sources_changed(design, keep=keep),
        "fits": design.routine("shadow_fits"),
    }
    if form is Form.ENFORCE:
        return block("shadow", "judge_enforced").format(
            **parts,
            message=sql.Literal(f"the new version of {design.label} cannot hold this row: "),
            hint=sql.Literal(f"It is in force since the cutover of migration {plan}; write values that it can represent."),
            **_where(design),
        )
    return block("shadow", "judge").format(
        **parts,
        migration_id=sql.Literal(migration_id),
        label=sql.Literal(design.label),
        drift_key=key_as_json(design, R),
    )


def key_as_json(design: ShadowDesign, row: sql.Composable) -> Query:
    """Render the key of a row of the anchor as jsonb."""
    pairs = [
        sql.SQL("{}, {}").format(sql.Literal(column.anchor), value)
        for column, value in zip(design.key, anchor_key(design, row), strict=True)
    ]
    return sql.SQL("jsonb_build_object({})").format(_list(pairs))


def _fits(design: ShadowDesign) -> Statement:
    required = [column for column in design.mapped if not column.nullable]
    body = block("shadow", "fits_body").format(
        shadow=design.shadow,
        assign=_lines(sql.SQL("  {} := {};").format(c.of(N), c.up_value(O)) for c in design.mapped),
        empty=_any(sql.SQL("{} IS NULL").format(column.of(N)) for column in required),
    )
    query = block("shadow", "fits").format(
        function=design.routine("shadow_fits"), relation=design.relation, body=_quoted(body)
    )
    return Statement(query, f"shadow_fits of {design.label}")


def _truncate(design: ShadowDesign, *, published: bool) -> Query:
    if not published:
        return block("shadow", "truncate").format(shadow=design.shadow)
    return block("shadow", "truncate_published").format(
        shadow=design.shadow,
        relation=design.relation,
        label=sql.Literal(design.shadow_label),
        o_is_s=same(to_shadow(design, O), shadow_key(design, S)),
    )


# New to old


def policies(design: ShadowDesign) -> list[Statement]:
    """Create what leads new clients to the anchor's row before the shadow's: while nobody but us uses the shadow."""
    label = design.shadow_label
    made = [_lock_function(design, "lock_update", "NO KEY UPDATE"), _lock_function(design, "lock_delete", "UPDATE")]
    parts = {"shadow": design.shadow, "key": identifiers(design.key_names)}
    for name, function in (
        ("policy_read", None),
        ("policy_insert", None),
        ("policy_update", "lock_update"),
        ("policy_delete", "lock_delete"),
        ("secure", None),
        ("force", None),
    ):
        called = {"function": design.routine(function)} if function else {}
        query = block("shadow", name).format(**parts, **called)
        made.append(Statement(query, f"{name} on {label}", Lock.ACCESS_EXCLUSIVE, label))
    return made


def reverse(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create what writes the anchor before the shadow: to be there before the shadow is published, and no earlier, for it costs."""
    made = [_function(design, "shadow_reverse", _Reverse(design, plan).body())]
    when = "BEFORE INSERT OR UPDATE OR DELETE"
    return [
        *made,
        *_trigger(design, design.shadow, trigger_name(plan, "shadow_reverse"), "shadow_reverse", when, "ROW"),
    ]


def drop_reverse(design: ShadowDesign, plan: str) -> list[Statement]:
    """Drop the shadow's trigger, once the new version's view is gone."""
    name = sql.Identifier(trigger_name(plan, "shadow_reverse"))
    query = block("sync", "drop_trigger").format(trigger=name, relation=design.shadow)
    return [Statement(query, f"drop the trigger on {design.shadow_label}", Lock.ACCESS_EXCLUSIVE, design.shadow_label)]


def _lock_function(design: ShadowDesign, kind: str, strength: str) -> Statement:
    names = [sql.Identifier(f"_key_{number}") for number, _ in enumerate(design.key)]
    pairs = list(zip(names, design.key, strict=True))
    given = [_cast(name, column.anchor_type) for name, column in pairs]
    body = block("shadow", "lock_body").format(
        token=_token(design, names),
        label=sql.Literal(design.shadow_label),
        relation=design.relation,
        o_is_given=same(anchor_key(design, O), given),
        strength=trusted(strength),
    )
    query = block("shadow", "lock_function").format(
        function=design.routine(kind),
        arguments=_list(sql.SQL("{} {}").format(name, trusted(column.shadow_type)) for name, column in pairs),
        body=_quoted(body),
    )
    return Statement(query, f"{kind} of {design.label}")


class _Reverse:
    """Renders the body of the trigger on the shadow."""

    def __init__(self, design: ShadowDesign, plan: str) -> None:
        self.design = design
        self.plan = plan
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
                **parts, clear=_assign((column.name, trusted(column.emptied)) for column in self.downs)
            ),
            number=self._number(),
            update=self._update(),
            insert=self._insert_columns() if self.extracts else self._insert_row(),
            refreshed=self._refreshed() if design.rereads else sql.SQL(""),
        )

    def _parts(self) -> dict[str, sql.Composable]:
        design = self.design
        return {
            "relation": design.relation,
            "shadow": design.shadow,
            "label": sql.Literal(design.shadow_label),
            "old_token": _token(design, shadow_key(design, OLD)),
            "new_token": _token(design, shadow_key(design, NEW)),
            "o_is_old": same(anchor_key(design, O), to_anchor(design, OLD)),
            "o_is_new": same(anchor_key(design, O), to_anchor(design, NEW)),
            "s_is_new": same(shadow_key(design, S), shadow_key(design, NEW)),
        }

    def _number(self) -> Query:
        if self.design.numbering is None:
            return sql.SQL("")
        (column,) = shadow_key(self.design, NEW)
        return block("shadow", "number").format(column=column, value=trusted(self.design.numbering))

    def _update(self) -> Query:
        design = self.design
        downs = [
            column.down_assign
            if column.plain
            else block("shadow", "down_of_changed").format(changed=column.changed, down=self._guarded([column]))
            for column in map(self._down, self.downs)
        ]
        if self.extracts:
            downs.insert(0, self._key_stays())
        lossy = [
            sql.SQL("({} AND {})").format(_shadow_changed(design, column.name, OLD, NEW), column.differs(column.of(NEW), column.up_value(D)))
            for column in self._lossy()
        ]
        moves = sql.SQL("")
        if design.partition_key:
            moved = _any(_shadow_changed(design, name, OLD, NEW) for name in design.partition_key)
            moves = block("shadow", "moves").format(**self._parts(), partition_changed=moved)
        return block("shadow", "update").format(
            **self._parts(),
            down=_lines([*downs, *self._refusals(lossy)]),
            assign=self._written(),
            moving=block("shadow", "moving").format(**self._parts()) if design.parted else sql.SQL(""),
            moves=moves,
        )

    def _down(self, column: AnchorColumn) -> "_Down":
        design = self.design
        assign = sql.SQL("    d.{} := {};").format(sql.Identifier(column.name), column.down_value(NEW))
        changed = _any(_shadow_changed(design, name, OLD, NEW) for name in column.sources)
        return _Down(column.same is not None and not column.may_raise, assign, changed)

    def _guarded(self, columns: "Sequence[_Down]") -> Query:
        """Assign what `down` gives; what it raises is told as what it is."""
        plain = [column.down_assign for column in columns if column.plain]
        rest = [column.down_assign for column in columns if not column.plain]
        if not rest:
            return _lines(plain)
        names = ", ".join(column.name for column in self.design.lossy) or ", ".join(self.design.key_names)
        return _lines([*plain, block("shadow", "down").format(assign=_lines(rest), **self._told(names))])

    def _lossy(self) -> tuple[ShadowColumn, ...]:
        return () if self.design.unmappable == "archive" else self.design.lossy

    def _refusals(self, lossy: Sequence[Query]) -> list[Query]:
        made = []
        if lossy:
            names = ", ".join(column.name for column in self._lossy())
            made.append(block("shadow", "lossy").format(lossy=_any(lossy), **self._told(names)))
        if self.design.exists is not None:
            gone = sql.SQL("NOT coalesce({}, false)").format(self.design.exists.over(D))
            made.append(block("shadow", "lossy").format(lossy=gone, **self._told("a row")))
        return made

    def _told(self, names: str) -> dict[str, sql.Composable]:
        message = f"value of {names} in {self.design.shown_as} has no equivalent in the version before"
        hint = f"Migration {self.plan} refuses it while that version is in use (policy.unmappable: refuse)."
        return {"message": sql.Literal(message), "hint": sql.Literal(hint), **_where(self.design)}

    def _written(self) -> Query:
        return _assign((column.name, sql.SQL("d.{}").format(sql.Identifier(column.name))) for column in self.downs)

    def _key_stays(self) -> Query:
        design = self.design
        changed = _any(_shadow_changed(design, name, OLD, NEW) for name in design.key_names)
        message = f"the key of a row of {design.shown_as} cannot change while both versions are in use"
        return block("shadow", "key_stays").format(key_changed=changed, message=sql.Literal(message), **_where(design))

    def _insert_row(self) -> Query:
        design = self.design
        lossy = [column.differs(column.of(NEW), column.up_value(D)) for column in self._lossy()]
        return block("shadow", "insert_row").format(
            **self._parts(),
            arrived=self._moved("arrived", NEW),
            down=_lines([self._guarded([self._down(column) for column in self.downs]), *self._refusals(lossy)]),
            columns=identifiers(column.name for column in self.downs),
            overriding=sql.SQL(" OVERRIDING SYSTEM VALUE" if design.identity else ""),
            values=_list(sql.SQL("d.{}").format(sql.Identifier(column.name)) for column in self.downs),
            probes=_lines(self._probes()),
        )

    def _probes(self) -> Iterable[Query]:
        design = self.design
        own = [sql.SQL("{}.{}").format(S, sql.Identifier(name)) for name in design.primary_key]
        new = [sql.SQL("{}.{}").format(NEW, sql.Identifier(name)) for name in design.primary_key]
        conflicts = [same(own, new), *(same(_fields(S, key.shadow), _fields(NEW, key.shadow)) for key in design.unique)]
        keys = [("primary key", tuple(column.anchor for column in design.key))]
        keys += [(key.name, key.anchor) for key in design.unique]
        for name, columns in keys:
            yield block("shadow", "probe").format(
                relation=design.relation,
                shadow=design.shadow,
                same=same(_fields(O, columns), _fields(D, columns)),
                conflicts=_any(conflicts),
                constraint=sql.Literal(name),
                message=sql.Literal(f'duplicate key value violates unique constraint "{name}"'),
                **_where(design),
            )

    def _insert_columns(self) -> Query:
        design = self.design
        lossy = [column.differs(column.of(NEW), column.up_value(D)) for column in self._lossy()]
        message = f"a row of {design.shown_as} has no row of {design.label} that it belongs to"
        return block("shadow", "insert_columns").format(
            **self._parts(),
            down=_lines([self._guarded([self._down(column) for column in self.downs]), *self._refusals(lossy)]),
            assign=self._written(),
            message=sql.Literal(message),
            **_where(design),
        )

    def _moved(self, name: str, row: sql.Composable) -> Query:
        """Tell the two halves of a move between partitions from a client's own DELETE and INSERT."""
        design = self.design
        if not design.partition_key:
            return sql.SQL("")
        columns = {column.name: column for column in design.columns}
        differs = _any(columns[name].differs(columns[name].of(row), columns[name].up_value(R)) for name in design.partition_key)
        return block("shadow", name).format(**self._parts(), differs=differs)

    def _refreshed(self) -> Query:
        design = self.design
        refresh = [
            block("shadow", "refresh").format(
                changed=_any(_anchor_changed(design, name, D, R) for name in column.sources),
                column=column.of(NEW),
                value=column.up_value(R),
            )
            for column in design.mapped
        ]
        return block("shadow", "refreshed").format(**self._parts(), refresh=_lines(refresh))


class _Down:
    """How a column of the anchor follows the shadow."""

    def __init__(self, plain: bool, down_assign: Query, changed: Query) -> None:  # noqa: FBT001
        self.plain = plain
        self.down_assign = down_assign
        self.changed = changed


def _where(design: ShadowDesign) -> dict[str, sql.Composable]:
    return {"schema": sql.Literal(design.schema_name), "table": sql.Literal(design.shown_as)}


def _key_types(design: ShadowDesign) -> Query:
    return _list(trusted(column.shadow_type) for column in design.key)


def _fields(row: sql.Composable, names: Iterable[str]) -> list[Query]:
    return [sql.SQL("{}.{}").format(row, sql.Identifier(name)) for name in names]


def _anchor_changed(design: ShadowDesign, name: str, left: sql.Composable, right: sql.Composable) -> Query:
    column = next((each for each in design.anchors if each.name == name), None)
    kind = column.type if column else ""
    field = sql.Identifier(name)
    return image_differs(
        sql.SQL("{}.{}").format(left, field), sql.SQL("{}.{}").format(right, field), not is_exact(kind)
    )


def _shadow_changed(design: ShadowDesign, name: str, left: sql.Composable, right: sql.Composable) -> Query:
    column = next(each for each in design.columns if each.name == name)
    return image_differs(column.of(left), column.of(right), not is_exact(column.type))


def _quoted(body: sql.Composable) -> sql.Literal:
    return sql.Literal(body.as_string(None))


def _assign(pairs: Iterable[tuple[str, sql.Composable]]) -> Query:
    return _list(sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in pairs)


def _any(conditions: Iterable[sql.Composable]) -> Query:
    parts = list(conditions)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else FALSE


def _list(parts: Iterable[sql.Composable]) -> Query:
    return sql.SQL(", ").join(parts)


def _lines(parts: Iterable[sql.Composable]) -> Query:
    return sql.SQL("\n").join(parts)
