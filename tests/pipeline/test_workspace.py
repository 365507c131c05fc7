"""A run's folder: records, manifests and the lock survive a kill, a full disk and a changed option."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srlm.config import Config, flatten, options_of
from srlm.errors import RunFolderError
from srlm.ids import derive_seed
from srlm.io import files
from srlm.io.files import write_atomic
from srlm.io.record_file import RecordFile, read_records
from srlm.io.serialization import to_json
from srlm.models.resolve import identity, model_id
from srlm.pipeline import stage as stage_module
from srlm.pipeline import workspace as workspace_module
from srlm.pipeline.stage import Stage, check_stages
from srlm.pipeline.workspace import Workspace
from srlm.training.config import Reference
from srlm.types import Answer, Candidate
from tests.helpers import ROOT, all_stages


def row(id: str, text: str = "Text.") -> Answer:
    return Answer(id, "Prompt?", text, 2, False)


def line(id: str, text: str = "Text.") -> bytes:
    return (to_json(row(id, text)) + "\n").encode()


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


ADVICE = r"No space left on disk.*Free some space.*Rerun the same command to resume"


# Record files


def test_appended_records_are_read_back(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    file = RecordFile(path, Answer)
    file.append()
    assert not path.exists()
    file.append(row("b"), row("a"))
    file.append(row("c"))
    assert path.read_bytes() == line("b") + line("a") + line("c")
    again = RecordFile(path, Answer)
    assert list(again.records.values()) == [row("b"), row("a"), row("c")]
    again.append(row("d"))
    assert read_records(path, Answer) == [row("b"), row("a"), row("c"), row("d")]


def test_records_with_a_known_id_are_skipped(tmp_path):
    path = tmp_path / "answers.jsonl"
    file = RecordFile(path, Answer)
    file.append(row("a", "first"))
    file.append(row("a", "second"), row("b"))
    RecordFile(path, Answer).append(row("a", "third"), row("b", "third"))
    assert path.read_bytes() == line("a", "first") + line("b")
    assert file.records == {"a": row("a", "first"), "b": row("b")}


@pytest.mark.parametrize("torn", range(1, len(line("b", "好的 🙂"))))
def test_torn_last_line_is_removed(tmp_path, torn):
    """For a cut at every byte, including inside characters and just before the newline."""
    path = tmp_path / "answers.jsonl"
    path.write_bytes(line("a") + line("b", "好的 🙂")[:torn])
    file = RecordFile(path, Answer)
    assert list(file.records) == ["a"]
    file.append(row("b", "好的 🙂"))
    assert path.read_bytes() == line("a") + line("b", "好的 🙂")


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"id": "b", "prom\n',
        b"\n",
        b"\x00\x00\x00\n",
        b"[1, 2]\n",
        b'{"id": "b"}\n',
        line("b").replace(b'"Text."', b"7"),
        line("b").replace(b"Text", b"Te\xff\xfext"),
    ],
    ids=["half", "blank", "zeros", "no object", "field missing", "wrong type", "not UTF-8"],
)
def test_damaged_line_is_reported_by_number(tmp_path, damaged):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(line("a") + damaged + line("c"))
    with pytest.raises(RunFolderError) as caught:
        RecordFile(path, Answer)
    assert f"{path}:2 is damaged" in str(caught.value)
    assert "Delete that line; the next run generates its record again." in str(caught.value)
    assert path.read_bytes() == line("a") + damaged + line("c")


@pytest.mark.parametrize(
    "separator",
    ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r", "\n", "\r\n"],
    ids=lambda separator: separator.encode("unicode_escape").decode(),
)
def test_line_separators_inside_texts_survive(tmp_path, separator):
    """A line of the file ends at "\\n" only."""
    path = tmp_path / "answers.jsonl"
    text = f"one{separator}two{separator}"
    file = RecordFile(path, Answer)
    file.append(row("a", text), row("b"))
    assert path.read_bytes().count(b"\n") == 2
    assert read_records(path, Answer) == [row("a", text), row("b")]
    RecordFile(path, Answer).finish()
    assert read_records(path, Answer) == [row("a", text), row("b")]


def test_finish_sorts_the_records(tmp_path):
    ids = [f"t2/p{n:05d}/c{c}" for n in range(5) for c in range(4)]
    path = tmp_path / "2_candidates.jsonl"
    contents = set()
    for seed in range(3):
        path.unlink(missing_ok=True)
        file = RecordFile(path, Candidate)
        shuffled = random.Random(seed).sample(ids, len(ids))
        for id in shuffled:
            file.append(Candidate(id, id[:9], "Text.", 1, False))
        assert list(RecordFile(path, Candidate).records) == shuffled
        assert [record.id for record in file.finish()] == ids
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert [record.id for record in file.finish(lambda record: record.id[::-1])] == sorted(ids, key=lambda id: id[::-1])
    file.append(Candidate("t2/p00009/c0", "t2/p00009", "Text.", 1, False))
    assert len(read_records(path, Candidate)) == len(ids) + 1


def test_finish_without_records_creates_an_empty_file(tmp_path):
    assert RecordFile(tmp_path / "answers.jsonl", Answer).finish() == []
    assert (tmp_path / "answers.jsonl").read_bytes() == b""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_finish_is_atomic(tmp_path, monkeypatch, call):
    path = tmp_path / "answers.jsonl"
    file = RecordFile(path, Answer)
    file.append(row("b"), row("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(RunFolderError, match=ADVICE):
            file.finish()
    assert path.read_bytes() == line("b") + line("a")
    assert os.listdir(tmp_path) == ["answers.jsonl"]
    assert RecordFile(path, Answer).finish() == [row("a"), row("b")]


# Atomic writes


def test_write_atomic_creates_folders_and_keeps_text_unchanged(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    for text in ("old", "好的 🙂\r\n\u2028 no newline at the end"):
        write_atomic(path, text)
        assert path.read_bytes() == text.encode()
        assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_failed_write_keeps_the_old_content(tmp_path, monkeypatch, call, error):
    def fail(*_: Any) -> Any:
        raise OSError(error, os.strerror(error))

    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        # Other errors are raised unchanged.
        expected = pytest.raises(OSError, match="rror") if error == errno.EIO else pytest.raises(RunFolderError)
        with expected as caught:
            write_atomic(path, "new")
    if error != errno.EIO:
        assert "Free some space" in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_interrupted_write_keeps_the_old_content(tmp_path, monkeypatch):
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_content_is_synced_before_the_rename(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("fsync", os.fstat(fd).st_size)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("replace", a.stat().st_size)), replace(a, b)))
    write_atomic(tmp_path / "file.txt", "12345")
    assert calls == [("fsync", 5), ("replace", 5)]


# A full disk


class FullDisk:
    """Stand-in for `os.write` on a disk with `space` free bytes."""

    def __init__(self, space: int):
        self.space, self.write = space, os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.space:
            no_space()
        written = self.write(fd, data[: self.space])
        self.space -= written
        return written


@pytest.mark.parametrize("space", [0, 1, len(line("b")) // 2, len(line("b")) - 1, len(line("b")) + 3])
def test_full_disk_while_appending_keeps_complete_records(tmp_path, monkeypatch, space):
    path = tmp_path / "answers.jsonl"
    file = RecordFile(path, Answer)
    file.append(row("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FullDisk(space))
        with pytest.raises(RunFolderError, match=ADVICE) as caught:
            file.append(row("b"), row("c"))
    assert str(path) in str(caught.value)
    kept = RecordFile(path, Answer)  # the next run
    assert list(kept.records) == ["a"]  # one append is written whole or not at all
    kept.append(row("b"), row("c"))
    assert path.read_bytes() == line("a") + line("b") + line("c")


def test_short_writes_are_completed(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    RecordFile(tmp_path / "answers.jsonl", Answer).append(row("a"), row("b", "好的 🙂"))
    assert (tmp_path / "answers.jsonl").read_bytes() == line("a") + line("b", "好的 🙂")


def test_failed_append_leaves_no_partial_line(tmp_path, monkeypatch):
    """Other appends run while one fails, and the disk may have free space again by then."""
    path = tmp_path / "answers.jsonl"
    file = RecordFile(path, Answer)
    file.append(row("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FullDisk(20))
        with pytest.raises(RunFolderError, match=ADVICE):
            file.append(row("b"))
    file.append(row("c"))
    assert list(RecordFile(path, Answer).records) == ["a", "c"]


def test_full_disk_before_the_first_record_is_reported(tmp_path, monkeypatch):
    file = RecordFile(tmp_path / "answers.jsonl", Answer)
    monkeypatch.setattr(os, "open", no_space)
    with pytest.raises(RunFolderError, match=ADVICE):
        file.append(row("a"))


def test_full_disk_while_locking_a_run_is_reported(tmp_path, monkeypatch):
    """The lock is the first thing that a command writes."""
    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(RunFolderError, match=ADVICE), Workspace(tmp_path / "run").lock():
        pass


def test_full_disk_while_creating_a_folder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", no_space)
    with pytest.raises(RunFolderError, match=ADVICE):
        write_atomic(tmp_path / "new" / "file.txt", "text")


# Stages


OPTIONS = {"judge.count": 1, "judge.temperature": 0.7, "prompts.languages": ["en"], "seed": 0}
WAYS_ON = ("To continue: re", "start a new run with name=...", "or delete ")


def stage_of(root: Path, outputs: tuple[str, ...] = ("3_judgements.jsonl",), **changed: Any) -> Stage:
    space = Workspace(root)
    options = OPTIONS | {name.replace("__", "."): value for name, value in changed.items()}
    return Stage(space, space.iteration(2), "judgements", outputs, options)


@pytest.fixture
def made(tmp_path) -> Path:
    """Return a run with one complete stage."""
    stage = stage_of(tmp_path)
    stage.begin()
    write_atomic(stage.outputs[0], "{}\n")
    stage.done({"iteration_2/2_candidates.jsonl": "1234"}, {"judgements": 1}, tokens=12)
    return tmp_path


def refused(stage: Stage, inputs: dict[str, str] | None = None) -> str:
    with pytest.raises(RunFolderError) as caught:
        stage.complete(inputs)
    message = str(caught.value)
    assert f"The stage iteration_2/judgements in {stage.workspace.root} cannot be used" in message
    positions = [message.index(way) for way in WAYS_ON]
    assert positions == sorted(positions)
    assert f"delete {stage.folder} and all later iteration_* folders" in message
    return message


def test_stage_is_complete_only_after_done(tmp_path):
    stage = stage_of(tmp_path)
    assert str(stage) == "iteration_2/judgements"
    assert not stage.complete()
    stage.begin()
    assert not stage_of(tmp_path).complete()
    assert not stage_of(tmp_path).complete({"iteration_2/2_candidates.jsonl": "1234"})
    write_atomic(stage.outputs[0], "{}\n")
    written = stage.done({"iteration_2/2_candidates.jsonl": "1234"}, {"judgements": 1}, tokens=12)
    assert stage_of(tmp_path).complete()
    assert stage_of(tmp_path).complete({"iteration_2/2_candidates.jsonl": "1234"})
    read = stage_of(tmp_path).manifest()
    assert read == written
    assert (read.stage, read.options, read.counts, read.tokens) == (
        "iteration_2/judgements",
        OPTIONS,
        {"judgements": 1},
        12,
    )
    assert read.inputs == {"iteration_2/2_candidates.jsonl": "1234"}
    assert stage_of(tmp_path).fingerprints() == {
        "iteration_2/3_judgements.jsonl": "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
    }
    assert [path.name for path in (tmp_path / "iteration_2" / "manifests").iterdir()] == ["judgements.json"]


@pytest.mark.parametrize("verb", ["begun", "made"])
def test_changed_options_are_refused(tmp_path, verb):
    stage = stage_of(tmp_path)
    stage.begin()
    if verb == "made":
        write_atomic(stage.outputs[0], "")
        stage.done({}, {})
    same = {"prompts__languages": ("en",)}  # as stored in JSON
    assert stage_of(tmp_path, **same).complete() == (verb == "made")
    message = refused(stage_of(tmp_path, judge__count=5, prompts__languages=["en", "zh"]))
    assert f"options have changed since this stage {'ran' if verb == 'made' else 'began'}: " in message
    assert "judge.count was 1, now 5; prompts.languages was ['en'], now ['en', 'zh']" in message
    assert "seed" not in message
    assert "judge.temperature" not in message


def recorded(root: Path, verb: str, **options: Any) -> Path:
    """Begin or complete a stage with `options` in its record; return the record's path."""
    stage = stage_of(root)
    stage.options = options
    stage.begin()
    if verb == "made":
        write_atomic(stage.outputs[0], "")
        stage.done({}, {})
        return stage.path
    return stage.path.with_suffix(".begun.json")


