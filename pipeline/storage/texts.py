"""Reads short texts of a run's folder and checks them, because a stranger may have written them."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core.failures import ConfigError, ForeignFileError
from pipeline.storage.interface import Storage
from pipeline.storage.local import write_whole

LONGEST = 1 << 24
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def read_text(storage: Storage, name: str) -> str | None:
    """A text; None where it does not exist.

    Raises:
        ForeignFileError: it is too large, or no UTF-8.
    """
    data = storage.read(name, LONGEST)
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ForeignFileError(
            f"{storage.where}/{name}: is no text (byte 0x{data[error.start]:02x} at {error.start} is no UTF-8); "
            "put back a copy"
        ) from None


def read_word(storage: Storage, name: str) -> str | None:
    """A text that is one word, such as the id of a tracked run; None where it is empty or does not exist.

    Raises:
        ForeignFileError: it is something else.
    """
    text = (read_text(storage, name) or "").strip()
    if text and not _WORD.fullmatch(text):
        raise ForeignFileError(
            f"{storage.where}/{name}: {text[:40]!r} is no id, expected one word; put back a copy, or delete the file "
            "and have a new one made"
        )
    return text or None


def write_result(path: Path, text: str) -> None:
    """Write a job's result, whole or not at all. Raises ``ConfigError`` where it cannot be written."""
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise ConfigError(f"--output: {path}: {error.strerror or error}; name another file") from None
