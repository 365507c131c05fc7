"""srlm.generation.prompts: cleaning, filters, examples, and attempts that do not depend on completion order."""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from srlm.data.splits import Overlap
from srlm.engines.base import Completion
from srlm.errors import EngineError, NoAnswerError, PromptTooLongError
from srlm.generation.config import PromptsConfig
from srlm.generation.prompts import (
    _REDRAWS,
    choose_shots,
    clean,
    load_writer_template,
    rejection,
    repeats,
    write_prompts,
)
from srlm.io.record_file import RecordFile, read_records
from srlm.types import Prompt
from tests.helpers import ScriptedEngine, scripted_number, scripted_words

GOOD = "Explain in two sentences why the sky looks blue at noon."
GOOD_CHINESE = "请用三句话解释为什么海水是咸的。"
CONFIG = PromptsConfig()


def reason(text: str, truncated: bool = False, seen: tuple[str, ...] = (), **options: object) -> str:
    return rejection(text, truncated, PromptsConfig(**{"languages": ["en", "zh"]} | options), Overlap(seen))


# Cleaning


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        (" Name a river.", "Name a river."),
        ("9. Name a river.", "Name a river."),
        ("9) Name a river.", "Name a river."),
        ("Instruction 9: Name a river.", "Name a river."),
        ("instruction: Name a river.", "Name a river."),
        ("Task 12: Name a river.", "Name a river."),
        (' "Name a river."', "Name a river."),
        ('9. "Name a river."', "Name a river."),
        ('"Up" and "down": which is longer?', '"Up" and "down": which is longer?'),
        ('Translate "river" into "French"', 'Translate "river" into "French"'),
        ('"', '"'),
        ("", ""),
        (" \n", ""),
        ("Name two.\n1. A river.\n2. A sea.", "Name two.\n1. A river.\n2. A sea."),
        ("3 rivers of Asia: name them.", "3 rivers of Asia: name them."),
        ("Instructions for tea: write them.", "Instructions for tea: write them."),
    ],
)
def test_clean_removes_numbers_labels_and_quotes(completion, text):
    assert clean(completion) == text


@pytest.mark.parametrize(
    "text",
    [
        "3.5 kilograms of flour cost 7 euros. What does one cost?",
        "10:30 is when the train leaves. When must I get up?",
        ".NET or Java: which one is older?",
    ],
)
def test_clean_keeps_the_instruction_unchanged(text):
    assert clean(f" {text}") == text


# Filters


def test_good_prompts_pass():
    assert reason(GOOD) == ""
    assert reason(GOOD_CHINESE) == ""
    assert reason("Print the numbers 1 to 9 in Python: use a {loop}, <b> and a\ttab.\nThen stop.") == ""


@pytest.mark.parametrize("text", ["", "   ", "\n\t\n"])
def test_prompts_without_words_are_rejected(text):
    assert reason(text) == "broken: no words"


def test_truncated_prompts_are_rejected():
    assert reason(GOOD, truncated=True) == "broken: cut off"
    assert reason(GOOD_CHINESE, truncated=True) == "broken: cut off"


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_end|>",
        "<|endoftext|>",
        "<|im_start|>user",
        "\ufffd",
        "\x00",
        "\x07",
        "\x1b[0m",
        "{{",
        "}}",
        "{{response}}",
    ],
)
def test_control_characters_and_template_marks_are_rejected(mark):
    assert reason(f"{GOOD} {mark}") == "broken: control characters or template marks"
    assert reason(f"{GOOD_CHINESE}{mark}") == "broken: control characters or template marks"


def test_single_vertical_bars_are_accepted():
    assert reason("Explain what a | b and a || b mean in a shell, briefly.") == ""


def test_repetitive_prompts_are_rejected():
    assert repeats(list("abcabcabc"))
    assert not repeats(list("abcabc"))
    assert not repeats(list("abc"))
    assert not repeats(list("ab"))
    assert not repeats([])
    assert repeats(list("aaaaa"))  # "a a a" three times, overlapping
    assert not repeats(list("aaaa"))
    assert repeats(list("abxaby"), n=2, times=2)
    assert reason("tell me more " * 3) == "broken: repeats itself"
    assert reason("告诉我" * 3) == "broken: repeats itself"


def test_length_limits_count_words():
    assert reason("one two three", min_words=4) == "too short"
    assert reason("one two three four", min_words=4) == ""
    assert reason("one two three four five six", max_words=5) == "too long"
    assert reason("one two three four five", max_words=5) == ""


