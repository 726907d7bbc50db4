"""An index folder on disk: a new generation of files first, the YAML that names them last.

The files carry a part of their hash in their names, so two generations never share one; the old one stays whole
until the YAML is replaced, in one step of the file system, and is then removed. A crash at any moment leaves the old
index or the new one. Readers keep the files of their generation open, also after they were removed.
"""

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aindex.data.atomic import lock_of, replace_when_done
from aindex.errors import FaissIndexError, OutputError
from aindex.index.backend import FaissIndex, faiss_errors, import_faiss
from aindex.index.description import MAX_BYTES, Description, StoredFile

YAML_NAME = "index.yaml"
ENDINGS = {"index": ".faiss", "names": ".txt", "owners": ".counts", "lists": ".ivfdata"}
_OURS = re.compile(
    r"(?:index|names|owners|lists)\.[0-9a-f]{12}\.(?:faiss|txt|counts|ivfdata)"
    r"|\.(?:index|names|owners)\.[0-9a-f]+\.partial.*"
)
WORK_NAME = ".work"
"""Folder inside, for what is under way."""
_WORK = re.compile(r"\.building-[0-9a-f]+|\.work|\.\.work\.[0-9a-f]{8}\.removed")
# A writer may replace the files between a reader's look at the YAML and its opening of them; many in a row may.
_ATTEMPTS = 20

Write = Callable[[Callable[[bytes], int]], None]


@dataclass(frozen=True)
class FolderState:
    """A folder as read: what its YAML says, and a hash of the YAML by which a later change is noticed."""

    folder: Path
    description: Description
    yaml_hash: str


def read_state(folder: Path) -> FolderState:
    """The description of an index folder.

    Raises:
        FaissIndexError: no such folder, no index in it, damaged or newer YAML.
    """
    if not folder.is_dir():
        raise FaissIndexError(
            f"index folder {str(folder)!r} does not exist: build it with aindex index build"
        )
    path = folder / YAML_NAME
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise FaissIndexError(
            f"folder {str(folder)!r} holds no {YAML_NAME}: expected an index made by aindex index build"
        ) from error
    except OSError as error:
        raise FaissIndexError(
            f"{str(path)!r} cannot be read: {error.strerror}; check its permissions"
        ) from error
    # the hash is of what was parsed: another process may replace the file at any moment
    return FolderState(folder, Description.from_yaml(data, path), hashlib.sha256(data).hexdigest())


