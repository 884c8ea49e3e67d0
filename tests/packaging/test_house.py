"""The house keeps its own rules: who may know whom, sizes, and what must not be in the source."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pgduet.sql import load

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for top in ("src", "workflows", "activities", "benchmarks") for path in (ROOT / top).rglob("*.py")]


def functions() -> Iterator[tuple[str, int]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_import_rules_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_modules_stay_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert statistics.median(sizes.values()) <= 120


def test_functions_stay_small() -> None:
    assert [f for f in functions() if f[1] > 70] == []


def test_no_sql_is_built_by_string_formatting() -> None:
    pattern = re.compile(r"""(?:execute|SQL)\(\s*(?:f["']|["'][^"']*["']\s*(?:%|\.format)\s)""")
    assert [path.name for path in SOURCES if pattern.search(path.read_text())] == []


def test_each_block_of_sql_is_named_where_its_file_is() -> None:
    """Or in a module that imports one which names the file. What a name is put together from counts as what it can give."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    modules = [
        (path.stem, set(names_in(tree)), set(imported_by(tree))) for path, tree in zip(SOURCES, trees, strict=True)
    ]
    unused = []
    for file in sorted((ROOT / "src/pgduet/sql").glob("*.sql")):
        users = {module for module, names, _ in modules if file.stem in names}
        near = set[str]().union(*(names for module, names, others in modules if module in users or users & others))
        patterns = [re.compile(name) for name in near if not name.isidentifier()]
        absent = [name for name in load(file.stem) if name not in near]
        unused += [f"{file.stem}.{name}" for name in absent if not any(each.fullmatch(name) for each in patterns)]
    assert unused == []


def names_in(tree: ast.Module) -> Iterator[str]:
    """Give the strings that can be names of blocks; f-strings as patterns, if they say a word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else r"\w+" for part in node.values]
            if re.fullmatch(r"(\\w\+)?_?[a-z]{3,}_?(\\w\+)?", pattern := "".join(map(str, parts))):
                yield pattern


def imported_by(tree: ast.Module) -> Iterator[str]:
    """Give the last names of the modules that one imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pgduet"):
            yield node.module.rpartition(".")[2]
            yield from (each.name for each in node.names)


def test_the_package_of_workflows_imports_none() -> None:
    """Temporal's sandbox runs it anew for every run of a workflow: see `workflows/registered.py`."""
    found = ast.walk(ast.parse((ROOT / "workflows" / "__init__.py").read_text()))
    assert not [node for node in found if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_launcher_stays_a_launcher() -> None:
    assert len((ROOT / "worker.py").read_text().splitlines()) <= 15
