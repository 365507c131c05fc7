"""srlm.evaluation.text_statistics: hand-computed cases.

The jackknife is compared with leaving out each answer; its coverage is simulated.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from srlm.evaluation.measures import Measure
from srlm.evaluation.record import to_dicts
from srlm.evaluation.text_statistics import DISTINCT, FACTS, REFUSALS, distinct, drift_part, facts, facts_part
from srlm.types import Answer, Constraint, SeedExample

NAMES = {
    *("characters", "words", "seq_rep_4", "distinct_1", "distinct_2", "distinct_3", "refusals"),
    *("language_switches", "bullets", "numbered_lists", "headings", "bold", "modal_opening"),
}


def part(*texts: str, prompt: str = "Tell me.", resamples: int = 100):
    return drift_part([Answer(f"v{n}", prompt, text, 1, False) for n, text in enumerate(texts)], resamples, "s")


def value(name: str, *texts: str, **rest: str):
    return part(*texts, **rest)[name].value


def test_drift_part_has_all_measures_and_mean_lengths():
    found = part("One two.", "", "三个字")
    assert set(found) == NAMES
    assert found["characters"].value == pytest.approx((8 + 0 + 3) / 3)
    assert found["words"].value == pytest.approx((2 + 0 + 3) / 3)
    assert json.loads(json.dumps(to_dicts(found), allow_nan=False)) == to_dicts(found)
    assert all(m.low <= m.value <= m.high for m in found.values() if m.low is not None)


def test_length_gain_is_paired_by_prompt():
    lengths, before = (100, 220, 300, 400), (90, 200, 310, 380)
    now, then = (
        [Answer(f"v{n}", "Tell me.", "x" * size, 1, False) for n, size in enumerate(sizes)]
        for sizes in (lengths, before)
    )
    found = drift_part(now, 200, "s", then[::-1])["characters_gain"]
    assert (found.value, found.n) == (10, 4)
    assert -10 <= found.low < 10 < found.high <= 20
    assert drift_part(now, 200, "s", then[1:])["characters_gain"].n == 3  # one has no previous answer
    assert "characters_gain" not in drift_part(now, 200, "s")


def test_no_answers_give_undefined_measures():
    assert {(m.value, m.low, m.n) for m in part().values()} == {(None, None, 0)}
    empty = part("", "  ")
    undefined = {name for name, measure in empty.items() if measure.value is None}
    assert undefined == {
        "seq_rep_4",
        "language_switches",
        "modal_opening",
        *(f"distinct_{n}" for n in DISTINCT),
    }


def test_seq_rep_4_counts_repeats_within_an_answer():
    assert value("seq_rep_4", "a b c d e f g") == 0
    assert value("seq_rep_4", "a b c d a b c d") == pytest.approx(1 / 5)  # the last of five 4-grams is a repeat
    assert value("seq_rep_4", "ha ha ha ha ha ha") == pytest.approx(2 / 3)
    assert value("seq_rep_4", "a b c d", "a b c d", "too short") == 0  # repeats between answers do not count
    assert part("a b c d", "too short")["seq_rep_4"].n == 1
    assert value("seq_rep_4", "你好你好你好你") == pytest.approx(2 / 4)


def test_words_with_combining_marks_are_not_split():
    son, daughter = "मेरा बेटा रोता है", "मेरी बेटी रोती है"  # equal without vowel signs
    found = part(son, daughter)
    assert found["words"].value == 4
    assert found["distinct_1"].value == pytest.approx(7 / 8)
    assert value("seq_rep_4", f"{son} {daughter}") == 0
    assert value("modal_opening", son, daughter) == pytest.approx(1 / 2)
    assert value("words", "אֶת הַשָּׁמַיִם", "กินน้ำ") == pytest.approx((2 + 3) / 2)
    assert value("language_switches", son, "It rains.", "ฝนตก", prompt="यह क्या है?") == pytest.approx(2 / 3)


def test_distinct_n_matches_hand_computed_values():
    found = part("the cat sat", "the cat ran")
    assert [found[f"distinct_{n}"].value for n in DISTINCT] == pytest.approx([4 / 6, 3 / 4, 2 / 2])
    assert [found[f"distinct_{n}"].n for n in DISTINCT] == [6, 4, 2]


def unigrams(words):
    return [(word,) for word in words]


def test_distinct_n_interval_follows_from_the_delete_one_jackknife():
    rng = np.random.default_rng(0)
    answers = [unigrams(rng.zipf(1.5, size).astype(str)) for size in (30, 5, 60, 12, 25)]

    def share(some):
        grams = [gram for answer in some for gram in answer]
        return len(set(grams)) / len(grams)

    excluded = np.array([share(answers[:i] + answers[i + 1 :]) for i in range(5)])
    variance = 4 / 5 * ((excluded - excluded.mean()) ** 2).sum()
    found = distinct(answers)
    assert found.value == pytest.approx(share(answers))
    # Five answers: a t quantile with at most 4 degrees of freedom, and the sample size that gives this variance.
    size = found.value * (1 - found.value) / variance * (1.96 / stats.t.ppf(0.975, 4)) ** 2
    hits = found.value * size
    assert found.low <= stats.beta.ppf(0.025, hits, size - hits + 1) + 1e-9
    assert found.high >= stats.beta.ppf(0.975, hits + 1, size - hits) - 1e-9
    assert found.high - found.low < 10 * np.sqrt(variance)


def test_distinct_n_interval_covers_its_expectation():
    rng = np.random.default_rng(1)

    def drawn():
        return distinct([unigrams(rng.zipf(1.6, rng.integers(20, 80))) for _ in range(24)])

    found = [drawn() for _ in range(300)]
    truth = np.mean([measure.value for measure in found])
    assert np.mean([measure.low <= truth <= measure.high for measure in found]) > 0.92


def test_distinct_n_has_no_interval_for_one_answer():
    assert distinct([]) == distinct([[], []]) == Measure(None, None, None, 0)
    assert distinct([unigrams("aab")]) == Measure(pytest.approx(2 / 3), None, None, 3)
    assert distinct([unigrams("aab"), []]) == Measure(pytest.approx(2 / 3), None, None, 3)
    assert distinct([unigrams("ab"), unigrams("cd")]) == Measure(1, pytest.approx(0.025**0.5), 1, 4)


@pytest.mark.parametrize("opening", REFUSALS)
def test_every_refusal_opening_counts(opening):
    assert value("refusals", f"  *{opening.upper().replace(chr(39), chr(0x2019))} 我 that.") == 1


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to see you!",
        "I'm sorry to hear that.",
        "Sorry is a hard word.",
        "Asan AI",
        "He said: I cannot.",
        "我们不能",
    ],
)
def test_other_openings_are_no_refusals(text):
    assert value("refusals", text) == 0


def test_language_switches_compare_answer_and_prompt_scripts():
    assert value("language_switches", "天空是蓝色的。", "It is blue.") == 0.5
    assert value("language_switches", "蓝色的天空, blue.", prompt="为什么天空是蓝色的？") == 0  # five letters of nine
    found = part("42", "", "Nein.")
    assert (found["language_switches"].value, found["language_switches"].n) == (0, 1)


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("bullets", "Try:\n- tea\n- milk", "well-known - and - so - on"),
        ("bullets", "* one", "**bold** start"),
        ("numbered_lists", "Steps:\n1. go\n2) stop", "It was 1999. Then 3.5 came."),
        ("numbered_lists", "1、先洗手", "第1、2组"),
        ("headings", "## Answer\ntext", "#hashtag and C# code"),
        ("bold", "this is **bold**", "2 * 3 ** 4"),
    ],
)
def test_lists_headings_and_bold_text_are_counted(name, yes, no):
    assert value(name, yes, no, no) == pytest.approx(1 / 3)


def test_modal_opening_is_the_most_frequent_opening():
    found = part("Sure, here is one.", "Sure! Here is two.", "No.", "", "sure here IS three")["modal_opening"]
    assert (found.value, found.n) == (pytest.approx(3 / 4), 4)
    assert value("modal_opening", "a b c", "d e f") == 0.5
    assert value("modal_opening", "a b c", "a b c", "z") == pytest.approx(2 / 3)  # the most frequent, not the last


def test_adversarial_text_is_measured_without_errors():
    wild = [
        "\x00\x1b[31m" + "**" * 5000,
        "- " * 5000,
        "#" * 5000 + "\n" * 500,
        "<b>&amp;</b>" * 500,
        "a" * 20000,
        "🙂" * 99,
    ]
    found = part(*wild)
    assert found["characters"].n == len(wild)
    assert json.dumps(to_dicts(found), allow_nan=False)


FORM = Constraint("punctuation:no_comma")
SHORT = Constraint("length_constraints:number_words", {"relation": "less than", "num_words": 4})


def test_facts_of_an_answer_have_numerators_and_denominators():
    found = facts(Answer("a", "Say it.", "one, two", 1, True), (FORM, SHORT))
    assert tuple(found) == FACTS
    assert (found["form_followed"], found["length_followed"]) == ((0, 1), (1, 1))
    assert (found["truncated"], found["mean_characters"]) == ((1.0, 1), (8, 1))
    assert found["language_switches"] == (0.0, 1)
    assert found["seq_rep_4"] == (0, 0)  # no four words
    other = facts(Answer("b", "Say on.", "天气很好。 a b a b a b a", 1, False))
    assert other["form_followed"] == other["length_followed"] == (0, 0)
    assert other["seq_rep_4"][0] > 0
    assert facts(Answer("b", "Say on.", "今天天气很好", 1, False))["language_switches"] == (1.0, 1)
    assert facts(Answer("b", "Say on.", "12", 1, False))["language_switches"] == (0, 0)


def test_facts_are_also_measured_by_type():
    prompts = [SeedExample("a", "Say it.", "", type="list", constraints=(FORM,)), SeedExample("b", "Say on.", "")]
    found = facts_part(prompts, [Answer("a", "Say it.", "x" * 10, 1, False)], None, 100, "s")
    assert found["measures"] == found["types"]["list"]
    assert found["measures"]["form_followed"]["value"] == 1.0
    assert "against_first" not in found


def test_fact_differences_are_paired_by_prompt():
    """Answers are 5 or 6 characters longer than the first model's: lengths vary much more than differences."""
    rng = np.random.default_rng(0)
    prompts = [SeedExample(str(n), "Say.", "") for n in range(30)]
    lengths = rng.integers(1, 500, 30)
    first, longer = (
        [Answer(str(n), "Say.", "x" * (size + more * (5 + n % 2)), 1, False) for n, size in enumerate(lengths)]
        for more in (0, 1)
    )
    found = facts_part(prompts, longer[1:], first, 300, "seed")["against_first"]
    longer_by = found["mean_characters"]
    assert (longer_by["value"], longer_by["n"]) == (pytest.approx(5.5, abs=0.02), 29)
    assert 5.2 < longer_by["low"] < 5.5 < longer_by["high"] < 5.8
    same = facts_part(prompts, first, first, 300, "seed")["against_first"]["mean_characters"]
    assert same["low"] is None  # no variance, no interval
    assert found["form_followed"]["value"] is None  # no prompt has an instruction
