"""A TCP proxy in front of a server, which takes the server away in the ways servers are taken away.

``Proxy`` starts it as a process of its own (``python -m tests.bench.proxy PORT TARGET``), so that what is measured
does not share an interpreter with it: a line on its standard input is the mode from now on, and comes back when it is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

Mode = Literal["up", "hung", "500", "gone"]
MODES: tuple[Mode, ...] = get_args(Mode)
HOST = "127.0.0.1"
REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """The proxy's process, at ``port``, before the server at ``target``; it begins ``up``, and ends with ours."""

    def __init__(self, port: int, target: int) -> None:
        self.uri = f"http://{HOST}:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.proxy", str(port), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            text=True,
        )
        self.set("up")

    def set(self, mode: Mode) -> None:
        """Returns once it is so."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{mode}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if answer != mode:
            raise ConnectionError(f"the proxy at {self.uri} was to be {mode!r} and says {answer!r}")

    def close(self) -> None:
        self._process.communicate(timeout=10)


class Door:
    """Takes connections and carries them to the target, or does with them what the mode says."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.mode: Mode = "gone"
        self.talking = asyncio.Event()
        self.listening: asyncio.Server | None = None
        self.open: set[asyncio.StreamWriter] = set()

    async def set(self, mode: Mode) -> None:
        """``hung`` holds open connections and new ones until it is over; ``500`` and ``gone`` cut the open ones."""
        self.mode = mode
        if mode in ("500", "gone"):
            for writer in self.open:
                writer.transport.abort()
        if mode == "hung":
            self.talking.clear()
        else:
            self.talking.set()
        if mode == "gone" and self.listening is not None:
            self.listening.close()
            self.listening = None
        if mode != "gone" and self.listening is None:
            self.listening = await asyncio.start_server(self._take, HOST, self.port)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            await self.talking.wait()
            if self.mode == "500":
                await _refuse(reader, writer)
            else:
                await self._carry(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()  # one side is gone: so the other is
        finally:
            self.open.discard(writer)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(HOST, self.target)
        self.open.add(forth)
        try:
            await asyncio.gather(self._pump(reader, forth), self._pump(back, writer))
        finally:
            self.open.discard(forth)
            forth.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self.talking.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, once all of it is here: whoever still sends would see a reset instead."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, length = head.partition(b"content-length:")
    await reader.readexactly(int(length.split(b"\r\n")[0] or 0))
    writer.write(REFUSAL)
    await writer.drain()


async def _serve(port: int, target: int) -> None:
    door = Door(port, target)
    while line := await asyncio.to_thread(sys.stdin.readline):
        mode = next(one for one in MODES if one == line.strip())
        await door.set(mode)
        print(mode, flush=True)
    await door.set("gone")
    if talks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(talks, timeout=1)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
