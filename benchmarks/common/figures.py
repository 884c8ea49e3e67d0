"""Figures, goals and results: what a benchmark says, and whether it met what was asked of it. Pure but for reading and writing.

A ratio is this subject's value over the other's. A goal that was missed is `met: false`; one that could not be judged, since
the peer is not installed, is `met: null`, which is not met either.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for a figure's value or for its ratio."""

    of: Literal["value", "ratio"]
    sign: Literal["≥", "≤"]
    limit: float

    def __str__(self) -> str:
        """Say it, as results and tables have it."""
        return f"{'ratio ' if self.of == 'ratio' else ''}{self.sign} {self.limit:g}"

    def met(self, value: float | None, ratio: float | None) -> bool | None:
        """Judge a figure; None where there is nothing to judge."""
        judged = ratio if self.of == "ratio" else value
        if judged is None:
            return None
        return judged >= self.limit if self.sign == "≥" else judged <= self.limit


@dataclass(frozen=True, slots=True)
class Against:
    """Whom a figure is compared with; no value where that one was not measured."""

    subject: str
    value: float | None


class Figure(BaseModel):
    """One measured figure, in the form in which results are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    subject: str
    value: float | None
    unit: str
    ratio_to: str | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None

    @classmethod
    def of(
        cls,
        metric: str,
        subject: str,
        value: float | None,
        unit: str,
        *,
        against: Against | None = None,
        goal: Goal | None = None,
    ) -> Self:
        """Make a figure: the ratio is reckoned and the goal judged here, from what was measured and before it is rounded."""
        ratio = _ratio(value, against.value) if against else None
        return cls(
            metric=metric,
            subject=subject,
            value=rounded(value),
            unit=unit,
            ratio_to=against.subject if against else None,
            ratio=rounded(ratio),
            goal=str(goal) if goal else None,
            met=goal.met(value, ratio) if goal else None,
        )


class Result(BaseModel):
    """What one benchmark found, and with what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    versions: dict[str, str]
    figures: list[Figure]

    @property
    def missed(self) -> list[Figure]:
        """Name the figures whose goal was not met."""
        return [figure for figure in self.figures if figure.goal and not figure.met]

    def write(self, directory: Path) -> Path:
        """Keep it as JSON."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}.json"
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what was kept."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def rounded(value: float | None) -> float | None:
    """Leave out the digits that mean nothing."""
    if value is None or value == 0 or not math.isfinite(value):
        return None if value is not None and not math.isfinite(value) else value
    places = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    return float(round(value, places)) if places > 0 else float(round(value))


def _ratio(value: float | None, other: float | None) -> float | None:
    return None if value is None or not other else value / other
