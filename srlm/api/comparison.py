"""Compare two models' answers to the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from srlm.api.arguments import Text, evaluation_records
from srlm.api.options import compose
from srlm.api.process import temporary_workspace, work
from srlm.cli.evaluate.plan import Plan
from srlm.config import Config, Evaluate
from srlm.data.config import SourceConfig
from srlm.data.readers import read_prompts
from srlm.evaluation.head_to_head import head_to_head_part, match_results
from srlm.evaluation.measures import Measure, mean_measure
from srlm.ids import comparison_id, match_and_order
from srlm.io.record_file import read_records, write_records
from srlm.models.resolve import label
from srlm.types import Answer, Comparison, SeedExample


@dataclass(frozen=True)
class ModelComparison:
    """Two models' answers to the same prompts, and which of them a judge prefers.

    Attributes
    ----------
    first, second : str
        The models, as they were given.
    judge : str
        The model that compared the answers.
    measures : mapping of str to Measure
        The first model against the second: "win", "tie" and "loss" as shares of the judged prompts, "net_win" (wins
        minus losses, -1 to 1), "win_rate", "length_controlled_win_rate", "unparsed_fraction" and others, each with its
        95 % interval over prompts; docs/metrics.md defines them under `head_to_head/`.
    lengths : tuple of Measure
        Mean length of the first and of the second model's answers, in characters.
    answers : tuple of list of Answer
        The first and the second model's answers.
    comparisons : list of Comparison
        Two for each prompt, one for each order; winner "first" is the first model.
    """

    first: str
    second: str
    judge: str
    measures: Mapping[str, Measure]
    lengths: tuple[Measure, Measure]
    answers: tuple[list[Answer], list[Answer]]
    comparisons: list[Comparison]

    def __str__(self) -> str:
        """Return the result in one sentence."""
        net = self.measures["net_win"]
        wins, ties, losses = (round((self.measures[name].value or 0) * net.n) for name in ("win", "tie", "loss"))
        lengths = " and ".join("no" if one.value is None else f"{one.value:.0f}" for one in self.lengths)
        margin = "" if net.value is None else f", wins minus losses {100 * net.value:+.0f} points"
        if net.low is not None and net.high is not None:
            margin += f" [{100 * net.low:+.0f}, {100 * net.high:+.0f}]"
        return (
            f"{label(self.first)} against {label(self.second)}, judged by {label(self.judge)} on {net.n} prompts: "
            f"wins {wins}, ties {ties}, losses {losses}{margin}; mean lengths {lengths} characters"
        )


def compare(
    first: str | Path,
    second: str | Path,
    prompts: Sequence[Text | SeedExample] | None = None,
    *,
    judge: str | Path | None = None,
    config: Config | None = None,
) -> ModelComparison:
    """Compare two models, as `srlm evaluate suite=[answers,head_to_head]` does.

    Both models answer every prompt, with the same seeds. The judge compares the two answers in both orders, and a model
    wins a prompt only if it wins in both (arXiv 2401.10020, section 3.3.1).

    Parameters
    ----------
    first, second : str or Path
        Models: packaged names, Hub ids, folders, .gguf files, or "endpoint".
    prompts : sequence of str, list of messages or SeedExample, optional
        By default the built-in evaluation prompts in `data.builtin_languages`.
    judge : str or Path, optional
        The model that compares. By default it is the one that `evaluation.judge` names, and `first` for the roles sft
        and base.
    config : Config, optional
        From `compose`; `evaluation` (sampling, judge_template, bootstrap), `engine`, `model`, `endpoint` and `seed` are
        used.

    Returns
    -------
    ModelComparison

    Raises
    ------
    ArgumentError
        If there are no prompts.
    ConfigError, ModelError, EngineError
        If an option is invalid, there is no such model, or an engine fails.

    Examples
    --------
    >>> result = srlm.compare("runs/default/iteration_1/model", "runs/default/iteration_2/model", ["Name a river."])
    >>> print(result, result.measures["win_rate"].low)
    """
    config = config or compose("experiment=free_form")
    names = (str(first), str(second))
    own = config.evaluation.judge
    arbiter = str(judge or ("first" if own in ("sft", "base") else own))
    if prompts is None:
        prompts = read_prompts(SourceConfig(languages=config.data.builtin_languages), config.seed)
    rows = evaluation_records(prompts)
    evaluation = replace(config.evaluation, judge=names[0] if arbiter == "first" else arbiter)
    options = Evaluate(**{one.name: getattr(config, one.name) for one in fields(Config)})
    options = replace(options, models=list(names), evaluation=evaluation)
    with temporary_workspace(options) as (workspace, options):
        plan = Plan(workspace, options)
        plan.prompts.begin(in_pieces=False)
        write_records(plan.prompts.outputs[0], rows)
        plan.prompts.done({}, {"prompts": len(rows)})
        for number in range(len(plan.generators)):
            work("srlm.cli.evaluate.workers:worker", workspace, number, name="evaluate")
        [match] = plan.matches
        ours, theirs = (read_records(plan.answers[name].outputs[0], Answer) for name in names)
        comparisons = read_records(match.comparisons.outputs[0], Comparison)
    if match.first != names[0]:
        comparisons = [_turned(one) for one in comparisons]
    given = (config.evaluation.bootstrap, f"{config.seed}/evaluate")
    our_length, their_length = (mean_measure([len(one.text) for one in some], *given) for some in (ours, theirs))
    return ModelComparison(
        *names,
        judge=plan.judge,
        measures=head_to_head_part(match_results(comparisons, ours, theirs), *given),
        lengths=(our_length, their_length),
        answers=(ours, theirs),
        comparisons=comparisons,
    )


def _turned(comparison: Comparison) -> Comparison:
    """Return a comparison with the first and the second model exchanged."""
    match, order = match_and_order(comparison.id)
    winner = {"first": "second", "second": "first"}.get(comparison.winner or "")
    return replace(comparison, id=comparison_id(match, order[::-1]), winner=winner)
