"""The container image: what its Dockerfile promises, and locks that are those of pyproject.toml."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from support.image import DOCKERFILE, ROOT, Image, admitted, ignore_lines

LOCKS = [ROOT / "deploy" / name for name in ("requirements.lock", "build.lock")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY = re.compile(r"^(\S.*?) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def locked(path: Path) -> list[str]:
    """Give what a lock installs, without the hashes: files are added to a release after the fact."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    assert ENTRY.sub("", text) == "", "not every requirement has a hash"
    return [entry[0] for entry in ENTRY.findall(text)]


@pytest.fixture
def image() -> Image:
    return Image()


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_image_is_pinned_and_its_python_is_one_that_we_support(image: Image) -> None:
    [base] = set(image.bases())
    found = re.fullmatch(r"docker\.io/library/python:(\d+\.\d+\.\d+)-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert found
    assert found[1] in SpecifierSet(PROJECT["project"]["requires-python"])


def test_the_image_runs_a_worker_as_a_fixed_user_without_rights_and_hears_signals(image: Image) -> None:
    assert image.final("USER").value == "10001:10001"
    assert image.stages[-1].index(image.final("USER")) > image.stages[-1].index(image.final("COPY"))
    assert image.final("ENTRYPOINT").exec_form == ["pgduet"]
    assert image.final("CMD").exec_form == ["worker"]
    assert image.final("STOPSIGNAL").value == "SIGTERM"
    assert image.final("HEALTHCHECK").exec_form == ["python", "-m", "pgduet.health"]
    assert image.environment()["PGDUET_HEALTH"].startswith("127.0.0.1:")


def test_the_image_gets_the_installed_package_and_no_tools(image: Image) -> None:
    assert image.final("COPY").value == "--from=build /opt/pgduet /opt/pgduet"
    run = image.final("RUN").value
    assert "pip uninstall" in run
    assert not re.search(r"apt|curl|gcc|pip install", run)


def test_the_builder_is_sent_what_is_copied_and_nothing_else(image: Image) -> None:
    for step in image.stages[0]:
        if step.word == "COPY":
            for source in step.value.split()[:-1]:
                admitted(source)
    for secret in (".git", ".venv", "tests", "deploy/compose.yaml", "deploy/pgduet.toml", ".env", "uv.lock"):
        with pytest.raises(AssertionError, match="leaves out"):
            admitted(secret)
    assert {"**/__pycache__", "**/*.egg-info"} <= set(ignore_lines())


def test_the_locks_are_what_pyproject_asks_for(tmp_path: Path) -> None:
    for lock in LOCKS:
        shutil.copy(lock, tmp_path)
    done = subprocess.run(
        ["make", "--silent", "lock", f"LOCKS={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for lock in LOCKS:
        assert locked(lock) == locked(tmp_path / lock.name), "run `make lock`"


def test_what_builds_the_wheel_is_locked_too() -> None:
    pinned = {Requirement(line).name: Requirement(line) for line in locked(LOCKS[1])}
    for line in PROJECT["build-system"]["requires"]:
        wanted = Requirement(line)
        [exactly] = pinned[wanted.name].specifier
        assert exactly.version in wanted.specifier
