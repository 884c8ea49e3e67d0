"""The generated pages of the reference: errors, hazards, phases and telemetry, written from the code that defines them.

`python -m pgduet.reference [DIRECTORY]` writes them, by default into `docs/reference`. `pages` is pure; a test compares it
with what is committed. What the code does not say (an error's cause, effect and cure) stands here as data: a class without
an entry is a KeyError, so no error goes undocumented.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pgduet import errors, observe
from pgduet.errors import PgduetError
from pgduet.hazards import RULES, Rule
from pgduet.markdown import page, table
from pgduet.phase_words import AUTHORITIES, DOES, STATES, SYNC
from pgduet.phases import GATED, JOURNEY, TRANSITIONS, Phase
from pgduet.plan import load
from pgduet.routing import model, pairing
from pgduet.telemetry.reference import telemetry_page

_MODULES: tuple[ModuleType, ...] = (errors, load, model, observe, pairing)
"""Where errors are defined."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a page says about an error beyond its docstring."""

    cause: str
    effect: str
    cure: str


_UNTOUCHED = "Nothing was changed. A start ends at once with the error; it does not loop."
_HELD = "The migration waits in its phase and says so in `status`; both versions stay in step."

ADVICE: dict[str, Advice] = {
    "PD-1000": Advice(
        "Something failed that has no code of its own: a workflow that was terminated from outside, an answer that"
        " cannot be read, a data file that cannot be fetched.",
        "Depends on what failed; the message is the cause as it was told.",
        "Read the message. `pgduet status NAME` says where the migration stands; the Temporal UI has the whole history.",
    ),
    "PD-1001": Advice(
        "A key of the plan is unknown, missing, of the wrong type or out of range, or two keys contradict each other.",
        _UNTOUCHED,
        "Correct the place that the message names. `pgduet schema` prints the JSON Schema for your editor.",
    ),
    "PD-1002": Advice(
        "The file cannot be opened, is not UTF-8, or is neither YAML nor JSON; or it uses YAML that would be misread.",
        _UNTOUCHED,
        "Correct the file at the line and column of the message.",
    ),
    "PD-1040": Advice(
        "No table of that name is in the database. A name without a schema means `public`; unquoted names are folded to"
        " lower case.",
        _UNTOUCHED,
        "Correct the name, or the `database` of the plan. The nearest name is suggested.",
    ),
    "PD-1041": Advice(
        "`drop_index` names an index that is not in the database. A name without a schema means that of `table`, or"
        " `public`; unquoted names are folded to lower case.",
        _UNTOUCHED,
        "Correct the name. The nearest name is suggested.",
    ),
    "PD-1042": Advice(
        "`replaces`, `up` or `down` names a column that is not there. `up` reads the columns of the old version, `down`"
        " those of the new one.",
        _UNTOUCHED,
        "Correct the name at the caret. The nearest name is suggested.",
    ),
    "PD-1043": Advice(
        "PostgreSQL cannot parse the expression or does not know the type; or the expression has a subquery, an"
        " aggregate, a window function or a function that returns rows.",
        _UNTOUCHED,
        "Write one expression over the row's own columns that can be cast to the column's type.",
    ),
    "PD-1044": Advice(
        "The expression calls a volatile function, a clock such as `now()`, or `current_…`.",
        _UNTOUCHED,
        "A row is mapped more than once (trigger, backfill, parity) and must come out the same: use an immutable or"
        " stable expression over the row's columns, or a constant.",
    ),
    "PD-1045": Advice(
        "A replaced column has no `down`, or `down` gives NULL for a column that is NOT NULL: for an empty new column, or"
        " in a row of the sample.",
        _UNTOUCHED,
        "Add the expression; make the new column `nullable: false`; or let `down` fall back on a value (`coalesce`).",
    ),
    "PD-1046": Advice(
        "The plan asks for an operation, a policy key, a kind of table (inherited, temporary, a partition, one with foreign or"
        " very many partitions), a type (a domain with constraints) or a column (of the primary or the partition key,"
        " generated, with dependent views or foreign keys) that this version does not migrate.",
        _UNTOUCHED,
        "Do as the message says, or leave that part out of the plan. What is not supported is refused, never ignored.",
    ),
    "PD-1047": Advice(
        "A new column has the name of a column of the table that the plan does not replace; or a new table, index or"
        " constraint has the name of one that is there and stays.",
        _UNTOUCHED,
        "Choose another name; list the old column in `replaces`, or drop the old index in the same plan.",
    ),
    "PD-1048": Advice(
        "The table has no constraint of that name.",
        _UNTOUCHED,
        "Correct the name; the message says which one comes nearest, or which there are.",
    ),
    "PD-1049": Advice(
        "PostgreSQL does not accept the index that `create_index` asks for (method, operator class, collation, parameter, an"
        " expression that is not immutable); or `drop_index` or `set_replica_identity` names an index that is another"
        " table's, or by which rows cannot be named.",
        _UNTOUCHED,
        "Do as the message says: it is PostgreSQL's own, or names what the index lacks.",
    ),
    "PD-1050": Advice(
        "Another live migration changes the same table, or one to which a foreign key of either plan refers; or the plan"
        " does not go on from the newest version; or its new version is there already; or the version that it begins at"
        " is being rolled back.",
        _UNTOUCHED,
        "The message names the other migration. Wait until it is done or rolled back, put both changes into one plan, or"
        " correct the plan's `version`.",
    ),
    "PD-1051": Advice(
        "A migration of this name is live or done, with other versions or operations (another checksum). The policy may"
        " differ, the rest may not.",
        _UNTOUCHED,
        "Give the changed plan a new name, or roll the first one back while that is possible.",
    ),
    "PD-1060": Advice(
        "The worker's role does not own the table, may not create schemas, or may not mute the table's own triggers.",
        _UNTOUCHED,
        "`pgduet setup DATABASE --print-sql` prints the grants. For triggers: `GRANT SET ON PARAMETER"
        " session_replication_role`, or `user_triggers: fire` in the policy.",
    ),
    "PD-1061": Advice(
        "The worker that took the task has no address for the plan's `database`, or its `pgduet.toml` cannot be read.",
        _UNTOUCHED,
        "Set `PGDUET_DATABASE_<NAME>` where the worker runs, or add `[databases.<name>]` to its `pgduet.toml`. The"
        " message lists the names that are known.",
    ),
    "PD-1062": Advice(
        "Temporal lists no migration of this name, several databases have one, or the database's metadata has none.",
        "Nothing was changed.",
        "Correct the name, or add `--database`. Where Temporal forgot the run: `pgduet rollback NAME --plan FILE`.",
    ),
    "PD-2001": Advice(
        "A table lock was not free in any short try before `lock_deadline_s`: a long transaction, or an autovacuum that"
        " the worker's role may not hurry.",
        "Nothing of the transaction remains, and clients never waited longer than one try. The phase stops and waits.",
        "End what the message names (pid, role, state, age, query without its values) by the statement in the hint, or wait"
        " until it ends; then `pgduet advance NAME`. Or roll back."
        " `GRANT SET ON PARAMETER deadlock_timeout` lets the worker get past an autovacuum.",
    ),
    "PD-2002": Advice(
        "`up` raises on rows that exist, such as a text that is no number.",
        "The backfill has filled every other row; these are empty. " + _HELD,
        "Correct the rows (old clients may), then `pgduet advance NAME`. Or change the plan: `pgduet rollback NAME`.",
    ),
    "PD-2003": Advice(
        "A probe write, which goes through the real triggers and is rolled back, did not reach the other"
        " representation.",
        _HELD,
        "Look for a trigger of your own that changes the same columns; `pgduet verify NAME` names rows that differ. Then"
        " `pgduet advance NAME` tries again.",
    ),
    "PD-2004": Advice(
        "The act does not fit where the migration stands: nothing waits, approvals are missing, the same actor approved"
        " already, it has ended, or contract has begun.",
        "Nothing was changed. Sent as a signal, the act is noted in `decisions` and ignored.",
        "The message says what is possible; `pgduet status NAME` ends with the commands that are.",
    ),
    "PD-2005": Advice(
        "A rollback would take away the version from which a later migration starts, and that one is live.",
        "Nothing was changed. Sent as a signal, the act is noted in `decisions` and ignored; a cancelled workflow is"
        " paused and goes back when the later ones are gone.",
        "Roll the later ones back first, newest first, or all of them at once: `pgduet rollback NAME --cascade`.",
    ),
    "PD-2009": Advice(
        "The table is to be the first partition of a partitioned table, and has rows that are not that partition's; the message"
        " gives the keys of a few.",
        _HELD,
        "Change or delete these rows; `pgduet advance NAME` looks again. Or `pgduet rollback NAME`, which moves no row, and start"
        " again with a bound that lies further off.",
    ),
    "PD-2010": Advice(
        "A column was added to the table, dropped, or given another type, computation, numbering or NOT NULL, after preflight."
        " Contract drops the old form, and the plan does not know what to do with the change. Defaults, comments and the like need"
        " nobody: contract takes them over. A rollback says it of a column that somebody gave the new shape while that had the"
        " table's name.",
        "Both versions go on, and nothing was dropped. Each census looks, so `decisions` of `pgduet status NAME` says it early.",
        "Undo the change, as the hint says; `pgduet advance NAME` looks again. Or `pgduet rollback NAME`, which leaves the table"
        " with the change, and start again: the plan is resolved anew. Or make the change after contract.",
    ),
    "PD-3001": Advice(
        "The audit log was changed by hand: an entry does not match its hash, or is missing, moved or added; or the head"
        " row is not the last entry's.",
        "Nothing from the named entry on can be trusted. Where the head row is wrong no entry can be appended, so no step"
        " that records one can commit.",
        "Keep the log as it is (`pgduet audit export`) and compare it with an export made before: its lines are what was"
        " written. Do not write a head by hand: it would hide what happened. See explanation/audit.",
    ),
    "PD-3002": Advice(
        "The log is sound in itself, but a head that was kept outside (in Temporal, or by somebody) is not in it: it was"
        " rewritten or cut off with its hashes made anew, or the database is an older copy or another one of the same"
        " name.",
        "Nothing from the named entry on can be trusted, although each entry matches its hash.",
        "Compare with an export made before. A database that was restored from a backup has lost what came after it:"
        " say so in your change record; the anchors of that time disagree until Temporal's retention is over.",
    ),
    "PD-3003": Advice(
        "pgduet was never set up in this database, or its schema was dropped. Where migrations have kept heads of the log"
        " in Temporal, the message counts them: then it was dropped.",
        "There is nothing to verify or to export.",
        "`pgduet setup DATABASE` makes a log. Where one was dropped, bring it back from a backup.",
    ),
    "PD-4001": Advice(
        "No Temporal server answers, none could be found, downloaded or built; no worker answers on the task queue; or"
        " the embedded PostgreSQL is not installed.",
        "Nothing was changed. A migration that runs goes on when a worker is back.",
        "Set `TEMPORAL_ADDRESS`, start `pgduet worker` on the same `PGDUET_TASK_QUEUE`, or use `pgduet dev`.",
    ),
    "PD-5001": Advice(
        "A router was opened for a service that knows one version only, and that is not published yet, or has gone; or the"
        " routes could not be read in time, or the address not at all.",
        "The router answers no path: before contract the base tables are the old version, after it the new one, so a"
        " guess could be wrong.",
        "Deploy code that knows only the new version after the migration has passed verify, and none that knows only the old"
        " one after contract; check the router's DSN.",
    ),
    "PD-5002": Advice(
        "An adapter of the routing library was imported, and the library that it is for is not installed.",
        "The import fails; nothing else does.",
        "Install the extra that the message names, such as `pgduet-routing[sqlalchemy]`.",
    ),
    "PD-5003": Advice(
        "A connection cannot read the version of a path: it is in a transaction already, in autocommit mode, or keeps"
        " prepared statements from one transaction to the next; or there is no address or alias for the version.",
        "Nothing was sent to the database.",
        "Begin transactions by the adapter. See [Pick a version](../how-to/pick-a-version.md) for your framework.",
    ),
    "PD-5004": Advice(
        "A service writes in pairs with an idempotency key, and the database was never set up, or by an earlier release.",
        "Nothing was written: without a memory a retry could write twice.",
        "`pgduet setup DATABASE`; a router hears of it within a third of its lease.",
    ),
}


