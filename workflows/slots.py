"""Which of a backfill's ranges may run: so many at once, the first come first; pure."""


class Slots:
    """Ranges at work, by number, in the order in which they began; those beyond the width are held."""

    def __init__(self, wide: int) -> None:
        """Begin with nobody at work."""
        self.wide = wide
        self.at_work: list[int] = []
        self.held: set[int] = set()

    @property
    def free(self) -> bool:
        """Tell whether another range may begin."""
        return len(self.at_work) < self.wide

    def enter(self, number: int) -> None:
        """Begin a range."""
        self.at_work.append(number)

    def leave(self, number: int) -> None:
        """End a range."""
        self.at_work.remove(number)
        self.held.discard(number)

    def moves(self) -> list[tuple[int, str]]:
        """Tell who is to pause, and who is to go on, since the width or the ranges at work have changed."""
        wanted = set(self.at_work[self.wide :])
        moves = [(number, "pause") for number in self.at_work if number in wanted - self.held]
        moves += [(number, "resume") for number in self.at_work if number in self.held - wanted]
        self.held = wanted
        return moves
