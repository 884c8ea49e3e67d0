"""Loading a plan: from its file with exact places, or from JSON that came with a workflow's start.

A policy file lays its keys over the plan's policy: mappings are merged, everything else is replaced. An error in such
a key points into the policy file. Several errors are raised together, in the order of the file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pgduet.errors import Place, PlanInvalid, PlanUnreadable
from pgduet.plan.explain import explain
from pgduet.plan.locate import Places, read
from pgduet.plan.models import Plan
from pgduet.plan.problems import KeyPath


class PlanErrors(PlanInvalid):
    """The plan has several errors."""

    def __init__(self, errors: list[PlanInvalid]) -> None:
        """Take the errors, in the order of the file."""
        self.errors = errors
        super().__init__(f"{len(errors)} errors in the plan")

    def render(self) -> str:
        """Give every error, a blank line between them."""
        return "\n\n".join(error.render() for error in self.errors)

    def facts(self) -> dict[str, object]:
        """Give every error as fields."""
        return {**super().facts(), "errors": [error.facts() for error in self.errors]}


@dataclass(frozen=True, slots=True)
class Located:
    """A plan and where its parts stand."""

    plan: Plan
    places: Places

    def place(self, path: KeyPath) -> Place:
        """Give the place of a value; where the file leaves it out, of what it would stand in."""
        return self.places.find(path)


def load_plan(path: Path, policy: Path | None = None) -> Located:
    """Load a plan file, with a policy file laid over its policy where one is given.

    Raises:
        PlanUnreadable: a file cannot be read as YAML or JSON.
        PlanInvalid: the plan is not valid; `PlanErrors` if more than one thing is wrong.
    """
    data, places = _read_file(path)
    if policy is not None:
        over, over_places = _read_policy(policy)
        base = data.get("policy", {})
        if isinstance(base, dict):  # else the plan's own error is the one to show
            data = {**data, "policy": _merged(base, over)}
            places = places.overlaid(over_places)
    return Located(parse_plan(data, places), places)


def parse_plan(data: object, places: Places | None = None, file: str | None = None) -> Plan:
    """Check the data of a plan; without places, errors name the path only.

    Raises:
        PlanInvalid: the plan is not valid; `PlanErrors` if more than one thing is wrong.
    """
    try:
        return Plan.model_validate(data)
    except ValidationError as wrong:
        errors = explain(wrong, places or Places(file))
    raise errors[0] if len(errors) == 1 else PlanErrors(errors)


def _read_file(path: Path) -> tuple[dict[str, Any], Places]:
    file = os.fspath(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PlanUnreadable("the file is not UTF-8 text", place=Place("plan", file)) from None
    except OSError as wrong:
        reason = (wrong.strerror or str(wrong)).lower()
        message = f"cannot open the file: {reason}"
        raise PlanUnreadable(message, place=Place("plan", file)) from None
    return read(text, file)


def _read_policy(path: Path) -> tuple[dict[str, Any], Places]:
    """Read a policy file: the policy itself, or below the one key `policy`."""
    data, places = _read_file(path)
    if "policy" not in data:
        return data, places.under(("policy",))
    other = next((key for key in data if key != "policy"), None)
    if other is not None:
        place = places.find((other,), on_key=True)
        message = f"a policy file holds the policy only, not `{other}`"
        raise PlanInvalid(message, place=place, hint="Delete the key.")
    if not isinstance(data["policy"], dict):
        raise PlanInvalid("expected a mapping of keys", place=places.find(("policy",)))
    del places.values[()]
    return data["policy"], places


def _merged(base: Any, over: Any) -> Any:
    """Lay `over` over `base`, key by key where both are mappings."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
