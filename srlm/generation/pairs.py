"""Stage that selects preference pairs, and the check of the feedback before training."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from srlm.config import Config, options_of
from srlm.errors import AlarmError, NoPairsError
from srlm.evaluation.agreement import judges_agree, score_mean
from srlm.evaluation.feedback_checks import feedback_checks
from srlm.evaluation.held_out import held_out_prompts, judge_is_measured
from srlm.io.progress import say
from srlm.io.record_file import write_records
from srlm.judges import spec_of
from srlm.judges.dependencies import judged_files
from srlm.judges.meta import judgement_pairs, meta_options
from srlm.judges.prompt import JudgeTemplate
from srlm.judges.roles import feedback_config, feedback_judge, judge_of
from srlm.pipeline.artifacts import (
    CANDIDATES,
    FEEDBACK,
    HELD_OUT_JUDGEMENTS,
    JUDGEMENT_PAIRS,
    JUDGEMENTS,
    LABELLED,
    META_COMPARISONS,
    PAIRS,
    PROMPTS,
    UNPAIRED,
)
from srlm.pipeline.manifest import stage_manifest
from srlm.pipeline.run_reader import model_manifest
from srlm.pipeline.stage import LocalStage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.preferences.alarms import feedback_statistics, triggered
from srlm.preferences.config import AlarmAction
from srlm.preferences.pairs import count_reasons, describe_feedback, length_penalty, select, takes_part, unpaired_of
from srlm.preferences.policies import policy_named
from srlm.types import LabelledAnswer


class SelectPairs(LocalStage):
    """Select the preference pairs or labelled answers for M_t from the candidates, with the policy `pairs.policy`.

    With `judge.meta`, also build a pair of the best and the worst judgement for each prompt (`srlm.judges.meta`).
    """

    name = "pairs"

    def __init__(self, workspace: Workspace, config: Config, t: int):
        super().__init__(workspace, feedback_config(config), t)

    def writes(self) -> list[str]:
        others = [LABELLED.file] if self._labels() else []
        others += [JUDGEMENT_PAIRS.file] if self.config.judge.meta else []
        return [PAIRS.file, UNPAIRED.file, *others]

    def depends_on(self) -> dict[str, Any]:
        names = [f"pairs.{name}" for name in ("policy", "min_gap", "length_penalty", "truncated")]
        names += ["pairs.keep_share"] if self.config.pairs.keep_share < 1 else []
        names += ["judgements.path"] if self.config.judgements.path else ["judge.min_valid", "judge.meta"]
        return options_of(self.config, *names, *(["judge.meta_max_tokens"] if self.config.judge.meta else []))

    def made_from(self) -> dict[str, str]:
        workspace, t = self.workspace, self.t
        judged = [workspace.iteration(t) / file for file in judged_files(self.config, JUDGEMENTS)]
        inputs = recorded(workspace, PROMPTS.path(workspace, t), CANDIDATES.path(workspace, t), *judged)
        if not self.config.judge.meta:
            return inputs
        inputs |= recorded(workspace, META_COMPARISONS.path(workspace, t))
        return inputs | {"judge.template": JudgeTemplate.load(self.config.judge).template.digest}

    def run(self) -> dict[str, Any]:
        workspace, config, t = self.workspace, self.config, self.t
        prompts = [prompt for prompt in PROMPTS.read(workspace, t) if not prompt.rejected]
        candidates, judgements = CANDIDATES.read(workspace, t), JUDGEMENTS.read(workspace, t)
        penalty = length_penalty(prompts, candidates, judgements, config.pairs, config.min_valid)
        selected = select(prompts, candidates, judgements, config.pairs, config.min_valid, penalty)
        pairs = [pair for selection in selected.values() for pair in selection.pairs]
        answers = [answer for selection in selected.values() for answer in selection.answers]
        unpaired = unpaired_of(selected)
        for artifact in FEEDBACK:  # a file of other options would be trained on
            artifact.path(workspace, t).unlink(missing_ok=True)
        write_records(self.outputs[0], pairs)
        write_records(self.outputs[1], unpaired)
        counts: dict[str, Any] = {
            "prompts": len(prompts),
            "pairs": len(pairs),
            "dropped": count_reasons(unpaired),
            "length_penalty": penalty,
            "truncated_candidates": sum(not takes_part(candidate, config.pairs) for candidate in candidates),
        }
        if self._labels():
            write_records(LABELLED.path(workspace, t), answers)
            counts |= {"labelled_answers": len(answers), "desirable_answers": sum(answer.label for answer in answers)}
        higher = None
        if config.judge.meta:
            texts, template = {prompt.id: prompt.conversation for prompt in prompts}, JudgeTemplate.load(config.judge)
            comparisons = META_COMPARISONS.read(workspace, t)
            of_judgements, dropped, higher = judgement_pairs(
                template, texts, candidates, judgements, comparisons, meta_options(config.judge).meta_max_tokens
            )
            write_records(JUDGEMENT_PAIRS.path(workspace, t), of_judgements)
            counts |= {"judgement_pairs": len(of_judgements), "judgement_pairs_dropped": dropped}
        agreed = self._agreement()
        resamples, seed = config.evaluation.bootstrap, f"{config.seed}/pairs"
        if spec_of(config.judge).comparable_across_prompts:  # otherwise the mean score is constant
            counts["score_mean"] = score_mean(candidates, judgements, resamples, seed).to_dict()
        checks = feedback_checks(prompts, candidates, judgements, [*pairs, *answers], resamples, seed)
        counts |= checks.to_counts() if checks else {}
        accuracy = checks.alarm if checks else None
        counts["alarms"] = feedback_statistics(
            candidates, judgements, [*pairs, *answers], config.judge.max_score, agreed, higher, accuracy
        )
        return counts

    def _labels(self) -> bool:
        return policy_named(self.config.pairs.policy).gives is LabelledAnswer

    def _agreement(self) -> float | None:
        """Return the agreement of M_t-1's and M_t-2's held-out judgements; None if one does not judge candidates."""
        config = self.config
        own_judge = config.judge.model == "self" and judge_of(config, self.t - 1).of_run is not None
        if self.t < 3 or config.judgements.path or not own_judge or not judge_is_measured(config, self.t - 2):
            return None
        now, before = (HELD_OUT_JUDGEMENTS.read(self.workspace, u) for u in (self.t - 1, self.t - 2))
        return judges_agree(held_out_prompts(self.workspace, config), now, before)


class CheckFeedback:
    """Check, before M_t is trained, that there are enough pairs and no alarm stops the run; log the other alarms."""

    def __init__(self, workspace: Workspace, config: Config, t: int):
        self.workspace, self.config, self.t = workspace, config, t

    def run(self) -> None:
        """Check the counts of the stage `pairs`.

        Raises
        ------
        NoPairsError
            If there are fewer than `pairs.min_pairs`.
        AlarmError
            If a triggered alarm's action is stop, and M_t is not trained yet.
        """
        manifest = stage_manifest(self.workspace.iteration(self.t), "pairs")
        assert manifest is not None
        self._check_number(manifest.counts)
        if model_manifest(self.workspace, self.t) is None:
            self._check_alarms(manifest.counts)

    def _check_number(self, counts: dict[str, Any]) -> None:
        number = counts["pairs"] + counts.get("labelled_answers", 0)
        if number >= self.config.pairs.min_pairs:
            return
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts["dropped"].items())
        if path := self.config.pairs.path or self.config.judgements.path:
            why = f" ({reasons})" if reasons else ""
            raise NoPairsError(
                f"Iteration {self.t} has {describe_feedback(counts)} from {counts['prompts']} prompts of {path}, but "
                f"pairs.min_pairs={self.config.pairs.min_pairs} are needed{why}. Add rows, or lower pairs.min_pairs or "
                f"pairs.min_gap, and delete {self.workspace.iteration(self.t)}."
            )
        asked = self.config.prompts.count
        accepted = "prompts.count"
        if counts["prompts"] < asked and not self.config.prompts.path:
            accepted = f"prompts.attempts (of {asked} new prompts, {counts['prompts']} were accepted: "
            accepted += f"{PROMPTS.path(self.workspace, self.t)} says why)"
        error = NoPairsError(
            f"Iteration {self.t} has {describe_feedback(counts)} from {counts['prompts']} prompts, but "
            f"pairs.min_pairs={self.config.pairs.min_pairs} are needed ({reasons}). First read "
            f"{JUDGEMENTS.path(self.workspace, self.t)}. To get more, raise {accepted}, candidates.count or "
            "judge.count, or lower pairs.min_gap or judge.min_valid. If all scores are equal or missing, train the "
            "judge on more EFT data. If candidates are truncated, raise candidates.max_new_tokens, or train on them "
            "without an end of turn (pairs.truncated=keep). To generate the feedback again with other options, delete "
            f"{self.workspace.iteration(self.t)}."
        )
        if number:
            error.overrides = (f"pairs.min_pairs={number}",)
        raise error

    def _check_alarms(self, counts: dict[str, Any]) -> None:
        alarms, judge = triggered(counts, self.config.alarms), feedback_judge(self.config, self.t - 1)
        for _, message in alarms:
            say(f"  ALARM, {judge} as judge: {message}")
        if stopping := [message for action, message in alarms if action is AlarmAction.stop]:
            error = AlarmError(
                f"M{self.t} is not trained, because {judge}'s judgements triggered an alarm: {' '.join(stopping)} The "
                f"feedback is in {self.workspace.iteration(self.t)}. To train anyway: alarms.NAME.action=warn."
            )
            names = (field.name for field in fields(self.config.alarms))
            stop = (name for name in names if getattr(self.config.alarms, name).action is AlarmAction.stop)
            error.overrides = tuple(f"alarms.{name}.action=warn" for name in stop)
            raise error
