"""A service in a process of its own, to be stopped and cut off: reads by its router's path, and says a line for each read.

Its router and its reads have addresses of their own, so that the one can be cut off while the other works.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path as File
from typing import Any, Self

import psycopg

from pgduet.routing import Router
from support.plans import NAME

PAUSE_S = 0.1
ROOT = File(__file__).parents[2]


def work(router_dsn: str, dsn: str, lease_s: float) -> None:
    """Read until killed."""
    with (
        Router.open(router_dsn, service="frozen", lease_s=lease_s) as router,
        psycopg.connect(dsn, autocommit=True, application_name="pgduet-router/reads") as conn,
    ):
        while True:
            path, fresh, error = router.path(NAME, 1), router.fresh, None
            table = f"public_v{path.version}.reviews" if path.version else "public.reviews"
            try:
                conn.execute(f"SELECT note FROM {table} WHERE id = 1".encode())
            except psycopg.Error as failed:
                error = str(failed)
            said = {"version": path.version, "epoch": path.epoch, "fresh": fresh, "error": error}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
            time.sleep(PAUSE_S)


class Reader:
    """The process, as its test sees it."""

    def __init__(self, log: File, router_dsn: str, dsn: str, lease_s: float) -> None:
        self.log = log
        with log.open("wb") as out, log.with_suffix(".errors").open("wb") as err:
            command = [sys.executable, "-m", "support.steered_reader", router_dsn, dsn, str(lease_s)]
            known = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Everything that it has said."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def errors(self) -> list[str]:
        """What went wrong for it."""
        return [line["error"] for line in self.lines if line["error"]]

    async def says(self, **facts: Any) -> None:
        """Wait until its last read was like that."""
        async with asyncio.timeout(60):
            while not ((lines := self.lines) and all(lines[-1][name] == fact for name, fact in facts.items())):
                assert self.process.poll() is None, self.log.with_suffix(".errors").read_text()
                await asyncio.sleep(0.02)

    async def reads(self, more: int = 3) -> None:
        """Wait for more reads."""
        wanted = len(self.lines) + more
        async with asyncio.timeout(60):
            while len(self.lines) < wanted:
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Stop the whole process in mid-word."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], float(sys.argv[3]))
