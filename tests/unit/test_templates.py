"""A template is the statement that it was made of, with other values each time."""

import pytest
from psycopg import sql

from pgduet.operations.statement import role, trusted
from pgduet.operations.template import Template, blank
from pgduet.postgres.traced import described

WHOLE = sql.SQL(
    "UPDATE {table} SET {assign} WHERE id >= {first} AND id < {last} AND note <> {text}; GRANT SELECT TO {who}"
)
PARTS = {
    "table": sql.Identifier("public", "100%"),
    "assign": sql.SQL(", ").join([trusted("a = '{first}'"), sql.SQL("b = {}").format(sql.Literal("it's %s"))]),
    "text": sql.Literal("kept"),
    "who": role("dba"),
}


def test_it_renders_as_the_statement_would_and_keeps_nothing_of_the_values_before() -> None:
    template = Template(WHOLE.format(first=blank("first"), last=blank("last"), **PARTS))
    for first, last in ((0, 7), (7, 2**40)):
        whole = WHOLE.format(first=sql.Literal(first), last=sql.Literal(last), **PARTS)
        filled = template.filled(first=first, last=last)
        assert filled.as_string() == whole.as_string()
        assert described(filled) == described(whole), "traces show neither literals nor roles"


def test_a_blank_that_has_no_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        Template(WHOLE.format(first=blank("first"), last=blank("last"), **PARTS)).filled(first=1)
