"""What `check` says of a shadow: refused with the reason, told as a hazard, or asked for before the point of no return."""

import re
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.carrying import Carrying
from support.resolving import resolved
from support.shadows import CUSTOMERS, ORDERS, PARTS, PLAN, addresses, create_orders, of_parts, over, parted, wide
from support.worlds import on_each_version

from pgduet.errors import NotSupported
from pgduet.hazards import Hazard
from pgduet.operations.shadow_design import AnchorColumn, KeyColumn, ShadowColumn, ShadowDesign
from pgduet.plan.shadow_operations import ShadowTable
from pgduet.postgres import shadow_checked, store

pytestmark = on_each_version
Connection = psycopg.AsyncConnection[Any]


async def checked(conn: Connection, design: ShadowDesign) -> list[Hazard]:
    """Check a design against the database."""
    async with Carrying(conn, design).dict_rows():
        return await shadow_checked.checked(conn, PLAN, design)


def loud() -> ShadowDesign:
    """Design a shadow in which `note` is replaced by its capitals."""
    base = wide()
    columns = [column for column in base.columns if column.name != "note"]
    anchors = [
        a if a.name != "note" else a.model_copy(update={"same": None, "down": over("t.remark")}) for a in base.anchors
    ]
    remark = ShadowColumn(name="remark", type="text", up=over("upper(t.note)"))
    return base.model_copy(update={"columns": (*columns, remark), "anchors": tuple(anchors)})


def keyed_by(kind: str) -> ShadowDesign:
    """Design a shadow whose key is of a type."""
    key = (KeyColumn(anchor="id", anchor_type="integer", shadow="id", shadow_type=kind),)
    return wide(key=key)


TOUCH = "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
OWN_TYPE = """
CREATE TYPE public.word;
CREATE FUNCTION public.word_in(cstring) RETURNS public.word LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION public.word_out(public.word) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE public.word (INPUT = public.word_in, OUTPUT = public.word_out, LIKE = text);
"""

REFUSED: dict[str, tuple[str, ShadowDesign, str]] = {
    "a policy over what changes": (
        "CREATE POLICY p ON public.orders USING (note <> 'x')",
        loud(),
        "policy p .* reads note",
    ),
    "a policy that asks its own table": (
        "CREATE POLICY p ON public.orders USING (EXISTS (SELECT FROM public.orders o WHERE o.id < orders.id))",
        wide(),
        "asks the table that it is for",
    ),
    "a rule": ("CREATE RULE r AS ON DELETE TO public.orders DO INSTEAD NOTHING", wide(), "rule r"),
    "a trigger upon a column that goes": (
        f"{TOUCH} CREATE TRIGGER t AFTER UPDATE OF note ON public.orders EXECUTE FUNCTION public.touch()",
        loud(),
        "trigger t .* reads note",
    ),
    "a deferrable key": ("ALTER TABLE public.orders ADD UNIQUE (code, note) DEFERRABLE", wide(), "ON CONFLICT"),
    "an exclusion": ("ALTER TABLE public.orders ADD EXCLUDE USING btree (note WITH =)", wide(), "exclusion constraint"),
    "a publication's list": (
        "CREATE PUBLICATION p FOR TABLE public.orders (id, note)",
        loud(),
        "publication p .* lists note",
    ),
    "an index by which rows are named": (
        (
            "ALTER TABLE public.orders ALTER note SET NOT NULL; CREATE UNIQUE INDEX named ON public.orders (note);"
            "ALTER TABLE public.orders REPLICA IDENTITY USING INDEX named"
        ),
        loud(),
        "replica identity named",
    ),
    "a key of a type with an equality of its own": (OWN_TYPE, keyed_by("word"), "`=` is not PostgreSQL's own"),
    "a key whose `=` may not come first": ("", keyed_by("numeric(18,0)"), "`=` of numeric.* is not leakproof"),
    "a key of a list": ("", keyed_by("integer[]"), "`=` of integer.* is not leakproof"),
    "a key of words that are given": (
        "CREATE TYPE public.mood AS ENUM ('glad'); CREATE DOMAIN public.feeling AS public.mood",
        keyed_by("public.feeling"),
        "`=` of public.feeling is not leakproof",
    ),
    "values that nothing compares": (
        OWN_TYPE,
        wide(columns=(*wide().columns[:4], wide().columns[4].model_copy(update={"type": "public.word"}))),
        "cannot be compared",
    ),
    "a generated column over what changes": (
        "ALTER TABLE public.orders ADD year double precision GENERATED ALWAYS AS (extract(year FROM at)) STORED",
        wide(
            columns=(
                *wide().columns,
                ShadowColumn(name="year", type="double precision", generated="extract(year FROM at)"),
            )
        ),
        "generated column year reads at",
    ),
    "a foreign key to half of the new key": (
        "CREATE TABLE public.items (order_id int REFERENCES public.orders)",
        parted(),
        r"refers to \(id\), which is no key of the new shape",
    ),
    "a foreign key over what changes": (
        (
            "CREATE TABLE public.notes (note text PRIMARY KEY);"
            "ALTER TABLE public.orders ADD FOREIGN KEY (note) REFERENCES public.notes"
        ),
        loud(),
        "foreign key .* note",
    ),
}


