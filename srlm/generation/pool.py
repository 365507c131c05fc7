"""A fixed pool of prompts, from which each iteration takes its own slice instead of new prompts (`prompts.path`).

The pool is read once and shuffled with the run's seed. Iteration t takes the next prompts after those of iteration t-1,
up to `prompts.count`, so slices are disjoint and stay the same when the run is continued to later iterations. Left out,
with the reason, are prompts near an evaluation or held-out prompt, by ROUGE-L (`prompts.max_overlap`) or by a shared
13-gram (`srlm.evaluation.contamination`), and prompts near an earlier one of the pool.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from srlm.config import Config, options_of
from srlm.data.config import ROW_OPTIONS, RowsConfig, SourceConfig, source_of
from srlm.data.readers import read_ift, read_pool
from srlm.data.splits import Overlap
from srlm.errors import SeedError
from srlm.evaluation.contamination import EvaluationText
from srlm.ids import prompt_id
from srlm.io.files import files_by_name
from srlm.io.record_file import write_records
from srlm.models.conversation import user_texts
from srlm.pipeline.artifacts import (
    EFT_HELD_OUT,
    EVALUATION_PROMPTS,
    IFEVAL_PROMPTS,
    OWN_HELD_OUT_PROMPTS,
    POOL,
    PROMPTS,
    Artifact,
)
from srlm.pipeline.run_reader import finished_iterations, run_at
from srlm.pipeline.stage import LocalStage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.types import Conversation, Prompt, RankedPrompt, SeedExample

NEAR_EVALUATION = "near an evaluation prompt"
NEAR_ADDED = "near another prompt of the pool"


def read_rows(config: Config) -> list[SeedExample]:
    """Return the rows of `prompts.path`, in its order; of another run, the accepted prompts of all its iterations.

    Raises
    ------
    SeedError
        If they cannot be read.
    """
    path = config.prompts.path
    run = run_at(path)
    if path == "builtin":  # the other built-in prompts are those of evaluation
        languages = config.data.builtin_languages
        return read_ift(SourceConfig(languages=languages), config.seed)
    if run is None:
        return read_pool(source_of(config.prompts), config.seed)
    prompts = [one for t in finished_iterations(run, "prompts") for one in PROMPTS.read(run, t)]
    rows = [
        SeedExample(one.id, one.text, one.reference, one.type, "", one.source or f"{run.root.name}:{one.id}",
                    one.constraints, one.history)
        for one in prompts
        if not one.rejected
    ]  # fmt: skip
    if not rows:
        raise SeedError(f"prompts.path={path}: this run has no prompts yet, because it has not begun M2.")
    return rows


def own_files(rows: RowsConfig, stage: str, *files: str) -> dict[str, str]:
    """Return the hashes of own data, as inputs: of a file or folder, or of the files of another run's stage."""
    if (run := run_at(rows.path)) is None:
        return files_by_name([rows.path])
    paths = [run.iteration(t) / file for t in finished_iterations(run, stage) for file in files]
    return {f"{rows.path}/{run.relative(path)}": run.fingerprint(path) for path in paths if path.exists()}


def held_out_file(workspace: Workspace) -> Artifact[RankedPrompt] | Artifact[SeedExample]:
    """Return the file with the held-out EFT prompts, whose answers a model may write later (`data.own_answers`)."""
    return OWN_HELD_OUT_PROMPTS if OWN_HELD_OUT_PROMPTS.path(workspace).exists() else EFT_HELD_OUT


class HeldOut:
    """The evaluation prompts and held-out EFT prompts of a run, near which nothing may be trained on.

    Parameters
    ----------
    workspace : Workspace
    prompts : iterable of Conversation
        All prompts that will be compared or added; what many of them share is not compared.
    """

    def __init__(self, workspace: Workspace, prompts: Iterable[Conversation]):
        evaluation = [row for one in (EVALUATION_PROMPTS, IFEVAL_PROMPTS) for row in one.peek(workspace)]
        known = [row.conversation for row in evaluation]
        known += [row.conversation for row in held_out_file(workspace).peek(workspace)]
        prompts = list(prompts)
        self._count, self._grams = len(known), EvaluationText(evaluation, prompts)
        last = (user_texts(prompt)[-1] for prompt in prompts)
        self._seen = Overlap([user_texts(prompt)[-1] for prompt in known], later=last)

    def add(self, prompt: Conversation) -> None:
        """Add a prompt that later ones must not repeat."""
        self._seen.add(user_texts(prompt)[-1])

    def near(self, prompt: Conversation, bound: float) -> str:
        """Return what a prompt repeats, of a conversation up to any turn: `NEAR_EVALUATION`, `NEAR_ADDED`, or "".

        Parameters
        ----------
        bound : float
            ROUGE-L F1 from which a text repeats another one. A shared 13-gram with an evaluation prompt counts, too.
        """
        if any(self._grams.found_in(prompt)):
            return NEAR_EVALUATION
        overlap, nearest = max((self._seen.most_similar(text) for text in user_texts(prompt)), key=lambda one: one[0])
        return "" if overlap < bound else NEAR_EVALUATION if nearest < self._count else NEAR_ADDED


