"""Where everything of a run lies, and how it gets there without loss.

A stage appends its records as they come (`RecordFile`), puts them in order when it is done, and writes its manifest
last (`Stage`): a manifest's presence means "complete". A kill at any moment leaves at worst one torn last line, which
the next run cuts off. One process holds a run's lock at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from srlm import __version__, records
from srlm.config import MISSING, C, Config, from_dict_as, option_value, to_dict, unknown_options
from srlm.errors import RunFolderError
from srlm.processes import LOCK, lock_exclusively, share_lock
from srlm.progress import say
from srlm.provenance import OptionChanges, describe_changes, library_versions, option_changes, version_changes

R = TypeVar("R")
_BEGUN = ".begun.json"  # of a stage that is not finished
LINEAGE = "lineage"  # folder in a run: how each stage was made last
_WRITTEN_AGAIN = "Restore it, or delete it: the next command writes it again."
CARD = "README.md"  # a model's card, in the model's folder


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) that depends on all parts and on nothing else.

    Every random choice draws from (run seed, iteration, stage, record id), so neither the order of completion nor a
    resume changes an outcome.
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_WHOLE = 16 * 2**20  # bytes up to which `content_hash` reads a whole file
_BLOCKS, _BLOCK = 1024, 4096  # of a larger one, and bytes of each


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a large one, of its size and of blocks evenly spaced over it, the ends among them.

    That is for weights: training changes nearly all of them, and those of a 70B model are not read again at each start.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        return sha256(path)
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
            found.update(file.read(_BLOCK))
    return found.hexdigest()


_UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # no permission
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),  # no folder's path
)


def hash_of_files(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names in `folder` and the `content_hash`es of these files in it."""
    found = sorted(f"{path.relative_to(folder)}:{content_hash(path)}" for path in files)
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", and a folder that cannot be written, into a RunFolderError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror}). Make it a folder that you may write to, or "
                "choose another one (of a run: runs_dir and name)."
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunFolderError(
            f"No space left on disk while writing {path}. What was finished before is kept: free some space (old runs, "
            "iteration_*/checkpoints) or move the run to a larger disk, then give the same command again."
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old or the new content, whenever the process dies."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file of a run.

    Parameters
    ----------
    remedy : str
        What the user can do about a damaged file, as a sentence.

    Raises
    ------
    RunFolderError
        If the file holds anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise RunFolderError(f"{path} is damaged ({error}). {remedy}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} is damaged (it holds no JSON object). {remedy}")
    return found


class RecordFile(Generic[R]):
    """An append-only JSON Lines file of one kind of record, keyed by `id`.

    Parameters
    ----------
    path : Path
        Created on the first append.
    kind : type
        The records' dataclass.

    Raises
    ------
    RunFolderError
        If a line other than a torn last one is broken, or the disk is full.
    """

    def __init__(self, path: Path, kind: type[R]):
        self.path, self.kind = path, kind
        self.records: dict[str, R] = {}
        self._fd: int | None = None
        if path.exists():
            self._load()

    def _load(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a kill in the midst of a write: the record will be made again
            with self.path.open("r+b") as file:
                file.truncate(whole)
        self.records = _whole_lines(self.path, data, self.kind)

    def append(self, *new: R) -> None:
        """Add records that are not there yet; those whose id is known are passed over."""
        new = tuple(record for record in new if record.id not in self.records)  # type: ignore[attr-defined]
        if not new:
            return
        line = "".join(records.to_json(record) + "\n" for record in new).encode()
        with disk_errors(self.path):
            if self._fd is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            length = os.fstat(self._fd).st_size
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                os.ftruncate(self._fd, length)  # what was written of it must not stand before the next record
                raise
        for record in new:
            self.records[record.id] = record  # type: ignore[attr-defined]

    def forget(self, when: Callable[[R], bool]) -> None:
        """Forget records, so that they are made again; on disk the last one of an id counts."""
        self.records = {record_id: record for record_id, record in self.records.items() if not when(record)}

    def finish(self, order: Callable[[R], Any] = lambda record: record.id) -> list[R]:  # type: ignore[attr-defined]
        """Put the file in its final order, whatever the order of completion was; returns the records in it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        ordered = sorted(self.records.values(), key=order)
        write_atomic(self.path, "".join(records.to_json(record) + "\n" for record in ordered))
        return ordered


def read_records(path: Path, kind: type[R]) -> list[R]:
    """All records of a file that a stage has finished, in its order."""
    return list(RecordFile(path, kind).records.values())


def peek_records(path: Path, kind: type[R]) -> list[R]:
    """The records that are there by now, of a file that another process may be writing; nothing is touched.

    A file that is not there has none, and a torn last line is left out.
    """
    return list(_whole_lines(path, path.read_bytes(), kind).values()) if path.exists() else []


def _whole_lines(path: Path, data: bytes, kind: type[R]) -> dict[str, R]:
    found = {}
    # Not splitlines: JSON may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            record = records.from_json(kind, line.decode("utf-8"))
        except ValueError as error:  # UnicodeDecodeError is one
            raise RunFolderError(
                f"{path}:{number} is damaged ({error}). Delete that line; the next run makes its record again."
            ) from error
        found[record.id] = record  # type: ignore[attr-defined]
    return found


@dataclass
class Manifest:
    """What a finished stage leaves: enough to skip it, to refuse it, and to trace it."""

    stage: str
    options: dict[str, Any]  # dotted name -> value, those its outcome depends on
    inputs: dict[str, str]  # what it was made from -> hash: paths in the run, external models and files by name
    outputs: dict[str, str]  # path in the run -> hash
    counts: dict[str, Any] = field(default_factory=dict)  # in, out, dropped and why
    seconds: float = 0.0
    tokens: int = 0  # generated or trained on
    read: dict[str, int] = field(default_factory=dict)  # prompt tokens meanwhile, and those from the engine's cache
    version: str = __version__
    finished: str = ""  # UTC
    libraries: dict[str, str] = field(default_factory=dict)  # package -> version, those that can change the outcome

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest, or the note of a stage that has begun; fields of newer versions are left out.

        Raises
        ------
        RunFolderError
            If the file is damaged.
        """
        remedy = f"Restore it, or delete {path.parents[1]} to recompute its stages."
        data: dict[str, Any] = {"stage": path.stem, "inputs": {}, "outputs": {}} | read_object(path, remedy)
        wrong = [name for name in ("options", "inputs", "outputs") if not isinstance(data.get(name), dict)]
        if wrong:
            raise RunFolderError(f"{path} is damaged (it has no {wrong[0]}). {remedy}")
        return cls(**{one.name: data[one.name] for one in fields(cls) if one.name in data})


def finished_manifests(folder: Path, below: bool = True) -> list[Path]:
    """Return the manifests of all finished stages in a folder, and in those `below` it, sorted by path."""
    pattern = "**/manifests/*.json" if below else "manifests/*.json"
    return sorted(path for path in folder.glob(pattern) if not path.name.endswith(_BEGUN))


class Stage:
    """One stage: complete, begun, or untouched.

    Parameters
    ----------
    workspace : Workspace
    folder : Path
        The iteration's folder, as a rule.
    name : str
        Such as "judgements".
    outputs : sequence of str
        Files or folders in `folder`.
    options : mapping
        Dotted names and values that the outcome depends on.
    inputs : callable, optional
        Returns what the outcome is made from, name -> hash. It is asked each time, because an earlier stage may have
        finished since; what is not there yet, or not any more, is left out.
    libraries : iterable of str
        Packages whose version can change the outcome: recorded, and reported when they differ.
    config : Config, optional
        All options, for those that the manifest has and the stage does not depend on any more; default: all defaults.
    unfinished : iterable of str
        Folders in `folder` that hold what the stage resumes from, such as checkpoints of a training.
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
        self._begun = self.folder / "manifests" / f"{name}{_BEGUN}"
        # Kept when an iteration's folder is deleted, so that what was made of it is not mixed with other results.
        self._lineage = workspace.root / LINEAGE / f"{self}.json"
        self._start = time.monotonic()

    def __str__(self) -> str:
        return f"{self.workspace.relative(self.folder)}/{self.name}"

    def complete(self, inputs: Mapping[str, str] | None = None) -> bool:
        """Whether the stage's manifest is there and still holds.

        Parameters
        ----------
        inputs : mapping, optional
            Hashes of further inputs, beside those that the stage declares.

        Raises
        ------
        RunFolderError
            If an option, an input or an output has changed since the stage ran or began.
        """
        record = self._record()
        if record is None:
            return False
        self._refuse_changed_options(record)
        self._refuse_changed_inputs(record, {**self.inputs(), **(inputs or {})})
        if not self.path.exists():
            return False
        for path, expected in record.outputs.items():
            if self.workspace.fingerprint(self.workspace.root / path) != expected:
                self._refuse(f"output {path} is missing or has changed", "restore it")
        return True

    def begin(self, in_pieces: bool = True, inputs: Mapping[str, str] | None = None) -> None:
        """Start the stage; one that is made `in_pieces` (records, checkpoints) notes the options and inputs they are
        made with, so that a resume cannot mix two settings.

        Raises
        ------
        RunFolderError
            If records or checkpoints are there and nothing says what they were made with.
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
        kept = ("stage", "options", "inputs", "libraries", "version")
        note = {name: value for name, value in asdict(begun).items() if name in kept}
        write_atomic(self._begun, json.dumps(note, indent=1, sort_keys=True))

    def done(
        self,
        inputs: Mapping[str, str],
        counts: Mapping[str, Any],
        tokens: int = 0,
        read: Mapping[str, int] | None = None,
    ) -> Manifest:
        """Write the manifest: the stage is complete.

        Parameters
        ----------
        inputs : mapping
            Hashes of further inputs, beside those that the stage declares. An input that was known when the stage began
            keeps the hash that it had then.
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
        made = {
            name: value for name, value in asdict(manifest).items() if name in ("stage", "options", "inputs", "outputs")
        }
        write_atomic(self._lineage, json.dumps(made, indent=1, ensure_ascii=False))
        write_atomic(self.path, json.dumps(asdict(manifest), indent=1, ensure_ascii=False))
        self._begun.unlink(missing_ok=True)
        return manifest

    def manifest(self) -> Manifest:
        return Manifest.load(self.path)

    def fingerprints(self) -> dict[str, str]:
        """The outputs' hashes as recorded, for the next stage's inputs."""
        return self.manifest().outputs

    def differences(self) -> list[str]:
        """What differs from when the stage ran or began and is reported, not refused: versions of libraries, and
        options that do not exist any more."""
        record = self._record()
        if record is None:
            return []
        removed = self._option_changes(record).removed
        found = [f"option {name}={value!r} no longer exists and is ignored" for name, value in removed.items()]
        versions = version_changes(record.libraries, library_versions(self.libraries))
        return [*found, *([f"library versions: {versions}"] if versions else [])]

    def refuse_deleted_sources(self, sources: Mapping[str, Stage]) -> None:
        """Refuse before anything is made again, if a deleted input would be made with other options or inputs.

        Parameters
        ----------
        sources : mapping
            Output, as in manifests -> the stage that makes it.

        Raises
        ------
        RunFolderError
            Naming the input, and what about it would be different. If nothing would, the input is made again, and its
            content is compared when it is there.
        """
        record = self._record()
        for name, expected in (record.inputs if record else {}).items():
            if name in sources and (change := sources[name]._change_since(name, expected, sources)):
                details, revert = change
                self._refuse(
                    f"input {name} has changed", revert, f" (it was deleted and would be made differently: {details})"
                )

    def _change_since(self, output: str, expected: str, sources: Mapping[str, Stage]) -> tuple[str, str] | None:
        """What is different from when this stage made `output`, and how to revert it.

        None where nothing is known to be, or the stage is complete, so that contents tell.
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
        """The manifest, or the note of its begin; None if the stage is untouched."""
        path = next((path for path in (self.path, self._begun) if path.exists()), None)
        return Manifest.load(path) if path else None

    def _option_changes(self, record: Manifest) -> OptionChanges:
        return option_changes(record.options, self.options, self.config, self.workspace.saved_options)

    def _refuse_changed_options(self, record: Manifest) -> None:
        if changed := self._option_changes(record).changed:
            what = "options have" if len(changed) > 1 else "an option has"
            revert = "revert the options" if len(changed) > 1 else "revert the option"
            self._refuse(f"{what} changed", revert, f": {describe_changes(changed)}")

    def _refuse_changed_inputs(self, record: Manifest, now: Mapping[str, str]) -> None:
        for name, found in now.items():
            if record.inputs.get(name, found) != found:
                self._refuse(f"input {name} has changed", "restore it")

    def _refuse(self, what: str, revert: str, details: str = "") -> None:
        since = "ran" if self.path.exists() else "began"
        raise RunFolderError(
            f"The stage {self} in {self.workspace.root} cannot be used: {what} since this stage {since}{details}. To "
            f"continue: {revert}, or start a new run with name=..., or delete {self._to_delete()} to recompute it."
        )

    def _to_delete(self) -> str:
        """What to delete so that this stage and those that build on it are made again."""
        if self.name == "measures":  # nothing builds on it
            return f"{self.path} and {self.outputs[0]}"
        if self.folder.name == "evaluation":
            return f"{self.folder} and the evaluation folders of later iterations"
        of_run = self.folder.name == "seeds" or "iteration_" in str(self)
        return f"{self.folder}{' and all later iteration_* folders' if of_run else ''}"


def report_differences(stages: Iterable[Stage]) -> None:
    """Check every stage that is there, before anything is touched; show the user what differs and is not refused.

    Raises
    ------
    RunFolderError
        As `check_stages` does.
    """
    for difference in check_stages(stages):
        say(f"  WARNING: {difference}")


def check_stages(stages: Iterable[Stage]) -> list[str]:
    """Check every stage that is there.

    Returns
    -------
    list of str
        What differs and is to be reported, one line each with the stages that it holds for.

    Raises
    ------
    RunFolderError
        Naming the first stage with a changed option, input or output, and the ways to continue.
    """
    found: dict[str, list[str]] = {}
    stages = list(stages)
    sources = {stage.workspace.relative(path): stage for stage in stages for path in stage.outputs}
    for stage in stages:
        stage.complete()
        stage.refuse_deleted_sources(sources)
        for difference in stage.differences():
            found.setdefault(difference, []).append(str(stage))
    return [f"{difference} (stages: {', '.join(names)})" for difference, names in found.items()]


def _of_both(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Versions of libraries of a stage that was made in two goes: "2.12.0, 2.13.0" where they differ."""
    if not before:
        return dict(now)
    goes = {name: [*before.get(name, "absent").split(", "), now.get(name, "absent")] for name in {**before, **now}}
    return {name: ", ".join(dict.fromkeys(versions)) for name, versions in goes.items()}


class Workspace:
    """All paths of one run.

    Parameters
    ----------
    root : Path
        runs_dir/name.
    """

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def of(cls, config: Config) -> Workspace:
        return cls(Path(config.runs_dir).expanduser().resolve() / config.name)

    @property
    def config_path(self) -> Path:
        return self.root / "config.yaml"

    @property
    def run_path(self) -> Path:
        return self.root / "run.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def seeds(self) -> Path:
        """The seeds as this run split them: ift, eft, eft_held_out, evaluation (.jsonl)."""
        return self.root / "seeds"

    def iteration(self, t: int) -> Path:
        return self.root / f"iteration_{t}"

    def model(self, t: int) -> Path:
        """Full checkpoint of M_t; M_0's place is in run.json, since it is not copied."""
        if t == 0:
            return Path(self.run()["base_model"])
        return self.iteration(t) / "model"

    @property
    def reward_model(self) -> Path:
        """The reward model that this run trained, where it did."""
        return self.iteration(1) / "reward_model"

    def evaluation(self, t: int) -> Path:
        """What M_t said when it was measured."""
        return self.iteration(t) / "evaluation"

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def save_config(self, config: Config) -> None:
        write_atomic(self.config_path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))

    def config(self) -> Config:
        return self.config_as(Config)

    def config_as(self, kind: type[C]) -> C:
        """The options of another command than `srlm.run`, whose folder this is.

        Options that only another version of srlm has are reported and left out; missing ones have their defaults.
        """
        saved = self._read_config()
        if unknown := unknown_options(kind, saved):
            say(f"  {self.config_path}: this version of srlm has no option {', '.join(unknown)}; ignored")
        return from_dict_as(kind, saved)

    def saved_options(self) -> dict[str, Any]:
        """config.yaml as nested dicts: the options of the last command; empty if there is none."""
        return self._read_config() if self.config_path.exists() else {}

    def _read_config(self) -> dict[str, Any]:
        try:
            found = yaml.safe_load(self.config_path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self.config_path} is damaged ({error}). {_WRITTEN_AGAIN}") from error
        if not isinstance(found, dict):
            raise RunFolderError(f"{self.config_path} is damaged (it holds no options). {_WRITTEN_AGAIN}")
        return found

    def run(self) -> dict[str, Any]:
        """run.json: versions, hardware, seed, lineage."""
        return read_object(self.run_path, _WRITTEN_AGAIN) if self.run_path.exists() else {}

    def update_run(self, **entries: Any) -> None:
        write_atomic(self.run_path, json.dumps(self.run() | entries, indent=1, ensure_ascii=False))

    def fingerprint(self, path: Path) -> str:
        """Hash of a file; of a model folder the hash of its files' names and `content_hash`es.

        A model's card is no part of the model: it is written after the model is measured.
        """
        if not path.exists():
            return "missing"
        if path.is_dir():
            of_card = {path / CARD, *path.glob(f".{CARD}.*.tmp")}  # what a kill may leave of `write_atomic`
            return hash_of_files(path, (p for p in path.rglob("*") if p.is_file() and p not in of_card))
        return sha256(path)

    def in_use(self) -> bool:
        """Return whether a process, this one included, holds the run's lock."""
        try:
            fd = os.open(self.root / LOCK, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run: no other command can use it before this process and all its workers have ended.

        Raises
        ------
        RunFolderError
            If another process holds it: its process id and host are named.
        """
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_exclusively(fd, self.root)
            with disk_errors(self.root):
                os.ftruncate(fd, 0)
                os.write(fd, f"process {os.getpid()} on {socket.gethostname()}".encode())
            share_lock(fd, self.root)
            yield
        finally:
            os.close(fd)


def early_stopping_folder(workspace: Workspace, t: int) -> Path:
    """Checkpoints of M_t's training with their answers and comparisons (srlm/early_stopping.py)."""
    return workspace.iteration(t) / "early_stopping"


def flatten(options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """`{"judge": {"count": 3}}` -> `{"judge.count": 3}`, for those below `prefix` (dotted; itself included)."""
    value: Any = options
    for part in prefix.split("."):
        value = value[part]
    return _flat(value, prefix)


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {name: v for key in value for name, v in _flat(value[key], f"{prefix}.{key}").items()}


def options_of(config: Config, *prefixes: str) -> dict[str, Any]:
    """The options at or below `prefixes`, flat, as a manifest holds them."""
    found: dict[str, Any] = {}
    for prefix in prefixes:
        value = option_value(config, prefix)
        group = reduce(getattr, prefix.split("."), config) if value is MISSING else None
        found |= _flat(value if group is None else to_dict(group), prefix)
    return found
