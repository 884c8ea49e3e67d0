"""Whether writes of ours keep the user's triggers silent, asked wherever rows are written: at check, and again at each step.

Mechanism: in a session of `session_replication_role = replica` ordinary triggers do not fire, while ours, which are ENABLE
ALWAYS, do. Limits: so do a user's own triggers that are ENABLE ALWAYS, and those that are ENABLE REPLICA fire only there; nothing
mutes them.
"""

from pgduet.errors import MissingRights, NotSupported
from pgduet.operations.answers import place
from pgduet.postgres.session import Connection, rights
from pgduet.sql import block

_PLACE = place(("policy", "user_triggers"))


async def mutes(conn: Connection, relation: str, user_triggers: str) -> bool:
    """Tell whether a session that writes rows of a table must mute triggers for it.

    Raises:
        MissingRights: the plan says that the user's triggers must not fire, and the role may not mute them.
        NotSupported: they fire all the same.
    """
    if user_triggers != "suppress":
        return False
    found = await (await conn.execute(block("catalogue", "update_triggers"), {"relation": relation})).fetchall()
    ordinary = [row["name"] for row in found if row["fires"] == "O"]
    muted = (await rights(conn)).mute_triggers
    if ordinary and not muted:
        raise MissingRights(
            f"triggers of {relation} would fire in the backfill ({', '.join(ordinary)}), and the worker's role may not"
            " mute them",
            place=_PLACE,
            hint="GRANT SET ON PARAMETER session_replication_role to the role, or set user_triggers: fire.",
        )
    muted = muted and (bool(ordinary) or not found)
    if firing := [row["name"] for row in found if row["fires"] in ("AR" if muted else "A")]:
        raise NotSupported(
            f"triggers of {relation} would fire in the backfill ({', '.join(firing)}): they are ENABLE ALWAYS or ENABLE"
            " REPLICA, which nothing mutes",
            place=_PLACE,
            hint="Set user_triggers: fire, or ALTER TABLE … ENABLE TRIGGER … makes them ordinary ones.",
        )
    return muted
