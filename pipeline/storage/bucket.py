"""A run in an object store, through pyarrow: unique keys, and a commit object written last."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from pipeline.core.failures import ConfigError, FencedError, StorageError
from pipeline.storage.local import myself
from pipeline.storage.regular import inside, one_line, refuse_foreign
from pipeline.storage.sizes import refuse_large

_EPOCH = re.compile(r"(\d{8})-([0-9a-f]{32})")
_DATA = "data/"
_COMMIT_BYTES = 1 << 16
SEGMENT_LINES = 1000
"""The most lines of a log that one sync writes again."""


class Bucket:
    """Everything under a URI such as ``s3://bucket/run``.

    A store has no fsync, no rename and no exclusive creation. A file is therefore two objects: its data under a unique
    key, and a small commit object under the file's name that holds this key. Stores write a small object whole or not
    at all. A second process is *detected, not excluded*: there is no lock, and each write first looks for a newer
    epoch. A process that stalls between this look and its commit can still replace a file once; a checkpoint of the
    same step holds the same theta.
    """

    cheap_parameters = 0

    def __init__(self, uri: str, filesystem: FileSystem | None = None) -> None:
        """``filesystem`` stands in for the one the URI names; the URI's path is used either way."""
        self.where = uri.rstrip("/")
        if "@" in uri.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                "--output: the URI holds a key or a password, which would be printed and logged; leave it out, and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else the store's own tools read"
            )
        try:
            found, path = FileSystem.from_uri(self.where)
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(
                f"--output {uri}: no place that can be written ({_line(error)}); write a folder, or a URI such as "
                "s3://bucket/run"
            ) from error
        if self.where.startswith("mock:"):  # pyarrow's own, for tests
            raise ConfigError(f"--output {uri}: is forgotten when the process ends; write a folder, or s3://bucket/run")
        self.files, self.root = filesystem or found, path.rstrip("/")
        self.epoch: tuple[int, str] | None = None
        self._folders: set[str] = set()

    def probe(self) -> None:
        try:
            self._put(name := f"probe-{uuid.uuid4().hex}", b"probe")
            self._delete(name)
        except StorageError as error:
            raise ConfigError(f"--output {self.where}: cannot be written; {error}") from error

    def free(self) -> int | None:
        return None

    def used(self, folder: str) -> int:
        return 0

    def lock(self) -> None:
        """Does nothing: a store has no locks, and the epochs alone decide."""

    def claim(self) -> None:
        number = max((number for number, _ in self._epochs()), default=0) + 1
        self.epoch = (number, uuid.uuid4().hex)
        self._put(f"epochs/{number:08d}-{self.epoch[1]}", myself())
        self.check()

    def check(self) -> None:
        if self.epoch is None:
            return
        # Two processes may begin the same epoch at once; both then sort the same one first.
        newest = max(self._epochs(), key=lambda epoch: (epoch[0], [-ord(letter) for letter in epoch[1]]), default=None)
        if newest is None:
            raise StorageError(
                f"{self.where}: the run has vanished while it ran; go on with --resume where a copy is left"
            )
        if newest != self.epoch:
            said = self._get(f"epochs/{newest[0]:08d}-{newest[1]}", _COMMIT_BYTES) or b"another process"
            holder = one_line(said)
            raise FencedError(
                f"{self.where}: this run was taken over by {holder}; this process was presumed dead and ends without "
                "writing"
            )

    def release(self) -> None:
        """Nothing is held."""

    def write(self, name: str, data: bytes) -> None:
        self.check()
        before = self._commit(name)
        key = f"{_DATA}{name}.{uuid.uuid4().hex}"
        self._put(key, data)
        digest = hashlib.sha256(data).hexdigest()
        self._put(name, json.dumps({"data": key, "bytes": len(data), "sha256": digest}).encode())
        if before is not None:
            self._delete(before["data"])

    def read(self, name: str, most: int | None = None) -> bytes | None:
        commit = self._commit(name)
        if commit is None:
            return None
        data = self._get(commit["data"], most)
        if data is None or hashlib.sha256(data).hexdigest() != commit["sha256"]:
            raise StorageError(f"{self.where}/{name}: its data {commit['data']} is missing or damaged")
        return data

    def names(self, folder: str) -> list[str]:
        with self._named(folder):
            selector = FileSelector("/".join(filter(None, (self.root, folder))), allow_not_found=True)
            return sorted(info.base_name for info in self.files.get_file_info(selector) if info.type == FileType.File)

    def remove(self, name: str) -> None:
        self.check()
        commit = self._commit(name)
        if commit is not None:
            self._delete(name)
            self._delete(commit["data"])

    def log(self, name: str) -> BucketLog:
        return BucketLog(self, name)

    def _commit(self, name: str) -> dict[str, Any] | None:
        text = self._get(name, _COMMIT_BYTES)
        if text is None:
            return None
        try:
            commit: dict[str, Any] = {key: json.loads(text)[key] for key in ("data", "bytes", "sha256")}
            # A reader follows the key, and a writer that replaces the file deletes the old data.
            if not re.fullmatch(rf"{_DATA}{re.escape(name)}\.[0-9a-f]{{32}}", commit["data"]):
                raise ValueError("its data lies elsewhere")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StorageError(f"{self.where}/{name}: is no commit object of a run") from error
        return commit

    def _epochs(self) -> list[tuple[int, str]]:
        found = (_EPOCH.fullmatch(name) for name in self.names("epochs"))
        return [(int(match[1]), match[2]) for match in found if match]

    def _put(self, name: str, data: bytes) -> None:
        path = self._place(name)
        with self._named(name):
            folder = path.rpartition("/")[0]
            if folder not in self._folders:
                self.files.create_dir(folder, recursive=True)
                self._folders.add(folder)
            with self.files.open_output_stream(path) as stream:
                stream.write(data)

    def _get(self, name: str, most: int | None = None) -> bytes | None:
        path = self._place(name)
        with self._named(name):
            found = self.files.get_file_info(path)
            if found.type != FileType.File:
                return None
            refuse_large(f"{self.where}/{name}", found.size, most)
            with self.files.open_input_stream(path) as stream:
                return bytes(stream.read())

    def _delete(self, name: str) -> None:
        with self._named(name):
            self.files.delete_file(self._place(name))

    def _place(self, name: str) -> str:
        """The key of a name. A store in a folder may hold links, which pyarrow would follow."""
        path = f"{self.root}/{name}"
        if isinstance(self.files, LocalFileSystem):
            with suppress(FileNotFoundError, NotADirectoryError):
                refuse_foreign(Path(path), inside(Path(self.root), name).lstat(), os.O_RDONLY)
        return path

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ArrowException, OSError) as error:
            raise StorageError(
                f"{self.where}/{name}: {_line(error)}; see to the store and its credentials, then go on with --resume: "
                "what was there before is whole"
            ) from error


