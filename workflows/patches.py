"""Changes that a migration which began before them must not meet: each is asked about once, at the beginning of a run."""

from temporalio import workflow


def ask_at_once() -> None:
    """Ask about each at the beginning of a run, so that it is so from the beginning or not at all."""
    in_chain()
    reconciles()
    steers()


def in_chain() -> bool:
    """Tell whether this run asks the version chain before it goes back, publishes or contracts."""
    return workflow.patched("version-chain")


def reconciles() -> bool:
    """Tell whether this run has its comparisons scheduled, and lets them hold the journey."""
    return workflow.patched("reconcile-schedule")


def steers() -> bool:
    """Tell whether this run steers the shift by what is measured meanwhile, and goes past clients by somebody's word."""
    return workflow.patched("routing-steers")
