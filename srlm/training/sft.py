"""SFT: M0 to M1 on IFT and EFT seeds, or to the SFT baseline on IFT alone (arXiv 2401.10020, section 2.1).

Changed from the paper: an EFT example's verdict is the people's own score where the seed has one, so that the judge
learns from them and not from the baseline's guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srlm import comparison
from srlm.config import Config
from srlm.errors import TrainingError
from srlm.models import Message, encode_turn
from srlm.progress import Bars, say
from srlm.records import JudgeExample, SeedExample
from srlm.rubric import JudgeTemplate, judge_target
from srlm.training.masking import completion_labels
from srlm.workspace import Workspace, derive_seed, read_records


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids, and how many were too long."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    too_long: int


def encode(tokenizer: object, examples: Sequence[tuple[list[Message], str]], max_length: int) -> Encoded:
    """Token ids and labels of (chat, answer) examples; those over `max_length` tokens are left out and counted."""
    input_ids, labels, too_long = [], [], 0
    for messages, answer in examples:
        ids, label = completion_labels(*encode_turn(tokenizer, messages, answer))  # type: ignore[arg-type]
        if len(ids) > max_length:
            too_long += 1
            continue
        input_ids.append(ids)
        labels.append(label)
    return Encoded(input_ids, labels, too_long)


def ift_example(example: SeedExample) -> tuple[list[Message], str]:
    return [{"role": "user", "content": example.prompt}], example.response


def eft_example(example: JudgeExample, template: JudgeTemplate) -> tuple[list[Message], str]:
    if example.other is not None:
        texts = (example.prompt, example.response, example.other)
        return comparison.question(template.template, *texts, "ab"), comparison.verdict(example.score == 1, "ab")
    target = judge_target(example.rationale, example.score)
    return template.messages(example.prompt, example.response), target


def sft_worker(workspace: Workspace, iteration: int) -> None:
    """Train M1 from seeds/ift.jsonl and iteration_1/eft.jsonl; from IFT alone where the judge writes nothing."""
    config = workspace.config()
    folder = workspace.iteration(1)
    examples = [ift_example(example) for example in read_records(workspace.seeds / "ift.jsonl", SeedExample)]
    if not config.judge.rates:
        template = JudgeTemplate.load(config.judge)
        examples += [eft_example(example, template) for example in read_records(folder / "eft.jsonl", JudgeExample)]
    _train(config, workspace, examples, folder / "model", "sft")


def sft_baseline_worker(workspace: Workspace, iteration: int) -> None:
    """Train the SFT baseline from seeds/ift.jsonl."""
    config = workspace.config()
    folder = workspace.iteration(1)
    examples = [ift_example(example) for example in read_records(workspace.seeds / "ift.jsonl", SeedExample)]
    _train(config, workspace, examples, folder / "sft_baseline", "sft_baseline")


def _train(
    config: Config, workspace: Workspace, examples: list[tuple[list[Message], str]], target: Path, stage: str
) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from srlm.training import common

    base = workspace.model(0)
    tokenizer = common.tokenizer_of(base, config)
    encoded = encode(tokenizer, examples, config.sft.max_length)
    if not encoded.input_ids:
        raise TrainingError(
            f"All {len(examples)} SFT examples are longer than sft.max_length={config.sft.max_length} tokens. Raise it."
        )
    if encoded.too_long:
        say(f"  {encoded.too_long} of {len(examples)} SFT examples are longer than sft.max_length and left out")
    checkpoints = target.parent / "checkpoints" / stage
    arguments = common.trainer_arguments(config.sft, config, checkpoints, derive_seed(config.seed, 1, stage))
    model = common.load_model(base, config.sft, config)
    with Bars() as bars:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                **arguments,
                max_length=None,
                train_sampling_strategy="group_by_length",  # less padding
            ),
            train_dataset=Dataset.from_dict({"input_ids": encoded.input_ids, "labels": encoded.labels}),
            processing_class=tokenizer,
            peft_config=common.peft_config(config.sft.lora, model),
            callbacks=[common.Watch(bars, stage, target.parent / f"{stage}_log.jsonl")],
        )
        common.train_and_save(trainer, checkpoints, target, tokenizer)
    counts = {"examples": len(encoded.input_ids), "too_long": encoded.too_long}
    counts["tokens"] = sum(map(len, encoded.input_ids))
    common.write_counts(target.parent / f"{stage}_counts.json", counts)
