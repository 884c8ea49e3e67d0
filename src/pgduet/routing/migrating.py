"""What the sync and the async migrator share: what is repeated off the caller's path, how it is judged, and what is shown of it.

A read is answered by the side that the route says. Of a sampled share of reads the answer is kept (made plain, on the
caller's path, since the caller may change it), and the other side is read later, by a worker. A part of these read the old
side once more instead: that is the noise that old has with itself (see `pgduet.compared`). It is measured only where old
answered, so that the new side's own randomness never counts as noise.

Nothing here raises to the caller, and nothing waits: the queue is bounded, and what does not fit is dropped and counted.
"""

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pgduet.routing.comparing import Compare, Difference, Rules, difference, kept
from pgduet.routing.core import RouterCore
from pgduet.routing.decision import raw
from pgduet.routing.model import Path
from pgduet.routing.pairing import Pair, heard
from pgduet.routing.tally import Sample, Tally

log = logging.getLogger("pgduet.routing")

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read off the caller's path.

    Attributes:
        sample: the share of reads that is repeated, 0 to 1.
        calibrate: the share of these that reads the old side twice.
        workers: how many are under way at once, at most; a sync migrator's are threads, started when first needed.
        waiting: how many wait for a worker, at most; what comes on top is dropped.
        timeout_s: how long one may wait, and then how long it may take.
    """

    sample: float = 0.1
    calibrate: float = 0.1
    workers: int = 2
    waiting: int = 100
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what nobody means, such as a percentage."""
        if not (0 <= self.sample <= 1 and 0 <= self.calibrate <= 1):
            message = "sample and calibrate are shares, from 0 to 1"
            raise ValueError(message)
        if self.workers < 1 or self.waiting < 1 or self.timeout_s <= 0:
            message = "workers and waiting are at least 1, timeout_s is more than 0"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Showing:
    """What leaves the process of a mismatch.

    Attributes:
        redact: gives what stands for a key; None: a hash. Who can list the keys can find which one it was.
        show: gives what is told of the answers, old and new; None: nothing.
    """

    redact: Callable[[Any], str] | None = None
    show: Callable[[Any, Any], str] | None = None


@dataclass(slots=True)
class Job:
    """A read that is to be repeated off its caller's path."""

    key: object
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    answer: object
    """What the caller got, as it is kept for the comparison."""
    answered_new: bool
    calibrates: bool
    asked_at: float
    began_at: float = 0.0
    over: bool = False

    @property
    def is_new(self) -> bool:
        """Whether it reads the new side."""
        return not self.calibrates and not self.answered_new


@dataclass(slots=True)
class Settings(Generic[Answer]):
    """What a migrator is made of."""

    name: str
    read_old: Callable[..., Answer]
    read_new: Callable[..., Answer]
    compare: Compare = field(default_factory=Rules)
    limits: Limits = Limits()
    showing: Showing = Showing()
    label: str = ""
    draw: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic


def settings_of(
    name: str,
    read_old: Callable[..., Answer],
    read_new: Callable[..., Answer],
    compare: Compare | None,
    limits: Limits | None,
    redact: Callable[[Any], str] | None,
    show: Callable[[Any, Any], str] | None,
    label: str,
) -> Settings[Answer]:
    """Take what a router's `migrator` was given."""
    return Settings(name, read_old, read_new, compare or Rules(), limits or Limits(), Showing(redact, show), label)


