"""The checkpoints of a search: in its results folder, in a folder that every node mounts, or in an object
store. All access to checkpoints goes through this module.

    ROOT/trials/NAME/epoch-0007.pt    after the seventh epoch; each training run keeps its last two, and a
                                      baseline also the one that trials start from
"""

from __future__ import annotations

import contextlib
import functools
import posixpath
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from lic import atomic_io
from lic.errors import StorageError
from search.settings.addresses import CREDENTIALS

#: Maximum size of a small file, such as settings, in bytes.
_SMALL = 1 << 20

_CHECKPOINT = re.compile(r"epoch-(\d+)\.pt")

#: Seconds that Google's client retries; its default is a quarter of an hour.
_GS_PATIENCE = "retry_limit_seconds=60"

_DENIED = "|".join((
    "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "_TOKEN", "PERMISSION_DENIED",
    "OAuth2", "HTTP status 40[13]",
))  # fmt: skip
_NO_BUCKET = r"NO_SUCH_BUCKET|Bucket '.*' not found|bucket does not exist"
_NO_ANSWER = r"NETWORK_CONNECTION|resolve host|curlCode|CURL error"


@dataclass(frozen=True)
class StoredFile:
    """A file in a storage. It can be sent to another process, which opens it with its own credentials."""

    storage: str
    path: str

    def __str__(self) -> str:
        scheme = urlsplit(self.storage).scheme
        return f"{scheme}://{self.path}" if scheme else self.path

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A local path of the file, valid in this context; a copy if the storage is not a folder. Raises
        OSError, StorageError."""
        filesystem = _open(self.storage)[0]
        if isinstance(filesystem, LocalFileSystem):
            yield Path(self.path)
            return
        with TemporaryDirectory(prefix="lictune-") as folder:
            target = Path(folder) / posixpath.basename(self.path)
            _copy(filesystem, self.path, LocalFileSystem(), str(target))
            yield target

    def copy_to(self, target: Path) -> None:
        """Copy it to a local file, atomically. Raises OSError, StorageError."""
        with atomic_io.replacing(target) as partial:
            _copy(_open(self.storage)[0], self.path, LocalFileSystem(), str(partial))


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one search: in the folder `name` of `storage` (a folder or a URL), or in `storage`
    itself if it is the search's own folder. Methods raise OSError, or StorageError if the URL cannot be
    opened."""

    storage: str
    name: str = ""

    def __str__(self) -> str:
        return str(StoredFile(self.storage, self.root))

    @property
    def filesystem(self) -> FileSystem:
        return _open(self.storage)[0]

    @property
    def root(self) -> str:
        """The search's folder, as a path on the file system."""
        return posixpath.join(_open(self.storage)[1], self.name).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the storage is a folder, local or mounted."""
        return isinstance(self.filesystem, LocalFileSystem)

    @contextmanager
    def saving(self, training: str, epoch: int, keep: int = 0) -> Iterator[Path]:
        """A path to write the checkpoint of an epoch of a training run ('trials/trial-000') to. It appears
        atomically at the end of the context. Older checkpoints are then removed, except the previous one and
        that of the epoch `keep`."""
        name = f"epoch-{epoch:04d}.pt"
        if self.is_local:
            yield Path(self._path(training, name))
        else:
            with TemporaryDirectory(prefix="lictune-") as folder:
                made = Path(folder) / name
                yield made
                # An object store makes an object visible only when it is complete.
                self.filesystem.create_dir(self._path(training))
                _copy(LocalFileSystem(), str(made), self.filesystem, self._path(training, name))
        for older in self.saved(training):
            if _epoch(older.path) < epoch - 1 and _epoch(older.path) != keep:
                with contextlib.suppress(OSError):  # an old checkpoint only takes space
                    self.filesystem.delete_file(older.path)

    def saved(self, training: str) -> list[StoredFile]:
        """The checkpoints of a training run, newest first; the older ones are fallbacks for a damaged one."""
        found = [info.path for info in self._list(self._path(training)) if info.is_file]
        found = [path for path in found if _CHECKPOINT.fullmatch(posixpath.basename(path))]
        return [StoredFile(self.storage, path) for path in sorted(found, key=_epoch, reverse=True)]

    def newest(self, training: str) -> StoredFile:
        """The newest checkpoint of a training run. Raises FileNotFoundError if it has none."""
        for file in self.saved(training):
            return file
        name = posixpath.basename(training)
        raise FileNotFoundError(f"{name} has no checkpoint below {self}/{posixpath.dirname(training)}")

    def of_epoch(self, training: str, epoch: int) -> StoredFile:
        """The checkpoint of a training run after an epoch. Raises FileNotFoundError if it has none."""
        for file in self.saved(training):
            if _epoch(file.path) == epoch:
                return file
        name, folder = posixpath.basename(training), posixpath.dirname(training)
        raise FileNotFoundError(f"{name} has no checkpoint of epoch {epoch} below {self}/{folder}")

    def drop(self, training: str, but: int = 0, keep: int = 0) -> None:
        """Remove the checkpoints of a training run except the newest `but`, and that of the epoch `keep`."""
        for file in self.saved(training)[but:]:
            if _epoch(file.path) != keep:
                self.filesystem.delete_file(file.path)

    def take_over(self, source: Checkpoints, training: str, keep: int = 0) -> bool:
        """Copy the newest checkpoint of a training run of another search, possibly from another storage, and,
        unless 0, that of the epoch `keep`. Returns False if one of them is missing."""
        found = source.saved(training)
        wanted = [file for file in found[1:] if _epoch(file.path) == keep] + found[:1]
        if not found or (keep and _epoch(wanted[0].path) != keep):
            return False
        for file in wanted:
            with file.local() as path, self.saving(training, _epoch(file.path), keep) as target:
                atomic_io.write(target, path.read_bytes())
        return True

    def keep(self, folder: Path, *names: str) -> None:
        """Copy the files and folders with these names, if they exist, from `folder` to the storage, unless
        the storage is `folder`."""
        if self.is_local and Path(self.root).resolve() == folder.resolve():
            return
        self.filesystem.create_dir(self.root)
        for path in filter(Path.exists, (folder / name for name in names)):
            target = self._path(path.name)
            if path.is_dir():
                if self.filesystem.get_file_info(target).type == FileType.Directory:
                    self.filesystem.delete_dir(target)
                self.filesystem.create_dir(target)
            _copy(LocalFileSystem(), str(path.resolve()), self.filesystem, target)

    def kept(self, name: str) -> StoredFile | None:
        """The file that `keep` copied under this name, or None."""
        path = self._path(name)
        return StoredFile(self.storage, path) if self._is_file(path) else None

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        with self.filesystem.open_output_stream(self._path(name)) as file:
            file.write(text.encode())

    def read(self, name: str) -> str:
        """The text of a small file."""
        with self.filesystem.open_input_stream(self._path(name)) as file:
            content: bytes = file.read(_SMALL)
        return content.decode()

    def remove(self, start: str) -> None:
        """Remove files in the search's folder whose names have this prefix."""
        for info in self._list(self.root):
            if info.is_file and posixpath.basename(info.path).startswith(start):
                self.filesystem.delete_file(info.path)

    def _path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def _list(self, path: str) -> list[Any]:
        found: list[Any] = self.filesystem.get_file_info(FileSelector(path, allow_not_found=True))
        return found

    def _is_file(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).is_file)


