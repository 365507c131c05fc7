"""Own judgements and own pairs instead of those of the run's models (`judgements.path`, `pairs.path`).

The rows of a file are shuffled with the run's seed, and iteration t takes the next ones after those of iteration t-1:
`judgements.count` or `pairs.count` rows, or all with 0. Rows whose prompt is near an evaluation or held-out prompt are
left out. Of another run, iteration t takes the records of its iteration t as they are. With `pairs.path=eft`, the rows
are the run's own EFT prompts: DPO on the labels that the judge learns from, without a judge.
"""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from srlm.config import Config, options_of
from srlm.data.config import ROW_OPTIONS, RowsConfig, source_of
from srlm.data.readers import (
    Labelled,
    Paired,
    Scored,
    is_labelled,
    pairs_of_ranked,
    read_judged,
    read_labelled,
    read_pairs,
)
from srlm.errors import SeedError
from srlm.evaluation.feedback_checks import feedback_checks
from srlm.generation.pool import NEAR_EVALUATION, HeldOut, held_out_file, own_files
from srlm.ids import candidate_id, judgement_id, prompt_id
from srlm.io.record_file import write_records
from srlm.pipeline.artifacts import (
    CANDIDATES,
    EFT,
    EVALUATION_PROMPTS,
    FEEDBACK,
    IFEVAL_PROMPTS,
    JUDGEMENT_PAIRS,
    JUDGEMENTS,
    LABELLED,
    PAIRS,
    PROMPTS,
    UNPAIRED,
    Artifact,
)
from srlm.pipeline.run_reader import finished_iterations, finished_output, manifest, run_at
from srlm.pipeline.stage import LocalStage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate, Judgement, LabelledAnswer, PreferencePair

R = TypeVar("R", Scored, Paired, Labelled)
LEFT_OUT = "left_out"  # count of the stages: reason -> number of rows of the own data
OWN_EFT = "eft"  # the value of pairs.path for the EFT prompts of the run


class OwnStage(LocalStage, ABC):
    """A stage that takes the records of iteration t from own data.

    Attributes
    ----------
    made : tuple of Artifact
        The files that the stage writes.
    """

    made: tuple[Artifact[Any], ...]

    @property
    def rows_config(self) -> RowsConfig:
        """Return the options of the own data: those of the group that has the stage's name."""
        rows: RowsConfig = getattr(self.config, self.name)
        return rows

    def writes(self) -> list[str]:
        return [artifact.file for artifact in self.made]

    def depends_on(self) -> dict[str, Any]:
        names = (*ROW_OPTIONS, "count")
        return options_of(self.config, *(f"{self.name}.{name}" for name in names), "data.near_duplicate", "seed")

    def made_from(self) -> dict[str, str]:
        files = (artifact.file for artifact in self.made)
        known = (EVALUATION_PROMPTS, held_out_file(self.workspace), IFEVAL_PROMPTS)
        held_out = (one.path(self.workspace) for one in known)
        return self.rows_files(*files) | recorded(self.workspace, *held_out)

    def rows_files(self, *files: str) -> dict[str, str]:
        """Return the hashes of the own data, as inputs; `files` are those that another run has."""
        return own_files(self.rows_config, self.name, *files)

    def caption(self) -> str:
        return f"{self.name.capitalize()} for M{self.t}: {self.rows_config.path}"

    def run(self) -> dict[str, Any]:
        run = run_at(self.rows_config.path)
        return self.copied(run) if run else self.read()

    @abstractmethod
    def read(self) -> dict[str, Any]:
        """Write the records of this iteration's rows, and return the counts."""

    def copied(self, run: Workspace) -> dict[str, Any]:
        """Copy the records of another run's iteration t, and return the counts that it stored.

        Raises
        ------
        SeedError
            If it has none.
        """
        if self.t not in (known := finished_iterations(run, self.name)):
            raise SeedError(
                f"{self.name}.path={self.rows_config.path} has no {self.name} for M{self.t}; it has some for "
                f"{', '.join(f'M{t}' for t in known) or 'no model'}. Continue that run, or lower iteration."
            )
        finished_output(run, self.t, self.name, self.made[-1].file)
        for artifact in self.made:
            source, target = artifact.path(run, self.t), artifact.path(self.workspace, self.t)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                shutil.copyfile(source, target)
            else:
                write_records(target, ())
        return manifest(run, self.t, self.name).counts

    def slice(self, rows: Sequence[R]) -> tuple[list[R], int]:
        """Return the rows of this iteration, with ids of its prompts, and the number of all rows near evaluation.

        Raises
        ------
        SeedError
            If there are too few rows for all iterations.
        """
        config, last = self.config, max(self.config.iteration, self.t)
        held_out = HeldOut(self.workspace, (row.prompt.conversation for row in rows))
        kept = [row for row in rows if not held_out.near(row.prompt.conversation, config.data.near_duplicate)]
        random.Random(f"{config.seed}/{self.name}").shuffle(kept)
        count = getattr(self.rows_config, "count") or len(kept)  # noqa: B009  (both groups have it)
        if not kept or len(kept) < count * (last - 1):
            near = f", {len(rows) - len(kept)} of {len(rows)} are {NEAR_EVALUATION}" if len(kept) < len(rows) else ""
            raise SeedError(
                f"{self.name}.path={self.rows_config.path} has {len(kept)} usable rows{near}, and iteration={last} "
                f"needs {max(count, 1) * (last - 1)}: {self.name}.count={count} for each of M2 to M{last}. Add rows, "
                f"or lower {self.name}.count or iteration."
            )
        start = (self.t - 2) * count
        own = [
            replace(row, prompt=replace(row.prompt, id=prompt_id(self.t, n)))
            for n, row in enumerate(kept[start : start + count])
        ]
        return own, len(rows) - len(kept)


