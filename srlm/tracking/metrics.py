"""Every metric of a run: its name, unit, range and meaning, and the functions that make its number.

A name is PART/NAME, with one slash, since the `*` of W&B's step metrics stops at the next one. A part is drawn against
`iteration`; a trainer's part (sft, sft_baseline, reward_model, dpo_2, dpo_3, ...) against the trainer's own PART/step.
A measure NAME of evaluation.json has companions: NAME_low and NAME_high, its 95 % interval, and NAME_n, what
it counts. What is undefined is left out. `python -m srlm.tracking` writes the table in docs/metrics.md.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

from srlm.judges.prompt import mean_score
from srlm.pipeline.manifest import Manifest
from srlm.types import Candidate, Judgement, PreferencePair, Prompt

ITERATION = "iteration"
SCORES = "feedback/scores"
TRAINERS = ("sft_baseline", "sft", "reward_model", "dpo")  # the stages that train

_SHARE, _GAIN = "0 to 1", "-1 to 1"
_ANY = r"[A-Za-z0-9_]+"


@dataclass(frozen=True)
class Family:
    """One metric, or several of one kind: `<word>` in a name stands for what differs.

    Parameters
    ----------
    better : str
        "higher", "lower", or "" where neither is.
    measure : bool
        Whether it has the companions _low, _high and _n.
    """

    name: str
    unit: str
    range: str
    better: str
    meaning: str
    measure: bool = False

    @property
    def step(self) -> str:
        """The metric that it is drawn against."""
        return step_of(self.name)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the whole of a metric's name, or of a companion's."""
        words = re.escape(self.name).replace("<trainer>", r"(?:sft_baseline|sft|reward_model|dpo_\d+)")
        words = words.replace("<iteration>", r"\d+")
        return re.compile(re.sub(r"<\w+>", _ANY, words) + (r"(?:_low|_high|_n)?" if self.measure else ""))


def _family(part: str, rows: Sequence[tuple[str, str, str, str, str]], measure: bool = False) -> tuple[Family, ...]:
    return tuple(
        Family(f"{part}/{name}", unit, range, better, meaning, measure) for name, unit, range, better, meaning in rows
    )


_MATCH: list[tuple[str, str, str, str, str]] = [
    ("win", "share", _SHARE, "higher", "prompts won against the model before, in both orders"),
    ("tie", "share", _SHARE, "", "prompts on which the two orders disagree"),
    ("loss", "share", _SHARE, "lower", "prompts lost in both orders"),
    ("net_win", "difference", _GAIN, "higher", "wins minus losses, as a share of the judged prompts"),
    ("win_rate", "share", _SHARE, "higher", "wins and half of the ties"),
    ("longer", "share", _SHARE, "", "prompts on which it wrote more"),
    ("length_controlled_win_rate", "share", _SHARE, "higher", "the same, had the answers been equally long"),
    ("missing", "share", _SHARE, "lower", "prompts of which an order has no verdict"),
    ("first_position_win_rate", "share", _SHARE, "", "verdicts for the answer shown first; 0.5 = no bias"),
]

_FOLLOWED: list[tuple[str, str, str, str, str]] = [
    ("prompt_level_strict_acc", "share", _SHARE, "higher", "prompts of which every checkable instruction is followed"),
    ("prompt_level_loose_acc", "share", _SHARE, "higher", "the same, chat and asterisks around the answer left out"),
    ("inst_level_strict_acc", "share", _SHARE, "higher", "checkable instructions that are followed"),
    ("inst_level_loose_acc", "share", _SHARE, "higher", "the same, chat and asterisks around the answer left out"),
    ("<measure>_gain", "difference", _GAIN, "higher", "of a measure to that of the model before, paired by prompt"),
    ("groups_<group>_strict", "share", _SHARE, "higher", "instructions of one group that are followed"),
    ("groups_<group>_loose", "share", _SHARE, "higher", "the same, chat and asterisks around the answer left out"),
]