@pytest.mark.parametrize("verb", ["begun", "made"])
def test_option_missing_from_the_record_has_its_default(tmp_path, verb):
    """A newer version added it. `judge.count` is 1 by default, `endpoint.model` is ""."""
    recorded(tmp_path, verb, seed=0)
    assert OPTIONS["judge.count"] == Config().judge.count
    assert stage_of(tmp_path).complete() == (verb == "made")
    assert "judge.count was 1, now 5" in refused(stage_of(tmp_path, judge__count=5))
    assert "endpoint.model was '', now 'judge-70b'" in refused(stage_of(tmp_path, endpoint__model="judge-70b"))


def test_option_missing_from_the_record_has_its_config_yaml_value(tmp_path):
    """A newer version made the stage depend on an option that already existed when the run started."""
    recorded(tmp_path, "made", seed=0)
    config = Config(name="run")
    config.judge.count = 5
    Workspace(tmp_path).save_config(config)
    assert "judge.count was 5, now 1" in refused(stage_of(tmp_path))
    assert stage_of(tmp_path, judge__count=5).complete()
    (tmp_path / "config.yaml").write_text("judge: {temperature: 0.7}")  # as if judge.count were new: its default
    assert stage_of(tmp_path).complete()
    for damaged in (b"judge: [", b"[judge]", b"judge: \xff"):
        (tmp_path / "config.yaml").write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"(?s)config\.yaml is damaged .* delete it"):
            stage_of(tmp_path).complete()


