"""What a plan may say of shadows and extractions: the models on their own."""

from typing import Any

import pytest
from pydantic import ValidationError

from pgduet.plan.shadow_operations import ExtractTable, ShadowTable

HASH = {"method": "hash", "columns": ["id"], "modulus": 8}
MONTHS = {
    "method": "range",
    "columns": ["at"],
    "partitions": {"old": "FOR VALUES FROM (MINVALUE) TO ('2026-01-01')", "rest": "DEFAULT"},
}


def shadow(**keys: Any) -> ShadowTable:
    return ShadowTable.model_validate({"table": "orders", **keys})


def extract(**keys: Any) -> ExtractTable:
    given = {"table": "customers", "into": "addresses", "columns": ["street"], "key": {"id": "customer_id"}, **keys}
    return ExtractTable.model_validate(given)


def test_a_shape_may_change_by_columns_order_key_or_partitions() -> None:
    assert shadow(partition_by=HASH).relation.name == "orders"
    parts = shadow(partition_by=MONTHS, primary_key=["id", "at"]).partition_by
    assert parts is not None
    assert [each.name for each in parts.partitions] == ["old", "rest"]
    assert shadow(columns=[{"name": "id", "type": "bigint"}]).columns[0].name == "id"
    assert shadow(order=["at", "id"]).order == ("at", "id")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "the shape does not change"),
        ({"replaces": ["a"]}, "`down` has no expression for `a`"),
        ({"columns": [{"name": "a", "type": "int"}] * 2}, "stands twice"),
        ({"columns": [{"name": "amount", "type": "int"}], "down": {"amont": "1"}}, "Did you mean `amount`"),
        ({"partition_by": {**HASH, "modulus": None}}, "hash needs `modulus`"),
        ({"partition_by": {**HASH, "partitions": {"a": "DEFAULT"}}}, "hash partitions have no bounds"),
        ({"partition_by": {**MONTHS, "modulus": 4}}, "only hash has a `modulus`"),
        ({"partition_by": {**MONTHS, "partitions": {}}}, "there are no partitions"),
        ({"partition_by": {**MONTHS, "method": "list", "columns": ["a", "b"]}}, "over one column only"),
        ({"partition_by": {**MONTHS, "partitions": [{"name": "a", "bound": "DEFAULT"}] * 2}}, "stands twice"),
        ({"partition_by": MONTHS, "primary_key": ["id"]}, "the primary key lacks `at`"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_its_reason(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace("?", ".")):
        shadow(**keys)


def test_a_column_moves_under_its_own_name_or_another() -> None:
    made = extract(
        columns=["street", {"name": "city", "to": "town", "type": "text", "up": "upper(city)", "down": "town"}]
    )
    assert [column.new_name for column in made.columns] == ["street", "town"]
    assert made.target.name == "addresses"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"key": {}}, "`key` is empty"),
        ({"into": "customers"}, "cannot be extracted into itself"),
        ({"into": "other.addresses"}, "another schema"),
        ({"columns": ["street", "street"]}, "stands twice"),
        ({"columns": ["id"]}, "is of the key"),
        ({"columns": [{"name": "city", "up": "upper(city)"}]}, "`down` is missing"),
        ({"columns": []}, "at least 1 item"),
    ],
)
def test_an_extraction_that_cannot_be_is_refused_with_its_reason(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        extract(**keys)


def test_a_dump_has_the_shape_of_the_file() -> None:
    dumped = shadow(partition_by=HASH).model_dump(mode="json")
    assert list(dumped) == ["shadow_table"]
    assert ShadowTable.model_validate(dumped["shadow_table"]).partition_by == shadow(partition_by=HASH).partition_by
