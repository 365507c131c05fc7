"""srlm.models.checkpoint_checks: a checkpoint that cannot be used is refused, with its problems and their remedies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from srlm.errors import ModelError
from srlm.models.checkpoint import Checkpoint
from srlm.models.checkpoint_checks import CHECKS, notes_of, positions, problems_of, refuse
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve
from tests.helpers import tiny_llama
from tests.training.families import CHATML, FAMILIES, SINGLE_TURN

Damage = Callable[[Path], object]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
CODE = {"AutoModelForCausalLM": "modeling_mine.Mine"}
PARTS_ONLY = (  # as in idefics3: only lists of content parts are rendered
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)
OTHER_PROMPT = (  # the prompt is another one once it has an answer
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + loop.last | string + m['content'] + '<|im_end|>' }}"
    "{% endfor %}"
)


def configured(**values: object) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def templated(template: str) -> Damage:
    return lambda folder: (folder / "chat_template.jinja").write_text(template)


def written(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def cut_to(name: str, share: float) -> Damage:
    def cut(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: round(share * len(whole))])

    return cut


def renamed(old: str, new: str) -> Damage:
    return lambda folder: (folder / old).rename(folder / new)


def sharded(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="400KB")


def without_a_shard(folder: Path) -> None:
    sharded(folder)
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def with_shards_of_another_model(folder: Path) -> None:
    sharded(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = min(index["weight_map"].values())
    path.write_text(json.dumps(index))


def adapter(kind: str = "LORA", base: str | None = "owner/base", weights: str = "adapter_model.safetensors") -> Damage:
    """Make the folder one of an adapter, whose weights have this name."""

    def make(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / weights)
        (folder / "config.json").unlink()
        config = {"peft_type": kind, "base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(config))

    return make


def with_added_tokens(*tokens: str, special: bool = False, in_template: bool = False) -> Damage:
    """Add tokens to the tokenizer alone, as some tools do."""

    def add(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(tokens), special_tokens=special)
        if in_template:
            tokenizer.chat_template = tokens[0] + tokenizer.chat_template
        tokenizer.save_pretrained(folder)

    return add


def as_reward_model(folder: Path) -> None:
    """Replace the model by a classifier whose embeddings are not its output layer."""
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=False, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


# (name of the check, damage, use, the beginning of the message)
CASES: list[tuple[str, Damage, Any, str]] = [
    ("Git LFS pointer", written("model.safetensors", POINTER), "train", r"model\.safetensors is a .*git lfs pull in"),
    ("Git LFS pointer", written("tokenizer.json", POINTER), "train", r"tokenizer\.json is a Git LFS pointer"),
    ("no checkpoint", renamed("config.json", "params.json"), "train", "has no config.json, so it is not a checkpoint"),
    ("not JSON", written("config.json", "{"), "train", r"config\.json is not a JSON file"),
    ("not JSON", cut_to("tokenizer.json", 0.5), "train", r"tokenizer\.json is not a JSON file"),
    ("adapter that cannot be merged", adapter("PROMPT_TUNING"), "train", "PROMPT_TUNING adapter .*cannot be merged"),
    ("adapter without base model", adapter(base=None), "train", "does not name its base model"),
    ("no safetensors", adapter(weights="adapter_model.bin"), "train", r"no \*\.safetensors file"),
    ("no safetensors", renamed("model.safetensors", "pytorch_model.bin"), "train", r"no \*\.safetensors file"),
    ("missing weights", without_a_shard, "train", r"model-0000(\d)-of-0000\1\.safetensors is missing"),
    (
        "missing weights",
        renamed("model.safetensors", "consolidated.safetensors"),
        "generate",
        r"model\.safetensors is missing from .* \(present: consolidated\.safetensors\)",
    ),
    ("damaged weights", cut_to("model.safetensors", 0.5), "train", "damaged or truncated"),
    ("damaged weights", cut_to("model.safetensors", 0.001), "train", "damaged or truncated"),
    ("damaged weights", cut_to("model.safetensors", 0), "train", "damaged or truncated"),
    ("damaged weights", written("model.safetensors", "<html>Access denied</html>"), "train", "damaged or truncated"),
    ("weights of another checkpoint", with_shards_of_another_model, "train", r"does not contain model\.layers\.9"),
    ("custom code", configured(model_type="mine", auto_map=CODE), "train", r"set model\.trust_remote_code=true"),
    ("architecture", configured(model_type="t5"), "generate", "'t5' is not a causal language model"),
    ("architecture", configured(model_type="mine"), "train", "'mine' is not a causal language model"),
    ("architecture", written("config.json", "{}"), "train", "model_type None is not a causal language model"),
    ("classifier", configured(model_type="mamba"), "classify", "'mamba' is not a sequence classifier"),
    ("configuration", configured(hidden_size="many"), "train", "cannot read config.json: .*hidden_size"),
    ("quantised weights", configured(quantization_config={"quant_method": "gptq"}), "train", r"quantised \(gptq\)"),
    ("quantised weights", configured(quantization_config={"load_in_4bit": True}), "train", "unknown method"),
    (
        "quantised weights without their library",
        configured(quantization_config={"quant_method": "gptq", "bits": 4}),
        "generate",
        r"quantised \(gptq\), and transformers cannot load them here: .*optimum.*engine=vllm",
    ),
    ("size of the embeddings", configured(vocab_size=1030), "train", "has 1024 rows, .* a vocabulary of 1030"),
    ("output layer", configured(tie_word_embeddings=False), "train", r"no output layer \(architectures: \['LlamaFor"),
    ("output layer", as_reward_model, "generate", r"no output layer \(architectures: \['LlamaForSequenceClass"),
    (
        "tokens without embedding",
        with_added_tokens("<|begin|>", special=True, in_template=True),
        "train",
        r"tokenizer has 1025 tokens and the model's embeddings 1024 rows.* no row for <\|begin\|>",
    ),
    ("tokens without embedding", with_added_tokens("<think>", "</think>"), "generate", "no row for <think>, </think>"),
    ("positions", configured(max_position_embeddings=512), "generate", r"has 512 positions, .*max_model_len=2048"),
    ("tokenizer and chat template", templated(PARTS_ONLY), "train", "drops the text of user messages"),
    ("tokenizer and chat template", templated(OTHER_PROMPT), "train", "renders a prompt differently"),
    ("tokenizer and chat template", templated("{% if %}"), "train", "has a syntax error in line 1"),
    ("tokenizer and chat template", templated(""), "train", "has no chat template"),
    (
        "tokenizer and chat template",
        written("tokenizer.json", '{"model": {"type": "new"}}'),
        "train",
        "cannot be loaded",
    ),
    ("tokenizer and chat template", renamed("tokenizer.json", "x"), "train", "tokenizer of .* cannot be loaded"),
]


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Return a checkpoint that the test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def checkpoint(folder: Path, use: Any = "train", **options: Any) -> Checkpoint:
    return Checkpoint(folder, ModelConfig(name=str(folder), **options), use, 2048, "transformers")


def failing_checks(found: Checkpoint) -> list[str]:
    return [check.name for check in CHECKS if check.messages(found)]


@pytest.mark.parametrize(("name", "damage", "use", "message"), CASES)
def test_each_problem_is_found_by_its_check_alone(
    name: str, damage: Damage, use: Any, message: str, folder: Path
) -> None:
    damage(folder)
    assert failing_checks(checkpoint(folder, use)) == [name]
    with pytest.raises(ModelError, match=f"(?s)judge.model=mine: .*{message}"):
        refuse("judge.model=mine", problems_of(checkpoint(folder, use)))


def test_every_check_has_a_case() -> None:
    of_gguf = {"part of a GGUF model", "not GGUF", "damaged GGUF file", "GGUF architecture"}
    assert {name for name, *_ in CASES} == {check.name for check in CHECKS} - of_gguf


@pytest.mark.parametrize("use", ["train", "generate", "classify", "tokenize"])
def test_a_good_checkpoint_passes_for_every_use(use: Any, tiny_checkpoint: Path) -> None:
    found = checkpoint(tiny_checkpoint, use)
    assert failing_checks(found) == []
    assert found.rows == 1024  # the checks have read what they compare
    assert isinstance(found.turn, list)
    assert positions(found.text_settings) == 2048
    assert not notes_of(found)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "gpt_neox", "gpt2", "opt", "phi", "bloom"])
def test_language_models_have_an_output_layer(kind: str, tied: bool, folder: Path) -> None:
    size = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "tie_word_embeddings": tied}
    if kind not in ("gpt2", "bloom"):
        size["intermediate_size"] = 32
    if kind == "opt":
        size["word_embed_proj_dim"] = 32
    config = AutoConfig.for_model(kind, vocab_size=1024, **size)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    assert "output layer" not in failing_checks(checkpoint(folder))


@pytest.mark.parametrize("family", FAMILIES | SINGLE_TURN)
def test_families_of_chat_templates_pass(family: str, tmp_path: Path) -> None:
    one = (FAMILIES | SINGLE_TURN)[family]
    tokenizer = one.make(one.template)
    tokenizer.save_pretrained(tmp_path)
    tiny_llama(len(tokenizer), seed=0).save_pretrained(tmp_path)
    assert problems_of(replace(checkpoint(tmp_path), max_model_len=128)) == []


@pytest.mark.parametrize("rejects", ["", "{% if messages | length > 2 %}{{ raise_exception('One turn') }}{% endif %}"])
def test_a_template_for_single_turns_gets_a_note(rejects: str, folder: Path) -> None:
    templated(rejects + (CHATML if rejects else CHATML.replace("in messages %}", "in messages[-2:] %}")))(folder)
    found = checkpoint(folder)
    assert problems_of(found) == []
    (note,) = notes_of(found)
    assert note.startswith("only single turns can be used. The chat template")


def test_all_problems_are_in_one_message(folder: Path) -> None:
    cut_to("model.safetensors", 0.5)(folder)
    templated(PARTS_ONLY)(folder)
    configured(max_position_embeddings=512)(folder)
    with pytest.raises(ModelError) as caught:
        refuse("model.name=mine", problems_of(checkpoint(folder)))
    first, *lines = str(caught.value).splitlines()
    assert first == "There are 3 problems:"
    assert [line.startswith("- model.name=mine: ") for line in lines] == [True] * 3
    for line, words in zip(lines, ("damaged", "positions", "drops the text"), strict=True):
        assert words in line


@pytest.mark.parametrize(
    ("damage", "use"),
    [
        (sharded, "train"),
        (adapter(), "train"),
        (lambda folder: shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors"), "train"),
        (configured(auto_map=CODE), "train"),  # transformers has this architecture itself
        (configured(quantization_config={"quant_method": "gptq", "bits": 4}), "tokenize"),
        (with_added_tokens("<image>", special=True), "train"),  # escaped in texts, and no part of a chat
        (written("consolidated.safetensors", POINTER), "train"),
        (written("log.json", '{"loss": 1}\n{"loss": 2}\n'), "train"),
    ],
)
def test_harmless_peculiarities_are_accepted(damage: Damage, use: Any, folder: Path) -> None:
    damage(folder)
    assert failing_checks(checkpoint(folder, use)) == []


def test_code_that_is_trusted_must_be_complete(folder: Path) -> None:
    configured(model_type="mine", auto_map=CODE | {"AutoConfig": "configuration_mine.MineConfig"})(folder)
    [problem] = problems_of(checkpoint(folder, trust_remote_code=True))
    assert "configuration_mine.py" in problem


@pytest.mark.parametrize(("engine", "kind", "refused"), [("vllm", "mistral3", False), ("vllm", "t5", True)])
def test_vllm_has_decoders_that_transformers_does_not_train(
    engine: str, kind: str, refused: bool, folder: Path
) -> None:
    configured(model_type=kind)(folder)
    assert ("architecture" in failing_checks(replace(checkpoint(folder, "generate"), engine=engine))) is refused
    assert "architecture" in failing_checks(replace(checkpoint(folder, "train"), engine=engine))


def test_weights_are_not_expected_before_they_are_downloaded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    found = replace(checkpoint(folder), listed=("config.json", "model.safetensors"))
    assert failing_checks(found) == []
    assert failing_checks(replace(found, listed=("config.json", "pytorch_model.bin"))) == ["no safetensors"]


def test_another_chat_template_replaces_an_unfit_one(folder: Path) -> None:
    templated(PARTS_ONLY)(folder)
    assert failing_checks(checkpoint(folder, chat_template="chatml")) == []


@pytest.mark.parametrize(
    ("kind", "values", "limit"),
    [
        ("llama", {"max_position_embeddings": 4096}, 4096),
        ("gpt2", {"n_positions": 1024}, 1024),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 8192),
        (
            "llama",
            {
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4},
                "max_position_embeddings": 512,
            },
            512,
        ),
        ("mamba", {}, None),
    ],
)
def test_positions_are_those_of_the_configuration(kind: str, values: dict[str, Any], limit: int | None) -> None:
    assert positions(AutoConfig.for_model(kind, **values).get_text_config()) == limit


def test_resolve_refuses_damaged_files(folder: Path) -> None:
    assert resolve(ModelConfig(name=str(folder))) == folder
    cut_to("model.safetensors", 0.5)(folder)
    with pytest.raises(ModelError, match=r"model\.name=.* is damaged or truncated"):
        resolve(ModelConfig(name=str(folder)))


# GGUF files


def gguf(path: Path, architecture: str = "llama", tensors: int = 1) -> Path:
    import numpy

    writer = GGUFWriter(path, architecture)
    for number in range(tensors):
        writer.add_tensor(f"blk.{number}.attn_q.weight", numpy.ones((64, 64), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("name", "file", "damage", "message"),
    [
        ("Git LFS pointer", "model.gguf", lambda path: path.write_text(POINTER), "git lfs pull"),
        ("not GGUF", "model.gguf", lambda path: path.write_text("<html>"), "begins with b'<htm'"),
        ("damaged GGUF file", "model.gguf", lambda path: cut_to(path.name, 0.6)(path.parent), "damaged or truncated"),
        ("damaged GGUF file", "model.gguf", lambda path: path.write_bytes(b"GGUF"), "damaged or truncated"),
        ("GGUF architecture", "model.gguf", lambda path: gguf(path, "clip"), "transformers cannot convert .*clip"),
    ],
)
def test_an_unfit_gguf_file_is_refused(
    name: str, file: str, damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = gguf(tmp_path / file)
    damage(path)
    found = checkpoint(path)
    assert failing_checks(found) == [name]
    with pytest.raises(ModelError, match=message):
        refuse("model.name=mine", problems_of(found))


def test_a_part_of_a_gguf_model_is_refused(tmp_path: Path) -> None:
    found = checkpoint(gguf(tmp_path / "model-00001-of-00003.gguf"))
    problems = problems_of(found)
    assert any("one of 3 parts of a model. Merge them first" in problem for problem in problems)
    assert any("tokenizer" in problem for problem in problems)  # this file has none, as the further parts of a model