@pytest.mark.parametrize("damaged", [b"", b"{", b"null", b"[1]", b'{"stage": "it"', b"{} {}", b"\xff\xfe"])
def test_damaged_run_file_is_named_with_instructions(own_run, damaged):
    """Manifests, notes of begun stages, and run.json."""
    workspace = Workspace(own_run)
    config = workspace.config()
    every = all_stages(workspace, config)
    manifests = [path for stage in every for path in (stage.path, stage.path.with_suffix(".begun.json"))]
    assert len(manifests) > 20
    for path in manifests:
        kept = path.read_bytes() if path.exists() else None
        if path.name.endswith(".begun.json"):
            moved = path.with_name(path.name.replace(".begun", ""))
            content = moved.read_bytes() if moved.exists() else b""
            moved.unlink(missing_ok=True)
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=rf"{re.escape(str(path))} is damaged .* Restore it, or delete "):
            check_stages(every)
        if path.name.endswith(".begun.json"):
            path.unlink()
            if content:
                moved.write_bytes(content)
        elif kept is None:
            path.unlink()
        else:
            path.write_bytes(kept)
    check_stages(every)
    workspace.run_path.write_bytes(damaged)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged .* delete it: the next command writes it again"):
        workspace.run()


def test_manifest_without_options_is_damaged(tmp_path):
    recorded(tmp_path, "made", seed=0)
    [path] = tmp_path.glob("**/manifests/*.json")
    for found in ({}, {"options": []}, {"options": {}, "outputs": None}):
        path.write_text(json.dumps(found))
        with pytest.raises(RunFolderError, match=r"is damaged \(it has no (options|outputs)\)"):
            stage_of(tmp_path).complete()


