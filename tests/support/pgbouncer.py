"""PgBouncer before a database server: transaction pooling on loopback, as an ordinary user, gone with the test."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg
from psycopg.conninfo import make_conninfo

from pgduet.local import EmbeddedPostgres, postgres
from pgduet.local.account import server_account
from pgduet.local.ports import free_ports
from pgduet.local.process import GuardedProcess

START_LIMIT_S = 20.0

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
server_idle_timeout = 2
"""


class PgBouncer:
    """`with PgBouncer(server) as pooler: connect(pooler.dsn(database))`. All clients of a database share `pool_size` sessions."""

    def __init__(self, server: EmbeddedPostgres, *, pool_size: int = 2) -> None:
        self._server = server
        self._pool_size = pool_size

    def __enter__(self) -> Self:
        """Start it, and return when it lets clients through."""
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        assert program, "`make tools` installs pgbouncer"
        account = server_account()
        self._own = Path(tempfile.mkdtemp(prefix="pgduet-pgbouncer-", dir=postgres.TEMPORARY))
        (self.port,) = free_ports(1)
        users, settings = self._own / "users.txt", self._own / "pgbouncer.ini"
        users.write_text('"postgres" ""\n')
        settings.write_text(
            SETTINGS.format(server=self._server.port, port=self.port, users=users, pool_size=self._pool_size)
        )
        for path in (self._own, users, settings) if account else ():
            shutil.chown(path, account.uid, account.gid)
        self._process = GuardedProcess(
            [program, str(settings)],
            log_path=self._own / "pgbouncer.log",
            stop_signals=["SIGINT", "SIGTERM"],
            death_signal="SIGTERM",
            account=account,
            remove=[self._own],
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and delete what was its own."""
        self._process.stop()
        shutil.rmtree(self._own, ignore_errors=True)

    def dsn(self, dbname: str) -> str:
        """Give the address of a database through the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{dbname}"

    def _wait(self) -> None:
        ends = time.monotonic() + START_LIMIT_S
        while (refused := self._refused()) is not None:
            log = (self._own / "pgbouncer.log").read_text()[-2000:]
            assert self._process.running(), log
            assert time.monotonic() < ends, f"{refused}\n{log}"
            time.sleep(0.02)

    def _refused(self) -> psycopg.OperationalError | None:
        try:
            psycopg.connect(make_conninfo(self.dsn("postgres"), connect_timeout=2)).close()
        except psycopg.OperationalError as error:
            return error
        return None