SERVED = (
    "boolean",
    "varchar(9)",
    '"char"',
    "date",
    "timestamp with time zone",
    "uuid",
    "bytea",
    "inet",
    "oid",
    "name",
    "character(3)",
)


async def refusal(conn: Connection, given: str, design: ShadowDesign) -> NotSupported:
    """Give the anchor something, check, and take it away again; gives why it is refused."""
    async with conn.transaction(force_rollback=True):
        await conn.execute(given.encode())
        with pytest.raises(NotSupported) as refused:
            await checked(conn, design)
    return refused.value


async def test_what_cannot_be_carried_is_refused_with_reason_place_and_cure(conn: Connection) -> None:
    await conn.execute(ORDERS)
    for design in (wide(), loud(), parted()):
        await checked(conn, design)
    for case, (given, design, says) in REFUSED.items():
        refused = await refusal(conn, given, design)
        assert re.search(says, refused.message), (case, refused.message)
        assert refused.place, case
        assert refused.hint, case


async def test_a_key_is_taken_whose_comparison_an_index_can_serve_behind_policies(conn: Connection) -> None:
    await conn.execute(ORDERS)
    for kind in SERVED:
        await checked(conn, keyed_by(kind))
    async with conn.transaction(force_rollback=True):
        await conn.execute("ALTER FUNCTION pg_catalog.numeric_eq(numeric, numeric) LEAKPROOF")
        await checked(conn, keyed_by("numeric(18,0)"))


async def test_a_virtual_column_is_refused_where_there_are_such(conn: Connection) -> None:
    if conn.info.server_version < 180000:
        return
    await conn.execute(ORDERS)
    await conn.execute("ALTER TABLE public.orders ADD twice int GENERATED ALWAYS AS (amount * 2) VIRTUAL")
    design = wide(columns=(*wide().columns, ShadowColumn(name="twice", type="integer", generated="(amount * 2)")))
    with pytest.raises(NotSupported, match="VIRTUAL"):
        await checked(conn, design)


async def test_what_people_should_know_is_told(conn: Connection) -> None:
    await conn.execute(ORDERS)
    plain = {each.id for each in await checked(conn, wide())}
    assert plain == {"PD-H35", "PD-H36"}
    await conn.execute("CREATE INDEX by_note ON public.orders (note)")
    await conn.execute("CREATE VIEW public.best AS SELECT id FROM public.orders")
    await conn.execute("CREATE FUNCTION public.total(public.orders) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    await conn.execute(
        "CREATE FUNCTION public.who() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.note := current_user; NEW.code := lower(NEW.code); RETURN NEW; END $$"
    )
    await conn.execute("CREATE TRIGGER who BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.who()")
    await conn.execute(
        "CREATE FUNCTION public.next_one() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE public.orders SET amount = amount + 1 WHERE id = NEW.id + 1; RETURN NULL; END $$"
    )
    await conn.execute(
        "CREATE TRIGGER next_one AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.next_one()"
    )
    await conn.execute("CREATE UNIQUE INDEX by_code ON public.orders (lower(code))")
    await conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    await conn.execute("CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA public")
    await conn.execute("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY")
    told = [(each.id, each.where) for each in await checked(conn, loud())]
    for rule, where in (
        ("PD-H25", "trigger next_one of public.orders"),
        ("PD-H26", "index by_code of public.orders, beside trigger next_one"),
        ("PD-H32", "index by_note of public.orders: it reads note"),
        ("PD-H34", "public.who of public.orders"),
        ("PD-H37", "publication everything"),
        ("PD-H37", "publication of_schema"),
        ("PD-H38", "best"),
        ("PD-H38", "function public.total"),
        ("PD-H39", "public.orders"),
        ("PD-H55", "index by_code of public.orders, code of which trigger who gives"),
    ):
        assert any(each == rule and where in said for each, said in told), (rule, where, told)
    assert not [said for rule, said in told if rule == "PD-H25" and "who" in said]


