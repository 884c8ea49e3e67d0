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
        "DETACH and ATTACH of a partition fire no trigger: rows that go or come so reach the new version when the engine looks"
        " next. TRUNCATE of one reads the new version's rows through, once it is published",
        "leave the partitions as they are until contract",
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
)

RULES: dict[str, Rule] = {rule.id: rule for rule in _ALL}


def hazard(rule_id: str, where: str) -> Hazard:
    """Report that a plan meets a rule."""
    rule = RULES[rule_id]
    return Hazard(rule.id, rule.condition, rule.effect, rule.cure, where)