class BucketLog:
    """A log in segments. A store cannot append, so each sync writes the newest segment of this epoch again."""

    def __init__(self, storage: Bucket, name: str) -> None:
        self.storage, self.name = storage, name
        self._lines: list[str] = []
        self._segment = 0

    def lines(self) -> Iterator[str]:
        for segment in self.storage.names(self.name):
            yield from (self.storage.read(f"{self.name}/{segment}") or b"").decode(errors="replace").splitlines()

    def last(self) -> str:
        segments = self.storage.names(self.name)
        data = self.storage.read(f"{self.name}/{segments[-1]}") if segments else None
        return next(reversed((data or b"").decode(errors="replace").splitlines()), "")

    def append(self, text: str) -> None:
        self._lines.append(text)

    def sync(self) -> None:
        if self.storage.epoch is None:
            raise StorageError(f"{self.storage.where}: claim it before writing to it")
        while self._lines:
            now = self._lines[:SEGMENT_LINES]
            number, key = self.storage.epoch
            segment = f"{self.name}/{number:08d}-{key}-{self._segment:06d}.jsonl"
            self.storage.write(segment, "".join(now).encode())
            if len(now) < SEGMENT_LINES:
                return
            del self._lines[:SEGMENT_LINES]
            self._segment += 1

    def close(self) -> None:
        """Nothing is open."""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
