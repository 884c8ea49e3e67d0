"""What a swap cannot do, and what clients who name the table should know of one (ADR 34): from plan and catalogue alone."""

from pgduet.errors import NotSupported
from pgduet.hazards import Hazard, hazard
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.facts import TableFacts
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.plan.problems import listed, show_path
from pgduet.plan.shadow_operations import ShadowTable

ROUTE = (
    "`policy.cutover.mode: route`: clients move by version schemas, and the table's name gets the new shape at contract"
)


def refuse(index: int, operation: ShadowTable, table: TableFacts, design: ShadowDesign) -> None:
    """Refuse what clients who have prepared statements could not bear.

    Raises:
        NotSupported: a column keeps its name and changes its type.
    """
    path: KeyPath = ("operations", index, operation.kind)
    numbers = {column.name: number for number, column in enumerate(operation.columns)}
    for column in design.columns:
        old = table.column(column.name)
        if old is not None and old.type != column.type:
            at = (*path, "columns", numbers[column.name]) if column.name in numbers else path
            raise NotSupported(
                f"a swap would change `{column.name}` from {old.type} to {column.type}: statements on {operation.relation} that"
                " clients have prepared would fail for good (cached plan must not change result type)",
                place=place(at),
                hint=f"Keep the type, or give the new column another name. Or set {ROUTE}.",
            )


def hazards(index: int, operation: ShadowTable, table: TableFacts, design: ShadowDesign) -> list[Hazard]:
    """Tell what meets clients at the table's name from cutover on."""
    at = f"{show_path(('operations', index, operation.kind))}, {operation.relation}"
    made = [hazard("PD-H50", at)]
    gone = [column.name for column in table.columns if column.name not in {each.name for each in design.columns}]
    before = [column.name for column in table.columns]
    if gone or before != [column.name for column in design.columns]:
        lost = f": {listed(gone)} go" if gone else ": the columns are others, or in another order"
        made.append(hazard("PD-H52", f"{at}{lost}"))
    kept = {key.anchor for key in design.unique}
    unique = [("PRIMARY KEY", table.key)] if design.primary_key != tuple(table.key) else []
    unique += [
        (each.name, each.columns)
        for each in table.indexes
        if each.unique and not each.primary and each.columns not in kept
    ]
    if unique:
        named = "; ".join(f"{name} ({', '.join(columns)})" for name, columns in unique)
        made.append(hazard("PD-H53", f"{at}: {named}"))
    made.append(hazard("PD-H54", at))
    return made
