"""A how-to page that is run: its shell commands, in order, with names of this test's own in place of the page's."""

import asyncio
import os
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path

FENCED = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LIMIT_S = 60.0


def commands(page: Path) -> list[str]:
    """Read the commands of every shell block, a command that goes on in the next line as one."""
    lines = "".join(FENCED.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


class Page:
    """The commands of one program on a page, to be run one after the other until none is left."""

    def __init__(self, page: Path, program: str, names: Mapping[str, str], where: Path, **environment: str) -> None:
        self.left = deque(command for command in commands(page) if command.startswith(f"{program} "))
        self.names = names
        self.where = where
        self.environment = os.environ | environment

    async def run(self, expected: str, code: int = 0) -> str:
        """Run the next command, which must be the expected one; gives what it printed."""
        command = self.left.popleft()
        assert expected in command
        return await self.again(command, code)

    async def again(self, command: str, code: int = 0) -> str:
        """Run a command that stands on the page."""
        for theirs, ours in self.names.items():
            command = re.sub(theirs, ours, command)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command),
            cwd=self.where,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
        assert process.returncode == code, f"{command}\n{said.decode()}"
        return said.decode()

    async def until(self, expected: str, words: str) -> str:
        """Run the next command again and again until its answer has the words."""
        command = self.left[0]
        async with asyncio.timeout(LIMIT_S):
            while words not in (said := await self.again(command)):
                pass
        await self.run(expected)
        return said
