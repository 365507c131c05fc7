"""srlm.training.shared_spans: text shared by all prompts of a kind, found in the data or by a pattern."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srlm.data.config import SourceConfig
from srlm.data.readers import read_ranked
from srlm.errors import ConfigError
from srlm.judges import __name__ as judges
from srlm.judges.prompt import TWO_ANSWERS, JudgeTemplate
from srlm.models.templating import Template
from srlm.training.encoding import conversations, eft_example, encode
from srlm.training.masking import Part
from srlm.training.methods.sft import SFTConfig, TrainOn
from srlm.training.shared_spans import SHORTEST, common_spans
from srlm.types import JudgeExample
from tests.helpers import tiny_tokenizer, user

PREAMBLE = "Below is a task. Write a response that completes it.\n\n"
QUESTIONS = ["Name a river.", "Why is the sky blue?", "Add 2 and 3, please."]


def chat(question: str, answer: str, system: str = "") -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *user(question), {"role": "assistant", "content": answer}]


def boilerplate_of(kinds: dict[str, list[list[dict[str, str]]]], pattern: str = "") -> dict[str, list[list[str]]]:
    """Return the spans of text that count as boilerplate, for each example of each kind."""
    options = SFTConfig(train_on=TrainOn.no_shared_text, shared_text=pattern)
    found: dict[str, list[list[str]]] = {}
    for kind, examples in conversations(tiny_tokenizer(), kinds, options, True).items():
        found[kind] = []
        for example in examples:
            texts, before = [], None
            for part, (start, end) in zip(example.parts, example.extents, strict=True):
                if part is Part.boilerplate:
                    texts = [*texts, ""] if before is not part else texts
                    texts[-1] += example.text[start:end]
                before = part
            found[kind].append(texts)
    return found


# Spans that all rows share


@pytest.mark.parametrize(
    ("rows", "spans"),
    [
        (["headAtail", "headBBtail"], ["head", "tail"]),
        (["headAmiddleBtail", "headmiddleCtail", "headDDDmiddletail"], ["head", "middle", "tail"]),
        (["AAmiddleBB", "CmiddleD"], ["middle"]),
        (["AonethingBotherCC", "onethingDother", "EonethingFFFotherG"], ["onething", "other"]),
        (["otherAonething", "onethingBother"], ["onething"]),  # only one fits the order: the longer one
        (["the same", "the same", "the same"], ["the same"]),
        (["abcX", "abcY"], []),  # too short
        (["nothing here", "ABC"], []),
        (["", "headAtail"], []),
        (["alone"], []),
        ([], []),
    ],
)
def test_common_spans_of_known_rows(rows, spans):
    found = common_spans([[ord(c) for c in row] for row in rows])
    assert [[row[start:end] for start, end in places] for row, places in zip(rows, found, strict=True)] == [
        spans for _ in rows
    ]


FILLING = st.text(alphabet="abc", max_size=6)


@settings(max_examples=200, deadline=None)
@given(fillings=st.lists(st.tuples(FILLING, FILLING), min_size=2, max_size=6))
def test_template_text_is_found_for_any_field_values(fillings):
    template = ("RUBRIC: ", "\n<ANSWER>\n", "\nSCORE?")
    rows = ["".join((template[0], first, template[1], second, template[2])) for first, second in fillings]
    places = common_spans([[ord(c) for c in row] for row in rows])
    for row, spans in zip(rows, places, strict=True):
        found = "".join(row[start:end] for start, end in spans)
        assert all(part in found for part in template)
    texts = [[row[start:end] for start, end in spans] for row, spans in zip(rows, places, strict=True)]
    assert all(of_row == texts[0] for of_row in texts)  # each row has the same text


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.text(alphabet="ab", max_size=14), min_size=2, max_size=4))
def test_spans_are_shared_ordered_and_long_enough(rows):
    places = common_spans([[ord(c) for c in row] for row in rows])
    texts = [[row[start:end] for start, end in spans] for row, spans in zip(rows, places, strict=True)]
    assert all(of_row == texts[0] for of_row in texts)
    assert all(len(text) >= SHORTEST for text in texts[0])
    for row, spans in zip(rows, places, strict=True):
        assert all(0 <= start < end <= len(row) for start, end in spans)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
    begins = next((n for n in range(min(map(len, rows))) if len({row[n] for row in rows}) > 1), min(map(len, rows)))
    if begins >= SHORTEST:
        assert places[0][0] == (0, begins)


# In examples


def test_shared_preamble_and_system_prompt_are_found():
    examples = [chat(PREAMBLE + question, "Yes.", "Be brief and kind.") for question in QUESTIONS]
    assert boilerplate_of({"ift": examples}) == {"ift": [["Be brief and kind.", PREAMBLE]] * 3}


def test_shared_text_is_found_per_kind():
    ift = [chat(question, "Yes.") for question in QUESTIONS]
    eft = [chat(f"Rate this answer:\n{question}\nFrom 0 to 5.", "Score: 4") for question in QUESTIONS]
    assert boilerplate_of({"ift": ift, "eft": eft}) == {
        "ift": [[], [], []],
        "eft": [["Rate this answer:\n", "\nFrom 0 to 5."]] * 3,
    }


def test_one_example_has_no_shared_text():
    assert boilerplate_of({"ift": [chat(PREAMBLE + QUESTIONS[0], "Yes.")]}) == {"ift": [[]]}


def test_messages_are_compared_by_role_and_turn():
    """A system prompt of only some examples counts for those; first questions are not compared with second ones."""
    examples = [chat(question, "Yes.", "Be brief and kind.") for question in QUESTIONS[:2]]
    examples += [chat(question, "Yes.") for question in QUESTIONS]
    assert boilerplate_of({"ift": examples}) == {"ift": [["Be brief and kind."]] * 2 + [[]] * 3}
    turns = [chat(question, "Yes.") + chat(PREAMBLE + question, "No.") for question in QUESTIONS]
    assert boilerplate_of({"ift": turns}) == {"ift": [[PREAMBLE]] * 3}


def test_answers_never_count_as_shared_text():
    examples = [chat(PREAMBLE + question, f"The answer is this. Score: {n}") for n, question in enumerate(QUESTIONS)]
    encoded = encode(tiny_tokenizer(), {"eft": examples}, SFTConfig(train_on=TrainOn.no_shared_text))
    for question, example, labels in zip(QUESTIONS, examples, encoded.labels, strict=True):
        learnt = tiny_tokenizer().decode([label for label in labels if label >= 0])
        assert learnt == f"{question}{example[-1]['content']}<|im_end|>"


@pytest.mark.parametrize("name", ["additive", "verdict_only", "multiple_choice", "logprob_weighted", "pairwise"])
def test_judge_template_is_found_in_eft_examples(name):
    """The whole judge template except its fields is found in EFT examples of the built-in data."""
    fields = TWO_ANSWERS if name == "pairwise" else ("instruction", "response")
    name = "verdict_only" if name == "logprob_weighted" else name
    template = Template.load(name, judges, "judge.template", fields)
    examples = []
    for prompt in read_ranked(SourceConfig(limit=6)):
        texts = [answer.text for answer in prompt.answers]
        other = texts[1] if name == "pairwise" else None
        examples.append(JudgeExample(prompt.id, prompt.prompt, texts[0], "", 1.0, "seed", other))
    found = boilerplate_of({"eft": [eft_example(example, JudgeTemplate(template)) for example in examples]})["eft"]
    rest = template.text
    for field in fields:
        rest = rest.replace(f"{{{{{field}}}}}", "\0")
    assert all(texts == rest.split("\0") for texts in found)


# By a pattern


def test_pattern_matches_are_shared_text():
    examples = [
        chat(f"### {question}\nRate from 0 to {n}.", "### Rate from 0 to 5.") for n, question in enumerate(QUESTIONS)
    ]
    found = boilerplate_of({"ift": examples}, r"^### |\nRate from 0 to \d\.")
    assert found == {"ift": [["### ", f"\nRate from 0 to {n}."] for n in range(3)]}


def test_partly_matched_token_is_trained_on():
    """ " the" is one token of the tokenizer."""
    assert boilerplate_of({"ift": [chat("See the river", "Yes.")]}, "See t") == {"ift": [["See"]]}


def test_pattern_without_a_match_is_refused():
    with pytest.raises(ConfigError, match=r"sft\.shared_text='Note: ' matches nothing in the prompts of 1 examples"):
        boilerplate_of({"ift": [chat("Hi?", "Note: yes")]}, "Note: ")
