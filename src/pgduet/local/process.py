"""A server process that cannot outlive us: the starter's side of `guard.py`.

Mechanism: a small guard process holds the server and notices, by the end of its standard input, that we are gone.
Nothing here needs to run when we die. The guard has its own session, so Ctrl-C in a terminal reaches us and not the
servers, which we then stop in order.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pgduet.errors import ServerMissing
from pgduet.local.account import Account

_GUARD = Path(__file__).with_name("guard.py")


class GuardedProcess:
    """One running server; made running, gone after `stop()` or `kill()`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_path: Path,
        stop_signals: Sequence[str],
        death_signal: str,
        grace_s: float = 10.0,
        account: Account | None = None,
        remove: Sequence[Path] = (),
    ) -> None:
        """Start `command`, its output appended to `log_path`.

        `stop_signals` are tried in turn for `grace_s` each; `death_signal` is for when the guard itself was killed;
        `remove` are directories to delete when we are gone without having stopped the server.
        """
        self.log_path = log_path
        self._stop_limit_s = grace_s * (len(stop_signals) + 1) + 5
        spec = {
            "command": list(command),
            "log_path": str(log_path),
            "stop_signals": list(stop_signals),
            "death_signal": death_signal,
            "grace_s": grace_s,
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "remove": [str(path) for path in remove],
        }
        self._guard = self._start(json.dumps(spec))
        self.pid = self._read_pid()

    def _start(self, spec: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, "-I", "-S", str(_GUARD), spec],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _read_pid(self) -> int:
        assert self._guard.stdout is not None  # noqa: S101 - for the type checker: we asked for a pipe
        line = self._guard.stdout.readline()
        if not line:
            self._reap()
            message = f"The server did not start: {self.log_tail()}"
            raise ServerMissing(message)
        return int(line)

    def running(self) -> bool:
        """Tell whether the server is still there."""
        return self._guard.poll() is None

    def stop(self) -> None:
        """End the server in order; does nothing when it has ended."""
        self._say("stop")
        self._reap()

    def kill(self, signal_name: str = "SIGKILL") -> None:
        """End the server at once by one signal, which it must not survive."""
        self._say(signal_name)
        self._reap()

    def _say(self, word: str) -> None:
        assert self._guard.stdin is not None  # noqa: S101 - for the type checker: we asked for a pipe
        if self._guard.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(f"{word}\n".encode())
            self._guard.stdin.flush()

    def _reap(self) -> None:
        """Wait for the guard, which ends right after the server, and close the pipes."""
        try:
            self._guard.wait(self._stop_limit_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def log_tail(self, lines: int = 10) -> str:
        """Give the last lines that the server wrote, for an error message."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
