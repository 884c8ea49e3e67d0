"""A table is put under a partitioned parent, is written by both versions, and comes back or becomes its first partition."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.attaching import EVENTS, MONTHS, VIEWS, Attach, design
from support.harness import schema_dump
from support.worlds import VERSIONS, Servers, fresh_database

from pgduet.local import EmbeddedPostgres
from pgduet.operations import attach, attach_final
from pgduet.operations.attach_design import AttachDesign

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgresql-{version}")
def postgresql(request: pytest.FixtureRequest, servers: Servers) -> EmbeddedPostgres:
    """Give a server of each version."""
    return servers(request.param)


@pytest.fixture
def dsn(postgresql: EmbeddedPostgres) -> Iterator[str]:
    """Give the DSN of a database on it."""
    with fresh_database(postgresql) as found:
        yield found


async def begin(conn: Connection, how: str = "BY DEFAULT") -> Attach:
    """Create the table with rows, and its first version."""
    await conn.execute(EVENTS.replace("{how}", how).encode())
    await conn.execute("INSERT INTO public.events (note) SELECT 'n' || i FROM generate_series(1, 50) i")
    await conn.execute(VIEWS.encode())
    found = design()
    assert isinstance(found, AttachDesign)
    return Attach(conn, found)


async def test_both_versions_write_the_same_rows_until_contract(conn: Connection) -> None:
    m = await begin(conn)
    await m.published()
    for name in ("public.events", "public_v1.events"):
        (key,) = await m.one(f"INSERT INTO {name} (note) VALUES ('old') RETURNING id")
        assert await m.one(
            f"INSERT INTO {name} (id) VALUES ({key}) ON CONFLICT (id) DO UPDATE SET note = 'again' RETURNING note"
        ) == ("again",)
        assert await m.one(f"UPDATE public_v2.events SET kind = 7 WHERE id = {key} RETURNING note") == ("again",)
        assert await m.one(f"SELECT kind FROM {name} WHERE id = {key} FOR UPDATE") == (7,)
    (key,) = await m.one("INSERT INTO public_v2.events (note, at) VALUES ('new', '2031-01-01') RETURNING id")
    upsert = (
        "INSERT INTO public_v2.events (id, at) VALUES (%s, '2031-01-01')"
        " ON CONFLICT (id, at) DO UPDATE SET note = 'both' RETURNING id"
    )
    assert await m.one(upsert, key) == (key,)
    assert await m.one("SELECT note FROM public.events WHERE id = %s", key) == ("both",)
    assert await m.one("UPDATE public_v1.events SET at = '2033-01-01' WHERE id = %s RETURNING at::text", key) == (
        "2033-01-01 00:00:00",
    )
    with pytest.raises(errors.UniqueViolation, match="events_pkey"):
        await conn.execute("INSERT INTO public_v2.events (id) VALUES (%s)", (key,))
    with pytest.raises(errors.CheckViolation, match="positive"):
        await conn.execute("UPDATE public_v2.events SET kind = 0")
    await conn.execute("DELETE FROM public_v2.events WHERE id = %s", (key,))
    assert await m.one("SELECT count(*) FROM public_v1.events") == (52,)


async def test_what_only_a_partitioned_table_refuses_new_clients_meet_while_there_is_a_way_back(
    conn: Connection,
) -> None:
    m = await begin(conn)
    await m.published()
    with pytest.raises(errors.InvalidColumnReference):
        await conn.execute("INSERT INTO public_v2.events (id) VALUES (1) ON CONFLICT (id) DO NOTHING")


@pytest.mark.parametrize("how", ["ALWAYS", "BY DEFAULT"])
async def test_the_withdrawal_leaves_the_table_as_it_was_and_its_rows_where_they_are(
    conn: Connection, postgresql: EmbeddedPostgres, dsn: str, how: str
) -> None:
    m = await begin(conn, how)
    await conn.execute("CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
    await conn.execute(
        "CREATE TRIGGER touch BEFORE UPDATE ON public.events FOR EACH ROW EXECUTE FUNCTION public.touch()"
    )
    before = schema_dump(postgresql.bin_dir, dsn)
    carried = await m.published()
    (last,) = await m.one("INSERT INTO public_v2.events (note, at) VALUES ('new', '2031-01-01') RETURNING id")
    await m.withdrawn(carried)
    assert schema_dump(postgresql.bin_dir, dsn) == before
    assert await m.one("INSERT INTO public.events (note) VALUES ('after') RETURNING id") == (last + 2,)
    assert await m.one("SELECT count(*) FROM public.events") == (52,)


@pytest.mark.parametrize("how", ["ALWAYS", "BY DEFAULT"])
async def test_the_table_becomes_the_first_partition_with_all_that_hung_on_it(conn: Connection, how: str) -> None:
    m = await begin(conn, how)
    await conn.execute("CREATE TABLE public.kinds (id int PRIMARY KEY)")
    await conn.execute("INSERT INTO public.kinds VALUES (1)")
    await conn.execute("ALTER TABLE public.events ADD FOREIGN KEY (kind) REFERENCES public.kinds")
    await conn.execute(
        "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$"
    )
    await conn.execute(
        "CREATE TRIGGER touch BEFORE UPDATE ON public.events FOR EACH ROW EXECUTE FUNCTION public.touch()"
    )
    await conn.execute("COMMENT ON TABLE public.events IS 'what happened'")
    await conn.execute("ALTER TABLE public.events REPLICA IDENTITY FULL")
    carried = await m.published()
    (last,) = await m.one("INSERT INTO public_v2.events (note) VALUES ('new') RETURNING id")
    (filenode,) = await m.one("SELECT pg_relation_filenode('public.events')")
    await m.finished(carried)
    assert await m.one("SELECT pg_relation_filenode('public.events_2026')") == (filenode,)
    for number, name in enumerate(("public.events", "public_v2.events"), start=1):
        at = f"{2026 + number}-06-01"
        query = f"INSERT INTO {name} (at) VALUES ('{at}') RETURNING id"
        assert await m.one(query) == (last + 2 * number,)
        assert await m.one(f"UPDATE {name} SET kind = 1 WHERE at = '{at}' RETURNING note") == ("touched",)
        with pytest.raises(errors.ForeignKeyViolation, match="events_kind_fkey"):
            await conn.execute(f"UPDATE {name} SET kind = 2 WHERE at = '{at}'".encode())
    assert await m.one("SELECT array_agg(DISTINCT tableoid::regclass::text) FROM public.events") == (list(MONTHS),)
    for name in ("events", "events_2026", "events_2027"):
        query = "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass AND indisvalid"
        assert await m.one(query, f"public.{name}") == (2,)
    query = (
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.events'::regclass"
        " AND conname = 'events_pkey'"
    )
    assert await m.one(query) == ("PRIMARY KEY (id, at)",)
    assert await m.one(
        "SELECT count(*) FROM pg_class WHERE relname LIKE '%pgduet%' AND relnamespace = 'public'::regnamespace"
    ) == (0,)
    assert await m.one("SELECT obj_description('public.events'::regclass)") == ("what happened",)
    assert await m.one("SELECT relreplident::text FROM pg_class WHERE oid = 'public.events_2027'::regclass") == ("f",)
    if how == "ALWAYS":
        with pytest.raises(errors.GeneratedAlways):
            await conn.execute("INSERT INTO public.events (id) VALUES (1000)")


async def test_who_may_insert_may_be_numbered(conn: Connection) -> None:
    m = await begin(conn)
    await conn.execute("CREATE ROLE writer")
    await conn.execute("GRANT SELECT, INSERT ON public.events, public_v1.events TO writer")
    try:
        await m.published()
        await conn.execute("SET ROLE writer")
        await conn.execute("INSERT INTO public.events (note) VALUES ('old')")
        await conn.execute("INSERT INTO public_v1.events (note) VALUES ('old')")
        await conn.execute("INSERT INTO public_v2.events (note) VALUES ('new')")
    finally:
        await conn.execute("RESET ROLE")
        await conn.execute("DROP OWNED BY writer")
        await conn.execute("DROP ROLE writer")


async def test_prepared_statements_and_copy_live_through_publication_withdrawal_and_contract(
    conn: Connection, dsn: str
) -> None:
    m = await begin(conn)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        client = Attach(other, m.design)
        await other.execute("PREPARE put AS INSERT INTO public.events (note) VALUES ($1) RETURNING id, at")
        await other.execute("PREPARE see AS SELECT * FROM public.events WHERE id = $1 FOR UPDATE")
        await other.execute("PREPARE view AS UPDATE public_v1.events SET kind = kind + 1 WHERE id = $1 RETURNING id")

        async def write(*, by_view: bool) -> None:
            for number in range(7):  # past the fifth a generic plan may be taken
                (key, _) = await client.one(f"EXECUTE put('p{number}')")
                assert (await client.one(f"EXECUTE see({key})"))[0] == key
                if by_view:
                    assert await client.one(f"EXECUTE view({key})") == (key,)
            async with other.cursor().copy("COPY public.events (note) FROM STDIN") as copy:
                await copy.write("copied\n")

        await write(by_view=True)
        carried = await m.published()
        await write(by_view=True)
        await m.withdrawn(carried)
        await write(by_view=True)
        carried = await m.published()
        await other.execute("PREPARE new AS UPDATE public_v2.events SET kind = kind + 1 WHERE id = $1 RETURNING id")
        assert await client.one("EXECUTE new(1)") == (1,)
        await m.finished(carried)
        await write(by_view=False)
        assert await client.one("EXECUTE new(1)") == (1,)


async def test_a_row_beyond_the_bound_holds_contract_and_nothing_is_lost(conn: Connection) -> None:
    m = await begin(conn)
    await m.published()
    await conn.execute("INSERT INTO public_v1.events (at) VALUES ('2027-01-01')")  # the bound itself is the next one's
    await m.run([attach.bind(m.design, await m.condition())])
    with pytest.raises(errors.CheckViolation):
        await conn.execute(attach.validate(m.design).sql)
    await m.run([attach.unbind(m.design)])
    await conn.execute("INSERT INTO public_v2.events (at) VALUES ('2028-01-01')")
    assert await m.one("SELECT count(*) FROM public.events") == (52,)


async def test_contract_reads_no_row_under_its_lock(conn: Connection) -> None:
    m = await begin(conn)
    carried = await m.published()
    await m.run([attach.bind(m.design, await m.condition())])
    await conn.execute(attach.validate(m.design).sql)
    await conn.execute("DROP VIEW public_v1.events")
    now = await m.carried()
    await conn.execute("SET client_min_messages = debug1")
    said: list[str] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    await m.run(attach_final.finish(m.design, now.model_copy(update={"numbering": carried.numbering})))
    proven = 'partition constraint for table "events_2026" is implied by existing constraints'
    assert proven in said
    assert not [each for each in said if "building index" in each and '"events_2026' in each], said


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ("CREATE TABLE public.items (event int REFERENCES public.events)", "is referred to by a foreign key"),
        ("CREATE UNIQUE INDEX one ON public.events (note)", "has a unique index"),
        ("ALTER TABLE public.events ALTER at DROP NOT NULL", "can be empty"),
        ("ALTER TABLE public.events ENABLE ROW LEVEL SECURITY", "has row level security"),
        ("CREATE PUBLICATION all_of_it FOR TABLE public.events", "is published"),
        ("CREATE VIEW public.others AS SELECT id FROM public.events", "is read by a view of others"),
        ("ALTER TABLE public.events ADD CHECK (kind < 100) NOT VALID", "has a check that is not validated"),
        ("CREATE RULE keep AS ON DELETE TO public.events DO INSTEAD NOTHING", "has rules"),
        ("CREATE TABLE public.more () INHERITS (public.events)", "is not an ordinary"),
        ("ALTER TABLE public.events REPLICA IDENTITY USING INDEX events_pkey", "names its rows by an index"),
    ],
)
async def test_what_a_parent_could_not_have_is_named(conn: Connection, made: str, why: str) -> None:
    m = await begin(conn)
    assert await m.in_the_way() == ()
    await conn.execute(made.encode())
    assert [each for each in await m.in_the_way() if each.startswith(why)]


async def test_bounds_that_do_not_fit_together_are_told_before_anything_is_made(conn: Connection) -> None:
    m = await begin(conn)
    assert "2027-01-01" in await m.condition()
    overlapping = design(
        partition_by={"partitions": MONTHS | {"events_2027": "FOR VALUES FROM ('2026-05-01') TO (MAXVALUE)"}}
    )
    assert isinstance(overlapping, AttachDesign)
    with pytest.raises(errors.InvalidObjectDefinition, match="overlap"):
        await Attach(conn, overlapping).condition()
    assert await m.one("SELECT count(*) FROM pg_class WHERE relname LIKE 'pgduet_p%'") == (0,)
