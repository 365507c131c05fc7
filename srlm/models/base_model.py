"""Stage that downloads or converts the checkpoint of M0 and checks it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srlm.config import Config, options_of
from srlm.errors import ModelError
from srlm.io.files import write_atomic
from srlm.io.progress import say
from srlm.models.chat import check_turns
from srlm.models.checkpoint import Checkpoint
from srlm.models.checkpoint_checks import notes_of, problems_of, refuse
from srlm.models.resolve import identity, licence_of, model_id, resolve
from srlm.pipeline.artifacts import (
    EVALUATION_PROMPTS,
    IFEVAL_PROMPTS,
    IFT,
    LABELLED,
    OWN_PROMPTS,
    PAIRS,
    POOL,
    PROMPTS,
    Artifact,
    model_output,
)
from srlm.pipeline.run_reader import refuse_other_maker
from srlm.pipeline.stage import LocalStage, RunStage, recorded
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import BASE_MODEL, Workspace


class BaseModel(RunStage):
    """Find, download or convert M0, and check that it can be trained.

    M0 is not copied into the run: run.json stores its path, and model.json its fingerprint.
    """

    name = "base_model"
    resumable = False

    def writes(self) -> list[str]:
        return [BASE_MODEL]

    def depends_on(self) -> dict[str, Any]:
        options = options_of(self.config, "model")
        return {name: value for name, value in options.items() if name != "model.max_thought_tokens"}

    def made_from(self) -> dict[str, str]:
        name, folder = self.config.model.name, self.workspace.run().get("base_model")
        inputs = {key.replace(folder, name, 1): hash_ for key, hash_ in identity(folder).items()} if folder else {}
        if name.endswith(".gguf"):  # the run uses the converted checkpoint
            inputs |= {f"{name} (file)": hash_ for hash_ in identity(name).values()}
        return inputs

    def complete(self, inputs: Any = None) -> bool:
        """Return whether the stage is complete and the checkpoint, which is outside the run, still exists."""
        folder = self.workspace.run().get("base_model")
        return super().complete(inputs) and folder is not None and Path(folder).is_dir()

    def caption(self) -> str:
        return f"M0: {self.config.model.name}"

    def run(self) -> dict[str, Any]:
        """Resolve and check M0 in a separate process."""
        run_worker("srlm.models.base_model:worker", self.workspace, 0, name=self.name)
        return {}


class StartFromBase(LocalStage):
    """M1 is M0, without SFT (`sft.data=none`). The checkpoint is not copied: a file says that M1 is M0."""

    name = "start_from_base"

    def writes(self) -> list[str]:
        return [BASE_MODEL]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "sft.data")

    def made_from(self) -> dict[str, str]:
        return recorded(self.workspace, model_output(self.workspace, 0))

    def complete(self, inputs: Mapping[str, str] | None = None) -> bool:
        """Return whether the stage is complete; raise RunFolderError if M1 was trained."""
        refuse_other_maker(self, 1, "sft.data")
        return super().complete(inputs)

    def caption(self) -> str:
        return "M1 is M0: no SFT"

    def run(self) -> dict[str, Any]:
        write_atomic(self.outputs[0], model_output(self.workspace, 0).read_text())
        return {}


def worker(workspace: Workspace, t: int) -> None:
    """Resolve M0, check its files and its chat template, and write its fingerprint."""
    config = workspace.config()
    folder = resolve(config.model)
    checkpoint = Checkpoint(folder, config.model, "train", config.engine.max_model_len or 0, config.engine.kind)
    refuse(f"model.name={config.model.name}", problems_of(checkpoint))
    _check_conversations(workspace, config, checkpoint.tokenizer)
    for note in notes_of(checkpoint):
        say(f"  Note on {config.model.name}: {note}")
    record = {"name": config.model.name, "id": model_id(folder)}
    write_atomic(workspace.iteration(0) / BASE_MODEL, json.dumps(record, indent=1))
    workspace.update_run(base_model=str(folder), base_licence=licence_of(config.model, folder))


def _check_conversations(workspace: Workspace, config: Config, tokenizer: Any) -> None:
    """Raise ModelError if the data that M_t answers or learns from have conversations which the template cannot render.

    Otherwise, the first such conversation would stop the run hours later.
    """
    data, own = config.data, {name: getattr(config, name).path for name in ("prompts", "judgements", "pairs")}
    sources: list[tuple[str, Artifact[Any], bool]] = [
        (f"data.ift.path={data.ift.path}", IFT, config.sft.uses_ift),
        (f"data.eft.path={data.eft.path}", OWN_PROMPTS, data.own_answers.used),
        (f"data.evaluation.path={data.evaluation.path}", EVALUATION_PROMPTS, config.evaluation.enabled),
        (f"evaluation.ifeval={config.evaluation.ifeval}", IFEVAL_PROMPTS, bool(config.evaluation.ifeval)),
        (f"prompts.path={own['prompts']}", POOL, bool(own["prompts"])),
        (f"judgements.path={own['judgements']}", PROMPTS, bool(own["judgements"])),
        (f"pairs.path={own['pairs']}", PAIRS, bool(own["pairs"])),
        (f"pairs.path={own['pairs']}", LABELLED, bool(own["pairs"])),
    ]
    for source, artifact, is_used in sources:
        iterations = (
            (0,) if artifact.folder == "data" else range(2, config.iteration + 1)
        )  # own data are read before M0
        rows = [row for t in iterations for row in artifact.peek(workspace, t)] if is_used else []
        turns = [1 + sum(turn.role == "user" for turn in row.history) for row in rows]
        if several := sum(number > 1 for number in turns):
            try:
                check_turns(tokenizer, tokenizer.chat_template, max(turns))
            except ModelError as error:
                text = f"{source} has {several} conversations of several turns (of {len(rows)} rows). {error}"
                raise ModelError(text) from error
