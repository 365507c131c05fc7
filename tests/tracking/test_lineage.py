"""What each stage was made from, for each way to judge, to write and to train."""

from __future__ import annotations

from typing import Any

import pytest

from srlm.config import Config, JudgeConfig
from srlm.pipeline.manifest import Manifest
from srlm.pipeline.workspace import Workspace
from srlm.tracking.lineage import CHAIN, made_from, without_secrets
from srlm.training.methods.dpo import Reference
from tests.helpers import all_stages


def of(stage: str, config: Config | None = None, inputs: tuple[str, ...] = ()) -> list[str]:
    return made_from(Manifest(stage, {}, dict.fromkeys(inputs, "hash"), {}), config or Config())


def test_models_before_what_else_is_used() -> None:
    assert of("iteration_3/candidates", inputs=("iteration_3/1_prompts.jsonl",)) == [
        "iteration_2/model",
        "iteration_3/1_prompts.jsonl",
    ]
    pairs, model = "iteration_2/4_pairs.jsonl", "iteration_1/model"
    assert of("iteration_2/dpo", inputs=(pairs, model)) == [model, pairs]
    assert of("iteration_1/sft") == ["iteration_0/model.json"]
    assert of("iteration_1/rationales") == ["iteration_1/sft_baseline"]
    assert of("iteration_1/reward_model") == ["iteration_1/model"]
    assert of("data/data", inputs=("/data/ift.jsonl",)) == ["/data/ift.jsonl"]
    assert of("iteration_2/pairs") == []


@pytest.mark.parametrize(
    ("judge", "models"),
    [
        ({}, [2]),
        ({"model": "sft"}, [1]),
        ({"model": "base"}, [0]),
        ({"model": "endpoint"}, []),
        ({"scorer": "implicit"}, [2, 0]),
        ({"scorer": "implicit", "reference": "previous"}, [2, 1]),
        ({"scorer": "implicit", "model": "OWNER/NAME", "reference": "OTHER/NAME"}, []),
        ({"scorer": "reward_model"}, []),  # it is among the manifest's inputs
    ],
)
def test_who_judges(judge: dict[str, Any], models: list[int]) -> None:
    found = of("iteration_3/judgements", Config(judge=JudgeConfig(**judge)))
    assert found == [f"iteration_{t}/model" if t else "iteration_0/model.json" for t in models]


@pytest.mark.parametrize(("reference", "models"), [("previous", [3]), ("sft", [3, 1]), ("base", [3, 0])])
def test_reference_of_dpo(reference: str, models: list[int]) -> None:
    config = Config()
    config.dpo.reference = Reference[reference]
    found = of("iteration_4/dpo", config)
    assert found == [f"iteration_{t}/model" if t else "iteration_0/model.json" for t in models]


def test_the_chain_is_every_stage_that_does_not_measure() -> None:
    config = Config(judge=JudgeConfig(meta=True))
    every = {stage.name for stage in all_stages(Workspace.of(config), config)}
    assert every - set(CHAIN) == {"held_out_judgements", "answers", "head_to_head", "evaluation"}
    assert set(CHAIN) <= every


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/home/u", "~"),
        ("/home/u/models/x", "~/models/x"),
        ("/home/user/x", "/home/user/x"),
        ('{"a": "/home/u"}', '{"a": "~"}'),
        ("https://me:secret@host/v1", "https://host/v1"),
        ("https://host/a@b", "https://host/a@b"),
        ({"/home/u/a": ["/home/u/b", 1, None, True]}, {"~/a": ["~/b", 1, None, True]}),
    ],
)
def test_without_secrets(value: Any, told: Any) -> None:
    assert without_secrets(value, "/home/u") == told
    assert without_secrets("/x", "/") == "/x"
