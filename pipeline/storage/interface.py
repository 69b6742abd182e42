"""What the engine asks of the place where a run is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Log(Protocol):
    """Lines that are only ever added."""

    def lines(self) -> Iterator[str]:
        """Whole lines, one by one; one that a crash tore is left out, and cut off before the next one is added."""
        ...

    def last(self) -> str:
        """The last whole line; empty where there is none."""
        ...

    def append(self, text: str) -> None:
        """Add whole lines; they outlive this process, and the machine once ``sync`` has returned."""
        ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Storage(Protocol):
    """One run's files, by names such as ``checkpoints/step-00000042.safetensors``. Each is whole or absent.

    Whoever writes locks and claims first. A claim is a new *epoch*, and each write sees first that no newer one exists:
    a process that was taken for dead and comes back changes nothing any more.
    """

    where: str
    """As people write it in ``--output``."""

    cheap_parameters: int
    """Up to this size of theta, a checkpoint after every outer step costs next to nothing."""

    def probe(self) -> None:
        """Raises ``ConfigError`` where nothing could be written; leaves nothing behind."""
        ...

    def free(self) -> int | None:
        """Bytes that could still be written; None where nobody knows."""
        ...

    def used(self, folder: str) -> int:
        """Bytes under ``folder``."""
        ...

    def lock(self) -> None:
        """Raises ``ConfigError`` where another process holds it; where there are no locks, the epochs alone decide."""
        ...

    def claim(self) -> None:
        """Begin a new epoch. Raises ``StorageError`` where that cannot be written."""
        ...

    def check(self) -> None:
        """Raises ``FencedError`` where a newer epoch was begun, ``StorageError`` where the place is gone."""
        ...

    def release(self) -> None:
        """Let others have it; nothing is written after this."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Create or replace, durably. Raises as ``check`` does, and ``StorageError`` where there is no room for it."""
        ...

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """None where it does not exist. Raises ``StorageError`` where it does and cannot be read.

        One of more than ``most`` bytes is refused; where nothing is said, one that this machine's memory cannot hold.
        """
        ...

    def names(self, folder: str) -> list[str]:
        """The files of a folder, sorted, without the folder's name; none where it does not exist."""
        ...

    def remove(self, name: str) -> None: ...

    def log(self, name: str) -> Log: ...
