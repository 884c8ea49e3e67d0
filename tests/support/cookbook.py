"""The cookbook's plans with what surrounds each of them: rows before it, what both versions' clients say, what is there after it.

`old` and `new` speak as clients of the version that a plan leaves and of the one it brings; `{n}` is a number of the stop's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from support.cycle import Step, base, new, old

Connection = psycopg.AsyncConnection[Any]

FOLDER = Path(__file__).parents[2] / "examples" / "cookbook"

SHAPE = """
SELECT concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                 'default ' || pg_get_expr(d.adbin, d.adrelid), CASE WHEN a.attidentity <> '' THEN 'identity' END,
                 'comment ' || col_description(a.attrelid, a.attnum)) AS line
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT concat_ws(' ', 'constraint', conname, pg_get_constraintdef(oid)) FROM pg_constraint
 WHERE conrelid = to_regclass(%(table)s) AND contype <> 'n' AND convalidated
UNION ALL
SELECT regexp_replace(pg_get_indexdef(indexrelid), 'CREATE (UNIQUE )?INDEX (.*) ON .* USING', 'index \\2 \\1USING')
  FROM pg_index WHERE indrelid = to_regclass(%(table)s) AND indisvalid
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 'replica identity ' || CASE relreplident WHEN 'i' THEN
         (SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = c.oid AND indisreplident) ELSE relreplident::text END
  FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
UNION ALL
SELECT 'comment ' || description FROM pg_description
 WHERE objoid = to_regclass(%(table)s) AND classoid = 'pg_class'::regclass AND objsubid = 0
ORDER BY line
"""


@dataclass(frozen=True)
class Recipe:
    """One plan's surroundings; `gives` has lines of tables' shapes, `takes` how lines begin (`$` is a line's end)."""

    seed: str = ""
    talk: Sequence[Step] = ()
    bound: Sequence[Step] = ()
    """What is said in soak only: from cutover on what the plan brings binds everybody."""
    gives: Mapping[str, Sequence[str]] = field(default_factory=dict)
    takes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    final: Sequence[Step] = ()


async def shape(conn: Connection, table: str) -> list[str]:
    """Write what a table is, a line for each column, constraint and index."""
    return [line for (line,) in await (await conn.execute(SHAPE.encode(), {"table": table})).fetchall()]


async def visit(conn: Connection, schema: str) -> int:
    """Read every table of a version, and write each row as it is; gives the number of tables."""
    found = await conn.execute(
        "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns WHERE table_schema = %s GROUP BY 1",
        (schema,),
    )
    tables = await found.fetchall()
    for table, columns in tables:
        view = sql.Identifier(schema, table)
        names = [sql.Identifier(name) for name in columns]
        seen = await conn.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(names), view))
        same = sql.SQL(", ").join(sql.SQL("{0} = {0}").format(name) for name in names)
        written = await conn.execute(sql.SQL("UPDATE {} SET {}").format(view, same))
        assert written.rowcount == seen.rowcount, f"{schema}.{table}"
    return len(tables)