class PreparePool(LocalStage):
    """Read the pool of prompts, and shuffle it."""

    name, place = "pool", "data"

    def writes(self) -> list[str]:
        return [POOL.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, *(f"prompts.{name}" for name in ROW_OPTIONS), "data.builtin_languages", "seed")

    def made_from(self) -> dict[str, str]:
        return own_files(self.config.prompts, "prompts", PROMPTS.file)

    def caption(self) -> str:
        return f"Prompts: {self.config.prompts.path}"

    def run(self) -> dict[str, Any]:
        rows = read_rows(self.config)
        random.Random(f"{self.config.seed}/pool").shuffle(rows)
        write_records(self.outputs[0], rows)
        checked, answered = sum(bool(row.constraints) for row in rows), sum(bool(row.response) for row in rows)
        if self.config.judge.model == "program" and not checked:
            raise SeedError(
                f"prompts.path={self.config.prompts.path} has no prompts with constraints, which judge.model=program "
                "checks. Add `instruction_id_list` and `kwargs`, or `final_answer`, to its rows (docs/data.md)."
            )
        return {"prompts": len(rows), "with_constraints": checked, "with_reference": answered}


class TakePrompts(LocalStage):
    """Take the prompts of iteration t from the pool."""

    name = "prompts"

    def writes(self) -> list[str]:
        return [PROMPTS.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "prompts.path", "prompts.count", "prompts.max_overlap")

    def made_from(self) -> dict[str, str]:
        workspace = self.workspace
        data = [one.path(workspace) for one in (POOL, EVALUATION_PROMPTS, held_out_file(workspace), IFEVAL_PROMPTS)]
        return recorded(workspace, *data, *(PROMPTS.path(workspace, t) for t in range(2, self.t)))

    def run(self) -> dict[str, Any]:
        """Take the prompts, after a check that the pool has enough for all iterations.

        Raises
        ------
        SeedError
            If it has not.
        """
        workspace, options, last = self.workspace, self.config.prompts, max(self.config.iteration, self.t)
        rows = POOL.read(workspace)
        earlier = [prompt for t in range(2, self.t) for prompt in PROMPTS.read(workspace, t)]
        seen = HeldOut(workspace, (row.prompt for row in rows))
        for prompt in earlier:
            if not prompt.rejected:
                seen.add(prompt.conversation)
        taken, lost, accepted = list[Prompt](), Counter[str](), 0
        for row in rows[len(earlier) :]:
            reason = seen.near(row.conversation, options.max_overlap)
            if accepted < options.count:
                taken.append(_prompt(prompt_id(self.t, len(taken)), row, reason))
            if reason:
                lost[reason] += 1
            else:
                seen.add(row.conversation)
                accepted += 1
            if accepted == options.count * (last - self.t + 1):
                break
        else:
            lost.update(prompt.rejected for prompt in earlier)
            raise _too_small(self.config, last, len(rows), accepted + lost.pop("", 0), lost)
        write_records(self.outputs[0], taken)
        reasons = Counter(prompt.rejected for prompt in taken if prompt.rejected)
        return {"attempts": len(taken), "accepted": len(taken) - reasons.total(), "rejected": dict(reasons)}


def _prompt(id: str, row: SeedExample, reason: str) -> Prompt:
    return Prompt(
        id, row.prompt, rejected=reason, source=row.source or row.id, type=row.type, constraints=row.constraints,
        reference=row.response, history=row.history,
    )  # fmt: skip


def _too_small(config: Config, last: int, rows: int, accepted: int, lost: Counter[str]) -> SeedError:
    options = config.prompts
    reasons = "".join(f", {number} are {reason}" for reason, number in lost.items())
    return SeedError(
        f"prompts.path={options.path} has {accepted} usable prompts (of {rows}{reasons}), and iteration={last} needs "
        f"{(last - 1) * options.count}: prompts.count={options.count} for each of M2 to M{last}. Add prompts, or lower "
        "prompts.count or iteration."
    )


def take_prompts(workspace: Workspace, config: Config, last: int) -> Iterator[LocalStage]:
    """Yield the stages that read the pool and take each iteration's prompts, up to those for M_last."""
    yield PreparePool(workspace, config)
    for t in range(2, last + 1):
        yield TakePrompts(workspace, config, t)