# The first family that matches tells what a metric is.
FAMILIES: tuple[Family, ...] = (
    *_family(
        "judge",
        [
            ("pairwise_accuracy", "share", _SHARE, "higher", "pairs ordered as people did, of those it scored"),
            (
                "pairwise_accuracy_imputed",
                "share",
                _SHARE,
                "higher",
                "the same of all pairs, a coin where it is silent",
            ),
            ("five_best", "share", _SHARE, "higher", "answers with a perfect score that people like best"),
            ("exact_match", "share", _SHARE, "higher", "prompts whose answers it orders wholly as people did"),
            ("spearman", "correlation", _GAIN, "higher", "Spearman's, of scores with people's order"),
            ("kendall_tau", "correlation", _GAIN, "higher", "Kendall's tau-b, of scores with people's order"),
            (
                "<measure>_gain",
                "difference",
                "",
                "higher",
                "of a measure to that of the model before, paired by prompt",
            ),
            ("pair_coverage", "share", _SHARE, "higher", "pairs of which it scored both answers"),
            (
                "length_baseline_accuracy",
                "share",
                _SHARE,
                "",
                "pairwise accuracy of a judge that likes the longer answer",
            ),
            ("length_baseline_accuracy_scored", "share", _SHARE, "", "the same on the pairs that were scored"),
            ("parse_rate", "share", _SHARE, "higher", "judgements with a valid verdict"),
            ("modal_score", "points", "0 to judge.max_score", "", "the score it gives most often"),
            ("modal_score_fraction", "share", _SHARE, "lower", "valid judgements that say the commonest score"),
            (
                "accuracy_shorter_preferred",
                "share",
                _SHARE,
                "higher",
                "accuracy where people prefer the shorter answer",
            ),
            ("accuracy_longer_preferred", "share", _SHARE, "higher", "accuracy where people prefer the longer answer"),
            ("length_balanced_accuracy", "share", _SHARE, "higher", "mean of the two above; length alone gets 0.5"),
            ("length_bias", "difference", _GAIN, "", "the longer one's minus the shorter one's; 0 = no bias"),
            ("length_adjusted_accuracy", "share", _SHARE, "higher", "accuracy after a penalty that evens out lengths"),
            (
                "length_adjusted_accuracy_shorter_preferred",
                "share",
                _SHARE,
                "higher",
                "the same where the shorter answer is better",
            ),
            ("ties", "share", _SHARE, "lower", "equal scores among the pairs that people order"),
            ("ties_where_people_tie", "share", _SHARE, "higher", "equal scores among the pairs that people tie"),
            ("self_consistency", "share", _SHARE, "higher", "two judgements of one answer that agree"),
            ("score_std", "points", ">= 0", "lower", "standard deviation of the judgements of one answer"),
            (
                "test_retest_agreement",
                "share",
                _SHARE,
                "higher",
                "pairs that a second judgement orders as the first did",
            ),
            ("position_consistency", "share", _SHARE, "higher", "matches whose two orders name the same answer"),
            ("first_position_win_rate", "share", _SHARE, "", "verdicts for the answer shown first; 0.5 = no bias"),
        ],
        measure=True,
    ),
    *_family(
        "judge_metrics",
        [
            ("prompts", "count", ">= 0", "", "held-out prompts"),
            ("pairs", "count", ">= 0", "", "pairs that people order"),
            ("judgements", "count", ">= 0", "", "judgements of held-out answers"),
            ("scores_histogram_<score>", "count", ">= 0", "", "judgements with this score"),
            ("scores_entropy_bits", "bits", ">= 0", "higher", "entropy of the scores; 0 = one score for everything"),
            ("length_penalty", "points", ">= 0", "", "a hundred characters, of length_adjusted_accuracy"),
        ],
    ),
    Family(
        "judge_metrics/mean_score_rank_<rank>",
        "points",
        "",
        "",
        "mean score of the answers of this rank, 0 = best",
        True,
    ),
    Family("judge_metrics/subsets_<type>", "share", _SHARE, "", "a measure on the prompts of one type", True),
    *_family(
        "answers",
        [
            ("mean_characters", "characters", ">= 0", "", "length of the answers to the evaluation prompts"),
            ("mean_tokens", "tokens", ">= 0", "", "the same"),
            ("truncated", "share", _SHARE, "lower", "answers cut off by the token limit"),
        ],
        measure=True,
    ),
    *_family(
        "head_to_head",
        _MATCH,
        measure=True,
    ),
    *_family("head_to_heads", [(f"M<iteration>_{row[0]}", *row[1:]) for row in _MATCH], measure=True),
    *_family(
        "drift",
        [
            ("characters", "characters", ">= 0", "", "length of the answers to the evaluation prompts"),
            ("characters_gain", "characters", "", "", "length minus that of the model before, paired by prompt"),
            ("words", "words", ">= 0", "", "the same in words; letters in scripts without spaces (Chinese, Thai, ...)"),
            ("seq_rep_4", "share", _SHARE, "lower", "runs of four words that an answer has said before"),
            ("distinct_<n>", "share", _SHARE, "", "different runs of n words, of all over all answers"),
            ("refusals", "share", _SHARE, "", "answers that open as a refusal does"),
            ("language_switches", "share", _SHARE, "lower", "answers in another script than their prompt"),
            ("bullets", "share", _SHARE, "", "answers with a bulleted list"),
            ("numbered_lists", "share", _SHARE, "", "answers with a numbered list"),
            ("headings", "share", _SHARE, "", "answers with a heading"),
            ("bold", "share", _SHARE, "", "answers with bold words"),
            ("modal_opening", "share", _SHARE, "lower", "answers that open with the commonest three words"),
        ],
        measure=True,
    ),
    *_family("instructions", _FOLLOWED, measure=True),
    *_family("ifeval", _FOLLOWED, measure=True),
    Family("ifeval/excluded", "count", ">= 0", "lower", "IFEval prompts that M_t was trained on"),
    *_family(
        "contamination",
        [
            ("prompts", "count", ">= 0", "", "evaluation prompts looked at"),
            ("excluded", "count", ">= 0", "lower", "those that M_t was trained on: the two below"),
            ("exact", "count", ">= 0", "lower", "word for word"),
            ("thirteen_gram", "count", ">= 0", "lower", "by thirteen words in a row"),
        ],
    ),
    *_family(
        "feedback",
        [
            ("prompts_accepted", "count", ">= 0", "higher", "new prompts that passed the filters"),
            ("prompts_rejected", "count", ">= 0", "lower", "new prompts that a filter rejected"),
            ("prompts_rejected_<reason>", "count", ">= 0", "lower", "those of one filter"),
            ("candidates", "count", ">= 0", "", "answers of M_t-1 to its prompts"),
            ("candidate_truncated_share", "share", _SHARE, "lower", "candidates cut off by the token limit"),
            ("candidate_tokens_mean", "tokens", ">= 0", "", "length of a candidate"),
            ("candidate_characters_mean", "characters", ">= 0", "", "the same"),
            ("judgements", "count", ">= 0", "", "judgements of candidates"),
            ("judgement_valid_share", "share", _SHARE, "higher", "judgements with a valid verdict"),
            ("score_mean", "points", "0 to judge.max_score", "", "of the valid judgements"),
            ("score_entropy_bits", "bits", ">= 0", "higher", "entropy of the whole scores; 0 = one for everything"),
            ("top_score_share", "share", _SHARE, "lower", "valid judgements at the top of the scale"),
            ("tie_share", "share", _SHARE, "lower", "equal mean scores among pairs of candidates of one prompt"),
            ("scores", "count", ">= 0", "", "valid judgements of each whole score, a histogram"),
            ("pairs", "count", ">= 0", "higher", "preference pairs for M_t"),
            ("gap_mean", "points", ">= 0", "higher", "chosen's score minus rejected's"),
            ("chosen_characters_mean", "characters", ">= 0", "", "length of a chosen answer"),
            ("rejected_characters_mean", "characters", ">= 0", "", "length of a rejected answer"),
            ("chosen_to_rejected_length", "ratio", ">= 0", "", "of the two above; far above 1 = length is rewarded"),
        ],
    ),
    *_family(
        "samples",
        [
            ("prompts", "table", "", "", "new prompts, drawn at random; as are those below"),
            ("candidates", "table", "", "", "candidates with their mean scores"),
            ("judgements", "table", "", "", "judgements"),
            ("pairs", "table", "", "", "preference pairs"),
        ],
    ),
    *_family(
        "stage",
        [
            ("<stage>_seconds", "seconds", ">= 0", "lower", "time the stage took"),
            ("<stage>_prompt_tokens", "tokens", ">= 0", "", "read by the engine"),
            ("<stage>_tokens", "tokens", ">= 0", "", "generated, or trained on"),
            ("<stage>_prompt_tokens_cached", "tokens", ">= 0", "higher", "of these, taken from its prefix cache"),
            ("pairs_signs_parse_rate", "share", _SHARE, "higher", "alarm: judgements with a valid score"),
            ("pairs_signs_top_score_share", "share", _SHARE, "lower", "alarm: scores at the top of the scale"),
            ("pairs_signs_entropy_bits", "bits", ">= 0", "higher", "alarm: entropy of the scores"),
            ("pairs_signs_tie_share", "share", _SHARE, "lower", "alarm: equal scores among a prompt's candidates"),
            ("pairs_signs_mean_gap", "points", ">= 0", "higher", "alarm: chosen's score minus rejected's"),
            ("pairs_signs_length_ratio", "ratio", ">= 0", "", "alarm: chosen over rejected length"),
            ("pairs_signs_score_deviation", "points", ">= 0", "higher", "alarm: deviation of candidates' scores"),
            ("pairs_signs_judge_noise", "points", ">= 0", "lower", "alarm: deviation of a candidate's judgements"),
            ("pairs_signs_meta_higher_share", "share", _SHARE, "", "alarm: meta-judgements for the higher score"),
            ("pairs_signs_agreement", "correlation", _GAIN, "", "alarm: Kendall's tau with the judge before"),
            ("dpo_early_stopping_chosen_step", "steps", ">= 1", "", "optimizer step that became M_t"),
            ("dpo_early_stopping_last_step", "steps", ">= 1", "", "optimizer step that training stopped at"),
            ("dpo_early_stopping_steps", "steps", ">= 1", "", "optimizer steps of the whole training"),
            ("preference_step0_difference", "nats", ">= 0", "lower", "policy against reference before the first step"),
        ],
    ),
    Family("stage/eft_agreement_with_people", "share", _SHARE, "higher", "pairs of EFT ordered as people did", True),
    *_family(
        "stage",
        [
            (f"<stage>_{which}_{name}", unit, range, better, f"{meaning} {of}")
            for which, of in (("saved", "the saved checkpoint"), ("served", "it, loaded in the engine's precision"))
            for name, unit, range, better, meaning in (
                ("difference", "nats", ">= 0", "lower", "a token, mean change by training: the policy against"),
                ("kept", "share", "", "higher", "of the change that training aimed at, left in"),
            )
        ],
    ),
    Family("stage/<stage>_<count>", "as its name says", "", "", "any other count of a stage's manifest"),
    *_family(
        "<trainer>",
        [
            ("step", "steps", ">= 1", "", "optimizer steps so far; dpo_t trains M_t"),
            ("epoch", "passes", ">= 0", "", "passes over the data so far"),
            ("loss", "nats", ">= 0", "lower", "training loss of the step"),
            ("learning_rate", "", ">= 0", "", "of the step"),
            ("grad_norm", "", ">= 0", "", "norm of the gradient, before it is clipped"),
            ("num_tokens", "tokens", ">= 0", "", "trained on so far"),
            ("entropy", "nats", ">= 0", "", "a token, of the model's distribution"),
            ("mean_token_accuracy", "share", _SHARE, "higher", "tokens that the model holds likeliest"),
            ("ranking_loss", "nats", ">= 0", "lower", "EFT by order: mean over the pairs of a micro-batch"),
            ("ranking_accuracy", "share", _SHARE, "higher", "EFT by order: pairs whose better answer scores higher"),
            ("rewards_chosen", "nats", "", "higher", "DPO: beta x log-ratio to the reference, of chosen answers"),
            ("rewards_rejected", "nats", "", "lower", "DPO: the same of rejected answers"),
            ("rewards_margins", "nats", "", "higher", "DPO: the difference of the two"),
            ("rewards_accuracies", "share", _SHARE, "higher", "DPO: pairs whose chosen answer has the higher reward"),
            ("logps_<side>", "nats", "<= 0", "", "DPO: log-probability of chosen and rejected answers"),
            ("logits_<side>", "", "", "", "DPO: mean logit on chosen and rejected answers"),
            ("<which>_reward", "logits", "", "", "reward model: least, mean and greatest of the step"),
            ("accuracy", "share", _SHARE, "higher", "reward model: pairs whose better answer has the higher reward"),
            ("margin", "logits", "", "higher", "reward model: better's reward minus worse's"),
            ("train_loss", "nats", ">= 0", "lower", "mean over the training"),
            ("train_runtime", "seconds", ">= 0", "lower", "of the training"),
            ("train_<things>_per_second", "1/second", ">= 0", "higher", "samples, and steps"),
            ("total_flos", "operations", ">= 0", "", "floating-point operations of the training"),
        ],
    ),
)
# A part of evaluation.json that has no families of its own.
OTHER = Family("<part>/<measure>", "as its name says", "", "", "a measure of another part of evaluation.json", True)
PARTS = tuple(dict.fromkeys(family.name.split("/")[0] for family in FAMILIES if "<trainer>" not in family.name))


