"""The user's own row level security beside a shadow: new clients have the rows that the anchor's policies give them (ADR 28).

The version view runs with its owner's rights, whom our policies on the shadow bind. In their conditions `current_user` is the
caller all the same, and `row_security_active` knows whether the anchor's policies bind him: not its owner, nor one with BYPASSRLS.
So each of our policies asks, for its command, what PostgreSQL asks of the anchor: any permissive policy of a role that the caller
has, and all restrictive ones. The anchor's row is locked last, and only where the caller may have it.

A policy that asks other tables does so in a function that runs as the caller: in a policy on the shadow, it would ask as the
view's owner.
Limits: policies that change during the migration reach new clients when this is run again. Conditions of policies are no index
conditions for them until contract.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.operations.shadow_carried import Carried, CarriedPolicy
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_keys import FALSE, TRUE, any_of, locked_row
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.sql import block

_USING, _CHECK = "using", "check"
_COMMANDS = (
    ("pgduet_read", "r", (_USING,), None),
    ("pgduet_insert", "a", (_CHECK,), None),
    ("pgduet_update", "w", (_USING, _CHECK), "lock_update"),
    ("pgduet_delete", "d", (_USING,), "lock_delete"),
)


def secure(design: ShadowDesign, carried: Carried) -> list[Statement]:
    """Have the shadow's policies ask what the anchor's ask; before publication, and again whenever those have changed."""
    made = [statement for policy in carried.policies if policy.asks for statement in _functions(design, policy)]
    for name, command, sides, lock in _COMMANDS:
        clauses = []
        for side in sides:
            condition = _condition(design, carried, command, side)
            if side == _USING and lock is not None:
                call = sql.SQL("{}({})").format(design.routine(lock), locked_row(design))
                condition = sql.SQL("({}) AND {}").format(condition, call)
            clauses.append(sql.SQL("{} ({})").format(trusted("USING" if side == _USING else "WITH CHECK"), condition))
        query = block("shadow_carry", "alter_policy").format(
            policy=sql.Identifier(name), relation=design.shadow, clauses=sql.SQL(" ").join(clauses)
        )
        made.append(Statement(query, f"whose rows: {name}", Lock.ACCESS_EXCLUSIVE, design.shadow_label))
    return made


def drop_functions(design: ShadowDesign) -> list[Statement]:
    """Drop all that `secure` has ever created beside the shadow, once its policies are gone."""
    body = block("shadow_carry", "drop_policy_functions_body").format(label=sql.Literal(_mark(design)))
    query = block("shadow_carry", "drop_policy_functions").format(body=sql.Literal(body.as_string(None)))
    return [Statement(query, f"drop what policies of {design.shadow_label} asked by")]


def _mark(design: ShadowDesign) -> str:
    """Give the comment by which such a function is known, whatever has become of its policy."""
    return f"pgduet policy of {sql.Identifier(design.schema_name, design.physical).as_string(None)}"


def _condition(design: ShadowDesign, carried: Carried, command: str, side: str) -> Query:
    """Render what PostgreSQL asks of the anchor for a command."""
    if not carried.secured:
        return TRUE
    ours = [policy for policy in carried.policies if policy.command in {"*", command}]
    asked = [(policy, condition) for policy in ours if (condition := _asked(design, policy, side)) is not None]
    allowed = any_of(_all(_has_role(policy), condition) for policy, condition in asked if policy.permissive)
    parts: list[sql.Composable] = [allowed]
    parts += [
        sql.SQL("(NOT {} OR {})").format(_has_role(policy), condition)
        for policy, condition in asked
        if not policy.permissive
    ]
    return block("shadow_carry", "unless_free").format(
        relation=sql.Literal(design.relation_label), condition=sql.SQL(" AND ").join(parts or [FALSE])
    )


def _all(*conditions: sql.Composable) -> Query:
    return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))


def _asked(design: ShadowDesign, policy: CarriedPolicy, side: str) -> Query | None:
    """Render a policy's condition over a row of the shadow; what has no WITH CHECK is checked by its USING."""
    found = dict(_sides(policy))
    where = _CHECK if side == _CHECK and _CHECK in found else _USING
    if where not in found:
        return None
    if policy.asks:
        return sql.SQL("{}({})").format(_name(design, policy, where), identifiers(policy.columns))
    return sql.SQL("({})").format(trusted(found[where]))


def _sides(policy: CarriedPolicy) -> Iterator[tuple[str, str]]:
    if policy.using is not None:
        yield _USING, policy.using
    if policy.check is not None:
        yield _CHECK, policy.check


def _has_role(policy: CarriedPolicy) -> Query:
    if not policy.role_ids:
        return TRUE
    return any_of(
        sql.SQL("pg_catalog.pg_has_role(current_user, {}::oid, 'USAGE')").format(sql.Literal(number))
        for number in policy.role_ids
    )


def _name(design: ShadowDesign, policy: CarriedPolicy, side: str) -> sql.Identifier:
    return design.routine(f"{side}_{policy.name}")


def _functions(design: ShadowDesign, policy: CarriedPolicy) -> Iterator[Statement]:
    types = {column.name: column.type for column in design.columns}
    arguments = sql.SQL(", ").join(trusted(types[name]) for name in policy.columns)
    values: list[Query] = [
        sql.SQL("{} AS {}").format(trusted(f"${number}"), sql.Identifier(name))
        for number, name in enumerate(policy.columns, 1)
    ]
    row = sql.SQL(", ").join(values or [sql.SQL("1 AS _pgduet_none")])
    for side, text in _sides(policy):
        query = block("shadow_carry", "policy_function").format(
            function=_name(design, policy, side),
            arguments=arguments,
            condition=trusted(text),
            row=row,
            alias=sql.Identifier(design.table),
        )
        yield Statement(query, f"{side} of policy {policy.name}, asked as the caller")
        mark = {"function": _name(design, policy, side), "text": sql.Literal(_mark(design))}
        yield Statement(block("shadow_carry", "mark_function").format(**mark), "whose it is")
