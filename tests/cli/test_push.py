"""srlm push: planned uploads, refused files, and requests to the Hub.

The Hub is a mock with the signatures of huggingface_hub's HfApi, so that calls with wrong arguments fail here, too;
nothing is uploaded.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import huggingface_hub
import pytest
from huggingface_hub import DatasetCard, HfApi, ModelCard

from srlm.cli.push import Upload, main, plan, problems, push, refuse
from srlm.data.config import SourceConfig
from srlm.data.readers import read_prompts
from srlm.errors import PushError, RunFolderError
from srlm.io.record_file import read_records
from srlm.pipeline.artifacts import SEEDS
from srlm.pipeline.run_reader import open_run
from srlm.pipeline.workspace import CARD
from srlm.reporting.dataset_card import data_files, features
from srlm.types import Judgement, PreferencePair, Prompt, SeedExample

TOKEN = "hf_" + "x" * 34  # has a token's format and is invalid
PLACE = "owner/rivers"
MODEL_FILES = {
    CARD,
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
DATA_FILES = {CARD, *(f"{kind}/iteration_2.jsonl" for kind in ("prompts", "candidates", "judgements", "pairs"))}


def accept(run: Path) -> None:
    """Record the current model folders as the outputs of training."""
    workspace = open_run(run)
    for t, name in ((1, "sft"), (2, "dpo")):
        path = run / f"iteration_{t}/manifests/{name}.json"
        manifest = json.loads(path.read_text())
        manifest["outputs"] = {f"iteration_{t}/model": workspace.fingerprint(run / f"iteration_{t}/model")}
        path.write_text(json.dumps(manifest))


def planned(run: Path, t: int | None = None, data: bool = False, seeds: bool = False) -> list[Upload]:
    return plan(open_run(run), PLACE, t, data, seeds)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the mock: an empty private repository and a logged-in user."""
    api = create_autospec(HfApi, instance=True)
    api.create_repo.return_value = f"https://huggingface.co/{PLACE}"
    api.list_repo_files.return_value = [".gitattributes", CARD]
    api.repo_info.return_value = SimpleNamespace(private=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    return api


def test_the_model_is_uploaded_with_its_card(finished_run):
    [upload] = planned(finished_run)
    assert (upload.place, upload.kind, set(upload.files)) == (PLACE, "model", MODEL_FILES)
    card = ModelCard(bytes(upload.files[CARD]).decode())
    assert card.data.model_name == "rivers-M2"
    assert f'name = "{PLACE}"' in card.text
    refuse(open_run(finished_run), [upload])
    [first] = planned(finished_run, 1)
    assert b"# rivers-M1" in first.files[CARD]


def test_data_exclude_seeds_unless_requested(finished_run):
    workspace = open_run(finished_run)
    uploads = planned(finished_run, data=True)
    assert [upload.kind for upload in uploads] == ["model", "dataset"]
    assert set(uploads[1].files) == DATA_FILES
    refuse(workspace, uploads)
    content = b"".join(one if isinstance(one, bytes) else one.read_bytes() for one in uploads[1].files.values())
    for artifact in SEEDS:
        name, kind = Path(artifact.file).stem, artifact.record
        for row in read_records(finished_run / f"data/{name}.jsonl", kind):
            assert row.prompt.encode() not in content
    assert b"repeated word by word" not in content  # an attempt rejected as a copy of a seed
    with_seeds = planned(finished_run, data=True, seeds=True)[1]
    assert set(with_seeds.files) == DATA_FILES | {f"seeds_{Path(artifact.file).stem}/seeds.jsonl" for artifact in SEEDS}
    assert b"The seeds are part of this dataset." in with_seeds.files[CARD]
    assert b"The seeds are not in this dataset." in uploads[1].files[CARD]


def test_the_uploaded_dataset_loads_with_its_card(finished_run, tmp_path):
    """Loaded as from the Hub: the columns' types come from the card, also for columns of nulls."""
    from datasets import load_dataset

    upload = planned(finished_run, data=True, seeds=True)[1]
    for name, source in upload.files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    assert DatasetCard.load(tmp_path / "data" / CARD).data.license == "unknown"

    def rows(kind: str) -> Any:
        return load_dataset(str(tmp_path / "data"), kind, split="train", cache_dir=str(tmp_path / "cache"))

    judgements = rows("judgements")
    assert judgements.features["strength"].dtype == "float64"
    assert judgements["strength"][0] is None
    kept = read_records(finished_run / "iteration_2/3_judgements.jsonl", Judgement)
    assert list(judgements["text"]) == [judgement.text for judgement in kept]
    pairs = read_records(finished_run / "iteration_2/4_pairs.jsonl", PreferencePair)
    assert list(rows("pairs")["chosen"]) == [pair.chosen for pair in pairs]
    assert len(rows("prompts")) == 3
    assert rows("seeds_eft")[0]["answers"][0]["rank"] == 0
    constraints = rows("seeds_evaluation")[0]["constraints"]
    assert json.loads(constraints[0]["kwargs"]) == {"relation": "at least", "num_sentences": 3}
    again = read_prompts(SourceConfig(path=str(tmp_path / "data/seeds_evaluation/seeds.jsonl")))
    assert again[0].constraints == read_records(finished_run / "data/evaluation.jsonl", SeedExample)[0].constraints


def test_features_follow_the_fields_of_a_record():
    assert features(Prompt)[:3] == [
        {"name": "id", "dtype": "string"},
        {"name": "text", "dtype": "string"},
        {"name": "shots", "list": "string"},
    ]
    assert {"name": "score", "dtype": "float64"} in features(Judgement)
    assert {"name": "probabilities", "list": "float64"} in features(Judgement)


def test_other_kinds_of_files_are_skipped(own_run):
    folder = own_run / "iteration_2/model"
    (folder / "training_args.bin").write_bytes(pickle.dumps({"a": 1}))
    (folder / "modeling.py").write_text("print()")
    (folder / "link.json").symlink_to("/etc/hostname")
    accept(own_run)
    [upload] = planned(own_run)
    assert set(upload.files) == MODEL_FILES
    assert upload.skipped == {
        "link.json": "a link",
        "modeling.py": "not a checkpoint file",
        "training_args.bin": "not a checkpoint file",
    }


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", pickle.dumps({"a": 1}), ": not a safetensors file"),
        ("model.safetensors", b"", ": not a safetensors file"),
        ("vocab.model", pickle.dumps({"a": 1}), ": a pickle, which can execute code when it is loaded"),
        ("config.json", b"PK\x03\x04" + b"\0" * 40, ": a pickle, which can execute code when it is loaded"),
        ("config.json", b"\xff\xfe\0", ": not UTF-8 text"),
        ("config.json", b'{\n"_name_or_path": "/home/somebody/models/base"}', ":2: a local path"),
        ("config.json", b'{"path": "C:\\\\Users\\\\somebody\\\\model"}', ":1: a local path"),
        ("config.json", b'{"path": "~/models/base"}', ":1: a local path"),
        ("tokenizer_config.json", f'{{"token": "{TOKEN}"}}'.encode(), ":1: a Hub token"),
        ("chat_template.jinja", b"-----BEGIN OPENSSH PRIVATE KEY-----", ":1: a private key"),
        ("generation_config.json", b'{"key": "sk-proj-abcdefghijklmnopqrst"}', ":1: an API key"),
        ("tokenizer.json", b"\n\nghp_" + b"a" * 36, ":3: a token of a code server"),
    ],
)
def test_unsafe_files_and_secrets_are_refused_with_their_location(own_run, file, content, message):
    path = own_run / "iteration_2/model" / file
    path.write_bytes(content)
    accept(own_run)
    uploads = planned(own_run)
    with pytest.raises(PushError) as refused:
        refuse(open_run(own_run), uploads)
    assert f"model {file}{message}" in str(refused.value)
    assert "xxxx" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"_name_or_path": "owner/model", "url": "https://example.org/home/of/models"}'),
        ("tokenizer.json", '{"/home/user/": 1, "/usr/lib": 2}'),  # tokens of a vocabulary
        ("candidates/iteration_2.jsonl", '{"text": "Open a shell and type: cd /home/user/Documents"}'),
        ("chat_template.jinja", "{% if a %}Q:\\nA:\\n/{{ b }}{% endif %}"),
    ],
)
def test_harmless_texts_are_accepted(name, text):
    assert problems(name, text.encode(), {}) == []


