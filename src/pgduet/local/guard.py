"""Hold one server process and end it when whoever started it is gone; run as a script, by path.

Mechanism: the starter keeps the write end of this script's standard input. The kernel closes it when the starter ends
for whatever reason, SIGKILL included; the end of input then stops the server and removes its throw-away directories.
That needs no signal handler in the starter, does not depend on which of its threads did the starting, and works on
Linux and macOS. On Linux the server is also told by the kernel when this script itself is killed.

Words on standard input: `stop` ends the server in order, `SIGQUIT` and the like are passed on. The only line on
standard output is the server's process id. Limit: a process forked from the starter without exec keeps the pipe open
while it lives. This file imports the standard library only, so that it starts in some 30 ms.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Start the server described by the JSON in the first argument, wait for it, and give its exit code."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, _leave)
    child = _start(spec)
    starter_gone = threading.Event()
    try:
        os.write(1, f"{child.pid}\n".encode())
        threading.Thread(target=_obey, args=(child, spec, starter_gone), daemon=True).start()
        code = child.wait()
    finally:
        _end(child, spec)
    if starter_gone.is_set():
        for path in spec["remove"]:
            shutil.rmtree(path, ignore_errors=True)
    return code & 0xFF


def _start(spec: dict[str, Any]) -> subprocess.Popen[bytes]:
    with open(spec["log_path"], "ab") as log:  # noqa: PTH123 - pathlib would double the start-up time
        return subprocess.Popen(  # noqa: S603 - the starter chose the command
            spec["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            user=spec["uid"],
            group=spec["gid"],
            extra_groups=None if spec["uid"] is None else [],
            preexec_fn=_dying_with_us(signal.Signals[spec["death_signal"]]),  # noqa: PLW1509 - no thread runs here yet  # noqa: PLW1509 - no thread runs here yet
        )


def _dying_with_us(death_signal: signal.Signals) -> Callable[[], None] | None:
    """Give what asks the kernel for a signal once this script is dead; it must run after the change of user."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(death_signal))


def _obey(child: subprocess.Popen[bytes], spec: dict[str, Any], starter_gone: threading.Event) -> None:
    for word in _words():
        if word == "stop":
            _end(child, spec)
        else:
            child.send_signal(signal.Signals[word])
    starter_gone.set()
    _end(child, spec)


def _words() -> Iterator[str]:
    while chunk := os.read(0, 4096):
        yield from chunk.decode().split()


def _end(child: subprocess.Popen[bytes], spec: dict[str, Any]) -> None:
    """Try the stop signals one after another, each for the grace time, and SIGKILL at last."""
    for name in [*spec["stop_signals"], "SIGKILL"]:
        if child.poll() is not None:
            return
        child.send_signal(signal.Signals[name])
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(spec["grace_s"])


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a handler
    sys.exit(128 + number)


if __name__ == "__main__":
    os._exit(main())  # the reading thread may still be blocked: no orderly interpreter shutdown
