"""Builders that several unit tests share: a scripted engine, small tokenizers, short records."""

from __future__ import annotations

import asyncio
import copy
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Indel

from srlm.cli.check import check
from srlm.cli.schemas import register_external
from srlm.config import C, Config
from srlm.data.words import tokens
from srlm.engines.base import Completion, Sampling, Usage
from srlm.engines.hardware import Hardware
from srlm.evaluation.record import Evaluation
from srlm.generation.candidates import SampleCandidates
from srlm.generation.chain import Chain
from srlm.generation.judgements import JudgeCandidates, MetaJudge
from srlm.generation.prompts import WritePrompts
from srlm.io.progress import Bars
from srlm.judges.prompt import parse_verdict
from srlm.models.chat_template import Message, read_chat_template
from srlm.models.facts import SMOLLM2_135M, facts_of
from srlm.models.resolve import TINY
from srlm.pipeline.stage import RunStage
from srlm.pipeline.workspace import Workspace
from srlm.recipes import find_recipe
from srlm.recipes.runner import Runner, Step
from srlm.run import plain_options
from srlm.tracking.base import NoTracker
from srlm.training.by_model import resolve
from srlm.types import Candidate, Judgement, Prompt, RankedAnswer, RankedPrompt

ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"{a}{b}{c}" for a in ("bo", "ki", "ta", "mu") for b in ("ran", "lim", "dev", "sot") for c in ("o", "e", "i")]

Reply = Callable[[Sequence[Message], Sampling, str, int], "str | Completion"]


def scripted_number(messages: Sequence[Message], sampling: Sampling, prefill: str, place: int) -> random.Random:
    """Return a random generator that depends only on the request and the completion's place."""
    return random.Random(repr(([dict(message) for message in messages], sampling.seed, prefill, place)))


def scripted_words(messages: Sequence[Message], sampling: Sampling, prefill: str, place: int) -> str:
    """Return ten random words, so that two texts hardly overlap."""
    return " ".join(scripted_number(messages, sampling, prefill, place).choices(WORDS, k=10))


class ScriptedEngine:
    """An `srlm.engines.base.Engine` whose text depends only on the request.

    Parameters
    ----------
    reply : callable
        (messages, sampling, prefill, place) -> text or Completion; `place` counts the n completions. It may raise.
    scramble : int or None
        Seed of the random order in which requests end; None = each ends immediately.
    """

    def __init__(self, reply: Reply = scripted_words, scramble: int | None = None):
        self.reply = reply
        self.usage = Usage()
        self.calls: list[tuple[list[Message], Sampling, str]] = []  # in the order they began
        self.ended: list[int] = []  # their seeds, in the order they ended
        self._pauses = None if scramble is None else random.Random(scramble)

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        self.calls.append((list(messages), sampling, prefill))
        await asyncio.sleep(self._pauses.random() * 0.01 if self._pauses else 0)
        replies = [self.reply(messages, sampling, prefill, place) for place in range(sampling.n)]
        self.ended.append(sampling.seed)
        return [
            reply if isinstance(reply, Completion) else Completion(reply, len(reply.split()), False)
            for reply in replies
        ]

    async def close(self) -> None: ...

    @property
    def contents(self) -> list[str]:
        """The user's message of each call."""
        return [messages[-1]["content"] for messages, _, _ in self.calls]


def tiny_tokenizer(template: str = "chatml", end: str = "<|im_end|>") -> Any:
    """Return a byte-level tokenizer with a few merges and ChatML's control tokens, which can encode any text.

    Parameters
    ----------
    template : str
        A packaged chat template's name, or Jinja source.
    end : str
        The end-of-sequence token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("e", "r"), (":", "Ġ"), ("<", "|"), ("|", ">")]
    vocabulary = [*alphabet, *("".join(pair) for pair in merges)]
    model = models.BPE({token: place for place, token in enumerate(vocabulary)}, merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template if "{" in template else read_chat_template(template)
    return fast


def tiny_llama(vocabulary: int, seed: int) -> Any:
    """Return a model with two layers of random weights and hidden size 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def options(*overrides: str) -> Config:
    """Return the options of `python -m srlm.run ~experiment OVERRIDES`, which the caller may change."""
    return copy.deepcopy(_options(*overrides))


