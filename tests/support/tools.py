"""Builds or fetches the programs that tests run, before any test's time begins to count: `python -m support.tools`."""

import sys

from pgduet.errors import PgduetError
from pgduet.local.temporal_binary import find_temporal
from support.tctl import TctlMissing, find_tctl


def main() -> int:
    """Have them in the cache; says where they are."""
    try:
        for program in (find_temporal(say=_say), find_tctl()):
            _say(str(program))
    except (PgduetError, TctlMissing) as missing:
        _say(str(missing))
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
