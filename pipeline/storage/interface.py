"""The interface of the place that holds a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Log(Protocol):
    """A file of lines that only grows."""

    def lines(self) -> Iterator[str]:
        """Yields whole lines. A line that a crash cut is left out, and removed before the next line is added."""
        ...

    def last(self) -> str:
        """The last whole line; empty where there is none."""
        ...

    def append(self, text: str) -> None:
        """Add whole lines. They survive this process, and a crash of the machine once ``sync`` has returned."""
        ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Storage(Protocol):
    """One run's files, by names such as ``checkpoints/step-00000042.safetensors``. Each is whole or absent.

    A writer locks and claims the run first. A claim begins a new *epoch*, and each write first checks that no newer
    epoch exists. A process that was presumed dead and returns can therefore change nothing.
    """

    where: str
    """The value of ``--output``."""

    cheap_parameters: int
    """The size of theta in numbers up to which a checkpoint after every step costs almost nothing."""

    def probe(self) -> None:
        """Raises ``ConfigError`` where nothing could be written; leaves nothing behind."""
        ...

    def free(self) -> int | None:
        """The free bytes; None where they are unknown."""
        ...

    def used(self, folder: str) -> int:
        """Bytes under ``folder``."""
        ...

    def lock(self) -> None:
        """Lock the run. Raises ``ConfigError`` where another process holds it. Without locks the epochs alone
        decide."""
        ...

    def claim(self) -> None:
        """Begin a new epoch. Raises ``StorageError`` where that cannot be written."""
        ...

    def check(self) -> None:
        """Raises ``FencedError`` where a newer epoch was begun, ``StorageError`` where the place is gone."""
        ...

    def release(self) -> None:
        """Release the lock; nothing is written after this."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file durably. Raises as ``check`` does, and ``StorageError`` where there is no room."""
        ...

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """A file's content, or None where it does not exist. Raises ``StorageError`` where it cannot be read.

        A file of more than ``most`` bytes is refused; by default one that this machine's memory cannot hold.
        """
        ...

    def names(self, folder: str) -> list[str]:
        """The files of a folder, sorted, without the folder's name; none where it does not exist."""
        ...

    def remove(self, name: str) -> None: ...

    def log(self, name: str) -> Log: ...
