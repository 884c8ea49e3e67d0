"""A real standby: a base backup of an embedded server that streams from it, and whose replay can be paused."""

import subprocess

import psycopg

from pgduet.local import EmbeddedPostgres


class Standby(EmbeddedPostgres):
    """A hot standby of `primary`, under a name that the primary shows."""

    def __init__(self, primary: EmbeddedPostgres, name: str = "paris") -> None:
        super().__init__(version=primary.version, settings=primary.settings)
        self.primary = primary
        self.name = name

    def _initialise(self) -> None:
        """Copy the primary instead of making a cluster; `-R` has the copy follow it."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hand_over(self.data_dir)
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres application_name={self.name}"
        account = self._account
        subprocess.run(
            [
                *(str(self.bin_dir / "pg_basebackup"), "-D", str(self.data_dir), "-d", source),
                *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )

    def pause(self) -> None:
        """Have it replay nothing; it goes on receiving."""
        self._say("SELECT pg_wal_replay_pause()")

    def resume(self) -> None:
        """Have it replay again."""
        self._say("SELECT pg_wal_replay_resume()")

    def _say(self, statement: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute(statement.encode())
