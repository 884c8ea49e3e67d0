"""What root does for the embedded PostgreSQL on Linux; collected only where there is root (see conftest.py)."""

import shutil
import tempfile
from pathlib import Path

import pytest
from support.processes import ask, is_gone, within

from pgduet.errors import ServerMissing
from pgduet.local import EmbeddedPostgres, postgres_binaries
from pgduet.local.account import server_account

FAST = {"fsync": "off"}


def test_programs_under_a_private_home_are_copied_instead_of_opening_it(
    kept_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = kept_dir / "private"
    private.mkdir(mode=0o700)
    package = postgres_binaries._in_wheel(18).parent.parent
    for source in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, private / source.name)
    monkeypatch.setattr(postgres_binaries, "_in_wheel", lambda _: private / package.name / "pginstall18" / "bin")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(kept_dir))
    with EmbeddedPostgres(settings=FAST) as server:
        assert server.bin_dir.is_relative_to(kept_dir)
        assert not server.bin_dir.is_relative_to(private)
        assert ask(server, "SELECT 1") == 1
    assert private.stat().st_mode & 0o077 == 0
    copied = server.bin_dir.parents[2]
    copied.chmod(0o777)
    with pytest.raises(ServerMissing, match="not ours alone"):
        EmbeddedPostgres()


def test_root_lends_the_server_another_account() -> None:
    account = server_account()
    assert account is not None
    assert account.uid != 0
    with EmbeddedPostgres(settings=FAST) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == account.uid


def test_a_data_directory_out_of_reach_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ServerMissing, match="cannot set up"), EmbeddedPostgres(tmp_path / "data"):
        pass


def test_the_server_ends_when_its_guard_is_killed() -> None:
    with EmbeddedPostgres(settings=FAST) as server:
        assert server._process is not None
        assert server.pid is not None
        server._process._guard.kill()
        assert within(10, lambda: is_gone(int(server.pid or 0)))
