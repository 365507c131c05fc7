"""Files that are written atomically, hashes of files, and readable errors of the disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from srlm.errors import RunFolderError


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_WHOLE = 16 * 2**20  # bytes up to which `content_hash` reads a whole file
_BLOCKS, _BLOCK = 1024, 4096  # of a larger one, and bytes of each


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a large one, of its size and of blocks evenly spaced over it, the ends among them.

    That is for weights: training changes nearly all of them, and those of a 70B model are not read again at each start.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        return sha256(path)
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
            found.update(file.read(_BLOCK))
    return found.hexdigest()


_UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # no permission
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),  # no folder's path
)


def hash_of_files(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names in `folder` and the `content_hash`es of these files in it."""
    found = sorted(f"{path.relative_to(folder)}:{content_hash(path)}" for path in files)
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", and a folder that cannot be written, into a RunFolderError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror}). Make it a folder that you may write to, or "
                "choose another one (of a run: runs_dir and name)."
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunFolderError(
            f"No space left on disk while writing {path}. What was finished before is kept: free some space (old runs, "
            "iteration_*/checkpoints) or move the run to a larger disk, then give the same command again."
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old or the new content, whenever the process dies."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file of a run.

    Parameters
    ----------
    remedy : str
        What the user can do about a damaged file, as a sentence.

    Raises
    ------
    RunFolderError
        If the file holds anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise RunFolderError(f"{path} is damaged ({error}). {remedy}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} is damaged (it holds no JSON object). {remedy}")
    return found


def files_by_name(names: Iterable[str]) -> dict[str, str]:
    """Return name -> hash of the files and local data set folders (`hub:FOLDER`) that exist on this machine.

    Names of anything else, such as data sets on the Hub, are left out.
    """
    found = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_file():
            found[name] = sha256(path)
        elif name.startswith("hub:") and (folder := Path(name.removeprefix("hub:"))).is_dir():
            found[name] = hash_of_files(folder, (path for path in folder.rglob("*") if path.is_file()))
    return found
