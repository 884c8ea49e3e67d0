"""A merge and what belongs to it, made and taken away: target, journal, triggers, the new version's view (ADR 32).

Old clients' writes note the group's key, in their own transaction, and do nothing else. The new version reads a group that was
noted from the source and every other from the target, in one statement: so it sees each write as soon as it is committed, and the
writer's own at once, whether the target has it or not. Emptying the journal (`merge_rows_rows`) makes reading cheap, never right.
Limits: merged rows are read-only until contract; the source is neither partitioned nor has row security, and nothing refers to it.
"""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations import merge_rows_writes
from pgduet.operations.column_design import image_differs
from pgduet.operations.merge_rows_design import GroupKey, MergeDesign
from pgduet.operations.merge_rows_rows import drain, fields, functions
from pgduet.operations.names import fit, trigger_name, usual_name
from pgduet.operations.shadow_keys import NEW, NOTHING, OLD, S, any_of, listed, quoted
from pgduet.operations.statement import Lock, Role, Statement, identifiers, role, trusted
from pgduet.operations.views import Relation
from pgduet.sql import block

_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_EVERY = 2_147_483_647


def create(design: MergeDesign) -> list[Statement]:
    """Create the target with its key, the journal, and the functions that fill the one and empty the other."""
    keys = [sql.SQL("{} {} NOT NULL").format(sql.Identifier(key.target), trusted(key.type)) for key in design.key]
    columns = [
        *(_key_column(design, key) for key in design.key),
        *(sql.SQL("{} {}").format(sql.Identifier(each.name), trusted(each.type)) for each in design.columns),
    ]
    key = identifiers(design.target_key)
    target = block("merging", "create_target").format(
        target=design.target, columns=listed(columns), name=_key_name(design.physical), key=key
    )
    journal = block("merging", "create_journal").format(journal=design.journal, columns=listed(keys))
    return [
        Statement(target, f"create {design.target_label}"),
        Statement(journal, "create its journal"),
        Statement(block("merging", "index_journal").format(journal=design.journal, key=key), "index of the journal"),
        *functions(design),
        *merge_rows_writes.create(design),
    ]


def _key_column(design: MergeDesign, key: GroupKey) -> sql.Composable:
    """Define a column of the target's key; its NOT NULL is called from the beginning as PostgreSQL 18 will show it in the end."""
    name = sql.Identifier(usual_name(design.shown_as, key.target, "not_null"))
    return sql.SQL("{} {} CONSTRAINT {} NOT NULL").format(sql.Identifier(key.target), trusted(key.type), name)


def drop(design: MergeDesign) -> list[Statement]:
    """Drop what `create` created, once no view reads it."""
    return [*merge_rows_writes.drop(design), *_drop_functions(design), *_drop_tables(design.target, design.journal)]


def index(design: MergeDesign) -> list[Statement]:
    """Build the index by which a group's rows are found, where the source has none: outside any transaction."""
    if design.index is None:
        return []
    query = block("merging", "index_source").format(
        name=sql.Identifier(design.index), relation=design.relation, key=identifiers(design.source_key)
    )
    return [Statement(query, f"index {design.index}", Lock.SHARE_UPDATE_EXCLUSIVE, design.label)]


def drop_index(design: MergeDesign) -> list[Statement]:
    """Drop the index that `index` built: outside any transaction."""
    if design.index is None:
        return []
    name = sql.Identifier(design.schema_name, design.index)
    query = block("merging", "drop_index").format(name=name)
    return [Statement(query, f"drop index {design.index}", Lock.SHARE_UPDATE_EXCLUSIVE, design.label)]


def triggers(design: MergeDesign, plan: str) -> list[Statement]:
    """Create what notes the groups that old clients change: in one transaction, before the first group is read."""
    made = [
        _function(design, "merge_note", _note(design)),
        _function(design, "merge_truncate", _truncate(design)),
    ]
    for kind, when, each in (
        ("note", "AFTER INSERT OR UPDATE OR DELETE", "ROW"),
        ("truncate", "AFTER TRUNCATE", "STATEMENT"),
    ):
        name = sql.Identifier(_trigger(plan, kind))
        create = block("merging", "trigger").format(
            trigger=name,
            when=trusted(when),
            relation=design.relation,
            each=trusted(each),
            function=design.routine(f"merge_{kind}"),
        )
        always = block("sync", "enable_trigger").format(trigger=name, relation=design.relation)
        made += [
            Statement(create, f"trigger on {design.label}", Lock.SHARE_ROW_EXCLUSIVE, design.label),
            Statement(always, f"trigger on {design.label}, always", Lock.SHARE_ROW_EXCLUSIVE, design.label),
        ]
    return made


