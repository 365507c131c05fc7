"""SFT: M0 to M1 on IFT and EFT seeds, or to the SFT baseline on IFT alone (arXiv 2401.10020, section 2.1).

Which tokens are learnt is `sft.train_on` (`masking.py`), by the SFT baseline as by M1. The reward model has no loss by
token and looks at none of this; DPO's sums over answers alone.

Changed from the paper: an EFT example's verdict is the people's own score where the seed has one, so that the judge
learns from them and not from the baseline's guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from srlm.config import Config, EFTLoss, SFTConfig, TrainOn
from srlm.errors import ConfigError, TrainingError
from srlm.ids import derive_seed
from srlm.io.progress import Bars, say
from srlm.judges import pairwise as comparison
from srlm.judges.prompt import JudgeTemplate, judge_target
from srlm.models.chat import Message
from srlm.pipeline.artifacts import EFT_EXAMPLES, IFT, MODEL, SFT_BASELINE, training_counts, training_log
from srlm.pipeline.workspace import Workspace
from srlm.training.masking import Conversation, Part, encode_conversation, labels_of, looks_at_prompts, token_weights
from srlm.training.shared_spans import mark_pattern, mark_repeated
from srlm.types import JudgeExample, SeedExample


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids with labels and weights, one list an example, and how many were left out."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    weights: list[list[float]]
    places: list[tuple[str, int]]  # of each example: its kind, and its place among the chats of that kind
    too_long: int  # more than sft.max_length tokens: none is cut short
    without_target: int  # no token of it is learnt

    def counts(self) -> dict[str, int]:
        """For the stage's manifest."""
        learnt = sum(weight > 0 for weights in self.weights for weight in weights)
        return {
            "examples": len(self.input_ids),
            "too_long": self.too_long,
            "without_target": self.without_target,
            "tokens": sum(map(len, self.input_ids)),
            "tokens_learnt": learnt,
        }


def conversations(
    tokenizer: Any, kinds: Mapping[str, Sequence[Sequence[Message]]], options: SFTConfig, with_prompts: bool
) -> dict[str, list[Conversation]]:
    """Chats of each kind as token ids with their parts; those over `options.max_length` tokens are left out.

    With `with_prompts`, boilerplate is marked: what `options.shared_text` finds, or what prompts of a kind repeat.

    Raises
    ------
    ConfigError
        If `options.shared_text` finds nothing in any prompt.
    """
    found: dict[str, list[Conversation]] = {}
    for kind, chats in kinds.items():
        encoded = (
            replace(encode_conversation(tokenizer, chat, with_prompts), number=number)
            for number, chat in enumerate(chats)
        )
        found[kind] = [conversation for conversation in encoded if len(conversation.ids) <= options.max_length]
    if not with_prompts:
        return found
    if not options.shared_text:
        return {kind: mark_repeated(of_kind) for kind, of_kind in found.items()}
    found = {kind: mark_pattern(of_kind, options.shared_text) for kind, of_kind in found.items()}
    if not any(Part.boilerplate in conversation.parts for of_kind in found.values() for conversation in of_kind):
        raise ConfigError(
            f"sft.shared_text={options.shared_text!r} finds nothing in the prompts of {sum(map(len, found.values()))} "
            'examples. Change it, or set sft.shared_text="" to have it found in the data.'
        )
    return found


def encode(tokenizer: Any, kinds: Mapping[str, Sequence[Sequence[Message]]], options: SFTConfig) -> Encoded:
    """What is trained on, of chats of each kind (IFT, EFT) that end on an answer."""
    input_ids, labels, weights, places = [], [], [], []
    found = conversations(tokenizer, kinds, options, looks_at_prompts(options.train_on))
    kept = [(kind, conversation) for kind, of_kind in found.items() for conversation in of_kind]
    for kind, conversation in kept:
        of_tokens = token_weights(conversation.parts, options.train_on, options.prompt_weight)
        if any(of_tokens):
            input_ids.append(conversation.ids)
            labels.append(labels_of(conversation.ids, of_tokens))
            weights.append(of_tokens)
            places.append((kind, conversation.number))
    too_long, without_target = sum(map(len, kinds.values())) - len(kept), len(kept) - len(input_ids)
    return Encoded(input_ids, labels, weights, places, too_long, without_target)


