"""Which tokens carry the loss.

An example is one sequence of token ids with a label for each: the id itself where the token is learnt, -100 where it
is not. SFT learns the answer's tokens and the end of turn that closes it, never the prompt (arXiv 2401.10020,
section 3.1.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srlm.errors import ModelError
from srlm.models import Message, defuse, encode_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that PyTorch's cross entropy leaves out


def completion_labels(prompt_ids: list[int], completion_ids: list[int]) -> tuple[list[int], list[int]]:
    """Ids and labels of an example whose completion alone is learnt.

    Parameters
    ----------
    prompt_ids, completion_ids : list of int, lengths p and c

    Returns
    -------
    input_ids, labels : lists of int, length p + c
    """
    return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids


def encode_turn(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], answer: str
) -> tuple[list[int], list[int]]:
    """Token ids of a chat up to where the assistant begins, and of its answer with the end of turn.

    The first part is exactly what an engine is given, so that training and inference see the same context; whatever
    the template puts behind the end of turn (a newline, often) is not learnt. Contents are defused.

    Raises
    ------
    ModelError
        If the template renders a chat differently once the answer is there, so that the two cannot be told apart.
    """
    prompt_ids = encode_chat(tokenizer, messages)
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
    completion_ids: list[int] = tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"]
    ends = [i for i, token in enumerate(completion_ids) if token in tokenizer.all_special_ids]
    if ends:
        completion_ids = completion_ids[: ends[-1] + 1]
    else:
        completion_ids.append(tokenizer.eos_token_id)
    return prompt_ids, completion_ids
