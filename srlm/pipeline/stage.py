"""The stages of a run, and the checks of their options, inputs and outputs against their manifests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

from srlm.config import Config
from srlm.errors import RunFolderError
from srlm.io.files import write_atomic
from srlm.io.progress import say
from srlm.pipeline.manifest import BEGUN, Manifest, finished_manifests
from srlm.pipeline.provenance import (
    OptionChanges,
    describe_changes,
    library_versions,
    option_changes,
    version_changes,
)
from srlm.pipeline.workspace import LINEAGE, Workspace


class Stage:
    """A stage of a run, which is complete, begun or untouched. Its manifest is written last.

    Parameters
    ----------
    workspace : Workspace
    folder : Path
        Usually the iteration's.
    name : str
        Such as "judgements".
    outputs : sequence of str
        Files or folders in `folder`.
    options : mapping
        Dotted name -> value, of the options that the outcome depends on.
    inputs : callable, optional
        Returns the current inputs, name -> hash, without those that do not exist. It is called at each check, because
        earlier stages may have finished since.
    libraries : iterable of str
        Packages whose version can change the outcome. Versions are recorded, and differences are reported.
    config : Config, optional
        All options, for those in the manifest that the stage no longer depends on; default: all defaults.
    unfinished : iterable of str
        Folders in `folder` from which the stage resumes, such as checkpoints.
    """

    def __init__(
        self,
        workspace: Workspace,
        folder: Path,
        name: str,
        outputs: Iterable[str],
        options: Mapping[str, Any],
        inputs: Callable[[], Mapping[str, str]] = dict,
        libraries: Iterable[str] = (),
        config: Config | None = None,
        unfinished: Iterable[str] = (),
    ):
        self.workspace, self.folder, self.name = workspace, folder, name
        self.outputs = [self.folder / output for output in outputs]
        self.options, self.inputs, self.libraries = dict(options), inputs, tuple(libraries)
        self.config = config or Config()
        self.unfinished = [self.folder / path for path in unfinished]
        self.path = self.folder / "manifests" / f"{name}.json"
        self._begun = self.folder / "manifests" / f"{name}{BEGUN}"
        # Outside the iteration's folder: if that is deleted, later stages are checked against what it contained.
        self._lineage = workspace.root / LINEAGE / f"{self}.json"
        self._start = time.monotonic()

    def __str__(self) -> str:
        return f"{self.workspace.relative(self.folder)}/{self.name}"

    def complete(self, inputs: Mapping[str, str] | None = None) -> bool:
        """Return whether the stage is complete, after a check of its options, inputs and outputs.

        Parameters
        ----------
        inputs : mapping, optional
            Hashes of inputs in addition to those that the stage declares.

        Raises
        ------
        RunFolderError
            If an option, an input or an output has changed since the stage ran or began.
        """
        record = self._record()
        if record is None:
            return False
        if changed := self._option_changes(record).changed:
            self.refuse_options(changed)
        self._refuse_changed_inputs(record, {**self.inputs(), **(inputs or {})})
        if not self.path.exists():
            return False
        for path, expected in record.outputs.items():
            if self.workspace.fingerprint(self.workspace.root / path) != expected:
                self._refuse(f"output {path} is missing or has changed", "restore it")
        return True

    def begin(self, in_pieces: bool = True, inputs: Mapping[str, str] | None = None) -> None:
        """Begin the stage.

        Parameters
        ----------
        in_pieces : bool
            Whether the stage writes records or checkpoints that it can resume from. Then their options and inputs are
            written first, so that a resumed stage cannot mix two settings.

        Raises
        ------
        RunFolderError
            If there are records or checkpoints of unknown options and inputs.
        """
        self._start = time.monotonic()
        if not in_pieces:
            return
        record = self._record()
        left = [path for path in self.outputs if path.is_file()] + [path for path in self.unfinished if path.exists()]
        if record is None and left:
            raise RunFolderError(
                f"{left[0]} exists, but no manifest says how it was made, so the stage {self} cannot be resumed. To "
                f"continue: delete it to recompute it, or restore the folder {self.path.parent}."
            )
        begun = Manifest(str(self), self.options, {**self.inputs(), **(inputs or {})}, {})
        begun.libraries = library_versions(self.libraries)
        if record is not None:
            begun.inputs |= record.inputs
            begun.libraries = _of_both(record.libraries, begun.libraries)
        note = {name: getattr(begun, name) for name in ("stage", "options", "inputs", "libraries", "version")}
        write_atomic(self._begun, json.dumps(note, indent=1, sort_keys=True))

    def done(
        self,
        inputs: Mapping[str, str],
        counts: Mapping[str, Any],
        tokens: int = 0,
        read: Mapping[str, int] | None = None,
    ) -> Manifest:
        """Write the manifest, which completes the stage.

        Parameters
        ----------
        inputs : mapping
            Hashes of inputs in addition to those that the stage declares. An input that was known when the stage began
            keeps its hash from then.
        """
        outputs = {self.workspace.relative(path): self.workspace.fingerprint(path) for path in self.outputs}
        manifest = Manifest(
            stage=str(self),
            options=self.options,
            inputs={**self.inputs(), **inputs},
            outputs=outputs,
            counts=dict(counts),
            seconds=round(time.monotonic() - self._start, 2),
            tokens=tokens,
            read=dict(read or {}),
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            libraries=library_versions(self.libraries),
        )
        if self._begun.exists():
            begun = Manifest.load(self._begun)
            manifest.inputs |= begun.inputs
            manifest.libraries = _of_both(begun.libraries, manifest.libraries)
        lineage = {name: getattr(manifest, name) for name in ("stage", "options", "inputs", "outputs")}
        write_atomic(self._lineage, json.dumps(lineage, indent=1, ensure_ascii=False))
        write_atomic(self.path, json.dumps(asdict(manifest), indent=1, ensure_ascii=False))
        self._begun.unlink(missing_ok=True)
        return manifest

    def manifest(self) -> Manifest:
        return Manifest.load(self.path)

    def fingerprints(self) -> dict[str, str]:
        """Return the recorded hashes of the outputs."""
        return self.manifest().outputs

    def differences(self) -> list[str]:
        """Return changes that are only reported: library versions, and options that no longer exist."""
        record = self._record()
        if record is None:
            return []
        removed = self._option_changes(record).removed
        found = [f"option {name}={value!r} no longer exists and is ignored" for name, value in removed.items()]
        versions = version_changes(record.libraries, library_versions(self.libraries))
        return [*found, *([f"library versions: {versions}"] if versions else [])]

    def refuse_deleted_sources(self, sources: Mapping[str, Stage]) -> None:
        """Raise an error if a deleted input would be recomputed with other options or inputs.

        Parameters
        ----------
        sources : mapping
            Output, as in manifests -> the stage that writes it.

        Raises
        ------
        RunFolderError
            With the input and the changes. Without changes the input is recomputed, and its content is compared then.
        """
        record = self._record()
        for name, expected in (record.inputs if record else {}).items():
            if name in sources and (change := sources[name]._change_since(name, expected, sources)):
                details, revert = change
                details = f" (it was deleted and would be recomputed with changes: {details})"
                self._refuse(f"input {name} has changed", revert, details)

    def _change_since(self, output: str, expected: str, sources: Mapping[str, Stage]) -> tuple[str, str] | None:
        """Return what has changed since this stage wrote `output`, and how to revert it.

        None if no change is known, or if the stage is complete, so that contents can be compared.
        """
        if self.path.exists() or not self._lineage.exists():
            return None
        then = Manifest.load(self._lineage)
        if then.outputs.get(output) != expected:
            return None
        if changed := self._option_changes(then).changed:
            return describe_changes(changed), "revert the option" + "s" * (len(changed) > 1)
        now = self.inputs()
        for name, was in then.inputs.items():
            if now.get(name, was) != was:
                return f"input {name} has changed", "restore it"
            if name in sources and (change := sources[name]._change_since(name, was, sources)):
                return change
        return None

    def _record(self) -> Manifest | None:
        """Return the manifest of the finished or begun stage; None if it is untouched."""
        path = next((path for path in (self.path, self._begun) if path.exists()), None)
        return Manifest.load(path) if path else None

    def _option_changes(self, record: Manifest) -> OptionChanges:
        return option_changes(record.options, self.options, self.config, self.workspace.saved_options)

    def changed_options(self) -> Mapping[str, tuple[Any, Any]]:
        """Return option -> (value when the stage ran or began, value now), of those that differ."""
        record = self._record()
        return self._option_changes(record).changed if record else {}

    def refuse_options(self, changed: Mapping[str, tuple[Any, Any]], to_delete: str = "") -> NoReturn:
        """Raise the RunFolderError about options that have changed since the stage ran or began.

        Parameters
        ----------
        changed : mapping
            As `changed_options` returns it; it may have options of other stages, too.
        to_delete : str
            What to delete to use the options of now; default: what depends on this stage.
        """
        what = "options have" if len(changed) > 1 else "an option has"
        revert = "revert the options" if len(changed) > 1 else "revert the option"
        self._refuse(f"{what} changed", revert, f": {describe_changes(changed)}", to_delete)

    def _refuse_changed_inputs(self, record: Manifest, now: Mapping[str, str]) -> None:
        for name, found in now.items():
            if record.inputs.get(name, found) != found:
                self._refuse(f"input {name} has changed", "restore it")

    def _refuse(self, what: str, revert: str, details: str = "", to_delete: str = "") -> NoReturn:
        since = "ran" if self.path.exists() else "began"
        raise RunFolderError(
            f"The stage {self} in {self.workspace.root} cannot be used: {what} since this stage {since}{details}. To "
            f"continue: {revert}, or start a new run with name=..., or delete {to_delete or self.to_delete()} to "
            "recompute it."
        )

    def to_delete(self) -> str:
        """Return what to delete to recompute this stage and those that depend on it."""
        if self.name == "evaluation":  # no stage depends on it
            return f"{self.path} and {self.outputs[0]}"
        if self.folder.name == "evaluation":
            return f"{self.folder} and the evaluation folders of later iterations"
        return f"{self.folder}{' and all later iteration_* folders' if self.later_depend_on_it() else ''}"

    def later_depend_on_it(self) -> bool:
        """Return whether the stages of later iterations depend on this one."""
        if self.name == "evaluation" or self.folder.name == "evaluation":
            return False
        return self.folder.name == "data" or "iteration_" in str(self)


class RunStage(Stage):
    """A stage of a run that is declared by its class: name, outputs, inputs, options and the work.

    Subclasses set `name` and define `writes`, `depends_on`, `made_from` and `run`.

    Parameters
    ----------
    workspace : Workspace
    config : Config
    t : int
        The iteration whose folder the stage writes to.
    """

    name: str
    place: Literal["data", "iteration", "evaluation"] = "iteration"
    resumable = True  # whether an interrupted stage continues from what it has written

    def __init__(self, workspace: Workspace, config: Config, t: int = 0):
        self.workspace, self.config, self.t = workspace, config, t
        folder = workspace.evaluation(t) if self.place == "evaluation" else workspace.iteration(t)
        folder = workspace.data if self.place == "data" else folder
        super().__init__(
            workspace, folder, self.name, self.writes(), self.depends_on(), self.made_from,
            self.depends_on_libraries(), config, self.resumes_from(),
        )  # fmt: skip

    def writes(self) -> Sequence[str]:
        """Return the names of the output files and folders."""
        raise NotImplementedError

    def depends_on(self) -> dict[str, Any]:
        """Return the options that the outcome depends on: dotted name -> value."""
        return {}

    def made_from(self) -> dict[str, str]:
        """Return the inputs that exist now: name -> hash."""
        return {}

    def depends_on_libraries(self) -> Sequence[str]:
        """Return the packages whose version can change the outcome."""
        return ()

    def resumes_from(self) -> Sequence[str]:
        """Return the folders that an interrupted stage resumes from, such as checkpoints."""
        return ()

    def wanted(self) -> bool:
        """Return whether the run needs the stage, where that depends on earlier outputs."""
        return True

    def caption(self) -> str:
        """Return what the stage does, for the terminal; "" = the stage is not announced."""
        return ""

    def run(self) -> dict[str, Any]:
        """Do the work, write the outputs, and return the counts for the manifest."""
        raise NotImplementedError

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Write the manifest; `counts["tokens"]`, if there, is the number of tokens trained on."""
        self.done({}, counts, int(counts.get("tokens", 0)))