def test_length_limits_count_chinese_characters():
    assert reason("为什么？", min_words=4) == "too short"
    assert reason("为什么呢？", min_words=4) == ""
    assert reason("请解释为什么", max_words=5) == "too long"
    assert reason("请解释原因", max_words=5) == ""


HINDI = "मैं रोज़ सुबह छह बजे उठता हूँ लेकिन दफ़्तर देर से पहुँचता हूँ। मुझे समय बचाने के पाँच आसान तरीके बताइए।"  # 21 words
THAI = "การอ่านการเขียนและการพูดต่างกันอย่างไร"  # การ, three counted letters, occurs three times


def test_length_limits_handle_combining_marks():
    assert reason(HINDI, languages=["hi"], min_words=21, max_words=21) == ""
    assert reason(HINDI, languages=["hi"], max_words=20) == "too long"
    assert reason("चाय बनाओ", languages=["hi"], min_words=3) == "too short"
    assert reason("اِشْرَحْ القَهْوَةَ", languages=["ar"], min_words=3) == "too short"
    assert reason("กินน้ำ", languages=["th"], min_words=4, max_words=4) == "too short"  # กิ น น้ำ
    assert reason("กินน้ำๆ", languages=["th"], min_words=4, max_words=4) == ""


def test_repeats_in_scripts_without_spaces_are_rejected():
    assert reason(THAI, languages=["th"]) == ""
    assert reason("บอกฉัน" * 4, languages=["th"]) == "broken: repeats itself"
    assert reason("ប្រាប់ខ្ញុំ" * 5, languages=["km"]) == "broken: repeats itself"


def test_overlap_handles_combining_marks():
    son, daughter = "मेरा बेटा रोता है, क्या करूँ?", "मेरी बेटी रोती है, क्या करूँ?"
    assert reason(son, seen=(daughter,), languages=["hi"]) == ""
    assert reason(daughter, seen=(daughter.replace("?", "।"),), languages=["hi"]) == "overlap"
    assert reason("اشرح كيف تعد القهوة", seen=("اِشْرَحْ كَيْفَ تُعَدُّ القَهْوَةُ",), languages=["ar"]) == "overlap"


def test_prompts_in_other_languages_are_rejected():
    assert reason("Почему небо днём такое голубое?") == "language"
    assert reason("Почему небо днём такое голубое?", languages=["ru"]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Describe the image that I sent you.", "keyword: image"),
        ("Describe the IMAGE that I sent you.", "keyword: image"),
        ("What is shown (see the graph)?", "keyword: graph"),
        ("Please go to the shop for me.", "keyword: go to"),
        ("描述一下这张图片的内容。", "keyword: 图片"),
        ("Use your imagination and tell a tale.", ""),
        ("Write one paragraph about mapping software.", ""),
        ("Write down why people forgo tobacco.", ""),
        ("讲一讲这个图书馆的历史。", ""),
        ("请打开file看看。", "keyword: file"),
    ],
)
def test_prompts_with_keywords_are_rejected(text, expected):
    assert reason(text) == expected


def test_keywords_handle_combining_marks():
    options = {"languages": ["hi"], "keywords": ["चित्र", "चा"]}
    assert reason("यह चित्र किसने और कब बनाया?", **options) == "keyword: चित्र"
    assert reason("चित्रा से पूछो कि चाय कैसे बनती है।", **options) == ""


def test_keywords_are_words_not_patterns():
    assert reason("Explain what an a.b file name is.", keywords=["a.b"]) == "keyword: a.b"
    assert reason("Explain what an axb name is.", keywords=["a.b"]) == ""
    assert reason("Describe the image that I sent you.", keywords=[]) == ""


def test_prompts_that_overlap_are_rejected():
    assert reason(GOOD, seen=(GOOD.upper(),)) == "overlap"
    assert reason(GOOD, seen=("What is the capital of Peru?",)) == ""
    assert reason(GOOD_CHINESE, seen=("请用三句话解释为什么湖水是咸的。",)) == "overlap"
    assert reason(GOOD_CHINESE, seen=(GOOD,)) == ""


def test_overlap_of_exactly_max_overlap_is_rejected():
    seen = ("a b c d e f g x y z",)
    assert reason("a b c d e f g h i j", seen=seen, max_overlap=0.7) == "overlap"
    assert reason("a b c d e f g h i j", seen=seen, max_overlap=0.71) == ""


# Examples


@pytest.mark.parametrize(
    ("accepted", "from_accepted"),
    [(0, 0), (1, 1), (2, 2), (9, 2)],
)
def test_choose_shots_mixes_seed_and_accepted_prompts(accepted, from_accepted):
    ift = [f"i{n}" for n in range(20)]
    old = [f"t2/p{n}" for n in range(accepted)]
    for seed in range(20):
        shots = choose_shots(random.Random(seed), ift, old, CONFIG)
        assert len(shots) == len(set(shots)) == 8
        assert len(set(shots) & set(old)) == from_accepted
        assert len(set(shots) & set(ift)) == 8 - from_accepted


