"""Files that are whole or absent: written beside, fsynced, renamed, and the folder fsynced; a run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pipeline.core.failures import ConfigError, FencedError, StorageError
from pipeline.storage.lines import line_end, whole_lines
from pipeline.storage.regular import inside, open_regular, reading, shown, subfolder
from pipeline.storage.sizes import refuse_large
from pipeline.storage.trouble import fix_for, free_bytes, repeated

_EPOCH = re.compile(r"\d{8}")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace ``path`` by what ``write`` writes to an open file. A crash leaves the old or the new file.

    Raises:
        OSError: the disk is full or not writable; ``path`` is as it was.
    """
    name = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with name.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        repeated(lambda: os.replace(name, path))
    except BaseException:
        name.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make a rename or a new file in ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Local:
    """A folder on a disk.

    The lock is ``flock``'s: the kernel releases it when its process ends, however that happens. On a file system
    without it (some network file systems) the epoch alone separates two writers. A process that returns between the
    epoch's check and the rename can still replace a checkpoint, by one with the same theta.
    """

    cheap_parameters = 1_000_000

    def __init__(self, folder: Path, patience: float = 3.0) -> None:
        """``patience`` is how many seconds a process that was just killed may still hold the lock."""
        self.folder, self.where, self.patience = folder, str(folder), patience
        self.epoch: int | None = None
        self._lock: int | None = None

    def probe(self) -> None:
        # The nearest existing folder is checked: a run that is refused for another reason then leaves no folder behind.
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        name = place / f".probe.{uuid.uuid4().hex}"
        try:
            try:
                name.write_bytes(b"probe")
            finally:
                name.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--output {self.folder}: {place} cannot be written ({error.strerror}); make it writable, or name "
                "another folder"
            ) from error

    def free(self) -> int | None:
        return free_bytes(self.folder)

    def used(self, folder: str) -> int:
        return sum(found.st_size for found in self._files(folder).values())

    def lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = open_regular(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._trouble("lock", error, 0) from error
        try:
            self._wait_for(handle)
            os.ftruncate(handle, 0)
            os.write(handle, myself())
        except BlockingIOError:
            os.close(handle)
            holder = shown(self.folder / "lock") or "a process that has not said who it is"
            raise ConfigError(
                f"--output {self.folder}: another run writes there ({holder}); wait for its end, stop it, or name "
                "another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise self._trouble("lock", error, 0) from error
        self._lock = handle

    def _wait_for(self, handle: int) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def claim(self) -> None:
        epochs = subfolder(self.folder, "epochs")
        number = max(self._epochs(), default=0) + 1
        try:
            epochs.mkdir(exist_ok=True)
            while not self._create(number):
                number += 1
            sync_folder(epochs)
        except OSError as error:
            raise self._trouble("epochs", error, 0) from error
        self.epoch = number

    def check(self) -> None:
        if self.epoch is None:
            return
        newer = self._epoch(self.epoch + 1)
        try:
            holder = shown(newer) if newer.exists() else None
            ours = self._epoch(self.epoch).exists()
        except OSError as error:
            raise self._trouble("epochs", error, 0) from error
        if holder is not None:
            raise FencedError(
                f"{self.folder}: this run was taken over by {holder}; this process was presumed dead and ends "
                "without writing"
            )
        if not ours:
            raise StorageError(
                f"{self.folder}: the run's folder has vanished while it ran; see whether its disk is still mounted, "
                "then go on with --resume where a copy is left"
            )

    def release(self) -> None:
        handle, self._lock = self._lock, None
        if handle is not None:
            os.close(handle)

    def write(self, name: str, data: bytes) -> None:
        self.check()
        path = inside(self.folder, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(data))
        except OSError as error:
            raise self._trouble(name, error, len(data)) from error

    def read(self, name: str, most: int | None = None) -> bytes | None:
        path = inside(self.folder, name)
        if not os.path.lexists(path):
            return None
        with reading(path) as file:
            refuse_large(path, os.fstat(file.fileno()).st_size, most)
            return file.read()

    def names(self, folder: str) -> list[str]:
        return sorted(self._files(folder))

    def _files(self, folder: str) -> dict[str, os.stat_result]:
        """The entries that are not folders. Links are included, so that reading one is refused."""
        try:
            with os.scandir(subfolder(self.folder, folder)) as entries:
                return {
                    entry.name: entry.stat(follow_symlinks=False)
                    for entry in entries
                    if not entry.is_dir(follow_symlinks=False)
                }
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise StorageError(f"{self.folder / folder}: cannot be read ({error.strerror})") from error

    def remove(self, name: str) -> None:
        self.check()
        path = inside(self.folder, name)
        try:
            repeated(lambda: path.unlink(missing_ok=True))
        except OSError as error:
            raise self._trouble(name, error, 0) from error

    def log(self, name: str) -> LocalLog:
        return LocalLog(self, name)

    def _trouble(self, name: str, error: OSError, need: int) -> StorageError:
        fix = fix_for(error, self.folder, need)
        return StorageError(
            f"{self.folder / name}: {error.strerror or error}; {fix}, then go on with --resume: what was there before "
            "is whole"
        )

    def _epoch(self, number: int) -> Path:
        return self.folder / "epochs" / f"{number:08d}"

    def _epochs(self) -> list[int]:
        return [int(name) for name in self.names("epochs") if _EPOCH.fullmatch(name)]

    def _create(self, number: int) -> bool:
        try:
            handle = os.open(self._epoch(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, myself())
        finally:
            os.close(handle)
        return True


class LocalLog:
    """A file opened for appending, without a buffer in this process."""

    def __init__(self, storage: Local, name: str) -> None:
        self.storage, self.name, self.path = storage, name, storage.folder / name
        self._handle: int | None = None

    def lines(self) -> Iterator[str]:
        if os.path.lexists(self.path):
            with reading(self.path) as file:
                for line in whole_lines(file):
                    yield line.decode(errors="replace")

    def last(self) -> str:
        if not os.path.lexists(self.path):
            return ""
        with reading(self.path) as file:
            end = line_end(file.fileno(), os.fstat(file.fileno()).st_size)
            file.seek(line_end(file.fileno(), max(0, end - 1)))
            return next(whole_lines(file), b"").decode(errors="replace")

    def append(self, text: str) -> None:
        self.storage.check()
        data = text.encode()
        try:
            handle = self._opened()
            written = 0
            while written < len(data):
                written += os.write(handle, data[written:])
        except OSError as error:
            self.close()  # the next append opens the file again and removes an incomplete line
            raise self.storage._trouble(self.name, error, len(data)) from error

    def sync(self) -> None:
        self.storage.check()
        try:
            os.fsync(self._opened())
        except OSError as error:
            raise self.storage._trouble(self.name, error, 0) from error

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            try:
                os.close(handle)
            except OSError as error:
                raise self.storage._trouble(self.name, error, 0) from error

    def _opened(self) -> int:
        if self._handle is None:
            handle = open_regular(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                os.ftruncate(handle, line_end(handle, os.fstat(handle).st_size))
            except OSError:
                os.close(handle)
                raise
            self._handle = handle
        return self._handle


def myself() -> bytes:
    """The writing process, as messages name it."""
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode()
