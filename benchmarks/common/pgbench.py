"""pgbench as the clients: what each runs, its log of single transactions, what it acknowledged, and what broke it.

Four scripts: a row's name is counted up, its unrelated column is counted up, a row is read, a row is inserted. So everything
that was acknowledged can be found again by three sums. pgbench tries nothing again: a client that meets an error ends
("aborts").

A latency counts from when a transaction was due (`--rate`), so that a stall shows in all that had to wait for it; the log
says also how much of it passed before it was sent.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.measures import Taken

SCRIPTS = {
    "name": (
        3,
        "UPDATE users SET name = (coalesce(nullif(name, 'placeholder'), '0')::bigint + 1)::text WHERE id = :id;",
    ),
    "visits": (2, "UPDATE users SET visits = visits + 1 WHERE id = :id;"),
    "select": (4, "SELECT name, visits FROM users WHERE id = :id;"),
    "insert": (1, "INSERT INTO users (name) VALUES ('0');"),
}
"""Weight and statement of each; the order is that of the numbers in the log."""
FOUND = """
SELECT coalesce(sum(nullif(name, 'placeholder')::bigint), 0), sum(visits), count(*) FROM users
"""
KINDS = tuple(SCRIPTS)
_LONGEST_S = 7200
_ABORTED = re.compile(r"client (\d+) (?:script \d+ )?aborted in [^\n]*?(?:: |; )(?P<why>[^\n]*)")
_ENDED_BY_US = re.compile(r"terminating connection due to administrator command|perhaps the backend died")
_REPORTED = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Aborted:
    """A client that an error ended."""

    client: int
    why: str


def written(directory: Path, rows: int, scripts: Mapping[str, tuple[int, str]] = SCRIPTS) -> list[str]:
    """Write scripts for a table of so many rows; gives pgbench's arguments for them."""
    arguments = []
    for name, (weight, statement) in scripts.items():
        path = directory / f"{name.replace(' ', '-')}-{rows}.sql"
        path.write_text(f"\\set id random(1, {rows})\n{statement}\n")
        arguments += ["-f", f"{path}@{weight}"]
    return arguments


def command(
    program: Path,
    scripts: list[str],
    database: str,
    *,
    clients: int,
    seconds: float | None = None,
    rate: float | None = None,
    log: Path | None = None,
    seed: int = 1,
) -> list[str]:
    """Give the command line; `database` is a connection string, `seconds` None for as long as nobody ends it."""
    lasting = str(max(1, round(seconds or _LONGEST_S)))
    words = [
        str(program),
        "-n",
        "-M",
        "prepared",
        "-c",
        str(clients),
        "-j",
        "2" if clients > 4 else "1",
        "-T",
        lasting,
        "--random-seed",
        str(seed),
    ]
    words += ["--failures-detailed", *scripts]
    if rate is not None:
        words += ["-R", f"{rate:.1f}"]
    if log is not None:
        words += ["-l", "--log-prefix", str(log)]
    return [*words, database]


def reported_tps(said: str) -> float:
    """Read the transactions a second from the summary.

    Raises:
        LookupError: there is none.
    """
    found = _REPORTED.search(said)
    if not found:
        raise LookupError(said[-500:])
    return float(found.group(1))


def processed(said: str) -> int:
    """Read from the summary how many transactions were acknowledged.

    Raises:
        LookupError: there is none.
    """
    found = _PROCESSED.search(said)
    if not found:
        raise LookupError(said[-500:])
    return int(found.group(1))


def aborted(said: str, *, ended: bool) -> list[Aborted]:
    """Name the clients that an error ended; where we `ended` them, that is none."""
    found = [Aborted(int(match.group(1)), match.group("why")) for match in _ABORTED.finditer(said)]
    return [each for each in found if not (ended and _ENDED_BY_US.search(each.why))]


def logged(log: Path, group: str, kinds: Sequence[str] = KINDS) -> Iterator[Taken]:
    """Read the log of single transactions, of all threads, in the order in which they ended."""
    lines: list[Taken] = []
    for path in log.parent.glob(f"{log.name}.*"):
        for line in path.read_text().splitlines():
            client, _, time_us, script, epoch_s, epoch_us, *rest = line.split()
            failed = not time_us.isdecimal()
            lines.append(
                Taken(
                    group=group,
                    client=int(client),
                    kind=kinds[int(script)],
                    at=int(epoch_s) + int(epoch_us) / 1e6,
                    ms=0.0 if failed else int(time_us) / 1000,
                    lag_ms=int(rest[0]) / 1000 if rest and not failed else 0.0,
                    failed=failed,
                )
            )
    yield from sorted(lines, key=lambda taken: taken.at)