class MigratorCore(Generic[Answer]):
    """Decide what is read where, and judge it. `Migrator` and `AsyncMigrator` add the calling."""

    def __init__(self, router: RouterCore, settings: Settings[Answer]) -> None:
        self.name = settings.name
        self.limits = settings.limits
        self._router = router
        self._settings = settings
        self.begin()

    def begin(self) -> None:
        """Count from nothing, with locks of this process's own: also in one that has inherited the migrator."""
        self._tally: Tally = self._router.tally(self.name)
        self._tally.compares = True
        self._ending = threading.Lock()

    def sweep(self) -> None:
        """Give up what takes too long, where nothing else does; before each report."""

    def _reader(self, *, is_new: bool) -> Callable[..., Answer]:
        return self._settings.read_new if is_new else self._settings.read_old

    def _drawn(
        self, path: Path, key: object, args: Sequence[Any], kwargs: Mapping[str, Any], answer: object
    ) -> Job | None:
        """Decide whether a read is repeated, and keep its answer if so."""
        share = self._settings.draw()
        if share >= self.limits.sample or self._router.both(self.name) is None:
            return None
        calibrates = not path.is_new and share < self.limits.sample * self.limits.calibrate
        try:
            answer = kept(self._settings.compare, answer)
        except Exception as error:  # noqa: BLE001  an answer's own code runs here, on the caller's path
            self._broke(error)
            return None
        return Job(key, args, kwargs, answer, path.is_new, calibrates, self._settings.clock())

    def _admitted(self, job: Job) -> Path | None:
        """Begin a job; None if it has waited for too long or its side may not be read any more."""
        both = self._router.both(self.name)
        job.began_at = self._settings.clock()
        if both is None or job.began_at - job.asked_at > self.limits.timeout_s:
            self._dropped()
            return None
        return both[job.is_new]

    def _dropped(self) -> None:
        self._tally.count("dropped")

    def _ends(self, job: Job) -> bool:
        """End a job; False if it was given up before."""
        with self._ending:
            over, job.over = job.over, True
        return not over

    def _give_up(self, job: Job) -> None:
        """Count a read that takes too long, once; its answer will be thrown away."""
        if self._ends(job):
            self._tally.count("timeouts")

    def _failed(self, job: Job, error: Exception) -> None:
        """Count a read off the caller's path that raised."""
        if self._ends(job):
            self._tally.count("failed_new" if job.is_new else "failed_old")
            log.debug("%s: a shadow read of the %s side raised %s", self.name, _side(job.is_new), type(error).__name__)

    def _judge(self, job: Job, answer: object) -> None:
        """Compare an answer from off the caller's path with the one that the caller got."""
        seconds = self._settings.clock() - job.began_at
        if seconds > self.limits.timeout_s:
            self._give_up(job)
        if not self._ends(job):
            return
        self._tally.repeated(seconds, is_new=job.is_new)
        try:
            answer = kept(self._settings.compare, answer)
            old, new = (answer, job.answer) if job.answered_new else (job.answer, answer)
            found = difference(self._settings.compare, old, new)
            sample = self._sample(job, found, old, new) if found and not job.calibrates else None
        except Exception as error:  # noqa: BLE001  the service's own comparison runs here
            self._broke(error)
            return
        if job.calibrates:
            self._tally.calibrated(differed=found is not None)
        else:
            self._tally.compared(sample)

    def _pair_apart(self, key: object, idempotency_key: str | None) -> Pair:
        """Tell where a write goes that is no transaction."""
        if idempotency_key is not None:
            message = "an idempotency key needs the connection that both writes go through"
            raise ValueError(message)
        return heard(self._router, self.name, key)

    def _missed(self, error: Exception) -> None:
        """Count a second write that failed after the first one."""
        self._tally.count("unwritten")
        log.warning("%s: the new side missed a write: %s", self.name, type(error).__name__)

    def _broke(self, error: Exception) -> None:
        self._tally.count("broken")
        log.warning("%s: answers could not be compared: %s", self.name, type(error).__name__)

    def _sample(self, job: Job, found: Difference, old: object, new: object) -> Sample:
        showing = self._settings.showing
        key = (showing.redact or hashed_key)(job.key)
        shown = showing.show(old, new) if showing.show else None
        return Sample(
            read=_storable(self._settings.label),
            key=_storable(key),
            place=_storable(found.place),
            kind=found.kind,
            shown=None if shown is None else _storable(shown),
            answered=_side(job.answered_new),
        )


def hashed_key(key: object) -> str:
    """Give what stands for a key in a mismatch: look for yours among those that you suspect."""
    return hashlib.blake2b(raw(key), digest_size=8, person=b"pgduet-key").hexdigest()


def _side(is_new: bool) -> str:  # noqa: FBT001  one word, one fact
    return "new" if is_new else "old"


def _storable(text: object) -> str:
    """Make any text fit for jsonb: no NUL, no lone surrogates."""
    return str(text).replace("\0", "\ufffd").encode("utf-8", "replace").decode()