class LocalStage(RunStage):
    """A stage that is computed at once, in the process of the command, without a model."""

    resumable = False


def outputs_of(*stages: Stage) -> dict[str, str]:
    """Return the recorded hashes of the outputs of these stages, without those that are not complete."""
    return {path: hash_ for stage in stages if stage.path.exists() for path, hash_ in stage.fingerprints().items()}


def recorded(workspace: Workspace, *paths: Path) -> dict[str, str]:
    """Return the hashes that finished stages recorded for these outputs; other paths are left out.

    Returns
    -------
    dict
        Path in the run -> hash, as in manifests.
    """
    found = {}
    for path in paths:
        name = workspace.relative(path)
        for manifest in finished_manifests(path.parent, below=False):
            outputs = _outputs(manifest, manifest.stat().st_mtime_ns)
            if name in outputs:
                found[name] = outputs[name]
    return found


@lru_cache(maxsize=4096)
def _outputs(path: Path, modified: int) -> dict[str, str]:
    """Return the outputs in a manifest; `modified` is part of the cache's key."""
    return Manifest.load(path).outputs


def report_differences(stages: Iterable[Stage]) -> None:
    """Check all stages before anything is changed, and report what differs without being refused.

    Raises
    ------
    RunFolderError
        As `check_stages` does.
    """
    for difference in check_stages(stages):
        say(f"  WARNING: {difference}")


