"""Chats as token ids: the chat template, prompts, answers and the end of a turn, the same in training and inference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srlm.errors import EngineError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # {"role": "user", "content": "..."}


def load_tokenizer(folder: Path, chat_template: str = "", trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that is to be used, and a padding token.

    Raises
    ------
    ModelError
        If neither the model nor the option gives a chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer of {folder} cannot be loaded: {error}") from error
    if chat_template:
        tokenizer.chat_template = read_chat_template(chat_template)
    if not tokenizer.chat_template:
        raise ModelError(
            f"The model in {folder} has no chat template of its own. Name one: model.chat_template=chatml "
            f"(known: {', '.join(chat_template_names())}) or the path of a .jinja file."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chat_template_names() -> list[str]:
    folder = resources.files("srlm") / "chat_templates"
    return sorted(file.name.removesuffix(".jinja") for file in folder.iterdir() if file.name.endswith(".jinja"))


def read_chat_template(name: str) -> str:
    """The text of a named chat template or of a .jinja file."""
    if name in chat_template_names():
        return (resources.files("srlm") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.chat_template={name}: neither a known template ({', '.join(chat_template_names())}) nor a file."
        )
    return path.read_text(encoding="utf-8")


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    added = tokenizer.added_tokens_decoder.values()
    tokens = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    # A single character cannot be spelt otherwise; no known model has such a control token.
    longest_first = sorted((token for token in tokens if len(token.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def defuse(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """`text` with every control token of the model spelt so that it is encoded as plain characters.

    Text from seeds and models is untrusted: "<|im_end|>" inside an answer must not end the turn it stands in. A space
    goes in after the token's first character.
    """
    pattern = _special_tokens(tokenizer)
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = "") -> list[int]:
    """Token ids of a chat that the assistant is to go on with, contents defused.

    Parameters
    ----------
    messages : sequence of {"role", "content"}
        The last one is the user's.
    prefill : str
        The beginning of the assistant's reply, given to it.
    """
    plain = [{**message, "content": defuse(message["content"], tokenizer)} for message in messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(f"{text}{prefill}", add_special_tokens=False)["input_ids"]
    return list(ids)  # the template itself writes the tokens that begin a text, where the model has such


def render_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> tuple[str, str]:
    """The text of a chat up to where the assistant begins, and what the template makes of its answer; contents defused.

    Raises
    ------
    ModelError
        If the template renders a chat differently once the answer is there, so that the two cannot be told apart.
    """
    plain = [{**message, "content": defuse(message["content"], tokenizer)} for message in messages]
    before: Any = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    plain.append({"role": "assistant", "content": defuse(answer, tokenizer)})
    whole: Any = tokenizer.apply_chat_template(plain, tokenize=False)
    if not whole.startswith(before):
        raise ModelError(
            "The chat template renders a prompt differently before and after the answer, so the answer's tokens "
            "cannot be "
            "found. Use another one, such as model.chat_template=chatml."
        )
    return before, whole[len(before) :]


def encode_turn(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], answer: str, ended: bool = True
) -> tuple[list[int], list[int]]:
    """Token ids of a chat up to where the assistant begins, and of its answer with the end of turn.

    With `ended=False`, for an answer that hit a token limit, the ids stop where its text stops: whatever the template
    writes after an answer is left out.

    The first part is exactly what an engine is given, so that training and inference see the same context; whatever
    the template puts behind the end of turn (a newline, often) is not learnt. Contents are defused.

    Raises
    ------
    ModelError
        As `render_turn` does.
    """
    prompt_ids = encode_chat(tokenizer, messages)
    _, after = render_turn(tokenizer, messages, answer)
    if not ended:
        closing = render_turn(tokenizer, messages, "¶")[1].partition("¶")[2]
        return prompt_ids, tokenizer(after.removesuffix(closing), add_special_tokens=False)["input_ids"]
    completion_ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    ends = [i for i, token in enumerate(completion_ids) if token in tokenizer.all_special_ids]
    if ends:
        completion_ids = completion_ids[: ends[-1] + 1]
    else:
        completion_ids.append(tokenizer.eos_token_id)
    return prompt_ids, completion_ids


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str, choices: Sequence[str]
) -> tuple[list[int], list[int]]:
    """A chat as `encode_chat` gives it, and for each choice the one token that goes on with it after `prefill`.

    Choice and prefill are encoded together, as they were in training: where a model writes " 5" as a space and a digit,
    the space goes to the chat's end.

    Raises
    ------
    EngineError
        If the choices differ in more than one token.
    """
    whole = [encode_chat(tokenizer, messages, f"{prefill}{choice}") for choice in choices]
    if len({tuple(ids[:-1]) for ids in whole}) > 1 or len({ids[-1] for ids in whole}) < len(choices):
        raise EngineError(
            f"After {prefill!r}, the choices {', '.join(map(repr, choices))} differ in more than one token for this "
            "model; an answer by probabilities needs choices of one token each."
        )
    return whole[0][:-1], [ids[-1] for ids in whole]
