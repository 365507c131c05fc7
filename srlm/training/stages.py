"""The stages that train: the SFT baseline, M1, the reward model, and M_t+1 on the feedback of M_t."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srlm.config import Config, options_of
from srlm.engines.dependencies import (
    chat_template,
    engine_libraries,
    generation_options,
    model_input,
    model_options,
)
from srlm.errors import SeedError
from srlm.ids import derive_seed
from srlm.io.files import files_by_name, write_atomic
from srlm.judges import spec_of
from srlm.judges.dependencies import judge_options
from srlm.judges.eft import eft_is_used, needs_baseline, sft_uses_eft
from srlm.judges.pairwise import load_template as load_pairwise_template
from srlm.judges.roles import judge_of
from srlm.pipeline.artifacts import (
    EFT,
    EFT_EXAMPLES,
    FEEDBACK,
    IFEVAL_PROMPTS,
    IFT,
    MODEL,
    PROMPTS,
    REWARD_MODEL,
    SEEDS,
    SFT_BASELINE,
    training_counts,
    training_log,
)
from srlm.pipeline.provenance import TRAINING
from srlm.pipeline.roles import iteration, resolve_role, training_reference
from srlm.pipeline.run_reader import refuse_other_maker
from srlm.pipeline.stage import RunStage, recorded
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.training import early_stopping
from srlm.training.config import EarlyStoppingConfig, TrainConfig
from srlm.training.method import Method
from srlm.training.methods import METHODS, group_of, method_of, training_options
from srlm.training.methods.reward_model import RewardModel
from srlm.training.methods.sft import SFT, EFTLoss, SFTConfig, TrainOn
from srlm.types import JudgeExample, SeedExample

_SPEED = ("micro_batch_size", "gradient_checkpointing", "checkpoint_steps", "processes", "accelerate_config")
_CHECKS = ("save_tolerance",)


class TrainingStage(RunStage):
    """A stage that trains a model in separate processes.

    Attributes
    ----------
    method : type
        The training method.
    start : int
        Training starts from M_start.
    output : str
        The folder of the model that it makes.
    """

    method: type[Method[Any, Any]]
    start: int
    output: str = MODEL

    def rows(self) -> Sequence[Any]:
        """Return the records that the model learns from."""
        raise NotImplementedError

    def writes(self) -> list[str]:
        lora = self.train.lora
        return [self.output, *([f"{self.output}_adapter"] if lora.enabled and lora.keep_adapter else [])]

    def depends_on(self) -> dict[str, Any]:
        return _options(self.config, self.group, self._unused())

    def depends_on_libraries(self) -> tuple[str, ...]:
        return TRAINING

    def resumes_from(self) -> list[str]:
        return [f"checkpoints/{self.name}"]

    def run(self) -> dict[str, Any]:
        """Train in other processes; return the counts that the training stored."""
        self.start_processes()
        found: dict[str, Any] = json.loads(self.counts_file.read_text())
        return found

    def start_processes(self) -> None:
        """Start the processes of the training, which call `work`, and wait for them."""
        target = f"{__name__}:train_worker:{type(self).__module__}:{type(self).__qualname__}"
        run_worker(target, self.workspace, self.t, self.train, self.name, self.group)

    def work(self) -> None:
        """Train in this process, and store the counts."""
        from srlm.training.worker import train

        arguments: dict[str, Any] = {"target": self.outputs[0], "counts": self.counts_file} | self.arguments()
        counts = arguments.pop("counts")
        found = train(
            self.method(),
            self.rows(),
            self.workspace.model(self.start),
            arguments.pop("target"),
            self.config,
            options=self.train,
            seed=derive_seed(self.config.seed, self.t, self.name),
            name=self.name,
            log=self.folder / training_log(self.name),
            **arguments,
        )
        if int(os.environ.get("RANK", "0")) == 0:
            write_atomic(counts, json.dumps(found, indent=1))

    def arguments(self) -> dict[str, Any]:
        """Return further arguments of `srlm.training.worker.train`, and "counts", the file of the counts."""
        return {}

    @property
    def group(self) -> str:
        """Return the name of the training's option group."""
        return group_of(self.method)

    @property
    def train(self) -> TrainConfig:
        """Return the options of the training."""
        return training_options(self.config, self.method)

    @property
    def counts_file(self) -> Path:
        """Return the file that holds the training's counts until the manifest is written."""
        return self.folder / training_counts(self.name)

    def _unused(self) -> set[str]:
        return set()


def train_worker(workspace: Workspace, t: int, module: str, name: str) -> None:
    """Do the work of the training stage of this class, in a process that was started for it."""
    stage: TrainingStage = getattr(importlib.import_module(module), name)(workspace, workspace.config(), t)
    stage.work()


