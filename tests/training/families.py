"""Chat templates of common model families, each with a small tokenizer of the same kind and its control tokens.

Templates follow each family's documented format; the small tokenizers split text as the family's do:
by bytes (like GPT-2) or with "▁" for a blank and byte fallback (like SentencePiece).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srlm.models.chat_template import prepare
from srlm.models.config import ModelConfig
from tests.helpers import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (  # ChatML with a default system prompt
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
) + CHATML
LLAMA_2 = (  # the system prompt is in the first user message, whitespace is stripped, the assistant has no role mark
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' +"
    " messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}{% if loop.index0 == 0 %}{% set text = system + m['content'] %}"
    "{% else %}{% set text = m['content'] %}{% endif %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' +"
    " m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}"
    "{{ text }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (  # [INST] and [/INST] are control tokens
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
ALPACA = (  # no control token except the end of sequence
    "{{ 'Below is an instruction that describes a task. Write a response that completes it.\n\n' }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
ZEPHYR = (  # the assistant's role is always rendered
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
VICUNA = (  # only text, and no role when an answer is requested
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] }}{% else %}"
    "{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)

QWEN_3 = (  # an empty thought before the last answer, and none if an answer is requested
    "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}{% set text = m['content'] %}"
    "{% set thought = '' %}{% if '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1]"
    " %}{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n<think>\n' +"
    " thought.strip('\n') + '\n</think>\n\n' + text + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and "
    "enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template and the text of it that is trained on.

    Attributes
    ----------
    strips : bool
        Whether the template strips whitespace from the texts.
    closes : str
        The text that ends an answer.
    has_system : bool
        Whether the template accepts system messages.
    """

    template: str
    make: Callable[[str], Any]
    closes: str
    strips: bool = False
    has_system: bool = True

    def tokenizer(self) -> Any:
        """Return the family's tokenizer as `load_tokenizer` prepares it."""
        tokenizer = self.make(self.template)
        prepare(tokenizer, ModelConfig())
        return tokenizer


def by_bytes(*special: str, bos: str | None = None, eos: str = "<|im_end|>") -> Callable[[str], Any]:
    """Return a maker of byte-level tokenizers like GPT-2's, with these control tokens and ChatML's."""

    def make(template: str) -> Any:
        from tokenizers import processors

        tokenizer = tiny_tokenizer(template, eos)
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # offsets exclude blanks
        tokenizer.add_special_tokens({"additional_special_tokens": [*tokenizer.all_special_tokens, *special]})
        if bos:
            tokenizer.add_special_tokens({"bos_token": bos})
        return tokenizer

    return make


def by_pieces(*special: str, eos: str = "</s>", prefix: bool = False) -> Callable[[str], Any]:
    """Return a maker of tokenizers like SentencePiece's: a blank is "▁" and begins a word, with byte fallback.

    With `prefix`, a blank is prepended to a text, like Llama 2's and Mistral's tokenizers do.
    """

    def make(template: str) -> Any:
        from tokenizers import Tokenizer, decoders, models, normalizers
        from transformers import PreTrainedTokenizerFast

        letters = [chr(code) for code in range(33, 127)]
        merges = [("▁", letter) for letter in letters] + [("t", "h"), ("▁t", "he"), ("h", "e"), ("\n", "\n")]
        words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n", *letters]
        words += [first + second for first, second in merges]
        model = models.BPE(
            {word: place for place, word in enumerate(words)}, merges, byte_fallback=True, unk_token="<unk>"
        )
        tokenizer = Tokenizer(model)
        replaced = normalizers.Replace(" ", "▁")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token=eos,
            pad_token="<pad>",
            unk_token="<unk>",
            additional_special_tokens=list(special),
            clean_up_tokenization_spaces=False,
        )
        fast.chat_template = template
        return fast

    return make


FAMILIES = {
    "chatml": Family(CHATML, by_bytes(), "<|im_end|>"),
    "qwen": Family(QWEN, by_bytes(), "<|im_end|>"),
    "llama 2": Family(LLAMA_2, by_pieces(), " </s>", strips=True),
    "llama 3": Family(
        LLAMA_3,
        by_bytes("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", bos="<|begin_of_text|>", eos="<|eot_id|>"),
        "<|eot_id|>",
        strips=True,
    ),
    "gemma": Family(
        GEMMA,
        by_pieces("<start_of_turn>", "<end_of_turn>", eos="<eos>"),
        "<end_of_turn>",
        strips=True,
        has_system=False,
    ),
    "mistral": Family(MISTRAL, by_pieces("[INST]", "[/INST]"), "</s>", has_system=False),
    "alpaca": Family(ALPACA, by_bytes(eos="<|endoftext|>"), "<|endoftext|>"),
    "zephyr": Family(ZEPHYR, by_pieces(), "</s>"),
    "vicuna": Family(VICUNA, by_pieces(), "</s>", has_system=False),
}
# Excluded from tests of several turns: decoding adds blanks, and only the last answer has a prefix.
SINGLE_TURN = {
    "llama 2, blank in front": Family(LLAMA_2, by_pieces(prefix=True), " </s>", strips=True),
    "qwen 3": Family(QWEN_3, by_bytes(), "<|im_end|>"),
}
