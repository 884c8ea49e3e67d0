"""Probes: a plan's own questions to the database, each one number that must not be above a limit.

The SQL is checked at preflight, where the database is asked once; here only its form is.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from pgduet.plan.problems import Problem, refuse

MOST = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,59}")


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name):
        message = f"expected a name of at most 60 letters, digits, `.`, `_`, `-`, got {name[:60]!r}"
        raise ValueError(message)
    return name


Name = Annotated[
    str,
    Field(strict=True),
    AfterValidator(_plain),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"}),
]


class Probe(BaseModel):
    """A question and its limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Name
    sql: Annotated[str, Field(strict=True, min_length=1, max_length=10_000)]
    max: Annotated[float, Field(strict=True, ge=-1e300, le=1e300)]


def _named_once(probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
    names = [probe.name for probe in probes]
    twice = [
        Problem(f"two probes are called `{name}`", at=(number, "name"), hint="Give it another name.")
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    if twice:
        refuse(*twice)
    return probes


Probes = Annotated[tuple[Probe, ...], Field(max_length=MOST), AfterValidator(_named_once)]
