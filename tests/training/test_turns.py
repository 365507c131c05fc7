"""Conversations in SFT: which answers are trained, after which prompt, compared with the engine's prompts and TRL."""

from __future__ import annotations

from typing import Any

import pytest

from srlm.models.chat import encode_chat, encode_turn
from srlm.training.encoding import encode
from srlm.training.masking import IGNORED
from srlm.training.methods.sft import SFTConfig, TrainOn, Turns
from tests.helpers import tiny_llama, tiny_tokenizer, user
from tests.training.families import CHATML, FAMILIES, SINGLE_TURN

ALL = FAMILIES | SINGLE_TURN
TOKENIZERS = {name: family.tokenizer() for name, family in ALL.items()}
THOUGHT = "<think>\nTwo and two.\n</think>\n\n"


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHAT = [*user("Two and two?"), assistant("Four."), *user("And three?"), assistant("Five, I think."), *user("Sure?"),
        assistant("No.")]  # fmt: skip
THOUGHTFUL = [{**message, "content": THOUGHT + message["content"]} if message["role"] == "assistant" else message
              for message in CHAT]  # fmt: skip


def spans(labels: list[int]) -> list[tuple[int, int]]:
    """Return the (start, end) of each span of trained tokens."""
    starts = [i for i, label in enumerate(labels) if label != IGNORED and (i == 0 or labels[i - 1] == IGNORED)]
    return [
        (start, next((i for i in range(start, len(labels)) if labels[i] == IGNORED), len(labels))) for start in starts
    ]


def trained(tokenizer: Any, chat: list[dict[str, str]], **options: Any) -> list[tuple[list[int], list[int]]]:
    """Return the ids before each span of trained tokens, and the ids of the span."""
    samples = encode(tokenizer, {"ift": [chat]}, SFTConfig(**options))
    return [
        (ids[:start], ids[start:end])
        for ids, labels in zip(samples.input_ids, samples.labels, strict=True)
        for start, end in spans(labels)
    ]


@pytest.mark.parametrize("chat", [CHAT, THOUGHTFUL], ids=["answers", "thoughts"])
@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_every_answer_is_trained_once_after_the_prompt_that_an_engine_gets(
    name: str, system: bool, chat: list[dict[str, str]]
) -> None:
    tokenizer = TOKENIZERS[name]
    chat = [{"role": "system", "content": "Be brief."}] * system + chat
    expected = [
        encode_turn(tokenizer, chat[:n], message["content"])
        for n, message in enumerate(chat)
        if message["role"] == "assistant"
    ]
    assert trained(tokenizer, chat) == expected
    assert [prompt for prompt, _ in expected] == [
        encode_chat(tokenizer, chat[:n]) for n, message in enumerate(chat) if message["role"] == "assistant"
    ]
    assert trained(tokenizer, chat, turns=Turns.last) == expected[-1:]


def test_a_template_that_keeps_earlier_answers_needs_one_sample() -> None:
    for name, count in (("chatml", 1), ("llama 3", 1), ("qwen 3", 3)):
        assert len(encode(TOKENIZERS[name], {"ift": [CHAT]}, SFTConfig()).input_ids) == count


def test_dropped_thoughts_are_trained_and_not_part_of_later_prompts() -> None:
    tokenizer = TOKENIZERS["qwen 3"]
    template = tokenizer.chat_template.replace(
        "m['content'] + '<|im_end|>", "m['content'].split('</think>')[-1].lstrip() + '<|im_end|>"
    )
    tokenizer = SINGLE_TURN["qwen 3"].make(template)
    found = trained(tokenizer, THOUGHTFUL)
    assert [tokenizer.decode(answer) for _, answer in found] == [
        f"{THOUGHT}{text}<|im_end|>" for text in ("Four.", "Five, I think.", "No.")
    ]
    assert not any("<think>" in tokenizer.decode(prompt) for prompt, _ in found)
    # Prompts are located, too, although the template shortens the answers between them. Each is trained once.
    texts = [tokenizer.decode(ids) for _, ids in trained(tokenizer, THOUGHTFUL, train_on=TrainOn.all)]
    assert [text for text in texts if "<|im_end|>" not in text] == ["Two and two?", "And three?", "Sure?"]


