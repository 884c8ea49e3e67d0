"""What a plan may say of rows that are merged: the model on its own."""

from typing import Any

import pytest
from pydantic import ValidationError

from pgduet.plan.merge_operations import MergeRows

COUNT = {"name": "lines", "measure": "count"}


def merge(**keys: Any) -> MergeRows:
    given = {"table": "lines", "into": "totals", "key": {"invoice_id": "id"}, "columns": [COUNT], **keys}
    return MergeRows.model_validate(given)


def test_rows_are_merged_by_a_key_into_measures() -> None:
    made = merge(columns=[COUNT, {"name": "total", "measure": "sum", "value": "amount"}])
    assert (made.target.schema, made.target.name) == ("public", "totals")
    assert [(each.name, each.measure, each.value) for each in made.columns] == [
        ("lines", "count", None),
        ("total", "sum", "amount"),
    ]
    assert merge(down={"amount": "total"}).down == {"amount": "total"}
    # The merged table may take the source's own name.
    assert merge(into="lines").target == merge().relation


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"key": {}}, "`key` is empty"),
        ({"key": {"a": "id", "b": "id"}}, "`id` stands twice"),
        ({"columns": []}, "at least 1 item"),
        ({"columns": [COUNT, COUNT]}, "`lines` stands twice"),
        ({"columns": [{"name": "id", "measure": "count"}]}, "`id` stands twice"),
        ({"columns": [{"name": "total", "measure": "sum"}]}, "sum of what"),
        ({"columns": [{"name": "total", "measure": "avg", "value": "amount"}]}, "'count', 'sum', 'min' or 'max'"),
        ({"into": "other.totals"}, "in another schema"),
        ({"down": {"invoice_id": "1"}}, "is of the key"),
        ({"up": {"total": "amount"}}, "Extra inputs"),
    ],
)
def test_a_merge_that_cannot_be_is_refused_with_its_reason(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        merge(**keys)