def test_choose_shots_uses_all_of_few_seeds():
    assert sorted(choose_shots(random.Random(0), ["i0", "i1"], [], CONFIG)) == ["i0", "i1"]
    assert len(choose_shots(random.Random(0), ["i0", "i1"], ["p0", "p1", "p2"], CONFIG)) == 4


def test_choose_shots_follows_the_options():
    config = PromptsConfig(shots_ift=3, shots_generated=0)
    shots = choose_shots(random.Random(0), [f"i{n}" for n in range(9)], ["p0", "p1"], config)
    assert len(shots) == 3
    assert not {"p0", "p1"} & set(shots)


def test_choose_shots_shuffles_both_sources():
    orders = [
        choose_shots(random.Random(seed), [f"i{n}" for n in range(9)], ["p0", "p1"], CONFIG) for seed in range(50)
    ]
    assert {place for shots in orders for place, shot in enumerate(shots) if shot.startswith("p")} == set(range(8))
    assert choose_shots(random.Random(3), ["i0", "i1", "i2"], ["p0"], CONFIG) == choose_shots(
        random.Random(3), ["i0", "i1", "i2"], ["p0"], CONFIG
    )


# Attempts

IFT = {f"i{n}": f"Seed instruction of number {n}: {chr(97 + n) * 5}." for n in range(12)}
SMALL = PromptsConfig(count=10, attempts=4, round_size=4)


def mixed_replies(messages, sampling, prefill, place) -> str | Completion:
    """Return a reply that fails one of the filters in more than half of the attempts."""
    number = scripted_number(messages, sampling, prefill, place)
    text = scripted_words(messages, sampling, prefill, place)
    return number.choice(
        [
            f" {text}",
            f" {text}",
            f" {text}",
            " Too short.",
            f" {text} image",
            " " + IFT["i3"],
            Completion(text, 9, True),
        ]
    )


def write(path, engine, config=SMALL, seed=0, t=2, earlier=None, seen=None, ift=IFT) -> list[Prompt]:
    """Return the accepted prompts in the order of their attempts."""

    async def all_of_them():
        store = RecordFile(path, Prompt)
        seen_ = Overlap([*ift.values(), *(earlier or {}).values()]) if seen is None else seen
        arguments = (load_writer_template(), config, seed, t, ift, earlier or {}, seen_, store)
        found = [prompt async for prompt in write_prompts(engine, *arguments)]
        store.finish()
        return found

    return asyncio.run(all_of_them())


def test_writes_the_requested_count_and_stores_rejected_prompts(tmp_path):
    accepted = write(tmp_path / "p.jsonl", ScriptedEngine(mixed_replies))
    stored = read_records(tmp_path / "p.jsonl", Prompt)
    assert len(accepted) == SMALL.count
    assert [prompt for prompt in stored if not prompt.rejected] == accepted
    assert [prompt.id for prompt in stored] == [f"t2/p{n:05d}" for n in range(len(stored))]
    assert {prompt.rejected for prompt in stored} >= {"", "too short", "keyword: image", "overlap", "broken: cut off"}
    assert all(prompt.text and len(prompt.shots) == 8 for prompt in stored)