def step_of(name: str) -> str:
    """`iteration`, or PART/step where a trainer logs the metric."""
    part = name.split("/")[0]
    trained = part in ("<trainer>", *TRAINERS) or re.fullmatch(r"dpo_\d+", part)
    return f"{part}/step" if trained else ITERATION


def describe(name: str) -> Family | None:
    """The family of a metric or a companion; None for a name that a known part does not have."""
    found = next((family for family in FAMILIES if family.pattern.fullmatch(name)), None)
    other = name.split("/")[0] not in PARTS and step_of(name) == ITERATION and OTHER.pattern.fullmatch(name)
    return found or (OTHER if other else None)


def trainer_part(stage: str, t: int) -> str:
    """The part of a stage that trains: "dpo" of iteration 2 is dpo_2, the others have their own names."""
    return f"dpo_{t}" if stage == "dpo" else stage


def measure_metrics(measures: Mapping[str, Any]) -> dict[str, float]:
    """`judge/pairwise_accuracy` and its companions, from evaluation.json; any part that holds measures.

    `head_to_heads/M0_win` is against M0; the measures by type of instruction stay in evaluation.json.
    """
    matches = {f"M{u}": dict(match) for u, match in measures.get("head_to_heads", {}).items()}
    for match in matches.values():
        match.pop("types", None)
    measures = {**measures, "head_to_heads": matches}
    parts = {slug(part): numbers(values) for part, values in measures.items() if isinstance(values, Mapping)}
    return {f"{part}/{name}": number for part, found in parts.items() for name, number in found.items()}