async def test_an_index_of_a_type_that_leaks_is_named_and_one_that_has_the_key_is_not(conn: Connection) -> None:
    await conn.execute(ORDERS + '; ALTER TABLE public.orders ADD "the price" numeric')
    price = ShadowColumn(name="the price", type="numeric", same="the price")
    was = AnchorColumn(name="the price", type="numeric", same="the price")
    design = wide(columns=(*wide().columns, price), anchors=(*wide().anchors, was))
    await conn.execute('CREATE INDEX ON public.orders ("the price"); CREATE UNIQUE INDEX ON public.orders (code, id)')
    await conn.execute(
        "CREATE FUNCTION public.next_one() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE public.orders SET amount = amount + 1 WHERE id = NEW.id + 1; RETURN NULL; END $$"
    )
    await conn.execute(
        "CREATE TRIGGER next_one AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.next_one()"
    )
    told = [(each.id, each.where) for each in await checked(conn, design)]
    assert [where for rule, where in told if rule == "PD-H36"] == [
        "public.orders, the price (numeric) by any comparison"
    ]
    assert "PD-H26" not in {rule for rule, _ in told}


async def test_a_table_that_refers_to_itself_is_a_hazard_where_that_writes_rows(conn: Connection) -> None:
    change = ShadowTable.model_validate({"table": "orders", "columns": [{"name": "id", "type": "bigint"}]})
    await conn.execute(ORDERS + "; ALTER TABLE public.orders ADD parent int CONSTRAINT up REFERENCES public.orders")
    assert "PD-H25" not in {each.id for each in await checked(conn, await resolved(conn, change))}
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT up")
    await conn.execute(
        "ALTER TABLE public.orders ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES public.orders ON DELETE CASCADE"
    )
    told = [each.where for each in await checked(conn, await resolved(conn, change)) if each.id == "PD-H25"]
    assert told == ["foreign key up of public.orders"]


async def test_partitions_of_the_anchor_are_a_hazard(conn: Connection) -> None:
    await conn.execute(PARTS)
    assert "PD-H33" in {each.id for each in await checked(conn, of_parts())}


async def test_what_contract_could_not_get_past_is_named_before_it(conn: Connection) -> None:
    await create_orders(conn, 5)
    m = Carrying(conn, wide())
    await m.published()

    async def not_yet() -> list[str]:
        async with m.dict_rows():
            return await shadow_checked.not_yet(conn, PLAN, m.design)

    assert await not_yet() == []
    await conn.execute("CREATE INDEX since ON public.orders (note)")
    await conn.execute("CREATE MATERIALIZED VIEW public.best AS SELECT id FROM public.orders GROUP BY id")
    await conn.execute(
        "CREATE FUNCTION public.one() RETURNS public.orders LANGUAGE sql AS 'SELECT * FROM public.orders LIMIT 1'"
    )
    await conn.execute("CREATE RULE r AS ON DELETE TO public.orders DO ALSO NOTHING")
    said = await not_yet()
    for what in ("index since has not been built", "materialized view", "function public.one()", "rule r"):
        assert any(what in each for each in said), (what, said)
    await conn.execute("DROP RULE r ON public.orders")
    await conn.execute("DROP MATERIALIZED VIEW public.best")
    await conn.execute("DROP FUNCTION public.one()")
    await m.late_indexes()
    assert await not_yet() == []
    await m.contract()
    assert await m.one("SELECT count(*)::int FROM pg_indexes WHERE indexname = 'since'") == (1,)


EXTRACTION = {
    "trigger t": f"{TOUCH} CREATE TRIGGER t AFTER UPDATE OF street ON public.customers EXECUTE FUNCTION public.touch()",
    "publication p": "CREATE PUBLICATION p FOR TABLE public.customers (id, street)",
    "generated column loud": "ALTER TABLE public.customers ADD loud text GENERATED ALWAYS AS (upper(street)) STORED",
    "row level security": "ALTER TABLE public.customers ENABLE ROW LEVEL SECURITY",
}


async def test_what_would_keep_columns_from_moving_is_refused(conn: Connection) -> None:
    await conn.execute(CUSTOMERS)
    await conn.execute("CREATE VIEW public.names AS SELECT name FROM public.customers")
    assert "PD-H38" not in {each.id for each in await checked(conn, addresses())}
    await conn.execute("CREATE VIEW public.streets AS SELECT street FROM public.customers")
    assert "PD-H38" in {each.id for each in await checked(conn, addresses())}
    for what, given in EXTRACTION.items():
        assert what in (await refusal(conn, given, addresses())).message


@pytest.fixture(autouse=True)
async def metadata(conn: Connection) -> None:
    """Make the metadata that notes need."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row