def _epoch(path: str) -> int:
    """The epoch of a checkpoint, by its name."""
    found = _CHECKPOINT.fullmatch(posixpath.basename(path))
    assert found is not None
    return int(found[1])


def prepare_storage(url: str) -> None:
    """Check that this machine can write to the storage and read from it; creates a missing folder. Raises
    StorageError."""
    storage, probe = Checkpoints(url), f".probe-{secrets.token_hex(8)}"
    try:
        if storage.is_local:
            Path(storage.root).mkdir(parents=True, exist_ok=True)
        storage.write(probe, url)
        if storage.read(probe) != url:
            raise OSError("a test file was read back with other content")
        storage.remove(probe)
    except OSError as error:
        raise StorageError(f"--storage {url} cannot be used: {refusal(url, error)}") from error


def refusal(url: str, error: Exception) -> str:
    """Why a storage cannot be used, and what to do, from the error of its client library."""
    parts, said = urlsplit(url), " ".join(str(error).split())
    if not parts.scheme:
        return f"{getattr(error, 'strerror', None) or said}; give a writable folder"
    if re.search(_NO_BUCKET, said):
        return f"there is no bucket {parts.hostname}; create it first"
    if re.search(_DENIED, said):
        return f"access denied; set {CREDENTIALS[parts.scheme]} of an account with write access"
    if re.search(_NO_ANSWER, said):
        endpoint = "AWS_ENDPOINT_URL or ?endpoint_override=" if parts.scheme == "s3" else "the network"
        return f"no answer; check {endpoint} ({said[-120:]})"
    return said[:300]


@functools.lru_cache(maxsize=16)
def _open(storage: str) -> tuple[FileSystem, str]:
    """The file system of a folder or URL, and the path on it. Raises StorageError."""
    scheme = urlsplit(storage).scheme
    if not scheme:
        return LocalFileSystem(), str(Path(storage).resolve())
    url = storage
    if scheme != "s3" and "retry_limit_seconds" not in url:
        url += ("&" if "?" in url else "?") + _GS_PATIENCE
    try:
        filesystem, path = FileSystem.from_uri(url)
    except (OSError, ValueError, NotImplementedError) as error:
        raise StorageError(f"--storage {storage} cannot be used: {refusal(storage, error)}") from error
    return filesystem, path


def _copy(source: FileSystem, path: str, target: FileSystem, to: str) -> None:
    if isinstance(source, LocalFileSystem) and isinstance(target, LocalFileSystem) and Path(path).is_file():
        with atomic_io.replacing(Path(to)) as partial:
            shutil.copyfile(path, partial)  # clearer errors than pyarrow's
        return
    # Uploads by several threads can deadlock: Arrow issue 32372.
    copy_files(path, to, source_filesystem=source, destination_filesystem=target, use_threads=False)