def stage_metrics(stage: str, manifest: Manifest) -> dict[str, float]:
    """`stage/pairs_seconds`, from a manifest: time, tokens, and every number among its counts."""
    found = {"seconds": manifest.seconds, "tokens": manifest.tokens} | manifest.read | numbers(manifest.counts)
    return {f"stage/{stage}_{name}": number for name, number in found.items()}


def training_metrics(part: str, row: Mapping[str, Any]) -> dict[str, float]:
    """`sft/loss`, from one logged step of a trainer."""
    return {f"{part}/{name}": number for name, number in numbers(row).items()}


def feedback_metrics(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    pairs: Sequence[PreferencePair],
    max_score: int,
) -> dict[str, float]:
    """What M_t-1 made; a mean or share of nothing is left out."""
    reasons = Counter(prompt.rejected.split(":")[0] for prompt in prompts)
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    whole = [judgement.whole_score for judgement in judgements if judgement.score is not None]
    means, of_prompt = mean_scores(judgements), defaultdict(list)
    for candidate in candidates:
        if (mean := means.get(candidate.id)) is not None:
            of_prompt[candidate.prompt_id].append(mean)
    averaged: dict[str, Sequence[float]] = {
        "candidate_truncated_share": [candidate.truncated for candidate in candidates],
        "candidate_tokens_mean": [candidate.tokens for candidate in candidates],
        "candidate_characters_mean": [len(candidate.text) for candidate in candidates],
        "judgement_valid_share": [judgement.score is not None for judgement in judgements],
        "score_mean": scores,
        "top_score_share": [score == max_score for score in whole],
        "tie_share": [round(a - b, 9) == 0 for of_one in of_prompt.values() for a, b in combinations(of_one, 2)],
        "gap_mean": [pair.chosen_score - pair.rejected_score for pair in pairs],
        "chosen_characters_mean": [len(pair.chosen) for pair in pairs],
        "rejected_characters_mean": [len(pair.rejected) for pair in pairs],
    }
    found: dict[str, float] = {name: fmean(values) for name, values in averaged.items() if values}
    found |= {"prompts_accepted": reasons.pop("", 0), "prompts_rejected": reasons.total()}
    found |= {f"prompts_rejected_{slug(reason)}": count for reason, count in reasons.items()}
    found |= {"candidates": len(candidates), "judgements": len(judgements), "pairs": len(pairs)}
    shares = [count / len(whole) for count in Counter(whole).values()]
    found |= {"score_entropy_bits": sum(share * math.log2(1 / share) for share in shares)} if scores else {}
    if found.get("rejected_characters_mean"):
        found["chosen_to_rejected_length"] = found["chosen_characters_mean"] / found["rejected_characters_mean"]
    return {f"feedback/{name}": value for name, value in found.items()}


