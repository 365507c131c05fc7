"""srlm.models.resolve: the Hub id and the licence of a base model."""

from __future__ import annotations

import pytest
from gguf import GGUFWriter

from srlm.config import Config
from srlm.errors import ModelError
from srlm.io.record_file import write_records
from srlm.models.base_model import worker
from srlm.models.chat_template import read_chat_template
from srlm.models.config import ModelConfig
from srlm.models.resolve import external_options, hub_id, licence_of, locate
from srlm.pipeline.artifacts import EVALUATION_PROMPTS, IFT, LABELLED, OWN_PROMPTS, PAIRS, POOL
from srlm.pipeline.workspace import Workspace
from srlm.types import LabelledAnswer, PreferencePair, SeedExample, Turn
from tests.helpers import tiny_tokenizer


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("owner/model-1.5B", "owner/model-1.5B"),
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("tiny-random", None),
        ("/home/me/model", None),
        ("./model", None),
        ("folder/model.gguf", None),
        ("owner/my model", None),
        ("owner/model--2", None),
        ("-owner/model", None),
        ("", None),
    ],
)
def test_hub_id_of_model_names(name, found):
    assert hub_id(name) == found


@pytest.mark.parametrize("name", ["", "owner/my model", "owner/model..2"])
def test_names_that_no_model_can_have_are_refused(name):
    with pytest.raises(ModelError, match="no such folder, and neither a Hub id"):
        locate(ModelConfig(name=name))


def test_existing_folder_has_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("owner/model") is None


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model\n", {"license": "apache-2.0"}),
        (
            "---\r\nlicense: other\r\nlicense_name: rivers\r\nlicense_link: LICENSE\r\n---\r\n",
            {"license": "other", "license_name": "rivers", "license_link": "LICENSE"},
        ),
        ("---\nlicense: [a, b]\n---\n", {}),
        ("---\nlicense:\n---\n", {}),
        ("---\njust text\n---\n", {}),
        ("---\n{broken: [\n---\n", {}),
        ("license: mit\n", {}),
        ("", {}),
    ],
)
def test_checkpoint_licence_is_read_from_its_card(tmp_path, card, found):
    (tmp_path / "README.md").write_bytes(card.encode())
    assert licence_of(ModelConfig(name=str(tmp_path)), tmp_path) == found


def test_checkpoint_without_card_has_unknown_licence(tmp_path):
    assert licence_of(ModelConfig(name=str(tmp_path)), tmp_path) == {}


@pytest.mark.parametrize("licence", ["cc-by-4.0", None])
def test_gguf_licence_is_read_from_its_header(tmp_path, licence):
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    if licence:
        writer.add_license(licence)
    writer.add_uint32("general.rivers", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert licence_of(ModelConfig(name=str(path)), tmp_path) == ({"license": licence} if licence else {})


def test_external_model_prefers_its_own_chat_template(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.save_pretrained(tmp_path / "chat model")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base model")
    config = Config(
        model=ModelConfig(name="mine", chat_template="plain", revision="abc", trust_remote_code=True, thought_end="")
    )
    found = {name: external_options(config, name, tmp_path / name) for name in ("chat model", "base model", "mine")}
    assert {name: options.chat_template for name, options in found.items()} == {
        "chat model": "",
        "base model": "plain",
        "mine": "plain",
    }
    other = found["chat model"]
    assert (other.revision, other.trust_remote_code, other.thought_end) == ("", False, "")
    assert found["mine"] == config.model


@pytest.mark.parametrize("source", ["data.ift", "data.eft", "data.evaluation", "prompts", "pairs", "labels"])
def test_conversations_that_the_template_cannot_render_are_refused_before_training(source, tiny_checkpoint, tmp_path):
    template = tmp_path / "single.jinja"
    template.write_text(read_chat_template("chatml").replace("in messages", "in messages[-2:]"))
    model = ModelConfig(name=str(tiny_checkpoint), chat_template=str(template))
    config = Config(runs_dir=str(tmp_path), name="mine", model=model)
    config.prompts.path = "own.jsonl" if source == "prompts" else ""
    config.pairs.path = "own.jsonl" if source in ("pairs", "labels") else ""
    config.data.own_answers.labels = "person" if source == "data.eft" else ""
    workspace = Workspace.of(config)
    workspace.save_config(config)
    history = (Turn("user", "Hi?"), Turn("assistant", "Hello."))
    of_data = {"data.ift": IFT, "data.eft": OWN_PROMPTS, "data.evaluation": EVALUATION_PROMPTS, "prompts": POOL}
    artifact = (of_data | {"pairs": PAIRS, "labels": LABELLED})[source]
    named = "pairs" if source == "labels" else source

    def row(history):
        if source == "labels":
            return LabelledAnswer("a", "Why?", "So.", True, 1.0, history=history)
        if source == "pairs":
            return PreferencePair("a", "Why?", "So.", "No.", "b", "c", 1.0, 0.0, history=history)
        return SeedExample("a", "Why?", "So.", history=history)

    write_records(artifact.path(workspace, 2), [row(history[:0]), row((Turn("system", "Be brief."),))])
    worker(workspace, 0)
    write_records(artifact.path(workspace, 2), [row(history[:0]), row(history)])
    with pytest.raises(ModelError, match=rf"^{named}.path=\S+ has 1 conversations.*drops earlier turns"):
        worker(workspace, 0)
    config.model.chat_template = ""
    workspace.save_config(config)
    worker(workspace, 0)
