"""The hazards that `check` reports: each a rule with its effect, its cure, and SQL that shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A risk: when it is there, what it does, how to be rid of it."""

    id: str
    condition: str
    effect: str
    cure: str
    bad: str
    good: str


@dataclass(frozen=True, slots=True)
class Hazard:
    """A rule that a plan meets, and where."""

    id: str
    condition: str
    effect: str
    cure: str
    where: str

    def facts(self) -> dict[str, str]:
        """Give the hazard as fields."""
        return {
            "id": self.id,
            "condition": self.condition,
            "effect": self.effect,
            "cure": self.cure,
            "where": self.where,
        }


_ALL = (
    Rule(
        "PD-H01",
        "`up` is not immutable",
        "its value can depend on the writing session's settings, such as TimeZone; rows may then drift",
        "name what it depends on",
        "up: created_at::date",
        "up: (created_at AT TIME ZONE 'UTC')::date",
    ),
    Rule(
        "PD-H02",
        "`down` does not give back what was there",
        "the map is lossy: from contract on, the old values exist only in pgduet_archive",
        "let the new columns hold all that the old ones did, or accept it",
        "down: {price: round(amount)}",
        "down: {price: amount}",
    ),
    Rule(
        "PD-H03",
        "`up` fails on a sampled row",
        "the backfill leaves such rows empty, names them, and waits",
        "correct the rows, or let `up` handle them",
        "up: rating::int",
        "up: CASE WHEN rating ~ '^[0-9]+$' THEN rating::int END",
    ),
    Rule(
        "PD-H05",
        "the table has no primary key",
        "rows are named by all their values, and archived values come back by a scan of the table",
        "add a primary key first, if you can",
        "CREATE TABLE t (a text)",
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text)",
    ),
    Rule(
        "PD-H06",
        "indexes or checks hang on a replaced column",
        "they are dropped with it at contract",
        "create what the new version needs on the new columns",
        "CREATE INDEX ON flights (year, month)",
        "CREATE INDEX CONCURRENTLY ON flights (scheduled_departure)",
    ),
    Rule(
        "PD-H07",
        "statements that name no columns meet the new ones on the base table",
        "`SELECT *` prepared there fails once (0A000); COPY and INSERT … SELECT * without a column list see more columns",
        "name the columns, or read the version schema",
        "PREPARE q AS SELECT * FROM public.flights",
        "PREPARE q AS SELECT id, year FROM public_v1.flights",
    ),
    Rule(
        "PD-H12",
        "the table has its own UPDATE triggers",
        "they must not fire for a backfill: it changes no column but its own",
        "leave policy.user_triggers at suppress",
        "user_triggers: fire",
        "user_triggers: suppress",
    ),
    Rule(
        "PD-H13",
        "a trigger's function reads a column that the new version does not have",
        "from contract on it would fail, and every write to the table with it; so contract waits until it is changed",
        "replace it when the table gets its final shape: `sql` with `at: contract` and the table under `tables`",
        "BEGIN NEW.rating := btrim(NEW.rating); RETURN NEW; END",
        "BEGIN NEW.stars := greatest(NEW.stars, 0); RETURN NEW; END",
    ),
    Rule(
        "PD-H14",
        "a view over an altered column gets another type with it",
        "contract drops it and makes it anew over the new column: from then on its readers get the new type",
        "name the type that its readers expect, or tell them",
        "CREATE VIEW best AS SELECT rating FROM reviews",
        "CREATE VIEW best AS SELECT rating::text AS rating FROM reviews",
    ),
    Rule(
        "PD-H20",
        "the worker's role may not see standbys, vacuums and other roles' sessions",
        "the backfill does not slow down for the lag of standbys, for a vacuum of its table, or for clients that wait for it",
        "grant pg_monitor to the role, or name the standbys in pgduet.toml",
        "SELECT replay_lsn FROM pg_stat_replication -- NULL",
        "GRANT pg_monitor TO pgduet_worker",
    ),
    Rule(
        "PD-H21",
        "a new constraint will refuse writes",
        "from cutover on old clients' inserts and updates that violate it are refused; a foreign key also refuses, or follows,"
        " deletes and key changes of what it points to. Before, their violations are accepted, counted, and hold the cutover",
        "deploy old clients that keep it first; with `up` their values are mapped until cutover",
        "create_constraint: {type: check, check: stars > 0}",
        "create_constraint: {type: check, check: stars > 0, up: {stars: 'greatest(stars, 1)'}}",
    ),
    Rule(
        "PD-H22",
        "a dropped constraint binds until contract",
        "new clients' writes that it forbids are refused until then",
        "give `up` and `down` for its columns: then new clients may write what it forbids from publication on",
        "drop_constraint: {name: few_stars}",
        "drop_constraint: {name: few_stars, up: {stars: stars}, down: {stars: 'least(stars, 5)'}}",
    ),
    Rule(
        "PD-H23",
        "a constraint that clients may call by name goes or gets another one",
        "from contract on `ON CONFLICT ON CONSTRAINT` with the old name fails; where it is dropped, so does"
        " `ON CONFLICT (columns)`",
        "name the columns in `ON CONFLICT`, and change what needs the constraint before contract",
        "ON CONFLICT ON CONSTRAINT items_code_key DO NOTHING",
        "ON CONFLICT (code) DO NOTHING",
    ),
    Rule(
        "PD-H24",
        "an exclusion constraint is built under a lock",
        "PostgreSQL cannot build it beside its clients: they wait while it is built, at most the lock budget; if that does not"
        " suffice, everything is released and the cutover waits",
        "keep the table small, or bring the constraint with a new table",
        "exclude: {elements: 'room WITH =, during WITH &&'} on a table of 1 GB",
        "exclude: {elements: 'room WITH =, during WITH &&'} on a table of 200 kB",
    ),
    Rule(
        "PD-H30",
        "a primary key changes in place",
        "until contract: each insert claims its key first (a bulk insert takes about twice as long); a new client that names a"
        " key takes a number from its sequence all the same, for which it needs the right; GENERATED ALWAYS does not hold for new"
        " clients; keys beyond the old type are refused; `ON CONFLICT (key) DO NOTHING` of a row that others update at that very"
        " moment can be refused",
        "load in bulk before or after; write `ON CONFLICT DO NOTHING`; widen the key while there are numbers left",
        "COPY orders FROM 'ten million rows' -- during the soak",
        "COPY orders FROM 'ten million rows' -- after contract",
    ),
    Rule(
        "PD-H31",
        "a foreign key's column stays narrower than the key that it refers to",
        "rows with larger keys cannot be referred to from there",
        "alter the column in the same plan",
        "alter_column: {table: orders, column: id, type: bigint}",
        "alter_column: {table: orders, column: id, type: bigint} and alter_column: {table: lines, column: order_id, type: bigint}",
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
        "a new client's UPDATE, DELETE or SELECT FOR UPDATE by it locks every row that it reads, not only those that it finds",
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
        "PD-H40",
        "merged rows cannot be written before contract",
        "until then INSERT, UPDATE and DELETE through the new version are refused (55000), and SELECT FOR UPDATE there locks"
        " nothing: what several rows came to does not say what they were",
        "write by the old version, and let services that write merged rows start to at contract",
        "UPDATE public_v2.invoice_totals SET total = 5 WHERE id = 1",
        "INSERT INTO public_v1.lines (invoice_id, amount) VALUES (1, 5)",
    ),
    Rule(
        "PD-H41",
        "the rows that are merged go to the archive at contract",
        "they could not be made again from what they came to; the table is kept whole in pgduet_archive, out of everybody's way,"
        " and takes its space until you drop it. Logical replication sends it until then, and the merged table not by itself",
        "move what reads or writes them to the merged rows before contract; the census says who is left. Add the merged table to"
        " its publication after contract",
        "SELECT note FROM public.lines",
        "SELECT total FROM public_v2.invoice_totals",
    ),
    Rule(
        "PD-H42",
        "every row that old clients write makes its merged row dearer to read until it is written",
        "each write notes its group, and the new version reads noted groups from their rows; a worker sees to it within a second"
        " or so. A load in bulk notes every row; reads that do not name a key, and joins, read all noted groups; with no worker"
        " running reads stay right and grow slower. At SERIALIZABLE readers and writers may get 40001 more often",
        "load in bulk before or after, keep a worker running, read merged rows by their key",
        "SELECT sum(total) FROM public_v2.invoice_totals -- during COPY lines",
        "SELECT total FROM public_v2.invoice_totals WHERE id = 1",
    ),
    Rule(
        "PD-H43",
        "no index leads by the columns that rows are merged by",
        "expand builds one beside clients, and drops it with the source or on rollback: it takes time, space and WAL, and each"
        " write of old clients keeps it",
        "nothing; or create it yourself before, at a time of your choice",
        "merge_rows: {table: lines, key: {invoice_id: id}} without an index on lines (invoice_id)",
        "CREATE INDEX CONCURRENTLY ON lines (invoice_id)",
    ),
    Rule(
        "PD-H44",
        "a new client's write of a merged row adds a row for old clients",
        "until contract it is accepted where `down` makes one more row of it that brings the group to exactly what was written:"
        " else it is refused (22000), as are DELETE, another key, and `ON CONFLICT`. Old clients see the rows that are added. An"
        " UPDATE locks every group that it looks at among new clients, so one without the key locks them all; SELECT FOR UPDATE"
        " locks nothing",
        "write by the key; let what cannot be one more row wait until contract, or write it by the old version",
        "UPDATE public_v2.invoice_totals SET total = total + 5",
        "UPDATE public_v2.invoice_totals SET total = total + 5 WHERE id = 1",
    ),
    Rule(
        "PD-H45",
        "a table becomes partitioned",
        "PostgreSQL keeps a key of a partitioned table unique only with the column by which it is spread: new clients'"
        " `ON CONFLICT` must name both from publication on, everybody's from contract on, when the shorter key by itself is kept"
        " unique no more; an UPDATE that moves a row to another partition has concurrent writers of that row meet 40001;"
        " and autovacuum analyzes partitions, never the whole",
        "name the whole key; draw its first part from a sequence; run ANALYZE on the table now and then",
        "INSERT INTO events … ON CONFLICT (id) DO NOTHING",
        "INSERT INTO events … ON CONFLICT (id, at) DO NOTHING",
    ),
    Rule(
        "PD-H46",
        "a table is copied to be partitioned",
        "that takes its size once more, and the time to write it; attached to a parent it would be its first partition as it is",
        "where the reason can be removed, remove it, and check again",
        "partitions: {events_2025: FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')}",
        "partitions: {events_old: FOR VALUES FROM (MINVALUE) TO ('2027-01-01')}",
    ),
    Rule(
        "PD-H47",
        "a trigger sets the column by which rows are spread",
        "PostgreSQL chooses the partition before the trigger runs: from contract on a row that it moves to another is refused",
        "let the column's default, or the client, give the value",
        "BEFORE INSERT: NEW.at := now()",
        "ALTER TABLE events ALTER at SET DEFAULT now()",
    ),
    Rule(
        "PD-H48",
        "a row may fit no partition",
        "without a DEFAULT partition a row beyond all bounds is refused from contract on; and where the table becomes the first"
        " partition, a row beyond that one's bound holds contract, which refuses such rows while it makes the others",
        "choose a bound that lies beyond what is written until contract; add a partition with the bound DEFAULT",
        "partitions: {events_old: FOR VALUES FROM (MINVALUE) TO ('2026-12-01')} -- and rows with that date come in",
        "partitions: {events_old: FOR VALUES FROM (MINVALUE) TO ('2027-06-01'), events_rest: DEFAULT}",
    ),
    Rule(
        "PD-H49",
        "a table is under a parent until contract",
        "each insert claims its key first (a bulk insert takes about twice as long); PostgreSQL refuses to add, drop or change its"
        " columns from publication on; an identity is a default of a sequence of the same name"
        " meanwhile, so that GENERATED ALWAYS does not hold, and a session that took a number before publication (or contract) and"
        " asks for it afterwards (`currval`, `lastval`) without having taken another one is told that there is none",
        "change its columns before or after; ask with RETURNING",
        "INSERT INTO events … ; SELECT lastval()",
        "INSERT INTO events … RETURNING id",
    ),
    Rule(
        "PD-H50",
        "a swap puts row level security upon the table's name until contract",
        "from cutover on COPY into the table is refused to all whom policies bind, and so is whoever sets `row_security = off`"
        " (pg_dump); an UPDATE or DELETE whose condition is not leakproof (LIKE, a function) locks every row that it reads; NOWAIT"
        " and SKIP LOCKED wait; TRUNCATE gives up where an old client is writing",
        "load by INSERT, or before cutover or after contract; name the rows: `WHERE id IN (SELECT id FROM … WHERE …) AND …`; or cut"
        " over by `route`",
        "COPY orders FROM STDIN -- during the soak of a swap",
        "INSERT INTO orders SELECT … -- or COPY after contract",
    ),
    Rule(
        "PD-H51",
        "roles that row level security does not bind could use the table by its name",
        "after a swap they write the new table past its policies: an UPDATE or DELETE of theirs can meet an old client's in a"
        " deadlock. Cutover refuses while one that was seen at the table by its name is connected",
        "have services connect as roles that are no superusers and have no BYPASSRLS",
        "ALTER ROLE shop SUPERUSER",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO shop",
    ),
    Rule(
        "PD-H52",
        "after a swap the table's name shows other columns",
        "from cutover on statements that name a column that goes fail, `SELECT *` prepared before fails (0A000), and INSERT without"
        " a column list fills others",
        "name the columns, and only those that both shapes have; or cut over by `route`",
        "INSERT INTO orders VALUES (1, 'x')",
        "INSERT INTO orders (id, code) VALUES (1, 'x')",
    ),
    Rule(
        "PD-H53",
        "what is unique in the table is not so, by itself, under its name after a swap",
        "from cutover on `ON CONFLICT` with these columns, or that constraint, fails there; the values stay unique until contract",
        "name the new key in `ON CONFLICT`, or leave out what it is about; or cut over by `route`",
        "INSERT INTO orders (id, at) … ON CONFLICT (id) DO NOTHING -- partitioned by at",
        "INSERT INTO orders (id, at) … ON CONFLICT DO NOTHING",
    ),
    Rule(
        "PD-H54",
        "some things follow the table, not its name",
        "until contract foreign keys, views, the sequence, functions over the row's type and tables changed in place in the same"
        " plan stay with the old shape: `pg_get_serial_sequence`, TRUNCATE … RESTART IDENTITY, LOCK TABLE and a foreign key made"
        " meanwhile speak of the table that has the name",
        "name the sequence itself, lock rows; make foreign keys and views before cutover or after contract",
        "SELECT setval(pg_get_serial_sequence('orders', 'id'), 1000)",
        "SELECT setval('orders_id_seq', 1000)",
    ),
)

RULES: dict[str, Rule] = {rule.id: rule for rule in _ALL}


def hazard(rule_id: str, where: str) -> Hazard:
    """Report that a plan meets a rule."""
    rule = RULES[rule_id]
    return Hazard(rule.id, rule.condition, rule.effect, rule.cure, where)
