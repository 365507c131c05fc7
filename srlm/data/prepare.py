"""Stages that read a run's seed data, split them, and write them to the run's folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from srlm.config import Config, options_of
from srlm.data.config import DataConfig, SourceConfig
from srlm.data.readers import read_ift, read_pool, read_prompts, read_ranked
from srlm.data.splits import P, Split, split_eft
from srlm.errors import SeedError
from srlm.io.files import files_by_name
from srlm.io.record_file import write_records
from srlm.pipeline.artifacts import (
    EFT,
    EFT_HELD_OUT,
    EVALUATION_PROMPTS,
    IFEVAL_PROMPTS,
    IFT,
    OWN_HELD_OUT_PROMPTS,
    OWN_PROMPTS,
    Artifact,
)
from srlm.pipeline.stage import LocalStage
from srlm.types import RankedPrompt, SeedExample

_log = logging.getLogger("srlm.data")


def prepare_seeds(config: Config, folder: Path) -> dict[str, Any]:
    """Write ift, eft, eft_held_out and evaluation (.jsonl) to `folder` and return their sizes.

    If a model writes the EFT answers (`data.own_answers`), the files eft_prompts and eft_held_out_prompts instead of
    eft and eft_held_out.

    Raises
    ------
    SeedError
        See `read_seeds`.
    """
    split: Split[Any]
    split, evaluation = (read_own_seeds if config.data.own_answers.used else read_seeds)(config)
    parts: Sequence[Sequence[Any]] = (split.ift, split.train, split.held_out, evaluation)
    files = dict(zip(_written(config), parts, strict=True))
    for artifact, rows in files.items():
        write_records(folder / artifact.file, rows)
    return {Path(artifact.file).stem: len(rows) for artifact, rows in files.items()} | {"dropped": split.dropped}


def _written(config: Config) -> tuple[Artifact[Any], ...]:
    """Return the files of IFT, EFT for training, held-out EFT and evaluation."""
    own = config.data.own_answers.used
    return (IFT, *((OWN_PROMPTS, OWN_HELD_OUT_PROMPTS) if own else (EFT, EFT_HELD_OUT)), EVALUATION_PROMPTS)


def read_seeds(config: Config) -> tuple[Split[RankedPrompt], list[SeedExample]]:
    """Return the split seed data and the evaluation prompts of a run with these options.

    Without a path (""), there is no IFT or EFT.

    Raises
    ------
    SeedError
        If a source cannot be read, or a part of the split is empty.
    """
    return _split(config, read_eft_seeds(config) if config.data.eft.path else [])


def read_own_seeds(config: Config) -> tuple[Split[SeedExample], list[SeedExample]]:
    """Do the same as `read_seeds` for a run in which a model writes the EFT answers: EFT has prompts only."""
    return _split(config, read_own_prompts(config))


def _split(config: Config, ranked: list[P]) -> tuple[Split[P], list[SeedExample]]:
    data = config.data
    ift = read_ift_seeds(config) if data.ift.path else []
    evaluation = read_prompts(_source(data, data.evaluation), config.seed)
    split = split_eft(
        ranked,
        data.eft_held_out,
        ift,
        evaluation,
        data.near_duplicate,
        config.seed,
    )
    reasons = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items() if count)
    total = sum(split.dropped.values())
    dropped = f"{total} dropped at data.near_duplicate={data.near_duplicate}: {reasons}" if reasons else ""
    if dropped:
        _log.info("split: %s", dropped)
    if data.eft.path and (len(split.train) < 1 or len(split.held_out) < 2):
        raise SeedError(
            f"data.eft.path={data.eft.path} gives {len(split.train)} EFT prompts for training and "
            f"{len(split.held_out)} held-out ones (of {len(ranked)} read; {dropped or 'none dropped'}). At least 1 "
            f"and 2 are needed: add {'' if data.own_answers.used else 'ranked '}prompts, or change data.eft_held_out."
        )
    if data.ift.path and not split.ift:
        raise SeedError(
            f"data.ift.path={data.ift.path} gives no IFT example (of {len(ift)} read; {dropped or 'none dropped'}). "
            "Add examples with other prompts, use other evaluation prompts, or raise data.near_duplicate."
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


def read_own_prompts(config: Config) -> list[SeedExample]:
    """Return the prompts of `data.eft` to which a model writes the answers; a response is a reference answer.

    With `data.own_answers.labels=checkers`, prompts without constraints are left out and logged.

    Raises
    ------
    SeedError
        If they cannot be read, or no prompt has constraints that the checkers need.
    """
    source = _source(config.data, config.data.eft)
    if source.path == "builtin":
        rows = [
            SeedExample(r.id, r.prompt, r.answers[0].text, r.type, r.language, r.source, history=r.history)
            for r in read_ranked(source, config.seed)
        ]
    else:
        rows = read_pool(source, config.seed)
    if not config.data.own_answers.checked:
        return rows
    kept = [row for row in rows if row.constraints]
    if not kept:
        raise SeedError(
            f"data.eft.path={source.path} has no prompt with constraints, which data.own_answers.labels=checkers needs "
            "(`instruction_id_list` and `kwargs`, or a correct final answer). Use other prompts or other labels."
        )
    if len(kept) < len(rows):
        _log.info("%s: %d prompts left out: no constraints to check", source.path, len(rows) - len(kept))
    return kept


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
        return [artifact.file for artifact in _written(self.config)]

    def depends_on(self) -> dict[str, Any]:
        names = ["ift", "eft", "evaluation", "eft_held_out", "ift_answers", "near_duplicate", "builtin_languages"]
        own = self.config.data.own_answers
        names += ["own_answers.used"] * own.used + ["own_answers.labels"] * own.checked  # which rows are read
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
