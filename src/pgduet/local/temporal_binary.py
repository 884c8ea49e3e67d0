"""Find a `temporal` program: on PATH, in the cache, by the SDK's download, or built with Go; else one clear error.

Mechanism: whatever costs time is done once, under a lock, in a scratch directory beside the target, and then renamed
into the cache, so that two processes never see half a file. The SDK's download runs in a process of its own because a
failed one can abort the interpreter that tried it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pgduet.errors import ServerMissing
from pgduet.local.cache import cache_dir, locked

Say = Callable[[str], None]

GO_PACKAGE = "github.com/temporalio/cli/cmd/temporal@v1.5.1"
_DOWNLOAD_LIMIT_S = 120.0
_BUILD_LIMIT_S = 1800.0


def resolve_address() -> str | None:
    """Give the address of a Temporal server that the user runs (`TEMPORAL_ADDRESS`), or None to start one."""
    return os.environ.get("TEMPORAL_ADDRESS") or None


def silent(_: str) -> None:
    """Take a line of progress and drop it."""


def find_temporal(say: Say = silent) -> Path:
    """Give the path of a `temporal` program, fetching or building one when there is none yet."""
    on_path = shutil.which("temporal")
    if on_path:
        return Path(on_path)
    cached = cache_dir() / "bin" / "temporal"
    if not _usable(cached):
        with locked(cached.with_name("temporal.lock")):
            if not _usable(cached):
                _obtain(cached, say)
    return cached


def _obtain(target: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="temporal-") as scratch:
        found = _downloaded(Path(scratch), say) or _built(Path(scratch), say)
        if found is None:
            raise ServerMissing(
                "There is no Temporal server, and none could be fetched or built.",
                hint=(
                    "Any of these helps: (1) run a server and set TEMPORAL_ADDRESS; (2) put the `temporal` command on "
                    "PATH; (3) allow the Temporal SDK to download its dev server; "
                    f"(4) install Go, for `go install {GO_PACKAGE}`."
                ),
            )
        found.replace(target)


def _downloaded(scratch: Path, say: Say) -> Path | None:
    say("Fetching the Temporal dev server.")
    command = [sys.executable, "-m", "pgduet.local.sdk_download", str(scratch)]
    if not _succeeds(command, limit_s=_DOWNLOAD_LIMIT_S):
        return None
    return next((path for path in sorted(scratch.iterdir()) if _usable(path)), None)


def _built(scratch: Path, say: Say) -> Path | None:
    go = shutil.which("go")
    if go is None:
        return None
    say("Building the Temporal dev server with Go; this takes a few minutes, once.")
    command = [go, "install", GO_PACKAGE]
    if not _succeeds(command, limit_s=_BUILD_LIMIT_S, env={**os.environ, "GOBIN": str(scratch)}):
        return None
    built = scratch / "temporal"
    return built if _usable(built) else None


def _succeeds(command: list[str], *, limit_s: float, env: dict[str, str] | None = None) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - our own module, or Go from the user's PATH
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            env=env,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _usable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
