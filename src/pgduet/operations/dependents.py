"""The user's own views and policies over an altered column: made anew over its successor when the table gets its final shape.

For a moment, in contract's one transaction, the successor bears the old column's name, so that PostgreSQL's own text of a view or a
policy means the successor. A view whose columns keep their types is replaced in place; else it and the views upon it are dropped
and created again, with owner, options, grants and comments.
"""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations.design import TableDesign
from pgduet.operations.expressions import Frozen
from pgduet.operations.names import fit
from pgduet.operations.statement import Lock, Query, Statement, on_table, role, trusted
from pgduet.sql import block


class Grant(Frozen):
    """A privilege on a view, or on one of its columns."""

    grantee: str
    privilege: str
    grantable: bool
    column: str | None = None


class DependentView(Frozen):
    """A view that is made anew; `definition` is PostgreSQL's, with every name qualified."""

    schema_name: str
    name: str
    definition: str
    owner: str
    options: tuple[str, ...] = ()
    comment: str | None = None
    column_comments: tuple[tuple[str, str], ...] = ()
    grants: tuple[Grant, ...] = ()
    dropped: bool = False
    """It must be dropped first: a column of it gets another type, or a view beneath it is dropped."""

    @property
    def view(self) -> sql.Identifier:
        """The view's quoted name."""
        return sql.Identifier(self.schema_name, self.name)


class DependentPolicy(Frozen):
    """A row level security policy of the table."""

    name: str
    using: str | None
    check: str | None


class Dependents(Frozen):
    """What is made anew over the successors of `columns`: pairs of a column and its successor's physical name."""

    columns: tuple[tuple[str, str], ...] = ()
    views: tuple[DependentView, ...] = ()
    policies: tuple[DependentPolicy, ...] = ()


def changed_views(dependents: Dependents) -> list[str]:
    """Describe the views that change for who reads them."""
    return [f"view {each.view.as_string(None)}" for each in dependents.views if each.dropped]


def locks(dependents: Dependents) -> list[Statement]:
    """Lock the views, uppermost first: clients lock a view before what it reads.

    To give a view to the owner that it has locks it alone, and changes nothing.
    """
    made = []
    for each in reversed(dependents.views):
        label = each.view.as_string(None)
        query = block("dependents", "owner").format(view=each.view, role=role(each.owner))
        made.append(Statement(query, f"lock {label}", Lock.ACCESS_EXCLUSIVE, label, taking=query))
    return made


def aside(column: str) -> str:
    """Name the old column while its successor bears its name."""
    return fit(f"_pgduet_before_{column}")


def move(table: TableDesign, dependents: Dependents) -> list[Statement]:
    """Have the views and policies read the successors; the old columns end up under their names `aside`."""
    if not dependents.views and not dependents.policies:
        return []
    there, back = [], []
    for column, physical in dependents.columns:
        there += [_rename(table, column, aside(column)), _rename(table, physical, column)]
        back.append(_rename(table, column, physical))
    drops = [_drop(each) for each in reversed(dependents.views) if each.dropped]
    made = [statement for each in dependents.views for statement in _create(each)]
    return [*drops, *there, *made, *(_policy(table, each) for each in dependents.policies), *back]


def view_query(view: sql.Composable, definition: str, options: Sequence[str] = ()) -> Query:
    """Render the statement that creates or replaces a view."""
    listed = sql.SQL(", ").join(trusted(each) for each in options)
    return block("dependents", "view").format(
        view=view,
        options=block("dependents", "options").format(options=listed) if options else sql.SQL(""),
        definition=trusted(definition.strip().rstrip(";")),
    )


def policy_query(name: str, relation: sql.Composable, policy: DependentPolicy, *, trial: bool = False) -> Query:
    """Render the statement that gives a policy its expressions anew; with `trial`, one that creates it."""
    return block("dependents", "trial_policy" if trial else "policy").format(
        policy=sql.Identifier(name),
        relation=relation,
        using=_clause("USING ({})", policy.using),
        check=_clause("WITH CHECK ({})", policy.check),
    )


def _clause(template: str, text: str | None) -> sql.Composable:
    if text is None:
        return sql.SQL("")
    return trusted(template.format(text))


def _rename(table: TableDesign, column: str, name: str) -> Statement:
    parts = {"column": sql.Identifier(column), "name": sql.Identifier(name)}
    return on_table(table, "columns", "rename", f"{column} is called {name}", Lock.ACCESS_EXCLUSIVE, **parts)


def _drop(each: DependentView) -> Statement:
    label = each.view.as_string(None)
    query = block("dependents", "drop_view").format(view=each.view)
    return Statement(query, f"drop {label}, to make it anew", Lock.ACCESS_EXCLUSIVE, label)


def _create(each: DependentView) -> list[Statement]:
    label = each.view.as_string(None)
    made = [Statement(view_query(each.view, each.definition, each.options), f"make {label} anew")]
    if not each.dropped:
        return made

    def on_view(name: str, **parts: sql.Composable) -> None:
        made.append(Statement(block("dependents", name).format(view=each.view, **parts), f"{name} of {label}"))

    body = block("dependents", "nobody_else_body").format(view=sql.Literal(label)).as_string(None)
    made.append(
        Statement(block("dependents", "nobody_else").format(body=sql.Literal(body)), f"take defaults off {label}")
    )
    for grant in each.grants:
        option = trusted(" WITH GRANT OPTION" if grant.grantable else "")
        parts = {"right": trusted(grant.privilege), "role": role(grant.grantee), "option": option}
        if grant.column is None:
            on_view("grant", **parts)
        else:
            on_view("grant_column", column=sql.Identifier(grant.column), **parts)
    if each.comment is not None:
        on_view("comment", text=sql.Literal(each.comment))
    for column, comment in each.column_comments:
        on_view("comment_column", column=sql.Identifier(column), text=sql.Literal(comment))
    # Last: who gives a view away may grant nothing on it any more.
    on_view("owner", role=sql.Identifier(each.owner))
    return made


def _policy(table: TableDesign, each: DependentPolicy) -> Statement:
    query = policy_query(each.name, table.relation, each)
    return Statement(query, f"policy {each.name} of {table.label}", Lock.ACCESS_EXCLUSIVE, table.label)
