"""The engine's own probe of both versions: a moment of the machine's is no version's."""

from collections.abc import Iterator

import pytest

from pgduet.activities.shapes.sampling import calmest
from pgduet.measured import ShadowResult

Medians = tuple[float | None, float | None]


@pytest.mark.parametrize(
    ("medians", "taken", "tries"),
    [
        ([(2.0, 2.1)], (2.0, 2.1), 1),
        ([(2.7, 4.4), (2.0, 2.0)], (2.0, 2.0), 2),
        ([(2.0, 4.0), (3.0, 5.4), (2.0, 3.9)], (3.0, 5.4), 3),
        ([(None, None)], (None, None), 1),
    ],
    ids=["as fast", "slow for a moment", "slow each time", "not timed"],
)
async def test_what_the_new_version_does_not_take_each_time_is_the_machines(
    medians: list[Medians], taken: Medians, tries: int
) -> None:
    left: Iterator[Medians] = iter(medians)
    probed = 0

    async def probe() -> ShadowResult:
        nonlocal probed
        probed += 1
        old_ms, new_ms = next(left)
        return ShadowResult(old_ms=old_ms, new_ms=new_ms)

    found = await calmest(probe)
    assert ((found.old_ms, found.new_ms), probed) == (taken, tries)
