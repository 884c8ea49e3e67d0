"""The wheel holds every folder of the house, and site-packages gets only `pgduet`."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    source = out / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\n"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", out, source], check=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def source_packages() -> set[str]:
    roots = {
        "pgduet": ROOT / "src" / "pgduet",
        "pgduet/workflows": ROOT / "workflows",
        "pgduet/activities": ROOT / "activities",
    }
    return {
        f"{prefix}/{path.relative_to(root)}".replace("/.", "")
        for prefix, root in roots.items()
        for path in [root, *root.rglob("*")]
        if path.is_dir() and any(path.glob("*.py")) and "__pycache__" not in path.parts
    }


def test_every_package_of_the_tree_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    packed = {str(Path(name).parent) for name in wheel.namelist() if name.endswith(".py")}
    assert source_packages() <= packed


def test_every_module_and_every_sql_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for path in (ROOT / "src" / "pgduet").rglob("*"):
        if path.suffix in {".py", ".sql"} or path.name == "py.typed":
            assert f"pgduet/{path.relative_to(ROOT / 'src' / 'pgduet')}" in names
    for root in ("workflows", "activities"):
        for path in (ROOT / root).glob("*.py"):
            assert f"pgduet/{root}/{path.name}" in names


def test_site_packages_gets_only_pgduet(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pgduet"}


def test_the_command_is_an_entry_point(wheel: zipfile.ZipFile) -> None:
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "pgduet = pgduet.cli.main:main" in wheel.read(entry).decode()