def drop_triggers(design: MergeDesign, plan: str) -> list[Statement]:
    """Drop what `triggers` created, once no view reads the target."""
    made = [
        Statement(
            block("sync", "drop_trigger").format(
                trigger=sql.Identifier(_trigger(plan, kind)), relation=design.relation
            ),
            f"drop a trigger on {design.label}",
            Lock.ACCESS_EXCLUSIVE,
            design.label,
        )
        for kind in ("note", "truncate")
    ]
    routines = [sql.SQL("{}()").format(design.routine(kind)) for kind in ("merge_note", "merge_truncate")]
    return [*made, *map(_drop_function, routines)]


def view(
    design: MergeDesign, name: sql.Identifier, relation: Relation, owner: str | None, plan: str
) -> list[Statement]:
    """Publish the merged rows: FOR UPDATE through a view of this form locks nothing, so no client holds up a drain.

    With no `owner` it stays the worker's own, where that cannot give it away.
    """
    shown = name.as_string(None)
    reads = () if owner is None else (design.target, design.journal)
    if owner not in {None, relation.owner}:
        reads = (*reads, design.relation)
    made = [
        Statement(
            block("merging", "grant_reading").format(relation=each, role=Role(owner or "")), "the view's owner may read"
        )
        for each in reads
    ]
    made += [
        Statement(block("merging", "view").format(view=name, reading=merge_rows_writes.shown(design)), f"view {shown}"),
        *_written(design, name, plan),
        *_grants(name, relation),
    ]
    if owner is not None:
        made.append(Statement(block("views", "owner").format(view=name, role=Role(owner)), "its owner"))
    return made


def _written(design: MergeDesign, view: sql.Identifier, plan: str) -> list[Statement]:
    """Say what becomes of writes through a view: refused, or one more row each."""
    write = merge_rows_writes.write(design, plan) if design.writable else _read_only(design, plan)
    triggers = [("write", "INSTEAD OF INSERT OR UPDATE OR DELETE", "ROW", "merge_write")]
    made = [_function(design, "merge_write", write)]
    if design.writable:
        made.append(_function(design, "merge_writing", merge_rows_writes.writing(design)))
        triggers += [
            (f"writing_{when}", f"{when} UPDATE", "STATEMENT", "merge_writing") for when in ("BEFORE", "AFTER")
        ]
    for name, when, each, function in triggers:
        query = block("merging", "trigger").format(
            trigger=sql.Identifier(_trigger(plan, name)),
            when=trusted(when),
            relation=view,
            each=trusted(each),
            function=design.routine(function),
        )
        made.append(Statement(query, f"writes through {view.as_string(None)}"))
    return made


def drop_view(design: MergeDesign, name: sql.Identifier) -> list[Statement]:
    """Withdraw the view, once no new client is left."""
    query = block("merging", "drop_view").format(view=name)
    dropped = Statement(query, f"drop view {name.as_string(None)}", Lock.ACCESS_EXCLUSIVE)
    return [dropped, *drop_writes(design)]


def drop_writes(design: MergeDesign) -> list[Statement]:
    """Drop what writes through the views come to, once these are gone, or written as they are."""
    kinds = ("merge_write", "merge_writing") if design.writable else ("merge_write",)
    return [_drop_function(sql.SQL("{}()").format(design.routine(kind))) for kind in kinds]


def finish(
    design: MergeDesign, views: Sequence[sql.Identifier], relation: Relation, plan: str, archive: Sequence[Statement]
) -> list[Statement]:
    """Let the target take its place, all in one transaction at READ COMMITTED that has locked the source.

    `views` are those of this version and of later ones. `archive` moves the source out of the way, whole: its rows could not be
    made again from what they came to. Clients lock a view before what it reads, and so it is locked first here.
    """
    message = f"the merged rows of {design.label} are not all written yet"
    body = block("merging", "settled_body").format(journal=design.journal, message=sql.Literal(message))
    every_note = drain(design, _EVERY)
    return [
        *(each for view in views for each in _writable(design, plan, view)),
        Statement(every_note, "the last notes", Lock.ACCESS_EXCLUSIVE, design.label),
        Statement(block("merging", "settled").format(body=quoted(body)), "nothing is left to be merged"),
        *(each for view in views for each in _final_view(design, view, relation)),
        *_grants(design.target, relation),
        *_owned(design.target, relation),
        *drop_triggers(design, plan),
        *drop_writes(design),
        *merge_rows_writes.drop(design),
        *_drop_functions(design),
        *_drop_tables(design.journal),
        *_drop_index_with_source(design),
        *archive,
        Statement(
            block("merging", "rename_constraint").format(
                relation=design.target, old=_key_name(design.physical), name=sql.Identifier(design.key_name)
            ),
            "its key",
            Lock.ACCESS_EXCLUSIVE,
            design.target_label,
        ),
        Statement(
            block("merging", "rename").format(relation=design.target, name=sql.Identifier(design.shown_as)),
            f"{design.shown_as} has its name",
            Lock.ACCESS_EXCLUSIVE,
            design.target_label,
        ),
    ]


