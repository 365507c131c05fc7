"""The stages that train: the SFT baseline, M1, the reward model, and M_t+1 by DPO."""

from __future__ import annotations

import json
from typing import Any

from srlm.config import Config, options_of
from srlm.engines.dependencies import (
    chat_template,
    engine_libraries,
    generation_options,
    model_input,
    model_options,
)
from srlm.io.files import files_by_name
from srlm.judges import spec_of
from srlm.judges.dependencies import judge_options
from srlm.judges.eft import needs_baseline
from srlm.judges.pairwise import load_template as load_pairwise_template
from srlm.judges.roles import judge_of
from srlm.pipeline.artifacts import (
    EFT,
    EFT_EXAMPLES,
    IFEVAL_PROMPTS,
    IFT,
    JUDGEMENT_PAIRS,
    MODEL,
    PAIRS,
    PROMPTS,
    REWARD_MODEL,
    SEEDS,
    SFT_BASELINE,
    training_counts,
)
from srlm.pipeline.provenance import TRAINING
from srlm.pipeline.roles import dpo_reference, iteration, resolve_role
from srlm.pipeline.stage import RunStage, recorded
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import early_stopping_folder
from srlm.training import early_stopping
from srlm.training.config import TrainConfig
from srlm.training.methods.sft import EFTLoss, SFTConfig, TrainOn

_SPEED = ("micro_batch_size", "gradient_checkpointing", "checkpoint_steps", "processes", "accelerate_config")
_CHECKS = ("save_tolerance",)


class TrainingStage(RunStage):
    """A stage that trains a model in processes of its own."""

    group: str  # of the options: sft, dpo, reward_model
    output: str = MODEL
    worker: str  # module:function

    def writes(self) -> list[str]:
        return [self.output]

    def depends_on(self) -> dict[str, Any]:
        return _options(self.config, self.group, self._unused())

    def depends_on_libraries(self) -> tuple[str, ...]:
        return TRAINING

    def resumes_from(self) -> list[str]:
        return [f"checkpoints/{self.name}"]

    def run(self) -> dict[str, Any]:
        """Train; return the counts that the training stored."""
        run_worker(self.worker, self.workspace, self.t, self.train, self.name)
        found: dict[str, Any] = json.loads((self.folder / training_counts(self.name)).read_text())
        return found

    @property
    def train(self) -> TrainConfig:
        """The options of the training."""
        found: TrainConfig = getattr(self.config, self.group)
        return found

    def _unused(self) -> set[str]:
        return set()


class TrainSFTBaseline(TrainingStage):
    """M0 to the SFT baseline: SFT on IFT alone, to write rationales for EFT data that has none."""

    name, group, output = "sft_baseline", "sft", SFT_BASELINE
    worker = "srlm.training.stage_workers:sft_baseline_worker"

    def made_from(self) -> dict[str, str]:
        found = recorded(self.workspace, *(artifact.path(self.workspace) for artifact in SEEDS))
        return found | model_input(self.workspace, iteration(0)) | chat_template(self.config)

    def wanted(self) -> bool:
        ranked = EFT.read(self.workspace)
        return needs_baseline(ranked, self.config.data.rationales) and spec_of(self.config.judge).eft == "scores"

    def caption(self) -> str:
        return "The SFT baseline: SFT on IFT alone"

    def _unused(self) -> set[str]:
        return _unused_masking(self.config.sft) | _RANKING


class TrainSFT(TrainingStage):
    """M0 to M1: SFT on IFT and EFT (arXiv 2401.10020, section 2.1)."""

    name, group = "sft", "sft"
    worker = "srlm.training.stage_workers:sft_worker"

    def depends_on(self) -> dict[str, Any]:
        options = super().depends_on()
        if self._ranks():  # answers are compared within a micro-batch: there its size matters
            options |= options_of(self.config, "sft.micro_batch_size")
        return options | {"judge.template": judge_options(self.config).get("judge.template")}

    def made_from(self) -> dict[str, str]:
        examples = [EFT_EXAMPLES.path(self.workspace, 1)] if spec_of(self.config.judge).eft_in_sft else []
        found = recorded(self.workspace, IFT.path(self.workspace), *examples)
        return found | model_input(self.workspace, iteration(0)) | chat_template(self.config)

    def caption(self) -> str:
        return "M0 -> M1: SFT on IFT" + (" and EFT" if spec_of(self.config.judge).eft_in_sft else "")

    def _ranks(self) -> bool:
        return self.config.sft.eft_loss is EFTLoss.ranking

    def _unused(self) -> set[str]:
        return _unused_masking(self.config.sft) | (set() if self._ranks() else _RANKING)


