"""Let the Temporal SDK download its dev server into a directory: `python -m pgduet.local.sdk_download DIRECTORY`.

Mechanism: the SDK fetches the program on the way to starting it, so it is started and stopped once. A module of its
own, because a download that fails can abort the interpreter at exit; the caller looks at the exit code and the
directory.
"""

import asyncio
import sys

from temporalio.testing import WorkflowEnvironment


async def download(directory: str) -> None:
    """Fetch the program into `directory`, which exists."""
    environment = await WorkflowEnvironment.start_local(
        ip="127.0.0.1", download_dest_dir=directory, dev_server_log_level="error"
    )
    await environment.shutdown()


if __name__ == "__main__":
    asyncio.run(download(sys.argv[1]))
