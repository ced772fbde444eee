"""Where a search keeps its checkpoints: its results folder, a folder that every node mounts, or a place in
an object store. Whatever reads or moves one does it here.

    ROOT/trials/NAME/checkpoint_000000/state.pt    as Ray Tune writes them
    ROOT/trials/NAME/resumed/state.pt              set aside when a search goes on
"""

from __future__ import annotations

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
from urllib.parse import urlsplit

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from search.config import CREDENTIALS
from search.storage import StorageError

CHECKPOINT = "state.pt"
TRIALS_FOLDER = "trials"
RESUMED = "resumed"

#: Seconds that Google's client tries again; by itself it would for a quarter of an hour.
_GS_PATIENCE = "retry_limit_seconds=60"

_DENIED = "|".join((
    "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "_TOKEN", "PERMISSION_DENIED",
    "OAuth2", "HTTP status 40[13]",
))  # fmt: skip
_NO_BUCKET = r"NO_SUCH_BUCKET|Bucket '.*' not found|bucket does not exist"
_NO_ANSWER = r"NETWORK_CONNECTION|resolve host|curlCode|CURL error"


@dataclass(frozen=True)
class StoredFile:
    """A file of a storage. It can be sent to another process, which opens it with its own credentials."""

    storage: str
    path: str

    def __str__(self) -> str:
        scheme = urlsplit(self.storage).scheme
        return f"{scheme}://{self.path}" if scheme else self.path

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The file on this machine for as long as the context lasts; a copy, if the storage is not a folder.
        Raises OSError, StorageError."""
        filesystem = _open(self.storage)[0]
        if isinstance(filesystem, LocalFileSystem):
            yield Path(self.path)
            return
        with TemporaryDirectory(prefix="lictune-") as folder:
            target = Path(folder) / posixpath.basename(self.path)
            _copy(filesystem, self.path, LocalFileSystem(), str(target))
            yield target

    def copy_to(self, target: Path) -> None:
        """Copy it to a file of this machine, which is the old or the new one if this breaks off. Raises
        OSError, StorageError."""
        partial = target.with_name(f".{target.name}.partial")
        try:
            _copy(_open(self.storage)[0], self.path, LocalFileSystem(), str(partial))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one search: below `storage`, a folder or a URL, in `name`, or in `storage` itself
    where that is the search's own folder. What fails raises OSError; StorageError if the URL cannot be opened
    at all."""

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
        """Whether they are in a folder, of this machine or one that it mounts."""
        return isinstance(self.filesystem, LocalFileSystem)

    def newest(self, training: str) -> StoredFile:
        """The newest checkpoint of a training, named by its path: 'trials/trial-000'. Raises
        FileNotFoundError if it has none."""
        aside = self._path(training, RESUMED, CHECKPOINT)
        found = self._states(training) or ([aside] if self._is_file(aside) else [])
        if not found:
            name = posixpath.basename(training)
            raise FileNotFoundError(f"{name} has no checkpoint below {self}/{posixpath.dirname(training)}")
        return StoredFile(self.storage, found[-1])

    def set_aside(self, training: str) -> StoredFile | None:
        """Move a training's newest checkpoint to where Ray, which counts from 0 again when a search goes on,
        does not write; where it is now, or None if there is none.

        The newest is moved last, and an object store moves by copying and then deleting: wherever this breaks
        off, the newest that is left is the newest there was."""
        aside = self._path(training, RESUMED, CHECKPOINT)
        states = self._states(training)
        for older in states[:-1]:
            self.filesystem.delete_dir(posixpath.dirname(older))
        for newest in states[-1:]:
            self.filesystem.create_dir(posixpath.dirname(aside))
            self.filesystem.move(newest, aside)
        for info in self._list(self._path(training)):
            if posixpath.basename(info.path).startswith("checkpoint_"):
                self.filesystem.delete_dir(info.path)
        return StoredFile(self.storage, aside) if self._is_file(aside) else None

    def take_over(self, source: Checkpoints, training: str) -> bool:
        """Copy a training of another search, whose storage may be another; whether there was a checkpoint."""
        if not source._states(training):
            return False
        self.filesystem.create_dir(self._path(training))
        _copy(source.filesystem, source._path(training), self.filesystem, self._path(training))
        return True

    def keep(self, folder: Path, *names: str) -> None:
        """Keep copies of the files and folders of these names in `folder`, those that are there, beside the
        checkpoints, unless that is where they are."""
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
        """The file that `keep` kept under this name; None if there is none."""
        path = self._path(name)
        return StoredFile(self.storage, path) if self._is_file(path) else None

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        with self.filesystem.open_output_stream(self._path(name)) as file:
            file.write(text.encode())

    def read(self, name: str) -> str:
        """The text of a small file."""
        with self.filesystem.open_input_stream(self._path(name)) as file:
            return file.read().decode()

    def remove(self, start: str) -> None:
        """Remove the files beside the checkpoints whose names start so."""
        for info in self._list(self.root):
            if info.is_file and posixpath.basename(info.path).startswith(start):
                self.filesystem.delete_file(info.path)

    def _path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def _states(self, training: str) -> list[str]:
        """The training's checkpoints, the newest last."""
        pattern = re.compile(rf".*/checkpoint_\d+/{re.escape(CHECKPOINT)}")
        found = [info.path for info in self._list(self._path(training), recursive=True)]
        return sorted(path for path in found if pattern.fullmatch(path))

    def _list(self, path: str, recursive: bool = False) -> list:
        return self.filesystem.get_file_info(FileSelector(path, allow_not_found=True, recursive=recursive))

    def _is_file(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).is_file)


def prepare_storage(url: str) -> None:
    """Make sure that this machine can write to the storage that --storage names and read from it; a folder is
    made if it is not there. Raises StorageError."""
    storage, probe = Checkpoints(url), f".probe-{secrets.token_hex(8)}"
    try:
        if storage.is_local:
            Path(storage.root).mkdir(parents=True, exist_ok=True)
        storage.write(probe, url)
        if storage.read(probe) != url:
            raise OSError("what was written is not what is read")
        storage.remove(probe)
    except OSError as error:
        raise StorageError(f"--storage {url} cannot be used: {refusal(url, error)}") from error


def refusal(url: str, error: Exception) -> str:
    """Why a storage refuses, and what to do about it, from what its client library says."""
    parts, said = urlsplit(url), " ".join(str(error).split())
    if not parts.scheme:
        return f"{getattr(error, 'strerror', None) or said}; name a folder that can be written to"
    if re.search(_NO_BUCKET, said):
        return f"there is no bucket {parts.hostname}; make it first"
    if re.search(_DENIED, said):
        return f"access is denied; set {CREDENTIALS[parts.scheme]} of an account that may write there"
    if re.search(_NO_ANSWER, said):
        endpoint = "AWS_ENDPOINT_URL or ?endpoint_override=" if parts.scheme == "s3" else "the network"
        return f"it does not answer; check {endpoint} ({said[-120:]})"
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
        shutil.copyfile(path, to)  # pyarrow's own says less of what went wrong
        return
    # Uploads by several threads can wait for one another for ever: Arrow's issue 32372.
    copy_files(path, to, source_filesystem=source, destination_filesystem=target, use_threads=False)
