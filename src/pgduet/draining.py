"""Draining: what goes to and fro about the workflow that keeps merged rows up to date (ADR 32)."""

from pgduet.acts import Message
from pgduet.messages import Reference


class DrainInput(Message):
    """Input of the Drain workflow and of each of its slices: merged rows are brought up to date until there are none to be."""

    reference: Reference
    slice_s: float = 60.0


class DrainResult(Message):
    """Where a slice of the Drain workflow stopped."""

    finished: bool
    """Nothing is left to be kept up to date: it was contracted, or taken away."""
    notes: int = 0
