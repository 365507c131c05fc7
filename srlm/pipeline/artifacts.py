"""The files of a run, with their names, record types and folders, which no other module spells.

data/                      the data of the run after reading and splitting
iteration_t/               what M_t-1 generated and M_t was trained on, and M_t itself
iteration_t/evaluation/    what M_t generated when it was evaluated
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from srlm.io.record_file import peek_records, read_records
from srlm.pipeline.workspace import BASE_MODEL, Workspace
from srlm.types import (
    Answer,
    Candidate,
    Comparison,
    JudgeExample,
    Judgement,
    LabelledAnswer,
    PreferencePair,
    Prompt,
    RankedPrompt,
    Rating,
    SeedExample,
    Unpaired,
)

R = TypeVar("R")


@dataclass(frozen=True)
class Artifact(Generic[R]):
    """A JSON Lines file of one kind of record."""

    file: str
    record: type[R]
    folder: Literal["data", "iteration", "evaluation"] = "iteration"

    def path(self, workspace: Workspace, t: int = 0) -> Path:
        """Return the file's path in iteration `t`; data files have no iteration."""
        if self.folder == "data":
            return workspace.data / self.file
        return (workspace.evaluation(t) if self.folder == "evaluation" else workspace.iteration(t)) / self.file

    def read(self, workspace: Workspace, t: int = 0) -> list[R]:
        """Return all records of a finished file."""
        return read_records(self.path(workspace, t), self.record)

    def peek(self, workspace: Workspace, t: int = 0) -> list[R]:
        """Return the records so far of a file that another process may be writing; [] if there is no file."""
        return peek_records(self.path(workspace, t), self.record)


IFT = Artifact("ift.jsonl", SeedExample, "data")
EFT = Artifact("eft.jsonl", RankedPrompt, "data")
EFT_HELD_OUT = Artifact("eft_held_out.jsonl", RankedPrompt, "data")
EVALUATION_PROMPTS = Artifact("evaluation.jsonl", SeedExample, "data")
POOL = Artifact("pool.jsonl", SeedExample, "data")  # prompts of `prompts.path`; a response is a reference answer
IFEVAL_PROMPTS = Artifact("ifeval.jsonl", SeedExample, "data")
SEEDS: tuple[Artifact[SeedExample] | Artifact[RankedPrompt], ...] = (IFT, EFT, EFT_HELD_OUT, EVALUATION_PROMPTS)

# With `data.own_answers`: the prompts that a model answers, its answers, and their labels, from which EFT is made.
OWN_PROMPTS = Artifact("eft_prompts.jsonl", SeedExample, "data")
OWN_HELD_OUT_PROMPTS = Artifact("eft_held_out_prompts.jsonl", SeedExample, "data")
OWN_ANSWERS = Artifact("eft_answers.jsonl", Candidate)
OWN_LABELS = Artifact("eft_labels.jsonl", Judgement)
LABELS_TO_FILL = "labels.jsonl"  # in the run's folder, so that it outlives the folders of stages

EFT_JUDGEMENTS = Artifact("eft_judgements.jsonl", Judgement)  # by the SFT baseline, for their rationales
EFT_EXAMPLES = Artifact("eft.jsonl", JudgeExample)

PROMPTS = Artifact("1_prompts.jsonl", Prompt)
CANDIDATES = Artifact("2_candidates.jsonl", Candidate)
JUDGEMENTS = Artifact("3_judgements.jsonl", Judgement)
COMPARISONS = Artifact("3_comparisons.jsonl", Comparison)  # of pairwise judges
RATINGS = Artifact("3_ratings.jsonl", Rating)  # of judges that score sequences
META_COMPARISONS = Artifact("3_meta_comparisons.jsonl", Comparison)
PAIRS = Artifact("4_pairs.jsonl", PreferencePair)
UNPAIRED = Artifact("4_unpaired.jsonl", Unpaired)
LABELLED = Artifact("4_labelled_answers.jsonl", LabelledAnswer)  # of pair policies that label single answers
JUDGEMENT_PAIRS = Artifact("4_judgement_pairs.jsonl", PreferencePair)
# What M_t can be trained on; files that a run's options do not need do not exist.
FEEDBACK: tuple[Artifact[PreferencePair] | Artifact[LabelledAnswer], ...] = (PAIRS, LABELLED, JUDGEMENT_PAIRS)

ANSWERS = Artifact("answers.jsonl", Answer, "evaluation")
IFEVAL_ANSWERS = Artifact("ifeval_answers.jsonl", Answer, "evaluation")
HELD_OUT_JUDGEMENTS = Artifact("held_out_judgements.jsonl", Judgement, "evaluation")

MODEL = "model"  # a folder of an iteration: the checkpoint of M_t
SFT_BASELINE = "sft_baseline"  # a folder of iteration 1: M0 after SFT on IFT alone
REWARD_MODEL = "reward_model"  # a folder of iteration 1
EVALUATION = "evaluation.json"  # of an iteration: the measures of M_t


def head_to_head(opponent: int) -> Artifact[Comparison]:
    """Return the comparisons of M_t's answers with M_opponent's."""
    return Artifact(f"head_to_head_M{opponent}.jsonl", Comparison, "evaluation")


def training_log(stage: str) -> str:
    """Return the training log of a stage, a file in an iteration's folder with one line per step."""
    return f"{stage}_log.jsonl"


def training_counts(stage: str) -> str:
    """Return the file in an iteration's folder with a training's counts, until its manifest is written."""
    return f"{stage}_counts.json"


def model_output(workspace: Workspace, t: int) -> Path:
    """Return the output of the stage that makes M_t: its checkpoint, or for M0 (also as M1) the file that names it."""
    return workspace.iteration(t) / (BASE_MODEL if t == 0 or workspace.is_base(t) else MODEL)
