"""Risk rules as data, and what `check` and the reference page make of them."""

from pgduet.hazards.rules import RULES, Hazard, Rule, hazard

__all__ = ["RULES", "Hazard", "Rule", "hazard"]
