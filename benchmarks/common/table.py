"""Results as Markdown: for people after a run, and for the page in the docs. Pure but for reading.

`python -m benchmarks table` puts what lies in `benchmarks/results` into the page between two marks; a unit test holds the two
together.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.common.figures import Figure, Result

BEGIN = "<!-- results: written by `make bench-table` -->"
END = "<!-- end of results -->"
NOTHING = "Not measured yet.\n"
_IN_PHASE = re.compile(r"(.+) in (\w+)(, .*)?")
_HEAD = "| what | subject | value | ratio | goal | met |\n|---|---|---:|---:|---|---|\n"


def table(result: Result) -> str:
    """Render one benchmark's result."""
    return _HEAD + "".join(_row(figure) for figure in _folded(result.figures))


def section(result: Result) -> str:
    """Render it with its name, and what it was measured with."""
    measured = "".join(f"- {name}: {version}\n" for name, version in result.versions.items())
    return f"### `{result.name}`\n\n{table(result)}\n{measured}"


def sections(results: Iterable[Result]) -> str:
    """Render all results."""
    return "\n".join(section(result) for result in results) or NOTHING


def read_all(directory: Path) -> list[Result]:
    """Read the results that are kept, by name."""
    return [Result.read(path) for path in sorted(directory.glob("*.json"))]


def filled(page: str, results: Iterable[Result]) -> str:
    """Put results between a page's marks.

    Raises:
        ValueError: the page has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        message = f"the page lacks `{BEGIN}` or `{END}`"
        raise ValueError(message)
    return f"{before}{begin}\n\n{sections(results)}\n{end}{after}"


def _folded(figures: Iterable[Figure]) -> list[Figure]:
    """Let the worst phase stand for all of them, in one line; a phase whose goal was not met has a line of its own."""
    lines: dict[object, list[Figure]] = {}
    for figure in figures:
        found = _IN_PHASE.fullmatch(figure.metric)
        alone = found is None or (figure.goal is not None and not figure.met)
        key = id(figure) if alone or not found else (found[1], found[3], figure.subject, figure.ratio_to, figure.goal)
        lines.setdefault(key, []).append(figure)
    return [_worst(same) for same in lines.values()]


def _worst(same: list[Figure]) -> Figure:
    """Pick the figure that is nearest to its goal, or the largest, and say of how many it is the worst."""
    if len(same) == 1:
        return same[0]
    known = [figure for figure in same if figure.value is not None] or same
    sign = -1 if "≥" in (same[0].goal or "") else 1
    worst = max(known, key=lambda figure: sign * (figure.value or 0))
    found = _IN_PHASE.fullmatch(worst.metric)
    metric = f"{found[1]}, worst of {len(same)} phases ({found[2]}){found[3] or ''}" if found else worst.metric
    return worst.model_copy(update={"metric": metric})


def _row(figure: Figure) -> str:
    value = "not measured" if figure.value is None else f"{_number(figure.value)} {figure.unit}".rstrip()
    ratio = "" if figure.ratio_to is None else f"{_times(figure.ratio)} {figure.ratio_to}"
    return f"| {figure.metric} | {figure.subject} | {value} | {ratio} | {figure.goal or ''} | {_met(figure)} |\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _times(ratio: float | None) -> str:
    return "not measured:" if ratio is None else f"{ratio:g} ×"


def _met(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return {True: "yes", False: "**missed**", None: "**not judged**"}[figure.met]
