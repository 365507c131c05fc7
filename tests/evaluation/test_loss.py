"""The loss on answers: nats per token over all tokens, paired differences, too long answers excluded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from srlm.engines.base import Usage
from srlm.errors import PromptTooLongError
from srlm.evaluation.loss import answer_losses, loss, loss_difference
from srlm.io.progress import Bars
from srlm.io.record_file import read_records
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.types import AnswerLoss, SeedExample


class LengthScorer:
    """Scores half a nat per character and a token per two characters; counts its requests."""

    def __init__(self) -> None:
        self.usage, self.asked = Usage(), 0

    async def score(self, prompt: str, answer: str, priority: int = 0, ended: bool = True) -> tuple[float, int]:
        self.asked += 1
        if len(answer) > 20:
            raise PromptTooLongError("20 characters at most")
        return -len(answer) / 2, len(answer) // 2

    async def close(self) -> None: ...


EXAMPLES = [SeedExample(f"e{n}", "Ask?", "ab" * n) for n in (1, 4, 11)]


def run(root: Path, rater: Any) -> list[AnswerLoss]:
    stage = Stage(Workspace(root), root / "loss", "m", ["m.jsonl"], {})
    with Bars() as bars:
        asyncio.run(answer_losses(rater, EXAMPLES, stage, bars, "loss"))
    assert stage.manifest().counts == {
        "examples": 3,
        "missing": 1,
        "unanswered": {"too long": 1},
        "unanswered_examples": ["e11: 20 characters at most"],
    }
    return read_records(stage.outputs[0], AnswerLoss)


def test_answers_have_losses_and_too_long_ones_are_missing(tmp_path: Path) -> None:
    rows = {row.id: row for row in run(tmp_path, LengthScorer())}
    assert (rows["e1"].nats, rows["e1"].tokens) == (1.0, 1)
    assert (rows["e4"].nats, rows["e4"].tokens) == (4.0, 4)
    assert rows["e11"].nats is None
    assert rows["e11"].problem == "too long: 20 characters at most"


def test_resumed_stages_score_only_missing_answers(tmp_path: Path) -> None:
    run(tmp_path, LengthScorer())
    path = tmp_path / "loss" / "m.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    again = LengthScorer()
    assert len(run(tmp_path, again)) == 3
    assert again.asked == 2  # the missing answers are scored again


def test_loss_is_averaged_over_tokens_not_answers() -> None:
    rows = [AnswerLoss("a", 1.0, 1), AnswerLoss("b", 2.0, 8), AnswerLoss("c", None, 0, "too long")]
    found = loss(rows, 200, "s")
    assert found.value == pytest.approx(3 / 9)
    assert found.n == 9
    assert found.low is not None
    assert found.high is not None
    assert 2 / 8 <= found.low <= found.value <= found.high <= 1.0


def test_loss_differences_are_paired_by_answer() -> None:
    now = [AnswerLoss("a", 1.0, 2), AnswerLoss("b", 5.0, 2), AnswerLoss("c", None, 0, "too long")]
    other = [AnswerLoss("b", 3.0, 2), AnswerLoss("a", 2.0, 2), AnswerLoss("c", 1.0, 1)]
    assert loss_difference(now, other, 100, "s").value == pytest.approx((1.0 - 2.0 + 5.0 - 3.0) / 4)
    assert loss_difference(now, now, 100, "s").value == 0.0


def test_loss_without_scored_answers_is_undefined() -> None:
    assert loss([AnswerLoss("a", None, 0, "too long")], 100, "s").value is None