def check_stages(stages: Iterable[Stage]) -> list[str]:
    """Check all stages that have begun.

    Returns
    -------
    list of str
        The differences to report, each with its stages.

    Raises
    ------
    RunFolderError
        With the first stage that has a changed option, input or output, and how to continue. If it is an option, with
        all options that have changed in any stage.
    """
    found: dict[str, list[str]] = {}
    stages = list(stages)
    sources = {stage.workspace.relative(path): stage for stage in stages for path in stage.outputs}
    for stage in stages:
        if stage.changed_options():
            _refuse_changed_options(stages)
        stage.complete()
        stage.refuse_deleted_sources(sources)
        for difference in stage.differences():
            found.setdefault(difference, []).append(str(stage))
    return [f"{difference} (stages: {', '.join(names)})" for difference, names in found.items()]


def _refuse_changed_options(stages: Iterable[Stage]) -> NoReturn:
    """Raise one RunFolderError about the changed options of all stages, of which one has some."""
    affected = {stage: changed for stage in stages if (changed := stage.changed_options())}
    options: dict[str, tuple[Any, Any]] = {}
    for changed in affected.values():
        options = {**changed, **options}  # of an option that changed more than once, the first stage's value
    to_delete: list[str] = []
    for stage in affected:
        to_delete.append(stage.to_delete())
        if stage.later_depend_on_it():  # then the outputs of the stages that follow are deleted with it
            break
    next(iter(affected)).refuse_options(dict(sorted(options.items())), ", and ".join(dict.fromkeys(to_delete)))


def _of_both(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the library versions of a resumed stage, "2.12.0, 2.13.0" if they differ."""
    if not before:
        return dict(now)
    both = {name: [*before.get(name, "absent").split(", "), now.get(name, "absent")] for name in {**before, **now}}
    return {name: ", ".join(dict.fromkeys(versions)) for name, versions in both.items()}
