"""The runner: executes a recipe's steps, skips what is complete, and resumes what was interrupted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from srlm.config import Config
from srlm.engines.session import Session
from srlm.io.progress import say
from srlm.pipeline.preload import GENERATION, TRAINING, preloaded_workers
from srlm.pipeline.stage import RunStage, report_differences
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import Workspace
from srlm.tracking.base import Tracker
from srlm.tracking.live import logged_while_running


@dataclass(frozen=True)
class Action:
    """A step without outputs, such as a check; it is repeated whenever the run passes it."""

    run: Callable[[], None]


Step = RunStage | Session | Action


class Recipe(ABC):
    """A method as a sequence of steps. One from outside the package is named "module:Class" (`recipe`).

    `steps` constructs the steps lazily and reads no records: what depends on earlier outputs is asked of the stage
    when its turn comes (`RunStage.wanted`).

    Attributes
    ----------
    own_data : frozenset of str
        Options of own prompts, judgements, pairs and EFT answers that the recipe uses. Others are refused.
    needs_ift : bool
        Whether the recipe needs IFT data even if M1 is not trained on them.
    """

    own_data: ClassVar[frozenset[str]] = frozenset()
    needs_ift: ClassVar[bool] = False

    @abstractmethod
    def steps(self, workspace: Workspace, config: Config, last: int) -> Iterator[Step]:
        """Yield the steps that bring a run to M_last, in order."""


class Runner:
    """One run of a recipe, under the lock of its folder.

    Parameters
    ----------
    recipe : Recipe
    workspace : Workspace
    config : Config
    tracker : Tracker
        Receives every stage that has finished.
    """

    def __init__(self, recipe: Recipe, workspace: Workspace, config: Config, tracker: Tracker):
        self.recipe, self.workspace, self.config, self.tracker = recipe, workspace, config, tracker

    def stages(self) -> list[RunStage]:
        """Return every stage up to the last iteration that is asked for or exists already, in order."""
        existing = [int(path.name.split("_")[1]) for path in self.workspace.root.glob("iteration_*")]
        return stages_of(self.recipe, self.workspace, self.config, max([self.config.iteration, *existing]))

    def refuse_changes(self) -> None:
        """Check every existing stage before anything is touched; report harmless differences.

        Raises
        ------
        RunFolderError
            As `srlm.pipeline.stage.check_stages`.
        """
        report_differences(self.stages())

    def run(self) -> None:
        """Bring the run to M_iteration, making whatever is missing."""
        for stage in self.stages():
            if stage.path.exists():  # perhaps not tracked yet, by a run that was killed or had no tracker
                self.tracker.stage(stage)
        with preloaded_workers(*GENERATION, *TRAINING):
            for step in self.recipe.steps(self.workspace, self.config, self.config.iteration):
                self.run_step(step)

    def run_step(self, step: Step) -> None:
        """Run one step, except what of it is complete or not needed."""
        if isinstance(step, Session):
            self._run_session(step)
        elif isinstance(step, RunStage):
            self._run_stage(step)
        else:
            step.run()

    def _run_stage(self, stage: RunStage) -> None:
        if not stage.wanted() or stage.complete():
            return
        if caption := stage.caption():
            say(caption)
        stage.begin(in_pieces=stage.resumable)
        with logged_while_running(self.tracker, [stage]):
            counts = stage.run()
        stage.finish(counts)
        self.tracker.stage(stage)

    def _run_session(self, session: Session) -> None:
        # Every stage is asked, so that one with changed options is refused before an engine starts.
        missing = [stage for stage in session.stages() if stage.wanted() and not stage.complete()]
        if not missing:
            return
        say(session.caption)
        target = f"srlm.recipes:session_worker:{session.name}"
        with logged_while_running(self.tracker, missing):
            run_worker(target, self.workspace, session.t, name=session.name)
        for stage in missing:
            self.tracker.stage(stage)


def stages_of(recipe: Recipe, workspace: Workspace, config: Config, last: int) -> list[RunStage]:
    """Return the stages of a recipe's steps and sessions up to M_last, in order, each once."""
    found: dict[str, RunStage] = {}
    for step in recipe.steps(workspace, config, last):
        for stage in step.stages() if isinstance(step, Session) else [step] if isinstance(step, RunStage) else []:
            found.setdefault(str(stage), stage)
    return list(found.values())
