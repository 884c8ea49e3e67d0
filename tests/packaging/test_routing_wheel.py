"""The routing library as a distribution of its own: what is in it, and a service that has it without the engine."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.routes import add_route, set_up

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "packages" / "routing"
OURS = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BESIDE = {
    "__init__.py",
    "compared.py",
    "errors.py",
    "py.typed",
    "sketch.py",
    "sql/__init__.py",
    "sql/routing.sql",
    "versions.py",
}

SERVICE = """
import importlib, importlib.metadata, importlib.util, sys
from pgduet.routing import Router

installed = {found.name for found in importlib.metadata.distributions()}
assert not installed & {"pgduet", "temporalio", "pydantic", "opentelemetry-api", "pyyaml", "rich", "typer"}, installed
for engine in ("runtime", "workflows", "activities", "cli", "postgres", "messages"):
    assert importlib.util.find_spec("pgduet." + engine) is None, engine
with Router.open(sys.argv[1], service="billing") as router:
    print(router.path("users-email", 1))
from pgduet.routing.adapters import psycopg
for extra in ("asyncpg", "django", "openfeature", "psycopg-pool", "sqlalchemy"):
    try:
        importlib.import_module("pgduet.routing.adapters." + extra.replace("-", "_"))
    except ImportError as error:
        assert f"pgduet-routing[{extra}]" in str(error), error
        assert error.code == "PD-5002"
    else:
        raise AssertionError(extra)
"""


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> Path:
    return Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def wheel(uv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(uv, "build", "--quiet", "--wheel", "--out-dir", out, PACKAGE)
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_what_the_library_needs_and_nothing_else_byte_for_byte(wheel: Path) -> None:
    """Byte for byte: so it does no harm where somebody installs the engine as well."""
    source = ROOT / "src" / "pgduet"
    wanted = BESIDE | {path.relative_to(source).as_posix() for path in (source / "routing").rglob("*.py")}
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name and not name.endswith("/LICENSE")}
        assert names == {f"pgduet/{name}" for name in wanted}
        for name in wanted:
            assert packed.read(f"pgduet/{name}") == (source / name).read_bytes()


def test_its_version_and_its_extras_are_those_of_the_engine() -> None:
    assert OURS["version"] == WHOLE["version"]
    assert OURS["requires-python"] == WHOLE["requires-python"]
    extras = dict(OURS["optional-dependencies"])
    assert extras.pop("binary") == [need for need in WHOLE["dependencies"] if need.startswith("psycopg")]
    assert extras == {name: WHOLE["optional-dependencies"][name] for name in extras}
    adapters = {path.stem.replace("_", "-") for path in (ROOT / "src/pgduet/routing/adapters").glob("*.py")}
    assert set(extras) == adapters - {"--init--", "extras", "statements", "psycopg"}


def test_a_service_without_the_engine_follows_a_database(uv: Path, wheel: Path, tmp_path: Path, dsn: str) -> None:
    run(uv, "venv", "--quiet", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, f"pgduet-routing[binary] @ {wheel.as_uri()}")
    with set_up(dsn) as conn:
        add_route(conn)
    said = run(python, "-I", "-c", SERVICE, dsn)
    assert said == "Path(version='1', search_path='public_v1, public', is_new=False, epoch=1)\n"
