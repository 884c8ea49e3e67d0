"""The cookbook and the page for who comes from other tools: complete, and what the plans and the page say of each other is true."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from support.cookbook import FOLDER, RECIPES

from pgduet.plan.load import load_plan
from pgduet.plan.models import IMPLEMENTED

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "coming-from-pgroll-and-reshape.md"
FILES = sorted(FOLDER.iterdir())
ROW = re.compile(
    r"^\| `(\d\d)_(\w+)` \| .+? \| \[([\w-]+)\]\(\.\./\.\./examples/cookbook/([\w-]+)\.yaml\) \|", re.MULTILINE
)

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@each_file
def test_a_plan_of_the_cookbook_is_a_plan_by_its_file_s_name(file: Path) -> None:
    number, _, name = file.stem.partition("-")
    located = load_plan(file)
    assert located.plan.name == name
    assert number in RECIPES
    assert file.read_text(encoding="utf-8").startswith("# "), "it says what it shows"


def test_the_plans_are_one_chain_of_versions() -> None:
    versions = [load_plan(file).plan.version for file in FILES]
    assert versions[0].from_ == "1"
    assert [(one.to, other.from_) for one, other in pairwise(versions) if one.to != other.from_] == []
    assert len({version.to for version in versions}) == len(versions)


def test_each_of_the_56_examples_has_a_plan_that_the_page_names() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    numbers = [f"{number:02}" for number in range(1, 57)]
    assert [number for number, *_ in rows] == numbers
    assert len({name for _, name, *_ in rows}) == len(numbers)
    assert [shown for *_, shown, _ in rows] == [linked for *_, linked in rows]
    assert [f"{linked}.yaml" for *_, linked in rows] == [file.name for file in FILES]
    assert all(linked.startswith(number) for number, *_, linked in rows)
    assert sorted(RECIPES) == numbers


def test_the_page_names_every_operation_and_links_to_its_reference() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [name for name in IMPLEMENTED if f"[`{name}`](plan.md#{name})" not in page]
    assert missing == []


def test_the_cookbook_uses_every_operation_that_those_tools_have() -> None:
    used = {operation.kind for file in FILES for operation in load_plan(file).plan.operations}
    assert used == set(IMPLEMENTED) - {"replace_columns", "shadow_table", "extract_table", "merge_rows"}
