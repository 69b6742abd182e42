"""How much disk space a run needs, and whether it is free."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.failures import ConfigError
from pipeline.engine.outer.optimizer import Outer
from pipeline.storage.interface import Storage
from pipeline.storage.sizes import size_text

FACTS_BYTES = 100_000
"""The bytes of a checkpoint's metadata: the recipe's values and some journal entries."""
ENTRY_BYTES = 1_000
"""The bytes of a line of the journal."""


def checkpoint_bytes(parameters: int, itemsize: int, outer: Iterable[Outer]) -> int:
    """The bytes of a checkpoint: theta, and for all groups the vectors of the largest optimizer in use."""
    vectors = 1 + max((_vectors(one) for one in outer), default=0)
    return parameters * itemsize * vectors + FACTS_BYTES


def check_disk_space(storage: Storage, checkpoint: int, files: int, entries: int) -> None:
    """``files`` checkpoints of ``checkpoint`` bytes and ``entries`` lines of the journal must fit beside what is there.

    Raises:
        ConfigError: they do not; names the folder, what is needed, what is free and the fix.
    """
    free = storage.free()
    need = max(0, files * checkpoint - storage.used("checkpoints")) + entries * ENTRY_BYTES
    if free is not None and need > free:
        raise ConfigError(
            f"--output {storage.where}: the run needs {size_text(need)} there ({files} checkpoints of "
            f"{size_text(checkpoint)} and the journal), and {size_text(free)} are free; make room, name another "
            "folder, or lower checkpoint.keep"
        )


def _vectors(outer: Outer) -> int:
    """How many vectors of theta's size torch's optimizer keeps."""
    if outer.optimizer in ("adam", "adamw"):
        return 2
    return int(outer.optimizer == "rmsprop") + int(outer.momentum > 0)
