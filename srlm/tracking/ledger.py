"""What a tracker has logged, one JSON line a log call; a key that stands there with the same value is logged once."""

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

Key = tuple[str, int, str]  # what it is drawn against, its step, its name


class Ledger:
    """An append-only file of `{"time", "against", "step", "metrics"}`.

    The rule for a run that is killed, resumed and tells a stage twice: the same key at the same step with the same
    value is written once. A value that changed, as of a stage that was deleted and made again, is written again, and
    the last line holds. A histogram stands as its counts, a table as its hash, what is not a finite number as null.

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
        if whole < len(data):  # a kill in the midst of a write: its rows will be told again
            os.truncate(path, whole)
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                self._note(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunFolderError(f"{path}:{number} is damaged ({error!r}). Delete that line.") from error

    def new(self, row: Row) -> Row | None:
        """What of a row is not logged yet; None where all of it is."""

        def fresh(values: Any) -> dict[str, Any]:
            told = self._known
            return {
                name: value
                for name, value in values.items()
                if told.get((row.against, row.step, name), _NEVER) != _plain(value)
            }

        left = replace(row, metrics=fresh(row.metrics), histograms=fresh(row.histograms), tables=fresh(row.tables))
        return left if left.metrics or left.histograms or left.tables else None

    def add(self, row: Row) -> None:
        """Note a row; it is on disk after `flush`."""
        told = {
            name: _plain(value) for part in (row.metrics, row.histograms, row.tables) for name, value in part.items()
        }
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "against": row.against, "step": row.step}
        self._waiting.append(line | {"metrics": told})
        self._note(self._waiting[-1])

    def flush(self) -> None:
        """Append all rows that wait, in one write."""
        if not self._waiting:
            return
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in self._waiting)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        self._waiting = []

    def _note(self, line: dict[str, Any]) -> None:
        self._known |= {(line["against"], line["step"], name): value for name, value in line["metrics"].items()}


_NEVER = object()


def _plain(value: Any) -> Any:
    """A value as a line holds it."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return None if isinstance(value, float) and not math.isfinite(value) else value