def pages() -> dict[str, str]:
    """Give each generated page's text by its file name."""
    return {
        "errors.md": errors_page(),
        "hazards.md": hazards_page(),
        "phases.md": phases_page(),
        "telemetry.md": telemetry_page(),
    }


def error_classes() -> list[type[PgduetError]]:
    """Name every error class, by code; a class that shares its parent's code follows it."""
    found = [
        each
        for module in _MODULES
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, PgduetError) and each.__module__ == module.__name__
    ]
    return sorted(found, key=lambda each: each.code)


def errors_page() -> str:
    """Render the page of errors, a section for each code."""
    owners = [each for each in error_classes() if "code" in vars(each)]
    overview = table(
        ("code", "class", "what"),
        [(f"[{each.code}](#{each.code.lower()})", f"`{each.__name__}`", _said(each)) for each in owners],
    )
    intro = (
        'Codes are stable: scripts and alerts may rely on them. `--json` gives each error as `{"error": {"code",'
        ' "message", "path", "file", "line", "column", "snippet", "hint"}}`. In Temporal the class name is the failure\'s'
        " type, and only errors marked *tried again* are retried."
    )
    return page("Errors", intro, overview, *(_section(each) for each in owners))


def hazards_page() -> str:
    """Render the page of hazards, a section for each rule."""
    intro = (
        "`pgduet check PLAN --database` and preflight report these. A hazard is something to know; it stops nothing."
        " What would stop a migration is an [error](errors.md)."
    )
    overview = table(
        ("id", "when"), [(f"[{rule.id}](#{rule.id.lower()})", _first_upper(rule.condition)) for rule in RULES.values()]
    )
    return page("Hazards", intro, overview, *(_hazard(rule) for rule in RULES.values()))


