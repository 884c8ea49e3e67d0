"""Plans that change a primary key in place, for the cycle: what refers to it, what numbers it, what conflicts on it."""

from typing import Any

from support.cycle import Case, base, new, old

SHOP = """
CREATE TABLE public.orders (id serial PRIMARY KEY, parent int REFERENCES public.orders, note text);
CREATE TABLE public.lines (
    id       int GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 5) PRIMARY KEY,
    order_id int NOT NULL REFERENCES public.orders ON DELETE CASCADE ON UPDATE CASCADE,
    n        int
);
CREATE TABLE public.marks (order_id int PRIMARY KEY REFERENCES public.orders (id) ON DELETE CASCADE, mark text);
CREATE TABLE public.tags (order_id int REFERENCES public.orders, tag text);
INSERT INTO public.orders (note) SELECT 'order ' || i FROM generate_series(1, 300) i;
INSERT INTO public.lines (order_id, n) SELECT i, i FROM generate_series(1, 300) i;
INSERT INTO public.marks SELECT i, 'mark' FROM generate_series(1, 50) i;
"""
"""Ways to refer: the table itself, a column that changes as well, a key that does, a table that the plan does not name."""


def altered(table: str, column: str, **changes: Any) -> dict[str, Any]:
    return {"alter_column": {"table": f"public.{table}", "column": column, "type": "bigint", **changes}}


TYPES = (
    "SELECT attrelid::regclass::text, attname::text, format_type(atttypid, NULL) FROM pg_attribute"
    " WHERE attrelid IN ('orders'::regclass, 'lines'::regclass, 'marks'::regclass) AND attname IN ('id', 'order_id', 'parent')"
    " AND NOT attisdropped ORDER BY 1, 2"
)
KEYS = (
    "SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), convalidated FROM pg_constraint"
    " WHERE contype IN ('p', 'f') AND conrelid IN ('orders'::regclass, 'lines'::regclass, 'marks'::regclass) ORDER BY 1, 2"
)
SEQUENCES = (
    "SELECT s.sequencename::text, s.data_type::text, s.start_value, s.increment_by, s.max_value,"
    " pg_get_serial_sequence('public.' || t, 'id') FROM pg_sequences s, (VALUES ('lines'), ('orders')) v(t)"
    " WHERE s.sequencename = t || '_id_seq' ORDER BY 1"
)
LARGEST = 9223372036854775807
REFERENCE = (
    'FOREIGN KEY (tenant, "or,der)") REFERENCES "o;rders 100 %"(tenant, "num ber") ON DELETE SET NULL ("or,der)")'
    " DEFERRABLE INITIALLY DEFERRED"
)

