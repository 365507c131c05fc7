"""Train one round of DPO on preference pairs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.api.arguments import pair_records
from srlm.api.options import compose
from srlm.api.process import temporary_workspace, work
from srlm.config import Config
from srlm.errors import ArgumentError, ConfigError, NoPairsError
from srlm.ids import derive_seed
from srlm.io.files import disk_errors, write_atomic
from srlm.io.record_file import read_records, write_records
from srlm.models.checkpoint import Checkpoint
from srlm.models.checkpoint_checks import problems_of, refuse
from srlm.models.resolve import resolve_named
from srlm.pipeline.workspace import Workspace
from srlm.training.methods import METHODS
from srlm.types import PreferencePair

_PAIRS, _MODELS, _LOG, _COUNTS, _TARGET = "pairs.jsonl", "models.json", "log.jsonl", "counts.json", "model"


@dataclass(frozen=True)
class TrainedModel:
    """A model and how it was trained.

    Attributes
    ----------
    folder : Path
        A full checkpoint, with LoRA merged: other functions take it as `model`, and transformers loads it.
    log : list of dict
        What TRL logged, a row for each optimizer step: "step", "epoch", "loss", "learning_rate", "grad_norm" and, of
        DPO, "rewards/margins" (log-odds), "rewards/accuracies" (0 to 1), "logps/chosen" (nats) and others. The last row
        sums the training up.
    counts : dict
        As a run's manifest has them: "pairs", "too_long" (pairs that were left out), "tokens",
        "reference_check_difference" (nats per token between policy and reference before the first step) and
        "saved_difference" (nats per token between the checkpoint and the trained policy).
    """

    folder: Path
    log: list[dict[str, Any]]
    counts: dict[str, Any]


def dpo(
    pairs: Iterable[PreferencePair | Mapping[str, Any]],
    *,
    output: str | Path,
    model: str | Path | None = None,
    reference: str | Path | None = None,
    config: Config | None = None,
    iteration: int = 2,
) -> TrainedModel:
    """Train a model by DPO on preference pairs, as the stage `dpo` of a run does (arXiv 2305.18290).

    A run's pairs, model and options give the run's next model, with the same weights on the same machine. What differs
    from a run: early stopping is refused, and a training that is interrupted starts again from the beginning. Nothing
    is left of it then; on success `output` is all that is left.

    Parameters
    ----------
    pairs : iterable of PreferencePair, or of mappings
        As `select_pairs` returns them; or mappings with "prompt", "chosen" and "rejected" (texts, or lists of
        messages), such as the rows of a `datasets.Dataset`.
    output : str or Path
        Folder of the trained model. It must not exist.
    model : str or Path, optional
        The model that training starts from: a packaged name, Hub id, folder or .gguf file; by default `model.name`.
    reference : str or Path, optional
        The reference model of the loss; by default `model`.
    config : Config, optional
        From `compose`; `dpo`, `model`, `engine.threads`, `pairs.min_pairs` and `seed` are used: "dpo=full",
        "dpo.beta=0.2", "dpo.epochs=3", "dpo.micro_batch_size=2".
    iteration : int
        Part of the seed of the data's order and of dropout, as the iteration of a run; >= 1.

    Returns
    -------
    TrainedModel

    Raises
    ------
    ArgumentError
        If `output` exists, or a pair lacks a text.
    ConfigError
        If `dpo.early_stopping` is enabled, or `dpo.reference` is not previous and no `reference` is given.
    ModelError, NoPairsError, TrainingError
        If a model cannot be trained, too few pairs fit into `dpo.max_length`, or a check fails.

    Examples
    --------
    >>> trained = srlm.dpo(selection.pairs, output="my_model", config=srlm.compose("dpo.epochs=2"))
    >>> losses = [row["loss"] for row in trained.log if "loss" in row]
    """
    config = config or compose("experiment=free_form")
    rows = pair_records(pairs)
    if not rows:
        raise NoPairsError("There are no pairs to train on. Give one or more.")
    target = Path(output).expanduser().absolute()
    if target.exists():
        raise ArgumentError(f"output={output} exists. Give the name of a new folder, or delete it first.")
    if config.dpo.early_stopping.enabled:
        raise ConfigError("dpo.early_stopping.enabled=true is for runs. Set it to false.")
    if reference is None and config.dpo.reference.name != "previous":
        raise ConfigError(f"dpo.reference={config.dpo.reference.name} is for runs. Give the model as reference=... .")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    start = str(model or config.model.name)
    with temporary_workspace(config, target.parent, start) as (workspace, options):
        write_records(workspace.root / _PAIRS, rows)
        models = {"start": start, "reference": str(reference or start)}
        write_atomic(workspace.root / _MODELS, json.dumps(models))
        work("srlm.api.training:worker", workspace, iteration, options.dpo, "dpo")
        log = [json.loads(line) for line in (workspace.root / _LOG).read_text(encoding="utf-8").splitlines()]
        counts = json.loads((workspace.root / _COUNTS).read_text(encoding="utf-8"))
        (workspace.root / _TARGET).rename(target)
    return TrainedModel(target, log, counts)


def worker(workspace: Workspace, iteration: int) -> None:
    """Train, in one or several separate processes."""
    from srlm.training.worker import train

    config, root = workspace.config(), workspace.root
    names = json.loads((root / _MODELS).read_text(encoding="utf-8"))
    start, reference = (resolve_named(config, names[role]) for role in ("start", "reference"))
    refuse(f"model={names['start']}", problems_of(Checkpoint(start, config.model, "train")))
    counts = train(
        METHODS["dpo"](),
        read_records(root / _PAIRS, PreferencePair),
        start,
        root / _TARGET,
        config,
        seed=derive_seed(config.seed, iteration, "dpo"),
        log=root / _LOG,
        reference=reference,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        write_atomic(root / _COUNTS, json.dumps(counts))
