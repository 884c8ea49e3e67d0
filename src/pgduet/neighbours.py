"""What a migration asks of the version chain: inputs and results of the decisions that concern its neighbours."""

from pgduet.messages import Abort, Message, Reference


class Neighbour(Message):
    """Another migration of the version chain, as one that waits for it tells people."""

    name: str
    phase: str
    detail: str


class Pending(Message):
    """What must end, or come further, before a step may begin; empty: it may, or has been decided."""

    waits_for: list[Neighbour] = []

    @property
    def told(self) -> str:
        """Say it in words."""
        return ", ".join(each.detail for each in self.waits_for)


class Claim(Message):
    """Decide on a rollback, unless a later migration stands in the way; `cascade` takes those along."""

    reference: Reference
    abort: Abort
