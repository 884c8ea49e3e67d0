"""Risk rules as data, and what `check` and the reference page make of them."""

from pgduet.hazards.rule import Hazard, Rule
from pgduet.hazards.rules import RULES, hazard

__all__ = ["RULES", "Hazard", "Rule", "hazard"]
