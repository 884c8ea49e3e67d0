"""Plans that partition a table by attaching it, for the cycle: what numbers it, what hangs on it, what its columns are called."""

from collections.abc import Callable
from typing import Any

from support.cycle import Case, Step, base, new, old

YEARS = {
    "events_2026": "FOR VALUES FROM (MINVALUE) TO ('2027-01-01')",
    "events_2027": "FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
    "events_rest": "DEFAULT",
}
KINDS = (
    "CREATE TABLE public.kinds (id int PRIMARY KEY); INSERT INTO public.kinds SELECT i FROM generate_series(1, 9) i;"
)
EVENTS = """
CREATE TABLE public.events (
    id   {id} PRIMARY KEY,
    at   timestamp NOT NULL DEFAULT timestamp '2026-01-01',
    kind int NOT NULL DEFAULT 1,
    note text,
    gone int
);
ALTER TABLE public.events DROP COLUMN gone;
INSERT INTO public.events (note) SELECT 'n' || i FROM generate_series(1, 50) i;
"""
HUNG = """
CREATE INDEX events_note_idx ON public.events (lower(note)) WHERE kind > 0;
CREATE STATISTICS public.events_stat (dependencies, mcv) ON kind, note FROM public.events;
CREATE STATISTICS public.events_expr ON (kind + 1) FROM public.events;
ALTER TABLE public.events ADD CONSTRAINT positive CHECK (kind > 0), ADD FOREIGN KEY (kind) REFERENCES public.kinds;
ALTER TABLE public.events SET (fillfactor = 70, toast.autovacuum_enabled = false);
ALTER TABLE public.events ALTER note SET STATISTICS 7;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.note := coalesce(NEW.note, 'touched'); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON public.events FOR EACH ROW EXECUTE FUNCTION public.touch();
COMMENT ON TABLE public.events IS 'what happened'; COMMENT ON COLUMN public.events.note IS 'words';
GRANT SELECT, INSERT ON public.events TO PUBLIC; GRANT UPDATE (note) ON public.events TO {role} WITH GRANT OPTION;
"""


def attached(**changes: Any) -> list[dict[str, Any]]:
    """Write the operation."""
    by = {"method": "range", "columns": ["at"], "partitions": YEARS} | changes.pop("partition_by", {})
    return [{"shadow_table": {"table": "public.events", "primary_key": ["id", "at"], "partition_by": by} | changes}]


def _count(wanted: int) -> Callable[[int], list[tuple[Any, ...]]]:
    return lambda _: [(wanted,)]


UPSERT = "INSERT INTO events (id, at) VALUES ({n} + 1, '2026-02-01') ON CONFLICT (id, at) DO UPDATE SET note = 'both'"
BOTH = [
    old("INSERT INTO events (id, note) VALUES ({n}, 'old')"),
    old(
        "INSERT INTO events (id) VALUES ({n}) ON CONFLICT (id) DO UPDATE SET note = 'again' RETURNING note",
        lambda _: [("again",)],
    ),
    base("INSERT INTO events (id) VALUES ({n}) ON CONFLICT (id) DO NOTHING", lambda _: []),
    new("UPDATE events SET kind = 7 WHERE id = {n} RETURNING note", lambda _: [("again",)]),
    new("INSERT INTO events (id) VALUES ({n}) ON CONFLICT (id) DO NOTHING", lambda _: "42P10"),
    new(
        f"{UPSERT} RETURNING kind",
        _count(1),
    ),
    new(
        f"{UPSERT} RETURNING note",
        lambda _: [("both",)],
    ),
    new("INSERT INTO events (id) VALUES ({n})", lambda _: "23505"),
    # Until contract no bound is in force: either version writes and moves whatever it likes.
    new("UPDATE events SET at = '2031-01-01' WHERE id = {n} + 1"),
    old("UPDATE events SET at = '2026-03-01' WHERE id = {n} + 1 RETURNING note", lambda _: [("both",)]),
    base("SELECT kind FROM events WHERE id = {n} FOR UPDATE", _count(7)),
    old("DELETE FROM events WHERE id = {n} + 1"),
    new("SELECT count(*) FROM events WHERE id >= {n}", _count(1)),
]
PARTITIONS = base(
    "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
    " WHERE i.inhparent = 'events'::regclass ORDER BY 1",
    lambda _: [
        ("events_2026", "FOR VALUES FROM (MINVALUE) TO ('2027-01-01 00:00:00')"),
        ("events_2027", "FOR VALUES FROM ('2027-01-01 00:00:00') TO ('2028-01-01 00:00:00')"),
        ("events_rest", "DEFAULT"),
    ],
)
FINAL = [
    PARTITIONS,
    base(
        "INSERT INTO events (id, at) VALUES ({n}0, '2027-05-01') RETURNING tableoid::regclass::text",
        lambda _: [("events_2027",)],
    ),
    new("UPDATE events SET at = '2026-05-01' WHERE id = {n}0"),
    base("SELECT tableoid::regclass::text FROM events WHERE id = {n}0", lambda _: [("events_2026",)]),
    new("INSERT INTO events (id, at) VALUES ({n}0, '2026-05-01')", lambda _: "23505"),
    new("INSERT INTO events (id, at) VALUES ({n}0 + 1, '2040-01-01') RETURNING id", lambda n: [(n * 10 + 1,)]),
    base("SELECT count(*) FROM ONLY events", _count(0)),
    base(
        "SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
        " AND conrelid::regclass::text LIKE 'events%' ORDER BY 1",
        lambda _: [
            ("events", "events_pkey", "PRIMARY KEY (id, at)"),
            ("events_2026", "events_2026_pkey", "PRIMARY KEY (id, at)"),
            ("events_2027", "events_2027_pkey", "PRIMARY KEY (id, at)"),
            ("events_rest", "events_rest_pkey", "PRIMARY KEY (id, at)"),
        ],
    ),
]


