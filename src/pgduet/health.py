"""Whether a worker is alive and at work, told over HTTP at `PGDUET_HEALTH` (`host:port`), for the probes of containers.

Mechanism: a thread of its own answers by asking the worker's event loop, so that a loop that does not turn is told instead of
waited for. `/live`: the loop turns. `/ready`: and nothing is wrong otherwise, as the worker finds. 200 or 503, with the reason.
`python -m pgduet.health` asks `/ready` of the worker in the same container and exits 0 or 1; this module imports the standard
library only, so that a probe costs little.
Limits: no TLS and no password, so it tells no names of databases. A database that is down is no fault of its worker.
"""

import asyncio
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pgduet.errors import PgduetError

VARIABLE = "PGDUET_HEALTH"
LIMIT_S = 3.0
_PROBE_LIMIT_S = LIMIT_S + 1.0

Problem = Callable[[], Awaitable[str | None]]
"""Says what is wrong, or None."""


def place(address: str) -> tuple[str, int]:
    """Take an address apart.

    Raises:
        PgduetError: it is not of the form `host:port`.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        raise PgduetError(f'{VARIABLE} is "{address}"', hint="It is host:port, such as 127.0.0.1:8081.")
    return host, int(port)


@contextmanager
def served(address: str | None, problem: Problem) -> Iterator[None]:
    """Answer probes for the block, from within the event loop that they ask about; without an address, nothing."""
    if not address:
        yield
        return
    loop = asyncio.get_running_loop()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            checks = {"/live": _turns, "/ready": problem}
            if check := checks.get(self.path):
                found = _asked(loop, check)
                self._answer(503 if found else 200, {"ok": found is None, "problem": found})
            else:
                self.send_error(404)

        def _answer(self, code: int, facts: dict[str, Any]) -> None:
            body = json.dumps(facts).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """A probe every few seconds is no news."""

    server = ThreadingHTTPServer(place(address), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="pgduet-health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


async def _turns() -> None:
    return None


def _asked(loop: asyncio.AbstractEventLoop, check: Problem) -> str | None:
    """Have the loop check, for a limited time."""
    turned = threading.Event()

    async def told() -> str | None:
        turned.set()
        return await check()

    asked = asyncio.run_coroutine_threadsafe(told(), loop)
    try:
        return asked.result(LIMIT_S)
    except TimeoutError:
        asked.cancel()
        return "the check takes too long" if turned.is_set() else "the event loop does not turn"


def ask(address: str, path: str = "/ready") -> dict[str, Any]:
    """Ask a worker; a refusal is an answer too.

    Raises:
        OSError: nobody answers.
    """
    host, port = place(address)
    url = f"http://{host if host not in {'', '0.0.0.0'} else '127.0.0.1'}:{port}{path}"  # noqa: S104  (asked, not bound)
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_LIMIT_S) as answer:
            told: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            told = json.load(refused)
    return told


def main() -> int:
    """Ask the worker at `PGDUET_HEALTH` whether it is ready; gives the exit code."""
    address = os.environ.get(VARIABLE, "")
    try:
        told = ask(address)
    except (PgduetError, OSError) as wrong:
        told = {"ok": False, "problem": str(wrong)}
    if not told["ok"]:
        print(told["problem"], file=sys.stderr)  # noqa: T201  (the answer)
    return 0 if told["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