@pytest.mark.parametrize("verb", ["begun", "made"])
def test_recorded_option_that_the_stage_no_longer_uses_is_compared(tmp_path, verb):
    recorded(tmp_path, verb, **OPTIONS, **{"candidates.count": 4, "data.ift.columns.prompt": "q"})
    config = Config()
    config.data.ift.columns = {"prompt": "q"}
    stage = stage_of(tmp_path)
    stage.config = config
    assert stage.complete() == (verb == "made")
    config.candidates.count = 8
    assert "candidates.count was 4, now 8" in refused(stage)
    config.candidates.count, config.data.ift.columns = 4, {}
    assert "data.ift.columns.prompt was 'q', now None" in refused(stage)


@pytest.mark.parametrize("verb", ["begun", "made"])
def test_recorded_option_that_no_longer_affects_results_may_change(tmp_path, verb):
    recorded(tmp_path, verb, **OPTIONS, **{"engine.max_model_len": 512})
    stage = stage_of(tmp_path)
    stage.config.engine.max_model_len = 1024
    assert stage.complete() == (verb == "made")
    assert stage.differences() == []


@pytest.mark.parametrize("verb", ["begun", "made"])
def test_recorded_option_that_no_longer_exists_is_only_reported(tmp_path, verb):
    recorded(tmp_path, verb, **OPTIONS, **{"judge.moods": 2})
    stage = stage_of(tmp_path)
    assert stage.complete() == (verb == "made")
    assert stage.differences() == ["option judge.moods=2 no longer exists and is ignored"]
    assert stage_of(tmp_path.with_name("untouched")).differences() == []


