"""srlm.training.saving: a merged checkpoint keeps LoRA's update, and the kept share is measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from srlm.config import Config
from srlm.engines.config import EngineConfig
from srlm.pipeline.workspace import Workspace
from srlm.training import checkpoint_check, loading
from srlm.training.checkpoint_check import Kind, Probe, probe_of_pairs, probe_of_rewards
from srlm.training.methods.reward_model import load_classifier
from srlm.training.saving import Saving, messages, save
from srlm.training.stages import Train, TrainRewardModel, TrainSFT
from tests.helpers import options, tiny_llama

PROMPTS, CHOSEN, REJECTED = [[3, 9], [8, 30, 2]], [[27, 41, 5], [12, 50]], [[60, 2], [33, 44, 17]]
PAIRS = probe_of_pairs(PROMPTS, CHOSEN, REJECTED)
RANK, ALPHA = 4, 16


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    kinds: list[str] = []
    monkeypatch.setattr("srlm.training.saving.say", kinds.append)
    return kinds


class OneProcess:
    """A stand-in for accelerate's Accelerator on one CPU."""

    is_main_process = True

    def unwrap_model(self, model: Any, keep_fp32_wrapper: bool) -> Any:
        return model

    def wait_for_everyone(self) -> None: ...

    def free_memory(self) -> None: ...


def trainer_of(model: Any, sharded: bool = False) -> Any:
    return SimpleNamespace(
        model=model,
        model_wrapped=model,
        accelerator=OneProcess(),
        args=SimpleNamespace(bf16=False, fp16=False),
        is_fsdp_enabled=sharded,
        is_deepspeed_enabled=False,
        callback_handler=SimpleNamespace(),
        save_model=model.save_pretrained,
    )


def checkpoint(folder: Path, tied: bool = False) -> Path:
    """Save M_t with float32 weights, most of which bfloat16 cannot represent."""
    model = tiny_llama(64, seed=0)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def with_adapter(base: Any, size: float, seed: int = 0, **others: Any) -> Any:
    """Return a policy after DPO: an adapter changes all linear layers by about `size` towards chosen answers."""
    settings = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.5, target_modules="all-linear", **others)
    model = get_peft_model(base, settings)
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn_like(weight) * size
    return model.train()


def saving_from(start: Path, dtype: torch.dtype = torch.float32, served: torch.dtype = torch.float32) -> Saving:
    return Saving(lambda precision: load(start, precision), PAIRS, dtype, served, 0.001, "dpo")


def expected_weights(start: Path, policy: Any) -> dict[str, torch.Tensor]:
    """Return W + alpha / r * B A of every adapted layer, with W from M_t's file."""
    weights = load_file(start / "model.safetensors")
    found = {name: weight.detach() for name, weight in policy.named_parameters()}
    for name in list(weights):
        a = f"base_model.model.{name.removesuffix('.weight')}.lora_A.default.weight"
        if a in found:
            weights[name] = weights[name] + ALPHA / RANK * found[a.replace("lora_A", "lora_B")] @ found[a]
    return weights


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("base", [torch.bfloat16, torch.float32])
def test_adapter_is_merged_into_the_float32_weights(
    base: torch.dtype, tied: bool, sharded: bool, tmp_path: Path
) -> None:
    start = checkpoint(tmp_path / "M1", tied)
    policy = with_adapter(load(start, base), 1e-3)
    expected = expected_weights(start, policy)
    counts = save(trainer_of(policy, sharded), saving_from(start), tmp_path / "M2")
    found = load_file(tmp_path / "M2" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "M2" / "config.json").read_text())["dtype"] == "float32"
    assert not (tmp_path / "M2" / "adapter").exists()
    if not sharded:  # a sharded policy is scored in bfloat16, which hides the agreement
        assert counts["saved_dtype"] == "float32"
        assert counts["saved_difference"] < 2e-4
        assert counts["saved_kept"] == pytest.approx(1, abs=0.01)