CASES = [
    Case(
        "alter_column type of a primary key, with all that refers to it",
        [altered("orders", "id"), altered("lines", "order_id"), altered("lines", "id"), altered("marks", "order_id")],
        [
            # Whoever inserts gets the next number, and whoever names one has it.
            old(
                "INSERT INTO orders (note) VALUES ('old {n}') RETURNING id = currval('public.orders_id_seq')",
                lambda _: [(True,)],
            ),
            new(
                "INSERT INTO orders (note) VALUES ('new {n}') RETURNING id = currval('public.orders_id_seq')",
                lambda _: [(True,)],
            ),
            old("INSERT INTO orders (id, note) VALUES ({n}, 'named')"),
            new("INSERT INTO orders (id, note) VALUES ({n} + 1, 'named')"),
            new("SELECT note FROM orders WHERE id = {n}", lambda _: [("named",)]),
            old("SELECT note FROM orders WHERE id = {n} + 1", lambda _: [("named",)]),
            # Upserts of what is there, and of what is not.
            old(
                "INSERT INTO orders (id, note) VALUES ({n} + 1, 'o') ON CONFLICT (id) DO UPDATE SET note = excluded.note"
            ),
            new(
                "INSERT INTO orders (id, note) VALUES ({n}, 'n')"
                " ON CONFLICT (id) DO UPDATE SET id = excluded.id, note = excluded.note"
            ),
            new("INSERT INTO orders (id, note) VALUES ({n} + 2, 'n') ON CONFLICT (id) DO NOTHING"),
            old("INSERT INTO orders (id, note) VALUES ({n} + 2, 'x') ON CONFLICT DO NOTHING"),
            base(
                "SELECT array_agg(note ORDER BY id) FROM orders WHERE id BETWEEN {n} AND {n} + 2",
                lambda _: [(["n", "o", "n"],)],
            ),
            old("INSERT INTO orders (id) VALUES ({n})", lambda _: "23505"),
            new("INSERT INTO orders (id) VALUES ({n})", lambda _: "23505"),
            # What refers to it, by either version.
            old("INSERT INTO lines (order_id, n) VALUES ({n}, 1)"),
            new("INSERT INTO lines (order_id, n) VALUES ({n} + 1, 2)"),
            old("INSERT INTO lines (order_id) VALUES (-{n})", lambda _: "23503"),
            new("INSERT INTO lines (order_id) VALUES (-{n})", lambda _: "23503"),
            old("INSERT INTO marks VALUES ({n}, 'm')"),
            new("INSERT INTO marks (order_id, mark) VALUES ({n} + 2, 'm')"),
            new("INSERT INTO marks (order_id, mark) VALUES (-{n}, 'm')", lambda _: "23503"),
            old("INSERT INTO marks VALUES ({n} + 2, 'o') ON CONFLICT (order_id) DO UPDATE SET mark = 'o'"),
            new("SELECT mark FROM marks WHERE order_id = {n} + 2", lambda _: [("o",)]),
            new("INSERT INTO tags VALUES ({n} + 2, 't')"),
            old("INSERT INTO tags VALUES (-{n}, 't')", lambda _: "23503"),
            new("UPDATE orders SET parent = {n} WHERE id = {n} + 1"),
            old("UPDATE orders SET parent = -{n} WHERE id = {n} + 1", lambda _: "23503"),
            # A key that changes takes its children along; a row that goes, too.
            new("UPDATE orders SET id = {n} + 10, parent = NULL WHERE id = {n} + 1"),
            old("SELECT n FROM lines WHERE order_id = {n} + 10", lambda _: [(2,)]),
            old("UPDATE orders SET id = {n} + 11 WHERE id = {n} + 10"),
            new("SELECT n FROM lines WHERE order_id = {n} + 11", lambda _: [(2,)]),
            new("DELETE FROM orders WHERE id = {n} + 11"),
            old("DELETE FROM orders WHERE id = {n}"),
            base("SELECT count(*) FROM lines WHERE order_id >= {n} AND order_id < {n} + 100", lambda _: [(0,)]),
            # What the old version cannot hold is refused while it lives.
            new("INSERT INTO orders (id) VALUES (3000000000)", lambda _: "22000"),
            new("UPDATE orders SET id = 3000000000 WHERE id = {n} + 2", lambda _: "22000"),
        ],
        [
            base(
                TYPES,
                lambda _: [
                    ("lines", "id", "bigint"),
                    ("lines", "order_id", "bigint"),
                    ("marks", "order_id", "bigint"),
                    ("orders", "id", "bigint"),
                    ("orders", "parent", "integer"),
                ],
            ),
            base(
                KEYS,
                lambda _: [
                    (
                        "lines",
                        "lines_order_id_fkey",
                        "FOREIGN KEY (order_id) REFERENCES orders(id) ON UPDATE CASCADE ON DELETE CASCADE",
                        True,
                    ),
                    ("lines", "lines_pkey", "PRIMARY KEY (id)", True),
                    (
                        "marks",
                        "marks_order_id_fkey",
                        "FOREIGN KEY (order_id) REFERENCES orders(id) ON DELETE CASCADE",
                        True,
                    ),
                    ("marks", "marks_pkey", "PRIMARY KEY (order_id)", True),
                    ("orders", "orders_parent_fkey", "FOREIGN KEY (parent) REFERENCES orders(id)", True),
                    ("orders", "orders_pkey", "PRIMARY KEY (id)", True),
                ],
            ),
            base(
                SEQUENCES,
                lambda _: [
                    ("lines_id_seq", "bigint", 5, 5, LARGEST, "public.lines_id_seq"),
                    ("orders_id_seq", "bigint", 1, 1, LARGEST, "public.orders_id_seq"),
                ],
            ),
            base(
                "INSERT INTO orders (note) VALUES ('next') RETURNING id = currval('orders_id_seq')", lambda _: [(True,)]
            ),
            base("INSERT INTO lines (order_id) SELECT max(id) FROM orders RETURNING id % 5", lambda _: [(0,)]),
            base("INSERT INTO lines (id, order_id) VALUES (7, 1)", lambda _: "428C9"),
            base("INSERT INTO orders (id) VALUES (3000000000)"),
            base("INSERT INTO lines (order_id) VALUES (3000000000)"),
            base("INSERT INTO tags VALUES (-1)", lambda _: "23503"),
            new("INSERT INTO orders (note) VALUES ('v2') RETURNING id > 0", lambda _: [(True,)]),
        ],
        setup=SHOP,
        policy={"unmappable": "archive"},
    ),
    Case(
        "alter_column type and name of one column of a composite key, under odd names",
        [
            {
                "alter_column": {
                    "table": '"public"."o;rders 100 %"',
                    "column": "i) d",
                    "type": "bigint",
                    "name": "num ber",
                    "comment": "wide",
                }
            }
        ],
        [
            old('INSERT INTO "o;rders 100 %" (tenant, "i) d") VALUES (7, {n})'),
            new('INSERT INTO "o;rders 100 %" (tenant, "num ber") VALUES (8, {n})'),
            new(
                'INSERT INTO "o;rders 100 %" (tenant, "num ber", note) VALUES (7, {n}, \'n\')'
                ' ON CONFLICT (tenant, "num ber") DO UPDATE SET note = excluded.note'
            ),
            old('SELECT note FROM "o;rders 100 %" WHERE tenant = 7 AND "i) d" = {n}', lambda _: [("n",)]),
            old('INSERT INTO "o;rders 100 %" (tenant, "i) d") VALUES (8, {n})', lambda _: "23505"),
            new('INSERT INTO "o;rders 100 %" (tenant) VALUES (1) RETURNING "num ber" > 300', lambda _: [(True,)]),
            base("INSERT INTO parts VALUES ({n}, 7, {n})"),
            base("INSERT INTO parts VALUES ({n} + 1, 9, {n})", lambda _: "23503"),
            new('DELETE FROM "o;rders 100 %" WHERE tenant = 7 AND "num ber" = {n}'),
            base('SELECT "or,der)" FROM parts WHERE id = {n}', lambda _: [(None,)]),
        ],
        [
            base(
                "SELECT conname::text, pg_get_constraintdef(oid), condeferred FROM pg_constraint WHERE contype IN ('p', 'f') AND"
                " conrelid IN ('\"o;rders 100 %\"'::regclass, 'parts'::regclass) ORDER BY 1",
                lambda _: [
                    ("a key", 'PRIMARY KEY (tenant, "num ber") INCLUDE (note)', False),
                    (
                        "a reference",
                        REFERENCE,
                        True,
                    ),
                    ("parts_pkey", "PRIMARY KEY (id)", False),
                ],
            ),
            base(
                "SELECT data_type::text, increment_by, max_value, cycle FROM pg_sequences"
                " WHERE pg_get_serial_sequence('public.\"o;rders 100 %\"', 'num ber') ="
                " format('%I.%I', schemaname, sequencename)",
                lambda _: [("bigint", 3, 100000, True)],
            ),
            base("INSERT INTO \"o;rders 100 %\" VALUES (1, 'x', 3000000000)"),
        ],
        setup="""
            CREATE TABLE public."o;rders 100 %" (
                tenant smallint, "i) d" int GENERATED BY DEFAULT AS IDENTITY (INCREMENT 3 MAXVALUE 100000 CYCLE), note text,
                CONSTRAINT "a key" PRIMARY KEY (tenant, "i) d") INCLUDE (note));
            INSERT INTO public."o;rders 100 %" (tenant) SELECT i % 3 FROM generate_series(1, 300) i;
            CREATE TABLE public.parts (id int PRIMARY KEY, tenant smallint, "or,der)" int,
                CONSTRAINT "a reference" FOREIGN KEY (tenant, "or,der)") REFERENCES public."o;rders 100 %"
                    ON DELETE SET NULL ("or,der)") DEFERRABLE INITIALLY DEFERRED);
        """,
    ),
]
