"""Collection of a run's numbers for its report page; the run's folder is only read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeVar

from srlm import __version__
from srlm.config import Config, flatten, to_dict
from srlm.errors import RunFolderError
from srlm.evaluation.feedback_checks import FeedbackChecks, checks_by_model
from srlm.evaluation.record import Evaluation, evaluation_path, read_evaluation
from srlm.evaluation.reward_hacking import reward_hacking_report
from srlm.generation.own_feedback import LEFT_OUT
from srlm.judges.roles import feedback_judge
from srlm.metrics import metric, slug
from srlm.pipeline.artifacts import (
    ANSWERS,
    CANDIDATES,
    EVALUATION_PROMPTS,
    JUDGEMENTS,
    PROMPTS,
    Artifact,
    training_log,
)
from srlm.pipeline.manifest import Manifest, finished_manifests, stage_manifest
from srlm.pipeline.resume import COMPLETED, PRIVATE, STOPPED, public_command, run_command, state_of
from srlm.pipeline.run_reader import open_run
from srlm.pipeline.workspace import Workspace
from srlm.preferences.alarms import triggered
from srlm.preferences.scores import mean_scores
from srlm.tracking.metrics import trainer_part
from srlm.training.early_stopping import outcome_lines

R = TypeVar("R")

CURVE_POINTS = 300  # maximum number of points of a training curve; longer curves are thinned evenly
SOURCE_LOSSES = {"loss_ift": "IFT examples", "loss_eft": "EFT examples"}  # in place of the loss over both
CURVES = ("mean_token_accuracy", "ranking_accuracy", "rewards/accuracies", "rewards/margins", "accuracy")


@dataclass(frozen=True)
class RunNumbers:
    """Numbers of one run up to its last evaluated model."""

    workspace: Workspace
    config: Config
    last: int  # M_last is the last evaluated model
    models: dict[int, Evaluation]  # t -> evaluation of M_t, from M0 to M_last
    statistics: dict[int, dict[str, float]]  # t -> statistics of the feedback that M_t was trained on
    alarms: dict[int, list[str]]  # t -> messages of triggered alarms
    own_scores: dict[int, dict[str, Any]]  # t -> mean score of M_t's candidates by the judge that selects pairs
    reward_hacking_report: list[str]  # one sentence for each model from M2 on
    early_stopping: list[str] = field(default_factory=list)  # one sentence for each DPO training with early stopping
    checks: dict[int, FeedbackChecks] = field(default_factory=dict)  # t -> checks of M_t's candidates, if checkable
    _read: dict[Path, list[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def id(self) -> str:
        """Name and hash of the run: of M1's evaluation answers, which stay when the run is continued; "" before M1."""
        path = ANSWERS.path(self.workspace, 1)
        return f"{self.name}-{self.workspace.fingerprint(path)[:8]}" if self.last and path.exists() else ""

    def records(self, artifact: Artifact[R], t: int = 0) -> list[R]:
        """Return the records of a file, which is read once; an empty list if the file does not exist."""
        path = artifact.path(self.workspace, t)
        if path not in self._read:
            self._read[path] = artifact.peek(self.workspace, t)
        return self._read[path]

    def charts(self) -> dict[str, Any]:
        """Return the data of the page's charts, as plain dicts."""
        return {
            "name": self.name,
            "id": self.id,
            "last": self.last,
            "maxScore": self.config.judge.max_score,
            "models": {
                str(t): {part: values for part, values in measures.to_dict().items() if part != "judge_metrics"}
                | {"feedback": self._feedback(t)}
                for t, measures in self.models.items()
            },
            "types": self._types(),
            "histograms": self._histograms(),
            "funnel": self._funnels(),
            "curves": self._curves(),
            "cost": self._costs(),
        }

    def _feedback(self, t: int) -> dict[str, Any]:
        """Return the measures of M_t's candidates by name."""
        checks = self.checks[t].to_counts() if t in self.checks else {}
        return {"score_mean": self.own_scores.get(t)} | checks

    def options(self) -> dict[str, Any]:
        """Return every option by dotted name; paths are reduced to their last part, and server URLs are omitted.

        URLs may contain a password.
        """
        plain = to_dict(self.config)
        flat = {name: value for group in plain for name, value in flatten(plain, group).items()}
        return {
            name: Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
            for name, value in flat.items()
            if name not in PRIVATE
        }

    def state(self) -> dict[str, str]:
        """Return whether the run is completed, stopped (with the reason and the resume command) or running."""
        recorded = state_of(self.workspace)
        state = recorded.state or (COMPLETED if self.last >= self.config.iteration else STOPPED)
        if state != STOPPED:
            return {"state": state, "why": "", "command": ""}
        why = recorded.why.replace(str(self.workspace.root), self.workspace.root.name)
        command = run_command(self.workspace, self.config, self.config.iteration, recorded.overrides)
        return {"state": state, "why": why, "command": public_command(command) if command else ""}

    def facts(self) -> dict[str, str]:
        """Return version, packages, machine and seed."""
        run = self.workspace.run()
        packages = ", ".join(f"{name} {version}" for name, version in run.get("packages", {}).items())
        machine = run.get("machine", {})
        code = run.get("code") or {}
        commit = f", commit {code['commit'][:12]}{' with changes' if code['changed'] else ''}" if code else ""
        facts = {
            "srlm": run.get("version", __version__) + commit,
            "Python": run.get("python", ""),
            "packages": packages,
            "machine": ", ".join([machine.get("system", ""), *machine.get("gpus", [])]),
            "seed": str(self.config.seed),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _types(self) -> dict[str, int]:
        """Return the number of M_last's answers to evaluation prompts of each type."""
        answered = {answer.id for answer in self.records(ANSWERS, self.last)}
        prompts = self.records(EVALUATION_PROMPTS)
        return dict(sorted(Counter(prompt.type for prompt in prompts if prompt.type and prompt.id in answered).items()))

    def _histograms(self) -> list[dict[str, Any]]:
        """Return histograms of integer scores, of each iteration's candidates and of the held-out answers."""
        rows = []
        for t in range(2, self.last + 2):
            judgements = self.records(JUDGEMENTS, t)
            counts = Counter(j.whole_score for j in judgements if j.score is not None)
            rows += self._bars(counts, t - 1, f"candidates of M{t - 1}")
        for t, measures in self.models.items():
            histogram = measures.judge_metrics.scores.histogram if measures.judge_metrics else {}
            rows += self._bars({int(score): n for score, n in histogram.items()}, t, "held-out answers")
        return rows

    def _bars(self, counts: dict[Any, int], t: int, of: str) -> list[dict[str, Any]]:
        total = sum(counts.values())
        scores = range(self.config.judge.max_score + 1) if total else ()
        return [
            {"model": f"M{t}", "of": of, "score": s, "count": counts.get(s, 0), "share": counts.get(s, 0) / total}
            for s in scores
        ]

    def _funnels(self) -> list[dict[str, Any]]:
        """Return the numbers of records from generated prompts to pairs, with the reasons of losses."""
        rows = []
        for t in range(2, self.last + 2):
            lost, left_out = Counter[str](), Counter[str]()
            prompts = self.records(PROMPTS, t)
            lost.update(prompt.rejected for prompt in prompts if prompt.rejected)
            if not prompts:
                continue
            accepted = [prompt.id for prompt in prompts if not prompt.rejected]
            candidates = self.records(CANDIDATES, t)
            means = mean_scores(self.records(JUDGEMENTS, t), self.config.min_valid)
            scored = Counter(candidate.prompt_id for candidate in candidates if candidate.id in means)
            first = "prompts of the pool" if self.config.prompts.path else "generated prompts"
            if own := next((name for name in ("judgements", "pairs") if getattr(self.config, name).path), None):
                taken = stage_manifest(self.workspace.iteration(t), own)
                left_out.update(taken.counts.get(LEFT_OUT) if taken else None)
                first = f"rows of {own}.path"
                lost += left_out
            steps: list[tuple[str, int, dict[str, int]]] = [
                (first, len(prompts) + left_out.total(), {}),
                ("accepted prompts", len(accepted), dict(lost)),
            ]
            if own != "pairs":  # its candidates have no judgements
                steps.append(("with two scored candidates", sum(scored[prompt] > 1 for prompt in accepted), {}))
            if made := stage_manifest(self.workspace.iteration(t), "pairs"):
                counts = made.counts
                kind = "labelled answers" if "labelled_answers" in counts else "pairs"
                steps.append((kind, counts[kind.replace(" ", "_")], counts["dropped"]))
            rows += [{"iteration": f"M{t}", "step": step, "count": n, "lost": why} for step, n, why in steps]
        return rows

    def _curves(self) -> list[dict[str, Any]]:
        rows = []
        for t in range(1, self.last + 1):
            for path in sorted(self.workspace.iteration(t).glob(training_log("*"))):
                name = path.name.removesuffix(training_log(""))
                title = f"{name.upper()} to M{t}" if t > 1 or name == "sft" else name.replace("_", " ")
                title = title.replace("sft", "SFT")
                lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
                logged = [line for line in lines if "loss" in line]
                apart = any(key in line for line in logged for key in SOURCE_LOSSES)
                for key in (*(SOURCE_LOSSES if apart else ("loss",)), *CURVES):
                    of = SOURCE_LOSSES.get(key, "")
                    row = metric(f"{trainer_part(name, t)}/{slug(key)}")
                    what = metric("sft/loss").label if of else row.label
                    about = {"training": title, "what": what, "of": of, "definition": row.definition}
                    rows += [about | point for point in _points(logged, key)]
        return rows

    def _costs(self) -> list[dict[str, Any]]:
        rows = []
        for path in finished_manifests(self.workspace.root):
            manifest = Manifest.load(path)
            folder, name = manifest.stage.split("/")[0], path.stem.replace("_", " ")
            when = folder.replace("iteration_", "M")
            rows.append({"when": when, "stage": name, "seconds": manifest.seconds, "tokens": manifest.tokens})
        return rows


def _points(logged: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, float]]:
    """Return at most CURVE_POINTS of the logged values, each with the mean of the values around it."""
    # JSON has no NaN.
    defined = [row for row in logged if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    means = smoothed([row[key] for row in defined])
    thin = max(1, -(-len(defined) // CURVE_POINTS))
    rows = zip(defined, means, strict=True)
    return [{"step": row["step"], "value": row[key], "smooth": mean} for row, mean in islice(rows, 0, None, thin)]


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the centred moving average over a tenth of the values, over fewer at both ends."""
    reach = len(values) // 20
    sums = [0.0, *accumulate(values)]
    ends = ((max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def collect(root: Path) -> RunNumbers:
    """Return the numbers of the run in this folder.

    Raises
    ------
    RunFolderError
        If it is not a run's folder, or no model was evaluated yet.
    """
    workspace = open_run(root)
    try:
        config = workspace.config()
    except KeyError as error:  # an option value that this version does not have
        raise RunFolderError(f"{workspace.config_path} was written by another version of srlm ({error}).") from error
    models: dict[int, Evaluation] = {}
    while (path := evaluation_path(workspace, len(models))).exists():
        models[len(models)] = read_evaluation(path)
    if not models:
        raise RunFolderError(
            f"{root}: no model was evaluated yet (iteration_0/evaluation.json). The run writes its report after the "
            "first evaluation."
        )
    statistics, alarms, counts = {}, {}, {}
    for t in range(2, len(models) + 1):
        if made := stage_manifest(workspace.iteration(t), "pairs"):
            counts[t] = made.counts
            statistics[t] = counts[t]["alarms"]
            judge = feedback_judge(config, t - 1)
            alarms[t] = [f"{judge} as judge: {message}" for _, message in triggered(counts[t], config.alarms)]
    own = {t - 1: of_pairs["score_mean"] for t, of_pairs in counts.items() if of_pairs.get("score_mean")}
    hacking, stopping = reward_hacking_report(models, counts), outcome_lines(workspace, config, len(models))
    checks = checks_by_model(counts)
    return RunNumbers(workspace, config, len(models) - 1, models, statistics, alarms, own, hacking, stopping, checks)