def test_secrets_and_paths_of_this_machine_are_refused(own_run, monkeypatch, tmp_path):
    """An API key in the environment, the Hub token, the home and run folders are found even in model texts."""
    monkeypatch.setenv("RIVERS_API_KEY", "not-of-any-known-form-1234")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "short-token-of-mine")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    workspace = open_run(own_run)
    texts = [
        "not-of-any-known-form-1234",
        "xshort-token-of-mine",
        f"{tmp_path}/me/x",
        f"{own_run}/logs",
        "cd /home/me/",
    ]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    with pytest.raises(PushError) as refused:
        refuse(workspace, [Upload(PLACE, "dataset", "", {"candidates/iteration_2.jsonl": content})])
    message = re.findall(r"iteration_2\.jsonl:(\d): (.*)", str(refused.value))
    assert sorted(message) == [
        ("1", "the value of the environment variable RIVERS_API_KEY"),
        ("2", "the Hub token"),
        ("3", "a path of this machine"),
        ("4", "a path of this machine"),
    ]
    assert "1234" not in str(refused.value)


def test_dry_run_lists_files_without_hub_requests(own_run, hub, capfd):
    (own_run / "iteration_2/model/training_args.bin").write_bytes(b"\x80")
    accept(own_run)
    main([str(own_run), "--to", PLACE, "--data", "--private", "--dry-run"])
    message = capfd.readouterr().err
    for name in MODEL_FILES | DATA_FILES:
        assert re.search(rf"^ +[\d.]+ (bytes|[kM]B)  {re.escape(name)}$", message, re.MULTILINE), name
    assert "model owner/rivers (private): rivers-M2, srlm" in message
    assert "skipped: training_args.bin" in message
    assert "nothing was uploaded" in message
    assert TOKEN not in message
    assert hub.mock_calls == []


