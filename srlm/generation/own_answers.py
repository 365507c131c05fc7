"""Stages that make EFT of a model's own answers (`data.own_answers`): answers, labels, and ranked prompts.

A judge reads the answers of the run's models, so it learns to judge such answers, and not written ones. The prompts
were split before: the held-out answers, on which judges are measured, are a model's answers to other prompts.

Answers of a prompt are ranked by their labels. A prompt whose answers all have the same label has no order. It is kept
for training, because judges that learn scores learn from it, and left out of the held-out part.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from srlm.config import Config, options_of
from srlm.data.checkers import follows
from srlm.data.config import ENDPOINT_LABELS
from srlm.engines.base import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.dependencies import chat_template, generation_options, model_input
from srlm.engines.missing import RAISE, TOO_LONG, missing_counts, named, problem_of, refuse_without_any, report_missing
from srlm.engines.session import GenerationStage, Generator
from srlm.errors import NoAnswerError, SeedError
from srlm.evaluation.behaviours import WORDS
from srlm.generation.candidates import sample_candidates
from srlm.generation.config import CandidatesConfig
from srlm.ids import candidate_id
from srlm.io.progress import Bars, say
from srlm.io.record_file import RecordFile, write_records
from srlm.judges.parsing import strip_verdict
from srlm.pipeline.artifacts import EFT, EFT_HELD_OUT, OWN_ANSWERS, OWN_HELD_OUT_PROMPTS, OWN_LABELS, OWN_PROMPTS
from srlm.pipeline.roles import SFT_BASELINE, ModelRef, resolve_role
from srlm.pipeline.stage import LocalStage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.preferences.scores import mean_score
from srlm.types import Candidate, Judgement, Prompt, RankedAnswer, RankedPrompt, SeedExample


def own_prompts(workspace: Workspace) -> dict[str, SeedExample]:
    """Return id -> prompt that the model answers: those for training, then the held-out ones."""
    return {row.id: row for artifact in (OWN_PROMPTS, OWN_HELD_OUT_PROMPTS) for row in artifact.read(workspace)}


def answers_to_label(workspace: Workspace) -> dict[str, list[Candidate]]:
    """Return prompt id -> its answers that are labelled: without empty ones, and each text once."""
    found: dict[str, dict[str, Candidate]] = defaultdict(dict)
    for candidate in OWN_ANSWERS.read(workspace, 1):
        if candidate.text:
            found[candidate.prompt_id].setdefault(candidate.text, candidate)
    return {prompt: list(of_prompt.values()) for prompt, of_prompt in found.items()}


def as_prompt(row: SeedExample) -> Prompt:
    """Return a row as a prompt to answer, with its constraints and its reference answer."""
    return Prompt(
        row.id, row.prompt, source=row.source or row.id, type=row.type, constraints=row.constraints,
        reference=row.response, history=row.history,
    )  # fmt: skip


def recorded_prompts(workspace: Workspace) -> dict[str, str]:
    """Return the recorded hashes of the prompts, as inputs."""
    return recorded(workspace, *(artifact.path(workspace) for artifact in (OWN_PROMPTS, OWN_HELD_OUT_PROMPTS)))


def recorded_answers(workspace: Workspace) -> dict[str, str]:
    """Return the recorded hashes of the prompts and of the answers, as inputs."""
    return recorded_prompts(workspace) | recorded(workspace, OWN_ANSWERS.path(workspace, 1))


class AnswerOwnPrompts(GenerationStage):
    """Sample answers to the EFT prompts, for training and held out, from `data.own_answers.model`."""

    name = "eft_answers"

    def writes(self) -> list[str]:
        return [OWN_ANSWERS.file]

    def depends_on(self) -> dict[str, Any]:
        names = ("model", "count", "temperature", "top_p", "max_new_tokens")
        options = options_of(self.config, *(f"data.own_answers.{name}" for name in names), "seed")
        return options | generation_options(self.config, self.generator().model)

    def made_from(self) -> dict[str, str]:
        workspace, model = self.workspace, self.generator().model
        return recorded_prompts(workspace) | model_input(workspace, model) | chat_template(self.config, model)

    def generator(self) -> Generator:
        return Generator(answering_model(self.config))

    def caption(self) -> str:
        return f"{self.generator().model} answers the EFT prompts"

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        if self.complete():
            return
        own, prompts = self.config.data.own_answers, own_prompts(self.workspace)
        sampling = CandidatesConfig(
            count=own.count, temperature=own.temperature, top_p=own.top_p, max_new_tokens=own.max_new_tokens
        )
        self.begin()
        store = RecordFile(self.outputs[0], Candidate)
        bars.add("EFT answers", len(prompts) * own.count, len(store.records))
        unanswered: dict[str, str] = {}

        async def answer(row: SeedExample) -> None:
            if all(candidate_id(row.id, n) in store.records for n in range(own.count)):
                return
            try:
                new = await sample_candidates(cast(Engine, engine), sampling, self.config.seed, as_prompt(row))
            except NoAnswerError as error:
                unanswered[named(row.id, row.source)] = problem_of(error, TOO_LONG)
                return
            store.append(*new)
            bars.update("EFT answers", done=len(store.records), tokens=sum(one.tokens for one in new))

        await gather_or_cancel(answer(row) for row in prompts.values())
        rows = store.finish()
        bars.update("EFT answers", total=len(rows))
        counts = {"prompts": len(prompts), "answers": len(rows), "truncated": sum(one.truncated for one in rows)}
        report_missing("EFT prompts", unanswered, f"{RAISE}; or lower data.own_answers.max_new_tokens")
        missing = missing_counts(unanswered)
        refuse_without_any("EFT prompt could be answered", len(rows), missing)
        self.done({}, counts | missing, sum(one.tokens for one in rows))


def answering_model(config: Config) -> ModelRef:
    """Return the model that answers the EFT prompts (`data.own_answers.model`)."""
    own = config.data.own_answers
    return SFT_BASELINE if own.by_baseline else resolve_role(own.model, 0)


class RankAnswers(LocalStage):
    """Make EFT and held-out EFT of the labelled answers, and count the labels."""

    name, place = "own_answers", "data"

    def writes(self) -> list[str]:
        return [EFT.file, EFT_HELD_OUT.file]

    def depends_on(self) -> dict[str, Any]:
        names = ["judge.min_valid"] if self._by_judge() else []
        names += [] if self.config.data.own_answers.keep_tied else ["data.own_answers.keep_tied"]
        return options_of(self.config, *names)

    def made_from(self) -> dict[str, str]:
        return recorded_answers(self.workspace) | recorded(self.workspace, OWN_LABELS.path(self.workspace, 1))

    def run(self) -> dict[str, Any]:
        """Rank the answers of each prompt.

        Raises
        ------
        SeedError
            If no prompt is left for training, or fewer than two held-out prompts have an order.
        """
        workspace = self.workspace
        answers, labels = answers_to_label(workspace), defaultdict[str, list[Judgement]](list)
        for one in OWN_LABELS.read(workspace, 1):
            labels[one.candidate_id].append(one)
        sampled = OWN_ANSWERS.read(workspace, 1)
        left_out = Counter[str]({"empty": sum(not one.text for one in sampled)})
        left_out["repeated"] = len(sampled) - left_out["empty"] - sum(map(len, answers.values()))
        found: dict[str, RankedPrompt] = {}
        prompts = own_prompts(workspace)
        for row in prompts.values():
            labelled = [self._answer(answer, labels[answer.id]) for answer in answers.get(row.id, ())]
            left_out["unlabelled"] += labelled.count(None)
            if kept := [answer for answer in labelled if answer]:
                found[row.id] = _ranked(row, kept)
        labelled_train = [found[row.id] for row in OWN_PROMPTS.read(workspace) if row.id in found]
        keep_tied = self.config.data.own_answers.keep_tied
        train = [prompt for prompt in labelled_train if keep_tied or prompt.is_ordered]
        held_out = [found[row.id] for row in OWN_HELD_OUT_PROMPTS.read(workspace) if row.id in found]
        ordered = [prompt for prompt in held_out if prompt.is_ordered]
        counts: dict[str, Any] = {
            "prompts": len(train),
            "held_out_prompts": len(ordered),
            "answers": sum(len(prompt.answers) for prompt in found.values()),
            "labels": _histogram(found.values()),
            "prompts_with_different_labels": sum(prompt.is_ordered for prompt in found.values()),
            "prompts_labelled": len(found),
            "prompts_unlabelled": len(prompts) - len(found),
            "prompts_with_one_label": len(labelled_train) - len(train),
            "held_out_prompts_with_one_label": len(held_out) - len(ordered),
            "left_out": {reason: count for reason, count in left_out.items() if count},
            "constraints": _followed(prompts, found),
        }
        for line in report(counts):
            say(f"  {line}")
        if not train or len(ordered) < 2:
            raise SeedError(
                f"The labelled answers give {len(train)} EFT prompts for training and {len(ordered)} held-out prompts "
                f"whose answers have different labels (of {len(prompts)} prompts). At least 1 and 2 are needed: add "
                "prompts to data.eft, raise data.own_answers.count or temperature, or change data.eft_held_out, in a "
                "new run."
            )
        write_records(self.outputs[0], train)
        write_records(self.outputs[1], ordered)
        return counts

    def _by_judge(self) -> bool:
        return self.config.data.own_answers.labels == ENDPOINT_LABELS

    def _answer(self, candidate: Candidate, labels: Sequence[Judgement]) -> RankedAnswer | None:
        """Return an answer with its score, and the judge's rationale if it has one; None without a label.

        The score of a judge is the mean of its valid judgements, rounded to a whole score.
        """
        if not self._by_judge():
            score = mean_score(labels, 1)
            return None if score is None else RankedAnswer(candidate.text, 0, score)
        mean = mean_score(labels, self.config.judge.min_valid)
        if mean is None:
            return None
        score = float(math.floor(mean + 0.5))
        rationales = (strip_verdict(row.text) for row in labels if row.whole_score == score)
        return RankedAnswer(candidate.text, 0, score, next(filter(None, rationales), None))


def _ranked(row: SeedExample, answers: Sequence[RankedAnswer]) -> RankedPrompt:
    """Return a prompt with its answers from the highest to the lowest score; answers with the same score are tied."""
    scores = sorted({answer.score or 0.0 for answer in answers}, reverse=True)
    ranked = sorted((replace(one, rank=scores.index(one.score or 0.0)) for one in answers), key=lambda one: one.rank)
    return RankedPrompt(row.id, row.prompt, tuple(ranked), row.type, row.language, row.source, row.history)


def _whole(score: float | None) -> int:
    return math.floor((score or 0.0) + 0.5)


def _histogram(prompts: Iterable[RankedPrompt]) -> dict[str, int]:
    """Return score -> number of answers with this label, rounded."""
    counts = Counter(_whole(answer.score) for prompt in prompts for answer in prompt.answers)
    return {str(score): counts[score] for score in sorted(counts)}


def _followed(prompts: Mapping[str, SeedExample], ranked: Mapping[str, RankedPrompt]) -> dict[str, dict[str, int]]:
    """Return kind of constraint -> how many labelled answers to prompts with it there are, and how many follow it."""
    answers, followed = Counter[str](), Counter[str]()
    for id, prompt in ranked.items():
        for constraint in prompts[id].constraints:
            answers[constraint.id] += len(prompt.answers)
            followed[constraint.id] += sum(
                follows(constraint, answer.text, published=False) for answer in prompt.answers
            )
    return {name: {"answers": answers[name], "followed": followed[name]} for name in sorted(answers)}


def report(counts: Mapping[str, Any]) -> list[str]:
    """Return lines about the labels: answers by label, prompts with an order, answers by kind of constraint."""
    labels = ", ".join(f"{score}: {n}" for score, n in counts["labels"].items()) or "none"
    prompts, ordered = counts["prompts_labelled"], counts["prompts_with_different_labels"]
    answers = f"Own EFT answers (label: answers): {labels}; {counts['answers']} answers to {prompts} prompts"
    left_out = ", ".join(f"{n} {reason}" for reason, n in counts["left_out"].items())
    lines = [answers + (f"; left out: {left_out}" if left_out else "")]
    if prompts:
        line = f"Own EFT answers: {100 * ordered / prompts:.0f} % of the prompts have answers with different labels"
        tied = {"training": counts.get("prompts_with_one_label"), "held out": counts["held_out_prompts_with_one_label"]}
        without = ", ".join(f"{n} {part}" for part, n in tied.items() if n)
        lines.append(line + (f"; left out: prompts with one label ({without})" if without else ""))
    if counts["constraints"]:
        kinds = (f"{WORDS.get(id, id)} {of['followed']} of {of['answers']}" for id, of in counts["constraints"].items())
        lines.append(f"Own EFT answers that follow a constraint: {', '.join(kinds)}")
    return lines