class TrainRewardModel(TrainingStage):
    """M1 to a reward model on the ranked answers, where that is the judge (arXiv 2203.02155, section 3.4)."""

    name, group, output = "reward_model", "reward_model", REWARD_MODEL
    worker = "srlm.training.stage_workers:reward_model_worker"

    def made_from(self) -> dict[str, str]:
        found = recorded(self.workspace, EFT_EXAMPLES.path(self.workspace, 1))
        return found | model_input(self.workspace, iteration(1)) | chat_template(self.config)

    def wanted(self) -> bool:
        return judge_of(self.config, 1).kind == "reward_model"

    def caption(self) -> str:
        return "M1 -> reward model, on the ranked answers"

    def _unused(self) -> set[str]:
        return set(_RANKING)


class TrainDPO(TrainingStage):
    """M_t-1 to M_t: DPO on the pairs that M_t-1 made (arXiv 2401.10020, section 2.3; 2305.18290)."""

    name, group = "dpo", "dpo"
    worker = "srlm.training.stage_workers:dpo_worker"

    def depends_on(self) -> dict[str, Any]:
        config, early = self.config, self.config.dpo.early_stopping
        options = super().depends_on()
        options = {name: value for name, value in options.items() if not name.startswith("dpo.early_stopping.")}
        if not early.enabled:
            return options
        names = (f"evaluation.{name}" for name in ("temperature", "top_p", "max_new_tokens"))
        options |= options_of(config, "dpo.early_stopping", "data.near_duplicate", *names)
        if early.source.path == "unused_ift":
            options |= options_of(config, "data.ift", "data.ift_answers", "data.builtin_languages")
        options |= generation_options(config) | generation_options(config, resolve_role(early.judge, self.t - 1))
        template = load_pairwise_template(config.evaluation.judge_template, "evaluation.judge_template")
        return options | {"evaluation.judge_template": template.digest}

    def made_from(self) -> dict[str, str]:
        workspace, config, t = self.workspace, self.config, self.t
        pairs = [artifact.path(workspace, t) for artifact in (PAIRS, JUDGEMENT_PAIRS)]
        found = recorded(workspace, *pairs) | model_input(workspace, iteration(t - 1))
        found |= model_input(workspace, dpo_reference(config, t)) | chat_template(config)
        early = config.dpo.early_stopping
        if early.enabled:  # validation prompts differ from those of training and evaluation
            known = [artifact.path(workspace) for artifact in (*SEEDS, IFEVAL_PROMPTS)]
            found |= recorded(workspace, *known, *(PROMPTS.path(workspace, u) for u in range(2, t + 1)))
            source = config.data.ift.path if early.source.path == "unused_ift" else early.source.path
            found |= model_input(workspace, resolve_role(early.judge, t - 1)) | files_by_name([source])
        return found

    def depends_on_libraries(self) -> tuple[str, ...]:
        early = self.config.dpo.early_stopping.enabled
        return tuple(dict.fromkeys((*TRAINING, *(engine_libraries(self.config) if early else ()))))

    def resumes_from(self) -> list[str]:
        early = [early_stopping_folder(self.workspace, self.t).name] if self.config.dpo.early_stopping.enabled else []
        return [*super().resumes_from(), *early]

    def caption(self) -> str:
        return f"M{self.t - 1} -> M{self.t}: DPO, reference {self.config.dpo.reference.name}"

    def run(self) -> dict[str, Any]:
        if not self.config.dpo.early_stopping.enabled:
            return super().run()
        return early_stopping.train(self.workspace, self.config, self.t, self._work)

    def _work(self, name: str, train: TrainConfig | None) -> None:
        targets = {self.name: self.worker, **early_stopping.WORKERS}
        run_worker(targets[name], self.workspace, self.t, train, name)

    def _unused(self) -> set[str]:
        return set(_RANKING)


_RANKING = {"sft.eft_loss", "sft.eft_length_control"}


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