def _drop_index_with_source(design: MergeDesign) -> list[Statement]:
    """Drop the index that was ours alone: in the archive nobody looks for groups."""
    if design.index is None:
        return []
    query = block("merging", "drop_locked_index").format(name=sql.Identifier(design.schema_name, design.index))
    return [Statement(query, f"drop index {design.index}", Lock.ACCESS_EXCLUSIVE, design.label)]


def _writable(design: MergeDesign, plan: str, view: sql.Identifier) -> list[Statement]:
    """Let a view be written as it is. To do so is to lock it alone: `LOCK TABLE` would lock what it reads, too."""
    kinds = ("write", "writing_BEFORE", "writing_AFTER") if design.writable else ("write",)
    shown = view.as_string(None)
    made = []
    for kind in kinds:
        query = block("merging", "drop_trigger").format(trigger=sql.Identifier(_trigger(plan, kind)), relation=view)
        made.append(Statement(query, f"{shown} is written as it is", Lock.ACCESS_EXCLUSIVE, shown, taking=query))
    return made


def _final_view(design: MergeDesign, view: sql.Identifier, relation: Relation) -> list[Statement]:
    query = block("merging", "final_view").format(view=view, columns=identifiers(design.names), target=design.target)
    return [Statement(query, "the view is plain"), *_owned(view, relation)]


def _owned(name: sql.Identifier, relation: Relation) -> list[Statement]:
    if not relation.may_give:
        return []
    return [Statement(block("merging", "owner").format(relation=name, role=Role(relation.owner)), "its owner")]


def _note(design: MergeDesign) -> sql.Composable:
    key = any_of(image_differs(*_both(name), inexact=False) for name in design.source_key)
    read = any_of(image_differs(*_both(each.name), not each.exact) for each in design.reads)
    noted = block("journal", "noted").format(
        journal=design.journal,
        key_changed=key,
        old_key=listed(fields(OLD, design.source_key)),
        new_key=listed(fields(NEW, design.source_key)),
    )
    return block("merging", "note").format(changed=sql.SQL("({} OR {})").format(key, read), noted=noted)


def _truncate(design: MergeDesign) -> sql.Composable:
    return block("merging", "truncate").format(
        target=design.target, journal=design.journal, s_key=listed(fields(S, design.target_key))
    )


def _both(name: str) -> tuple[sql.Composable, sql.Composable]:
    field = sql.Identifier(name)
    return sql.SQL("OLD.{}").format(field), sql.SQL("NEW.{}").format(field)


def _read_only(design: MergeDesign, plan: str) -> sql.Composable:
    hint = f"Its rows come from {design.label} while that is in use; migration {plan} lets them be written from contract on."
    return block("merging", "read_only").format(
        message=sql.Literal(f"the merged rows of {design.shown_as} cannot be written yet"),
        hint=sql.Literal(hint),
        schema=sql.Literal(design.schema_name),
        table=sql.Literal(design.shown_as),
    )


def _grants(name: sql.Identifier, relation: Relation) -> list[Statement]:
    made = []
    for grantee, privileges in sorted(relation.grants.items()):
        rights = [trusted(right) for right in _RIGHTS if right in privileges]
        if rights:
            query = block("merging", "grant").format(privileges=listed(rights), relation=name, role=role(grantee))
            made.append(Statement(query, f"grants of {name.as_string(None)}"))
    return made


def _function(design: MergeDesign, kind: str, body: sql.Composable) -> Statement:
    query = block("merging", "function").format(
        function=design.routine(kind), arguments=NOTHING, returns=sql.SQL("trigger"), body=quoted(body)
    )
    return Statement(query, f"{kind} of {design.label}")


def _drop_functions(design: MergeDesign) -> list[Statement]:
    return [
        _drop_function(sql.SQL("{}(integer, tid)").format(design.routine("merge_drain"))),
        _drop_function(sql.SQL("{}(integer, {})").format(design.routine("merge_fill"), design.journal)),
    ]


def _drop_function(signature: sql.Composable) -> Statement:
    return Statement(block("merging", "drop_function").format(function=signature), "drop a function of the merge")


def _drop_tables(*relations: sql.Identifier) -> list[Statement]:
    return [
        Statement(
            block("merging", "drop_table").format(relation=each),
            f"drop {each.as_string(None)}",
            Lock.ACCESS_EXCLUSIVE,
            each.as_string(None),
        )
        for each in relations
    ]


def _key_name(table: str) -> sql.Identifier:
    return sql.Identifier(fit(f"{table}_pkey"))


def _trigger(plan: str, kind: str) -> str:
    """Name a trigger: ahead of the user's own, as a shadow's are."""
    return "!" + trigger_name(plan, f"merge_{kind}")[1:]
