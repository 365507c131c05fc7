"""`tiny-random`: a two-layer Llama with random weights and a small tokenizer, for tests that take seconds.

After SFT on the smoke experiment's verdict-only judge examples it generates valid verdicts, at random.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from srlm.models.chat_template import read_chat_template

VOCABULARY = 1024
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build(folder: Path) -> None:
    """Write the checkpoint to `folder`; the files are deterministic."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = resources.files("srlm.data") / "builtin" / "ift.jsonl"
    rows = [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()]
    words = [row[field] for row in rows for field in ("prompt", "response")] + ["Score: 0 1 2 3 4 5"] * 20
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=_SPECIAL,
    )
    fast.chat_template = read_chat_template("chatml")
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
