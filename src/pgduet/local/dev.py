"""`pgduet dev`: an embedded PostgreSQL, Temporal with its UI and a worker, for local work; up until SIGTERM or Ctrl-C.

What the servers hold is kept below `./.pgduet/` and there again at the next start; their ports are new each time. One `dev`
at a time for a directory. Exit code 0 when it was told to end, 1 when a server ended by itself.
"""

import contextlib
import json as json_format
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
from psycopg import sql

from pgduet.local.postgres import EmbeddedPostgres
from pgduet.local.servers import LocalWorker, Temporal, database_variable, temporal
from pgduet.local.stopping import interruptible
from pgduet.messages import TASK_QUEUE

KEPT = Path(".pgduet")
_LOOK_EVERY_S = 0.5


class Dev:
    """What is up, and where."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name = name
        self.say = say
        self.queue = os.environ.get("PGDUET_TASK_QUEUE", TASK_QUEUE)
        self.dsn: str | None = None
        self.temporal: Temporal | None = None
        self.parts: dict[str, Callable[[], bool]] = {}

    def start(self, stack: ExitStack, *, postgres: bool, worker: bool) -> None:
        """Start the parts that are asked for; the stack ends them."""
        KEPT.mkdir(exist_ok=True)
        if postgres:
            server = stack.enter_context(EmbeddedPostgres(KEPT / "postgres"))
            self.dsn = _database(server, self.name)
            self.parts["PostgreSQL"] = lambda: _alive(server.pid)
        found = stack.enter_context(temporal(self.say, KEPT / "temporal.db"))
        self.temporal = found
        if found.server is not None:
            self.parts["Temporal"] = lambda: _alive(found.pid)
        if worker:
            started = LocalWorker(self.addresses(), queue=self.queue, log_path=KEPT.absolute() / "worker.log")
            self.parts["the worker"] = stack.enter_context(started).running

    def addresses(self) -> dict[str, str]:
        """Give the variables by which clients and workers find these servers."""
        assert self.temporal is not None  # noqa: S101  started before
        database = {database_variable(self.name): self.dsn} if self.dsn else {}
        return {"TEMPORAL_ADDRESS": self.temporal.address, **database}

    def facts(self) -> dict[str, str | None]:
        """Give what `--json` prints; there is no console yet."""
        found = self.temporal
        return {
            "temporal": found.address if found else None,
            "ui": found.ui if found else None,
            "console": None,
            "dsn": self.dsn,
        }

    def page(self) -> str:
        """Tell people what is up."""
        facts = self.facts()
        lines = [f"  Temporal     {facts['temporal']}", f"  UI           {facts['ui'] or 'with your own server'}"]
        if self.dsn:
            lines.append(f"  PostgreSQL   {self.dsn}   (database `{self.name}` in a plan)")
        if "the worker" in self.parts:
            lines.append(f"  worker       task queue {self.queue}, its log in {KEPT / 'worker.log'}")
        exports = " ".join(f"{name}={value}" for name, value in self.addresses().items())
        return "\n".join(["up, until Ctrl-C:", *lines, "", "in another shell:", f"  export {exports}"])

    def stay(self) -> str | None:
        """Stay until interrupted; gives the name of a part that ended by itself."""
        waiting = threading.Event()
        while True:
            gone = next((name for name, running in self.parts.items() if not running()), None)
            if gone:
                return gone
            waiting.wait(_LOOK_EVERY_S)


def main(
    *,
    postgres: bool = True,
    worker: bool = True,
    name: str = "flights",
    json: bool = False,
) -> int:
    """Start everything, say where it is, and stay; gives the exit code."""
    dev = Dev(name, lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201  what takes long is said
    with interruptible() as ending, contextlib.suppress(KeyboardInterrupt), ExitStack() as stack:
        dev.start(stack, postgres=postgres, worker=worker)
        print(json_format.dumps(dev.facts()) if json else dev.page(), flush=True)  # noqa: T201  the answer
        gone = dev.stay()
        ending()
        told = f"{gone} has ended by itself, and so the rest was ended; see {KEPT}/. `pgduet dev` goes on from there."
        print(told, file=sys.stderr, flush=True)  # noqa: T201
        return 1
    return 0


def _database(server: EmbeddedPostgres, name: str) -> str:
    """Create the database where it is not there yet."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        there = conn.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount
        if not there:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.dsn(name)


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


if __name__ == "__main__":
    raise SystemExit(main())
