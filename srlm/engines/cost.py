"""What requests to a server cost, and answers kept so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srlm.config import EndpointConfig
from srlm.errors import EngineError, RunFolderError
from srlm.io.files import disk_errors


class AnswerCache:
    """Answers by their request, in an SQLite file that several runs may share.

    A key is a hash of the server's address, model and whole request, its seed included; prompts are not stored.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._rows = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> RunFolderError:
        return RunFolderError(
            f"The cache of paid answers, {self.path}, cannot be used ({error}). Delete it, or set endpoint.cache=false."
        )

    @staticmethod
    def key(base_url: str, request: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps([base_url, request], sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Return the answer as text, for the reader to check; None where there is none."""
        try:
            row = self._rows.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return str(row[0]) if row else None

    def put(self, key: str, answer: dict[str, Any]) -> None:
        try:
            self._rows.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))
        except sqlite3.Error as error:
            raise RunFolderError(
                f"An answer could not be kept in {self.path} ({error}). Free some space, or set endpoint.cache=false; "
                "then give the same command again."
            ) from error

    def close(self) -> None:
        self._rows.close()


@dataclass(frozen=True)
class Expense:
    """One request; a line of the ledger."""

    time: str  # UTC
    model: str
    prompt_tokens: int
    cached_tokens: int  # of these, what the server read from its prefix cache
    completion_tokens: int
    cost: float  # in the currency of the prices; 0 for answers from our own cache
    from_cache: bool


class Ledger:
    """A run's expenses, one JSON line a request, over all its processes and resumes.

    Parameters
    ----------
    path : Path
        Appended to; what is there counts as spent.
    """

    def __init__(self, path: Path, config: EndpointConfig):
        self.path, self.config = path, config
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.before = sum(_cost(line) for line in lines)
        self.rows: list[Expense] = []

    @property
    def spent(self) -> float:
        return self.before + sum(row.cost for row in self.rows)

    def check(self) -> None:
        """Raises EngineError where the budget is spent."""
        if 0 < self.config.budget <= self.spent:
            raise EngineError(
                f"This run has spent {self.spent:.4f} on {self.config.model}, and endpoint.budget="
                f"{self.config.budget:g}. What was answered is kept; raise the budget to go on. Ledger: {self.path}"
            )

    def add(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int, from_cache: bool) -> None:
        price = (prompt_tokens * self.config.input_price + completion_tokens * self.config.output_price) / 1e6
        row = Expense(
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            self.config.model,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            0.0 if from_cache else price,
            from_cache,
        )
        self.rows.append(row)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")

    def summary(self) -> str:
        """One line on the requests of this process."""
        paid = [row for row in self.rows if not row.from_cache]
        prompt, cached, written = (
            sum(getattr(row, name) for row in paid) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        )
        text = f"{self.config.model}: {len(paid)} requests, {len(self.rows) - len(paid)} more from our cache; "
        text += f"{prompt:,} tokens read ({cached:,} from the server's prefix cache), {written:,} written"
        priced = self.config.input_price or self.config.output_price
        return f"{text}; this run has spent {self.spent:.4f}" if priced else text


def _cost(line: str) -> float:
    try:
        return float(json.loads(line)["cost"])
    except (ValueError, KeyError, TypeError):
        return 0.0  # a line torn by a kill
