"""srlm.evaluation.instruction_following.

Accuracies, their intervals and gains on constructed answers.
"""

from __future__ import annotations

import numpy as np
import pytest

from srlm.data.config import SourceConfig
from srlm.data.readers import read_prompts
from srlm.evaluation.instruction_following import MEASURES, Checked, check_answers, instructions_part
from srlm.evaluation.record import Measures
from srlm.types import Answer, Constraint, SeedExample
from tests.helpers import ROOT

GIVEN = (200, "seed")
NO_COMMA, QUOTED = Constraint("punctuation:no_comma"), Constraint("startend:quotation")
PROMPTS = [
    SeedExample("a", "A", "", constraints=(NO_COMMA, QUOTED)),
    SeedExample("b", "B", "", constraints=(NO_COMMA,)),
    SeedExample("free", "C", ""),
]


def answers(**texts: str) -> list[Answer]:
    return [Answer(name, "", text, 1, False) for name, text in texts.items()]


def value(part: Measures, name: str) -> tuple[float | None, int]:
    return part[name].value, part[name].n


def test_only_prompts_with_constraints_are_checked() -> None:
    [one] = check_answers(PROMPTS, answers(free="x", a='"so"'))
    assert one == Checked("a", ("punctuation:no_comma", "startend:quotation"), (True, True), (True, True))


def test_prompt_level_and_instruction_level_accuracy() -> None:
    """Answer a follows one of two instructions; answer b follows its instruction without the first line."""
    part = instructions_part(check_answers(PROMPTS, answers(a="No quotes.", b="Sure, here:\nNone.")), None, *GIVEN)
    assert [value(part.measures, name) for name in MEASURES] == [(0.0, 2), (0.5, 2), (1 / 3, 3), (2 / 3, 3)]
    assert value(part.groups["punctuation"], "strict") == (0.5, 2)
    assert value(part.groups["punctuation"], "loose") == (1.0, 2)
    assert value(part.groups["startend"], "strict") == (0.0, 1)
    assert part.groups["startend"]["strict"].low is None  # one prompt has no variance
    assert set(part.measures) == set(MEASURES)


def test_gains_are_resampled_by_prompt() -> None:
    """Half of the prompts improve to 1; each prompt's change is resampled as one."""
    rows = [("p", "startend:quotation")] * 1
    before = [Checked(f"{n}", tuple(name for _, name in rows), (n % 3 == 0,), (True,)) for n in range(60)]
    better = [Checked(one.id, one.names, (True,), (True,)) if n < 30 else one for n, one in enumerate(before)]
    part = instructions_part(better, before, 2000, "seed")
    gain = part.measures["inst_level_strict_acc_gain"]
    expected = [float(now.strict[0]) - float(then.strict[0]) for now, then in zip(better, before, strict=True)]
    assert gain.value == pytest.approx(np.mean(expected))
    error = 1.96 * np.std(expected) / np.sqrt(60)
    assert gain.low == pytest.approx(gain.value - error, abs=0.02)
    assert gain.high == pytest.approx(gain.value + error, abs=0.02)
    assert part.measures["prompt_level_loose_acc_gain"].value == 0.0


def test_no_constraints_give_undefined_measures() -> None:
    part = instructions_part([], [], *GIVEN)
    assert {part.measures[name].value for name in MEASURES} == {None}
    assert part.groups == {}


def test_gains_use_prompts_answered_by_both_models() -> None:
    now = check_answers(PROMPTS, answers(a='"so"', b="yes, no"))
    before = check_answers(PROMPTS, answers(b="No"))
    part = instructions_part(now, before, *GIVEN)
    assert value(part.measures, "prompt_level_strict_acc") == (0.5, 2)
    assert value(part.measures, "prompt_level_strict_acc_gain") == (-1.0, 1)
    assert value(instructions_part(before, now, *GIVEN).measures, "prompt_level_strict_acc_gain") == (1.0, 1)
    assert value(instructions_part(now, before[:0], *GIVEN).measures, "prompt_level_strict_acc_gain") == (None, 0)


def test_gains_count_instructions_or_prompts_by_level() -> None:
    now = check_answers(PROMPTS, answers(a='"so"', b="yes, no"))
    before = check_answers(PROMPTS, answers(a="so, so", b="No"))
    part = instructions_part(now, before, *GIVEN)
    assert value(part.measures, "inst_level_strict_acc_gain") == (pytest.approx(1 / 3), 3)  # 2 of 3 minus 1 of 3
    assert value(part.measures, "prompt_level_strict_acc_gain") == (0.0, 2)


def test_prompts_with_different_constraints_are_refused() -> None:
    now, then = (Checked("a", (name,), (True,), (True,)) for name in ("punctuation:no_comma", "startend:quotation"))
    with pytest.raises(ValueError, match="constraints differ"):
        instructions_part([now], [then], *GIVEN)


def test_ifeval_files_are_read() -> None:
    """Null arguments count as not given, and so do the arguments of an instruction without any."""
    prompts = read_prompts(SourceConfig(path=str(ROOT / "tests/verifiable_prompts.jsonl")))
    assert [prompt.id for prompt in prompts] == ["1", "2", "3", "4", "5"]
    assert prompts[1].constraints == (
        Constraint("length_constraints:number_words", {"relation": "at least", "num_words": 5}),
        Constraint("startend:end_checker", {"end_phrase": "That is all."}),
    )
    texts = {"1": "Nile and Rhine", "2": "Leaves in hot water, steeped. That is all.", "3": '"Light."', "4": "Cold!"}
    part = instructions_part(check_answers(prompts, answers(**texts)), None, *GIVEN)
    assert value(part.measures, "prompt_level_strict_acc") == (0.75, 4)
    assert value(part.measures, "inst_level_strict_acc") == (0.8, 5)
