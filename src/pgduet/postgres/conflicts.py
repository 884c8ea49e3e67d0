"""What a plan would meet in a database: a migration of its own name, its place in the version chain, others on the same tables.

`check` asks, and preflight asks again: first by the plan alone, so that the answer is about the other migration and not about a
table in the making, then by the design, under the chain's lock, in the transaction that opens the migration.
"""

from dataclasses import dataclass

from pgduet.errors import PlanChanged, PlanConflict
from pgduet.operations.design import Design
from pgduet.operations.touching import referred, touched
from pgduet.plan.checksum import checksum
from pgduet.plan.models import Plan
from pgduet.plan.names import parse_table
from pgduet.postgres import catalogue, chain, store
from pgduet.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class Reach:
    """The tables that a migration changes, those to which its foreign keys refer, and the names of its indexes, all quoted."""

    touched: frozenset[str]
    referred: frozenset[str]
    indexes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, what: Plan | Design) -> "Reach":
        """Read it from a plan (what its file says) or a design (what PostgreSQL knows as well: keys that are carried over)."""
        if isinstance(what, Plan):
            return cls(touched(what), referred(what))
        return cls(what.touched, what.referred, what.index_names)


async def same_name(conn: Connection, plan: Plan) -> store.Migration | None:
    """Find the live or done migration of the plan's name; after a rollback the name is free.

    Raises:
        PlanChanged: it has other versions or operations.
    """
    found = await store.latest(conn, plan.name)
    if found is None or found.state == "rolled_back":
        return None
    if found.checksum != checksum(plan):
        state = "done" if found.ended else f"live (in {found.phase})"
        hint = (
            "Give the changed plan another name."
            if found.no_return
            else f"Give the changed plan another name, or put the first one back: pgduet rollback {plan.name}"
        )
        raise PlanChanged(
            f"{plan.name} is {state} with other versions or operations (checksum {found.checksum[:12]},"
            f" this plan {checksum(plan)[:12]})",
            hint=hint,
        )
    return found


async def check(conn: Connection, plan: Plan, reach: Reach) -> None:
    """Refuse a plan that does not continue the chain, or that meets what a live migration changes.

    Raises:
        PlanConflict: naming the other migration, and what to do.
    """
    others = await chain.live(conn)
    for other in others:
        if shared := _shared(reach, Reach.of(other.design)):
            raise PlanConflict(
                f"migration {other.name} is live (in {other.phase}) and {shared}",
                hint=f"Wait until {other.name} is done or rolled back (pgduet status {other.name}),"
                " or put both changes into one plan.",
            )
    if going := next((other for other in reversed(others) if other.going_back), None):
        raise PlanConflict(
            f"version {going.design.to_version} is going: migration {going.name} is being rolled back",
            hint=f"Wait until it has: pgduet wait {going.name} --phase rolled_back",
        )
    await _check_versions(conn, plan)


def _shared(ours: Reach, theirs: Reach) -> str | None:
    if both := sorted(ours.touched & theirs.touched):
        return f"changes {_shown(both[0])} too"
    if both := sorted(ours.referred & theirs.touched):
        return f"changes {_shown(both[0])}, to which a foreign key of this plan refers"
    if both := sorted(ours.touched & theirs.referred):
        return f"has a foreign key to {_shown(both[0])}, which this plan changes"
    if both := sorted(ours.indexes & theirs.indexes):
        return f"makes an index {_shown(both[0])} too"
    return None


def _shown(label: str) -> str:
    return str(parse_table(label))


async def _check_versions(conn: Connection, plan: Plan) -> None:
    links = await chain.links(conn)
    wanted = plan.version
    if links and wanted.from_ != links[-1].to_version:
        newest = links[-1]
        made = f"migration {newest.name} made it" if newest.ended else f"migration {newest.name} is making it"
        raise PlanConflict(
            f"versions form one chain: the newest is {newest.to_version} ({made}), this plan begins at {wanted.from_}",
            hint=f'Let the plan begin there: version: {{from: "{newest.to_version}", to: …}}.',
        )
    if wanted.to in chain.versions(links):
        owner = next(link for link in links if wanted.to in {link.from_version, link.to_version})
        raise PlanConflict(
            f"version {wanted.to} is there already: migration {owner.name} goes from {owner.from_version}"
            f" to {owner.to_version}",
            hint="Give the plan's new version another name.",
        )
    if await catalogue.schemas_of_version(conn, wanted.to):
        raise PlanConflict(
            f"version {wanted.to} is there already: it has a version schema",
            hint="Give the plan's new version another name.",
        )
