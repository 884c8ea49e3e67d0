"""What the compose file starts, started without containers: its commands, variables, files and health checks as they stand there.

The worker and the command line run from the Dockerfile's own build, as an account without rights where root can lend one; the
commands of a person are those of docs/how-to/deploy.md.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.compose import Machine, in_order, seconds
from support.image import ROOT, Image, plain_python

from pgduet.local import EmbeddedPostgres
from pgduet.local.account import server_account
from pgduet.local.temporal_binary import find_temporal

PAGE = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
BY_THE_PAGE = re.findall(r"^docker compose -f deploy/compose.yaml run --rm cli (.+)$", PAGE, re.MULTILINE)
WHO_IS_ASKED = "local all all trust\nhost all all all scram-sha-256\n"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Give a directory that every account can enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="pgduet-deploy-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def machine(scratch: Path) -> Machine:
    """Build what the image holds, and say what stands for users and programs of containers."""
    installed = Image().built(scratch / "build", plain_python())
    account = server_account()
    ours = os.geteuid()
    programs = {name: installed / "bin" / name for name in ("pgduet", "python")}
    programs["temporal"] = find_temporal()
    programs["pg_isready"] = EmbeddedPostgres().bin_dir / "pg_isready"
    accounts = {"postgres": account.uid if account else ours, "10001": 10001 if ours == 0 else ours}
    return Machine(scratch, programs, accounts, USER="ann")


class Deployed:
    """The services as they run; `up` starts them as the engine would."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.postgres: EmbeddedPostgres | None = None

    def up(self) -> None:
        for name in in_order(self.machine.services):
            self.machine.write_configs(name)
            if name == "secrets":
                done = self.machine.run(name)
                assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
                continue
            if name == "postgres":
                self._start_postgres()
            else:
                self.processes[name] = self.machine.start(name)
            self.machine.wait_healthy(name, self.processes.get(name))

    def _start_postgres(self) -> None:
        """Do as the image's entry point does: a cluster, a superuser's password, a database, the files of initdb.d."""
        machine, name = self.machine, "postgres"
        environment = machine.environment(name)
        data = Path(environment["PGDATA"])
        there_already = data.exists()
        server = EmbeddedPostgres(data, settings={"fsync": "off"})
        server._port = machine.ports[name, "5432"]
        self.postgres = server
        server.start()
        if there_already:
            return
        (data / "pg_hba.conf").write_text(WHO_IS_ASKED)
        self.psql("postgres", "SELECT pg_reload_conf()")
        self.psql("postgres", "\\set word `cat \"$POSTGRES_PASSWORD_FILE\"`\nALTER ROLE postgres PASSWORD :'word'")
        database = environment["POSTGRES_DB"]
        self.psql("postgres", f"CREATE DATABASE {database}")
        for target, here in sorted(machine.mounts(name).items()):
            if target.startswith("/docker-entrypoint-initdb.d/"):
                assert target.endswith(".sql")
                self.psql(database, here.read_text())

    def psql(self, database: str, text: str) -> str:
        """Run SQL through psql within the container: by its socket, as the account of its service."""
        assert self.postgres is not None
        done = subprocess.run(
            [
                *(self.postgres.bin_dir / "psql", "--no-psqlrc", "--no-password", "--quiet", "-v", "ON_ERROR_STOP=1"),
                *(
                    "-h",
                    self.postgres.socket_dir,
                    "-p",
                    str(self.postgres.port),
                    "-U",
                    "postgres",
                    "-d",
                    database,
                    "-At",
                ),
            ],
            input=text,
            env=self.machine.environment("postgres"),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **self.machine.who("postgres"),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def cli(self, *words: str) -> str:
        done = self.machine.run("cli", *words)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}\n{self.machine.log('worker').read_text()}"
        return done.stdout

    def down(self) -> dict[str, int]:
        """Stop the services as the engine would, each within its grace; gives their exit codes."""
        codes = {}
        for name, process in reversed(self.processes.items()):
            process.send_signal(signal.SIGTERM)
            codes[name] = process.wait(seconds(self.machine.services[name]["stop_grace_period"]))
        assert self.postgres is not None
        assert self.postgres._process is not None
        guard = self.postgres._process._guard
        self.postgres.stop()
        codes["postgres"] = guard.returncode
        return codes

    def clear(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        if self.postgres is not None:
            self.postgres.close()


@pytest.fixture
def deployed(machine: Machine) -> Iterator[Deployed]:
    running = Deployed(machine)
    try:
        running.up()
        yield running
    finally:
        running.clear()


def secret_files(machine: Machine) -> dict[str, Path]:
    folders = [*machine.mounts("secrets").values()]
    return {path.name: path for folder in folders if folder.is_dir() for path in folder.iterdir()}


def test_the_page_s_commands_migrate_and_roll_back_on_what_the_compose_file_starts(deployed: Deployed) -> None:
    machine = deployed.machine
    files = secret_files(machine)
    before = {name: path.read_text() for name, path in files.items()}
    assert set(before) == {"superuser.password", "worker.password", "shop.dsn"}
    assert {path.stat().st_mode & 0o077 for path in files.values()} == {0}
    assert machine.run("secrets").returncode == 0
    assert {name: path.read_text() for name, path in files.items()} == before, "passwords are made once"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(before["shop.dsn"].strip().replace("pgduet_worker:", "pgduet_worker:not"))

    machine.write_configs("cli")
    deployed.psql("shop", (ROOT / "deploy" / "example" / "tables.sql").read_text())
    shape = deployed.psql("shop", "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'reviews'::regclass")
    told = {words: deployed.cli(*shlex.split(words)) for words in BY_THE_PAGE}
    verbs = [words.split()[0] for words in told]
    assert verbs == ["setup", "check", "start", "approve", "wait", "status", "rollback"]
    assert "soak" in told["status review-stars"]
    assert "rolled back" in told[BY_THE_PAGE[-1]]
    assert shape == deployed.psql(
        "shop",
        "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'reviews'::regclass AND NOT attisdropped",
    )
    assert deployed.psql("shop", "SELECT count(*) FROM reviews") == "10000"
    assert set(deployed.psql("shop", "SELECT DISTINCT actor FROM pgduet.audit").split()) == {"ann"}

    assert deployed.down() == {"worker": 0, "temporal": 0, "postgres": 0}
    said = "".join(machine.log(name).read_text() for name in ("worker", "temporal"))
    assert [secret for secret in before.values() if secret.strip() in said] == []

    deployed.up()
    listed = json.loads(deployed.cli("status", "--json"))["migrations"]
    assert [(each["name"], each["state"]) for each in listed] == [("review-stars", "rolled_back")]
    assert deployed.down() == {"worker": 0, "temporal": 0, "postgres": 0}
