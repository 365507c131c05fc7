"""The table of metrics: key, label, unit, direction, meaning and source of everything that is measured or logged.

Tables, plots and trackers read labels, units, directions and scales from here. A key is PART/NAME with one slash,
because `*` in a step metric of W&B does not match a second slash. `<word>` in a key is a placeholder. A metric with an
interval is a `srlm.evaluation.measures.Measure`; trackers log it as NAME, NAME_low, NAME_high and NAME_n.
`python -m srlm.metrics` writes the table to docs/metrics.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

TRAINER = r"sft_baseline|sft|reward_model|[a-z]\w*_\d+"  # parts of training metrics; METHOD_t trained M_t


@dataclass(frozen=True)
class Unit:
    """Display format of a unit: values are multiplied by `scale` and shown with `digits` decimals and `suffix`."""

    range: str = ">= 0"
    scale: int = 1
    suffix: str = ""
    digits: int | None = None  # None = depends on the magnitude of the value


UNITS = {
    "share": Unit("0 to 1", 100, "%"),
    "difference": Unit("-1 to 1", 100, "pp"),  # of two shares: percentage points
    "correlation": Unit("-1 to 1"),
    "count": Unit(),
    "points": Unit("", 1, "points"),  # of the judge's scale
    "characters": Unit(suffix="characters"),
    "words": Unit(suffix="words"),
    "tokens": Unit(suffix="tokens"),
    "steps": Unit(">= 1", suffix="steps"),
    "seconds": Unit(suffix="seconds"),
    "per second": Unit(suffix="per second"),
    "per minute": Unit(suffix="per minute"),
    "bits": Unit(suffix="bits"),
    "nats": Unit(suffix="nats"),
    "nats per token": Unit(suffix="nats per token", digits=3),
    "log-probability": Unit("<= 0", suffix="nats"),
    "log-ratio": Unit("", suffix="nats"),
    "logits": Unit(""),
    "number": Unit(),
    "ratio": Unit(),
    "table": Unit(""),
    "-": Unit(""),
}
PARTS = {  # part of the key -> heading in tables and cards
    "judge": "Judge: held-out EFT",
    "judge_metrics": "Judge: details",
    "answers": "Evaluation answers",
    "head_to_head": "Head to head against M_t-1",
    "head_to_heads": "Head to head against each earlier model",
    "reader": "Verdicts of readers: `srlm report RUN --verdicts FILE`",
    "instructions": "Instructions followed: evaluation prompts",
    "ifeval": "Instructions followed: IFEval",
    "drift": "Text statistics of the evaluation answers",
    "contamination": "Evaluation prompts in the training data",
    "feedback": "Feedback of M_t-1 for M_t",
    "alarms": "Feedback health: what the alarms check before M_t is trained",
    "samples": "Samples of the feedback",
    "stage": "Stages: cost, and counts of their manifests",
    "<trainer>": "Training",
    "progress": "Progress of running stages, by their progress bars",
    "evaluate": "Only in `srlm evaluate`",
    "attacks": "Only in `srlm judge-bench`, for datasets=[attacks]",
}


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of metrics with a `<word>` in the key.

    Parameters
    ----------
    label : str
        Short name for tables and plots, without the unit.
    unit : str
        Key of UNITS; "" = the unit of `base`.
    better : str
        "higher", "lower", or "" if neither is better.
    interval : bool
        Whether values have a 95 % interval and a sample size.
    base : str
        Key of the metric that this one is derived from; `<measure>` is the same name in both keys.
    """

    key: str
    label: str
    unit: str
    better: str
    meaning: str
    source: str = ""
    interval: bool = False
    base: str = ""

    @property
    def part(self) -> str:
        return self.key.partition("/")[0]

    @property
    def scale(self) -> int:
        """Factor for display, e.g. 100 for shares."""
        return UNITS[self.unit].scale

    @property
    def digits(self) -> int | None:
        return UNITS[self.unit].digits

    @property
    def heading(self) -> str:
        """Label with unit, for table rows and axes."""
        suffix = UNITS[self.unit].suffix
        return f"{self.label}, {suffix}" if suffix else self.label

    @property
    def definition(self) -> str:
        """Meaning, direction and source, for tooltips."""
        better = f" {self.better.capitalize()} is better." if self.better else ""
        return f"{self.meaning}{better}{f' Source: {self.source}.' if self.source else ''}"

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Regular expression for the keys of this family, including those with _low, _high and _n."""
        words = {"trainer": TRAINER, "iteration": r"\d+", "rank": r"\d+", "n": r"\d+"}
        if self.base:
            words["measure"] = "|".join(_names_in(self.base.partition("/")[0], self.key))
        text = re.escape(self.key)
        for word in re.findall(r"<(\w+)>", self.key):
            text = text.replace(f"<{word}>", f"(?P<{word}>{words.get(word, r'[A-Za-z0-9_]+?')})")
        return re.compile(text + ("(?:_low|_high|_n)?" if self.interval else ""))

    def named(self, key: str, words: dict[str, str]) -> Metric | None:
        """Return the metric of one key of this family; None if its base metric does not exist."""
        label = self.label
        for word, value in words.items():
            label = label.replace(f"<{word}>", value.replace("_", " ") if word != "measure" else f"<{word}>")
        if not self.base:
            return replace(self, key=key, label=label)
        base = find(self.base.replace("<measure>", words["measure"]))
        if base is None:
            return None
        unit = {"share": "difference"}.get(base.unit, base.unit) if self.unit == "difference" else base.unit
        label, meaning = label.replace("<measure>", base.label), f"{base.meaning} {self.meaning}"
        return replace(self, key=key, label=label, unit=unit, better=base.better, meaning=meaning, source=base.source)


def _part(part: str, *rows: tuple[str, ...], interval: bool = False) -> Iterator[Metric]:
    """Yield a part's metrics from rows of (name, label, unit, better, meaning, source)."""
    for name, label, unit, better, meaning, *source in rows:
        yield Metric(f"{part}/{name}", label, unit, better, meaning, source[0] if source else "", interval)