def test_dry_run_fails_when_a_file_is_refused(own_run, hub, capfd):
    (own_run / "iteration_2/model/config.json").write_text('{"_name_or_path": "/home/somebody/base"}')
    accept(own_run)
    for last in (["--dry-run"], []):
        with pytest.raises(SystemExit) as ended:
            main([str(own_run), "--to", PLACE, *last])
        assert ended.value.code == 1
        assert "model config.json:1: a local path" in capfd.readouterr().err
    assert hub.mock_calls == []


def test_push_makes_one_commit_per_repository(finished_run, hub, capfd):
    main([str(finished_run), "--to", PLACE, "--data", "--private"])
    made = [(call.kwargs["repo_type"], call.kwargs["private"]) for call in hub.create_repo.mock_calls]
    assert made == [("model", True), ("dataset", True)]
    model, data = hub.create_commit.mock_calls
    assert {operation.path_in_repo for operation in model.args[1]} == MODEL_FILES
    assert {operation.path_in_repo for operation in data.args[1]} == DATA_FILES
    assert (model.kwargs["repo_type"], data.kwargs["repo_type"]) == ("model", "dataset")
    names = [call[0] for call in hub.mock_calls]
    assert names.index("create_commit") > max(i for i, name in enumerate(names) if name == "list_repo_files")
    message = capfd.readouterr().err
    assert message.count(f"Uploaded  https://huggingface.co/{PLACE}") == 2
    assert TOKEN not in message


def test_without_private_the_hub_default_applies(finished_run, hub):
    push(planned(finished_run), private=False)
    assert hub.create_repo.mock_calls[0].kwargs["private"] is None
    assert not hub.repo_info.called


def test_private_push_to_a_public_repository_is_refused(finished_run, hub):
    hub.repo_info.return_value = SimpleNamespace(private=False)
    with pytest.raises(PushError, match="already exists and is public"):
        push(planned(finished_run), private=True)
    assert not hub.create_commit.called


def test_repositories_with_other_weights_are_refused(finished_run, hub):
    hub.list_repo_files.return_value = ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
    with pytest.raises(PushError, match=r"\(model-00001-of-00002\.safetensors, pytorch_model\.bin\)"):
        push(planned(finished_run), private=False)
    assert not hub.create_commit.called


def test_hub_errors_are_shown_without_the_token(finished_run, hub):
    hub.create_commit.side_effect = [None, OSError(f"401 for {TOKEN}")]
    with pytest.raises(PushError, match=r"OSError: 401 for \(the token\)\). Uploaded before: https://") as refused:
        push(planned(finished_run, data=True), private=False)
    assert TOKEN not in str(refused.value)


def test_push_without_a_token_is_refused(finished_run, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(PushError, match="set HF_TOKEN, or log in"):
        push(planned(finished_run), private=False)
    assert hub.mock_calls == []


def test_offline_mode_is_named_in_the_error(finished_run, monkeypatch):
    """The real library runs in offline mode."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    with pytest.raises(PushError, match=r"The upload failed \(OfflineModeIsEnabled"):
        push(planned(finished_run), private=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"place": "rivers"}, "is not a Hub repository"),
        ({"place": "../up/there"}, "is not a Hub repository"),
        ({"t": 0}, r"has no trained and evaluated M0\. Available: M1, M2 \(M0 is the base model"),
        ({"t": 3}, "has no trained and evaluated M3"),
        ({"t": 1, "data": True}, "M1 is trained on seed data only"),
        ({"seeds": True}, "Use it together with --data"),
    ],
)
def test_invalid_arguments_are_refused(finished_run, arguments, message):
    with pytest.raises(PushError, match=message):
        plan(open_run(finished_run), **{"place": PLACE, "t": None, "data": False, "seeds": False} | arguments)


def test_changed_model_or_records_are_refused(own_run):
    path = own_run / "iteration_2/3_judgements.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(RunFolderError, match=r"3_judgements\.jsonl is missing or has changed"):
        data_files(open_run(own_run), 2, False)
    shutil.rmtree(own_run / "iteration_2/model")
    with pytest.raises(RunFolderError, match="model is missing or has changed"):
        planned(own_run)
