"""A private PostgreSQL server for `pgduet dev`, the demo and the tests.

Mechanism: `initdb` and `postgres` of the wheel, run directly. The server listens on 127.0.0.1 at a port that was free
and on a Unix socket in its own short directory, and trusts every loopback connection. Without `data_dir` its data
live in a temporary directory that is gone after `close()`; a given one is kept, and started again if it holds a
cluster. The server ends with the process that started it, however that ends (see `guard.py`).

Limits: `start()` blocks; inside an event loop call it by `asyncio.to_thread`. No TLS, no passwords, no ICU
collations: never for production data. One process at a time per `data_dir`.
"""

import atexit
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from pgduet.errors import ServerMissing
from pgduet.local.account import server_account
from pgduet.local.ports import free_ports
from pgduet.local.postgres_binaries import find_bin_dir
from pgduet.local.process import GuardedProcess

TEMPORARY = "/tmp"  # noqa: S108 - a socket's path has room for some 100 bytes; mkdtemp makes a private directory
"""Where servers without a data directory of their own live; tests put them into memory."""
_NOT_STARTED = "The embedded PostgreSQL has not been started."
_CONF_FILE = "pgduet.conf"
_START_LIMIT_S = 60.0
_PORT_TRIES = 5
_SETTINGS = {
    "max_connections": "300",
    "max_prepared_transactions": "20",
    "wal_level": "logical",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """A PostgreSQL 16 or 18 of our own: `with EmbeddedPostgres() as server: connect(server.dsn())`.

    `settings` are put in the configuration file over our own defaults; ALTER SYSTEM still wins over both.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        version: int = 18,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self.settings = {**_SETTINGS, **(settings or {})}
        self._given_data_dir = data_dir.absolute() if data_dir else None
        self._own_dir: Path | None = None
        self._process: GuardedProcess | None = None
        self._port: int | None = None
        self._account = server_account()
        self.bin_dir = find_bin_dir(version, self._account)

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; it stays the same over a restart."""
        if self._port is None:
            raise ServerMissing(_NOT_STARTED)
        return self._port

    @property
    def data_dir(self) -> Path:
        """Where the cluster's files are."""
        return self._given_data_dir or self.socket_dir / "data"

    @property
    def socket_dir(self) -> Path:
        """The directory of the Unix socket, ours alone."""
        if self._own_dir is None:
            raise ServerMissing(_NOT_STARTED)
        return self._own_dir

    @property
    def log_path(self) -> Path:
        """The server's log file; it goes away with a temporary data directory."""
        return self._given_data_dir / "pgduet.log" if self._given_data_dir else self.socket_dir / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The process id of the server while it runs."""
        return self._process.pid if self._process else None

    def dsn(self, dbname: str = "postgres") -> str:
        """Give the URI of one database, for the superuser `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def __enter__(self) -> Self:
        """Start the server, and leave nothing behind when that fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and delete what was temporary."""
        self.close()

    def start(self) -> None:
        """Start the server and return once it accepts connections; does nothing when it runs."""
        if self._process is not None and self._process.running():
            return
        atexit.register(self.close)
        if self._own_dir is None:
            self._own_dir = Path(tempfile.mkdtemp(prefix="pgduet-", dir=TEMPORARY))
            self._hand_over(self._own_dir)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()
        self._require_same_version()
        self._configure()
        first_start = self._port is None
        for _ in range(_PORT_TRIES):
            if first_start:
                self._port = free_ports(1)[0]
            if self._launch():
                return
        raise ServerMissing("The embedded PostgreSQL found no free port.")

    def stop(self) -> None:
        """Shut down in order: sessions are ended, a checkpoint is written; `start()` goes on from there."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def restart(self) -> None:
        """Stop and start on the same port, as for settings that need it."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Crash: every server process ends at once, without checkpoint; the next `start()` recovers from the WAL."""
        if self._process is not None:
            self._process.kill("SIGQUIT")
            self._process = None

    def close(self) -> None:
        """Stop for good and delete what was temporary."""
        atexit.unregister(self.close)
        if self._given_data_dir is None:
            self.kill()
        else:
            self.stop()
        if self._own_dir is not None:
            shutil.rmtree(self._own_dir, ignore_errors=True)
            self._own_dir = None
        self._port = None

    def _initialise(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hand_over(self.data_dir)
        command = [
            *(str(self.bin_dir / "initdb"), "-D", str(self.data_dir), "-U", "postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C", "--no-instructions"),
        ]
        if self.version >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self.settings.get("fsync") == "off":
            command.append("--no-sync")
        account = self._account
        done = subprocess.run(  # noqa: S603 - a program of the wheel
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode != 0:
            message = f"PostgreSQL cannot set up {self.data_dir}: {done.stderr.strip()}"
            raise ServerMissing(
                message,
                hint="Choose a data directory that the server's account can reach." if account else None,
            )

    def _require_same_version(self) -> None:
        found = (self.data_dir / "PG_VERSION").read_text().strip()
        if found != str(self.version):
            message = f"{self.data_dir} belongs to PostgreSQL {found}, not {self.version}."
            raise ServerMissing(
                message,
                hint="Choose another data directory, or that version.",
            )

    def _configure(self) -> None:
        """Write our settings to a file of their own that the main one includes."""
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in self.settings.items()]
        conf = self.data_dir / _CONF_FILE
        conf.write_text("".join(lines))
        self._hand_over(conf)
        include = f"include '{_CONF_FILE}'\n"
        main = self.data_dir / "postgresql.conf"
        if include not in main.read_text():
            with main.open("a") as handle:
                handle.write(include)

    def _launch(self) -> bool:
        """Try once; False when the port was taken meanwhile."""
        command = [
            *(str(self.bin_dir / "postgres"), "-D", str(self.data_dir)),
            *("-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}"),
            *("-c", f"unix_socket_directories={self.socket_dir}"),
        ]
        temporary = self._given_data_dir is None
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        process = GuardedProcess(
            command,
            log_path=self.log_path,
            stop_signals=["SIGINT", "SIGQUIT"],
            death_signal="SIGQUIT" if temporary else "SIGINT",
            account=self._account,
            remove=[self.socket_dir],
        )
        if self._became_ready(process):
            self._process = process
            return True
        process.stop()
        said = self.log_path.read_bytes()[log_start:]
        if b"Address already in use" in said:
            return False
        if b'lock file "postmaster.pid" already exists' in said:
            message = f"Another PostgreSQL runs on the data in {self.data_dir}."
            raise ServerMissing(
                message, hint="Go on with that one, or end it first: `pgduet dev` holds one until it is interrupted."
            )
        message = f"The embedded PostgreSQL did not start: {process.log_tail()}"
        raise ServerMissing(message)

    def _became_ready(self, process: GuardedProcess) -> bool:
        """Wait until the server's own pid file says so, as pg_ctl does."""
        deadline = time.monotonic() + _START_LIMIT_S
        while process.running() and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                lines = (self.data_dir / "postmaster.pid").read_text().split("\n")
                if lines[0] == str(process.pid) and len(lines) > 7 and lines[7].strip() == "ready":
                    return True
            time.sleep(0.01)
        return False

    def _hand_over(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
