"""srlm.data.prepare: the rows of each source that a run uses."""

from __future__ import annotations

import json
import logging

import pytest

from srlm.data.config import DataConfig
from srlm.data.prepare import prepare_seeds
from srlm.io.record_file import read_records
from srlm.types import RankedPrompt, SeedExample
from tests.helpers import options


@pytest.mark.parametrize(("given", "found"), [("[en]", {"en"}), ("[zh]", {"zh"}), ("[]", {"en", "zh"})])
def test_builtin_languages_filter_the_builtin_set(tmp_path, given, found):
    prepare_seeds(options("data.ift.limit=0", f"data.builtin_languages={given}"), tmp_path)
    for name, kind in (("ift", SeedExample), ("eft", RankedPrompt), ("evaluation", SeedExample)):
        assert {row.language for row in read_records(tmp_path / f"{name}.jsonl", kind)} == found


def test_builtin_languages_do_not_filter_own_files(tmp_path):
    """The filter of the built-in set does not apply to other sources."""
    own = tmp_path / "mine.jsonl"
    own.write_text(json.dumps({"prompt": "Nenne einen Fluss.", "response": "Die Elbe."}) + "\n", encoding="utf-8")
    assert DataConfig().builtin_languages == ["en"]
    counts = prepare_seeds(options(f"data.ift.path={own}"), tmp_path)
    assert counts["ift"] == 1
    assert {row.language for row in read_records(tmp_path / "evaluation.jsonl", SeedExample)} == {"en"}


def test_each_source_has_its_own_languages(tmp_path):
    prepare_seeds(options("data.ift.limit=0", "data.ift.languages=[zh]"), tmp_path)
    assert {row.language for row in read_records(tmp_path / "ift.jsonl", SeedExample)} == {"zh"}
    assert {row.language for row in read_records(tmp_path / "eft.jsonl", RankedPrompt)} == {"en"}


def test_dropped_rows_are_logged_with_the_reason(tmp_path, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    prepare_seeds(options("data.ift.limit=0"), tmp_path)
    assert not [message for message in caplog.messages if message.startswith("split")]
    eft = read_records(tmp_path / "eft.jsonl", RankedPrompt)
    own = tmp_path / "mine.jsonl"
    rows = [{"prompt": row.prompt, "response": "Yes."} for row in eft[:2]]
    rows.append({"prompt": "Nenne einen Fluss.", "response": "Die Elbe."})
    own.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert prepare_seeds(options(f"data.ift.path={own}"), tmp_path)["ift"] == 1
    assert "split: 2 dropped at data.near_duplicate=0.7: 2 IFT near an EFT prompt" in caplog.messages