def test_small_margin_is_kept_by_float32_and_lost_by_bfloat16(tmp_path: Path, quiet: list[str]) -> None:
    start = checkpoint(tmp_path / "M1")
    kept = {}
    for dtype in (torch.bfloat16, torch.float32):
        policy = with_adapter(load(start, torch.bfloat16), 2e-5)
        counts = save(trainer_of(policy), saving_from(start, dtype), tmp_path / str(dtype))
        kept[dtype] = counts["saved_kept"]
    assert abs(kept[torch.bfloat16] - 1) > 0.3
    assert kept[torch.float32] == pytest.approx(1, abs=0.01)
    [warning] = quiet
    assert "dpo.save_dtype=float32" in warning
    assert "% of the margin gained by training" in warning


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_model_is_saved_if_the_comparison_fails(
    fails_at: int, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = checkpoint(tmp_path / "M1")
    policy = with_adapter(load(start, torch.float32), 1e-3)
    expected = expected_weights(start, policy)
    calls = 0

    def out_of_memory(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")
        return checkpoint_check.score(*given)

    monkeypatch.setattr("srlm.training.saving.score", out_of_memory)
    counts = save(trainer_of(policy), saving_from(start), tmp_path / "M2")
    found = load_file(tmp_path / "M2" / "model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
    assert counts == {"saved_dtype": "float32"}
    [warning] = quiet
    assert warning.endswith(
        "could not be compared with the trained policy: CUDA out of memory. Tried to allocate 2 GiB"
    )


def test_updates_of_several_iterations_add_up(tmp_path: Path) -> None:
    """Training rounds the frozen weights each time, but float32 checkpoints keep the sum of all updates."""
    for dtype in (torch.float32, torch.bfloat16):
        folder = start = checkpoint(tmp_path / str(dtype) / "M1")
        total = {name: torch.zeros_like(weight) for name, weight in load_file(start / "model.safetensors").items()}
        for t in range(2, 6):
            policy = with_adapter(load(folder, torch.bfloat16), 2e-5, seed=t)
            before = load_file(folder / "model.safetensors")
            after = expected_weights(folder, policy)
            total = {name: total[name] + after[name] - before[name] for name in total}
            following = start.with_name(f"M{t}")
            save(trainer_of(policy), saving_from(folder, dtype), following)
            folder = following
        first, last = load_file(start / "model.safetensors"), load_file(folder / "model.safetensors")
        moved = {name: last[name].float() - first[name] for name in total}
        error = sum(float((moved[name] - total[name]).norm() ** 2) for name in total) ** 0.5
        size = sum(float(one.norm() ** 2) for one in total.values()) ** 0.5
        assert error / size < 0.01 if dtype is torch.float32 else error / size > 1


def test_loss_of_precision_in_a_bfloat16_engine_is_reported(tmp_path: Path, quiet: list[str]) -> None:
    start = checkpoint(tmp_path / "M1")
    policy = with_adapter(load(start, torch.float32), 2e-5)
    counts = save(trainer_of(policy), saving_from(start, served=torch.bfloat16), tmp_path / "M2")
    assert counts["saved_kept"] == pytest.approx(1, abs=0.05)
    assert counts["served_dtype"] == "bfloat16"
    assert counts["served_difference"] > 10 * counts["saved_difference"]
    assert abs(counts["served_kept"] - 1) > 0.3
    [note] = quiet
    assert note.strip().startswith("Note: in an engine with bfloat16, this checkpoint keeps ")


def test_fully_fine_tuned_model_is_saved_and_compared(tmp_path: Path) -> None:
    start = checkpoint(tmp_path / "M1")
    for sharded in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            policy = load(start, torch.float32)
            torch.manual_seed(1)
            for weight in policy.parameters():
                weight.data += torch.randn_like(weight) * 1e-5
            expected = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
            folder = tmp_path / f"{sharded}_{dtype}"
            counts = save(trainer_of(policy, sharded), saving_from(start, dtype), folder)
            for name, weight in load_file(folder / "model.safetensors").items():
                assert torch.equal(weight, expected[name].to(dtype))
            assert counts["saved_dtype"] == str(dtype).removeprefix("torch.")
            exact = counts["saved_difference"] < 1e-6 and counts["saved_kept"] == pytest.approx(1, abs=1e-3)
            assert exact == (dtype is torch.float32)


def test_reward_model_keeps_its_trained_output_layer(tmp_path: Path) -> None:
    start = checkpoint(tmp_path / "M1")

    config = options("reward_model.dropout=0")

    def classifier(dtype: torch.dtype) -> Any:
        return load_classifier(start, config.reward_model, config, dtype)

    policy = with_adapter(classifier(torch.bfloat16), 1e-3, task_type="SEQ_CLS", modules_to_save=["score"])
    [head] = [weight for name, weight in policy.named_parameters() if "score.modules_to_save" in name]
    assert head.dtype == torch.float32  # small updates would be lost in bfloat16
    head.data += torch.randn_like(head) * 1e-3
    trained = head.detach().clone()
    probe = probe_of_rewards(*([p + a for p, a in zip(PROMPTS, side, strict=True)] for side in (CHOSEN, REJECTED)))
    saving = Saving(classifier, probe, torch.float32, torch.float32, 0.001, "reward_model")
    counts = save(trainer_of(policy), saving, tmp_path / "reward_model")
    found = load_file(tmp_path / "reward_model" / "model.safetensors")
    assert torch.equal(found["score.weight"], trained)
    assert counts["saved_difference"] < 2e-4
    assert counts["saved_kept"] == pytest.approx(1, abs=0.1)


def test_changed_start_model_causes_a_warning(tmp_path: Path, quiet: list[str]) -> None:
    start = checkpoint(tmp_path / "M1")
    policy = with_adapter(load(start, torch.float32), 1e-2)
    changed = load(start, torch.float32)
    for weight in changed.parameters():
        weight.data *= 1.2
    changed.save_pretrained(start)
    counts = save(trainer_of(policy), saving_from(start), tmp_path / "M2")
    assert counts["saved_difference"] > 0.001
    assert "Check whether files of the previous model changed." in quiet[0]


def test_generation_config_is_that_of_the_policy(tmp_path: Path) -> None:
    start = checkpoint(tmp_path / "M1")
    policy = with_adapter(load(start, torch.float32), 1e-3)
    policy.get_base_model().generation_config.eos_token_id = 5
    save(trainer_of(policy), saving_from(start), tmp_path / "M2")
    assert json.loads((tmp_path / "M2" / "generation_config.json").read_text())["eos_token_id"] == 5


def counts(difference: float = 0.0, kept: float | None = 1.0, served: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"saved_dtype": "float32", "saved_difference": difference, "saved_kept": kept}
    return found | ({} if served is None else {"served_dtype": "bfloat16", "served_kept": served})


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        (counts(), []),
        (counts(0.001), []),
        (counts(kept=None), []),
        (counts(0.0011), ["WARNING"]),
        (counts(float("nan")), ["WARNING"]),
        (counts(kept=0.89), ["WARNING"]),
        (counts(kept=1.11), ["WARNING"]),
        (counts(served=0.95), []),
        (counts(served=0.5), ["Note"]),
        (counts(0.1, served=0.5), ["WARNING", "Note"]),
    ],
)
def test_warnings_and_notes_follow_from_the_counts(given: dict[str, Any], kinds: list[str]) -> None:
    saving = Saving(lambda dtype: None, PAIRS, torch.float32, torch.float32, 0.001, "dpo")
    assert [message.split(":")[0] for message in messages(given, saving)] == kinds


def test_warning_names_unit_share_and_remedy() -> None:
    saving = Saving(lambda dtype: None, Probe(Kind.tokens, [], []), torch.bfloat16, torch.bfloat16, 0.002, "sft")
    [message] = messages({"saved_dtype": "bfloat16", "saved_difference": 0.0123, "saved_kept": 0.417}, saving)
    assert message == (
        "WARNING: the saved checkpoint (bfloat16) differs from the trained policy by 0.012 nats per token "
        "(sft.save_tolerance=0.002) and keeps 42 % of the log-probability gained by training. Set "
        "sft.save_dtype=float32 to save it exactly."
    )


def test_stages_depend_on_save_dtype_and_not_on_save_tolerance(tmp_path: Path) -> None:
    for group, make in (("sft", TrainSFT), ("reward_model", TrainRewardModel)):
        found = make(Workspace(tmp_path), options()).options
        assert found[f"{group}.save_dtype"] == "float32"
        assert f"{group}.save_tolerance" not in found
    assert "dpo.save_dtype" in Train(Workspace(tmp_path), options(), 2).options


@pytest.mark.parametrize(
    ("given", "on_gpu", "dtype"),
    [
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_engine_precision_depends_on_option_and_device(
    given: str, on_gpu: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    config = Config(engine=EngineConfig(dtype=given))
    assert loading.engine_dtype(config) == dtype
