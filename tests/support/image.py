"""The Dockerfile, read; and its build stage carried out on this machine, below another root."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_NOBODY_YET = 60_001
"""An account of which only is asked that it has no rights."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction."""

    word: str
    value: str

    @property
    def exec_form(self) -> list[str]:
        """The words of an instruction in exec form; an AssertionError where it is none."""
        _, bracket, rest = self.value.partition("[")
        assert bracket, f"{self.word} {self.value} is not in exec form"
        words: list[str] = json.loads(bracket + rest)
        return words


class Image:
    """What the Dockerfile says."""

    def __init__(self, path: Path = DOCKERFILE) -> None:
        parsed: list[dict[str, Any]] = DockerfileParser(fileobj=io.BytesIO(path.read_bytes())).structure
        steps = [Step(each["instruction"], each["value"]) for each in parsed if each["instruction"] != "COMMENT"]
        starts = [index for index, step in enumerate(steps) if step.word == "FROM"] + [len(steps)]
        self.arguments = dict(step.value.split("=", 1) for step in steps[: starts[0]] if step.word == "ARG")
        self.stages = [steps[start:end] for start, end in pairwise(starts)]

    def bases(self) -> list[str]:
        """Name the images that the stages begin with."""
        names = [stage[0].value.split(" ")[0] for stage in self.stages]
        return [re.sub(r"\$\{(\w+)\}", lambda found: self.arguments[found[1]], name) for name in names]

    def final(self, word: str) -> Step:
        """Give the one instruction of a kind in the stage that becomes the image."""
        [found] = [step for step in self.stages[-1] if step.word == word]
        return found

    def environment(self) -> dict[str, str]:
        """Give the image's variables; `$PATH` is left in place."""
        return dict(word.split("=", 1) for word in shlex.split(self.final("ENV").value))

    def built(self, root: Path, python: Path) -> Path:
        """Carry out the build stage below `root`, with another Python than the base image's; gives what is copied from it."""
        here = root
        for step in self.stages[0][1:]:
            match step.word:
                case "WORKDIR":
                    here = _below(root, step.value)
                    here.mkdir(parents=True)
                case "COPY":
                    _copy(here, shlex.split(step.value))
                case "RUN":
                    script = re.sub(r"(?<!\S)python(?= -m)", str(python), step.value.replace("/opt/", f"{root}/opt/"))
                    done = subprocess.run(["sh", "-ec", script], cwd=here, capture_output=True, text=True, check=False)
                    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
                case other:
                    raise AssertionError(f"the build stage has a {other}, which is not understood here")
        [copied] = [step.value.split() for step in self.stages[-1] if step.word == "COPY"]
        assert copied[0] == "--from=build"
        assert copied[1] == copied[2], "programs of a virtual environment know where they are"
        return _below(root, copied[1])


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _copy(here: Path, words: list[str]) -> None:
    *sources, target = words
    for source in sources:
        admitted(source)
        found = ROOT / source
        if found.is_dir():
            shutil.copytree(found, here / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            into = here / target
            into.mkdir(exist_ok=True)
            shutil.copy(found, into)


def ignore_lines() -> list[str]:
    """Give the patterns of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def admitted(source: str) -> None:
    """Assert that .dockerignore lets a source through: everything is left out but what it names."""
    everything, *patterns = ignore_lines()
    assert everything == "*"
    named = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    assert any(Path(source).match(pattern) for pattern in named), f".dockerignore leaves out {source}"


def plain_python() -> Path:
    """Find a Python that an account without rights can run: root's own may lie below its private home."""
    found = [Path(sys.executable).resolve(), *(Path(f"/usr{local}/bin/python3") for local in ("", "/local"))]
    asked = "import ensurepip, sys; assert sys.version_info >= (3, 11)"
    who = {"user": _NOBODY_YET, "group": _NOBODY_YET, "extra_groups": []} if os.geteuid() == 0 else {}
    for each in found:
        try:
            done = subprocess.run([each, "-c", asked], cwd="/", check=False, capture_output=True, **who)  # type: ignore[call-overload]
        except OSError:
            continue
        if done.returncode == 0:
            return each
    raise AssertionError(f"none of these can be run by everybody, with ensurepip (Debian: python3-venv): {found}")
