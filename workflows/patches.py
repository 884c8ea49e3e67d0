"""Changes that a migration which began before them must not meet: each is asked about once, at the beginning of a run."""

from temporalio import workflow


def in_chain() -> bool:
    """Tell whether this run asks the version chain before it goes back, publishes or contracts."""
    return workflow.patched("version-chain")
