"""A run in Weights & Biases: measures against the iteration, the trainers' losses, samples, data and models.

Online where a key is found, else offline in the run's folder, to be sent later with `wandb sync`, one folder after the
other (it sends several at once, and an artifact should come before who uses it); WANDB_MODE wins.

Lineage: W&B draws its graph from the artifacts that runs use and log, a run being one node. In one run everything
would hang together with everything, so each stage of the chain M_t -> feedback -> pairs -> M_t+1 is a small W&B run of
its own (job type: the stage's name; group: the run's) that uses what it was made from and logs what it made; measures,
losses and samples are in the run of job type `loop`. An artifact that is used is described again, and W&B knows it by
its content. The public `use_artifact` is refused offline and waits for the server without limit online, hence the
method below it. Lineage stands in each artifact's metadata as well (`inputs`: path and hash).

What is written offline is tested by reading it back: who logs, who uses, and that both are of one content. Not tested
is a real server: that it joins them into one graph rests on wandb's source, where an artifact of known content is
committed already and is then only noted as used.
"""

from __future__ import annotations

import os
import re
import time
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
from srlm.tracking.lineage import CHAIN, made_from, makers, without_secrets
from srlm.tracking.rows import Row, Table, iteration_of

SECONDS = 30.0  # longest wait for a server at the start
# and at the end, where SLURM kills a command 30 s after it asked it to stop; what is not sent by then stays on disk
FINISH_SECONDS = 15.0


