"""Which columns of an anchor and its shadow answer for each other, before and after publication."""

from collections.abc import Iterable

from support.shadows import addresses, over, wide

from pgduet.operations.comparison import Comparison, Trait
from pgduet.operations.pairing import compared
from pgduet.operations.shadow_comparison import comparison
from pgduet.operations.shadow_design import AnchorColumn, ShadowColumn, ShadowDesign


def traits(columns: Iterable[AnchorColumn | ShadowColumn], more: tuple[str, ...] = ()) -> dict[str, Trait]:
    """Say of columns what the catalogue would."""
    found = {each.name: Trait(name=each.name, type=each.type) for each in columns}
    return found | {name: Trait(name=name, type="integer", generated=True) for name in more}


def made(design: ShadowDesign, *, published: bool, generated: tuple[str, ...] = ()) -> Comparison:
    """Make the comparison."""
    return comparison(design, traits(design.anchors, generated), traits(design.columns), published=published)


def pairs(found: Comparison) -> list[tuple[str, str, bool]]:
    """Name what answers for what: the shadow's columns, the anchor's, and whether they are one value."""
    return [
        (" ".join(c.name for c in each.up), " ".join(c.name for c in each.down), each.one) for each in compared(found)
    ]


def test_columns_that_stay_or_grow_are_one_value_and_a_mapped_one_has_its_way_back() -> None:
    expected = [
        ("code", "code", True),
        ("amount", "amount", True),
        ("note", "note", True),
        ("at", "at", False),
    ]
    assert pairs(made(wide(), published=True)) == pairs(made(wide(), published=False)) == expected


def test_a_way_back_that_is_the_column_itself_as_its_narrower_type_is_one_value_and_another_is_not() -> None:
    base = wide()
    others = tuple(each for each in base.anchors if each.name != "amount")
    for down, one in (("(t.amount)::integer", True), ("t.amount", True), ("LEAST(t.amount, (7)::bigint)", False)):
        anchors = (*others, AnchorColumn(name="amount", type="integer", down=over(down)))
        found = pairs(made(base.model_copy(update={"anchors": anchors}), published=True))
        assert ("amount", "amount", one) in found, down


def test_a_column_that_only_the_new_version_knows_is_compared_until_it_is_the_new_versions_own() -> None:
    total = ShadowColumn(name="total", type="bigint", up=over("(t.amount * 2)"))
    extra = ShadowColumn(name="priority", type="integer")
    design = wide(columns=(*wide().columns, total, extra))
    before, after = pairs(made(design, published=False)), pairs(made(design, published=True))
    assert ("total", "", False) in before
    assert not [each for each in after if "total" in each[0]]
    assert not [each for each in (*before, *after) if "priority" in each[0]], "nobody can say what it must be"


def test_of_columns_that_are_made_from_each_other_those_answer_that_both_ways_name() -> None:
    base = wide()
    columns = tuple(each for each in base.columns if each.name not in {"code", "note"})
    anchors = tuple(each for each in base.anchors if each.name not in {"code", "note"})
    both = ShadowColumn(name="both", type="text", up=over("(t.code || t.note)"))
    initial = ShadowColumn(name="initial", type="text", up=over("left(t.code, 1)"))
    code = AnchorColumn(name="code", type="text", down=over("split_part(t.both, ' ', 1)"))
    note = AnchorColumn(name="note", type="text", down=over("split_part(t.both, ' ', 2)"))
    design = wide(columns=(*columns, both, initial), anchors=(*anchors, code, note))
    after = pairs(made(design, published=True))
    assert ("both", "code note", False) in after
    assert ("both", "code", False) in after, "a code that the new version cannot hold is told by `both`"
    assert ("both", "note", False) in after
    assert not [each for each in after if "initial" in each[0]], "no way back reads it"


def test_a_generated_column_is_compared_unless_what_it_reads_has_changed() -> None:
    kept = ShadowColumn(name="length", type="integer", generated="length(note)")
    other = ShadowColumn(name="month", type="integer", generated="date_part('month'::text, at)")
    design = wide(columns=(*wide().columns, kept, other))
    found = pairs(made(design, published=True, generated=("length", "month")))
    assert ("length", "", True) in found
    assert not [each for each in found if each[0] == "month"], "the time has another type"


def test_an_extraction_compares_what_has_moved_and_expects_rows_of_which_nothing_can_be_said() -> None:
    found = made(addresses(), published=True)
    assert pairs(found) == [("street", "street", True), ("city", "city", False)]
    assert (found.source[1], found.key[0].source, found.key[0].shadow) == ("customers", "id", "customer_id")
    assert found.only == addresses().exists
