"""Tests that a judge prompt asks for the format and scale of verdicts that EFT trains and the parser reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from srlm.errors import ConfigError
from srlm.judges.config import PairwiseJudgeConfig, SampledJudgeConfig, options_type
from srlm.judges.meta import load_template as load_meta_template
from srlm.judges.pairwise import load_template
from srlm.judges.parsing import parse_verdict
from srlm.judges.prompt import VERDICT, JudgeTemplate, judge_target

FIELDS = "\n{{instruction}}\n{{response}}\n"
FORM = 'End with the line "Score: N".'


def load(path: Path, text: str, scorer: str = "sampled", max_score: int = 5) -> JudgeTemplate:
    path.write_text(text + FIELDS, encoding="utf-8")
    return JudgeTemplate.load(options_type(scorer)(scorer=scorer, template=str(path), max_score=max_score))


@pytest.mark.parametrize(
    ("text", "max_score"),
    [
        (FORM, 5),
        (FORM, 9),
        (f"Rate from 0 to 5. {FORM}", 5),
        (f"Rate from 0 (bad) to 10 (good). {FORM}", 10),
        (f"0-5 points. {FORM}", 5),
        ('Write "score: N", N out of 5.', 5),
        (f"Explain in 50 to 100 words, or in 1 to 3 sentences; name up to 20 words. {FORM}", 5),
        (f"0: bad\n1: fair\n2: good\n{FORM}", 2),
        (f"1. It is relevant. 2. It is useful. {FORM}", 5),
    ],
)
def test_templates_with_matching_form_and_scale_load(tmp_path: Path, text: str, max_score: int) -> None:
    load(tmp_path / "own.txt", text, max_score=max_score)


@pytest.mark.parametrize(
    ("text", "max_score", "message"),
    [
        ("Rate from 0 to 5. Write Rating: N.", 5, 'does not ask for the verdict\'s format, "Score: N"'),
        ("Rating: 1-10", 5, 'does not ask for the verdict\'s format, "Score: N"'),
        ("Points: N of 5", 5, "does not ask for the verdict's format"),
        (f"Rate 1-10. {FORM}", 5, r"scores of '1-10', but EFT trains scores from 0 to 5 \(judge\.max_score=5\)"),
        (f"Rate from 0 to 10. {FORM}", 5, "Write 0 to 5 in the template, or set judge.max_score to the top"),
        (f"Rate from 0 (bad) to 4 (good). {FORM}", 5, r"scores of '0 \(bad\) to 4'"),
        (f"Rate from 1 to 5. {FORM}", 5, "which must begin at 0"),
        (f"Rate from 0 to 5. {FORM}", 10, "scores from 0 to 10"),
        (f"Give points out of 10. {FORM}", 5, "scores of 'out of 10'"),
        (f"Rate from 0 to 100. {FORM}", 5, "scores of '0 to 100'"),
        (f"0: bad\n1: fair\n2: good\n{FORM}", 5, r"scores of '0: \.\.\. 2:'"),
        (f"1: bad\n2: fair\n{FORM}", 2, "must begin at 0"),
    ],
)
def test_templates_with_another_form_or_scale_are_refused(
    tmp_path: Path, text: str, max_score: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"judge\.template=.*own\.txt: the template .*{message}"):
        load(tmp_path / "own.txt", text, max_score=max_score)


def test_judges_check_only_the_template_parts_they_use(tmp_path: Path) -> None:
    load(tmp_path / "own.txt", "Rate from 0 to 5.", "logprob")  # the score is read after "Score:"
    with pytest.raises(ConfigError, match="scores of '1-10'"):
        load(tmp_path / "own.txt", "Rate 1-10.", "logprob")
    with pytest.raises(ConfigError, match="does not ask for the verdict's format"):
        load(tmp_path / "own.txt", "Rate from 0 to 5.", "logprob_weighted")


@pytest.mark.parametrize("name", ["additive", "multiple_choice", "verdict_only"])
def test_packaged_templates_match_the_eft_targets(name: str) -> None:
    text = JudgeTemplate.load(SampledJudgeConfig(template=name)).template.text
    assert VERDICT in text
    assert parse_verdict(judge_target("Because.", 4.0), 5) == (4.0, "")


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("Reply with 1 or 2.", "A"),
        ("Reply with X or Y.", "A"),
        ("A good answer is first or second?", "B"),
        ("Is answer a better, or answer b?", "A"),
    ],
)
def test_comparison_templates_with_other_letters_are_refused(tmp_path: Path, text: str, lacks: str) -> None:
    path = tmp_path / "own.txt"
    path.write_text(text + "{{instruction}}{{answer_a}}{{answer_b}}", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"evaluation\.judge_template=.*does not name .* A and B \({lacks} is missing\)"
    ):
        load_template(str(path), "evaluation.judge_template")
    with pytest.raises(ConfigError, match=rf"judge\.template=.*\({lacks} is missing\)"):
        JudgeTemplate.load(PairwiseJudgeConfig(template=str(path)))
    path.write_text(text + "{{instruction}}{{response}}{{judgement_a}}{{judgement_b}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"judge\.meta_template=.*\({lacks} is missing\)"):
        load_meta_template(SampledJudgeConfig(meta_template=str(path)))


@pytest.mark.parametrize("text", ["Reply with A or B.", "Output [[A]], [[B]] or [[C]].", "Answer **A** / **B**?"])
def test_comparison_templates_with_letters_a_and_b_load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.txt"
    path.write_text(text + "{{instruction}}{{answer_a}}{{answer_b}}", encoding="utf-8")
    load_template(str(path), "evaluation.judge_template")
