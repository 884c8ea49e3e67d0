"""A plan's identity: what changes its checksum, and what must not."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pgduet.plan.checksum import checksum
from pgduet.plan.load import load_plan, parse_plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights" / "plan.yaml"


def data(**changes: Any) -> dict[str, Any]:
    column = {"name": "note", "type": "text"}
    return {
        "name": "p",
        "database": "d",
        "version": {"from": "1", "to": "2"},
        "operations": [{"add_column": {"table": "t", "column": column}}],
        **changes,
    }


def of(**changes: Any) -> str:
    return checksum(parse_plan(data(**changes)))


def operation(table: str = "t", **column: Any) -> dict[str, Any]:
    return {"add_column": {"table": table, "column": {"name": "note", "type": "text", **column}}}


def test_the_checksum_is_sha_256_over_canonical_json() -> None:
    column = {"comment": None, "default": None, "name": "note", "nullable": True, "type": "text", "up": None}
    said = {"operations": [{"add_column": {"column": column, "table": "t"}}], "version": {"from": "1", "to": "2"}}
    text = json.dumps(said, separators=(",", ":"), sort_keys=True)
    assert of() == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"database": "other"},
        {"description": "words"},
        {"owners": {"data": "me"}},
        {"policy": {"lock_timeout_ms": 10}},
        {"risks": [{"risk": "r", "mitigation": "m", "owner": "o"}]},
        {"milestones": [{"name": "m", "due": "2026-12-01"}]},
        {"version": {"from": 1, "to": 2}},
        {"operations": [operation(nullable=True, up=None)]},
    ],
)
def test_policy_and_words_leave_the_checksum_alone(changes: dict[str, Any]) -> None:
    assert of(**changes) == of()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": {"from": "1", "to": "3"}},
        {"operations": [operation(type="varchar")]},
        {"operations": [operation(up="1")]},
        {"operations": [operation(nullable=False, default="''")]},
        {"operations": [operation(table="u")]},
        {"operations": [operation(), operation(table="u")]},
        {"operations": [operation(table="u"), operation()]},
    ],
)
def test_versions_and_operations_make_the_checksum(changes: dict[str, Any]) -> None:
    assert of(**changes) != of()


def test_the_order_of_operations_counts_and_the_order_of_keys_does_not() -> None:
    first, second = operation(), operation(table="u")
    assert of(operations=[first, second]) != of(operations=[second, first])
    assert checksum(parse_plan(dict(reversed(data().items())))) == of()


def test_the_checksum_survives_the_way_through_json() -> None:
    plan = load_plan(EXAMPLE).plan
    again = parse_plan(json.loads(plan.model_dump_json(by_alias=True)))
    assert checksum(again) == checksum(plan)
    assert len(checksum(plan)) == 64
