"""The rows that a tracker has logged, in a JSON Lines file, so that a resumed run logs each value once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from srlm.errors import RunFolderError
from srlm.io.files import disk_errors
from srlm.tracking.rows import Row

Key = tuple[str, int, str]  # the step's metric, the step, the name


class LoggedRows:
    """An append-only file of `{"time", "against", "step", "metrics"}`.

    The same key at the same step with the same value is written once. A changed value, for example of a stage that was
    deleted and recomputed, is written again, and the last line is valid. A histogram is stored as its counts, a table
    as its hash, and a number that is not finite as null.

    Parameters
    ----------
    path : Path
        Created on the first line.

    Raises
    ------
    RunFolderError
        If a line other than a torn last one is broken, or the disk is full.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[Key, Any] = {}
        self._waiting: list[dict[str, Any]] = []
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a kill during a write: its rows will be logged again
            os.truncate(path, whole)
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                self._note(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunFolderError(f"{path}:{number} is damaged ({error!r}). Delete that line.") from error

    def new(self, row: Row) -> Row | None:
        """Return the part of a row that is not logged yet; None if there is none."""

        def fresh(values: Any) -> dict[str, Any]:
            return {
                name: value
                for name, value in values.items()
                if self._known.get((row.against, row.step, name), _NEVER) != _plain(value)
            }

        left = replace(row, metrics=fresh(row.metrics), histograms=fresh(row.histograms), tables=fresh(row.tables))
        return left if left.metrics or left.histograms or left.tables else None

    def add(self, row: Row) -> None:
        """Note a row as logged; `flush` writes it to disk."""
        values = {**row.metrics, **row.histograms, **row.tables}
        metrics = {name: _plain(value) for name, value in values.items()}
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "against": row.against, "step": row.step}
        self._waiting.append(line | {"metrics": metrics})
        self._note(self._waiting[-1])

    def flush(self) -> None:
        """Append all noted rows to the file, in one write."""
        if not self._waiting:
            return
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in self._waiting)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        self._waiting = []

    def final(self) -> dict[str, float]:
        """Return the value of each metric at its last step; histograms, tables and undefined numbers are left out."""
        in_order = sorted(self._known.items(), key=lambda entry: entry[0][1])
        return {name: value for (_, _, name), value in in_order if isinstance(value, int | float)}

    def _note(self, line: dict[str, Any]) -> None:
        self._known |= {(line["against"], line["step"], name): value for name, value in line["metrics"].items()}


_NEVER = object()


def _plain(value: Any) -> Any:
    """Return a value as it is stored in a line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return None if isinstance(value, float) and not math.isfinite(value) else value