def phases_page() -> str:
    """Render the page of phases: what each does, and which may follow which."""
    journey = table(("phase", "does", "undo", "leaves when"), [(f"`{phase}`", *DOES[phase]) for phase in JOURNEY])
    following = table(
        ("phase", "may be followed by"),
        [(f"`{phase}`", ", ".join(_sorted(TRANSITIONS[phase])) or "nothing: it is an end") for phase in JOURNEY],
    )
    gates = ", ".join(f"`{phase}`" for phase in GATED)
    contract = (
        "From contract on there is no way back. One case the table does not show: while contract still waits for clients"
        " of the old version to leave, nothing has been dropped yet, and a rollback is accepted."
    )
    return page(
        "Phases",
        "A migration is in one phase at a time. Undos run in reverse order on a rollback.",
        "## The journey",
        journey,
        "## Transitions",
        following,
        contract,
        "## Gates",
        f"`policy.gates` takes these phases: {gates}. A gate stands before its phase. Preflight runs with the start, so a gate"
        " before it is never asked for.",
        "## States",
        table(("state", "means"), [(f"`{state}`", text) for state, text in STATES.items()]),
        "## Authority",
        table(("authority", "means"), [(f"`{each}`", text) for each, text in AUTHORITIES.items()]),
        "## Forms of the sync triggers",
        table(("form", "from … to", "what the triggers do"), [(f"`{mode}`", *text) for mode, text in SYNC.items()]),
    )


