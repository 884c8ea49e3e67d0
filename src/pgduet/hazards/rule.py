"""What a hazard is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A risk: when it is there, what it does, how to be rid of it."""

    id: str
    condition: str
    effect: str
    cure: str
    bad: str
    good: str


@dataclass(frozen=True, slots=True)
class Hazard:
    """A rule that a plan meets, and where."""

    id: str
    condition: str
    effect: str
    cure: str
    where: str

    def facts(self) -> dict[str, str]:
        """Give the hazard as fields."""
        return {
            "id": self.id,
            "condition": self.condition,
            "effect": self.effect,
            "cure": self.cure,
            "where": self.where,
        }