def test_changed_template_is_named_without_its_digests(tmp_path):
    recorded(tmp_path, "made", **OPTIONS, **{"judge.template": "0123456789abcdef", "judge.max_score": 5})
    message = refused(stage_of(tmp_path, judge__template="fedcba9876543210", judge__max_score=4))
    assert "judge.max_score was 5, now 4; the text of judge.template has changed. To continue" in message
    assert "0123456789abcdef" not in message


def test_record_of_another_version_is_read(tmp_path):
    """The first versions recorded only options at a stage's begin; newer versions may add fields."""
    path = recorded(tmp_path, "begun", **OPTIONS)
    path.write_text(json.dumps({"options": OPTIONS}))
    assert not stage_of(tmp_path).complete({"iteration_1/model": "new"})
    assert "seed was 0, now 1" in refused(stage_of(tmp_path, seed=1))
    path = recorded(tmp_path / "other", "made", **OPTIONS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "good"}))
    assert stage_of(tmp_path / "other").complete()


# Inputs


def from_model(root: Path, fingerprint: str | None) -> Stage:
    """Return a stage that declares M1 as an input; None = M1 is missing."""
    stage = stage_of(root)
    stage.inputs = lambda: {} if fingerprint is None else {"iteration_1/model": fingerprint}
    return stage


@pytest.mark.parametrize("verb", ["begun", "made"])
def test_a_declared_input_that_has_changed_is_refused(tmp_path, verb):
    stage = from_model(tmp_path, "one")
    stage.begin()
    if verb == "made":
        write_atomic(stage.outputs[0], "")
        assert stage.done({}, {}).inputs == {"iteration_1/model": "one"}
    since = "ran" if verb == "made" else "began"
    assert f"input iteration_1/model has changed since this stage {since}" in refused(from_model(tmp_path, "two"))
    for same in ("one", None):  # a missing input is not compared
        assert from_model(tmp_path, same).complete() == (verb == "made")


def test_input_missing_from_the_record_is_accepted(made):
    """An older version did not record it."""
    assert from_model(made, "one").complete()


def test_input_hash_is_the_one_at_the_stages_begin(tmp_path):
    """If M1 is retrained meanwhile, the records come from the model that the engine loaded before."""
    from_model(tmp_path, "one").begin()
    later = from_model(tmp_path, "two")
    write_atomic(later.outputs[0], "")
    assert later.done({"iteration_2/1_prompts.jsonl": "5"}, {}).inputs == {
        "iteration_1/model": "one",
        "iteration_2/1_prompts.jsonl": "5",
    }


def test_input_missing_on_resume_keeps_its_recorded_hash(tmp_path):
    from_model(tmp_path, "one").begin()
    resumed = from_model(tmp_path, None)
    assert not resumed.complete()
    resumed.begin()
    assert "input iteration_1/model has changed since this stage began" in refused(from_model(tmp_path, "two"))


def test_records_without_a_manifest_are_not_resumed(made):
    """Otherwise records of another model would be attributed to the present one."""
    stage = stage_of(made)
    stage.path.unlink()
    assert not stage.complete()
    with pytest.raises(RunFolderError, match=r"3_judgements\.jsonl exists, but no manifest says how it was made"):
        stage.begin()
    stage.outputs[0].unlink()
    stage.begin()


# Versions of libraries


def test_versions_of_libraries_are_recorded_and_reported(tmp_path, monkeypatch):
    installed = {"torch": "2.12.0", "vllm": "0.31.0"}
    monkeypatch.setattr(
        stage_module, "library_versions", lambda names: {n: installed[n] for n in names if n in installed}
    )

    def stage(name: str) -> Stage:
        space = Workspace(tmp_path)
        return Stage(space, space.iteration(2), name, [f"{name}.jsonl"], OPTIONS, libraries=("torch", "vllm", "trl"))

    for name in ("answers", "judgements", "pairs"):
        stage(name).begin()
    for name in ("answers", "judgements"):
        write_atomic(stage(name).outputs[0], "")
        assert stage(name).done({}, {}).libraries == installed
    old = stage("judgements")
    old.path.write_text(json.dumps({k: v for k, v in json.loads(old.path.read_text()).items() if k != "libraries"}))
    every = [stage(name) for name in ("answers", "judgements", "pairs", "untouched")]
    assert check_stages(every) == []
    installed["torch"] = "2.13.0"
    del installed["vllm"]
    line = "library versions: torch 2.12.0, now 2.13.0; vllm 0.31.0, now absent"
    assert check_stages(every) == [f"{line} (stages: iteration_2/answers, iteration_2/pairs)"]
    stage("pairs").begin()  # resumed: both versions are recorded
    write_atomic(stage("pairs").outputs[0], "")
    assert stage("pairs").done({}, {}).libraries == {"torch": "2.12.0, 2.13.0", "vllm": "0.31.0, absent"}