def test_earlier_answers_are_prompts_if_only_the_last_one_is_trained() -> None:
    texts = [
        TOKENIZERS["chatml"].decode(ids)
        for _, ids in trained(TOKENIZERS["chatml"], CHAT, turns=Turns.last, train_on=TrainOn.all)
    ]
    assert texts == ["Two and two?", "Four.", "And three?", "Five, I think.", "Sure?", "No.<|im_end|>"]


@pytest.mark.parametrize("name", ["chatml", "qwen 3"])
def test_answers_that_end_after_the_limit_are_left_out_and_counted(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    lengths = [sum(map(len, encode_turn(tokenizer, CHAT[:n], CHAT[n]["content"]))) for n in (1, 3, 5)]
    chats = {"ift": [CHAT, [*user("Two and ten?"), CHAT[1]]]}
    for limit, answers, cut, too_long in (
        (lengths[2], 4, 0, 0), (lengths[2] - 1, 3, 1, 0), (lengths[0], 2, 1, 0), (lengths[0] - 1, 0, 0, 2)
    ):  # fmt: skip
        samples = encode(tokenizer, chats, SFTConfig(max_length=limit))
        assert sum(len(spans(labels)) for labels in samples.labels) == answers
        assert (samples.cut, samples.too_long) == (cut, too_long)
        assert all(len(ids) <= limit for ids in samples.input_ids)
    samples = encode(tokenizer, chats, SFTConfig(max_length=lengths[1], turns=Turns.last))
    assert (len(samples.input_ids), samples.cut, samples.too_long) == (1, 0, 1)  # never cut to another answer


def test_answers_that_conversations_share_are_trained_once() -> None:
    tokenizer = TOKENIZERS["chatml"]
    branch = [*CHAT[:4], *user("Why?"), assistant("So.")]
    chats = {"ift": [CHAT, branch, CHAT[:2], [*user("Other?"), CHAT[1]]]}
    samples = encode(tokenizer, chats, SFTConfig())
    learnt = [
        [tokenizer.decode(ids[start:end]).removesuffix("<|im_end|>") for start, end in spans(labels)]
        for ids, labels in zip(samples.input_ids, samples.labels, strict=True)
    ]
    assert learnt == [["Five, I think.", "No."], ["So."], ["Four."], ["Four."]]
    assert samples.cut == 0
    assert len(encode(tokenizer, chats, SFTConfig(turns=Turns.last)).input_ids) == 4


def test_masks_equal_those_of_trl(tmp_path: Any) -> None:
    """TRL finds answers by the {% generation %} blocks of a template (assistant_only_loss)."""
    from datasets import Dataset
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    marked = CHATML.replace(
        "{{ m['content'] }}<|im_end|>\n{% endfor %}",
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}",
    )
    chats = [
        CHAT,
        [{"role": "system", "content": "Be brief."}, *CHAT],
        [*user("Two?"), assistant("2.")],
        [*user("天?"), assistant("a\n\nb")],
    ]
    theirs = tiny_tokenizer(marked)
    arguments = Arguments(
        str(tmp_path), assistant_only_loss=True, max_length=None, report_to=[], use_cpu=True, bf16=False, packing=False
    )
    model = tiny_llama(len(theirs), seed=0)
    trainer = SFTTrainer(
        model, arguments, train_dataset=Dataset.from_dict({"messages": chats}), processing_class=theirs
    )
    ours = encode(tiny_tokenizer(CHATML), {"ift": chats}, SFTConfig())
    for number, row in enumerate(trainer.train_dataset):
        last = len(ours.input_ids[number])  # without the newline after the last end of turn, which is not trained
        assert row["input_ids"][:last] == ours.input_ids[number]
        labels = row.get("labels") or [
            token if mask else IGNORED for token, mask in zip(row["input_ids"], row["assistant_masks"], strict=True)
        ]
        assert labels[:last] == ours.labels[number]
        assert set(labels[last:]) <= {IGNORED}