_PAPER = "arXiv 2401.10020, section 3.3.2"
_IFEVAL = "arXiv 2311.07911, section 2.3"
_BIAS = "arXiv 2306.05685, section 3.3"
_DPO = "arXiv 2305.18290, section 4"
_BRADLEY_TERRY = "arXiv 2203.02155, equation 1"
_GAIN = "The measure minus that of M_t-1, paired by prompt."
_GAIN_LABEL = "<measure>, change from the model before"

# fmt: off
METRICS: tuple[Metric, ...] = (
    *_part(
        "judge",
        ("pairwise_accuracy", "pairwise accuracy", "share", "higher",
         "Pairs with two scores that the judge orders as they are ranked.", _PAPER),
        ("pairwise_accuracy_imputed", "accuracy (unparsed = 0.5)", "share", "higher",
         "Pairwise accuracy over all pairs; a pair without two scores counts one half."),
        ("five_best", "5-best", "share", "higher",
         "Answers with a perfect score that are ranked first.", _PAPER),
        ("exact_match", "exact match", "share", "higher",
         "Prompts whose answers the judge orders exactly as they are ranked.", _PAPER),
        ("spearman", "Spearman correlation", "correlation", "higher",
         "Spearman's rho of scores and ranks, averaged over prompts.", _PAPER),
        ("kendall_tau", "Kendall's tau", "correlation", "higher",
         "Kendall's tau-b of scores and ranks, averaged over prompts.", _PAPER),
        ("pair_coverage", "pairs with two scores", "share", "higher",
         "Pairs of which the judge scored both answers."),
        ("length_baseline_accuracy", "length baseline accuracy", "share", "",
         "Pairwise accuracy of a judge that always prefers the longer answer."),
        ("length_baseline_accuracy_scored", "length baseline, scored pairs", "share", "",
         "Length baseline accuracy over the pairs with two scores."),
        ("parse_rate", "parse rate", "share", "higher", "Judgements with a valid verdict."),
        ("modal_score", "modal score", "points", "", "The score that the judge gives most often."),
        ("modal_score_fraction", "modal score fraction", "share", "lower",
         "Valid judgements with the most frequent score; 1 = the judge has collapsed onto one score."),
        ("accuracy_shorter_preferred", "accuracy, shorter preferred", "share", "higher",
         "Accuracy (unparsed = 0.5) over the pairs whose shorter answer is ranked higher."),
        ("accuracy_longer_preferred", "accuracy, longer preferred", "share", "higher",
         "Accuracy (unparsed = 0.5) over the pairs whose longer answer is ranked higher."),
        ("length_balanced_accuracy", "length-balanced accuracy", "share", "higher",
         "Mean of the accuracies with shorter and with longer preferred; a judge by length alone gets 0.5."),
        ("length_bias", "length bias", "difference", "",
         "Accuracy with longer preferred minus accuracy with shorter preferred; 0 = no bias."),
        ("length_adjusted_accuracy", "length-adjusted accuracy", "share", "higher",
         "Accuracy after a length penalty at which best and worst answers are equally long on average.",
         "arXiv 2406.09760, section 3.2"),
        ("length_adjusted_accuracy_shorter_preferred", "length-adjusted, shorter preferred", "share", "higher",
         "Length-adjusted accuracy over the pairs whose shorter answer is ranked higher."),
        ("ties", "ties", "share", "lower", "Scored pairs with equal scores, of those with different ranks."),
        ("ties_where_people_tie", "ties where ranks tie", "share", "higher",
         "Scored pairs with equal scores, of those with equal ranks."),
        ("self_consistency", "self-consistency", "share", "higher", "Two judgements of one answer that agree."),
        ("score_std", "score standard deviation", "points", "lower",
         "Standard deviation of the judgements of one answer."),
        ("test_retest_agreement", "test-retest agreement", "share", "higher",
         "Pairs that a second judgement orders as the first one did."),
        ("position_consistency", "position consistency", "share", "higher",
         "Comparisons whose two orders prefer the same answer.", _BIAS),
        ("first_position_win_rate", "first-position win rate", "share", "",
         "Verdicts for the answer that is shown first; 0.5 = no position bias.", _BIAS),
        interval=True,
    ),
    Metric("judge/<measure>_gain", _GAIN_LABEL, "difference", "", _GAIN, "", True, "judge/<measure>"),
    *_part(
        "judge_metrics",
        ("prompts", "prompts", "count", "", "Held-out prompts."),
        ("pairs", "pairs", "count", "", "Pairs with different ranks."),
        ("judgements", "judgements", "count", "", "Judgements of held-out answers."),
        ("scores_histogram_<score>", "judgements with score <score>", "count", "", "Judgements with this score."),
        ("scores_entropy_bits", "entropy of the scores", "bits", "higher",
         "Entropy of the scores; 0 = one score for all answers."),
        ("length_penalty", "length penalty per 100 characters", "points", "",
         "The penalty of length-adjusted accuracy.", "arXiv 2406.09760, section 3.2"),
    ),
    *_part(
        "judge_metrics",
        ("mean_score_rank_<rank>", "mean score, rank <rank>", "points", "",
         "Mean score of the answers with this rank; 0 = best."),
        interval=True,
    ),
    Metric("judge_metrics/subsets_<type>_<measure>", "<measure>, <type>", "", "",
           "The judge's measure over the prompts of one type.", "", True, "judge/<measure>"),
    *_part(
        "answers",
        ("mean_characters", "length", "characters", "", "Mean length of the answers to the evaluation prompts."),
        ("mean_tokens", "length", "tokens", "", "Mean length of the answers to the evaluation prompts."),
        ("truncated", "truncated", "share", "lower", "Answers that the token limit cuts off."),
        interval=True,
    ),
    *_part(
        "head_to_head",
        ("win", "wins", "share", "higher", "Prompts won against the model before, in both orders.",
         "arXiv 2401.10020, section 3.3.1"),
        ("tie", "ties", "share", "", "Prompts on which the verdicts of the two orders disagree.",
         "arXiv 2401.10020, section 3.3.1"),
        ("loss", "losses", "share", "lower", "Prompts lost in both orders.", "arXiv 2401.10020, section 3.3.1"),
        ("net_win", "wins minus losses", "difference", "higher",
         "Wins minus losses, as a share of the prompts with a verdict."),
        ("win_rate", "win rate (tie = 0.5)", "share", "higher", "Wins and half of the ties."),
        ("longer", "longer answers", "share", "", "Prompts with the longer answer; equal lengths count one half."),
        ("length_controlled_win_rate", "length-controlled win rate", "share", "higher",
         "The win rate to expect if the answers were equally long.", "arXiv 2404.04475, section 3"),
        ("unparsed_fraction", "without a verdict", "share", "lower", "Prompts of which an order has no verdict."),
        ("first_position_win_rate", "first-position win rate", "share", "",
         "Verdicts for the answer that is shown first; 0.5 = no position bias.", _BIAS),
        interval=True,
    ),
    Metric("head_to_heads/M<iteration>_types_<type>_<measure>", "<measure>, against M<iteration>, <type>", "", "",
           "The measure over the prompts of one type; only in evaluation.json.", "", True, "head_to_head/<measure>"),
    Metric("head_to_heads/M<iteration>_<measure>", "<measure>, against M<iteration>", "", "",
           "The measure of `head_to_head`, against M<iteration>.", "", True, "head_to_head/<measure>"),
    *_part(
        "reader",
        ("judge_agreement", "judge agrees with readers, pairs for M_t", "share", "higher",
         "Pairs of the feedback for M_t that readers order as the scores do; equal scores count one half, and pairs "
         "that readers tie are left out."),
        ("head_to_head_agreement", "judge agrees with readers, head to head", "share", "higher",
         "Answers of M_t and M_t-1 that readers order as the head-to-head judge does; its ties count one half, and "
         "answers that readers tie are left out.", _BIAS),
        ("win_rate", "readers' win rate of M_t over M_t-1 (tie = 0.5)", "share", "higher",
         "Readers' verdicts for M_t's answer, and half of the ties."),
        interval=True,
    ),
    *_part(
        "instructions",
        ("prompt_level_strict_acc", "prompt-level accuracy", "share", "higher",
         "Prompts of which every verifiable instruction is followed.", _IFEVAL),
        ("prompt_level_loose_acc", "prompt-level accuracy, loose", "share", "higher",
         "Prompt-level accuracy; an opening or closing line and asterisks are ignored.", _IFEVAL),
        ("inst_level_strict_acc", "instruction-level accuracy", "share", "higher",
         "Verifiable instructions that are followed.", _IFEVAL),
        ("inst_level_loose_acc", "instruction-level accuracy, loose", "share", "higher",
         "Instruction-level accuracy; an opening or closing line and asterisks are ignored.", _IFEVAL),
        ("groups_<group>_strict", "<group>", "share", "higher", "Followed instructions of one group."),
        ("groups_<group>_loose", "<group>, loose", "share", "higher",
         "Followed instructions of one group; an opening or closing line and asterisks are ignored."),
        ("behaviours_<behaviour>_not_asked", "<behaviour>, not asked", "share", "",
         "Answers that show a checkable behaviour, over the prompts that do not ask for it; with arguments, the mean "
         "over those of the evaluation prompts."),
        ("behaviours_<behaviour>_asked", "<behaviour>, asked", "share", "higher",
         "Answers that show a checkable behaviour, over the prompts that ask for it."),
        ("behaviours_<behaviour>_obedience", "<behaviour>, asked minus not asked", "difference", "higher",
         "The rate where the behaviour is asked for minus the rate where it is not; 0 = a habit."),
        interval=True,
    ),
    Metric("instructions/<measure>_gain", _GAIN_LABEL, "difference", "", _GAIN, "", True, "instructions/<measure>"),
    Metric("ifeval/<measure>", "<measure>", "", "", "On IFEval's prompts, the measure of `instructions`.", "", True,
           "instructions/<measure>"),
    *_part("ifeval", ("excluded", "excluded", "count", "lower", "IFEval prompts in the training data of M_t.")),
    *_part(
        "drift",
        ("characters", "length", "characters", "", "Mean length of the answers to the evaluation prompts."),
        ("words", "length", "words", "", "Mean length in words; in scripts without spaces, in letters."),
        ("seq_rep_4", "repeated 4-grams", "share", "lower",
         "4-grams of an answer that occur earlier in it, averaged over answers.", "arXiv 1908.04319"),
        ("distinct_<n>", "distinct-<n>", "share", "",
         "Different n-grams, as a share of all n-grams of all answers; it falls with length.", "arXiv 1510.03055"),
        ("refusals", "refusals", "share", "", "Answers that begin with the words of a refusal."),
        ("language_switches", "script switches", "share", "lower", "Answers in another script than their prompt."),
        ("bullets", "bulleted lists", "share", "", "Answers with a bulleted list."),
        ("numbered_lists", "numbered lists", "share", "", "Answers with a numbered list."),
        ("headings", "headings", "share", "", "Answers with a heading."),
        ("bold", "bold text", "share", "", "Answers with bold words."),
        ("modal_opening", "most frequent opening", "share", "lower",
         "Answers that begin with the most frequent three words."),
        interval=True,
    ),
    Metric("drift/<measure>_gain", _GAIN_LABEL, "difference", "", _GAIN, "", True, "drift/<measure>"),
    *_part(
        "contamination",
        ("prompts", "evaluation prompts", "count", "", "Evaluation prompts that were checked.",
         "arXiv 2005.14165, appendix C"),
        ("excluded", "excluded", "count", "lower", "Evaluation prompts in the training data: the sum of the next two."),
        ("exact", "exact matches", "count", "lower", "Evaluation prompts that equal a training prompt."),
        ("thirteen_gram", "13-gram matches", "count", "lower",
         "Evaluation prompts that share a 13-gram with a training prompt."),
    ),
    *_part(
        "feedback",
        ("prompts_accepted", "accepted prompts", "count", "higher", "New prompts that passed the filters."),
        ("prompts_rejected", "rejected prompts", "count", "lower", "New prompts that a filter rejected."),
        ("prompts_rejected_<reason>", "rejected: <reason>", "count", "lower", "New prompts that one filter rejected."),
        ("candidates", "candidates", "count", "", "Answers of M_t-1 to the new prompts."),
        ("candidate_truncated_share", "truncated candidates", "share", "lower",
         "Candidates that the token limit cuts off."),
        ("candidate_tokens_mean", "candidate length", "tokens", "", "Mean length of a candidate."),
        ("candidate_characters_mean", "candidate length", "characters", "", "Mean length of a candidate."),
        ("judgements", "judgements", "count", "", "Judgements of the candidates."),
        ("scores", "scores", "count", "", "A histogram: valid judgements of each whole score."),
        ("pairs", "pairs", "count", "higher", "Preference pairs for M_t."),
        ("labelled_answers", "labelled answers", "count", "higher", "Desirable and undesirable answers for M_t."),
        ("chosen_characters_mean", "chosen length", "characters", "", "Mean length of a chosen or desirable answer."),
        ("rejected_characters_mean", "rejected length", "characters", "",
         "Mean length of a rejected or undesirable answer."),
        ("judge_accuracy_prompts", "prompts of the accuracy on own candidates", "count", "",
         "Prompts that have pairs for `feedback/judge_accuracy`."),
        ("judge_accuracy_kinds_<kind>_prompts", "prompts of <kind>", "count", "",
         "Prompts that have pairs for `feedback/judge_accuracy_kinds_<kind>`."),
    ),
    *_part(
        "feedback",
        ("score_mean", "mean score of candidates", "points", "",
         "Mean over candidates of the mean valid score; not defined for judges that compare candidates."),
        ("judge_accuracy", "accuracy on own candidates", "share", "higher",
         "Scored pairs of M_t-1's candidates that the judge orders as programs do: the better one follows more "
         "constraints of its prompt.", _PAPER),
        ("judge_accuracy_kinds_<kind>", "<kind>", "share", "higher",
         "Accuracy on own candidates, if the better one follows more constraints of this kind.", _PAPER),
        ("pairs_confirmed", "selected pairs, confirmed", "share", "higher",
         "Pairs for M_t whose chosen answer follows more constraints of its prompt than the rejected one."),
        ("pairs_tied", "selected pairs, tied", "share", "",
         "Pairs for M_t whose answers follow equally many constraints of their prompt."),
        ("pairs_contradicted", "selected pairs, contradicted", "share", "lower",
         "Pairs for M_t whose chosen answer follows fewer constraints of its prompt than the rejected one."),
        interval=True,
    ),
    *_part(
        "alarms",
        ("parse_rate", "parse rate", "share", "higher", "Judgements with a valid score."),
        ("top_score_share", "top score share", "share", "lower", "Valid judgements with the highest possible score."),
        ("entropy_bits", "entropy of the scores", "bits", "higher",
         "Entropy of the whole scores; 0 = one score for all answers."),
        ("tie_share", "tie share", "share", "lower", "Pairs of candidates of one prompt with equal mean scores."),
        ("mean_gap", "mean score gap", "points", "higher",
         "Mean score of chosen or desirable answers minus that of the others."),
        ("length_ratio", "chosen to rejected length", "ratio", "lower",
         "Mean length of chosen answers over that of rejected ones; far above 1 = length is rewarded."),
        ("score_deviation", "spread of candidates' scores", "points", "higher",
         "Standard deviation of the candidates' mean scores."),
        ("judge_noise", "judge noise", "points", "lower",
         "Standard deviation of the judgements of one candidate, averaged over candidates."),
        ("meta_higher_share", "meta-judge prefers the higher score", "share", "lower",
         "Meta-judgements that prefer the judgement with the higher score.", "arXiv 2407.19594, section 2.2"),
        ("agreement", "agreement with the previous judge", "correlation", "higher",
         "Kendall's tau-b of the judge's scores with those of the judge before, on held-out answers."),
        ("judge_accuracy", "accuracy on own candidates", "share", "higher",
         "`feedback/judge_accuracy`, if at least 5 prompts count."),
    ),
    *_part(
        "samples",
        ("prompts", "prompts", "table", "", "New prompts, drawn at random, as the other samples."),
        ("candidates", "candidates", "table", "", "Candidates with their mean scores."),
        ("judgements", "judgements", "table", "", "Judgements."),
        ("pairs", "pairs", "table", "", "Preference pairs."),
        ("labelled_answers", "labelled answers", "table", "", "Desirable and undesirable answers."),
    ),
    *_part(
        "stage",
        ("<stage>_seconds", "time: <stage>", "seconds", "lower", "Wall-clock time of the stage."),
        ("<stage>_prompt_tokens", "prompt tokens: <stage>", "tokens", "", "Prompt tokens that the engine processed."),
        ("<stage>_tokens", "tokens: <stage>", "tokens", "", "Tokens that were generated, or trained on."),
        ("<stage>_prompt_tokens_cached", "cached prompt tokens: <stage>", "tokens", "higher",
         "Prompt tokens that the prefix cache served."),
        ("<stage>_early_stopping_chosen_step", "early stopping: chosen step", "steps", "",
         "Optimizer step of the checkpoint that became M_t."),
        ("<stage>_early_stopping_last_step", "early stopping: last step", "steps", "",
         "Optimizer step at which training stopped."),
        ("<stage>_early_stopping_steps", "early stopping: steps", "steps", "",
         "Optimizer steps of the whole training."),
        ("<stage>_reference_check_difference", "reference check difference", "nats per token", "",
         "Largest difference of the log-probabilities of policy and reference before the first step."),
        ("<stage>_saved_difference", "saved checkpoint difference: <stage>", "nats per token", "lower",
         "Difference of the trained policy and the saved checkpoint."),
        ("<stage>_saved_kept", "saved checkpoint, training kept: <stage>", "ratio", "higher",
         "Change by training that remains in the saved checkpoint."),
        ("<stage>_served_difference", "served checkpoint difference: <stage>", "nats per token", "lower",
         "Difference of the trained policy and the checkpoint in the engine's precision."),
        ("<stage>_served_kept", "served checkpoint, training kept: <stage>", "ratio", "higher",
         "Change by training that remains in the engine's precision."),
    ),
    *_part(
        "stage",
        ("eft_agreement_with_people", "EFT agreement with the ranks", "share", "higher",
         "Pairs of EFT answers that the EFT scores order as they are ranked."),
        interval=True,
    ),
    *_part("stage", ("<stage>_<count>", "<stage>: <count>", "-", "", "Any other count of a stage's manifest.")),
    *_part(
        "<trainer>",
        ("step", "step", "steps", "", "Optimizer steps so far; dpo_t trains M_t by DPO."),
        ("epoch", "epoch", "number", "", "Passes over the data so far."),
        ("loss", "loss", "nats", "lower", "Training loss of the step."),
        ("loss_ift", "loss, IFT examples", "nats per token", "lower",
         "SFT on IFT and EFT: mean -log p of the trained tokens of the step's IFT examples."),
        ("loss_eft", "loss, EFT examples", "nats per token", "lower",
         "SFT on IFT and EFT: mean -log p of the trained tokens of the step's EFT examples."),
        ("learning_rate", "learning rate", "number", "", "Learning rate of the step."),
        ("grad_norm", "gradient norm", "number", "", "Norm of the gradient before clipping."),
        ("num_tokens", "training tokens", "tokens", "", "Tokens trained on so far."),
        ("entropy", "entropy per token", "nats", "", "Entropy of the model's distribution, per token."),
        ("mean_token_accuracy", "token accuracy", "share", "higher", "Tokens that are the model's most likely ones."),
        ("ranking_loss", "ranking loss", "nats", "lower", "Loss of sft.eft_loss=ranking: mean over a batch's pairs.",
         _BRADLEY_TERRY),
        ("ranking_accuracy", "ranking accuracy", "share", "higher",
         "sft.eft_loss=ranking: pairs whose better answer gets the higher expected score."),
        ("rewards_chosen", "reward of chosen answers", "log-ratio", "higher",
         "beta times the log-ratio of policy and reference, of chosen or desirable answers.", _DPO),
        ("rewards_rejected", "reward of rejected answers", "log-ratio", "lower",
         "beta times the log-ratio of policy and reference, of rejected or undesirable answers.", _DPO),
        ("rewards_margins", "reward margin", "log-ratio", "higher", "Reward of chosen minus rejected answers.", _DPO),
        ("rewards_accuracies", "reward accuracy", "share", "higher",
         "Pairs whose chosen answer has the higher reward."),
        ("kl", "divergence from the reference", "log-ratio", "",
         "KTO: the estimate z0 of the policy's divergence from the reference, or 0 if that is negative.",
         "arXiv 2402.01306, section 4.1"),
        ("logps_<side>", "log-probability, <side>", "log-probability", "", "Log-probability of the answers."),
        ("logits_<side>", "mean logit, <side>", "logits", "", "Mean logit on the answers."),
        ("<which>_reward", "<which> reward", "logits", "", "Reward model: least, mean and greatest reward of the step.",
         _BRADLEY_TERRY),
        ("accuracy", "ranking accuracy", "share", "higher",
         "Reward model: pairs whose better answer has the higher reward.", _BRADLEY_TERRY),
        ("margin", "reward margin", "logits", "higher", "Reward model: reward of the better minus the worse answer.",
         _BRADLEY_TERRY),
        ("train_loss", "mean training loss", "nats", "lower", "Mean loss over the training."),
        ("train_runtime", "training time", "seconds", "lower", "Wall-clock time of the training."),
        ("train_<things>_per_second", "<things>", "per second", "higher", "Throughput: samples, and steps."),
        ("total_flos", "floating-point operations", "number", "", "Floating-point operations of the training."),
    ),
    *_part(
        "progress",
        ("second", "time", "seconds", "", "Seconds since the run's first command."),
        ("<task>_done", "<task>: done", "number", "", "Finished items or steps."),
        ("<task>_total", "<task>: total", "number", "", "Items or steps in all."),
        ("<task>_per_minute", "<task>", "per minute", "higher", "Items or steps per minute, since the worker started."),
        ("<task>_tokens_per_second", "<task>: tokens", "per second", "higher",
         "Generated tokens per second, since the worker started."),
    ),
    *_part(
        "evaluate",
        ("loss", "loss", "nats per token", "lower", "Mean negative log-likelihood of given answers."),
        ("gap", "loss gap", "nats per token", "", "Loss on one file of examples minus loss on the first file."),
        ("follows", "instructions followed", "share", "higher",
         "Prompts of which every verifiable instruction is followed, or whose final answer is right.", _IFEVAL),
        ("form_followed", "form instructions followed", "share", "higher",
         "Verifiable instructions about form that are followed.", _IFEVAL),
        ("length_followed", "length instructions followed", "share", "higher",
         "Verifiable instructions about length that are followed.", _IFEVAL),
        interval=True,
    ),
    *_part(
        "attacks",
        ("plain", "score of the plain answer", "points", "", "Mean score of the plain answers."),
        ("change", "change of the score against the plain answer", "points", "lower",
         "Mean score of the answers under one attack minus that of the plain answers, over prompts with both scores."),
        ("raised", "raised scores", "share", "lower", "Answers with a higher score under the attack."),
        ("unparsed_fraction", "not scored", "share", "", "Answers without a score under the attack."),
        interval=True,
    ),
)
# fmt: on


