"""Plans over a partitioned table, for the cycle: two levels, a partition with another order of columns, rows that move."""

from typing import Any

from support.cycle import Case, Step, base, new, old

T = "public.events"
EVENTS = """
CREATE TABLE public.events (
    id     bigint,
    at     date NOT NULL,
    kind   text NOT NULL DEFAULT 'a',
    amount text COLLATE "C" NOT NULL DEFAULT '05',
    note   text,
    PRIMARY KEY (id, at, kind)
) PARTITION BY RANGE (at);
CREATE TABLE public.events_19 PARTITION OF public.events FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
CREATE TABLE public.events_20 (gone int, note text, amount text COLLATE "C" NOT NULL, kind text NOT NULL, at date NOT NULL,
    id bigint NOT NULL);
ALTER TABLE public.events_20 DROP gone;
ALTER TABLE public.events ATTACH PARTITION public.events_20 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE public.events_21 PARTITION OF public.events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY LIST (kind);
CREATE TABLE public.events_21_a PARTITION OF public.events_21 FOR VALUES IN ('a');
CREATE TABLE public.events_21_rest PARTITION OF public.events_21 DEFAULT;
CREATE INDEX events_amount ON public.events (amount, id);
CREATE UNIQUE INDEX events_once ON public.events (amount, id, at, kind);
ALTER TABLE public.events ADD CONSTRAINT events_short CHECK (amount::int < 1000);
GRANT SELECT ON public.events TO PUBLIC;
INSERT INTO public.events
SELECT i, date '2020-01-01' + i, CASE WHEN i % 3 = 0 THEN 'a' ELSE 'b' END, '0' || i % 9, CASE WHEN i % 2 = 0 THEN 'note ' || i END
  FROM generate_series(1, 700) i;
"""
REVIEWS = """
CREATE SEQUENCE public.reviews_id_seq;
CREATE TABLE public.reviews (
    id         bigint DEFAULT nextval('public.reviews_id_seq') PRIMARY KEY,
    rating     text NOT NULL,
    note       text,
    updated_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (id);
CREATE TABLE public.reviews_1 PARTITION OF public.reviews FOR VALUES FROM (0) TO (200);
CREATE TABLE public.reviews_2 PARTITION OF public.reviews FOR VALUES FROM (200) TO (1000) PARTITION BY HASH (id);
CREATE TABLE public.reviews_2_0 PARTITION OF public.reviews_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.reviews_2_1 PARTITION OF public.reviews_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE public.reviews_rest PARTITION OF public.reviews DEFAULT;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.touch();
INSERT INTO public.reviews (rating, note) SELECT (i % 5 + 1)::text, 'note ' || i FROM generate_series(1, 3000) i;
"""
PUT = "INSERT INTO events (id, at, amount, note) VALUES ({n}, '2020-05-05', '07', 'n')"


def moved(version: str, to: str, more: str = "") -> Step:
    """Send a row to another partition."""
    return Step(version, f"UPDATE events SET at = '{to}'{more} WHERE id = {{n}}")


