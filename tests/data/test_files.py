"""srlm.data.files and srlm.data.sources: every kind of file, folder and dataset gives the same rows."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import pickle
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from srlm.data.config import SourceConfig
from srlm.data.readers import read_ift, read_ranked
from srlm.data.sources import resolved
from srlm.errors import SeedError

ROWS = [
    {"prompt": 'Say "tea",\nplease.', "response": "Tea.\nNow."},
    {"prompt": "Où est le café ?", "response": "None"},
    {"prompt": "Name a code.", "response": "007"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def csv_of(delimiter: str) -> str:
    cells = [["prompt", "response"], *(list(row.values()) for row in ROWS)]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    return "".join(delimiter.join(row) + "\r\n" for row in quoted)


def arrow_of(new: Any) -> bytes:
    sink, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def zip_of(**files: str | bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", ".").replace("MACOSX", "__MACOSX"), content)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
KINDS: dict[str, bytes] = {  # the same rows in every kind of file
    "rows.jsonl": LINES.encode(),
    "rows.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=2).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "one_line.jsonl": LINES.replace("\n", " ").encode(),
    "wrapped.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "wrapped_indented.json": json.dumps({"about": {"data": [1]}, "rows": ROWS}, indent=1).encode(),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}).encode(),
    "pandas.json": json.dumps({key: {str(n): r[key] for n, r in enumerate(ROWS)} for key in ROWS[0]}).encode(),
    "rows.csv": csv_of(",").encode(),
    "semicolons.csv": csv_of(";").encode(),
    "rows.tsv": csv_of("\t").encode(),
    "rows.parquet": parquet_of(ROWS),
    "file.arrow": arrow_of(pa.ipc.new_file),
    "stream.arrow": arrow_of(pa.ipc.new_stream),
    "no_extension": LINES.encode(),
}
TEXTS = ("rows.jsonl", "indented.json", "rows.csv", "rows.tsv")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_(name: str, content: str | bytes, **options: Any) -> SourceConfig:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return SourceConfig(path=str(path), **options)

    return write_


def read(source: SourceConfig) -> list[dict[str, str]]:
    return [{"prompt": row.prompt, "response": row.response} for row in read_ift(source)]


@pytest.mark.parametrize("pack", ["", *PACK, "zip", "unnamed gz", "zip of gz"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(write: Any, name: str, pack: str) -> None:
    data = KINDS[name]
    if pack == "zip":
        packed, name = zip_of(**{"folder__" + name.replace("_", "-").replace(".", "_"): data}), "packed.zip"
    elif pack == "zip of gz":
        inner = name.replace("_", "-").replace(".", "_") + "_gz"
        packed, name = zip_of(**{inner: gzip.compress(data), "MACOSX__x": b"?"}), "packed.zip"
    elif pack == "unnamed gz":
        packed = gzip.compress(data)
    else:
        packed, name = (PACK[pack](data), f"{name}.{pack}") if pack else (data, name)
    assert read(write(name, packed)) == ROWS


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "change", ["CRLF", "CR", "BOM", "UTF-16", "UTF-16 big endian", "UTF-32", "blank lines", "ends"]
)
def test_line_ends_blank_lines_and_byte_order_marks_are_accepted(write: Any, name: str, change: str) -> None:
    text = KINDS[name].decode().replace("\r\n", "\n")
    data = {
        "CRLF": text.replace("\n", "\r\n").encode(),
        "CR": text.replace("\n", "\r").encode(),
        "BOM": text.encode("utf-8-sig"),
        "UTF-16": text.encode("utf-16"),
        "UTF-16 big endian": b"\xfe\xff" + text.encode("utf-16-be"),
        "UTF-32": text.encode("utf-32"),
        "blank lines": f"\n \n{text}".encode(),
        "ends": f"{text}\n\n  \n".encode(),
    }[change]
    rows = [{key: value.replace("\r\n", "\n").replace("\r", "\n") for key, value in row.items()} for row in read(
        write(name, data)
    )]  # fmt: skip
    assert rows == ROWS


def test_places_are_lines_of_texts_and_rows_of_tables(write: Any) -> None:
    places = {name: [row.source for row in read_ift(write(name, data))] for name, data in KINDS.items()}
    assert places["rows.jsonl"] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    assert places["indented.json"] == ["indented.json:2", "indented.json:6", "indented.json:10"]
    assert places["rows.csv"] == ["rows.csv:2", "rows.csv:5", "rows.csv:6"]
    assert places["rows.parquet"] == ["rows.parquet:0", "rows.parquet:1", "rows.parquet:2"]
    assert places["rows.json"] == ["rows.json:1", "rows.json:1 (row 2 of the line)", "rows.json:1 (row 3 of the line)"]
    ids = [row.id for row in read_ift(write("a.json", KINDS["rows.json"]))]
    assert ids == ["a-00001", "a-00001-1", "a-00001-2"]
    assert read_ift(write("a.csv.gz", gzip.compress(KINDS["rows.csv"])))[0].id == "a-00002"


def test_text_files_have_a_prompt_per_line(write: Any) -> None:
    from srlm.data.readers import read_prompts

    prompts = read_prompts(write("prompts.txt", "Name a river.\r\n\r\n  Name a lake. \n"))
    assert [(row.prompt, row.source) for row in prompts] == [
        ("Name a river.", "prompts.txt:1"), ("Name a lake.", "prompts.txt:3")
    ]  # fmt: skip


def test_json_in_a_text_file_is_json(write: Any) -> None:
    assert read(write("rows.txt", LINES)) == ROWS


def test_rows_of_tables_are_counted_over_their_parts(write: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}?", "response": "x"} for n in range(10)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=3)
    assert [row.id for row in read_ift(SourceConfig(path=str(tmp_path / "a.parquet")))] == [
        f"a-{n:05d}" for n in range(10)
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("oast2", r"oast2: no such file or folder\. Did you mean the published dataset oasst2\?"),
        ("openai/gsm8k", r"Did you mean hub:openai/gsm8k, a dataset of the Hugging Face Hub\?"),
        ("data/rows.jsonl", r"rows\.jsonl: no such file\. Set `path` to a file, a folder, builtin or hub:OWNER/NAME"),
    ],
)
def test_missing_paths_get_a_suggestion(path: str, message: str) -> None:
    with pytest.raises(SeedError, match=message):
        read_ift(SourceConfig(path=path))


def test_objects_with_lists_are_rows_unless_they_are_columns(write: Any) -> None:
    messages = [{"role": "user", "content": "Ask?"}, {"role": "assistant", "content": "Good."}]
    bad = [messages[0], {"role": "assistant", "content": "Bad."}]
    for row in ({"chosen": messages, "rejected": bad}, {"prompt": "Ask?", "responses": ["Good.", "Bad."]}):
        (found,) = read_ranked(write("one.json", json.dumps(row, indent=1)))
        assert (found.prompt, [answer.text for answer in found.answers]) == ("Ask?", ["Good.", "Bad."])
    (found,) = read_ift(write("one.json", json.dumps({"messages": messages})))
    assert found.response == "Good."


@pytest.mark.parametrize("name", ["nan.json", "nan.parquet"])
def test_nan_is_a_missing_value(write: Any, name: str) -> None:
    row = {"instruction": "Ask?", "input": None, "output": "Good.", "id": 1.0, "score": float("nan")}
    rows = [row, row | {"instruction": "More?", "id": float("nan")}]
    data = json.dumps(rows).replace("null", "NaN") if name == "nan.json" else parquet_of(rows)
    first, second = read_ift(write(name, data))
    assert (first.prompt, first.response, first.id) == ("Ask?", "Good.", "1")
    assert second.id.startswith("nan-0000")


def test_csv_cells_stay_texts_and_empty_cells_are_missing(write: Any) -> None:
    text = "question,context,answer,label\nAsk?,,NA,True\nMore?,5.0,00,False\n"
    (row,) = read_ift(write("rows.csv", text))
    assert (row.prompt, row.response) == ("Ask?", "NA")
    scores = "prompt,response,score\nAsk?,Good.,4.5\nAsk?,Bad.,2\nAsk?,Unrated.,N/A\n"
    (ranked,) = read_ranked(write("rated.csv", scores))
    assert [(answer.text, answer.score) for answer in ranked.answers] == [("Good.", 4.5), ("Bad.", 2.0)]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "Latin-1": ("a.jsonl", '{"prompt": "é"}'.encode("latin-1"), r"a\.jsonl:1: byte 12 \(0xe9\) is not UTF-8.* iconv"),
    "half UTF-16": ("a.jsonl", LINES.encode("utf-16")[:-1], r"is not UTF-16"),
    "cut gz": ("a.jsonl.gz", gzip.compress(LINES.encode())[:-9], r"a\.jsonl\.gz: cannot be read .*download it again"),
    "cut xz": ("a.jsonl.xz", lzma.compress(LINES.encode())[:-9], r"cannot be read .*download it again"),
    "cut bz2": ("a.jsonl.bz2", bz2.compress(LINES.encode())[:-9], r"cannot be read .*download it again"),
    "cut zst": ("a.jsonl.zst", zstd(LINES.encode())[:-5], r"cannot be read .*download it again"),
    "cut zip": ("a.zip", zip_of(a_jsonl=LINES)[:-30], r"cannot be read .*download it again"),
    "cut parquet": ("a.parquet", parquet_of(ROWS)[:-9], r"a\.parquet: this Parquet file cannot be read .*download"),
    "cut arrow": ("a.arrow", KINDS["file.arrow"][:-20], r"a\.arrow: this Arrow file cannot be read .*download"),
    "two files": ("a.zip", zip_of(a_jsonl=LINES, b_jsonl=LINES), r"contains 2 files \(a\.jsonl, b\.jsonl\)\. Unzip"),
    "no file": ("a.zip", zip_of(), r"a\.zip contains 0 files \(none\)"),
    "Excel": ("a.xlsx", zip_of(xl__workbook_xml="x"), r"a\.xlsx is an Excel workbook\. Save the sheet as CSV"),
    "LFS": ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid x", r"a Git LFS pointer .*git lfs pull"),
    "pickle": ("a.pkl", pickle.dumps(ROWS), r"a Python pickle, which could run code"),
    "web page": ("a.jsonl", b"<!DOCTYPE html><html>", r"a web page instead of data\. Download the raw file"),
    "SQLite": ("a.db", b"SQLite format 3\0", r"an SQLite database\. Export the table"),
    "YAML": ("a.yaml", b"- prompt: x", r"a\.yaml is YAML\. Save the rows as JSON Lines"),
    "more cells": ("a.csv", b"prompt,response\nA,b, c\n", r"a\.csv:2: the row has 3 cells, and the header has 2"),
    "fewer cells": ("a.csv", b"prompt,response\nA,b\nC\n", r"a\.csv:3: the row has 1 cells, and the header has 2"),
    "open quote": ("a.csv", b'prompt,response\nA,"b\n', r"a\.csv:2: not CSV \(unexpected end of data\)"),
    "same column": ("a.csv", b"prompt,prompt\nA,b\n", r"a\.csv:1: the columns are 'prompt', 'prompt'"),
    "trailing comma": ("a.json", b'[{"prompt": "a"},\n]', r"a\.json:2: not JSON \("),
    "single quotes": ("a.jsonl", b"{'prompt': 'a'}", r"a\.jsonl:1: not JSON \(.*double quotes"),
    "broken third row": ("a.jsonl", (LINES + "{\n" + LINES).encode(), r"a\.jsonl:4: not JSON \("),
    "broken second object": ("a.json", b'{\n"a": 1\n}\n{\n"b" 2\n}', r"a\.json:5: not JSON \(Expecting ':'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_unreadable_files_are_refused_with_what_they_are_and_what_to_do(write: Any, case: str) -> None:
    name, data, message = BROKEN[case]
    with pytest.raises(SeedError, match=message):
        read_ift(write(name, data))


# Folders, saved datasets, and the Hub


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_folders_give_the_files_of_the_split(write: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "srlm.data")
    one, two, three = LINES.splitlines(keepends=True)
    write("mine/a/train-00000.jsonl", one)
    write("mine/b/train-00000.jsonl.gz", gzip.compress(two.encode()))
    write("mine/test.jsonl", three)
    write("mine/notes.csv", "a,b\n1,2\n")
    source = SourceConfig(path=str(tmp_path / "mine"))
    found = read_ift(source)
    assert [row.source for row in found] == ["a/train-00000.jsonl:1", "b/train-00000.jsonl.gz:1"]
    assert [row.id for row in found] == ["train-00000-00001", "b/train-00000.jsonl.gz:1"]
    assert "mine: split 'train' has 2 files; not read: notes.csv, test.jsonl" in caplog.messages
    source.split = "test"
    assert [row.prompt for row in read_ift(source)] == [ROWS[2]["prompt"]]
    source.split = "validation"
    with pytest.raises(SeedError, match=r"mine: no split 'validation'\. Set `split` to one of train, test"):
        read_ift(source)


@pytest.mark.parametrize("path", ["mine", "./mine", "mine/", "sub/../mine"])
def test_relative_folders_are_read(
    path: str, write: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "srlm.data")
    write("sub/x.txt", "")
    write("mine/a.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    assert [row.source for row in read_ift(SourceConfig(path=path))] == [f"a.jsonl:{n}" for n in (1, 2, 3)]
    assert not [message for message in caplog.messages if "not read" in message]


def test_saved_datasets_name_the_splits_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "srlm.data")
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "both"))
    rows.save_to_disk(str(tmp_path / "one"))
    read_ift(SourceConfig(path=str(tmp_path / "both")))
    assert "both: split 'train'; not read: test" in caplog.messages
    read_ift(SourceConfig(path=str(tmp_path / "one"), split="test"))
    assert "one: a saved dataset without splits; all rows are read, whatever `split` is" in caplog.messages


def test_folders_with_configurations_give_the_named_one(write: Any, tmp_path: Path) -> None:
    card = (
        "---\nconfigs:\n- config_name: first\n  data_files: a.jsonl\n- config_name: second\n  data_files: b.csv\n---\n"
    )
    write("mine/README.md", card)
    write("mine/a.jsonl", LINES)
    write("mine/b.csv", "prompt,response\nAsk?,007\n")
    path = str(tmp_path / "mine")
    assert read(SourceConfig(path=path, configuration="second")) == [{"prompt": "Ask?", "response": "007"}]
    with pytest.raises(SeedError, match=r"mine: this folder cannot be read \(.*first.*second"):
        read_ift(SourceConfig(path=path))


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"the folder contains no data file"):
        read_ift(SourceConfig(path=str(tmp_path)))


@pytest.mark.parametrize("prefix", ["", "hub:"])
def test_saved_datasets_are_read(tmp_path: Path, prefix: str) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    assert read(SourceConfig(path=f"{prefix}{tmp_path}/one")) == ROWS
    splits = {"train": datasets.Dataset.from_list(ROWS[:1]), "test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "two"))
    assert read(SourceConfig(path=f"{prefix}{tmp_path}/two", split="test")) == ROWS[1:]
    with pytest.raises(SeedError, match=r"no split 'all'\. Set `split` to one of train, test"):
        read_ift(SourceConfig(path=f"{prefix}{tmp_path}/two", split="all"))


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("hub:a/b", ("hub:a/b", "", "", "train")),
        ("hub:a/b[test]", ("hub:a/b", "", "", "test")),
        ("hub:a/b:main", ("hub:a/b", "main", "", "train")),
        ("hub:a/b@v1.0", ("hub:a/b", "", "v1.0", "train")),
        ("hub:a/b:main@refs/pr/1[train[:10]+test]", ("hub:a/b", "main", "refs/pr/1", "train[:10]+test")),
        ("gsm8k", ("hub:openai/gsm8k", "main", "", "train")),
        ("reward_bench_2", ("hub:allenai/reward-bench-2", "", "", "test")),
        ("a[b].jsonl", ("a[b].jsonl", "", "", "train")),
    ],
)
def test_hub_paths_have_a_configuration_revision_and_split(path: str, parts: tuple[str, ...]) -> None:
    found = resolved(SourceConfig(path=path))
    assert (found.path, found.configuration, found.revision, found.split) == parts


def test_invalid_hub_paths_are_refused() -> None:
    for path in ("hub:", "hub:a/b[", "hub:a/b@", "hub:a/b:"):
        with pytest.raises(SeedError, match=r"not the name of a dataset\. Write hub:OWNER/NAME, "):
            resolved(SourceConfig(path=path))


def test_hub_datasets_are_read_by_configuration_and_slice(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` prefers a local folder OWNER/NAME to the Hub."""
    names = ("first", "a"), ("second", "b")
    files = "".join(f"- config_name: {name}\n  data_files: {file}.jsonl\n" for name, file in names)
    card = f"---\nconfigs:\n{files}---\n"
    write("owner/name/README.md", card)
    write("owner/name/a.jsonl", LINES)
    write("owner/name/b.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    assert read(SourceConfig(path="hub:owner/name:second[train[1:]]")) == ROWS[1:]
    with pytest.raises(SeedError, match=r"hub:owner/name, split 'train': could not be loaded \(.*first.*second"):
        read_ift(SourceConfig(path="hub:owner/name"))
    with pytest.raises(SeedError, match=r"configuration 'third', split 'train': could not be loaded"):
        read_ift(SourceConfig(path="hub:owner/name:third"))


@pytest.mark.parametrize("name", ["middle_blank.jsonl", "rows_cr.jsonl", "rows.arrow", "rows.parquet", "rows.zip",
                                  "rows.jsonl.xz", "rows.jsonl.bz2", "wrapped.json", "pretty.json", "columns.json",
                                  "rows_utf16.jsonl", "trailing_blank.jsonl", "wrapped_pretty.json"])  # fmt: skip
def test_files_that_users_reported_are_read(shared_data: Path, name: str) -> None:
    found = read(SourceConfig(path=str(shared_data.parent / "cases/file_kinds" / name)))
    assert found == [
        {"prompt": f"Say {word} in a sentence.", "response": f"Here is {word}."}
        for word in ("kettle", "harbour", "violin", "fern")
    ]


def test_the_folder_of_a_run_is_refused_with_the_files_that_can_be_read(tmp_path: Path) -> None:
    """Its records, such as answers, would otherwise be taken for data."""
    for name in ("run.json", "config.yaml"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "iteration_1").mkdir()
    (tmp_path / "iteration_1" / "test.jsonl").write_text(LINES)
    with pytest.raises(SeedError, match=r"folder of a run, which only prompts\.path.* none yet, because"):
        read_ift(SourceConfig(path=str(tmp_path)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ift.jsonl").write_text(LINES)
    with pytest.raises(SeedError, match=r"use one of its files: \S+/data/ift\.jsonl\.$"):
        read_ift(SourceConfig(path=str(tmp_path)))
    assert len(read_ift(SourceConfig(path=str(tmp_path / "data" / "ift.jsonl")))) == len(ROWS)