@functools.cache
def _options(*overrides: str) -> Config:
    import hydra

    register_external(overrides)
    if not any(word.startswith("experiment=") for word in overrides):
        overrides = ("~experiment", *overrides)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return on_cpu(plain_options(hydra.compose("config", list(overrides))))


def on_cpu(config: C) -> C:
    """Return options with the values that the default model has on a CPU, for those that follow the model."""
    facts = facts_of(config.model) if config.model.name == TINY else None
    return check(resolve(config, [facts or SMOLLM2_135M], Hardware(0, 8.0, False))[0])


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def prompt(id: str = "t2/p00000", text: str = "Name three rivers of Asia.", rejected: str = "") -> Prompt:
    return Prompt(id, text, (), rejected)


def candidates_of(prompt_id: str, texts: Sequence[str]) -> list[Candidate]:
    return [Candidate(f"{prompt_id}/c{i}", prompt_id, text, 3, False) for i, text in enumerate(texts)]


def judgements_of(candidate_id: str, scores: Sequence[float | None]) -> list[Judgement]:
    """Return judgements with these scores; None = unparsed."""
    return [
        Judgement(
            f"{candidate_id}/j{i}",
            candidate_id,
            "no idea" if score is None else f"Fine.\nScore: {score:g}",
            score,
            "no verdict" if score is None else "",
        )
        for i, score in enumerate(scores)
    ]


def judgement_from(candidate_id: str, text: str, place: int = 0, max_score: int = 5) -> Judgement:
    """Return the judgement that the judge stage parses from a completion."""
    score, problem = parse_verdict(text, max_score)
    return Judgement(f"{candidate_id}/j{place}", candidate_id, text, score, problem)


def ranked(
    id: str = "e0",
    ranks: Sequence[int] = (0, 1),
    scores: Sequence[float | None] | None = None,
    rationales: Sequence[str | None] | None = None,
    prompt: str = "",
) -> RankedPrompt:
    """Return a ranked prompt whose answers are "ID answer N"."""
    scores = scores or [None] * len(ranks)
    rationales = rationales or [None] * len(ranks)
    answers = tuple(
        RankedAnswer(f"{id} answer {n}", rank, score, rationale)
        for n, (rank, score, rationale) in enumerate(zip(ranks, scores, rationales, strict=True))
    )
    return RankedPrompt(id, prompt or f"{id} question", answers)


def rouge_l(one: str, other: str) -> float:
    """Return ROUGE-L F1 of two texts (Lin 2004, section 3.1, with beta = 1); 0.0 where either is blank."""
    left, right = tokens(one), tokens(other)
    return round(Indel.normalized_similarity(left, right), 12) if left and right else 0.0


def all_stages(workspace: Workspace, config: Config) -> list[RunStage]:
    """Return every stage of a run, as the runner checks them."""
    return Runner(find_recipe(config.recipe), workspace, config, NoTracker()).stages()


def run_step(step: Step) -> None:
    """Run one step of a recipe without a tracker."""
    assert isinstance(step, RunStage)
    Runner(find_recipe(step.config.recipe), step.workspace, step.config, NoTracker()).run_step(step)


async def generate_feedback(engine: Any, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """Generate prompts, candidates and judgements of iteration `t` with the same engine."""
    parts = [make(workspace, config, t) for make in (WritePrompts, SampleCandidates, JudgeCandidates)]
    parts += [MetaJudge(workspace, config, t)] if config.judge.meta else []

    class OneEngine:
        def of(self, stage: Any) -> Any:
            return engine

    await Chain(tuple(parts)).run(OneEngine(), bars)  # type: ignore[arg-type]


def evaluations(models: Mapping[int, Mapping[str, Any]]) -> dict[int, Evaluation]:
    """Return t -> evaluation of M_t, from the parts of evaluation.json that matter to a test."""
    return {t: Evaluation.from_dict({"iteration": t, **parts}) for t, parts in models.items()}
