"""Append-only JSON Lines files of records, which stay readable when the process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from srlm.errors import RunFolderError
from srlm.io import serialization
from srlm.io.files import disk_errors, write_atomic

R = TypeVar("R")


class RecordFile(Generic[R]):
    """An append-only JSON Lines file of one kind of record, keyed by `id`.

    Parameters
    ----------
    path : Path
        Created on the first append.
    kind : type
        The records' dataclass.

    Raises
    ------
    RunFolderError
        If a line is damaged, unless it is an incomplete last line, or if the disk is full.
    """

    def __init__(self, path: Path, kind: type[R]):
        self.path, self.kind = path, kind
        self.records: dict[str, R] = {}
        self._fd: int | None = None
        if path.exists():
            self._load()

    def _load(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a kill during a write; the record is generated again
            with self.path.open("r+b") as file:
                file.truncate(whole)
        self.records = _whole_lines(self.path, data, self.kind)

    def append(self, *new: R) -> None:
        """Append records; those whose id exists are skipped."""
        new = tuple(record for record in new if record.id not in self.records)  # type: ignore[attr-defined]
        if not new:
            return
        line = "".join(serialization.to_json(record) + "\n" for record in new).encode()
        with disk_errors(self.path):
            if self._fd is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            length = os.fstat(self._fd).st_size
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                os.ftruncate(self._fd, length)  # remove the incomplete line
                raise
        for record in new:
            self.records[record.id] = record  # type: ignore[attr-defined]

    def forget(self, when: Callable[[R], bool]) -> None:
        """Forget records, so that they are generated again. On disk, the last record of an id is valid."""
        self.records = {record_id: record for record_id, record in self.records.items() if not when(record)}

    def finish(self, order: Callable[[R], Any] = lambda record: record.id) -> list[R]:  # type: ignore[attr-defined]
        """Sort the file, whatever the order of completion was, and return the records."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        ordered = sorted(self.records.values(), key=order)
        write_atomic(self.path, "".join(serialization.to_json(record) + "\n" for record in ordered))
        return ordered


def write_records(path: Path, rows: Iterable[Any]) -> None:
    """Write records as JSON Lines, in this order. The file is replaced atomically."""
    write_atomic(path, "".join(serialization.to_json(row) + "\n" for row in rows))


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Return all records of a finished file, in its order."""
    return list(RecordFile(path, kind).records.values())


def peek_records(path: Path, kind: type[R]) -> list[R]:
    """Return the records so far of a file that another process may be writing, without changing it.

    A missing file has none, and an incomplete last line is left out.
    """
    return list(_whole_lines(path, path.read_bytes(), kind).values()) if path.exists() else []


def _whole_lines(path: Path, data: bytes, kind: type[R]) -> dict[str, R]:
    found = {}
    # Not splitlines, which also splits at U+2028 and other characters that JSON can contain.
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            record = serialization.from_json(kind, line.decode("utf-8"))
        except ValueError as error:  # such as UnicodeDecodeError
            raise RunFolderError(
                f"{path}:{number} is damaged ({error}). Delete that line; the next run generates its record again."
            ) from error
        found[record.id] = record  # type: ignore[attr-defined]
    return found