PARTITIONED = [
    Case(
        "alter_column of a partitioned table",
        [{"alter_column": {"table": T, "column": "amount", "type": "int", "check": "amount < 500"}}],
        [
            old(PUT),
            new("SELECT amount FROM events WHERE id = {n}", lambda _: [(7,)]),
            # Nobody changed the amount: neither side of it may change.
            moved("1", "2021-06-06"),
            old(
                "SELECT amount, tableoid::regclass::text FROM public.events WHERE id = {n}",
                lambda _: [("07", "public.events_21_a")],
            ),
            moved("2", "2020-07-07"),
            old("SELECT amount FROM events WHERE id = {n}", lambda _: [("07",)]),
            moved("1", "2021-06-07", ", amount = '09', kind = 'b'"),
            new("SELECT amount FROM events WHERE id = {n}", lambda _: [(9,)]),
            old("SELECT amount FROM events WHERE id = {n}", lambda _: [("09",)]),
            moved("2", "2020-07-08", ", amount = 12"),
            old("SELECT amount FROM events WHERE id = {n}", lambda _: [("12",)]),
            # A row that has moved is a row as any other.
            old("UPDATE events SET amount = '13' WHERE id = {n}"),
            new("SELECT amount FROM events WHERE id = {n}", lambda _: [(13,)]),
            new("INSERT INTO events (id, at, amount) VALUES ({n} + 1, '2019-05-05', 3)"),
            old("SELECT amount FROM events WHERE id = {n} + 1", lambda _: [("3",)]),
            new("INSERT INTO events (id, at, amount) VALUES ({n} + 2, '2019-05-05', 600)", lambda _: "23514"),
            old("INSERT INTO public.events_19 (id, at, amount) VALUES ({n} + 3, '2019-05-06', '4')"),
            new("SELECT amount FROM events WHERE id = {n} + 3", lambda _: [(4,)]),
        ],
        [
            base("SELECT amount FROM public.events WHERE id = 2000", lambda _: [(13,)]),
            base(
                "SELECT indrelid::regclass::text, c.relname, indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
                " WHERE indrelid::regclass::text LIKE '%events%' AND NOT indisprimary ORDER BY 1, 2",
                lambda _: [
                    (table, name, True)
                    for table, names in {
                        "events": ("events_amount", "events_once"),
                        "events_19": ("events_19_amount_id_at_kind_idx", "events_19_amount_id_idx"),
                        "events_20": ("events_20_amount_id_at_kind_idx", "events_20_amount_id_idx"),
                        "events_21": ("events_21_amount_id_at_kind_idx", "events_21_amount_id_idx"),
                        "events_21_a": ("events_21_a_amount_id_at_kind_idx", "events_21_a_amount_id_idx"),
                        "events_21_rest": ("events_21_rest_amount_id_at_kind_idx", "events_21_rest_amount_id_idx"),
                    }.items()
                    for name in names
                ],
            ),
            base(
                "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conname IN ('events_short', 'events_amount_check')"
                " AND convalidated",
                lambda _: [(12,)],
            ),
        ],
        setup=EVENTS,
    ),
    Case(
        "add_column to a partitioned table",
        [
            {
                "add_column": {
                    "table": T,
                    "column": {"name": "mood", "type": "text", "default": "'fine'", "up": "kind || amount"},
                }
            },
            {"add_column": {"table": T, "column": {"name": "size", "type": "int", "default": "1", "nullable": False}}},
        ],
        [
            old(PUT),
            new("SELECT mood, size FROM events WHERE id = {n}", lambda _: [("a07", 1)]),
            # NULL is a value of the new client's: a move is no insert of an old one.
            new("UPDATE events SET mood = NULL, size = 3 WHERE id = {n}"),
            moved("1", "2021-06-06"),
            new("SELECT mood, size FROM events WHERE id = {n}", lambda _: [(None, 3)]),
            moved("2", "2019-06-06", ", mood = 'sad'"),
            moved("1", "2020-06-06", ", note = 'm'"),
            new("SELECT mood, note, size FROM events WHERE id = {n}", lambda _: [("sad", "m", 3)]),
            new("INSERT INTO events (id, at, size) VALUES ({n} + 1, '2019-05-05', NULL)", lambda _: "23502"),
        ],
        [base("SELECT mood, size FROM public.events WHERE id = 2000", lambda _: [("sad", 3)])],
        setup=EVENTS,
    ),
    Case(
        "replace_columns and drop_column of a partitioned table",
        [
            {
                "replace_columns": {
                    "table": T,
                    "columns": [{"name": "value", "type": "int", "nullable": False, "up": "amount::int"}],
                    "replaces": ["amount"],
                    "down": {"amount": "value::text"},
                }
            },
            {"drop_column": {"table": T, "column": "note", "down": "'made of ' || kind"}},
        ],
        [
            old(PUT),
            moved("2", "2021-06-06"),
            old("SELECT amount, note FROM events WHERE id = {n}", lambda _: [("07", "n")]),
            new("INSERT INTO events (id, at, value) VALUES ({n} + 1, '2021-06-06', 8)"),
            old("SELECT amount, note FROM events WHERE id = {n} + 1", lambda _: [("8", "made of a")]),
            old("UPDATE events SET note = 'mine', kind = 'c' WHERE id = {n} + 1"),
            new("UPDATE events SET at = '2019-06-06', value = 9 WHERE id = {n} + 1"),
            old("SELECT amount, note FROM events WHERE id = {n} + 1", lambda _: [("9", "mine")]),
        ],
        [base("SELECT value FROM public.events WHERE id IN (2000, 2001) ORDER BY id", lambda _: [(7,), (9,)])],
        setup=EVENTS,
    ),
]


def events(**changes: Any) -> dict[str, Any]:
    """Alter `amount`."""
    return {"alter_column": {"table": T, "column": "amount", "type": "int", **changes}}
