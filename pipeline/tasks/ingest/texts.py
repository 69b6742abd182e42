"""Published archives of text whose hashes are known, and what an ingestion of pairs gives."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.tasks.arrowfile import SplitSet
from pipeline.tasks.ingest.links import open_file
from pipeline.tasks.pairfile import Entry, PairFile

_MAX_BYTES = 1 << 24


class Ingested(NamedTuple):
    """The file, and a line for each thing that was left out or kept apart."""

    file: PairFile
    notes: list[str]


def read_known(folder: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """The files named in ``hashes`` out of ``folder``, each compared with its sha256.

    Raises:
        DataError: one is missing, unreadable or another one.
    """
    found = {}
    for name, expected in hashes.items():
        found[name] = read_some(folder, name, list(hashes))
        require(folder / name, found[name], expected)
    return found


def read_some(folder: Path, name: str, needed: list[str]) -> bytes:
    """The beginning of a file, which is the whole of any that is known."""
    try:
        with open_file(folder / name) as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        wanted = ", ".join(needed)
        raise DataError(f"{folder / name}: {error.strerror}; --from takes the folder that holds {wanted}") from None


def require(place: Path, data: bytes, expected: str) -> None:
    """Raise where ``data`` do not have the sha256 ``expected``."""
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise DataError(f"{place}: has sha256 {found[:12]}…, expected {expected[:12]}…; it is damaged or another file")


def unpacked(archive: bytes) -> dict[str, str]:
    """The entries of a known zip in the order of their names, without the name of its top folder."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names = sorted(entry.filename for entry in opened.infolist() if not entry.is_dir())
        return {name.partition("/")[2]: opened.read(name).decode() for name in names}


def rows(text: str, columns: int) -> tuple[list[list[str]], int]:
    """The lines of a table as their columns, and how many lines lack one of them or hold nothing in one."""
    lines = [line.split("\t") for line in text.split("\n") if line]
    good = [line for line in lines if len(line) == columns and all(column.strip() for column in line)]
    return good, len(lines) - len(good)


def hash_of(files: Mapping[str, bytes]) -> str:
    """The sha256 of the files' own, in the order they are given."""
    return hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files.values())).hexdigest()


def numbered(languages: Sequence[Entry], sets: Mapping[str, Mapping[Split, Iterable[str]]]) -> dict[str, SplitSet]:
    """Split sets of names as split sets of the languages' positions, in the order of these."""
    index = {name: position for position, (name, _, _) in enumerate(languages)}
    return {
        name: {split: sorted(index[each] for each in named) for split, named in split_set.items()}
        for name, split_set in sets.items()
    }
