"""Which plans a table can be attached for, before anything is asked of PostgreSQL; and that the how-to's plan is one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.attached import attached

from pgduet.operations.attach_design import AttachDesign, resolve
from pgduet.operations.attach_final import AT_ONCE, chunks
from pgduet.plan.load import parse_plan
from pgduet.plan.models import Plan, ShadowTable
from pgduet.postgres.readers import assigned

ROOT = Path(__file__).parents[2]


def designed(key: tuple[str, ...] = ("id",), **changes: Any) -> AttachDesign | str:
    """Design what a plan asks for."""
    return resolve("by-year", 0, ShadowTable.model_validate(attached(**changes)[0]["shadow_table"]), key)


def test_a_table_is_attached_where_all_rows_can_be_of_one_partition() -> None:
    found = designed()
    assert isinstance(found, AttachDesign)
    assert (found.spread, found.key, found.named_by) == ("at", ("id", "at"), ("id",))
    assert [each.name for each in (found.first, *found.later)] == ["events_2026", "events_2027", "events_rest"]


@pytest.mark.parametrize(
    ("changes", "key", "why"),
    [
        (
            {"partition_by": {"method": "hash", "columns": ["id"], "partitions": {}, "modulus": 4}},
            ("id",),
            "by ranges of one",
        ),
        ({"partition_by": {"columns": ["at", "id"]}}, ("id",), "by ranges of one column"),
        ({"order": ["at"]}, ("id",), "its columns change, or their order"),
        (
            {"partition_by": {"partitions": {"one": "FOR VALUES FROM ('2020-01-01') TO (MAXVALUE)"}}},
            ("id",),
            "begins at MINVALUE",
        ),
        ({"primary_key": ["at"]}, ("id",), "another one than its own (id) with `at`"),
        ({}, (), "another one than its own (none) with `at`"),
    ],
)
def test_it_says_why_only_a_copy_gives_a_shape(changes: dict[str, Any], key: tuple[str, ...], why: str) -> None:
    found = designed(key, **changes)
    assert isinstance(found, str)
    assert why in found


def test_partitions_are_made_a_few_at_a_time_and_the_default_one_last() -> None:
    years = {f"y{n}": f"FOR VALUES FROM ({n}) TO ({n + 1})" for n in range(AT_ONCE + 3)}
    found = designed(
        partition_by={"partitions": {"old": "FOR VALUES FROM (MINVALUE) TO (0)", "rest": "default"} | years}
    )
    assert isinstance(found, AttachDesign)
    cut = chunks(found)
    assert [len(chunk) for chunk in cut] == [AT_ONCE, 4]
    assert cut[-1][-1].name == "rest"
    alone = designed(partition_by={"partitions": {"old": "FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"}})
    assert isinstance(alone, AttachDesign)
    assert chunks(alone) == [()]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("BEGIN NEW.at := now(); END", ["at"]),
        ('BEGIN new . "at" = now(); END', ["at"]),
        ("BEGIN IF NEW.at > now() THEN RETURN NULL; END IF; END", []),
        ("BEGIN -- NEW.at := now();\n RETURN NEW; END", []),
        ("BEGIN NEW.attic := 1; END", []),
    ],
)
def test_a_trigger_that_sets_the_column_is_found(source: str, found: list[str]) -> None:
    assert assigned(source, ("at",)) == found


def test_the_plan_of_the_how_to_is_the_example_s_and_one_for_an_attach() -> None:
    raw = yaml.safe_load((ROOT / "examples/events/plan.yaml").read_text(encoding="utf-8"))
    plan: Plan = parse_plan(raw)
    page = (ROOT / "docs/how-to/partition-a-large-table.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert shown["operations"] == raw["operations"]
    [operation] = plan.operations
    assert isinstance(operation, ShadowTable)
    assert isinstance(resolve(plan.name, 0, operation, ("id",)), AttachDesign)