def test_check_stages_refuses_changed_options(made):
    assert check_stages([stage_of(made)]) == []
    with pytest.raises(RunFolderError, match="seed was 0, now 1"):
        check_stages([stage_of(made), stage_of(made, seed=1)])


def test_changed_options_of_all_stages_are_in_one_refusal(tmp_path):
    """Also those of stages after the first one; what to delete covers all of them."""
    space = Workspace(tmp_path)

    def stages(**now: float) -> list[Stage]:
        options = {"seed": 0, "judge.count": 3, "dpo.beta": 0.1} | {name.replace("__", "."): now[name] for name in now}
        places = [
            (space.data, "data", ("seed",)),
            (space.evaluation(1), "answers", ("seed",)),
            (space.iteration(2), "judgements", ("judge.count",)),
            (space.iteration(3), "dpo", ("dpo.beta", "judge.count")),
        ]
        return [
            Stage(space, folder, name, [f"{name}.jsonl"], {one: options[one] for one in own})
            for folder, name, own in places
        ]

    for stage in stages()[:3]:
        stage.begin()
        write_atomic(stage.outputs[0], "")
        stage.done({}, {})
    stages()[3].begin()  # not finished
    assert check_stages(stages()) == []

    def refusal(**now: float) -> str:
        with pytest.raises(RunFolderError) as caught:
            check_stages(stages(**now))
        return str(caught.value)

    text = refusal(judge__count=1, dpo__beta=0.5)
    assert "The stage iteration_2/judgements in" in text
    changes = "options have changed since this stage ran: dpo.beta was 0.1, now 0.5; judge.count was 3, now 1."
    assert f"{changes} To continue: revert the options," in text
    assert f"or delete {space.iteration(2)} and all later iteration_* folders to recompute it." in text
    assert "an option has changed since this stage began: dpo.beta was 0.1, now 0.5." in refusal(dpo__beta=0.5)
    text = refusal(seed=1, dpo__beta=0.5)
    assert "The stage data/data in" in text
    assert "dpo.beta was 0.1, now 0.5; seed was 0, now 1." in text
    assert f"delete {space.data} and all later iteration_* folders to recompute it." in text


def test_deletions_of_an_evaluation_and_of_later_stages_are_both_named(tmp_path):
    """The evaluation's options come first, and no stage depends on it."""
    space = Workspace(tmp_path)

    def stages(**now: int) -> list[Stage]:
        places = [(space.evaluation(1), "answers", "seed"), (space.iteration(2), "judgements", "judge.count")]
        return [
            Stage(space, folder, name, [f"{name}.jsonl"], {one: now.get(one.replace(".", "__"), 0)})
            for folder, name, one in places
        ]

    for stage in stages():
        stage.begin()
        write_atomic(stage.outputs[0], "")
        stage.done({}, {})
    with pytest.raises(RunFolderError) as caught:
        check_stages(stages(seed=1, judge__count=1))
    ways = (
        f"delete {space.evaluation(1)} and the evaluation folders of later iterations, and {space.iteration(2)} and "
        "all later iteration_* folders to recompute it."
    )
    assert ways in str(caught.value)


def test_refusal_changes_nothing(made):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    refused(stage_of(made, seed=1))
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    assert stage_of(made).complete()


def test_changed_input_is_refused(made):
    message = refused(stage_of(made), {"iteration_2/2_candidates.jsonl": "5678"})
    assert "input iteration_2/2_candidates.jsonl has changed since this stage ran. To continue: restore it" in message


def test_changed_output_is_refused(made):
    with (made / "iteration_2" / "3_judgements.jsonl").open("a") as file:
        file.write("{}\n")
    assert "output iteration_2/3_judgements.jsonl is missing or has changed since this stage ran" in refused(
        stage_of(made)
    )


def test_missing_output_is_refused(made):
    (made / "iteration_2" / "3_judgements.jsonl").unlink()
    assert "output iteration_2/3_judgements.jsonl is missing or has changed since this stage ran" in refused(
        stage_of(made)
    )


