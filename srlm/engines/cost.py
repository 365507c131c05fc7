"""The cache of a server's answers, so that none is paid for twice, and the cost ledger of a run."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srlm.engines.config import EndpointConfig
from srlm.errors import EngineError, RunFolderError
from srlm.io.files import disk_errors


class AnswerCache:
    """A cache of answers in an SQLite file that several runs may share.

    A key is a hash of the server's address and the whole request with its model and seed. Prompts are not stored.
    Values are texts, so a manipulated file cannot execute code, and no answer is ever evicted.
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
        """Return the answer as text, which the caller must check; None if there is none."""
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
                f"An answer could not be stored in {self.path} ({error}). Free some space, or set "
                "endpoint.cache=false. Then rerun the same command."
            ) from error

    def close(self) -> None:
        self._rows.close()


@dataclass(frozen=True)
class Expense:
    """One request, a line of the cost ledger."""

    time: str  # UTC
    model: str
    prompt_tokens: int
    cached_tokens: int  # of these, from the server's prefix cache
    completion_tokens: int
    cost: float  # in the currency of the prices; 0 for answers from our own cache
    from_cache: bool


class CostLedger:
    """The costs of a run's requests, over all its processes and restarts; one JSON line per request.

    Parameters
    ----------
    path : Path
        Lines are appended. Those in the file count as spent.
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
        """Raise EngineError if the budget is spent."""
        if 0 < self.config.budget <= self.spent:
            raise EngineError(
                f"This run has spent {self.spent:.4f} on {self.config.model}, and endpoint.budget="
                f"{self.config.budget:g}. Answers so far are stored. To continue, raise the budget. Costs: {self.path}"
            )

    def add(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int, from_cache: bool) -> None:
        price = (prompt_tokens * self.config.input_price + completion_tokens * self.config.output_price) / 1e6
        now, cost = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), 0.0 if from_cache else price
        row = Expense(now, self.config.model, prompt_tokens, cached_tokens, completion_tokens, cost, from_cache)
        self.rows.append(row)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")

    def summary(self) -> str:
        """Return one line about the requests of this process."""
        paid = [row for row in self.rows if not row.from_cache]
        tokens = ("prompt_tokens", "cached_tokens", "completion_tokens")
        prompt, cached, generated = (sum(getattr(row, name) for row in paid) for name in tokens)
        text = f"{self.config.model}: {len(paid)} requests, {len(self.rows) - len(paid)} more from our cache; "
        text += f"{prompt:,} prompt tokens ({cached:,} from the server's prefix cache), {generated:,} generated"
        priced = self.config.input_price or self.config.output_price
        return f"{text}; this run has spent {self.spent:.4f}" if priced else text


def _cost(line: str) -> float:
    try:
        return float(json.loads(line)["cost"])
    except (ValueError, KeyError, TypeError):
        return 0.0  # a line torn by a kill
