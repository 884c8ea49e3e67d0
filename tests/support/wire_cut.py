"""A TCP connection that can be cut: the worker reaches PostgreSQL through here, and everybody else directly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Link:
    """All connections of a worker to one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ends: set[asyncio.StreamWriter] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, both ways, until either end closes."""
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        self.ends |= {writer, there}
        await asyncio.gather(self._pass(reader, there), self._pass(there_reader, writer))
        self.ends -= {writer, there}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> int:
        """Cut every connection in mid-word, without a farewell to either end; tells how many there were."""
        ends, self.ends = self.ends, set()
        for end in ends:
            end.transport.abort()
        return len(ends) // 2


@asynccontextmanager
async def link_to(port: int) -> AsyncIterator[tuple[Link, int]]:
    """Open a way to a server's port; gives it, and the port under which it is there."""
    link = Link(port)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    try:
        yield link, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        link.cut()
        await server.wait_closed()