def ift_example(example: SeedExample) -> list[Message]:
    return [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.response}]


def eft_example(example: JudgeExample, template: JudgeTemplate) -> list[Message]:
    if example.other is not None:
        texts = (example.prompt, example.response, example.other)
        question = comparison.question(template.template, *texts, "ab")
        target = comparison.verdict(example.score == 1, "ab")
    else:
        question = template.messages(example.prompt, example.response)
        target = judge_target(example.rationale, example.score)
    return [*question, {"role": "assistant", "content": target}]


def chats_of(
    ift: Sequence[SeedExample], eft: Sequence[JudgeExample] = (), template: JudgeTemplate | None = None
) -> dict[str, list[list[Message]]]:
    """Return the chats that SFT learns, by kind: "ift", and with a judge's template "eft"."""
    kinds = {"ift": [ift_example(example) for example in ift]}
    if template is not None:
        kinds["eft"] = [eft_example(example, template) for example in eft]
    return kinds


@dataclass(frozen=True)
class TrainingData:
    """What SFT's trainer gets, from the same call for training and for `srlm.cli.show_masking`."""

    encoded: Encoded
    columns: dict[str, list[Any]]  # of the trainer's dataset: a row an example or, with sft.packing, several
    counts: dict[str, Any]  # for the stage's manifest
    score_tokens: list[int]  # EFT by order: the tokens of scores 0 to judge.max_score; else empty
    score_shares: list[float]  # EFT by order: how common each of them is


def assemble(
    tokenizer: Any,
    kinds: Mapping[str, Sequence[Sequence[Message]]],
    config: Config,
    judged: Sequence[JudgeExample] = (),
    template: JudgeTemplate | None = None,
) -> TrainingData:
    """Return the rows that SFT trains on with these options; says what is left out.

    Parameters
    ----------
    kinds : of `chats_of`
    judged : sequence of JudgeExample
        The examples of the EFT chats, in the same order.
    template : JudgeTemplate or None
        The judge's, where there are EFT chats.

    Raises
    ------
    TrainingError
        If no example is left.
    """
    from srlm.training import batching, ranking

    train = config.sft
    encoded = encode(tokenizer, kinds, train)
    total = sum(map(len, kinds.values()))
    if not encoded.input_ids:
        raise TrainingError(
            f"None of {total} SFT examples is left: {encoded.too_long} are longer than sft.max_length="
            f"{train.max_length} tokens. Raise it."
        )
    if encoded.too_long:
        say(f"  {encoded.too_long} of {total} SFT examples are longer than sft.max_length and left out")
    if encoded.without_target:
        say(f"  {encoded.without_target} of {total} SFT examples have no token to learn and are left out")
    counts: dict[str, Any] = encoded.counts()
    columns: dict[str, list[Any]] = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    if has_weights(train):
        columns["weights"] = encoded.weights
    tokens: list[int] = []
    shares: list[float] = []
    if template is not None and train.eft_loss is EFTLoss.ranking:
        tokens = ranking.score_tokens(tokenizer, template, config.judge.max_score)
        verdicts = ranking.find_verdicts(encoded.input_ids, encoded.places, judged, tokens)
        columns |= {name: [getattr(one, name) for one in verdicts] for name in ranking.FIELDS}
        counts |= ranking.counted(verdicts, train.eft_length_control)
        shares = ranking.score_shares(verdicts, len(tokens))
        pairs, slope = counts["pairs"], counts["length_slope"]
        of_length = f"; {slope:+.2f} log-odds for an answer e times as long are not learnt" if slope else ""
        say(f"  EFT by order: {pairs} pairs{of_length}")
    if train.packing:
        columns = batching.pack(columns, train.max_length)
        counts["rows"] = len(columns["input_ids"])
    return TrainingData(encoded, columns, counts, tokens, shares)


