"""Plans with operations on constraints, for the cycle: each kind with and without a second form of its columns."""

from typing import Any

from support.cycle import Case, base, new, old

T = "public.items"

PLACES = """
CREATE TABLE public.places (name text, zip int, PRIMARY KEY (zip, name));
INSERT INTO public.places SELECT 'place ' || i, i FROM generate_series(1, 20) i;
ALTER TABLE public.items ADD place text, ADD zip int, ADD keeper int;
CREATE TABLE public.plain (id int, what text);
INSERT INTO public.plain SELECT i, i::text FROM generate_series(1, 50) i;
CREATE TABLE public.bookings (id int PRIMARY KEY, days int4range, room int);
INSERT INTO public.bookings SELECT i, int4range(i * 10, i * 10 + 5), 1 FROM generate_series(1, 30) i;
"""
DEFINITIONS = (
    "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint WHERE conrelid = '{}'::regclass"
    " AND conname = ANY ('{{{}}}') ORDER BY conname"
)


def create(table: str = T, **keys: Any) -> dict[str, Any]:
    return {"create_constraint": {"table": table, **keys}}


def drop(name: str, table: str = T, **keys: Any) -> dict[str, Any]:
    return {"drop_constraint": {"table": table, "name": name, **keys}}


def rename(name: str, to: str, table: str = T) -> dict[str, Any]:
    return {"rename_constraint": {"table": table, "from": name, "to": to}}


