"""tctl, the command of Temporal's earlier days, built once from its module and kept in the cache beside `temporal`.

Mechanism: a Go module of its own that asks for tctl's version, in a scratch directory; what was built is renamed into place under a
lock. Not `go install`, which also asks for the list of all versions, to see whether this one is deprecated: not every proxy has it.
Limits: a first build takes minutes; one that fails, or takes longer than `BUILD_LIMIT_S`, is an error that says what Go said.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pgduet.local.cache import cache_dir, locked

VERSION = "1.18.0"
BUILD_LIMIT_S = 900.0
_MODULE = f"module pgduet.test/tctl\n\ngo 1.18\n\nrequire github.com/temporalio/tctl v{VERSION}\n"
_COMMAND = ("build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", "tctl", "github.com/temporalio/tctl/cmd/tctl")


class TctlMissing(Exception):
    """tctl could not be built."""


def find_tctl() -> Path:
    """Give the path of tctl, building it when it is not in the cache yet."""
    cached = cache_dir() / "bin" / f"tctl-{VERSION}" / "tctl"
    with locked(cached.parent.with_name("tctl.lock")):
        if not cached.is_file():
            _build(cached)
    return cached


def _build(target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        msg = f"tctl {VERSION} is not in {target.parent}, and there is no Go on PATH to build it with"
        raise TctlMissing(msg)
    with tempfile.TemporaryDirectory(dir=target.parents[1], prefix="tctl-") as scratch:
        (Path(scratch) / "go.mod").write_text(_MODULE)
        environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
        try:
            done = subprocess.run(
                [go, *_COMMAND],
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            msg = f"building tctl {VERSION} took longer than {BUILD_LIMIT_S:.0f} s"
            raise TctlMissing(msg) from None
        if done.returncode:
            msg = f"tctl {VERSION} could not be built:\n{done.stderr[-2000:]}"
            raise TctlMissing(msg)
        target.parent.mkdir(exist_ok=True)
        (Path(scratch) / "tctl").replace(target)
