"""Which system account runs PostgreSQL: it refuses to run as root, so root lends it another one.

Mechanism: an ordinary user runs the server as itself. Root uses the account `pgserver`, made without home or login on
first use; where accounts cannot be made (no `useradd`, read-only system files) it falls back to `nobody`.
"""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass

from pgduet.local.cache import cache_dir, locked

_NAME = "pgserver"


@dataclass(frozen=True, slots=True)
class Account:
    """User and group numbers that a child process changes to."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """Give the account to run PostgreSQL under, or None for our own."""
    if os.geteuid() != 0:
        return None
    known = _known(_NAME)
    if known is not None:
        return known
    with locked(cache_dir() / "account.lock"):
        return _known(_NAME) or _made(_NAME) or _known("nobody")


def _known(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _made(name: str) -> Account | None:
    useradd = shutil.which("useradd")
    if useradd is None:
        return None
    subprocess.run(  # noqa: S603 - fixed arguments
        [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", name],
        check=False,
        capture_output=True,
    )
    return _known(name)
