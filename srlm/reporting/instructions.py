"""What programs find in the answers of the last model against those of M1: instructions followed, and an example.

evaluation.json has the difference to the previous model. These are the differences over all rounds of self-rewarding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from srlm.config import Config
from srlm.evaluation.evaluate import trained_on
from srlm.evaluation.instruction_following import check_answers, instructions_part
from srlm.evaluation.measures import Measure, direction
from srlm.evaluation.record import Evaluation
from srlm.io.tables import plain_text
from srlm.models.conversation import dialogue
from srlm.pipeline.artifacts import ANSWERS, EVALUATION_PROMPTS, IFEVAL_ANSWERS, IFEVAL_PROMPTS
from srlm.pipeline.workspace import Workspace
from srlm.types import Answer, SeedExample

MEASURE = "prompt_level_strict_acc"


@dataclass(frozen=True)
class Changed:
    """A prompt of which one of two models follows all instructions, and the other one does not."""

    prompt: SeedExample
    before: Answer
    now: Answer


@dataclass(frozen=True)
class Followed:
    """Prompts whose instructions are all followed (IFEval's strict criterion), by two models.

    Attributes
    ----------
    first, last : int
        Iterations of the models: M1 and the last model; M0 and M1 if M1 is the last one.
    before, now : Measure
        Fractions of the prompts.
    gain : Measure
        `now` minus `before`, paired by prompt.
    better, worse : sequence of Changed
        Prompts that only the last model follows, and that only the first one does.
    """

    first: int
    last: int
    before: Measure
    now: Measure
    gain: Measure
    better: Sequence[Changed]
    worse: Sequence[Changed]

    @property
    def sign(self) -> int:
        """Return 1 if the last model is better, -1 if it is worse, 0 if the interval of the gain includes 0."""
        return direction(self.gain) if self.gain.low is not None else 0

    def sentence(self) -> str:
        """Return the result in words."""
        if self.gain.low is None or self.gain.high is None:
            words = "too few prompts to compare"
        else:
            low, high = 100 * self.gain.low, 100 * self.gain.high
            words = {1: "better", -1: "worse", 0: "no difference shown"}[self.sign]
            words += f" ({100 * (self.gain.value or 0):+.0f} points [{low:+.0f}, {high:+.0f}])".replace("-", "−")
        prompts = f"{self.now.n} prompt{'s' * (self.now.n != 1)}"
        return (
            f"M{self.last} follows all instructions of {_percent(self.now)} of {prompts}, M{self.first} of "
            f"{_percent(self.before)}, checked by programs and no judge: {words}."
        )


def followed(workspace: Workspace, config: Config, evaluation: Evaluation) -> Followed | None:
    """Return what programs find in the answers of a model and of M1; None without prompts that they can check.

    IFEval's prompts (`evaluation.ifeval`) are used if the run has them, otherwise the evaluation prompts. Prompts in
    the model's training data are left out.
    """
    last, first = evaluation.iteration, min(1, evaluation.iteration - 1)
    ifeval = bool(config.evaluation.ifeval)
    artifact = IFEVAL_ANSWERS if ifeval else ANSWERS
    prompts = (IFEVAL_PROMPTS if ifeval else EVALUATION_PROMPTS).peek(workspace)
    if first < 0 or not any(prompt.constraints for prompt in prompts):
        return None
    stored = evaluation.contamination.ids if evaluation.contamination else ()
    excluded = set(trained_on(workspace, config, last, prompts).excluded if ifeval else stored)
    answers = [{row.id: row for row in artifact.peek(workspace, t) if row.id not in excluded} for t in (first, last)]
    before, now = (check_answers(prompts, list(rows.values()), published=ifeval) for rows in answers)
    if not before or not now:
        return None
    resamples, seed = config.evaluation.bootstrap, f"{config.seed}/followed"
    gained = instructions_part(now, before, resamples, seed).measures
    strict = [{row.id: all(row.strict) for row in rows} for rows in (before, now)]

    def changed(side: int) -> list[Changed]:
        """Return the prompts that only one of the models follows: 0 = the first, 1 = the last."""
        return [
            Changed(prompt, answers[0][prompt.id], answers[1][prompt.id])
            for prompt in prompts
            if strict[side].get(prompt.id) and strict[1 - side].get(prompt.id) is False
        ]

    return Followed(
        first,
        last,
        instructions_part(before, None, resamples, seed).measures[MEASURE],
        gained[MEASURE],
        gained[f"{MEASURE}_gain"],
        changed(1),
        changed(0),
    )


def print_changed(console: Console, found: Followed) -> None:
    """Print how many prompts changed, and the first one that the last model follows and the earlier one did not."""
    first, last = f"M{found.first}", f"M{found.last}"
    counts = f"{len(found.better)} prompts; the other way round: {len(found.worse)}"
    more = " The first one:" if found.better else ""
    console.print(f"Instructions followed by {last} and not by {first}: {counts}.{more}", markup=False)
    if found.better:
        example = found.better[0]
        table = Table(show_lines=True)
        table.add_column("", no_wrap=True)
        table.add_column(plain_text(dialogue(example.prompt.conversation), 300))
        for name, answer in ((first, example.before), (last, example.now)):
            table.add_row(name, plain_text(answer.text, 240))
        console.print(table)


def _percent(measure: Measure) -> str:
    if measure.value is None:
        return "n/a"
    if measure.low is None or measure.high is None:
        return f"{100 * measure.value:.0f} % [n/a]"
    return f"{100 * measure.value:.0f} % [{100 * measure.low:.0f}, {100 * measure.high:.0f}]"
