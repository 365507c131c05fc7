"""Atomic writes, hashes of files, and readable disk errors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from srlm.errors import RunFolderError


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_WHOLE = 16 * 2**20  # largest size in bytes of a file that `content_hash` reads completely
_BLOCKS, _BLOCK = 1024, 4096  # number of blocks of a larger file that it reads, and their size in bytes


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file or, above 16 MiB, of its size and of evenly spaced blocks, both ends included.

    Large files are weights. Training changes nearly all of them, and reading those of a 70B model takes minutes.
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
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),  # not the path of a folder
)


def hash_of_files(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and `content_hash`es of these files in `folder`."""
    found = sorted(f"{path.relative_to(folder)}:{content_hash(path)}" for path in files)
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a full disk or an unwritable folder into a RunFolderError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror}). Make its folder writable, or choose another one (for a "
                "run: runs_dir and name)."
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunFolderError(
            f"No space left on disk while writing {path}. Free some space (old runs, iteration_*/checkpoints) or move "
            "the run to a larger disk. Completed stages are saved. Rerun the same command to resume."
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that `path` has the old or the new content whenever the process is killed."""
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
    """Read a JSON object from a file of a run.

    Parameters
    ----------
    remedy : str
        What the user can do about a damaged file, as a sentence.

    Raises
    ------
    RunFolderError
        If the file contains anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # such as UnicodeDecodeError and JSONDecodeError
        raise RunFolderError(f"{path} is damaged ({error}). {remedy}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} is damaged (it is not a JSON object). {remedy}")
    return found


def files_by_name(names: Iterable[str]) -> dict[str, str]:
    """Return name -> hash of the files and local folders (also `hub:FOLDER[SPLIT]`) among these names.

    Other names, such as datasets on the Hub, are left out.
    """
    found = {}
    for name in names:
        path = Path(re.split(r"[:@\[]", name[4:])[0] if name.startswith("hub:") else name).expanduser()
        if path.is_file() and not name.startswith("hub:"):
            found[name] = sha256(path)
        elif name and path.is_dir():
            found[name] = hash_of_files(path, (file for file in path.rglob("*") if file.is_file()))
    return found