@pytest.mark.parametrize("change", ["bigger", "missing", "more", "renamed"])
def test_changed_model_folder_is_refused(tmp_path, change):
    model = tmp_path / "iteration_2" / "model"
    write_atomic(model / "config.json", "{}")
    write_atomic(model / "part" / "model.safetensors", "weights")
    stage = stage_of(tmp_path, ("model",))
    stage.done({}, {})
    assert stage_of(tmp_path, ("model",)).complete()
    weights = model / "part" / "model.safetensors"
    if change == "bigger":
        weights.write_text("weights!")
    elif change == "missing":
        weights.unlink()
    elif change == "more":
        (model / "adapter.json").touch()
    else:
        weights.rename(model / "model.safetensors")
    assert "output iteration_2/model is missing or has changed since this stage ran" in refused(
        stage_of(tmp_path, ("model",))
    )


def test_manifest_is_written_after_the_outputs(tmp_path, monkeypatch):
    """The outputs are hashed, the manifest is written in one rename, and then the begin record is removed."""
    order = []
    replace, unlink, sha256 = os.replace, Path.unlink, files.sha256

    def note(kind: str, path: Path) -> None:
        order.append((kind, path.name))

    monkeypatch.setattr(os, "replace", lambda a, b: (replace(a, b), note("replace", b))[0])
    monkeypatch.setattr(Path, "unlink", lambda path, **options: (unlink(path, **options), note("unlink", path))[0])
    monkeypatch.setattr(workspace_module, "sha256", lambda path: (note("hash", path), sha256(path))[1])
    stage = stage_of(tmp_path)
    stage.begin()
    file = RecordFile(stage.outputs[0], Answer)
    file.append(row("a"))
    file.finish()
    assert not stage.path.exists()
    stage.done({}, {})
    assert [step for step in order if not step[1].endswith(".tmp")] == [
        ("replace", "judgements.begun.json"),
        ("replace", "3_judgements.jsonl"),
        ("hash", "3_judgements.jsonl"),
        ("replace", "judgements.json"),  # in the folder "lineage"
        ("replace", "judgements.json"),
        ("unlink", "judgements.begun.json"),
    ]