class WandbTracker(LoggingTracker):
    """The tracker's protocol on one W&B run for one srlm run, resumed with it. Nothing here raises."""

    title = "W&B"
    ledger_path = "wandb/logged.jsonl"

    def __init__(self, config: Config, workspace: Workspace):
        self._folder = slug(workspace.root.name, "-")[:48]
        self._run: Any = None
        self._mode: Literal["online", "offline"] = "offline"
        self._defined: set[str] = set()
        self._last = 0.0  # when a stage's run was begun, seconds since the epoch
        super().__init__(config, workspace, off=os.environ.get("WANDB_MODE") == "disabled")

    def log(self, row: Row) -> None:
        found: dict[str, Any] = dict(row.metrics)
        for name, counts in row.histograms.items():
            edges = [score - 0.5 for score in range(len(counts) + 1)]
            found[name] = self._wandb.Histogram(np_histogram=(counts, edges))
        found |= {name: self._table(row.step, rows) for name, rows in row.tables.items()}
        for part in sorted({name.split("/")[0] for name in found} - self._defined):
            self._run.define_metric(row.against)
            self._run.define_metric(f"{part}/*", step_metric=row.against)
            self._defined.add(part)
        self._run.log({**found, row.against: row.step})

    def keep(self, stage: Stage) -> None:
        manifest = stage.manifest()
        told = Row("artifact", iteration_of(stage), {manifest.stage: manifest.finished})
        if not (self.config.tracking.artifacts and stage.outputs and self.ledger.new(told)):
            return
        artifact = self._artifact(manifest)
        if stage.name in CHAIN:
            self._made(manifest, artifact)
        else:
            self._run.log_artifact(artifact)
        self.ledger.add(told)

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))

    def start(self) -> None:
        import wandb

        # What waits to be sent lies in the run's folder; a home that cannot be written to is no hindrance then.
        place = f"{self.workspace.root.resolve()}/wandb"
        os.environ |= {"WANDB_DATA_DIR": place, "WANDB_CACHE_DIR": f"{place}/cache", "WANDB_SILENT": "true"}
        self._wandb, mode = wandb, os.environ.get("WANDB_MODE") or self.config.tracking.mode
        if mode not in ("offline", "dryrun"):
            try:
                if key_is_found():
                    self._mode = "online"
                    self._run = self._init()
                    say(f"W&B: {self._run.url}")
            except wandb.Error as error:
                say(f"W&B: {reason(error)}.")
                wandb.teardown()  # the run's id is taken until then
        if self._run is None:
            self._mode = "offline"
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline means no request to anyone
            self._run = self._init()
            each = f'for run in "{place}"/offline-run-*; do wandb sync "$run"; done'
            say(f"W&B: offline; `wandb login`, then `{each}` sends the run")

    def _made(self, manifest: Manifest, artifact: Any) -> None:
        """One node of the graph: a W&B run that uses what the stage was made from, and logs what it made."""
        made = makers(self.workspace)
        used = {made[path].stage: made[path] for path in made_from(manifest, self.config) if path in made}
        if self._mode == "offline":  # a folder is named by its second, and must be sent after those it builds on
            time.sleep(max(0.0, int(self._last) + 1 - time.time()))
            self._last = time.time()
        run = self._init(manifest.stage)
        for other in used.values():
            run._log_artifact(self._artifact(other), aliases=[], is_user_created=True, use_after_commit=True)
        run.log_artifact(artifact)
        run.finish()

    def _artifact(self, manifest: Manifest) -> Any:
        """A stage's outputs; of a model, which may be large and stays where it is, the manifest stands for it."""
        root = self.workspace.root
        place, _, name = manifest.stage.rpartition("/")
        paths = [root / path for path in manifest.outputs]
        models = [path for path in paths if path.is_dir()]
        metadata = {key: getattr(manifest, key) for key in ("stage", "inputs", "outputs", "counts")}
        if models:
            metadata["bytes"] = {
                f"{p.relative_to(root)}": p.stat().st_size for m in models for p in sorted(m.iterdir())
            }
        artifact = self._wandb.Artifact(
            f"{self._folder}-{slug(manifest.stage, '-')}",
            "model" if models or name == "base_model" else "data",
            metadata=without_secrets(metadata, _home()),
        )
        files = [path for path in paths if path not in models]
        for path in [*files, *([root / place / "manifests" / f"{name}.json"] if models else [])]:
            text = path.read_text(encoding="utf-8") if path.suffix == ".json" else ""
            if (clean := without_secrets(text, _home())) != text:
                with artifact.new_file(path.name, encoding="utf-8") as file:
                    file.write(clean)
            else:
                artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
        return artifact

    def _table(self, t: int, rows: Table) -> Any:
        columns = list(rows[0])
        return self._wandb.Table(["iteration", *columns], [[t, *(row[name] for name in columns)] for row in rows])

    def _init(self, stage: str = "") -> Any:
        """The run's W&B run, or that of one of its stages."""
        name, tracking, run = self.config.name, self.config.tracking, self.workspace.run()
        if "wandb_id" not in run:  # drawn once: from the name alone, all runs of that name in a project would be one
            self.workspace.update_run(wandb_id=f"{self._folder}-{uuid.uuid4().hex[:8]}")
        id_ = self.workspace.run()["wandb_id"]
        override = re.search(r"-[^-=]*=", name)  # a sweep's run is NAME-OPTION=VALUE,...
        settings = self._wandb.Settings(console="off", init_timeout=SECONDS, finish_timeout=FINISH_SECONDS)
        settings.save_code, settings.disable_code, settings.disable_git = False, True, True
        # Versions and hardware are in the config, without the paths and arguments that W&B would collect.
        settings.x_disable_machine_info, settings.x_disable_stats, settings.x_save_requirements = True, True, False
        options = to_dict(self.config) | {key: run.get(key) for key in ("version", "python", "packages", "machine")}
        return self._wandb.init(
            mode=self._mode,
            project=tracking.project,
            entity=tracking.entity or None,
            id=f"{id_[-8:]}-{slug(stage, '-')}" if stage else id_,
            resume="allow",
            reinit="create_new" if stage else None,
            name=f"{name}: {stage}" if stage else name,
            group=name[: override.start()] if override else name,
            job_type=stage.rpartition("/")[2] if stage else "loop",
            config=None if stage else without_secrets(options, _home()),
            allow_val_change=True,  # a resumed run may ask for more iterations
            dir=str(self.workspace.root),  # W&B makes `wandb` in it
            settings=settings,
        )


def key_is_found() -> bool:
    """Whether W&B itself finds a key (environment, netrc, its settings); it asks nobody and shows nothing.

    Raises
    ------
    wandb.Error
        If there is one that cannot be a key.
    """
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    host = wandb_setup.singleton().settings.base_url
    return bool(wbauth.authenticate_session(host=host, source="srlm", prompt=False, update_session=False))


def _home() -> str:
    return str(Path.home())