def has_weights(options: SFTConfig) -> bool:
    """Return whether the trainer's rows have a weight for each token, as `batching.weighted_trainer` takes them."""
    return options.packing or options.train_on is TrainOn.weighted


def sft_worker(workspace: Workspace, iteration: int) -> None:
    """Train M1 from data/ift.jsonl and iteration_1/eft.jsonl; from IFT alone where the judge writes nothing."""
    config = workspace.config()
    folder = workspace.iteration(1)
    ift = IFT.read(workspace)
    examples: list[JudgeExample] = []
    template = None
    if not config.judge.rates:
        template = JudgeTemplate.load(config.judge)
        examples = EFT_EXAMPLES.read(workspace, 1)
    _train(config, workspace, chats_of(ift, examples, template), folder / MODEL, "sft", examples, template)


def sft_baseline_worker(workspace: Workspace, iteration: int) -> None:
    """Train the SFT baseline from data/ift.jsonl."""
    config = workspace.config()
    chats = chats_of(IFT.read(workspace))
    _train(config, workspace, chats, workspace.iteration(1) / SFT_BASELINE, "sft_baseline")


def _train(
    config: Config,
    workspace: Workspace,
    kinds: dict[str, list[list[Message]]],
    target: Path,
    stage: str,
    judged: Sequence[JudgeExample] = (),  # of the EFT chats
    template: JudgeTemplate | None = None,
) -> None:
    from datasets import Dataset
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    from srlm.training import batching, common, ranking
    from srlm.training.checkpoint_check import probe_of_answers

    base, train = workspace.model(0), config.sft
    tokenizer = common.tokenizer_of(base, config)
    data = assemble(tokenizer, kinds, config, judged, template)
    encoded, counts = data.encoded, data.counts
    weighted, order = has_weights(train), bool(data.score_tokens)
    make_trainer: type = batching.weighted_trainer() if weighted else SFTTrainer
    if order:
        make_trainer = ranking.ranking_trainer(data.score_tokens, data.score_shares, counts["length_slope"])
    groups = [(kind, judged[number].prompt if kind == "eft" else number) for kind, number in encoded.places]
    checkpoints = target.parent / "checkpoints" / stage
    arguments = common.trainer_arguments(train, config, checkpoints, derive_seed(config.seed, 1, stage))
    model = common.load_model(base, train, config)
    with Bars() as bars:
        trainer = make_trainer(
            model=model,
            args=Arguments(
                **arguments,
                max_length=None,
                remove_unused_columns=make_trainer is SFTTrainer,  # or what is not TRL's own would be gone
            ),
            train_dataset=Dataset.from_dict(data.columns),
            processing_class=tokenizer,
            peft_config=common.peft_config(train.lora, model),
            callbacks=[common.Watch(bars, stage, target.parent / training_log(stage))],
        )
        if weighted or order:
            batching.check_whole(trainer)
        if weighted:
            trainer.data_collator = partial(batching.collate, pad_token_id=tokenizer.pad_token_id)
        if order:
            ranking.check_not_sharded(trainer)
            trainer.data_collator = partial(ranking.collate_ranked, pad_token_id=tokenizer.pad_token_id)
        if not train.packing:
            lengths = [len(ids) for ids in encoded.input_ids]
            together = train.micro_batch_size if order else train.batch_size
            sampler = batching.Steps(groups, lengths, together, arguments["data_seed"])
            trainer._get_train_sampler = lambda *_: sampler
        if train.packing:
            batching.check_apart(trainer.model, trainer.train_dataset, tokenizer.pad_token_id)
        saving = common.saving_of(config, "sft", base, probe_of_answers(encoded.input_ids, encoded.labels))
        counts |= common.train_and_save(trainer, checkpoints, target, tokenizer, saving)
    common.write_counts(target.parent / training_counts(stage), counts)
