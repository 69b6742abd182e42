"""Where runs are kept: files that are whole or absent, and one writer at a time."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.interface import Storage
from pipeline.storage.local import Local


def storage_at(where: str | Path) -> Storage:
    """The storage behind what people write in ``--output``: a folder, or the URI of an object store.

    Raises:
        ConfigError: a URI of a kind that pyarrow does not know.
    """
    if "://" not in str(where):
        return Local(Path(where).absolute())
    from pipeline.storage.bucket import Bucket

    return Bucket(str(where))
