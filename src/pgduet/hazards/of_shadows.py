"""The hazards of a table that gets another shape by a second one beside it."""

from pgduet.hazards.rule import Rule

OF_SHADOWS = (
    Rule(
        "PD-H25",
        "a trigger, or a foreign key of the table to itself, writes other rows of a table that gets another shape",
        "until contract a new client's statement over several rows has it fire after each of them, not after all. Where both change"
        " one column of one row (of a partitioned table: where both come to one row), where it deletes a row to which the statement"
        " comes, or gives that another key, and in an upsert over several rows, PostgreSQL refuses the statement (27000, 21000)",
        "write such rows one statement each through the new version, or all of them by the old version, until contract",
        "UPDATE public_v2.places SET position = position + 1 WHERE list = 7 -- and the trigger moves their neighbours",
        "UPDATE public_v2.places SET position = 3 WHERE id = 1",
    ),
    Rule(
        "PD-H26",
        "a unique index whose values a trigger may hand on within a statement",
        "the trigger gives a row a value that the statement has just taken from another one: in the new shape, where rows are"
        " written in the order of the triggers, it is still there, and an old client is refused (23505). What is unique by columns"
        " that stay as they are, without a condition, is seen to; expressions, conditions and columns that change are not",
        "have an index over the columns themselves, without a condition; or hand the value on by a later statement",
        "CREATE UNIQUE INDEX ON places (lower(code)) -- and AFTER UPDATE a trigger gives the code to the next row",
        "CREATE UNIQUE INDEX ON places (code)",
    ),
    Rule(
        "PD-H32",
        "something that hangs on a table is not carried over to its new shape",
        "it stays on the old table, and goes with it at contract",
        "create what the new version needs after contract, or change what it reads",
        "CREATE INDEX ON orders (note) -- and `note` is replaced",
        "CREATE INDEX CONCURRENTLY ON orders (remark) -- after contract",
    ),
    Rule(
        "PD-H33",
        "a partitioned table gets another shape",
        "DETACH, ATTACH and DROP of a partition fire no trigger: rows that go or come so reach the new version when the engine"
        " looks next, with each census. And at contract the partitions go with the old table, by name and all",
        "leave the partitions as they are until contract, and have whoever names one name the table",
        "ALTER TABLE orders DETACH PARTITION january -- during the soak",
        "ALTER TABLE orders DETACH PARTITION january -- after contract",
    ),
    Rule(
        "PD-H34",
        "a trigger's function of a table that gets another shape asks who the current user is",
        "for what new clients write it is the owner of pgduet's functions, until contract",
        "have it read session_user, or a setting of the application's",
        "NEW.changed_by := current_user",
        "NEW.changed_by := session_user",
    ),
    Rule(
        "PD-H35",
        "new clients reach a table in another shape through a view and its policies",
        "until contract: NOWAIT and SKIP LOCKED wait for the old table's row all the same; COPY into the view is refused, as for"
        " every view; so is everything under `row_security = off`, which pg_dump says",
        "INSERT instead of COPY; dump the old version's tables (`pg_dump --enable-row-security` for the new)",
        "pg_dump --schema public_v2",
        "pg_dump --schema public",
    ),
    Rule(
        "PD-H36",
        "a condition that is not leakproof runs after the policies of a table in another shape",
        "a new client's UPDATE, DELETE or SELECT FOR UPDATE by it locks every row that it reads, not only those that it finds, and"
        " no index serves it: the whole table, where nothing else is asked for. Leakproof are `=`, `<`, `IN` and such of integers,"
        " text, uuid, boolean, dates, timestamps and bytea, and IS NULL; not LIKE, functions of a column (`lower(code)`), `->>`,"
        " comparisons of different types of time (a timestamptz with a date), nor any of numeric, enums, arrays, ranges and jsonb."
        " Beside one that is leakproof only the rows are locked that this one finds",
        "find the keys first",
        "UPDATE public_v2.orders SET amount = 0 WHERE note LIKE 'x%'",
        "UPDATE public_v2.orders SET amount = 0 WHERE id IN (SELECT id FROM public_v2.orders WHERE note LIKE 'x%')",
    ),
    Rule(
        "PD-H37",
        "subscribers will be sent a table that they may not have",
        "a publication of all tables, or of the schema, publishes the new shape from its first row on, under its working name; one"
        " without publish_via_partition_root publishes partitions under their own. A subscription stops at a table that it does"
        " not find",
        "name the tables of the publication, create the tables for the subscriber, or set publish_via_partition_root",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE PUBLICATION p FOR TABLE orders, customers WITH (publish_via_partition_root = true)",
    ),
    Rule(
        "PD-H38",
        "something else stands upon a table that gets another shape",
        "the old table is dropped at contract, which waits until nothing depends on it",
        "drop it before contract and create it again afterwards, or have it read the new version's view",
        "CREATE VIEW best AS SELECT * FROM public.orders",
        "CREATE VIEW best AS SELECT * FROM public_v2.orders",
    ),
    Rule(
        "PD-H39",
        "a table with row level security gets another shape",
        "new clients see and write the rows that its policies give them, but until contract no index serves these conditions, and"
        " a policy that is changed meanwhile holds for them once the engine has read it",
        "have new clients name what they look for, not rely on the policy alone; change policies before or after",
        "SELECT * FROM public_v2.orders",
        "SELECT * FROM public_v2.orders WHERE tenant = 7",
    ),
    Rule(
        "PD-H55",
        "a trigger gives a new row another unique value than the client wrote",
        "until contract ON CONFLICT of the new version looks for what the client wrote: a row that has what the trigger makes of it"
        " is not found, and the INSERT is refused (23505)",
        "have new clients write the value as the trigger would",
        "INSERT INTO public_v2.people (email) VALUES ('Ann@Example.org') ON CONFLICT (email) DO NOTHING -- the trigger lowers it",
        "INSERT INTO public_v2.people (email) VALUES (lower('Ann@Example.org')) ON CONFLICT (email) DO NOTHING",
    ),
)