def test_prompts_do_not_depend_on_completion_order(tmp_path):
    plain = write(tmp_path / "plain.jsonl", ScriptedEngine(mixed_replies))
    orders = set()
    for order in range(4):
        engine = ScriptedEngine(mixed_replies, scramble=order)
        assert write(tmp_path / f"{order}.jsonl", engine) == plain
        assert (tmp_path / f"{order}.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()
        orders.add(tuple(engine.ended))
    assert len(orders) > 1  # otherwise nothing was scrambled


def test_resume_from_any_prefix_gives_the_same_records(tmp_path):
    whole = tmp_path / "whole.jsonl"
    first = ScriptedEngine(mixed_replies)
    accepted = write(whole, first)
    first_seeds = [sampling.seed for _, sampling, _ in first.calls]
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines) + 1):
        part = tmp_path / f"part_{kept}.jsonl"
        torn = lines[kept][: len(lines[kept]) // 2] if kept < len(lines) else b""
        part.write_bytes(b"".join(lines[:kept]) + torn)
        engine = ScriptedEngine(mixed_replies, scramble=kept)
        assert write(part, engine) == accepted
        assert part.read_bytes() == whole.read_bytes()
        # Stored attempts are not requested again.
        assert not {sampling.seed for _, sampling, _ in engine.calls} & set(first_seeds[:kept])


def test_another_seed_or_iteration_gives_other_prompts(tmp_path):
    first = {prompt.text for prompt in write(tmp_path / "a.jsonl", ScriptedEngine())}
    other_seed = {prompt.text for prompt in write(tmp_path / "b.jsonl", ScriptedEngine(), seed=1)}
    other_t = {prompt.text for prompt in write(tmp_path / "c.jsonl", ScriptedEngine(), t=3)}
    assert not first & other_seed
    assert not first & other_t


def test_requests_do_not_grow_over_calls(tmp_path):
    template = load_writer_template()
    before = template.text
    engine = ScriptedEngine(mixed_replies)
    write(tmp_path / "p.jsonl", engine)
    assert len(engine.calls) > 2 * SMALL.round_size
    head = before.split("{{count}}")[0]
    for (messages, _, prefill), content in zip(engine.calls, engine.contents, strict=True):
        assert len(messages) == 1
        assert content.count(head) == 1
        assert re.findall(r"^Instruction (\d+): ", content, re.MULTILINE) == [str(n) for n in range(1, 9)]
        assert prefill == "Instruction 9:"
    assert load_writer_template().text == before


def test_examples_come_from_ift_and_earlier_rounds(tmp_path):
    accepted = write(tmp_path / "p.jsonl", ScriptedEngine())
    stored = read_records(tmp_path / "p.jsonl", Prompt)
    assert len(accepted) == SMALL.count
    for place, prompt in enumerate(stored):
        start = place - place % SMALL.round_size
        known = {other.id for other in stored[:start] if not other.rejected}
        generated = [shot for shot in prompt.shots if shot not in IFT]
        assert set(generated) <= known
        assert len(generated) == min(SMALL.shots_generated, len(known))


def test_prompts_of_earlier_iterations_are_examples_and_not_repeated(tmp_path):
    earlier = {"t2/p00000": "How do bees find their way back to the hive?", "t2/p00003": "What makes bread rise?"}
    engine = ScriptedEngine(lambda messages, sampling, *_: " " + list(earlier.values())[sampling.seed % 2])
    with pytest.raises(EngineError, match="overlap"):
        write(tmp_path / "p.jsonl", engine, PromptsConfig(count=2, attempts=2), t=3, earlier=earlier)
    assert all(text in content for text in earlier.values() for content in engine.contents)


def test_duplicates_are_rejected_by_attempt_order(tmp_path):
    engine = ScriptedEngine(lambda *_: f" {GOOD}", scramble=1)
    [accepted] = write(tmp_path / "p.jsonl", engine, PromptsConfig(count=2, attempts=4, round_size=8))
    assert accepted.id == "t2/p00000"
    stored = read_records(tmp_path / "p.jsonl", Prompt)
    assert [prompt.rejected for prompt in stored] == ["", *["overlap"] * 7]


def test_decoding_options_reach_the_engine(tmp_path):
    config = PromptsConfig(count=3, temperature=0.35, top_p=0.85, max_new_tokens=77)
    engine = ScriptedEngine()
    write(tmp_path / "p.jsonl", engine, config)
    for _, sampling, _ in engine.calls:
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.35, 0.85, 77)
        assert sampling.n == 1
    seeds = [sampling.seed for _, sampling, _ in engine.calls]
    assert len(set(seeds)) == len(seeds)


def test_no_accepted_prompts_raises_with_the_reasons(tmp_path):
    replies = {0: " Too short.", 1: " Describe the image that I sent you.", 2: " Too short."}
    engine = ScriptedEngine(lambda *_: replies[(len(engine.calls) - 1) % 3])
    config = PromptsConfig(count=3, attempts=2, round_size=1)
    with pytest.raises(EngineError, match=r"None of 6 .*iteration 2.*4 x too short, 2 x keyword: image.*prompts\."):
        write(tmp_path / "p.jsonl", engine, config)
    stored = read_records(tmp_path / "p.jsonl", Prompt)
    assert [prompt.rejected for prompt in stored] == ["too short", "keyword: image", "too short"] * 2


def test_fewer_accepted_prompts_than_requested_is_no_error(tmp_path, capfd):
    def first_is_good(messages, sampling, prefill, place):
        return f" {GOOD}" if len(engine.calls) == 1 else " No."

    engine = ScriptedEngine(first_is_good)
    accepted = write(tmp_path / "p.jsonl", engine, PromptsConfig(count=2, attempts=3, round_size=1))
    assert [prompt.text for prompt in accepted] == [GOOD]
    assert len(engine.calls) == 6
    told = "1 of 2 new prompts are accepted after all 6 attempts; most rejected: 5 x too short"
    assert told in " ".join(capfd.readouterr().err.split())


