"""The Weights & Biases tracker: one W&B run for each srlm run, resumed by the id in run.json.

Metrics have a section for each part (judge, sft, dpo_2, ...), plotted against the iteration or the trainer's step.
The run's summary has the last value of every metric, so that a sweep is a table of final results. Samples are tables.
Each stage's outputs are an artifact; a model is represented by its manifest. An artifact's metadata contain the stage's
inputs with their hashes, which is the lineage: W&B's own graph is between runs, and `use_artifact` needs the server.

The run is online if a key is found, otherwise offline in the run's folder; WANDB_MODE overrides both. A run that is
continued offline has one folder for each start. `wandb sync` uploads those of one id in the order of their start.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any, Literal

from srlm.config import Config, to_dict
from srlm.io.progress import say
from srlm.metrics import slug
from srlm.pipeline.manifest import Manifest
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.tracking.base import LoggingTracker, reason
from srlm.tracking.rows import Row, Table, iteration_of
from srlm.tracking.secrets import without_secrets

INIT_SECONDS = 30.0  # longest wait for a server at the start
FINISH_SECONDS = 15.0  # and at the end: SLURM kills 30 s after its signal. What is not sent by then stays on disk.


class WandbTracker(LoggingTracker):
    """Log to one W&B run. No method raises."""

    title = "W&B"
    logged_path = "wandb/logged.jsonl"

    def __init__(self, config: Config, workspace: Workspace):
        self._name = slug(workspace.root.name, "-")[:48]
        self._run: Any = None
        self._sections: set[str] = set()
        super().__init__(config, workspace, off=os.environ.get("WANDB_MODE") == "disabled")

    def start(self) -> None:
        import wandb

        # Everything that W&B writes is in the run's folder, so the home folder need not be writable.
        folder = f"{self.workspace.root.resolve()}/wandb"
        os.environ |= {"WANDB_DATA_DIR": folder, "WANDB_CACHE_DIR": f"{folder}/cache", "WANDB_SILENT": "true"}
        self._wandb, mode = wandb, os.environ.get("WANDB_MODE") or self.config.tracking.mode
        if mode not in ("offline", "dryrun"):
            try:
                if wandb.login(prompt=False, verify=False):
                    self._run = self._init("online")
                    say(f"W&B: {self._run.url}")
                    return
            except wandb.Error as error:
                say(f"W&B: {reason(error)}.")
                wandb.teardown()  # otherwise the run's id is in use
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline means that nothing is sent to anyone
        self._run = self._init("offline")
        say(f'W&B: offline. To upload the run: `wandb login`, then `wandb sync "{folder}"/offline-run-*`')

    def log(self, row: Row) -> None:
        found: dict[str, Any] = dict(row.metrics)
        for name, counts in row.histograms.items():
            edges = [score - 0.5 for score in range(len(counts) + 1)]
            found[name] = self._wandb.Histogram(np_histogram=(counts, edges))
        found |= {name: self._table(row.step, rows) for name, rows in row.tables.items()}
        for section in sorted({name.split("/")[0] for name in found} - self._sections):
            self._run.define_metric(row.against)
            self._run.define_metric(f"{section}/*", step_metric=row.against)
            self._sections.add(section)
        self._run.log({**found, row.against: row.step})

    def keep(self, stage: Stage) -> None:
        manifest = stage.manifest()
        row = Row("artifact", iteration_of(stage), {manifest.stage: manifest.finished})
        if self.config.tracking.artifacts and stage.outputs and self.logged.new(row):
            self._run.log_artifact(self._artifact(manifest))
            self.logged.add(row)

    def finish(self, failed: bool) -> None:
        # An earlier iteration may have been recomputed and logged after a later one, or by an earlier process.
        self._run.summary.update(self.logged.final())
        self._run.finish(exit_code=int(failed))

    def _artifact(self, manifest: Manifest) -> Any:
        """Return a stage's outputs as an artifact; models, which may be large, are represented by the manifest."""
        root, home = self.workspace.root, str(Path.home())
        folder, _, stage = manifest.stage.rpartition("/")
        paths = [root / path for path in manifest.outputs]
        models = [path for path in paths if path.is_dir()]
        metadata = {key: getattr(manifest, key) for key in ("stage", "inputs", "outputs", "counts")}
        if models:
            files = [file for model in models for file in sorted(model.iterdir())]
            metadata["bytes"] = {f"{file.relative_to(root)}": file.stat().st_size for file in files}
        artifact = self._wandb.Artifact(
            f"{self._name}-{slug(manifest.stage, '-')}",
            "model" if models or stage == "base_model" else "data",
            metadata=without_secrets(metadata, home),
        )
        uploaded = [path for path in paths if path not in models]
        for path in [*uploaded, *([root / folder / "manifests" / f"{stage}.json"] if models else [])]:
            text = path.read_text(encoding="utf-8") if path.suffix == ".json" else ""
            if (clean := without_secrets(text, home)) != text:
                with artifact.new_file(path.name, encoding="utf-8") as file:
                    file.write(clean)
            else:
                artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
        return artifact

    def _table(self, t: int, rows: Table) -> Any:
        columns = list(rows[0])
        return self._wandb.Table(["iteration", *columns], [[t, *(row[name] for name in columns)] for row in rows])

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        name, tracking, run = self.config.name, self.config.tracking, self.workspace.run()
        if "wandb_id" not in run:  # random, because runs of one project may have the same name
            self.workspace.update_run(wandb_id=f"{self._name}-{uuid.uuid4().hex[:8]}")
        override = re.search(r"-[^-=]*=", name)  # a sweep's runs are named NAME-OPTION=VALUE,...
        settings = self._wandb.Settings(console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS)
        settings.save_code, settings.disable_code, settings.disable_git = False, True, True
        # The config contains versions and hardware, without the paths and arguments that W&B would collect.
        settings.x_disable_machine_info, settings.x_disable_stats, settings.x_save_requirements = True, True, False
        options = to_dict(self.config) | {
            key: run.get(key) for key in ("version", "code", "python", "packages", "machine")
        }
        return self._wandb.init(
            mode=mode,
            project=tracking.project,
            entity=tracking.entity or None,
            id=self.workspace.run()["wandb_id"],
            resume="allow",
            reinit="create_new",  # not the process's global run, which may be the caller's own
            name=name,
            group=name[: override.start()] if override else name,
            config=without_secrets(options, str(Path.home())),
            allow_val_change=True,  # a resumed run may have more iterations
            dir=str(self.workspace.root),  # W&B adds the folder `wandb`
            settings=settings,
        )
