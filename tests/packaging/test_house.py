"""The house keeps its own rules: who may know whom, sizes, and what must not be in the source."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def test_the_package_of_workflows_imports_none() -> None:
    """Temporal's sandbox runs it anew for every run of a workflow: see `workflows/registered.py`."""
    found = ast.walk(ast.parse((ROOT / "workflows" / "__init__.py").read_text()))
    assert not [node for node in found if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_launcher_stays_a_launcher() -> None:
    assert len((ROOT / "worker.py").read_text().splitlines()) <= 15