class TakeJudgements(OwnStage):
    """Take candidates and their scores from `judgements.path`."""

    name = "judgements"
    made = (PROMPTS, CANDIDATES, JUDGEMENTS)

    def read(self) -> dict[str, Any]:
        workspace, t = self.workspace, self.t
        scored, excluded = read_judged(source_of(self.rows_config), self.config.seed)
        rows, near = self.slice(scored)
        candidates, judgements = list[Candidate](), list[Judgement]()
        for row in rows:
            for n, (text, score) in enumerate(row.candidates):
                candidate = Candidate(candidate_id(row.prompt.id, n), row.prompt.id, text, 0, False)
                problem = "" if score is not None else "no score"
                candidates.append(candidate)
                judgements.append(Judgement(judgement_id(candidate.id, 0), candidate.id, "", score, problem))
        write_records(PROMPTS.path(workspace, t), [row.prompt for row in rows])
        write_records(CANDIDATES.path(workspace, t), candidates)
        write_records(JUDGEMENTS.path(workspace, t), judgements)
        valid = sum(one.score is not None for one in judgements)
        found: dict[str, Any] = {"prompts": len(rows), "candidates": len(candidates), "judgements": len(judgements)}
        return found | {"valid": valid, LEFT_OUT: left_out(excluded, near)}


class TakePairs(OwnStage):
    """Take preference pairs, or labelled answers, from `pairs.path`; with `eft` from the labelled EFT answers."""

    name = "pairs"

    def __init__(self, workspace: Workspace, config: Config, t: int):
        run = run_at(config.pairs.path)
        others = (LABELLED, JUDGEMENT_PAIRS, JUDGEMENTS)
        further = [one for one in others if run and one.path(run, t).exists()]
        labelled = [LABELLED] if not run and LabelledAnswer in config.learns_from else []
        self.made = (PROMPTS, CANDIDATES, UNPAIRED, *further, *labelled, PAIRS)
        super().__init__(workspace, config, t)

    def rows_files(self, *files: str) -> dict[str, str]:
        if self.rows_config.path == OWN_EFT:
            return recorded(self.workspace, EFT.path(self.workspace))
        return super().rows_files(*files)

    def copied(self, run: Workspace) -> dict[str, Any]:
        return super().copied(run) | {"alarms": {}}  # they were checked there

    def read(self) -> dict[str, Any]:
        workspace, t, source = self.workspace, self.t, source_of(self.rows_config)
        for artifact in FEEDBACK:  # a file of other options would be trained on
            artifact.path(workspace, t).unlink(missing_ok=True)
        paired, answered, near, excluded = list[Paired](), list[Labelled](), 0, dict[str, int]()
        eft = source.path == OWN_EFT
        labelled = not eft and is_labelled(source)
        if labelled and LABELLED not in self.made:
            raise SeedError(
                f"pairs.path={source.path} has single answers with labels, from which method={self.config.method} does "
                "not learn. Use method=kto, or preference pairs."
            )
        if labelled:
            every, excluded = read_labelled(source, self.config.seed)
            answered, near = self.slice(every)
        elif eft:
            paired, near = self.slice(pairs_of_ranked(EFT.read(workspace)))
        else:
            rows, excluded = read_pairs(source, self.config.seed)
            paired, near = self.slice(rows)
        candidates, pairs, answers = list[Candidate](), list[PreferencePair](), list[LabelledAnswer]()
        for row in paired:
            ids = [candidate_id(row.prompt.id, n) for n in (0, 1)]
            pair = replace(row.pair, id=row.prompt.id, chosen_id=ids[0], rejected_id=ids[1])
            sides = ((ids[0], pair.chosen, pair.chosen_truncated), (ids[1], pair.rejected, pair.rejected_truncated))
            candidates += [Candidate(id, row.prompt.id, text, 0, truncated) for id, text, truncated in sides]
            pairs.append(pair)
        for one in answered:
            answer = replace(one.answer, id=candidate_id(one.prompt.id, 0))
            candidates.append(Candidate(answer.id, one.prompt.id, answer.completion, 0, answer.truncated))
            answers.append(answer)
        prompts = [*(row.prompt for row in paired), *(row.prompt for row in answered)]
        write_records(PROMPTS.path(workspace, t), prompts)
        write_records(CANDIDATES.path(workspace, t), candidates)
        write_records(PAIRS.path(workspace, t), pairs)
        write_records(UNPAIRED.path(workspace, t), ())
        counts: dict[str, Any] = {"prompts": len(prompts), "pairs": len(pairs), LEFT_OUT: left_out(excluded, near)}
        if LABELLED in self.made:
            write_records(LABELLED.path(workspace, t), answers)
        if answers:
            counts |= {"labelled_answers": len(answers), "desirable_answers": sum(one.label for one in answers)}
        resamples, seed = self.config.evaluation.bootstrap, f"{self.config.seed}/pairs"
        checks = feedback_checks(prompts, candidates, (), [*pairs, *answers], resamples, seed)
        counts |= checks.to_counts() if checks else {}
        return counts | {"dropped": {}, "length_penalty": 0.0, "truncated_candidates": 0, "alarms": {}}


def left_out(excluded: Mapping[str, int], near: int) -> dict[str, int]:
    """Return reason -> number of rows: those that the reader excluded, and those near evaluation prompts."""
    return {**excluded, **({NEAR_EVALUATION: near} if near else {})}


def take_feedback(workspace: Workspace, config: Config, last: int) -> Iterator[LocalStage]:
    """Yield the stages that take own judgements or pairs, for M_2 to M_last."""
    for t in range(2, last + 1):
        if config.judgements.path:
            yield TakeJudgements(workspace, config, t)
        elif config.pairs.path:
            yield TakePairs(workspace, config, t)
