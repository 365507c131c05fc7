"""`python -m srlm.run` on the command line: user errors have a message and no traceback.

No run here generates text: each ends at the check of its model, at its data, or at an engine that does not start.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from srlm.pipeline.workspace import Workspace
from tests.engine_that_fails import OPTIONS as NO_ENGINE
from tests.forked import run_forked

pytestmark = pytest.mark.process
NO_MODEL = "model.name=no-such-folder/anywhere/model"
NO_MODEL_MESSAGE = "ModelError: model.name=no-such-folder/anywhere/model: no such folder"
NO_ENGINE_MESSAGE = "EngineError: This engine does not start."


class Command:
    """`python -m srlm.run` in an empty folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / "default"

    def __call__(self, *overrides: str, code: int = 1) -> str:
        """Return the output in one line; without a `model.name=` option the run ends at the start of its engine."""
        named = any(word.startswith("model.name=") for word in overrides)
        words = list(overrides) if named else [*NO_ENGINE, *overrides]
        environment = {"SRLM_CACHE": str(self.folder / "cache"), "COLUMNS": "100"}
        ran = run_forked("srlm.run", *words, "tracking=none", cwd=self.folder, environment=environment, merge=True)
        assert ran.returncode == code, ran.stdout
        assert "Traceback" not in ran.stdout
        return " ".join(ran.stdout.split())

    def write(self, name: str, *rows: Any) -> str:
        """Write a JSON Lines file and return its name; rows that are text are written unchanged."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return name


@pytest.fixture
def command(tmp_path) -> Command:
    return Command(tmp_path)


def test_help_shows_usage_options_examples_and_groups(command):
    text = command("--help", code=0)
    for part in ("usage: srlm run", "candidates.count=6", "dpo.beta=0.1", "srlm run experiment=smoke", "verdict_only"):
        assert part in text
    assert not command.run_folder.parent.exists()


# Options


@pytest.mark.parametrize(
    ("override", "expected_message"),
    [
        ("promts.count=3", "ConfigError: There is no option promts.count. Did you mean prompts.count?"),
        ("prompts.cuont=3", "ConfigError: There is no option prompts.cuont. Did you mean prompts.count?"),
        ("prompts.count=many", "ConfigError: prompts.count=many is invalid: it must be a whole number."),
        (
            "engine.kind=llama",
            "ConfigError: engine.kind=llama does not exist. Use one of vllm, transformers, or module:Class",
        ),
        ("model=gpt5", "There is no model=gpt5. There are llama2_70b"),
        ("candidates.count=1", "ConfigError: candidates.count=1 is invalid: it must be 2 or more."),
        ("data=files", "ConfigError: data.ift.path='' is invalid: it must be a file, hub:OWNER/NAME or builtin, with "),
        ("name=../elsewhere", "ConfigError: name='../elsewhere' is invalid: it must be a folder name."),
    ],
)
def test_invalid_options_are_refused_with_the_reason(command, override, expected_message):
    assert expected_message in command(override)
    assert not command.run_folder.parent.exists()


# Models


def test_a_missing_model_is_refused(command):
    text = command(NO_MODEL)
    assert NO_MODEL_MESSAGE in text
    assert not command.run_folder.parent.exists()
    assert "Use one of these, or the path of a checkpoint folder or .gguf file." in text


@pytest.mark.variant
@pytest.mark.parametrize(
    ("files", "expected_message"),
    [
        ((), "has no config.json, so it is not a checkpoint. Use a checkpoint's folder."),
        (
            ("config.json", "pytorch_model.bin"),
            "has no *.safetensors file. Weights in other formats (*.bin, *.pt) can run code when they are loaded, so "
            "they are not read. Convert them with save_pretrained first.",
        ),
    ],
    ids=["empty", "no safetensors"],
)
def test_folders_without_a_checkpoint_are_refused(command, files, expected_message):
    (command.folder / "checkpoint").mkdir()
    for file in files:
        (command.folder / "checkpoint" / file).write_text("{}")
    text = command("model.name=checkpoint")
    assert "ModelError: " in text
    assert f"model.name=checkpoint: {command.folder}/checkpoint {expected_message}" in text


def test_a_missing_gguf_file_is_refused(command):
    assert "model.name=mine.gguf: no such GGUF file." in command("model.name=mine.gguf")


def test_unavailable_hub_models_are_refused_with_the_reason(command):
    text = command("model.name=nobody/nothing")
    assert "ModelError: model.name=nobody/nothing: it could not be downloaded from the Hub" in text
    assert "the id, the revision, the network and, for a gated model, HF_TOKEN" in text


@pytest.mark.variant
def test_a_model_without_chat_template_is_refused(command):
    """The folder has a real tokenizer; only the header of the weights file is read at this point."""
    from tokenizers import Tokenizer, models

    folder = command.folder / "checkpoint"
    folder.mkdir()
    Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="<end>")).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    text = command("model.name=checkpoint")
    assert f"ModelError: model.name=checkpoint: The model in {folder} has no chat template." in text
    assert "Set one: model.chat_template=chatml (available: chatml, plain) or the path of a .jinja file." in text


# Seeds


ROWS = [{"prompt": f"What is {n} and {n}?", "response": f"It is {2 * n}."} for n in range(3)]


def test_invalid_json_in_seeds_is_refused_with_its_line(command):
    path = command.write("mine.jsonl", *ROWS, '{"prompt": "What is')
    text = command(f"data.ift.path={path}")
    assert "SeedError: mine.jsonl:4: not JSON (Unterminated string starting at, column 12). Fix it" in text


def test_seed_rows_without_a_field_are_refused_with_their_line(command):
    path = command.write("mine.jsonl", *ROWS, {"prompt": "What is it?"})
    assert re.search(r"SeedError: mine\.jsonl:4: .*response", command(f"data.ift.path={path}"))


def test_a_missing_seed_file_is_refused(command):
    text = command("data.eft.path=nowhere.jsonl")
    assert "SeedError: nowhere.jsonl: no such file. Set `path` to a file, a folder, builtin or hub:OWNER/NAME." in text


@pytest.mark.parametrize(
    ("rows", "expected_message"),
    [
        ((), "mine.jsonl: the file is empty. It must contain one JSON object per line, or a JSON array."),
        (
            ROWS,
            "has no ranked answers, which EFT, data.ift_answers and judgements.path need. Use data in one of the",
        ),
        (({"prompt": "Why?", "responses": ["Because."]},), "fewer than two ranked answers"),
    ],
    ids=["empty", "no ranks", "one answer"],
)
def test_unusable_eft_data_are_refused_with_the_reason(command, rows, expected_message):
    text = command(f"data.eft.path={command.write('mine.jsonl', *rows)}")
    assert re.search(r"(Seed|NoRanks)Error: mine\.jsonl", text)
    assert expected_message in text


def test_too_few_eft_prompts_are_refused(command):
    rows = [{"prompt": f"Prompt {word}", "responses": ["good", "bad"]} for word in ("one", "two")]
    text = command("data.eft.languages=[]", f"data.eft.path={command.write('mine.jsonl', *rows)}")
    assert re.search(r"SeedError: data\.eft\.path=mine\.jsonl gives 1 EFT prompts for training and 1 held-out", text)
    assert "add ranked prompts, or change data.eft_held_out." in text


def test_rows_that_are_left_out_are_printed(command):
    """Hydra disables loggers that exist before it starts."""
    row = {"prompt": "Name a river in France.", "response": "The Loire."}
    file = command.write("ift.jsonl", row, row, {"prompt": "Name a sea.", "response": ""})
    text = command(f"data.ift.path={file}")
    assert "ift.jsonl: 1 read, 2 left out: 1 repeated, 1 no answer (empty)" in text
    assert NO_ENGINE_MESSAGE in text


def test_a_run_to_m1_says_that_own_pairs_are_for_later_models(command):
    file = command.write("pairs.jsonl", {"prompt": "Name a sea.", "chosen": "The North Sea.", "rejected": "Sea."})
    text = command(f"pairs.path={file}", "evaluation=none", "sft.data=none", code=0)
    assert "pairs.path=pairs.jsonl is for M2 and later models. To train on it: iteration=2" in text


# The run's folder


@pytest.mark.variant
def test_a_run_in_use_is_refused(command):
    run = Workspace(command.run_folder)
    with run.lock():
        text = command()
    assert f"RunFolderError: The run {run.root} is in use by process {os.getpid()} on " in text
    assert "Wait for it, stop it, or start another run with name=..." in text
    assert os.listdir(run.root) == [".lock"]
    assert NO_ENGINE_MESSAGE in command()


def test_changed_options_are_refused_with_both_values(command):
    command()
    text = command("seed=1", "data.eft_held_out=0.5")
    folder = command.run_folder
    assert f"RunFolderError: The stage data/data in {folder} cannot be used: " in text
    assert "options have changed since this stage ran: data.eft_held_out was 0.2, now 0.5; seed was 0, now 1" in text
    ways = f"revert the options, or start a new run with name=..., or delete {folder}/data and all later iteration_*"
    assert ways in text


@pytest.mark.variant
def test_a_refused_command_does_not_change_the_run(command):
    """config.yaml and run.json contain the options of the stored stages, not those of the refused command."""
    command()
    before = {name: (command.run_folder / name).read_bytes() for name in ("config.yaml", "run.json")}
    assert yaml.safe_load(before["config.yaml"])["seed"] == 0
    assert "seed was 0, now 1" in command("seed=1")
    assert {name: (command.run_folder / name).read_bytes() for name in before} == before


@pytest.mark.variant
def test_a_changed_seed_file_is_refused(command):
    path = command.write("mine.jsonl", *ROWS)
    assert NO_ENGINE_MESSAGE in command(f"data.ift.path={path}")
    command.write("mine.jsonl", *ROWS, {"prompt": "What is it?", "response": "A word."})
    text = command(f"data.ift.path={path}")
    assert "RunFolderError: The stage data/data" in text
    assert "input mine.jsonl has changed since this stage ran" in text


@pytest.mark.variant
@pytest.mark.parametrize(
    ("wrong", "right", "then"),
    [
        ("data.ift.path=nowhere.jsonl", "data.ift.path=mine.jsonl", NO_ENGINE_MESSAGE),
        (NO_MODEL, "model.name=mine.gguf", "model.name=mine.gguf: no such GGUF file."),
    ],
    ids=["data", "model"],
)
def test_corrected_options_are_accepted(command, wrong, right, then):
    """The message names the wrong option; no output depends on its value, so the correct one is accepted."""
    command.write("mine.jsonl", *ROWS)
    command(wrong)
    assert then in command(right)


def test_the_command_writes_only_into_the_run_folder(command):
    command()
    assert {path.name for path in command.folder.iterdir()} == {"runs", "cache"}
