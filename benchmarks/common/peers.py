"""pgroll, reshape and reladiff: built once a machine, into the cache beside `temporal`, by `make bench-peers`; found, or skipped.

Mechanism: pgroll is a tool of the Go module in `benchmarks/peers/pgroll`, which pins it; reshape is installed by cargo, reladiff by
uv in an environment of its own. The first two need a C compiler, reshape also libclang (Debian: libclang-dev). What is built is
renamed into place under a lock; nothing goes into the tree.
"""

import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.common.options import ROOT
from benchmarks.common.programs import ProgramFailed, run
from pgduet.local.cache import cache_dir, locked

_BUILD_LIMIT_S = 3600.0
_PGROLL = "github.com/xataio/pgroll"
_MODULE = ROOT / "benchmarks" / "peers" / "pgroll"
RESHAPE_VERSION = "0.11.2"
RELADIFF_VERSION = "0.6.0"


def pgroll_version() -> str:
    """Read the version that the Go module pins."""
    found = re.search(rf"{re.escape(_PGROLL)} v(\S+)", (_MODULE / "go.mod").read_text())
    if not found:
        message = f"{_MODULE / 'go.mod'} does not pin {_PGROLL}"
        raise LookupError(message)
    return found.group(1)


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that is compared with; `path` is where it is once it is built."""

    name: str
    version: str
    needs: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return cache_dir() / "bin" / f"{self.name}-{self.version}" / self.name

    def find(self, say: Callable[[str], None], without: tuple[str, ...] = ()) -> Path | None:
        """Give its path, or say that it is skipped."""
        if self.name in without:
            say(f"{self.name} is left out, as asked")
        elif not self.path.is_file():
            say(f"{self.name} {self.version} is not installed and is skipped; `make bench-peers` builds it")
        else:
            return self.path
        return None


@dataclass(frozen=True, slots=True)
class Library:
    """A library that is compared with, in a process of ours; pyproject's groups `dev` and `peers` have them."""

    name: str
    distribution: str

    def find(self, say: Callable[[str], None], without: tuple[str, ...] = ()) -> str | None:
        """Give its version, or say that it is skipped."""
        if self.name in without:
            say(f"{self.name} is left out, as asked")
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            say(f"{self.distribution} is not installed and is skipped; `make setup` installs it")
            return None


OPENFEATURE = Library("openfeature", "openfeature-sdk")
LAUNCHDARKLY = Library("launchdarkly", "launchdarkly-server-sdk")


def pgroll() -> Peer:
    """Give pgroll."""
    return Peer("pgroll", pgroll_version(), "Go and a C compiler")


def reshape() -> Peer:
    """Give reshape."""
    return Peer("reshape", RESHAPE_VERSION, "cargo, a C compiler and libclang (Debian: libclang-dev)")


def reladiff() -> Peer:
    """Give reladiff, the kept-up fork of data-diff."""
    return Peer("reladiff", RELADIFF_VERSION, "uv, which `make setup` installs")


async def build_all(say: Callable[[str], None]) -> bool:
    """Build what is not there yet; tells whether all are there now."""
    peers = ((pgroll(), _build_pgroll), (reshape(), _build_reshape), (reladiff(), _build_reladiff))
    return all([await _built(peer, build, say) for peer, build in peers])


async def _built(peer: Peer, build: Callable[[Peer, Path], Awaitable[Path]], say: Callable[[str], None]) -> bool:
    with locked(cache_dir() / "bin" / f"{peer.name}.lock"):
        if not peer.path.is_file():
            say(f"building {peer.name} {peer.version}; this takes minutes, once")
            try:
                with tempfile.TemporaryDirectory(dir=cache_dir() / "bin", prefix=f"{peer.name}-") as scratch:
                    built = await build(peer, Path(scratch))
                    peer.path.parent.mkdir(exist_ok=True)
                    built.replace(peer.path)
            except (ProgramFailed, OSError) as failed:
                say(f"{peer.name} could not be built (it needs {peer.needs}): {failed}")
                return False
        say(str(peer.path))
    return True


async def _build_pgroll(peer: Peer, scratch: Path) -> Path:
    built = scratch / peer.name
    flags = f"-s -w -X {_PGROLL}/cmd.Version={peer.version}"
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", str(built), _PGROLL]
    environment = {"GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "1"}
    await run(command, cwd=_MODULE, environment=environment, limit_s=_BUILD_LIMIT_S)
    return built


async def _build_reshape(peer: Peer, scratch: Path) -> Path:
    command = [
        "cargo",
        "install",
        "--quiet",
        "--locked",
        "--root",
        str(scratch / "out"),
        peer.name,
        "--version",
        peer.version,
    ]
    await run(command, environment={"CARGO_TARGET_DIR": str(scratch / "target")}, limit_s=_BUILD_LIMIT_S)
    return scratch / "out" / "bin" / peer.name


async def _build_reladiff(peer: Peer, scratch: Path) -> Path:
    """Install it beside; what is moved into place is a link into its environment."""
    tools = peer.path.parent / "tools"
    command: list[str | Path] = [
        Path(sys.executable).parent / "uv",
        "tool",
        "install",
        "--quiet",
        "--force",
        "--with",
        "psycopg2-binary",
    ]
    environment = {"UV_TOOL_DIR": str(tools), "UV_TOOL_BIN_DIR": str(scratch / "bin")}
    command.append(f"{peer.name}=={peer.version}")
    await run(command, environment=environment, limit_s=_BUILD_LIMIT_S)
    return scratch / "bin" / peer.name