def numbered(text: str) -> list[Step]:
    """Have the database give numbers: nobody is given one that somebody has."""
    return [
        *(who(f"INSERT INTO events (note) VALUES ('{text}')") for who in (old, new, base)),
    ]


AFTER = [who("INSERT INTO events (note) VALUES ('after')") for who in (new, base)]
ROLE = "pg_monitor"

CASES = [
    Case(
        "shadow_table that is attached, numbered by an identity",
        attached(),
        [*numbered("numbered"), *BOTH],
        [
            *AFTER,
            *FINAL,
            base(
                f"SELECT has_sequence_privilege('{ROLE}', 'events_id_seq', 'SELECT WITH GRANT OPTION')",
                lambda _: [(True,)],
            ),
            base(
                "SELECT attidentity::text FROM pg_attribute WHERE attrelid = 'events'::regclass AND attname = 'id'",
                lambda _: [("d",)],
            ),
        ],
        setup=EVENTS.format(id="int GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY 2)")
        + f"GRANT SELECT ON SEQUENCE public.events_id_seq TO {ROLE} WITH GRANT OPTION",
    ),
    Case(
        "shadow_table that is attached, numbered by a sequence",
        attached(),
        [*numbered("numbered"), *BOTH],
        [
            *AFTER,
            *FINAL,
            base("SELECT pg_get_serial_sequence('public.events', 'id')", lambda _: [("public.events_id_seq",)]),
        ],
        setup=EVENTS.format(id="bigserial"),
    ),
    Case(
        "shadow_table that is attached, always numbered",
        attached(),
        [*numbered("always"), new("SELECT count(*) FROM events WHERE note LIKE 'n%'", _count(50))],
        [
            *AFTER,
            PARTITIONS,
            base("INSERT INTO events (id, at) VALUES ({n}0, '2027-01-01')", lambda _: "428C9"),
            base(
                "INSERT INTO events (at) VALUES ('2027-01-01') RETURNING tableoid::regclass::text",
                lambda _: [("events_2027",)],
            ),
        ],
        setup=EVENTS.format(id="int GENERATED ALWAYS AS IDENTITY"),
    ),
    Case(
        "shadow_table that is attached, with a key of its own and all that can hang on it",
        attached(),
        [
            old("INSERT INTO events (id) VALUES ('a{n}') RETURNING note", lambda _: [("touched",)]),
            new("INSERT INTO events (id) VALUES ('b{n}') RETURNING note", lambda _: [("touched",)]),
            new("UPDATE events SET kind = 0 WHERE id = 'a{n}'", lambda _: "23514"),
            new("UPDATE events SET kind = 77 WHERE id = 'a{n}'", lambda _: "23503"),
            old("UPDATE events SET kind = 77 WHERE id = 'b{n}'", lambda _: "23503"),
            new("DELETE FROM events WHERE id IN ('a{n}', 'b{n}') RETURNING 1", lambda _: [(1,), (1,)]),
        ],
        [
            PARTITIONS,
            base("INSERT INTO events (id, at) VALUES ('x', '2027-05-01') RETURNING note", lambda _: [("touched",)]),
            base("UPDATE events SET kind = 77", lambda _: "23503"),
            base("UPDATE events SET kind = 0", lambda _: "23514"),
            base(
                "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text LIKE 'events%'",
                _count(4),
            ),
            base("SELECT count(*) FROM pg_statistic_ext WHERE stxrelid::regclass::text LIKE 'events%'", _count(8)),
            base(
                "SELECT reloptions::text FROM pg_class WHERE oid = 'events_2027'::regclass",
                lambda _: [("{fillfactor=70}",)],
            ),
            base(
                "SELECT attstattarget::int FROM pg_attribute WHERE attrelid = 'events_2027'::regclass AND attname = 'note'",
                _count(7),
            ),
            base(
                "SELECT obj_description('events'::regclass), col_description('events'::regclass, 4)",
                lambda _: [("what happened", "words")],
            ),
            base(
                f"SELECT has_column_privilege('{ROLE}', 'events', 'note', 'UPDATE WITH GRANT OPTION')",
                lambda _: [(True,)],
            ),
            base(f"SELECT has_table_privilege('{ROLE}', 'events', 'INSERT')", lambda _: [(True,)]),
            base(f"SELECT has_table_privilege('{ROLE}', 'events', 'DELETE')", lambda _: [(False,)]),
        ],
        setup=KINDS + EVENTS.format(id="text DEFAULT gen_random_uuid()::text") + HUNG.format(role=ROLE),
    ),
]
