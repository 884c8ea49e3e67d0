"""shadow: the same reads through both versions, compared and timed by the engine; there is nothing to undo."""

from temporalio import activity

from pgduet.activities.engine import Engine
from pgduet.activities.shapes.sampling import sampled
from pgduet.messages import ShadowRequest, ShadowResult
from pgduet.postgres import store


class Shadow:
    """Reads sampled keys."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="shadow")
    async def shadow(self, request: ShadowRequest) -> ShadowResult:
        """Read sampled keys through both versions."""
        async with self.engine.work(request.reference, "shadow") as work:
            result = await sampled(work, request.samples)
            evidence = result.model_dump(mode="json", exclude={"examples"})
            async with work.conn.transaction():
                await store.audited(work.conn, request.reference, "shadow", evidence=evidence)
            return result