def _section(owner: type[PgduetError]) -> str:
    advice = ADVICE[owner.code]
    kin = [each for each in error_classes() if each.code == owner.code and each is not owner]
    lines = [f"## {owner.code}", "", f"**{owner.__name__}**: {_said(owner)}"]
    lines += [f"Also as **{each.__name__}**: {_said(each)}" for each in kin]
    if owner.retryable:
        lines.append("*Tried again by Temporal.*")
    lines += ["", f"- Cause: {advice.cause}", f"- Effect: {advice.effect}", f"- Cure: {advice.cure}"]
    return "\n".join(lines)


def _hazard(rule: Rule) -> str:
    kind = "sql" if rule.bad[:1].isupper() else "yaml"
    return "\n".join(
        [
            f"## {rule.id}",
            "",
            f"**{_first_upper(rule.condition)}.**",
            "",
            f"- Effect: {rule.effect}.",
            f"- Cure: {rule.cure}.",
            "",
            "Rather not:",
            "",
            f"```{kind}\n{rule.bad}\n```",
            "",
            "Better:",
            "",
            f"```{kind}\n{rule.good}\n```",
        ]
    )


def _sorted(phases: frozenset[Phase]) -> Iterator[str]:
    return (f"`{phase}`" for phase in JOURNEY if phase in phases)


def _said(owner: type[PgduetError]) -> str:
    return (owner.__doc__ or "").strip().splitlines()[0]


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def main(arguments: list[str]) -> None:
    """Write the pages."""
    directory = Path(arguments[0]) if arguments else Path("docs", "reference")
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