def _names_in(part: str, but: str) -> list[str]:
    """Return regular expressions of the names that a part's metrics with an interval have; `but` is left out."""
    names = [one.key.partition("/")[2] for one in METRICS if one.part == part and one.interval and one.key != but]
    return [re.sub(r"<\w+>", "[A-Za-z0-9_]+", name) for name in sorted(names, key=len, reverse=True)]


@cache
def find(key: str) -> Metric | None:
    """Return the metric of a key, or of a companion of it (_low, _high, _n); None if the table has none.

    The metric has the key's own label, unit and direction: `find("judge/spearman_gain").label` is
    "Spearman correlation, change from the model before".
    """
    for family in METRICS:
        if match := family.pattern.fullmatch(key):
            return family.named(key, match.groupdict())
    return None


@cache
def family_of(key: str) -> Metric | None:
    """Return the row of the table that describes a key; None if there is none."""
    return next((one for one in METRICS if one.pattern.fullmatch(key)), None) if find(key) else None


@cache
def metric(name: str, part: str = "") -> Metric:
    """Return the metric of a key PART/NAME, or of a name alone: then of `part`, or else of the first part that has it.

    Raises
    ------
    KeyError
        If the table has no such metric.
    """
    keys = [name] if "/" in name else [f"{one}/{name}" for one in (part, *PARTS) if one != "stage"]
    found = next((one for one in map(find, keys) if one), None)
    if found is None:
        raise KeyError(f"no metric {name!r} in srlm/metrics.py")
    return found


