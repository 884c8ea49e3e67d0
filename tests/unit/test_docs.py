"""What the documentation says is there: generated pages, codes, links, commands, keys."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pgduet import reference
from pgduet.barriers import NAMES
from pgduet.cli.main import app
from pgduet.messages import (
    SEARCH_ATTRIBUTES,
    Backfill,
    Client,
    Parity,
    Reconciliation,
    ShadowResult,
    Status,
    Traffic,
    WaitingFor,
)
from pgduet.plan import policy
from pgduet.plan.index_operations import CreateIndex, DropIndex, IndexColumn, OperatorClass, SetReplicaIdentity
from pgduet.plan.models import IMPLEMENTED, Milestone, NewColumn, Plan, ReplaceColumns, Risk
from pgduet.sql import load

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = [path for top in ("src", "workflows", "activities") for path in (ROOT / top).rglob("*.py")]

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?<![\w/.\-])(?<!from )(?<!install )pgduet ([a-z][a-z-]*)")
CODE = re.compile(r'^    code(?:: ClassVar\[str\])? = "(PD-\d+)"$', re.MULTILINE)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def slugs(page: Path) -> set[str]:
    """Name the anchors of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fields(*models: type[BaseModel]) -> Iterator[str]:
    for model in models:
        yield from (field.alias or name for name, field in model.model_fields.items())


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    committed = (REFERENCE / name).read_text(encoding="utf-8")
    assert committed == reference.pages()[name], "run `python -m pgduet.reference`"


def test_the_generator_writes_its_pages_and_no_other(tmp_path: Path) -> None:
    reference.main([str(tmp_path)])
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == reference.pages()


def test_every_error_code_is_one_class_s_and_has_a_section_and_advice() -> None:
    codes = [code for source in SOURCES for code in CODE.findall(source.read_text(encoding="utf-8"))]
    assert len(set(codes)) == len(codes)
    assert {code.lower() for code in codes} <= slugs(REFERENCE / "errors.md")
    assert set(codes) == set(reference.ADVICE)


@every_page
def test_every_relative_link_resolves(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in slugs(there), f"{target} has no such heading"


@every_page
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    known |= {group.typer_instance.info.name for group in app.registered_groups if group.typer_instance}
    text = page.read_text(encoding="utf-8")
    shown = "\n".join([*FENCED.findall(text), *SPAN.findall(prose(page))])
    assert set(COMMAND.findall(shown)) <= known


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("plan.md", [*fields(Plan, NewColumn, ReplaceColumns, Risk, Milestone, policy.Policy), *IMPLEMENTED]),
        ("plan.md", [*fields(CreateIndex, IndexColumn, OperatorClass, DropIndex, SetReplicaIdentity)]),
        (
            "plan.md",
            [*fields(policy.Backfill, policy.Verify, policy.Shadow, policy.Shift, policy.Soak, policy.Rollback)],
        ),
        (
            "status-json.md",
            [*fields(Status, WaitingFor, Client, Backfill, Parity, Reconciliation, ShadowResult, Traffic)],
        ),
        ("database-objects.md", [*SEARCH_ATTRIBUTES]),
        ("barriers.md", [*NAMES]),
    ],
)
def test_a_reference_page_names_every_key(page: str, words: list[str]) -> None:
    text = (REFERENCE / page).read_text(encoding="utf-8")
    wanted = {word for word in words if word != "kind" or page != "plan.md"}
    assert {word for word in wanted if not re.search(rf"\b{re.escape(word)}\b", text)} == set()


def scenarios() -> dict[int, list[str]]:
    """Read the table of scenarios: by number, what happens, what must hold, what shows it, what it fails without."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (REFERENCE / "scenarios.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {int(number): row.split(" | ") for number, row in rows}


def test_every_scenario_is_listed_once_and_in_order() -> None:
    assert list(scenarios()) == list(range(1, 27))


@pytest.mark.parametrize("row", scenarios().values(), ids=map(str, scenarios()))
def test_each_test_and_each_clause_that_a_scenario_names_is_in_a_file_that_it_links(row: list[str]) -> None:
    shown_by, without = row[2], "".join(row[3:])
    sources = [(REFERENCE / target).read_text(encoding="utf-8") for target in LINK.findall(shown_by)]
    tests, clauses = re.findall(r"`(test_\w+)`", shown_by), re.findall(r"\*([^*]+)\*", without)
    assert {test for test in tests if not any(f"def {test}(" in source for source in sources)} == set()
    assert {clause for clause in clauses if not any(f'"{clause}"' in source for source in sources)} == set()
    assert tests or "not yet" in shown_by


def test_every_table_of_ours_is_described() -> None:
    made = re.findall(
        r"CREATE TABLE IF NOT EXISTS (\S+) \(", load("metadata")["create_metadata"] + load("audit")["create_audit"]
    )
    text = (REFERENCE / "database-objects.md").read_text(encoding="utf-8")
    assert made
    assert {name for name in made if f"`{name}`" not in text} == set()