CASES = [
    Case(
        "create_constraint of every type: nothing is copied, and all are bound from cutover on",
        [
            create(name="not_too_dear", type="check", check="price < 100000"),
            create(name="one_of_a_kind", type="unique", columns=["label", "size"], initially_deferred=True),
            create(
                name="placed",
                type="foreign_key",
                columns=["place", "zip"],
                references={
                    "table": "public.places",
                    "columns": ["name", "zip"],
                    "match": "full",
                    "on_delete": "set null",
                    "on_delete_set_columns": ["place", "zip"],
                },
            ),
            create("public.plain", name="plain_pkey", type="primary_key", columns=["id"]),
            create(
                "public.bookings",
                name="free",
                type="exclude",
                exclude={"elements": "days WITH &&, (int4range(room, room, '[]')) WITH =", "where": "room > 0"},
            ),
        ],
        [
            old("INSERT INTO items (id, label, price, place, zip) VALUES ({n}, 'l {n}', 5, 'place 3', 3)"),
            new("INSERT INTO items (id, label, price) VALUES ({n} + 1, 'l {n} too', 6)"),
            new("UPDATE items SET place = 'place 4', zip = 4 WHERE id = {n}"),
            old("INSERT INTO plain VALUES ({n}, 'x')"),
            new("INSERT INTO bookings VALUES ({n}, int4range({n}, {n} + 5), 1), ({n} + 1, int4range({n}, {n} + 5), 0)"),
            old("SELECT count(*) FROM pgduet.backfill_range", lambda _: [(0,)]),
            old("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~pgduet%'", lambda _: [(0,)]),
        ],
        [
            base(
                DEFINITIONS.format(T, "not_too_dear,one_of_a_kind,placed"),
                lambda _: [
                    ("not_too_dear", "CHECK ((price < (100000)::numeric))", True),
                    ("one_of_a_kind", "UNIQUE (label, size) DEFERRABLE INITIALLY DEFERRED", True),
                    (
                        "placed",
                        "FOREIGN KEY (place, zip) REFERENCES places(name, zip) MATCH FULL ON DELETE SET NULL (place, zip)",
                        True,
                    ),
                ],
            ),
            base("DELETE FROM places WHERE zip = 4"),
            base("SELECT place, zip FROM items WHERE id = 3000", lambda _: [(None, None)]),
            base("INSERT INTO plain VALUES (NULL, 'x')", lambda _: "23502"),
            base("INSERT INTO bookings VALUES (-1, int4range(12, 13), 1)", lambda _: "23P01"),
        ],
        after_cutover=[
            old("INSERT INTO items (id, price) VALUES ({n} + 2, 100000)", lambda _: "23514"),
            new("UPDATE items SET price = 100000 WHERE id = {n}", lambda _: "23514"),
            old("INSERT INTO items (id, label) VALUES ({n} + 2, 'l {n}')", lambda _: "23505"),
            new("INSERT INTO items (id, label) VALUES ({n} + 2, 'l {n}')", lambda _: "23505"),
            old("INSERT INTO items (id, place, zip) VALUES ({n} + 2, 'place 3', 4)", lambda _: "23503"),
            new("INSERT INTO items (id, place) VALUES ({n} + 2, 'place 3')", lambda _: "23503"),
            old("INSERT INTO plain VALUES ({n}, 'x')", lambda _: "23505"),
            old("INSERT INTO plain (what) VALUES ('x')", lambda _: "23502"),
            new("INSERT INTO bookings VALUES ({n} + 2, int4range({n} + 4, {n} + 6), 1)", lambda _: "23P01"),
            base("INSERT INTO plain VALUES ({n}, 'x') ON CONFLICT ON CONSTRAINT plain_pkey DO NOTHING"),
            base(
                DEFINITIONS.format(T, "placed"),
                lambda _: [
                    (
                        "placed",
                        "FOREIGN KEY (place, zip) REFERENCES places(name, zip) MATCH FULL ON DELETE SET NULL (place, zip)",
                        True,
                    ),
                ],
            ),
        ],
        setup=PLACES,
    ),
    Case(
        "create_constraint with up and down: new clients are bound from publication on, old ones are mapped",
        [
            create(
                name="dear_or_known",
                type="check",
                columns=["label", "price"],
                check="label = 'alice' OR price > 0",
                up={"label": "label", "price": "CASE WHEN label <> 'alice' AND price <= 0 THEN 123 ELSE price END"},
                down={"label": "label", "price": "price"},
            ),
            create(
                name="kept_by",
                type="foreign_key",
                columns=["keeper"],
                references={"table": "public.owners", "on_delete": "cascade"},
                up={"keeper": "CASE WHEN keeper BETWEEN 1 AND 5 THEN keeper END"},
            ),
            create(
                name="zip_once",
                type="unique",
                columns=["zip", "owner_id"],
                nulls_not_distinct=True,
                up={"zip": "coalesce(zip, -id::int)"},
            ),
            create(
                "public.plain",
                name="plain_key",
                type="primary_key",
                columns=["id"],
                up={"id": "coalesce(id, 100000 + what::int)"},
            ),
        ],
        [
            old("INSERT INTO items (id, label, price, keeper, owner_id) VALUES ({n}, 'bob', 0, 99, 2)"),
            new("SELECT price, keeper, zip FROM items WHERE id = {n}", lambda n: [(123, None, -n)]),
            old("SELECT price, keeper, zip FROM items WHERE id = {n}", lambda _: [(0, 99, None)]),
            new("UPDATE items SET price = 0 WHERE id = {n}", lambda _: "23514"),
            new("UPDATE items SET label = 'alice', price = 0 WHERE id = {n}"),
            old("SELECT label, price FROM items WHERE id = {n}", lambda _: [("alice", 0)]),
            new("UPDATE items SET keeper = 77 WHERE id = {n}", lambda _: "23503"),
            new("UPDATE items SET keeper = 3 WHERE id = {n}"),
            old("SELECT keeper FROM items WHERE id = {n}", lambda _: [(3,)]),
            new("INSERT INTO items (id, price, zip, owner_id) VALUES ({n} + 1, 1, -{n}, 2)", lambda _: "23505"),
            new("INSERT INTO items (id, price, zip, owner_id) VALUES ({n} + 1, 1, -{n}, 3)"),
            new("INSERT INTO items (id, price, zip) VALUES ({n} + 2, 1, -{n})"),
            new("INSERT INTO items (id, price, zip) VALUES ({n} + 3, 1, -{n})", lambda _: "23505"),
            old("INSERT INTO plain VALUES (NULL, '{n}')"),
            new("SELECT id FROM plain WHERE what = '{n}'", lambda n: [(100000 + n,)]),
            new("INSERT INTO plain (id, what) VALUES (100000 + {n}, '1')", lambda _: "23505"),
            new("INSERT INTO plain (id, what) VALUES (NULL, '1')", lambda _: "23502"),
        ],
        [
            base(
                DEFINITIONS.format(T, "dear_or_known,kept_by,zip_once"),
                lambda _: [
                    ("dear_or_known", "CHECK (((label = 'alice'::text) OR (price > (0)::numeric)))", True),
                    ("kept_by", "FOREIGN KEY (keeper) REFERENCES owners(id) ON DELETE CASCADE", True),
                    ("zip_once", "UNIQUE NULLS NOT DISTINCT (zip, owner_id)", True),
                ],
            ),
            base(DEFINITIONS.format("public.plain", "plain_key"), lambda _: [("plain_key", "PRIMARY KEY (id)", True)]),
            base(
                DEFINITIONS.format(T, "items_price_check"),
                lambda _: [("items_price_check", "CHECK ((price >= (0)::numeric))", True)],
            ),
        ],
        setup=PLACES,
    ),
    Case(
        "drop_constraint and rename_constraint: they bind until contract",
        [
            drop("items_price_check"),
            drop("items_code_key"),
            drop("items_owner_id_fkey"),
            drop("free", "public.bookings"),
            drop("old_things_pkey", "public.old_things"),
            rename("items_pkey", "items_key"),
            rename("items_size_small", "long"),
            rename("long", "items_size_small"),
            rename("longer", "long_label"),
            {"rename_column": {"table": T, "column": "label", "to": "note"}},
            {"rename_column": {"table": T, "column": "note", "to": "remark"}},
        ],
        [
            old("INSERT INTO items (id, code) VALUES ({n}, 'k{n}')"),
            new("INSERT INTO items (id, code) VALUES ({n} + 1, 'k{n}')", lambda _: "23505"),
            new("UPDATE items SET price = -1 WHERE id = {n}", lambda _: "23514"),
            old("UPDATE items SET owner_id = 99 WHERE id = {n}", lambda _: "23503"),
            new("INSERT INTO bookings VALUES ({n}, int4range(0, {n}))", lambda _: "23P01"),
            base("INSERT INTO items (id) VALUES ({n}) ON CONFLICT ON CONSTRAINT items_pkey DO NOTHING"),
        ],
        [
            base("UPDATE items SET price = -1, owner_id = 99, code = 'same' WHERE id IN (1, 2)"),
            base("INSERT INTO bookings VALUES (-1, int4range(0, 50))"),
            base("INSERT INTO old_things VALUES (1, 1, 'again')"),
            base(
                "SELECT conname, contype::text FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype <> 'n' ORDER BY 1",
                lambda _: [("items_key", "p"), ("items_size_small", "c"), ("long", "c"), ("long_label", "c")],
            ),
            base(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'long'",
                lambda _: [("CHECK (((size)::integer < 1000))",)],
            ),
            base("SELECT indexdef LIKE '%(id)' FROM pg_indexes WHERE indexname = 'items_key'", lambda _: [(True,)]),
            base("SELECT note, remark FROM items WHERE id = 2", lambda _: [("label 2", "note 2")]),
        ],
        setup=PLACES
        + """
            ALTER TABLE public.bookings ADD CONSTRAINT free EXCLUDE USING gist (days WITH &&);
            ALTER TABLE public.items ADD CONSTRAINT long CHECK (note <> 'n'), ADD CONSTRAINT longer CHECK (label <> 'n');
        """,
    ),
    Case(
        "drop_constraint with up and down: new clients may write what it forbade",
        [
            drop("items_price_check", up={"price": "price"}, down={"price": "greatest(price, 0)"}),
            drop("items_code_key", up={"code": "code"}, down={"code": "code || '#' || id"}),
            drop(
                "items_owner_id_fkey",
                down={"owner_id": "CASE WHEN owner_id BETWEEN 1 AND 5 THEN owner_id END"},
            ),
            drop(
                "pair",
                up={"label": "label", "note": "note"},
                down={"label": "CASE WHEN label = note THEN label || '!' ELSE label END", "note": "note"},
            ),
        ],
        [
            new(
                "INSERT INTO items (id, price, code, size, owner_id, label, note)"
                " VALUES ({n}, -5, 'c1', ({n} / 1000 + 10)::text, 99, 'x', 'x')"
            ),
            old(
                "SELECT price, code, owner_id, label, note FROM items WHERE id = {n}",
                lambda n: [(0, f"c1#{n}", None, "x!", "x")],
            ),
            new(
                "SELECT price, code, owner_id, label, note FROM items WHERE id = {n}",
                lambda _: [(-5, "c1", 99, "x", "x")],
            ),
            old("UPDATE items SET price = -1 WHERE id = {n}", lambda _: "23514"),
            old("UPDATE items SET owner_id = 99 WHERE id = {n}", lambda _: "23503"),
            old("INSERT INTO items (id, code) VALUES ({n} + 1, 'c1')", lambda _: "23505"),
            old("INSERT INTO items (id, label, note) VALUES ({n} + 1, 'y', 'y')", lambda _: "23514"),
            old("INSERT INTO items (id, code, price) VALUES ({n} + 1, 'k{n}', 7)"),
            new("SELECT code, price FROM items WHERE id = {n} + 1", lambda n: [(f"k{n}", 7)]),
        ],
        [
            base("SELECT price, code, owner_id FROM items WHERE id = 3000", lambda _: [(-5, "c1", 99)]),
            base(
                "SELECT conname FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype <> 'n' ORDER BY 1",
                lambda _: [("items_pkey",), ("items_size_small",)],
            ),
        ],
        setup="ALTER TABLE public.items ADD CONSTRAINT pair CHECK (label <> note);",
        policy={"unmappable": "archive"},
    ),
    Case(
        "create_table with constraints over several columns",
        [
            {
                "create_table": {
                    "table": "public.stays",
                    "columns": [
                        {"name": "room", "type": "int"},
                        {"name": "days", "type": "int4range"},
                        {"name": "guest", "type": "text"},
                        {"name": "zip", "type": "int"},
                    ],
                    "constraints": [
                        {"name": "stay", "type": "primary_key", "columns": ["room", "days"]},
                        {"name": "guest_once", "type": "unique", "columns": ["guest", "zip"], "deferrable": True},
                        {"name": "no_nobody", "type": "check", "check": "guest <> '' OR room = 0"},
                        {
                            "name": "from_somewhere",
                            "type": "foreign_key",
                            "columns": ["zip", "guest"],
                            "references": {"table": "public.places", "on_delete": "cascade"},
                        },
                        {"name": "one_at_a_time", "type": "exclude", "exclude": {"elements": "days WITH &&"}},
                    ],
                }
            },
        ],
        [
            new("INSERT INTO stays VALUES (1, int4range({n}, {n} + 5), 'place 7', NULL)"),
            new("INSERT INTO stays VALUES (1, int4range({n}, {n} + 2), 'x', NULL)", lambda _: "23P01"),
            new("INSERT INTO stays VALUES (1, int4range({n} + 10, {n} + 12), '', NULL)", lambda _: "23514"),
            new("INSERT INTO stays VALUES (NULL, int4range({n} + 10, {n} + 12), 'x', NULL)", lambda _: "23502"),
        ],
        [
            base(
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'stays'::regclass"
                " AND contype <> 'n' ORDER BY 1",
                lambda _: [
                    ("from_somewhere", "FOREIGN KEY (zip, guest) REFERENCES places(zip, name) ON DELETE CASCADE"),
                    ("guest_once", "UNIQUE (guest, zip) DEFERRABLE"),
                    ("no_nobody", "CHECK (((guest <> ''::text) OR (room = 0)))"),
                    ("one_at_a_time", "EXCLUDE USING gist (days WITH &&)"),
                    ("stay", "PRIMARY KEY (room, days)"),
                ],
            ),
        ],
        after_cutover=[new("UPDATE stays SET zip = 8", lambda _: "23503")],
        setup=PLACES,
    ),
    Case(
        "constraints by names that are odd, that become free, and over columns of other operations",
        [
            drop("items_price_check"),
            create(name="items_price_check", type="check", columns=["price"], check="price > -100"),
            {"rename_column": {"table": T, "column": "label", "to": 'it\'s "100 %"'}},
            {"add_column": {"table": T, "column": {"name": "grade", "type": "int", "default": "7"}}},
            create(name="Unique; \"%s\" 'x' {0}", type="unique", columns=['it\'s "100 %"', "grade"]),
            create(name="Größe", type="check", columns=["grade"], check="grade <> 13", no_inherit=True),
            create(
                name="ö" * 31,
                type="exclude",
                exclude={
                    "method": "btree",
                    "elements": '"it\'s ""100 %""" WITH =',
                    "where": '"it\'s ""100 %""" LIKE \'z%\'',
                },
            ),
            rename("items_code_key", 'Code "%(x)s"'),
        ],
        [
            old("INSERT INTO items (id, label, price) VALUES ({n}, 'l {n}', 1)"),
            new("UPDATE items SET grade = 5 WHERE id = {n}"),
            new("UPDATE items SET grade = 13 WHERE id = {n}", lambda _: "23514"),
            new('INSERT INTO items (id, "it\'s ""100 %""", grade) VALUES ({n} + 1, \'z{n}\', 1)'),
            new("UPDATE items SET price = -5 WHERE id = {n}", lambda _: "23514"),
        ],
        [
            base("UPDATE items SET price = -5 WHERE id = 3000"),
            base("UPDATE items SET price = -500 WHERE id = 3000", lambda _: "23514"),
            base(
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'items'::regclass"
                " AND contype <> 'n' ORDER BY conname COLLATE \"C\"",
                lambda _: [
                    ('Code "%(x)s"', "UNIQUE (code)"),
                    ("Größe", "CHECK ((grade <> 13)) NO INHERIT"),
                    ("Unique; \"%s\" 'x' {0}", 'UNIQUE ("it\'s ""100 %""", grade)'),
                    ("items_owner_id_fkey", "FOREIGN KEY (owner_id) REFERENCES owners(id) ON DELETE SET NULL"),
                    ("items_pkey", "PRIMARY KEY (id)"),
                    ("items_price_check", "CHECK ((price > ('-100'::integer)::numeric))"),
                    ("items_size_small", "CHECK (((size)::integer < 1000))"),
                    (
                        "ö" * 31,
                        'EXCLUDE USING btree ("it\'s ""100 %""" WITH =) WHERE (("it\'s ""100 %""" ~~ \'z%\'::text))',
                    ),
                ],
            ),
        ],
        after_cutover=[
            old("INSERT INTO items (id, label) VALUES ({n} + 2, 'z{n}')", lambda _: "23P01"),
            base("SELECT count(*) FROM pg_constraint WHERE conname = 'Größe'", lambda _: [(1,)]),
        ],
    ),
]