def score_counts(judgements: Sequence[Judgement], max_score: int) -> list[int]:
    """Valid judgements of each whole score, from 0 to `max_score`: shape (max_score + 1,)."""
    counts = Counter(judgement.whole_score for judgement in judgements)
    return [counts[score] for score in range(max_score + 1)]


def mean_scores(judgements: Sequence[Judgement]) -> dict[str, float | None]:
    """Each candidate's mean score, by its id; None where no judgement is valid."""
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    return {candidate: mean_score(judged, 1) for candidate, judged in of_candidate.items()}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among `values`, nested ones too, under names without a slash; a measure's value has its own name."""
    found: dict[str, float] = {}
    for key, value in values.items():
        for inner, number in numbers(value if isinstance(value, Mapping) else {}).items():
            found[slug(key) if inner == "value" else f"{slug(key)}_{inner}"] = number
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[slug(key)] = value
    return found


def slug(text: str, dash: str = "_") -> str:
    """Letters, digits and underscores; what stands between them becomes one `dash`."""
    return re.sub(r"[^A-Za-z0-9_]+", dash, text).strip("-_")


def markdown() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{family.name}` | {family.unit or '-'} | {family.range or '-'} | {family.better or '-'} "
        f"| {family.meaning}{' ±' if family.measure else ''} |"
        for family in (*FAMILIES, OTHER)
    ]
    table = "\n".join(["| metric | unit | range | better | meaning |", "|---|---|---|---|---|", *rows])
    return _PAGE.format(table=table)


_PAGE = """# Metrics

Made by `python -m srlm.tracking` from `srlm/tracking/metrics.py`; every tracker (`tracking=wandb`,
`tracking=tensorboard`, `tracking=jsonl`) logs these names.

- Metrics are drawn against `iteration` t, that of M_t: `feedback/` and `dpo_t/` of iteration t are what M_t-1 made and
  how M_t was trained on it. A trainer's own are drawn against its `step`: `sft/loss` against `sft/step`.
- `<word>` stands for what differs; `<trainer>` is sft_baseline, sft, reward_model, or dpo_2, dpo_3, ...
- A measure marked ± has companions: `_low` and `_high`, its 95 % interval
  (docs/statistics.md), and `_n`, what it counts.
- What is undefined is not logged.

{table}
"""
