"""srlm.engines.transformers: text depends on the request only, not on the checkpoint's generation config."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from srlm.engines.base import Completion, Sampling
from srlm.engines.config import EngineConfig
from srlm.engines.transformers import TransformersEngine
from srlm.models.config import ModelConfig
from tests.helpers import user


def greedy(folder: Path) -> list[Completion]:
    async def ask() -> list[Completion]:
        engine = TransformersEngine(EngineConfig(max_model_len=512, max_concurrent=4), folder, ModelConfig())
        completions = await engine.generate(user("Name three rivers."), Sampling(0.0, 1.0, 24, seed=1))
        await engine.close()
        return completions

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 30, "max_length": 20},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 5},
        {"temperature": 0.6, "top_p": 0.9},
        {"num_beams": 3},
        {"suppress_tokens": list(range(3, 1000))},
    ],
)
def test_the_checkpoints_generation_config_does_not_change_texts(options, tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    assert greedy(folder) == greedy(tiny_checkpoint)
