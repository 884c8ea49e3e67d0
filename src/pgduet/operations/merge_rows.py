"""A merge and what belongs to it, made and taken away: target, journal, triggers, the new version's view (ADR 32).

Old clients' writes note the group's key, in their own transaction, and do nothing else. The new version reads a group that was
noted from the source and every other from the target, in one statement: so it sees each write as soon as it is committed, and the
writer's own at once, whether the target has it or not. Emptying the journal (`merge_rows_rows`) makes reading cheap, never right.
Limits: merged rows are read-only until contract; the source is neither partitioned nor has row security, and nothing refers to it.
"""

from psycopg import sql

from pgduet.operations.column_design import image_differs
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.merge_rows_rows import fields, functions, reading
from pgduet.operations.names import archived_table, fit, trigger_name
from pgduet.operations.shadow_keys import NEW, NOTHING, OLD, any_of, listed, quoted
from pgduet.operations.statement import Lock, Role, Statement, identifiers, role, trusted
from pgduet.operations.views import Relation
from pgduet.sql import block

_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_ARCHIVE = "pgduet_archive"


def create(design: MergeDesign) -> list[Statement]:
    """Create the target with its key, the journal, and the functions that fill the one and empty the other."""
    keys = [sql.SQL("{} {} NOT NULL").format(sql.Identifier(key.target), trusted(key.type)) for key in design.key]
    columns = [
        *keys,
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
    ]


def drop(design: MergeDesign) -> list[Statement]:
    """Drop what `create` created, once no view reads it."""
    return [*_drop_functions(design), *_drop_tables(design.target, design.journal)]


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
        _function(design, "merge_truncate", block("merging", "truncate").format(target=design.target)),
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


def view(design: MergeDesign, name: sql.Identifier, relation: Relation, owner: str, plan: str) -> list[Statement]:
    """Publish the merged rows, for reading: FOR UPDATE through a view of this form locks nothing, so no client holds up a drain."""
    shown = name.as_string(None)
    made = [
        Statement(
            block("merging", "grant_reading").format(relation=each, role=Role(owner)), "the view's owner may read"
        )
        for each in (design.relation, design.target, design.journal)
    ]
    made += [
        Statement(block("merging", "view").format(view=name, reading=reading(design)), f"view {shown}"),
        _function(design, "merge_read_only", _read_only(design, plan)),
        Statement(
            block("merging", "trigger").format(
                trigger=sql.Identifier(_trigger(plan, "read_only")),
                when=sql.SQL("INSTEAD OF INSERT OR UPDATE OR DELETE"),
                relation=name,
                each=sql.SQL("ROW"),
                function=design.routine("merge_read_only"),
            ),
            f"{shown} is read-only until contract",
        ),
        *_grants(name, relation),
        Statement(block("views", "owner").format(view=name, role=Role(owner)), "its owner"),
    ]
    return made


def drop_view(design: MergeDesign, name: sql.Identifier) -> list[Statement]:
    """Withdraw the view, once no new client is left."""
    query = block("merging", "drop_view").format(view=name)
    routine = sql.SQL("{}()").format(design.routine("merge_read_only"))
    return [Statement(query, f"drop view {name.as_string(None)}", Lock.ACCESS_EXCLUSIVE), _drop_function(routine)]


def finish(design: MergeDesign, name: sql.Identifier, relation: Relation, plan: str) -> list[Statement]:
    """Let the target take its place, all in one transaction at READ COMMITTED that has locked the source and emptied the journal.

    The source is kept in the archive, whole: its rows could not be made again from what they came to.
    """
    message = f"the merged rows of {design.label} are not all written yet"
    body = block("merging", "settled_body").format(journal=design.journal, message=sql.Literal(message))
    kept = sql.Identifier(archived_table(plan, design.schema_name, design.table))
    moved = sql.Identifier(_ARCHIVE, design.table)
    columns = identifiers(design.names)
    read_only = sql.Identifier(_trigger(plan, "read_only"))
    return [
        Statement(block("merging", "settled").format(body=quoted(body)), "nothing is left to be merged"),
        Statement(
            block("merging", "drop_trigger").format(trigger=read_only, relation=name),
            f"{name.as_string(None)} can be written",
            Lock.ACCESS_EXCLUSIVE,
        ),
        Statement(
            block("merging", "final_view").format(view=name, columns=columns, target=design.target), "the view is plain"
        ),
        *_grants(design.target, relation),
        Statement(block("views", "owner").format(view=name, role=Role(relation.owner)), "its owner is the table's"),
        *drop_triggers(design, plan),
        _drop_function(sql.SQL("{}()").format(design.routine("merge_read_only"))),
        *_drop_functions(design),
        *_drop_tables(design.journal),
        Statement(
            block("merging", "set_schema").format(relation=design.relation, schema=sql.Identifier(_ARCHIVE)),
            f"keep {design.label}",
            Lock.ACCESS_EXCLUSIVE,
            design.label,
        ),
        Statement(block("merging", "rename").format(relation=moved, name=kept), "by the plan's name"),
        Statement(
            block("merging", "rename_constraint").format(
                relation=design.target, old=_key_name(design.physical), name=_key_name(design.shown_as)
            ),
            "and its key",
            Lock.ACCESS_EXCLUSIVE,
        ),
        Statement(
            block("merging", "rename").format(relation=design.target, name=sql.Identifier(design.shown_as)),
            f"{design.shown_as} has its name",
            Lock.ACCESS_EXCLUSIVE,
        ),
    ]


def _note(design: MergeDesign) -> sql.Composable:
    key = any_of(image_differs(*_both(name), inexact=False) for name in design.source_key)
    read = any_of(image_differs(*_both(each.name), not each.exact) for each in design.reads)
    return block("merging", "note").format(
        journal=design.journal,
        changed=sql.SQL("({} OR {})").format(key, read),
        key_changed=key,
        old_key=listed(fields(OLD, design.source_key)),
        new_key=listed(fields(NEW, design.source_key)),
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
            block("merging", "drop_table").format(relation=each), f"drop {each.as_string(None)}", Lock.ACCESS_EXCLUSIVE
        )
        for each in relations
    ]


def _key_name(table: str) -> sql.Identifier:
    return sql.Identifier(fit(f"{table}_pkey"))


def _trigger(plan: str, kind: str) -> str:
    """Name a trigger: ahead of the user's own, as a shadow's are."""
    return "!" + trigger_name(plan, f"merge_{kind}")[1:]