def test_engine_errors_are_raised_after_storing_finished_attempts(tmp_path):
    def fails_later(messages, sampling, prefill, place):
        if len(engine.calls) > SMALL.round_size:
            raise EngineError("out of memory")
        return f" {scripted_words(messages, sampling, prefill, place)}"

    engine = ScriptedEngine(fails_later)
    with pytest.raises(EngineError, match="out of memory"):
        write(tmp_path / "p.jsonl", engine)
    assert len(read_records(tmp_path / "p.jsonl", Prompt)) == SMALL.round_size
    again = write(tmp_path / "p.jsonl", ScriptedEngine())
    assert again == write(tmp_path / "fresh.jsonl", ScriptedEngine())


# Examples that do not fit into the writer's context

LONG_IFT = {f"seed-{n}": ("word " * (400 if n % 3 == 0 else 5)) + str(n) for n in range(30)}


def with_context(characters: int) -> ScriptedEngine:
    """Return an engine that refuses requests with more characters, including the template."""

    def reply(messages, sampling, prefill, place):
        if len(messages[-1]["content"]) > characters:
            raise PromptTooLongError(f"{len(messages[-1]['content'])} of {characters} characters")
        return mixed_replies(messages, sampling, prefill, place)

    return ScriptedEngine(reply, scramble=7)


def attempts(path, engine, ift=IFT) -> list[Prompt]:
    write(path, engine, ift=ift)
    return read_records(path, Prompt)


def test_too_long_examples_are_replaced_by_new_ones(tmp_path):
    rows = attempts(tmp_path / "p.jsonl", with_context(3000), ift=LONG_IFT)
    accepted = [row for row in rows if not row.rejected]
    assert len(accepted) == SMALL.count
    assert any(row.too_long for row in rows)
    long = {seed for seed, text in LONG_IFT.items() if len(text) > 1000}
    for row in rows:
        assert set(row.too_long) <= long
        assert not set(row.too_long) & set(row.shots)
        assert len(row.shots) == SMALL.shots_ift + SMALL.shots_generated  # a redraw loses no example
    other = attempts(tmp_path / "again.jsonl", with_context(3000), ift=LONG_IFT)
    assert other == rows


def test_examples_that_fit_do_not_depend_on_the_context(tmp_path):
    small = {row.id: row for row in attempts(tmp_path / "p.jsonl", with_context(6000), ift=LONG_IFT)}
    large = {row.id: row for row in attempts(tmp_path / "large.jsonl", with_context(10**6), ift=LONG_IFT)}
    first_round = [f"t2/p{n:05d}" for n in range(SMALL.round_size)]  # later rounds sample from other accepted prompts
    same = [i for i in first_round if not small[i].too_long]
    assert 0 < len(same) < len(first_round)
    assert [small[i] for i in same] == [large[i] for i in same]


def test_fewer_examples_are_shown_when_all_are_long(tmp_path):
    all_long = {f"seed-{n}": "word " * 200 + str(n) for n in range(60)}
    engine = with_context(4000)
    rows = attempts(tmp_path / "p.jsonl", engine, ift=all_long)
    assert sum(not row.rejected for row in rows) == SMALL.count
    assert all(1 <= len(row.shots) < SMALL.shots_ift for row in rows)
    most = _REDRAWS + SMALL.shots_ift + SMALL.shots_generated  # requests of one attempt: fewer than the seeds
    assert len(engine.calls) <= most * SMALL.round_size * -(-len(rows) // SMALL.round_size)
    assert all(len(row.too_long) < most for row in rows)


def test_attempts_without_a_fitting_example_are_rejected(tmp_path):
    all_long = {f"seed-{n}": "word " * 2000 + str(n) for n in range(10)}
    with pytest.raises(EngineError, match=r"examples too long: .*raise engine\.max_model_len"):
        attempts(tmp_path / "p.jsonl", with_context(3000), ift=all_long)


def test_attempts_without_an_answer_are_rejected_with_the_reason(tmp_path):
    def reply(messages, sampling, prefill, place):
        if sampling.seed % 3 == 0:
            raise NoAnswerError("no usable response in 6 tries")
        return scripted_words(messages, sampling, prefill, place)

    rows = attempts(tmp_path / "p.jsonl", ScriptedEngine(reply))
    assert {row.rejected for row in rows} >= {"no answer: no usable response in 6 tries"}
    assert sum(not row.rejected for row in rows) == SMALL.count
