"""SFT samples as token ids, with a label and a weight per token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srlm.errors import ConfigError
from srlm.judges import pairwise
from srlm.judges.prompt import JudgeTemplate, judge_target
from srlm.models.chat import Message
from srlm.models.conversation import messages_of
from srlm.training.masking import EncodedChat, Part, encode_answers, labels_of, looks_at_prompts, token_weights
from srlm.training.methods.sft import SFTConfig, Turns
from srlm.training.shared_spans import mark_pattern, mark_repeated
from srlm.types import JudgeExample, SeedExample

Chats = Mapping[str, Sequence[Sequence[Message]]]  # "ift" or "eft" -> chats that end with an assistant message


@dataclass(frozen=True)
class Samples:
    """Samples as token ids with labels and weights, one list per sample, and the numbers of excluded samples."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    weights: list[list[float]]
    places: list[tuple[str, int]]  # each sample's kind, and its index among the chats of that kind
    too_long: int  # chats longer than sft.max_length tokens; answers are never truncated
    without_target: int  # samples without a token to train on
    cut: int = 0  # conversations whose last turns are left out, because they end after sft.max_length tokens

    def counts(self) -> dict[str, int]:
        """Return the counts for the stage manifest."""
        trained = sum(weight > 0 for weights in self.weights for weight in weights)
        return {
            "examples": len(self.input_ids),
            "too_long": self.too_long,
            "without_target": self.without_target,
            "conversations_cut": self.cut,
            "tokens": sum(map(len, self.input_ids)),
            "tokens_learnt": trained,
        }


def ift_example(example: SeedExample) -> list[Message]:
    """Return the chat that SFT trains on for an IFT example."""
    return [*messages_of(example.conversation), {"role": "assistant", "content": example.response}]


def eft_example(example: JudgeExample, template: JudgeTemplate) -> list[Message]:
    """Return the chat that SFT trains on for an EFT example: the judge's prompt, and the verdict as the answer."""
    if example.other is not None:
        texts = (example.response, example.other)
        question = pairwise.question(template.template, example.conversation, *texts, "ab")
        target = pairwise.verdict(example.score == 1, "ab")
    else:
        question = template.messages(example.conversation, example.response)
        target = judge_target(example.rationale, example.score)
    return [*question, {"role": "assistant", "content": target}]


def chats_of(
    rows: Sequence[SeedExample | JudgeExample], template: JudgeTemplate | None = None
) -> dict[str, list[list[Message]]]:
    """Return the chats that SFT trains on, by kind: "ift", and with a judge's template "eft"."""
    chats = {"ift": [ift_example(row) for row in rows if isinstance(row, SeedExample)]}
    if template is not None:
        chats["eft"] = [eft_example(row, template) for row in rows if isinstance(row, JudgeExample)]
    return chats


def conversations(tokenizer: Any, chats: Chats, options: SFTConfig, with_prompts: bool) -> dict[str, list[EncodedChat]]:
    """Return the samples of chats of each kind, without answers that end after `options.max_length` tokens.

    With `with_prompts`, shared text is marked: the matches of `options.shared_text`, or the text that all prompts of a
    kind share.

    Raises
    ------
    ConfigError
        If `options.shared_text` matches nothing in any prompt.
    """
    every = options.turns is Turns.all
    encoded = {
        kind: [
            replace(sample, number=number)
            for number, (chat, shared) in enumerate(zip(of_kind, shared_answers(of_kind), strict=True))
            for sample in encode_answers(tokenizer, chat, every, with_prompts, options.max_length or 0, shared)
        ]
        for kind, of_kind in chats.items()
    }
    if not with_prompts:
        return encoded
    if not options.shared_text:
        return {kind: mark_repeated(of_kind) for kind, of_kind in encoded.items()}
    marked = {kind: mark_pattern(of_kind, options.shared_text) for kind, of_kind in encoded.items()}
    if not any(Part.boilerplate in conversation.parts for of_kind in marked.values() for conversation in of_kind):
        raise ConfigError(
            f"sft.shared_text={options.shared_text!r} matches nothing in the prompts of "
            f'{sum(map(len, marked.values()))} examples. Change it, or set sft.shared_text="" to find it in the data.'
        )
    return marked


def encode(tokenizer: Any, chats: Chats, options: SFTConfig) -> Samples:
    """Return the samples that SFT trains on."""
    input_ids, labels, weights, places = [], [], [], []
    encoded = conversations(tokenizer, chats, options, looks_at_prompts(options.train_on))
    answers: Counter[tuple[str, int]] = Counter()  # that fit, by chat
    for kind, of_kind in encoded.items():
        for sample in of_kind:
            answers[kind, sample.number] += sample.answers
            of_tokens = token_weights(sample.parts, options.train_on, options.prompt_weight)
            if any(of_tokens):
                input_ids.append(sample.ids)
                labels.append(labels_of(sample.ids, of_tokens))
                weights.append(of_tokens)
                places.append((kind, sample.number))
    cut = 0
    if options.turns is Turns.all:
        wanted = {
            (kind, number): len(_answers(chat)) - len(shared)
            for kind, of_kind in chats.items()
            for number, (chat, shared) in enumerate(zip(of_kind, shared_answers(of_kind), strict=True))
        }
        cut = sum(count < wanted[place] for place, count in answers.items())
    too_long = sum(map(len, chats.values())) - len(answers)
    without_target = sum(map(len, encoded.values())) - len(input_ids)
    return Samples(input_ids, labels, weights, places, too_long, without_target, cut)


def shared_answers(chats: Sequence[Sequence[Message]]) -> list[set[int]]:
    """Return, for each chat, the numbers of its answers that another chat trains after the same turns.

    The conversations of a tree share their first turns. An answer is trained in the chat that ends with it, or in the
    first one that has it.
    """

    def key(chat: Sequence[Message], end: int) -> tuple[str, ...]:
        return tuple(text for message in chat[: end + 1] for text in (message["role"], message["content"]))

    trained = {key(chat, len(chat) - 1) for chat in chats}
    shared: list[set[int]] = []
    for chat in chats:
        earlier = [key(chat, end) for end in _answers(chat)[:-1]]
        shared.append({number for number, one in enumerate(earlier) if one in trained})
        trained.update(earlier)
    return shared


def _answers(chat: Sequence[Message]) -> list[int]:
    """Return the indices of the assistant's messages."""
    return [n for n, message in enumerate(chat) if message["role"] == "assistant"]
