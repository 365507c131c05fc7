"""The algorithm: seeds make M1; M_t gives feedback on its own answers; feedback makes M_t+1; every model is measured.

Self-Rewarding Language Models, arXiv 2401.10020, section 2. Each step below is a stage that is skipped where its
manifest says it is complete, and goes on from its records where it was stopped.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from srlm.config import AlarmAction, Config, Scorer
from srlm.data.eft import examples_of_run, needs_baseline, report
from srlm.data.prepare import prepare_seeds, read_ifeval
from srlm.errors import AlarmError, NoPairsError
from srlm.evaluation.agreement import agreement, judges_agree, score_mean
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.io.progress import say
from srlm.io.record_file import read_records
from srlm.judges.meta import judgement_pairs
from srlm.judges.prompt import JudgeTemplate
from srlm.pipeline.artifacts import EFT, EVALUATION, JUDGEMENTS, training_counts
from srlm.pipeline.manifest import finished_manifests
from srlm.pipeline.resume import python_word
from srlm.pipeline.roles import ENDPOINT, iteration, judge_of, match_judge, resolve_role
from srlm.pipeline.stage import Stage, report_differences
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import Workspace
from srlm.preferences.alarms import feedback_statistics, triggered
from srlm.preferences.pairs import count_reasons, length_penalty, select_pairs, takes_part
from srlm.recipes import stages
from srlm.recipes.measured import held_out, measures, trained_on
from srlm.recipes.text import judges_beside
from srlm.reporting import write_report
from srlm.reporting.model_card import write_card
from srlm.tracking import Tracker
from srlm.training import early_stopping
from srlm.training.config import TrainConfig
from srlm.types import Candidate, Comparison, Judgement, Prompt


class Loop:
    """One run, under its lock."""

    def __init__(self, config: Config, workspace: Workspace, tracker: Tracker):
        self.config, self.workspace, self.tracker = config, workspace, tracker

    def run(self) -> None:
        """Bring the run to M_iteration, making whatever is missing."""
        for stage in stages.all_of(self.workspace, self.config):
            if stage.path.exists():  # finished, and perhaps not told: by a run that was killed, or had no tracker
                self.tracker.stage(stage)
        measured = self.config.evaluation.enabled
        self.data()
        self.base_model()
        if measured:
            self.text(0)
        self.eft()
        self.sft()
        self.reward_model()
        if not measured:
            return
        for t in range(1, self.config.iteration + 1):
            self.text(t)
            self.measure(t - 1)
            self.measure(t)
            write_card(self.workspace, self.config, t)
            if t < self.config.iteration:
                self.pairs(t + 1)
                self.report()
                self.dpo(t + 1)

    def refuse_changes(self) -> None:
        """Check every stage that is there before anything is touched; report what differs and does no harm.

        Raises
        ------
        RunFolderError
            As `check_stages` does.
        """
        report_differences(stages.all_of(self.workspace, self.config))

    def data(self) -> None:
        """Read the seeds and split them: IFT, EFT, held-out EFT, evaluation prompts."""
        stage = stages.data(self.workspace, self.config)
        if not stage.complete():
            say("Reading the seeds")
            stage.begin(in_pieces=False)
            counts = prepare_seeds(self.config, self.workspace.data)
            self._done(stage, counts)
        if self.config.evaluation.ifeval:
            self.ifeval_prompts()

    def ifeval_prompts(self) -> None:
        """IFEval's prompts, as this run asks them."""
        stage = stages.ifeval_prompts(self.workspace, self.config)
        if not stage.complete():
            stage.begin(in_pieces=False)
            prompts = read_ifeval(self.config)
            self._write(stage.outputs[0], prompts)
            constraints = sum(len(prompt.constraints) for prompt in prompts)
            self._done(stage, {"prompts": len(prompts), "instructions": constraints})

    def base_model(self) -> None:
        """Find or make the checkpoint of M0."""
        stage = stages.base_model(self.workspace, self.config)
        place = self.workspace.run().get("base_model")
        if not stage.complete() or not (place and Path(place).is_dir()):
            say(f"M0: {self.config.model.name}")
            stage.begin(in_pieces=False)
            self._work("base_model", 0)
            self._done(stage, {})

    def eft(self) -> None:
        """EFT examples; where the seed has no rationales the SFT baseline (SFT on IFT alone) writes them."""
        if self.config.judge.scorer is Scorer.implicit:
            return  # a judge that nobody teaches
        stage = stages.eft(self.workspace, self.config)
        ranked = EFT.read(self.workspace)
        judgements: list[Judgement] = []
        if needs_baseline(ranked, self.config.data.rationales) and not self.config.judge.learns_pairs:
            baseline, rationales = (
                stages.sft_baseline(self.workspace, self.config),
                stages.rationales(self.workspace, self.config),
            )
            if not baseline.complete():
                say("The SFT baseline: SFT on IFT alone")
                baseline.begin()
                self._work("sft_baseline", 1, self.config.sft)
                self._done(baseline, self._training_counts("sft_baseline", 1))
            if not rationales.complete():
                say("The SFT baseline judges the EFT seeds")
                self._work("rationales", 1)
                self.tracker.stage(rationales)
            judgements = read_records(rationales.outputs[0], Judgement)
        if not stage.complete():
            stage.begin(in_pieces=False)
            examples, counts = examples_of_run(self.config, ranked, judgements)
            self._write(stage.outputs[0], examples)
            # The baseline's before those that disagree with people are left out; else what the judge is to learn.
            given = judgements or [Judgement(e.id, e.id, "", e.score) for e in examples if e.other is None]
            resamples = self.config.evaluation.bootstrap
            counts["agreement with people"] = agreement(ranked, given, resamples, f"{self.config.seed}/eft").to_dict()
            for line in report(counts):
                say(f"  {line}")
            self._done(stage, counts)

    def sft(self) -> None:
        """M0 to M1 on IFT and EFT."""
        stage = stages.sft(self.workspace, self.config)
        if not stage.complete():
            say("M0 -> M1: SFT on IFT" + ("" if self.config.judge.rates else " and EFT"))
            stage.begin()
            self._work("sft", 1, self.config.sft)
            self._done(stage, self._training_counts("sft", 1))

    def reward_model(self) -> None:
        """M1 to a reward model, where that is to be the judge."""
        if judge_of(self.config, 1).kind != "reward_model":
            return
        stage = stages.reward_model(self.workspace, self.config)
        if not stage.complete():
            say("M1 -> reward model, on the ranked seeds")
            stage.begin()
            self._work("reward_model", 1, self.config.reward_model)
            self._done(stage, self._training_counts("reward_model", 1))

    def text(self, t: int) -> None:
        """All that M_t writes: held-out judgements, evaluation answers, and the feedback for M_t+1."""
        workspace, config = self.workspace, self.config
        held_out_stage = stages.held_out_judgements(workspace, config, t)
        wanted = [stages.answers(workspace, config, t), *([] if config.judge.rates else [held_out_stage])]
        wanted += [stages.ifeval_answers(workspace, config, t)] if config.evaluation.ifeval else []
        if 1 <= t < config.iteration:
            prompts = stages.prompts(workspace, config, t + 1)
            writer = resolve_role(config.prompts.model, t)
            if writer not in (iteration(t), ENDPOINT) and not prompts.complete():
                say(f"New prompts for M{t + 1}, by {writer}")
                self._work("prompts", t + 1)
            judgements = stages.judgements(workspace, config, t + 1)
            wanted += [prompts, stages.candidates(workspace, config, t + 1)]
            judged = [judgements, *([stages.meta_judgements(workspace, config, t + 1)] if config.judge.meta else [])]
            wanted += judged if judges_beside(config, t) else []
        # Every stage is asked, so that one made with other options is refused before an engine starts.
        if not all([stage.complete() for stage in wanted]):
            say(f"M{t} writes: " + (", ".join(stage.name.replace("_", " ") for stage in wanted)))
            begun = [stage for stage in wanted if not stage.complete()]
            self._work("text", t)
            for stage in begun:
                self.tracker.stage(stage)
        if config.judge.rates and stages.judge_is_measured(config, t) and not held_out_stage.complete():
            say(f"{judge_of(config, t)} judges the held-out answers")
            self._work("held_out", t)
            self.tracker.stage(held_out_stage)
        if 1 <= t < config.iteration and (left := [stage for stage in judged if not stage.complete()]):
            say(f"{judge_of(config, t)} judges M{t}'s candidates")
            self._work("judgements", t + 1)
            for stage in left:
                self.tracker.stage(stage)
        match = stages.head_to_head(workspace, config, t)
        if t >= 1 and not match.complete():
            rivals = ", ".join(f"M{u}" for u in stages.opponents(config, t))
            say(f"M{t} against {rivals}, judged by {match_judge(config)}")
            self._work("head_to_head", t)
        if t >= 1:  # made just now, or with the other text where M_t's own start of the engine could judge it
            self.tracker.stage(match)

    def measure(self, t: int) -> None:
        """evaluation.json of M_t."""
        workspace, config = self.workspace, self.config
        stage = stages.evaluation(workspace, config, t)
        if not stage.complete():
            stage.begin(in_pieces=False)
            seen = trained_on(workspace, config, t)
            if message := seen.message(f"M{t}"):
                say(f"  {message}")
            found = measures(workspace, config, t, seen)
            write_atomic(stage.outputs[0], json.dumps(found, indent=1, ensure_ascii=False))
            self._done(stage, {"prompts": seen.prompts, "excluded": len(seen.excluded)})

    def pairs(self, t: int) -> None:
        """Highest against lowest mean score of each prompt's candidates: the data of M_t."""
        workspace, config = self.workspace, self.config
        sources = [
            stages.prompts(workspace, config, t),
            stages.candidates(workspace, config, t),
            stages.judgements(workspace, config, t),
            *([stages.meta_judgements(workspace, config, t)] if config.judge.meta else []),
        ]
        stage = stages.pairs(workspace, config, t)
        if not stage.complete():
            stage.begin(in_pieces=False)
            attempts = read_records(sources[0].outputs[0], Prompt)
            prompts = [prompt for prompt in attempts if not prompt.rejected]
            candidates = read_records(sources[1].outputs[0], Candidate)
            judgements = read_records(sources[2].outputs[0], Judgement)
            penalty = length_penalty(prompts, candidates, judgements, config.pairs, config.judge.min_valid)
            pairs, unpaired = select_pairs(
                prompts, candidates, judgements, config.pairs, config.judge.min_valid, penalty
            )
            self._write(stage.outputs[0], pairs)
            self._write(stage.outputs[1], unpaired)
            counted: dict[str, Any] = {"prompts": len(prompts), "pairs": len(pairs)}
            counted["dropped"] = count_reasons(unpaired)
            counted["length_penalty"] = penalty
            counted["truncated_candidates"] = sum(not takes_part(one, config.pairs) for one in candidates)
            higher = None
            if config.judge.meta:
                comparisons = read_records(sources[3].outputs[0], Comparison)
                texts, template = {prompt.id: prompt.text for prompt in prompts}, JudgeTemplate.load(config.judge)
                of_judgements, lost, higher = judgement_pairs(
                    template, texts, candidates, judgements, comparisons, config.judge.meta_max_tokens
                )
                self._write(stage.outputs[2], of_judgements)
                counted |= {"judgement_pairs": len(of_judgements), "judgement_pairs_dropped": lost}
            agreed = self._agreement(t - 1)
            if not config.judge.evidence:  # else candidates are scored against each other: always the same mean
                resamples, seed = config.evaluation.bootstrap, f"{config.seed}/pairs"
                counted["score_mean"] = score_mean(candidates, judgements, resamples, seed).to_dict()
            counted["signs"] = feedback_statistics(
                candidates, judgements, pairs, config.judge.max_score, agreed, higher
            )
            self._done(stage, counted)
        counts = stage.manifest().counts
        if counts["pairs"] < config.pairs.min_pairs:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in counts["dropped"].items())
            error = NoPairsError(
                f"Iteration {t} has {counts['pairs']} preference pairs of {counts['prompts']} prompts, and "
                f"pairs.min_pairs={config.pairs.min_pairs} are needed ({reasons}). More pairs come from more prompts "
                "(prompts.count), more candidates (candidates.count), more judgements (judge.count) or a lower "
                "pairs.min_gap or judge.min_valid; if scores are all equal or missing, train the judge on more EFT "
                "data. If candidates are truncated, raise candidates.max_new_tokens, or train on them without an end "
                "of turn (pairs.truncated=keep). "
                f"Read {JUDGEMENTS.path(workspace, t)} first. To generate its feedback again with other options, "
                f"delete {stage.folder}."
            )
            if counts["pairs"]:
                error.overrides = (f"pairs.min_pairs={counts['pairs']}",)
            raise error

        if not stages.dpo(workspace, config, t).complete():
            self._ring(t, counts["signs"])

    def _agreement(self, t: int) -> float | None:
        """How M_t as a judge agrees with M_t-1, on the held-out answers; None where another one judges candidates."""
        if self.config.judge.model != "self" or self.config.judge.scorer is Scorer.reward_model:
            return None
        now, before = (
            read_records(stages.held_out_judgements(self.workspace, self.config, u).outputs[0], Judgement)
            for u in (t, t - 1)
        )
        return judges_agree(held_out(self.workspace, self.config), now, before)

    def _ring(self, t: int, found: dict[str, float]) -> None:
        alarms, judge = triggered(found, self.config.alarms), judge_of(self.config, t - 1)
        for _, message in alarms:
            say(f"  ALARM, {judge} as judge: {message}")
        if stopping := [message for action, message in alarms if action is AlarmAction.stop]:
            error = AlarmError(
                f"M{t} is not trained, because of what {judge} says as a judge: {' '.join(stopping)} The feedback is "
                f"in {self.workspace.iteration(t)}. To train all the same: alarms.NAME.action=warn."
            )
            names = (one.name for one in fields(self.config.alarms))
            stop = (name for name in names if getattr(self.config.alarms, name).action is AlarmAction.stop)
            error.overrides = tuple(f"alarms.{name}.action=warn" for name in stop)
            raise error

    def dpo(self, t: int) -> None:
        """M_t-1 to M_t: DPO on the pairs M_t-1 made."""
        stage = stages.dpo(self.workspace, self.config, t)
        if not stage.complete():
            say(f"M{t - 1} -> M{t}: DPO, reference {self.config.dpo.reference.name}")
            stage.begin()
            if self.config.dpo.early_stopping.enabled:
                counts = early_stopping.train(
                    self.workspace, self.config, t, lambda worker, train: self._work(worker, t, train)
                )
            else:
                self._work("dpo", t, self.config.dpo)
                counts = self._training_counts("dpo", t)
            self._done(stage, counts)

    def report(self, again: bool = False) -> None:
        """Write report.html, of what is there by now; an old one stays where nothing was made since, unless `again`."""
        root, to = self.workspace.root, self.workspace.root / "report.html"
        if not (self.workspace.iteration(0) / EVALUATION).exists():
            return
        newest = max(path.stat().st_mtime for path in finished_manifests(root))
        if not again and to.exists() and to.stat().st_mtime >= newest:
            return
        try:
            write_report([root], to)
        # Whatever is wrong with a page, training goes on: the page can be made again at any time, the time cannot.
        except Exception as error:
            retry = shlex.join([python_word(), "-m", "srlm", "report", str(root)])
            say(f"No report: {type(error).__name__}: {error}. The run continues. To try again:", command=retry)

    def _work(self, worker: str, t: int, train: TrainConfig | None = None) -> None:
        run_worker(worker, self.workspace, t, train)

    def _write(self, path: Path, rows: list[Any]) -> None:
        write_atomic(path, "".join(serialization.to_json(row) + "\n" for row in rows))

    def _training_counts(self, name: str, t: int) -> dict[str, Any]:
        counts: dict[str, Any] = json.loads((self.workspace.iteration(t) / training_counts(name)).read_text())
        return counts

    def _done(self, stage: Stage, counts: dict[str, Any]) -> None:
        stage.done({}, counts, int(counts.get("tokens", 0)))
        self.tracker.stage(stage)
