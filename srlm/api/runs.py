"""Read a finished run: its records as typed objects and as DataFrames."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srlm.config import Config
from srlm.errors import ArgumentError, RunFolderError
from srlm.evaluation.feedback_checks import FeedbackChecks
from srlm.evaluation.record import Evaluation, read_evaluation
from srlm.pipeline import artifacts, run_reader
from srlm.pipeline.artifacts import Artifact, R
from srlm.types import Answer, Candidate, Judgement, PreferencePair, Prompt, Unpaired

if TYPE_CHECKING:
    import pandas as pd

# Kind of record -> the stage that writes it and its file. The data of a run have no stage in an iteration.
RECORDS: dict[str, tuple[str, Artifact[Any]]] = {
    "ift": ("", artifacts.IFT),
    "eft": ("", artifacts.EFT),
    "eft_held_out": ("", artifacts.EFT_HELD_OUT),
    "evaluation_prompts": ("", artifacts.EVALUATION_PROMPTS),
    "eft_answers": ("eft_answers", artifacts.OWN_ANSWERS),
    "eft_labels": ("eft_labels", artifacts.OWN_LABELS),
    "prompts": ("prompts", artifacts.PROMPTS),
    "candidates": ("candidates", artifacts.CANDIDATES),
    "judgements": ("judgements", artifacts.JUDGEMENTS),
    "comparisons": ("judgements", artifacts.COMPARISONS),
    "ratings": ("judgements", artifacts.RATINGS),
    "pairs": ("pairs", artifacts.PAIRS),
    "unpaired": ("pairs", artifacts.UNPAIRED),
    "labelled_answers": ("pairs", artifacts.LABELLED),
    "answers": ("evaluation/answers", artifacts.ANSWERS),
    "held_out_judgements": ("evaluation/held_out_judgements", artifacts.HELD_OUT_JUDGEMENTS),
}


class Run:
    """A run's folder, to read. Iteration t contains what M_t-1 generated, M_t, and the measures of M_t.

    Every method raises RunFolderError if what it reads is not finished, or was changed since. The message names the
    iterations that are finished, and the command that computes the others.

    Parameters
    ----------
    folder : str or Path
        Such as "runs/default".

    Raises
    ------
    RunFolderError
        If there is no run.
    """

    def __init__(self, folder: str | Path):
        self._workspace = run_reader.open_run(folder)

    def __repr__(self) -> str:
        return f"Run({self.folder.name!r}, models {', '.join(f'M{t}' for t in self.iterations) or 'none'})"

    @property
    def folder(self) -> Path:
        """Return the absolute path of the run's folder."""
        return self._workspace.root

    @property
    def iterations(self) -> list[int]:
        """Return every t whose M_t is finished; 0 is the base model."""
        numbers = [int(path.name.removeprefix("iteration_")) for path in self.folder.glob("iteration_*")]
        made = [t for t in numbers if t and run_reader.model_manifest(self._workspace, t)]
        return sorted([*([0] if self._workspace.run().get("base_model") else []), *made])

    @cached_property
    def config(self) -> Config:
        """Return the options of the run's last command."""
        return self._workspace.config()

    def prompts(self, t: int) -> list[Prompt]:
        """Return the prompts that M_t-1 wrote; `rejected` says why one was not used."""
        return self.records("prompts", t)

    def candidates(self, t: int) -> list[Candidate]:
        """Return the answers that M_t-1 sampled."""
        return self.records("candidates", t)

    def judgements(self, t: int) -> list[Judgement]:
        """Return the judgements of M_t-1's answers; a missing score is None."""
        return self.records("judgements", t)

    def pairs(self, t: int) -> list[PreferencePair]:
        """Return the preference pairs that M_t was trained on."""
        return self.records("pairs", t)

    def unpaired(self, t: int) -> list[Unpaired]:
        """Return the prompts of iteration t that gave no pair, each with the reason."""
        return self.records("unpaired", t)

    def answers(self, t: int) -> list[Answer]:
        """Return M_t's answers to the evaluation prompts."""
        return self.records("answers", t)

    def evaluation(self, t: int) -> Evaluation:
        """Return the measures of M_t, with 95 % intervals; docs/metrics.md defines them."""
        return read_evaluation(self._finished(t, "evaluation", artifacts.EVALUATION))

    def feedback_checks(self, t: int) -> FeedbackChecks | None:
        """Return the judge's accuracy on M_t-1's candidates and the pairs that programs confirm, with 95 % intervals.

        None if the prompts have no constraints.
        """
        return FeedbackChecks.from_counts(run_reader.manifest(self._workspace, t, "pairs").counts)

    def model(self, t: int) -> Path:
        """Return the folder of M_t's checkpoint, which other functions take as `model`."""
        if t and not self._workspace.is_base(t):
            return self._finished(t, run_reader.model_stage(self._workspace, t), artifacts.MODEL)
        try:
            return self._workspace.model(0)
        except KeyError:
            raise RunFolderError(f"{self.folder} has no base model yet. Run its command first.") from None

    def training_log(self, t: int) -> list[dict[str, Any]]:
        """Return what TRL logged while M_t was trained, a row for each optimizer step; t >= 1."""
        stage = run_reader.model_stage(self._workspace, t)
        run_reader.manifest(self._workspace, t, stage)
        path = self._workspace.iteration(t) / artifacts.training_log(stage)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def records(self, kind: str, t: int = 0) -> list[Any]:
        """Return the records of any kind.

        Parameters
        ----------
        kind : str
            A key of `srlm.api.runs.RECORDS`: besides the methods' names "comparisons" and "ratings" (evidence of
            judges), "held_out_judgements", "eft_answers" and "eft_labels" (of `data.own_answers`, t = 1), and the data
            "ift", "eft", "eft_held_out" and "evaluation_prompts".
        t : int
            The iteration; the data have none.

        Raises
        ------
        ArgumentError
            If there is no such kind.
        """
        if kind not in RECORDS:
            raise ArgumentError(f"There are no records {kind!r}. Give one of {', '.join(RECORDS)}.")
        return self._read(*RECORDS[kind], t)

    def frame(self, kind: str, t: int = 0) -> pd.DataFrame:
        """Return records as a DataFrame, with a row for each record and a column for each field.

        Parameters
        ----------
        kind : str
            As for `records`; or "evaluation", with a row for each measure: its key in docs/metrics.md, value, low, high
            and n; or "training_log".
        """
        import pandas as pd

        if kind == "evaluation":
            measures = dict(self.evaluation(t).measures())
            return pd.DataFrame(list(measures.values()), index=pd.Index(measures, name="measure"))
        if kind == "training_log":
            return pd.DataFrame(self.training_log(t))
        rows = self.records(kind, t)
        return pd.DataFrame(rows, columns=[one.name for one in fields(RECORDS[kind][1].record)])

    def _read(self, stage: str, artifact: Artifact[R], t: int) -> list[R]:
        if stage:
            path = artifact.path(self._workspace, t)
            stage = run_reader.stage_with(self._workspace, t, stage, artifact.file)
            outputs = run_reader.manifest(self._workspace, t, stage).outputs
            if self._workspace.relative(path) not in outputs:
                raise RunFolderError(
                    f"{path} does not exist: the stage {stage} has no such records with this run's options."
                )
            self._finished(t, stage, str(path.relative_to(self._workspace.iteration(t))))
        return artifact.peek(self._workspace, t)

    def _finished(self, t: int, stage: str, file: str) -> Path:
        return run_reader.finished_output(self._workspace, t, stage, file)


def open_run(folder: str | Path) -> Run:
    """Open a run's folder to read it.

    Parameters
    ----------
    folder : str or Path
        Such as "runs/default".

    Raises
    ------
    RunFolderError
        If there is no run.

    Examples
    --------
    >>> run = srlm.open_run("runs/default")
    >>> accuracy = run.evaluation(2).judge["pairwise_accuracy"]  # a Measure: value, low, high, n
    >>> table = run.frame("judgements", 2)
    """
    return Run(folder)
