"""Where things that cost a download or a build are kept between runs: `$PGDUET_CACHE`, else `~/.cache/pgduet`.

`bin/temporal` is the Temporal CLI, `data/` holds data sets. Files appear under their final name only when complete,
by rename; a lock file keeps two processes from doing the same work at once.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Give the cache's root, which need not exist yet."""
    chosen = os.environ.get("PGDUET_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "pgduet"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block; waits for another process that has it, and dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