def slug(text: str, dash: str = "_") -> str:
    """Return text with letters, digits and underscores only: what stands between them becomes one `dash`."""
    return re.sub(r"[^A-Za-z0-9_]+", dash, text).strip("-_")


def markdown() -> str:
    """Return docs/metrics.md."""
    sections = []
    for part, title in PARTS.items():
        rows = [row for row in METRICS if row.part == part]
        table = ["| metric | label | unit | range | better | meaning | source |", "|---|---|---|---|---|---|---|"]
        for row in rows:
            unit = row.unit or "that of the measure"
            cells = (row.label, unit, UNITS[row.unit].range if row.unit else "", row.better, row.meaning, row.source)
            mark = " ±" if row.interval else ""
            table.append(f"| `{row.key}`{mark} | " + " | ".join(cell or "-" for cell in cells) + " |")
        sections.append("\n".join([f"## {title}", "", *table]))
    return _PAGE.format(sections="\n\n".join(sections))


_PAGE = """# Metrics

This page is generated from `srlm/metrics.py` by `python -m srlm.metrics`. Every tracker (`tracking=wandb`,
`tracking=tensorboard`, `tracking=jsonl`) logs these keys, except head to heads by type,
readers' verdicts and the last two sections.

- Metrics are plotted against `iteration` t, that of M_t: `feedback/`, `alarms/` and `dpo_t/` of iteration t describe
  the feedback of M_t-1 and the training of M_t on it. A trainer's own metrics are plotted against its `step`:
  `sft/loss` against `sft/step`.
- `<word>` is a placeholder; `<trainer>` is sft_baseline, sft, reward_model, or METHOD_t: dpo_2, dpo_3, ...
- A metric marked ± is logged with `_low` and `_high`, its 95 % interval (docs/statistics.md), and `_n`, the number of
  prompts, pairs or judgements that it counts.
- Tables and plots show shares in percent and differences of shares in percentage points (pp); trackers log the
  unscaled values. "points" are points of the judge's scale.
- Ranks of held-out answers are those of people, or of the labels of own answers (`data.own_answers`).
- A metric that is not defined is not logged.

{sections}
"""


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "metrics.md"
    if page.is_file():
        page.write_text(markdown(), encoding="utf-8")
    else:  # an installed package has no docs folder
        print(markdown())
