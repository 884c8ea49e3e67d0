"""Changes that a migration which began before them must not meet.

Each is asked about at the beginning of a run; those of which hardly a run sees anything, where they would be seen.
"""

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


def forgets_force() -> bool:
    """Tell whether a word to go past clients that found nobody is forgotten."""
    return workflow.patched("force-once")


def looks_again() -> bool:
    """Tell whether contract takes a new census after a pause."""
    return workflow.patched("census-after-pause")


def keeps_reads() -> bool:
    """Tell whether no reads are moved while contract begins: no census would tell of them any more."""
    return workflow.patched("reads-stay-at-contract")


def moves_end_holds() -> bool:
    """Tell whether reads that somebody moves, while a breach waits for a decision, are watched again."""
    return steers() and workflow.patched("route-ends-hold")


def blames_fairly() -> bool:
    """Tell whether what may be chance, or no fault of the new version, rolls nothing back."""
    return workflow.patched("only-sure-rolls-back")


def misses_routers() -> bool:
    """Tell whether a step waits for reads of routers that were there when it began."""
    return workflow.patched("misses-routers")