class TrainSFTBaseline(TrainingStage):
    """M0 to the SFT baseline: SFT on IFT alone, to write EFT answers (`data.own_answers`) or rationales."""

    name, method, start, output = "sft_baseline", SFT, 0, SFT_BASELINE

    def rows(self) -> list[SeedExample]:
        return IFT.read(self.workspace)

    def made_from(self) -> dict[str, str]:
        # EFT of own answers is made of the baseline's answers.
        read = (IFT,) if self.config.data.own_answers.used else SEEDS
        found = recorded(self.workspace, *(artifact.path(self.workspace) for artifact in read))
        return found | model_input(self.workspace, iteration(0)) | chat_template(self.config)

    def wanted(self) -> bool:
        """Return whether the baseline writes the EFT answers, or EFT data need rationales.

        Raises
        ------
        SeedError
            If they do, and there is no IFT example to train the SFT baseline on.
        """
        config = self.config
        if config.data.own_answers.by_baseline:
            return True
        learns_scores = spec_of(config.judge).eft == "scores" and eft_is_used(config)
        wanted = learns_scores and needs_baseline(EFT.read(self.workspace), config.data.rationales)
        if wanted and not config.data.ift.path:
            raise SeedError(
                f"data.eft.path={config.data.eft.path} has no rationales, and the SFT baseline that would write them "
                "is trained on IFT. Set data.ift.path, or data.rationales=none to train on scores only."
            )
        return wanted

    def caption(self) -> str:
        return "The SFT baseline: SFT on IFT alone"

    def _unused(self) -> set[str]:
        return _unused_masking(self.config.sft) | _RANKING | {"sft.data", "sft.eft_repeats"}


class TrainSFT(TrainingStage):
    """M0 to M1: SFT on IFT and EFT (arXiv 2401.10020, section 2.1).

    On IFT alone if the judge generates nothing, or on one of the two by `sft.data`.
    """

    name, method, start = "sft", SFT, 0

    def rows(self) -> list[SeedExample | JudgeExample]:
        ift = IFT.read(self.workspace) if self.config.sft.uses_ift else []
        return [*ift, *(EFT_EXAMPLES.read(self.workspace, 1) if sft_uses_eft(self.config) else [])]

    def depends_on(self) -> dict[str, Any]:
        options = super().depends_on()
        if self._ranks():  # answers are compared within a micro-batch: there its size matters
            options |= options_of(self.config, "sft.micro_batch_size")
        return options | {"judge.template": judge_options(self.config).get("judge.template")}

    def made_from(self) -> dict[str, str]:
        files = [IFT.path(self.workspace)] if self.config.sft.uses_ift else []
        files += [EFT_EXAMPLES.path(self.workspace, 1)] if sft_uses_eft(self.config) else []
        found = recorded(self.workspace, *files)
        return found | model_input(self.workspace, iteration(0)) | chat_template(self.config)

    def caption(self) -> str:
        used = {"IFT": self.config.sft.uses_ift, "EFT": sft_uses_eft(self.config)}
        return f"M0 -> M1: SFT on {' and '.join(name for name, is_used in used.items() if is_used)}"

    def complete(self, inputs: Mapping[str, str] | None = None) -> bool:
        refuse_other_maker(self, 1, "sft.data")
        return super().complete(inputs)

    def _ranks(self) -> bool:
        return self.config.sft.eft_loss is EFTLoss.ranking

    def _unused(self) -> set[str]:
        unused = _unused_masking(self.config.sft) | (set() if self._ranks() else _RANKING)
        return unused | ({"sft.eft_ranking_weight"} if self.config.sft.eft_ranking_weight == 1 else set())


class TrainRewardModel(TrainingStage):
    """M1 to a reward model on the ranked answers, where that is the judge (arXiv 2203.02155, section 3.4)."""

    name, method, start, output = "reward_model", RewardModel, 1, REWARD_MODEL

    def rows(self) -> list[JudgeExample]:
        return EFT_EXAMPLES.read(self.workspace, 1)

    def made_from(self) -> dict[str, str]:
        found = recorded(self.workspace, EFT_EXAMPLES.path(self.workspace, 1))
        return found | model_input(self.workspace, iteration(1)) | chat_template(self.config)

    def wanted(self) -> bool:
        return judge_of(self.config, 1).kind == "reward_model"

    def caption(self) -> str:
        return "M1 -> reward model, on the ranked answers"