def test_full_disk_at_the_manifest_leaves_the_stage_incomplete(tmp_path, monkeypatch):
    stage = stage_of(tmp_path)
    stage.begin()
    RecordFile(stage.outputs[0], Answer).append(row("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(RunFolderError, match=ADVICE):
            stage.done({}, {})
    assert not stage_of(tmp_path).complete()
    assert "an option has changed since this stage began: seed was 0, now 1. To continue: revert the option" in refused(
        stage_of(tmp_path, seed=1)
    )
    assert read_records(stage.outputs[0], Answer) == [row("a")]
    stage.done({}, {})
    assert stage_of(tmp_path).complete()


# The lock

HOLDER = """
import sys
from pathlib import Path
from srlm.pipeline.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_excludes_a_second_process_until_the_first_ends(tmp_path):
    run = Workspace(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError) as caught, run.lock():
            pass
        for part in (f"{run.root} is in use by process {holder.pid} on ", "Wait for it, stop it", "name=..."):
            assert part in str(caught.value)
        with pytest.raises(RunFolderError, match=f"process {holder.pid} on "), run.lock():
            pass  # a refused process does not overwrite the holder's pid
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with run.lock():
        assert (run.root / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(RunFolderError, match=f"process {os.getpid()} on "), run.lock():
            pass
    with run.lock():
        pass


# Seeds


def test_derived_seeds_are_fixed():
    """Every run's results depend on these values."""
    assert derive_seed(0, "candidates", "t2/p00000") == 771965890
    assert derive_seed(7, "split") == 257309961


def test_derived_seeds_depend_only_on_their_parts():
    parts = [
        (seed, stage, f"t{t}/p{n:05d}") for seed in (0, 1) for stage in ("a", "b") for t in (2, 3) for n in range(50)
    ]
    seeds = {part: derive_seed(*part) for part in parts}
    random.seed(5)
    shuffled = random.Random(1).sample(parts, len(parts))
    assert {part: derive_seed(*part) for part in shuffled} == seeds
    assert len(set(seeds.values())) == len(parts)
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc") != derive_seed(0, "c", "ab")


# Options


def test_flatten_joins_nested_keys_with_dots():
    options = {"judge": {"count": 3, "lora": {"r": 8, "alpha": 16}, "languages": ["en"]}, "seed": 0}
    assert flatten(options, "judge") == {
        "judge.count": 3,
        "judge.lora.r": 8,
        "judge.lora.alpha": 16,
        "judge.languages": ["en"],
    }
    assert flatten(options, "judge.lora") == {"judge.lora.r": 8, "judge.lora.alpha": 16}
    assert flatten(options, "judge.count") == {"judge.count": 3}
    assert flatten(options, "seed") == {"seed": 0}
    with pytest.raises(KeyError):
        flatten(options, "judge.cuont")


def test_selected_options_of_a_config_are_flattened():
    config = Config()
    config.dpo.reference = Reference.sft
    config.data.ift.columns = {"prompt": "question"}
    assert options_of(config, "candidates", "seed", "dpo.reference") == {
        "candidates.count": 4,
        "candidates.temperature": 0.7,
        "candidates.top_p": 0.9,
        "candidates.max_new_tokens": 128,
        "seed": 0,
        "dpo.reference": "sft",
    }
    assert options_of(config, "data.ift")["data.ift.columns.prompt"] == "question"
    whole = options_of(config, *(field.name for field in dataclasses.fields(Config)))
    assert len(whole) > 90
    assert json.loads(json.dumps(whole)) == whole


def test_fingerprint_of_a_model_excludes_its_card(tmp_path):
    """Partial cards after a kill are excluded too; any other file, even a README in a subfolder, is included."""
    workspace, model = Workspace(tmp_path), tmp_path / "model"
    (model / "deeper").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    bare = workspace.fingerprint(model)
    (model / "README.md").write_text("A card.")
    (model / ".README.md.12.tmp").write_text("A ca")
    assert workspace.fingerprint(model) == bare
    (model / "README.md").write_text("Another card.")
    assert workspace.fingerprint(model) == bare
    for name in ("deeper/README.md", "README.txt", "README.md.safetensors"):
        (model / name).write_text("")
        assert workspace.fingerprint(model) != bare
        (model / name).unlink()


@pytest.mark.parametrize("megabytes", [1, 40])
def test_fingerprint_detects_changed_weights_of_equal_size(tmp_path, megabytes):
    """Even if only the last tenth changes, as with LoRA in the last layers; large files are only sampled."""
    workspace, model = Workspace(tmp_path), tmp_path / "model"
    model.mkdir()
    weights = np.random.default_rng(0).bytes(megabytes * 2**20)
    (model / "model.safetensors").write_bytes(weights)
    before, id_before = workspace.fingerprint(model), model_id(model)
    (model / "model.safetensors").write_bytes(weights)
    assert (workspace.fingerprint(model), model_id(model)) == (before, id_before)
    top = len(weights) * 9 // 10
    (model / "model.safetensors").write_bytes(weights[:top] + bytes(len(weights) - top))
    assert workspace.fingerprint(model) != before
    assert model_id(model) != id_before
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert model_id(model) != id_before  # the ends are always read


def test_model_identity_depends_on_its_files(tmp_path, monkeypatch):
    run = Workspace(tmp_path / "run")
    (run.iteration(1) / "model").mkdir(parents=True)
    run.update_run(name="run")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "one").mkdir()
    for folder in (tmp_path / "one", run.iteration(1) / "model"):
        (folder / "config.json").write_text("{}")
    names = [str(tmp_path / name) for name in ("one", "run/iteration_1", "run/iteration_1/model", "m.gguf")]
    identities = identity(*names, str(tmp_path / "gone"), str(tmp_path / "gone.gguf"), "tiny-random", "OWNER/NAME")
    assert list(identities) == names
    assert identities[names[0]] == identities[names[1]] == identities[names[2]] != identities[names[3]]
    assert identity(str(tmp_path / "run" / "iteration_2")) == {}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-random").mkdir()
    assert list(identity("tiny-random", "one")) == ["one"]  # a packaged model's name means that one


@pytest.mark.parametrize("name", ["file", "file/run", "long" * 100, "folder_for_lock"])
def test_unwritable_run_folder_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder_for_lock" / ".lock").mkdir(parents=True)
    with (
        pytest.raises(
            RunFolderError,
            match=rf"{name} cannot be written \(.*\)\. .*choose another one \(for a run: runs_dir and name",
        ),
        Workspace(tmp_path / name).lock(),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_read_only_folder_error_is_reported(tmp_path, number):
    with pytest.raises(RunFolderError, match="cannot be written"), files.disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
