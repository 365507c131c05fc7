"""Stages that read a run's seed data, split them, and write them to the run's folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from srlm.config import Config, options_of
from srlm.data.config import DataConfig, SourceConfig
from srlm.data.readers import read_ift, read_prompts, read_ranked
from srlm.data.splits import Split, split_eft
from srlm.errors import SeedError
from srlm.io.files import files_by_name
from srlm.io.record_file import write_records
from srlm.pipeline.artifacts import IFEVAL_PROMPTS, SEEDS
from srlm.pipeline.stage import LocalStage
from srlm.types import RankedPrompt, SeedExample

_log = logging.getLogger("srlm.data")


def prepare_seeds(config: Config, folder: Path) -> dict[str, Any]:
    """Write ift, eft, eft_held_out and evaluation (.jsonl) to `folder` and return their sizes.

    Raises
    ------
    SeedError
        See `read_seeds`.
    """
    split, evaluation = read_seeds(config)
    files: dict[str, Sequence[Any]] = {
        "ift": split.ift,
        "eft": split.train,
        "eft_held_out": split.held_out,
        "evaluation": evaluation,
    }
    for name, rows in files.items():
        write_records(folder / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in files.items()} | {"dropped": split.dropped}


def read_seeds(config: Config) -> tuple[Split, list[SeedExample]]:
    """Return the split seed data and the evaluation prompts of a run with these options.

    Without a path (""), there is no IFT or EFT.

    Raises
    ------
    SeedError
        If a source cannot be read, or a part of the split is empty.
    """
    data = config.data
    ift = read_ift_seeds(config) if data.ift.path else []
    ranked = read_eft_seeds(config) if data.eft.path else []
    evaluation = read_prompts(_source(data, data.evaluation), config.seed)
    split = split_eft(
        ranked,
        data.eft_held_out,
        ift,
        evaluation,
        data.near_duplicate,
        config.seed,
    )
    if dropped := {reason: count for reason, count in split.dropped.items() if count}:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        _log.info(
            "split: %d dropped at data.near_duplicate=%s: %s", sum(dropped.values()), data.near_duplicate, reasons
        )
    if data.eft.path and (len(split.train) < 1 or len(split.held_out) < 2):
        raise SeedError(
            f"data.eft.path={data.eft.path} gives {len(split.train)} EFT prompts for training and "
            f"{len(split.held_out)} held-out ones (of {len(ranked)} read; dropped: {split.dropped}). At least 1 and 2 "
            "are needed: add ranked prompts, or change data.eft_held_out."
        )
    if data.ift.path and not split.ift:
        raise SeedError(
            f"data.ift.path={data.ift.path} gives no IFT example (dropped: {split.dropped}). Add more examples."
        )
    if not evaluation:
        raise SeedError(f"data.evaluation.path={data.evaluation.path} contains no evaluation prompt.")
    return split, evaluation


def read_ift_seeds(config: Config) -> list[SeedExample]:
    """Return the IFT seeds before the split; see `srlm.data.readers.read_ift`."""
    return read_ift(_source(config.data, config.data.ift), config.seed, config.data.ift_answers)


def read_eft_seeds(config: Config) -> list[RankedPrompt]:
    """Return the EFT seeds before the split; see `srlm.data.readers.read_ranked`."""
    return read_ranked(_source(config.data, config.data.eft), config.seed)


def read_ifeval(config: Config) -> list[SeedExample]:
    """Return the prompts of `evaluation.ifeval`.

    Raises
    ------
    SeedError
        If they cannot be read, or a prompt has no verifiable instruction.
    """
    options = config.evaluation
    prompts = read_prompts(SourceConfig(path=options.ifeval, limit=options.ifeval_prompts), config.seed)
    if unchecked := [prompt.source for prompt in prompts if not prompt.constraints]:
        raise SeedError(
            f"evaluation.ifeval={options.ifeval}: {unchecked[0]} has no `instruction_id_list` and `kwargs`, so its "
            "answers cannot be checked. Use IFEval's file, or a file in the same format."
        )
    return prompts


def read_validation(config: Config) -> list[SeedExample]:
    """Return the rows from which early stopping draws validation prompts.

    They may include prompts of training or evaluation. Raises SeedError if they cannot be read.
    """
    source = config.training.early_stopping.source
    if source.path == "unused_ift":
        return read_ift(replace(_source(config.data, config.data.ift), limit=0), config.seed)
    return read_prompts(source, config.seed)


def _source(data: DataConfig, source: SourceConfig) -> SourceConfig:
    builtin = source.path == "builtin" and not source.languages
    return replace(source, languages=data.builtin_languages) if builtin else source


class PrepareData(LocalStage):
    """Read the run's data and split it: IFT, EFT, held-out EFT, evaluation prompts."""

    name, place = "data", "data"

    def writes(self) -> list[str]:
        return [artifact.file for artifact in SEEDS]

    def depends_on(self) -> dict[str, Any]:
        names = ("ift", "eft", "evaluation", "eft_held_out", "ift_answers", "near_duplicate", "builtin_languages")
        return options_of(self.config, *(f"data.{name}" for name in names), "seed")

    def made_from(self) -> dict[str, str]:
        data = self.config.data
        paths = (data.ift.path, data.eft.path, data.evaluation.path)
        return files_by_name(path for path in paths if path != "builtin")

    def caption(self) -> str:
        return "Reading the data"

    def run(self) -> dict[str, Any]:
        return prepare_seeds(self.config, self.folder)


class PrepareIFEval(LocalStage):
    """Read the IFEval prompts that every model answers."""

    name, place = "ifeval", "data"

    def writes(self) -> list[str]:
        return [IFEVAL_PROMPTS.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "evaluation.ifeval", "evaluation.ifeval_prompts", "seed")

    def made_from(self) -> dict[str, str]:
        return files_by_name([self.config.evaluation.ifeval])

    def run(self) -> dict[str, Any]:
        prompts = read_ifeval(self.config)
        write_records(self.outputs[0], prompts)
        return {"prompts": len(prompts), "instructions": sum(len(prompt.constraints) for prompt in prompts)}
