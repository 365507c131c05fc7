"""Stages that label a model's answers to the EFT prompts (`data.own_answers.labels`); see `srlm.data.labels`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from srlm.config import Config, options_of
from srlm.data import labels as labelling
from srlm.data.config import CHECKERS, ENDPOINT_LABELS, PERSON
from srlm.engines.base import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.dependencies import generation_options
from srlm.engines.missing import refuse_without_any
from srlm.engines.session import GenerationStage, Generator
from srlm.errors import SeedError
from srlm.generation.own_answers import answers_to_label, as_prompt, own_prompts, recorded_answers
from srlm.io.components import imported
from srlm.io.files import files_by_name
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile, write_records
from srlm.judges.dependencies import judge_options
from srlm.judges.judging import Judging
from srlm.pipeline.artifacts import LABELS_TO_FILL, OWN_ANSWERS, OWN_LABELS
from srlm.pipeline.roles import ENDPOINT
from srlm.pipeline.stage import LocalStage, RunStage
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate, Judgement, SeedExample


class LabelAnswers(LocalStage):
    """Label the answers by checkers, from a file, or from a file that a person fills in."""

    name = "eft_labels"

    def writes(self) -> list[str]:
        return [OWN_LABELS.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "data.own_answers.labels", "judge.max_score")

    def made_from(self) -> dict[str, str]:
        workspace, labels = self.workspace, self.config.data.own_answers.labels
        if labels == PERSON:
            path = workspace.root / LABELS_TO_FILL
            file = {path.name: workspace.fingerprint(path)} if path.exists() else {}
        else:
            file = {} if labels == CHECKERS else files_by_name([labels])
        return recorded_answers(workspace) | file

    def caption(self) -> str:
        return f"Labels of the EFT answers: {self.config.data.own_answers.labels}"

    def run(self) -> dict[str, Any]:
        prompts, answers = own_prompts(self.workspace), answers_to_label(self.workspace)
        candidates = [candidate for of_prompt in answers.values() for candidate in of_prompt]
        labels, max_score = self.config.data.own_answers.labels, self.config.judge.max_score
        if labels == CHECKERS:
            found = [
                labelling.label(one, labelling.checked(prompts[one.prompt_id], one.text, max_score))
                for one in candidates
            ]
        else:
            found = labelling.read_labels(self._file(prompts, candidates), prompts, candidates, max_score)
        write_records(self.outputs[0], found)
        return _counted(found)

    def _file(self, prompts: Mapping[str, SeedExample], candidates: Sequence[Candidate]) -> Path:
        """Return the file of labels, after a check that it exists; a person's file is written first.

        Raises
        ------
        SeedError
            If there is none yet. The message says how to write it.
        """
        labels, max_score = self.config.data.own_answers.labels, self.config.judge.max_score
        path = self.workspace.root / LABELS_TO_FILL if labels == PERSON else Path(labels).expanduser()
        if path.is_file():
            return path
        scores = f'a number from 0 to {max_score}, or "{labelling.SKIP}" to leave the answer out'
        if labels == PERSON:
            labelling.write_labels_to_fill(path, prompts, candidates)
            raise SeedError(
                f"{path} has the {len(candidates)} answers to label (data.own_answers.labels=person). Write {scores}, "
                "as `score` of each row. Then rerun the same command."
            )
        raise SeedError(
            f"data.own_answers.labels={labels}: no such file. The answers to label are in "
            f"{OWN_ANSWERS.path(self.workspace, 1)}. Write a row for each of these {len(candidates)} answers, with its "
            f"`id`, or the texts `prompt` and `answer`, and {scores}, as `score`. Then rerun the same command."
        )


class CallLabeller(LabelAnswers):
    """Label the answers by a function outside the package (`data.own_answers.labels=module:function`)."""

    resumable = True

    def made_from(self) -> dict[str, str]:
        return recorded_answers(self.workspace)

    def run(self) -> dict[str, Any]:
        prompts, name = own_prompts(self.workspace), self.config.data.own_answers.labels
        function = imported("data.own_answers.labels", name)
        store = RecordFile(self.outputs[0], Judgement)
        for prompt, candidates in answers_to_label(self.workspace).items():
            known = (labelling.label(candidate, None).id in store.records for candidate in candidates)
            if not all(known):
                row = as_prompt(prompts[prompt])
                store.append(*labelling.called(function, name, row, candidates, self.config.judge.max_score))
        return _counted(store.finish())


class JudgeAnswers(GenerationStage):
    """Label the answers by a server, with the run's judge and its template (`data.own_answers.labels=endpoint`)."""

    name = "eft_labels"

    def writes(self) -> list[str]:
        return [OWN_LABELS.file]

    def depends_on(self) -> dict[str, Any]:
        options = options_of(self.config, "data.own_answers.labels", "judge.count", "seed")
        return options | generation_options(self.config, ENDPOINT) | judge_options(self.config)

    def made_from(self) -> dict[str, str]:
        return recorded_answers(self.workspace)

    def generator(self) -> Generator:
        return Generator(ENDPOINT)

    def caption(self) -> str:
        return "Labels of the EFT answers: by the server"

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        if self.complete():
            return
        prompts, answers = own_prompts(self.workspace), answers_to_label(self.workspace)
        self.begin()
        written = done = 0

        def on_progress(new: int, tokens: int) -> None:
            nonlocal written, done
            written, done = written + tokens, done + new
            bars.update("EFT labels", done=done, tokens=tokens)

        before = replace(engine.usage)
        judge = Judging(engine, self.config, self, self.config.judge.count, on_progress)
        bars.add("EFT labels", sum(judge.pieces(len(candidates)) for candidates in answers.values()))
        await gather_or_cancel(
            judge.prompt(prompt, prompts[prompt].conversation, candidates) for prompt, candidates in answers.items()
        )
        rows = judge.finish()
        missing = judge.count_missing("EFT answers to label", {row.id: row.source for row in prompts.values()})
        refuse_without_any("EFT answer has a label", sum(row.score is not None for row in rows), missing)
        self.done({}, _counted(rows) | missing, written, engine.usage.since(before))


def label_stage(workspace: Workspace, config: Config) -> RunStage:
    """Return the stage that labels the answers, by `data.own_answers.labels`."""
    labels = config.data.own_answers.labels
    kind: type[RunStage] = LabelAnswers
    if labels == ENDPOINT_LABELS:
        kind = JudgeAnswers
    elif labelling.is_function(labels):
        kind = CallLabeller
    return kind(workspace, config, 1)


def _counted(labels: Sequence[Judgement]) -> dict[str, Any]:
    problems = Counter(row.problem.split(":")[0] for row in labels if row.score is None)
    return {"labels": len(labels), "valid": len(labels) - problems.total(), "problems": dict(problems.most_common())}