class Train(TrainingStage):
    """M_t-1 to M_t on the feedback of M_t-1, by the method that `method` names (arXiv 2401.10020, section 2.3).

    With early stopping, the processes train up to the next checkpoint only.
    """

    def __init__(self, workspace: Workspace, config: Config, t: int):
        self.method, self.start = method_of(config), t - 1
        self.name = self.method.name
        super().__init__(workspace, config, t)

    @property
    def early(self) -> EarlyStoppingConfig:
        """Return the options of early stopping."""
        return self.config.training.early_stopping

    def rows(self) -> list[Any]:
        found = [artifact for artifact in FEEDBACK if artifact.path(self.workspace, self.t).exists()]
        return [row for artifact in found for row in artifact.read(self.workspace, self.t)]

    def depends_on(self) -> dict[str, Any]:
        config, early, group = self.config, self.early, f"{self.group}.early_stopping"
        options = super().depends_on() | options_of(config, "method_options")
        if self.method not in METHODS.values():  # the name of the stage is that of the others
            options |= options_of(config, "method")
        options = {name: value for name, value in options.items() if not name.startswith(f"{group}.")}
        if not early.enabled:
            return options
        names = (f"evaluation.{name}" for name in ("temperature", "top_p", "max_new_tokens"))
        options |= options_of(config, group, "data.near_duplicate", *names)
        if early.source.path == "unused_ift":
            options |= options_of(config, "data.ift", "data.ift_answers", "data.builtin_languages")
        options |= generation_options(config) | generation_options(config, resolve_role(early.judge, self.t - 1))
        template = load_pairwise_template(config.evaluation.judge_template, "evaluation.judge_template")
        return options | {"evaluation.judge_template": template.digest}

    def made_from(self) -> dict[str, str]:
        workspace, config, t = self.workspace, self.config, self.t
        files = [artifact.path(workspace, t) for artifact in FEEDBACK]
        found = recorded(workspace, *files) | model_input(workspace, iteration(t - 1))
        found |= model_input(workspace, training_reference(config, t)) | chat_template(config)
        early = self.early
        if early.enabled:  # validation prompts differ from those of training and evaluation
            known = [artifact.path(workspace) for artifact in (*SEEDS, IFEVAL_PROMPTS)]
            found |= recorded(workspace, *known, *(PROMPTS.path(workspace, u) for u in range(2, t + 1)))
            source = config.data.ift.path if early.source.path == "unused_ift" else early.source.path
            found |= model_input(workspace, resolve_role(early.judge, t - 1)) | files_by_name([source])
        return found

    def depends_on_libraries(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*TRAINING, *(engine_libraries(self.config) if self.early.enabled else ()))))

    def resumes_from(self) -> list[str]:
        early = [early_stopping_folder(self.workspace, self.t).name] if self.early.enabled else []
        return [*super().resumes_from(), *early]

    def complete(self, inputs: Mapping[str, str] | None = None) -> bool:
        refuse_other_maker(self, self.t, "method")
        return super().complete(inputs)

    def caption(self) -> str:
        name, reference = self.name.upper(), self.config.training.reference.name
        return f"M{self.t - 1} -> M{self.t}: {name}" + (f", reference {reference}" if self._has_reference() else "")

    def run(self) -> dict[str, Any]:
        if not self.early.enabled:
            return super().run()
        return early_stopping.train(self.workspace, self.config, self.t, self._work)

    def _work(self, name: str, train: TrainConfig | None) -> None:
        if name == self.name:
            self.start_processes()
        else:
            run_worker(early_stopping.WORKERS[name], self.workspace, self.t, train, name)

    def arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._has_reference():
            found["reference"] = self.workspace.model(training_reference(self.config, self.t).iteration)
        if self.early.enabled:
            folder = early_stopping_folder(self.workspace, self.t)
            target, stop_at = early_stopping.next_checkpoint(folder, self.early.every_steps)
            found |= {"target": target, "counts": target.with_suffix(".json"), "stop_at": stop_at}
            found["checkpoints"] = self.folder / "checkpoints" / self.name
        return found

    def _has_reference(self) -> bool:
        return "reference" in self.method.needs


_RANKING = {"sft.eft_loss", "sft.eft_length_control", "sft.eft_ranking_weight"}


def _options(config: Config, group: str, unused: set[str]) -> dict[str, Any]:
    """Return the options of a training that its outcome depends on, without those of speed and the unused ones."""
    options = options_of(config, group, "seed")
    kept = {
        name: value for name, value in options.items() if not name.endswith(_SPEED + _CHECKS) and name not in unused
    }
    return kept | model_options(config)


def _unused_masking(sft: SFTConfig) -> set[str]:
    """Return the options of masking that this training does not read."""
    used = {
        "sft.train_on": sft.train_on is not TrainOn.completion,
        "sft.prompt_weight": sft.train_on is TrainOn.weighted,
        "sft.shared_text": sft.train_on is TrainOn.no_shared_text,
        "sft.packing": sft.packing,
    }
    return {name for name, is_used in used.items() if not is_used}
