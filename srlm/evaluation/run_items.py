"""What each evaluation prompt contributes to a model's measures, so that runs can be compared prompt by prompt.

The measures are those of evaluation.json, and of the checks of the feedback, that are a ratio of two sums over prompts.
They are computed again from the run's records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from srlm.config import Config
from srlm.evaluation.answers import evaluation_prompts, ifeval_prompts
from srlm.evaluation.arms import Items
from srlm.evaluation.evaluate import trained_on
from srlm.evaluation.feedback_checks import RESULTS, feedback_terms
from srlm.evaluation.head_to_head import match_results
from srlm.evaluation.held_out import held_out_prompts, judge_is_measured
from srlm.evaluation.instruction_following import MEASURES, check_answers
from srlm.evaluation.judge_metrics import judged_prompts
from srlm.evaluation.matches import opponents
from srlm.evaluation.measures import judge_terms
from srlm.evaluation.record import Evaluation
from srlm.ids import parent
from srlm.judges import spec_of
from srlm.models.conversation import dialogue
from srlm.pipeline.artifacts import (
    ANSWERS,
    CANDIDATES,
    HELD_OUT_JUDGEMENTS,
    IFEVAL_ANSWERS,
    JUDGEMENTS,
    LABELLED,
    PAIRS,
    PROMPTS,
    head_to_head,
)
from srlm.pipeline.run_reader import finished_iterations
from srlm.pipeline.workspace import Workspace
from srlm.types import Answer, SeedExample

_JUDGE = ("pairwise_accuracy", "pairwise_accuracy_imputed", "five_best", "exact_match", "spearman", "kendall_tau")
_MATCH = ("win", "tie", "loss", "win_rate")
KEYS = (
    *(f"ifeval/{name}" for name in MEASURES),
    *(f"instructions/{name}" for name in MEASURES),
    *(f"judge/{name}" for name in _JUDGE),
    *(f"head_to_head/{name}" for name in _MATCH),
    "answers/mean_characters",
    "answers/truncated",
    "feedback/judge_accuracy",
    *(f"feedback/{name}" for name in RESULTS),
)
_BOUNDS = {"answers/mean_characters": None, "judge/spearman": (-1.0, 1.0), "judge/kendall_tau": (-1.0, 1.0)}


def bounds_of(key: str) -> tuple[float, float] | None:
    """Return the range of each prompt's ratio; None = unknown."""
    return _BOUNDS.get(key, (0.0, 1.0))


def run_items(workspace: Workspace, config: Config, evaluation: Evaluation) -> dict[str, Items]:
    """Return key of `KEYS` -> text of the prompt -> (numerator, denominator), for the measures that a model has.

    Those of the feedback are over the prompts to which the model wrote candidates.

    Prompts in the model's training data are left out, as in evaluation.json.

    Parameters
    ----------
    evaluation : Evaluation
        The model's evaluation.json.
    """
    t = evaluation.iteration
    excluded = set(evaluation.contamination.ids) if evaluation.contamination else set()
    prompts = evaluation_prompts(workspace, config)
    answers = [row for row in ANSWERS.read(workspace, t) if row.id not in excluded]
    text_of = {prompt.id: dialogue(prompt.conversation) for prompt in prompts}
    found = {
        "answers/mean_characters": _items((text_of[row.id], len(row.text), 1) for row in answers),
        "answers/truncated": _items((text_of[row.id], row.truncated, 1) for row in answers),
    }
    found |= _followed("instructions", prompts, answers)
    if config.evaluation.ifeval:
        tested = ifeval_prompts(workspace, config)
        seen = set(trained_on(workspace, config, t, tested).excluded)
        found |= _followed("ifeval", tested, [row for row in IFEVAL_ANSWERS.read(workspace, t) if row.id not in seen])
    if judge_is_measured(config, t):
        found |= _judged(workspace, config, t)
    for u in opponents(config, t)[:1]:
        theirs = [row for row in ANSWERS.read(workspace, u) if row.id not in excluded]
        compared = [row for row in head_to_head(u).read(workspace, t) if row.prompt_id not in excluded]
        scores = {one.prompt_id: one.score for one in match_results(compared, answers, theirs)}
        rows = [(text_of[id], score) for id, score in scores.items() if score is not None]
        found |= {
            f"head_to_head/{name}": _items((text, score == value, 1) for text, score in rows)
            for name, value in (("win", 1.0), ("tie", 0.5), ("loss", 0.0))
        }
        found["head_to_head/win_rate"] = _items((text, score, 1) for text, score in rows)
    return found | _feedback(workspace, t)


def _feedback(workspace: Workspace, t: int) -> dict[str, Items]:
    """Return the checks of M_t's candidates and of the pairs selected from them, if prompts have constraints."""
    if t + 1 not in finished_iterations(workspace, "pairs"):
        return {}
    prompts = [prompt for prompt in PROMPTS.read(workspace, t + 1) if not prompt.rejected]
    feedback = [record for artifact in (PAIRS, LABELLED) for record in artifact.peek(workspace, t + 1)]
    terms = feedback_terms(prompts, CANDIDATES.read(workspace, t + 1), JUDGEMENTS.read(workspace, t + 1), feedback)
    return {f"feedback/{name}": _items(rows) for name, rows in terms.items()}


def _followed(part: str, prompts: Sequence[SeedExample], answers: Sequence[Answer]) -> dict[str, Items]:
    text_of = {one.id: dialogue(one.conversation) for one in prompts}
    checked = check_answers(prompts, answers, published=part == "ifeval")
    if not checked:
        return {}
    return {f"{part}/{name}": _items((text_of[row.id], *row.terms(name)) for row in checked) for name in MEASURES}


def _judged(workspace: Workspace, config: Config, t: int) -> dict[str, Items]:
    ranked, judgements = held_out_prompts(workspace, config), HELD_OUT_JUDGEMENTS.read(workspace, t)
    prompts = judged_prompts(ranked, judgements)
    scores: dict[str, list[float | None]] = {prompt.id: [] for prompt in ranked}
    for judgement in judgements:
        scores[parent(judgement.candidate_id)].append(judgement.whole_score)
    judge = config.judge
    terms = judge_terms(prompts, list(scores.values()), spec_of(judge).perfect(judge.max_score))
    return {
        f"judge/{name}": _items(
            zip((one.cluster for one in prompts), terms[name].numerators, terms[name].denominators, strict=True)
        )
        for name in _JUDGE
    }


def _items(rows: Iterable[tuple[str, float, float]]) -> Items:
    """Return the sums of numerators and denominators of the rows with the same text."""
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for text, numerator, denominator in rows:
        top, bottom = sums[text]
        sums[text] = (top + float(numerator), bottom + float(denominator))
    return dict(sums)
