"""Where runs are kept: files that are whole or absent, and one writer at a time."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.failures import ConfigError
from pipeline.storage.interface import Storage
from pipeline.storage.local import Local


def storage_at(where: str | Path) -> Storage:
    """The storage for the value of ``--output``: a folder, or the URI of an object store.

    Raises:
        ConfigError: a URI of a kind that pyarrow does not know.
    """
    place = named(where)
    if isinstance(place, Path):
        return Local(place)
    from pipeline.storage.bucket import Bucket

    return Bucket(place)


def named(where: str | Path) -> Path | str:
    """The value of ``--output`` as an absolute folder or a URI. Raises ``ConfigError`` where it is neither."""
    if "://" in str(where):
        return str(where)
    if not str(where).strip():
        raise ConfigError("--output: is empty; name a folder, or leave the option out")
    try:
        return Path(where).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"--output: {where}: {error}; name the folder in full") from None
