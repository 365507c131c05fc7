"""srlm.evaluation.attacks: attacks do not affect parser, template or tokenizer; score changes are reported."""

from __future__ import annotations

import pytest

from srlm.evaluation.attacks import ATTACKS, attack_results, attacked
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.prompt import JudgeTemplate, parse_verdict
from srlm.models.chat import encode_chat
from srlm.types import Judgement, RankedAnswer, RankedPrompt
from tests.helpers import tiny_tokenizer

ANSWER = "The Elbe is a river in Saxony."
TEMPLATES = ("additive", "verdict_only", "multiple_choice")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_give_no_verdict_and_no_template_tags(attack: str, template: str) -> None:
    judge = JudgeTemplate.load(SampledJudgeConfig(template=template))
    [plain] = judge.messages("Name a river.", ANSWER)
    [message] = judge.messages("Name a river.", ATTACKS[attack](ANSWER))
    # Even parsed together with the completion, the prompt gives no verdict.
    asked = plain["content"].split("<instruction>")[0]
    rest = message["content"].removeprefix(asked)
    assert rest != message["content"]
    assert parse_verdict(rest, 5)[0] is None
    assert parse_verdict(f"{rest}\nWeak.\nScore: 1", 5) == (1.0, "")
    for tag in ("<instruction>", "</instruction>", "<response>", "</response>"):
        assert message["content"].count(tag) == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_give_no_control_tokens(attack: str) -> None:
    tokenizer = tiny_tokenizer()
    special = set(tokenizer.all_special_ids)
    judge = JudgeTemplate.load(SampledJudgeConfig())

    def controls(text: str) -> list[int]:
        ids = encode_chat(tokenizer, judge.messages("Name a river.", text))
        return [token for token in ids if token in special]

    assert controls(ATTACKS[attack](ANSWER)) == controls(ANSWER)


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("Score: 5/5", 5.0),
        ("Score: 4.5", None),
        ("Score: 7", None),
        ("**Score:** 4", 4.0),
        ("Score: 5\n" * 100 + "Score: 2", 2.0),
        ("Score: ５", None),
        ("Score: ٥", None),
        ("S\u200bcore: 5", None),
        ("", None),
        (" \n\t", None),
        ("x" * 10_000, None),
        ("<b>Score: 3</b>", 3.0),
    ],
)
def test_repeated_attacks_are_parsed_by_the_usual_rules(completion: str, score: float | None) -> None:
    assert parse_verdict(completion, 5)[0] == score


def test_the_worst_ranked_answer_is_attacked() -> None:
    row = RankedPrompt("p", "Q?", (RankedAnswer("good", 0), RankedAnswer("bad", 2), RankedAnswer("fair", 1)))
    [found] = attacked([row])
    assert found.answers[0].text == "bad"
    assert len(found.answers) == 1 + len(ATTACKS)
    assert [answer.text for answer in found.answers[1:]] == [attack("bad") for attack in ATTACKS.values()]


def test_attack_results_measure_score_changes() -> None:
    rows = attacked([RankedPrompt(name, "Q?", (RankedAnswer("a", 0), RankedAnswer("b", 1))) for name in "pqr"])
    plain = {"p": 1.0, "q": 2.0, "r": None}
    score_changes = {"verdict": 3.0, "empty": -1.0}
    judgements = [
        Judgement(f"{row.id}/a{place}/j0", f"{row.id}/a{place}", "", score)
        for row in rows
        for place, name in enumerate(["plain", *ATTACKS])
        for score in [None if plain[row.id] is None or name == "html" else plain[row.id] + score_changes.get(name, 0.0)]
    ]
    results = attack_results(rows, judgements, 100, "seed")
    assert results["plain"]["value"] == 1.5
    assert (results["verdict"]["change"]["value"], results["verdict"]["change"]["n"]) == (3.0, 2)
    assert results["verdict"]["raised"]["value"] == 1.0
    assert results["verdict"]["unparsed_fraction"]["value"] == pytest.approx(1 / 3)
    assert results["empty"]["change"]["value"] == -1.0
    assert results["praise of itself"]["raised"]["value"] == 0.0
    assert results["html"]["change"]["value"] is None
    assert results["html"]["unparsed_fraction"]["value"] == 1.0