RECIPES: dict[str, Recipe] = {
    "01": Recipe(
        talk=[
            new("INSERT INTO customers VALUES ({n}, 'customer {n}', '4111')"),
            new("INSERT INTO customers VALUES ({n} + 1, 'customer {n}')", lambda _: "23505"),
            new("INSERT INTO bills VALUES ({n}, '12:00+01', 3)"),
            new("INSERT INTO sellers VALUES ('alice', {n}, 'sells')"),
            new("UPDATE sellers SET description = 'sold' WHERE name = 'alice' AND zip = {n}"),
            old("SELECT * FROM customers", lambda _: "42P01"),
        ],
        gives={
            "public.customers": [
                "column id integer not null",
                "column name character varying(255) not null",
                "column credit_card text",
                "constraint customers_pkey PRIMARY KEY (id)",
                "constraint customers_name_key UNIQUE (name)",
            ],
            "public.bills": ["column date time with time zone not null"],
            "public.sellers": ["constraint sellers_pkey PRIMARY KEY (name, zip)"],
        },
    ),
    "02": Recipe(
        talk=[
            new("INSERT INTO products (name, price) VALUES ('product {n}', 1.5) RETURNING id > 0", lambda _: [(True,)]),
            new("UPDATE products SET price = price + 1"),
        ],
        gives={
            "public.products": [
                "column id integer not null identity",
                "column price numeric(10,2) not null",
                "constraint products_name_key UNIQUE (name)",
            ]
        },
    ),
    "03": Recipe(
        seed="INSERT INTO products (name, price) SELECT 'seed ' || i, i FROM generate_series(1, 50) i",
        talk=[
            old("INSERT INTO products (name, price) VALUES ('thing {n}', 2)"),
            new(
                "SELECT description, stock, category FROM products WHERE name = 'thing {n}'",
                lambda n: [(f"THING {n}", 100, f"thing {n}-category")],
            ),
            new("INSERT INTO products (name, price, category) VALUES ('own {n}', 2, 'mine')"),
            new(
                "SELECT description, stock, category FROM products WHERE name = 'own {n}'",
                lambda _: [(None, 100, "mine")],
            ),
            new("INSERT INTO products (name, price) VALUES ('none {n}', 2)", lambda _: "23502"),
            old("SELECT price FROM products WHERE name = 'own {n}'", lambda _: [(2,)]),
        ],
        gives={
            "public.products": [
                "column description character varying(255)",
                "column stock integer not null default 100",
                "column category character varying(255) not null",
            ]
        },
        final=[
            base(
                "SELECT category, description FROM products WHERE name = 'seed 7'",
                lambda _: [("seed 7-category", "SEED 7")],
            )
        ],
    ),
    "04": Recipe(
        talk=[
            old("INSERT INTO customers VALUES ({n}, 'renamed {n}')"),
            new("SELECT name FROM clients WHERE id = {n}", lambda n: [(f"renamed {n}",)]),
            new("UPDATE clients SET credit_card = '1' WHERE id = {n}"),
            old("SELECT credit_card FROM customers WHERE id = {n}", lambda _: [("1",)]),
            new("SELECT FROM customers", lambda _: "42P01"),
        ],
        gives={"public.clients": ["column name character varying(255) not null"]},
        takes={"public.customers": [""]},
    ),
    "05": Recipe(
        gives={
            "public.users": ["column id integer not null", "column name text", "constraint users_pkey PRIMARY KEY (id)"]
        }
    ),
    "06": Recipe(
        seed="INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 40) i",
        talk=[
            old("INSERT INTO users VALUES ({n}, 'ann')"),
            new("SELECT description FROM users WHERE id = {n}", lambda _: [("ANN",)]),
            new("UPDATE users SET description = 'a person' WHERE id = {n}"),
            old("SELECT name FROM users WHERE id = {n}", lambda _: [("ann",)]),
        ],
        gives={"public.users": ["column description character varying(255)"]},
        final=[base("SELECT description FROM users WHERE id = 7", lambda _: [("USER 7",)])],
    ),
    "07": Recipe(
        talk=[
            old("INSERT INTO products (name, price, category) VALUES ('last {n}', 2, 'c')"),
            new("SELECT FROM products", lambda _: "42P01"),
        ],
        takes={"public.products": [""]},
        final=[
            base(
                'SELECT count(*) > 50 FROM pgduet_archive."drop-products/public.products/2"',
                lambda _: [(True,)],
            )
        ],
    ),
    "08": Recipe(
        talk=[
            new("INSERT INTO fruits VALUES ({n}, 'fruit {n}', 3)"),
            new("INSERT INTO fruits (name, price) VALUES ('more {n}', 3)"),
        ],
        gives={
            "public.fruits": [
                "column id bigint not null identity",
                "column name character varying(255) not null",
                "constraint fruits_name_key UNIQUE (name)",
            ]
        },
    ),
    "09": Recipe(
        seed="INSERT INTO fruits (name, price) SELECT 'seed ' || i, i FROM generate_series(1, 30) i",
        talk=[
            new("INSERT INTO fruits (id, name) VALUES ({n}, 'free {n}')"),
            old("SELECT price FROM fruits WHERE id = {n}", lambda _: [(0,)]),
            old("UPDATE fruits SET price = 7 WHERE id = {n}"),
            new("SELECT price FROM fruits", lambda _: "42703"),
        ],
        takes={"public.fruits": ["column price"]},
        final=[
            base(
                "SELECT count(*) >= 30 FROM pgduet_archive.value WHERE migration = 'drop-price-of-fruits'",
                lambda _: [(True,)],
            )
        ],
    ),
    "10": Recipe(
        talk=[
            old("INSERT INTO fruits (name) VALUES ('ten {n}')"),
            new("SELECT name FROM fruits WHERE name = 'ten {n}'", lambda n: [(f"ten {n}",)]),
        ],
        gives={"public.fruits": ["index idx_fruits_name USING btree (name)"]},
    ),
    "11": Recipe(
        talk=[new("INSERT INTO fruits (name) VALUES ('eleven {n}')")],
        takes={"public.fruits": ["index idx_fruits_name"]},
    ),
    "12": Recipe(
        talk=[new("INSERT INTO employees (role) VALUES ('cook {n}')")],
        gives={
            "public.employees": [
                "comment Who works here",
                "column role character varying(255) not null comment What they are paid for",
            ]
        },
    ),
    "13": Recipe(
        talk=[
            old("INSERT INTO employees (id, role) VALUES ({n}, 'waiter')"),
            new("UPDATE employees SET job_title = 'chef' WHERE id = {n}"),
            old("SELECT role FROM employees WHERE id = {n}", lambda _: [("chef",)]),
        ],
        gives={"public.employees": ["column job_title character varying(255) not null comment What they are paid for"]},
        takes={"public.employees": ["column role"]},
    ),
    "14": Recipe(
        talk=[new("INSERT INTO reviews (username, product, review) VALUES ('u{n}', 'tea', 'good')")],
        gives={"public.reviews": ["column username text not null", "column review text"]},
    ),
    "15": Recipe(
        seed="INSERT INTO reviews (username, product, review) SELECT 'u' || i, 'p' || i % 5, CASE WHEN i % 4 > 0 THEN 'nice' END"
        " FROM generate_series(1, 40) i",
        talk=[
            old("INSERT INTO reviews (id, username, product, review) VALUES ({n}, 'u', 'p', 'nice')"),
            new("SELECT review FROM reviews WHERE id = {n}", lambda n: [(f"nice-{n}",)]),
            new("INSERT INTO reviews (id, username, product, review) VALUES ({n} + 1, 'u', 'p', 'only {n}')"),
            new("INSERT INTO reviews (username, product, review) VALUES ('u', 'p', 'only {n}')", lambda _: "23505"),
            old("SELECT review FROM reviews WHERE id = {n} + 1", lambda n: [(f"only {n}",)]),
        ],
        gives={"public.reviews": ["column review text", "constraint reviews_review_unique UNIQUE (review)"]},
        final=[base("SELECT count(review) = count(DISTINCT review) FROM reviews", lambda _: [(True,)])],
    ),
    "16": Recipe(
        seed="INSERT INTO reviews (username, product) SELECT 'v' || i, 'p' || i FROM generate_series(1, 20) i",
        talk=[
            old("INSERT INTO reviews (id, username, product) VALUES ({n}, 'u{n}', 'tea')"),
            new("SELECT review FROM reviews WHERE id = {n}", lambda n: [(f"tea is good, says u{n}",)]),
            new("INSERT INTO reviews (username, product) VALUES ('u{n}', 'tea')", lambda _: "23502"),
            new("INSERT INTO reviews (username, product, review) VALUES ('u{n}', 'tea', 'hot {n}')"),
            new("UPDATE reviews SET review = 'cold {n}' WHERE review = 'hot {n}'"),
            old("SELECT count(*) FROM reviews WHERE review = 'cold {n}'", lambda _: [(1,)]),
        ],
        gives={"public.reviews": ["column review text not null", "constraint reviews_review_unique UNIQUE (review)"]},
        takes={"public.reviews": ["column review text$"]},
    ),
    "17": Recipe(
        talk=[
            old("INSERT INTO reviews (id, username, product, review) VALUES ({n}, 'u', 'p', 'seventeen {n}')"),
            new("SELECT rating FROM reviews WHERE id = {n}", lambda _: [("0",)]),
            new("UPDATE reviews SET rating = '4' WHERE id = {n}"),
        ],
        gives={"public.reviews": ["column rating text not null default '0'::text"]},
    ),
    "18": Recipe(
        talk=[
            old(
                "INSERT INTO reviews (id, username, product, review, rating) VALUES ({n}, 'u', 'p', 'eighteen {n}', '5')"
            ),
            new("SELECT rating FROM reviews WHERE id = {n}", lambda _: [(5,)]),
            new("UPDATE reviews SET rating = 3 WHERE id = {n}"),
            old("SELECT rating FROM reviews WHERE id = {n}", lambda _: [("3",)]),
            new(
                "INSERT INTO reviews (username, product, review) VALUES ('u', 'p', 'zero {n}') RETURNING rating",
                lambda _: [(0,)],
            ),
        ],
        gives={"public.reviews": ["column rating integer not null default ('0'::text)::integer"]},
        takes={"public.reviews": ["column rating text"]},
    ),
    "19": Recipe(
        talk=[new("INSERT INTO orders (user_id, quantity) VALUES (1, 2)")],
        bound=[new("INSERT INTO orders (user_id, quantity) VALUES (-1, 2)", lambda _: "23503")],
        gives={"public.orders": ["constraint fk_users_id FOREIGN KEY (user_id) REFERENCES users(id)"]},
    ),
    "20": Recipe(
        talk=[new("INSERT INTO posts (title, user_id) VALUES ('post {n}', 1)")],
        gives={"public.posts": ["column title character varying(255) not null", "column user_id integer"]},
        final=[base("SELECT public.known_user(1), public.known_user(-1)", lambda _: [(1, None)])],
    ),
    "21": Recipe(
        seed="INSERT INTO posts (title, user_id) SELECT 'seed ' || i, i * 10 FROM generate_series(1, 8) i",
        talk=[
            old("INSERT INTO posts (id, title, user_id) VALUES ({n}, 'orphan', -5)"),
            new("SELECT user_id FROM posts WHERE id = {n}", lambda _: [(None,)]),
            new("UPDATE posts SET user_id = 99999 WHERE id = {n}", lambda _: "23503"),
            new("UPDATE posts SET user_id = 2 WHERE id = {n}"),
            old("SELECT user_id FROM posts WHERE id = {n}", lambda _: [(2,)]),
        ],
        gives={
            "public.posts": ["constraint posts_user_id_fk FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE"]
        },
        final=[base("SELECT user_id FROM posts WHERE title = 'seed 7'", lambda _: [(None,)])],
    ),
    "22": Recipe(
        seed="INSERT INTO posts (title) VALUES ('a'), ('bc'), ('long enough')",
        talk=[
            old("INSERT INTO posts (id, title) VALUES ({n}, 'x')"),
            new("SELECT title FROM posts WHERE id = {n}", lambda _: [("---x",)]),
            new("UPDATE posts SET title = 'no' WHERE id = {n}", lambda _: "23514"),
            new("UPDATE posts SET title = 'better' WHERE id = {n}"),
            old("SELECT title FROM posts WHERE id = {n}", lambda _: [("better",)]),
        ],
        gives={"public.posts": ["constraint title_length CHECK ((length((title)::text) > 3))"]},
    ),
    "23": Recipe(
        talk=[
            new("INSERT INTO posts (id, title) VALUES ({n}, 'hi')"),
            old("SELECT title FROM posts WHERE id = {n}", lambda _: [("--hi",)]),
            old("UPDATE posts SET title = 'no' WHERE id = {n}", lambda _: "23514"),
            old("UPDATE posts SET title = 'hello' WHERE id = {n}"),
            new("SELECT title FROM posts WHERE id = {n}", lambda _: [("hello",)]),
        ],
        takes={"public.posts": ["constraint title_length"]},
        final=[base("INSERT INTO posts (title) VALUES ('x')")],
    ),
    "24": Recipe(
        talk=[
            new("INSERT INTO posts (id, title, user_id) VALUES ({n}, 'free', -7)"),
            old("SELECT user_id FROM posts WHERE id = {n}", lambda _: [(None,)]),
            old("UPDATE posts SET user_id = -8 WHERE id = {n}", lambda _: "23503"),
            old("UPDATE posts SET user_id = 3 WHERE id = {n}"),
            new("SELECT user_id FROM posts WHERE id = {n}", lambda _: [(3,)]),
        ],
        takes={"public.posts": ["constraint posts_user_id_fk"]},
    ),
    "25": Recipe(
        talk=[
            new("INSERT INTO people VALUES ({n}, 'Somebody')"),
            new("INSERT INTO people VALUES ({n} + 1, 'Ann')", lambda _: "23514"),
        ],
        gives={"public.people": ["constraint name_length CHECK ((length((name)::text) > 3))"]},
    ),
    "26": Recipe(
        talk=[
            old("INSERT INTO people VALUES ({n}, 'Somebody')"),
            new("SELECT age FROM people WHERE id = {n}", lambda _: [(18,)]),
            new("UPDATE people SET age = 5 WHERE id = {n}", lambda _: "23514"),
            new("UPDATE people SET age = 50 WHERE id = {n}"),
        ],
        gives={"public.people": ["column age integer not null default 18", "constraint age_check CHECK ((age >= 18))"]},
    ),
    "27": Recipe(
        talk=[
            new("INSERT INTO reviews (id, username, product, review) VALUES ({n}, 'u', 'p', 'same')"),
            new("INSERT INTO reviews (id, username, product, review) VALUES ({n} + 1, 'u', 'p', 'same')"),
            old("SELECT review FROM reviews WHERE id = {n}", lambda n: [(f"same-{n}",)]),
            old("INSERT INTO reviews (username, product, review) VALUES ('u', 'p', 'same-{n}')", lambda _: "23505"),
            old("UPDATE reviews SET review = 'other {n}' WHERE id = {n}"),
            new("SELECT review FROM reviews WHERE id = {n}", lambda n: [(f"other {n}",)]),
        ],
        takes={"public.reviews": ["constraint reviews_review_unique"]},
        final=[base("SELECT count(*) > 1 FROM reviews WHERE review = 'same'", lambda _: [(True,)])],
    ),
    "28": Recipe(
        talk=[
            new(
                "INSERT INTO items DEFAULT VALUES RETURNING name, price, created_at = now()",
                lambda _: [("unnamed", 0, True)],
            )
        ],
        gives={
            "public.items": [
                "column name character varying(255) not null default 'unnamed'::character varying",
                "column price numeric(10,2) not null default 0.00::numeric(10,2)",
                "column created_at timestamp with time zone not null default now()",
            ]
        },
    ),
    "29": Recipe(
        talk=[old("UPDATE fruits SET name = name"), new("UPDATE fruits SET name = name")],
        gives={"public.fruits": ["replica identity fruits_pkey"]},
    ),
    "30": Recipe(
        talk=[
            old("INSERT INTO people (id, name) VALUES ({n}, 'Somebody')"),
            new("SELECT description FROM people WHERE id = {n}", lambda _: [("to be described",)]),
            new("INSERT INTO people (id, name) VALUES ({n} + 1, 'Somebody')", lambda _: "23502"),
            new("INSERT INTO people (id, name, description) VALUES ({n} + 1, 'Somebody', 'tall')"),
        ],
        gives={"public.people": ["column description character varying(255) not null comment In a few words"]},
    ),
    "31": Recipe(
        talk=[
            new("INSERT INTO posts (id, title) VALUES ({n}, NULL)"),
            old("SELECT title FROM posts WHERE id = {n}", lambda _: [("untitled",)]),
            old("INSERT INTO posts (title) VALUES (NULL)", lambda _: "23502"),
            old("UPDATE posts SET title = 'found' WHERE id = {n}"),
            new("SELECT title FROM posts WHERE id = {n}", lambda _: [("found",)]),
        ],
        gives={"public.posts": ["column title character varying(255)"]},
        takes={"public.posts": ["column title character varying(255) not null"]},
    ),
    "32": Recipe(
        talk=[base("SELECT birth_date FROM people", lambda _: "42703")],
        gives={"public.people": ["column birth_date timestamp without time zone"]},
    ),
    "33": Recipe(
        talk=[
            old("INSERT INTO people (id, name, description) VALUES ({n}, 'Ann', 'x')", lambda _: "23514"),
            new("INSERT INTO people (id, name, description) VALUES ({n}, 'Ann', 'x')", lambda _: "23514"),
        ],
        gives={"public.people": ["constraint name_length_check CHECK ((length((name)::text) > 3))"]},
        takes={"public.people": ["constraint name_length CHECK"]},
    ),
    "34": Recipe(
        talk=[new("INSERT INTO events DEFAULT VALUES RETURNING name", lambda _: [("<placeholder>",)])],
        gives={
            "public.events": [
                "column name character varying(255) default '<placeholder>'::character varying comment What it is called"
            ]
        },
    ),
    "35": Recipe(
        seed="DELETE FROM events; INSERT INTO events (name) VALUES (NULL), (NULL), ('abc'), ('abc'), ('conference')",
        talk=[
            old("INSERT INTO events (id, name) VALUES ({n}, NULL)"),
            new("SELECT name FROM events WHERE id = {n}", lambda n: [(f"event {n}",)]),
            new("UPDATE events SET name = 'abc' WHERE id = {n}", lambda _: "23514"),
            new("UPDATE events SET name = NULL WHERE id = {n}", lambda _: "23502"),
            new("UPDATE events SET name = 'conference' WHERE id = {n}", lambda _: "23505"),
            new("UPDATE events SET name = 'meeting {n}' WHERE id = {n}"),
            old("SELECT name FROM events WHERE id = {n}", lambda n: [(f"meeting {n}",)]),
        ],
        gives={
            "public.events": [
                "column name text not null default 'unknown event'::text comment What it is called in full",
                "constraint event_name_length CHECK ((length(name) > 3))",
                "constraint events_event_name_unique UNIQUE (name)",
            ]
        },
        takes={"public.events": ["column name character varying"]},
    ),
    "36": Recipe(
        talk=[
            old("INSERT INTO events (name) VALUES ('before {n}')"),
            new("INSERT INTO events (name) VALUES ('after {n}')"),
        ],
        gives={"public.events": ["column name text not null default 'unknown event'::text"]},
        takes={"public.events": ["column name text not null default 'unknown event'::text comment"]},
    ),
    "37": Recipe(
        talk=[
            old("INSERT INTO fruits (name) VALUES ('part {n}')"),
            new("INSERT INTO fruits (name) VALUES ('whole {n}')"),
        ],
        gives={"public.fruits": ["index idx_fruits_id_gt_10 USING btree (id) WHERE (id > 10)"]},
    ),
    "38": Recipe(
        talk=[
            old("INSERT INTO fruits (name) VALUES ('hash {n}')"),
            new("INSERT INTO fruits (name) VALUES ('mash {n}')"),
        ],
        gives={"public.fruits": ["index idx_fruits_name USING hash (name) WITH (fillfactor='70')"]},
    ),
    "39": Recipe(
        talk=[
            old("INSERT INTO sellers VALUES ('bob', {n})"),
            new("SELECT rating FROM sellers WHERE zip = {n} AND name = 'bob'", lambda _: [(10,)]),
            new("UPDATE sellers SET rating = 9 WHERE zip = {n} AND name = 'bob'"),
        ],
        gives={"public.sellers": ["column rating integer not null default 10"]},
    ),
    "40": Recipe(final=[base("SELECT enum_range(NULL::fruit_size)::text", lambda _: [("{small,medium,large}",)])]),
    "41": Recipe(
        talk=[
            old("INSERT INTO fruits (id, name) VALUES ({n}, 'sized {n}')"),
            new("SELECT size::text FROM fruits WHERE id = {n}", lambda _: [("small",)]),
            new("UPDATE fruits SET size = 'large' WHERE id = {n}"),
            new("UPDATE fruits SET size = 'huge' WHERE id = {n}", lambda _: "22P02"),
        ],
        gives={"public.fruits": ["column size fruit_size not null default 'small'::fruit_size"]},
    ),
    "42": Recipe(
        talk=[
            old("INSERT INTO fruits (name) VALUES ('unique {n}')"),
            new("INSERT INTO fruits (name) VALUES ('once {n}')"),
        ],
        gives={"public.fruits": ["index idx_fruits_unique_name UNIQUE USING btree (name)"]},
    ),
    "43": Recipe(
        talk=[
            new(
                "INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('alice', {n}) RETURNING ticket_type",
                lambda _: [("paper",)],
            )
        ],
        gives={
            "public.tickets": ["column ticket_type character varying(255) not null default 'paper'::character varying"]
        },
    ),
    "44": Recipe(
        talk=[
            old("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('bob', {n})"),
            new("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('carol', {n})"),
        ],
        bound=[
            old("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('bob', {n})", lambda _: "23505"),
            new("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('bob', {n})", lambda _: "23505"),
        ],
        gives={"public.tickets": ["constraint unique_zip_name UNIQUE (sellers_name, sellers_zip)"]},
    ),
    "45": Recipe(
        seed="INSERT INTO tickets (sellers_name, sellers_zip) SELECT 'dave ' || i, -i FROM generate_series(1, 10) i",
        talk=[
            old("INSERT INTO tickets (ticket_id, sellers_name, sellers_zip) VALUES ({n}, 'eve {n}', -1)"),
            new("SELECT sellers_zip FROM tickets WHERE ticket_id = {n}", lambda _: [(123,)]),
            new("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('bob', -{n})", lambda _: "23514"),
            new("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('alice', -{n})"),
            old("SELECT count(*) FROM tickets WHERE sellers_zip = -{n}", lambda _: [(1,)]),
        ],
        gives={
            "public.tickets": [
                "constraint check_zip_name CHECK ((((sellers_name)::text = 'alice'::text) OR (sellers_zip > 0)))",
                "constraint unique_zip_name UNIQUE (sellers_name, sellers_zip)",
            ]
        },
        final=[base("SELECT sellers_zip FROM tickets WHERE sellers_name = 'dave 3'", lambda _: [(123,)])],
    ),
    "46": Recipe(
        talk=[
            old(
                "INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('frank', {n}) RETURNING ticket_type",
                lambda _: [("paper",)],
            ),
            new("INSERT INTO tickets (sellers_name, sellers_zip) VALUES ('grace', {n})", lambda _: "23502"),
            new("INSERT INTO tickets (sellers_name, sellers_zip, ticket_type) VALUES ('grace', {n}, 'plastic')"),
        ],
        gives={"public.tickets": ["column ticket_type character varying(255) not null"]},
        takes={"public.tickets": ["column ticket_type character varying(255) not null default"]},
    ),
    "47": Recipe(
        seed="INSERT INTO sellers (name, zip) SELECT sellers_name, sellers_zip FROM tickets ON CONFLICT DO NOTHING",
        talk=[
            new("INSERT INTO sellers (name, zip) VALUES ('heidi', {n})"),
            old("INSERT INTO tickets (sellers_name, sellers_zip, ticket_type) VALUES ('heidi', {n}, 'x')"),
        ],
        bound=[
            old(
                "INSERT INTO tickets (sellers_name, sellers_zip, ticket_type) VALUES ('nobody', {n}, 'x')",
                lambda _: "23503",
            ),
            new(
                "INSERT INTO tickets (sellers_name, sellers_zip, ticket_type) VALUES ('nobody', {n}, 'x')",
                lambda _: "23503",
            ),
        ],
        gives={
            "public.tickets": [
                "constraint fk_sellers FOREIGN KEY (sellers_name, sellers_zip) REFERENCES sellers(name, zip)"
            ]
        },
    ),
    "48": Recipe(
        seed="INSERT INTO sellers (name, zip) VALUES ('ivan', -1)",
        talk=[
            old(
                "INSERT INTO tickets (sellers_name, sellers_zip, ticket_type) VALUES ('ivan', -1, 'x')",
                lambda _: "23514",
            )
        ],
        takes={"public.tickets": ["constraint check_zip_name"]},
        final=[base("INSERT INTO tickets (sellers_name, sellers_zip, ticket_type) VALUES ('ivan', -1, 'x')")],
    ),
    "49": Recipe(
        talk=[
            new("INSERT INTO fruits (id, name) VALUES ({n}, NULL)"),
            old("SELECT name FROM fruits WHERE id = {n}", lambda n: [(f"unknown fruit {n}",)]),
            old("UPDATE fruits SET name = 'known {n}' WHERE id = {n}"),
            new("SELECT name FROM fruits WHERE id = {n}", lambda n: [(f"known {n}",)]),
        ],
        gives={
            "public.fruits": [
                "column name character varying(255)",
                "constraint fruits_name_key UNIQUE (name)",
                "index idx_fruits_name USING hash (name) WITH (fillfactor='70')",
                "index idx_fruits_unique_name UNIQUE USING btree (name)",
                "replica identity fruits_pkey",
            ]
        },
        takes={"public.fruits": ["column name character varying(255) not null"]},
        final=[base("INSERT INTO fruits (name) VALUES (NULL), (NULL)")],
    ),
    "50": Recipe(
        talk=[
            new("INSERT INTO telephone_providers (id, name, tax_id, headquarters) VALUES ({n}, 'p', 't{n}', 'h')"),
            new(
                "INSERT INTO telephone_providers (name, tax_id, headquarters) VALUES ('p', 't{n}', 'h')",
                lambda _: "23505",
            ),
            new(
                "INSERT INTO telephone_providers (name, tax_id, headquarters) VALUES ('', 'u{n}', 'h')",
                lambda _: "23514",
            ),
        ],
        gives={
            "public.telephone_providers": [
                "column id integer not null identity",
                "constraint provider_pk PRIMARY KEY (id)",
                "constraint unique_tax_id UNIQUE (tax_id)",
                "constraint name_must_be_present CHECK ((length((name)::text) > 0))",
            ]
        },
    ),
    "51": Recipe(
        seed="INSERT INTO telephone_providers (id, name, tax_id, headquarters) VALUES (1, 'one', 'one', 'here')",
        talk=[
            new("INSERT INTO phonebook (provider_id, name, city, phone) VALUES (1, 'n', 'c', '{n}')"),
            new(
                "INSERT INTO phonebook (provider_id, name, city, phone) VALUES (1, 'n', 'c', '{n}')", lambda _: "23505"
            ),
        ],
        bound=[
            new(
                "INSERT INTO phonebook (provider_id, name, city, phone) VALUES (-1, 'n', 'c', 'a{n}')",
                lambda _: "23503",
            )
        ],
        gives={
            "public.phonebook": [
                "constraint phonebook_pk PRIMARY KEY (id)",
                (
                    "constraint provider_fk FOREIGN KEY (provider_id) REFERENCES telephone_providers(id)"
                    " ON UPDATE CASCADE ON DELETE CASCADE"
                ),
                "constraint unique_numbers UNIQUE (phone) INCLUDE (name)",
                "constraint name_must_be_present CHECK ((length((name)::text) > 0))",
            ]
        },
    ),
    "52": Recipe(
        talk=[
            new("INSERT INTO library (id, returned, title, summary) VALUES ({n}, now(), 'book {n}', 's')"),
            new("INSERT INTO library (returned, title, summary) VALUES (now(), 'book {n}', 's')", lambda _: "23P01"),
        ],
        gives={
            "public.library": [
                "constraint rooms_pk PRIMARY KEY (id)",
                "constraint forbid_duplicated_titles EXCLUDE USING btree (title WITH =) WHERE ((title IS NOT NULL))",
            ]
        },
    ),
    "53": Recipe(
        talk=[
            old("INSERT INTO library (id, returned, title, summary) VALUES ({n}, now(), 'tome {n}', 's')"),
            new("SELECT value FROM library WHERE id = {n}", lambda n: [(n * 7919 % 1000,)]),
            new(
                "INSERT INTO library (returned, title, summary) VALUES (now(), 'novel {n}', 's') RETURNING value >= 0",
                lambda _: [(True,)],
            ),
            new(
                "INSERT INTO library (returned, title, summary, value) VALUES (now(), 'none {n}', 's', NULL)",
                lambda _: "23502",
            ),
        ],
        gives={
            "public.library": ["column value integer not null default ((random() * (1000)::double precision))::integer"]
        },
        final=[base("SELECT count(*) FROM library WHERE value IS NULL", lambda _: [(0,)])],
    ),
    "54": Recipe(
        talk=[
            old("INSERT INTO fruits (name) VALUES ('class {n}')"),
            new("INSERT INTO fruits (name) VALUES ('glass {n}')"),
        ],
        gives={"public.fruits": ["index idx_fruits_custom_opclass USING btree (id)"]},
    ),
    "55": Recipe(
        talk=[new("INSERT INTO tasks (id, title, description, deadline) VALUES ({n}, 't', 'd', '12:00+00')")],
        gives={
            "public.tasks": ["constraint tasks_pkey PRIMARY KEY (id)", "column deadline time with time zone not null"]
        },
    ),
    "56": Recipe(
        talk=[new("INSERT INTO products (name) VALUES ('again {n}')")],
        gives={
            "public.products": ["column id integer not null identity", "constraint products_name_key UNIQUE (name)"]
        },
        final=[Step("2", "SELECT current_schema()", lambda _: [("public_vwith_version_schema",)])],
    ),
}
