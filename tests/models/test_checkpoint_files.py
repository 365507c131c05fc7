"""srlm.models.checkpoint_files: a checkpoint that cannot be loaded or trained is refused before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from srlm.errors import ModelError
from srlm.models.chat_template import load_tokenizer
from srlm.models.checkpoint_files import check_trainable, check_vocabulary
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve


def configured(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")


def cut_to(share: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[: round(share * len(whole))])

    return cut


def page(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<html>Access denied</html>")


def sharded(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="400KB")


def without_a_shard(folder: Path) -> None:
    sharded(folder)
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def consolidated(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def adapter_alone(folder: Path) -> None:
    adapter(folder)
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pointer, "model.safetensors is a Git LFS pointer.*git lfs pull"),
        (cut_to(0.5), "damaged or truncated"),
        (cut_to(0.001), "damaged or truncated"),
        (cut_to(0), "damaged or truncated"),
        (page, "damaged or truncated"),
        (without_a_shard, r"model-0000(\d)-of-0000\1\.safetensors is missing"),
        (consolidated, r"model\.safetensors is missing from .* \(present: consolidated\.safetensors\)"),
        (adapter, "contains a LoRA adapter .*Merge it into its base model"),
        (adapter_alone, "contains a LoRA adapter .*Merge it into its base model"),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage, message, tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    damage(folder)
    with pytest.raises(ModelError, match=f"model.name=.*{message}"):
        resolve(ModelConfig(name=str(folder)))


def test_shards_and_additional_files_are_accepted(tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert resolve(ModelConfig(name=str(folder))) == folder
    sharded(folder)
    assert resolve(ModelConfig(name=str(folder))) == folder


CODE = {"AutoModelForCausalLM": "modeling_mine.Mine"}


@pytest.mark.parametrize(
    ("change", "trusted", "message"),
    [
        (configured(), False, None),
        (configured(model_type="t5"), False, "'t5' is not a causal language model"),
        (configured(model_type="bert"), False, None),  # transformers can use it as a decoder
        (configured(model_type="mine"), True, "'mine' is not a causal language model"),
        (configured(model_type="mine", auto_map=CODE), False, r"set model\.trust_remote_code=true"),
        (configured(model_type="mine", auto_map=CODE), True, None),
        (configured(auto_map=CODE), False, None),
        (configured(quantization_config={"quant_method": "gptq", "bits": 4}), False, r"quantised \(gptq\)"),
        (configured(quantization_config={"load_in_4bit": True}), False, r"quantised \(unknown method\)"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(change, trusted, message, tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    change(folder)
    if message is None:
        return check_trainable(folder, "mine", trusted)
    with pytest.raises(ModelError, match=f"model.name=mine: .*{message}"):
        check_trainable(folder, "mine", trusted)


def test_tokens_without_embedding_are_refused_only_if_used(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.add_tokens(["<image>"])
    last = len(tokenizer) - 1
    check_vocabulary(tiny_checkpoint, "mine", tokenizer, [5, last - 1])
    with pytest.raises(ModelError, match=rf"{last + 1} tokens and the model's embeddings {last} rows.*<image>"):
        check_vocabulary(tiny_checkpoint, "mine", tokenizer, [5, last])