def yaml_hash(folder: Path) -> str | None:
    """A hash of the YAML in a folder; None if there is none."""
    try:
        return hashlib.sha256((folder / YAML_NAME).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def read_files(
    folder: Path, *, verify: bool, mapped: bool
) -> tuple[FolderState, FaissIndex, bytes, bytes | None]:
    """The description, the FAISS index, the bytes of the names, and those of the owners if there are such.

    Args:
        verify: whether to compare the files with their hashes, which reads them once more.
        mapped: whether to map the inverted lists into memory, read-only, shared between processes.

    Raises:
        FaissIndexError: any part is missing, damaged or of another kind.
    """
    for attempt in range(_ATTEMPTS):
        state = read_state(folder)
        try:
            index = _read_index(folder, state.description, verify=verify, mapped=mapped)
            names = _file(folder, state.description, "names", verify=verify).read_bytes()
            owners = None
            if "owners" in state.description.files:
                owners = _file(folder, state.description, "owners", verify=verify).read_bytes()
            return state, index, names, owners
        # FAISS says only in its own words that a file is gone
        except (FileNotFoundError, FaissIndexError) as error:
            if yaml_hash(folder) != state.yaml_hash and attempt < _ATTEMPTS - 1:
                continue
            if isinstance(error, FileNotFoundError):
                raise FaissIndexError(
                    f"index folder {str(folder)!r} lacks the file {Path(error.filename).name!r} that its {YAML_NAME} "
                    "names: restore it, or build the index again"
                ) from error
            raise
        except OSError as error:
            raise FaissIndexError(
                f"index folder {str(folder)!r} cannot be read: {error.strerror}; check its permissions"
            ) from error
    raise AssertionError


def write_files(
    folder: Path,
    description: Description,
    contents: Mapping[str, Write | bytes],
    *,
    kept: Mapping[str, StoredFile] | None = None,
    ready: Mapping[str, Path] | None = None,
    expected: str | None,
    overwrite: bool = False,
) -> FolderState:
    """Replace a folder's index, all at once.

    Args:
        folder: made if it is missing.
        description: without its files.
        contents: by role, the bytes, or what writes them to a function that takes bytes.
        kept: by role, files that are there already.
        ready: by role, finished files on the same disk that are moved into the folder under their names.
        expected: hash of the YAML that this index was read from or written with; None: the folder is new.
        overwrite: whether to replace whatever index is there.

    Raises:
        OutputError: the folder cannot be written, holds other things, or its index was changed by another process.
    """
    with output_errors(folder), _locked(folder):
        if not overwrite:
            _check_unchanged(folder, expected)
        files = dict(kept or {})
        for role, content in contents.items():
            files[role] = _write_file(folder, role, content)
        for role, path in (ready or {}).items():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[role] = StoredFile(path.name, path.stat().st_size, None)
            os.replace(path, folder / path.name)
        complete = replace(description, files=files)
        _sync_folder(folder)
        with replace_when_done(folder / YAML_NAME) as temporary:
            temporary.write_text(complete.to_yaml(), encoding="utf-8")
        _sync_folder(folder)
        _remove_others(folder, {file.name for file in files.values()})
        return FolderState(folder, complete, yaml_hash(folder) or "")


def write_index(index: FaissIndex, sink: Callable[[bytes], int]) -> None:
    """Write a FAISS index to a function that takes bytes."""
    faiss = import_faiss()
    with faiss_errors("the index cannot be written", "make room, then run again"):
        faiss.write_index(index, faiss.PyCallbackIOWriter(sink, 1 << 20))


def _read_index(folder: Path, description: Description, *, verify: bool, mapped: bool) -> FaissIndex:
    path = _file(folder, description, "index", verify=verify)
    faiss = import_faiss()
    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0
    lists = _file(folder, description, "lists", verify=verify) if "lists" in description.files else None
    if lists is not None:
        flags = faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY
    with faiss_errors(f"{str(path)!r} is no index that FAISS {faiss.__version__} reads", "build it again"):
        index = faiss.read_index(str(path), flags)
        if lists is not None:
            # FAISS's own way to find the lists beside a moved index prints a line at every opening.
            on_disk = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
            on_disk.filename = str(lists)
            if index.ntotal:  # no system maps an empty file
                on_disk.do_mmap()
    if (index.d, index.ntotal) != (description.dim, description.rows) or not index.is_trained:
        raise FaissIndexError(
            f"{str(path)!r} holds {index.ntotal} rows of dimension {index.d}, its {YAML_NAME} says {description.rows} "
            f"of dimension {description.dim}: restore the folder, or build the index again"
        )
    return index


def _file(folder: Path, description: Description, role: str, *, verify: bool) -> Path:
    stored = description.files.get(role)
    if stored is None:
        raise FaissIndexError(f"{str(folder / YAML_NAME)!r} names no {role} file: build the index again")
    path = folder / stored.name
    size = path.stat().st_size
    if size != stored.size:
        raise FaissIndexError(
            f"{str(path)!r} has {size} bytes, expected {stored.size}: it is truncated or foreign; restore it, or build "
            "the index again"
        )
    if verify and stored.sha256 is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != stored.sha256:
            raise FaissIndexError(
                f"{str(path)!r} has the SHA-256 {found[:12]}…, expected {stored.sha256[:12]}…: it is damaged; restore "
                "it, or build the index again"
            )
    return path


def _write_file(folder: Path, role: str, content: Write | bytes) -> StoredFile:
    temporary = folder / f".{role}.{secrets.token_hex(6)}.partial"
    digest = hashlib.sha256()
    try:
        with open(temporary, "wb") as file:

            def sink(data: bytes) -> int:
                digest.update(data)
                return file.write(data)

            if isinstance(content, bytes):
                sink(content)
            else:
                content(sink)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        sha256 = digest.hexdigest()
        name = f"{role}.{sha256[:12]}{ENDINGS[role]}"
        os.replace(temporary, folder / name)
        return StoredFile(name, size, sha256)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(folder: Path, *, overwrite: bool) -> None:
    """See that a new index may go into a folder, before the work for it is begun.

    Raises:
        OutputError: it is no folder, or holds other things or an index that is not to be replaced.
    """
    try:
        if folder.is_dir() and not (overwrite and yaml_hash(folder) is not None):
            _check_unchanged(folder, None)
        elif os.path.lexists(folder) and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise OutputError(
            f"the index cannot be written to {str(folder)!r}: {error.strerror}; give a new or empty folder"
        ) from error


def _check_unchanged(folder: Path, expected: str | None) -> None:
    found = yaml_hash(folder)
    if found == expected:
        others = [
            name
            for name in sorted(os.listdir(folder))
            if not (_OURS.fullmatch(name) or _WORK.fullmatch(name) or name == YAML_NAME)
        ]
        if expected is None and others:
            raise OutputError(
                f"folder {str(folder)!r} holds other things ({others[0]!r}): give a new or empty folder for the index"
            )
        return
    if expected is None:
        raise OutputError(
            f"folder {str(folder)!r} holds an index already: add to it, give another folder, or say overwrite"
        )
    raise OutputError(
        f"the index in {str(folder)!r} was changed since it was opened: open it again, then repeat the change"
    )


def _remove_others(folder: Path, wanted: set[str]) -> None:
    for name in os.listdir(folder):
        if _OURS.fullmatch(name) and name not in wanted:
            # What cannot be removed now is tried again at the next writing.
            with suppress(OSError):
                (folder / name).unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, where the file system knows locks; the check of the YAML's hash guards the others."""
    lock = lock_of(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Make a folder, and turn what goes wrong in writing an index to it into one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(
            f"the index cannot be written to {str(folder)!r}: {error.strerror or error}; make room or give a writable "
            "folder, then run again"
        ) from error


def _sync_folder(folder: Path) -> None:
    # Not every file system can; the files themselves are flushed already.
    with suppress(OSError):
        descriptor: Any = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
