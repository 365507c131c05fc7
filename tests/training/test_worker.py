"""srlm.training.worker: threads, the projection to the vocabulary, and methods from outside the package."""

from __future__ import annotations

import os

import pytest
import torch

from srlm.training import worker
from srlm.training.config import TrainConfig
from tests.helpers import tiny_llama


@pytest.mark.parametrize(
    ("threads", "processes", "given", "used"),
    [(0, 1, "", 8), (0, 1, "3", 3), (6, 1, "3", 6), (0, 2, "1", 4), (6, 2, "1", 3)],
)
def test_thread_count_follows_option_environment_or_cores(
    threads: int, processes: int, given: str, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number comes from the option, the environment (which a launcher sets to 1 for its ranks), or all cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
            torch.set_num_threads(int(given))  # as torch does on import
        worker._use_cores(threads, TrainConfig(processes=processes))
        assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(before)


def test_projecting_only_targets_keeps_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    import trl.trainer.utils as trl_utils

    torch.manual_seed(0)
    ids = torch.randint(0, 64, (2, 24))
    labels = ids.clone()
    labels[0, :15], labels[1, :20] = -100, -100
    results = []
    monkeypatch.setattr(trl_utils, "_use_triton", trl_utils._use_triton)  # restored afterwards
    for alone in (False, True):
        if alone:
            worker._project_only_targets()
        model = tiny_llama(64, seed=0)
        trl_utils.add_fused_lm_head(model)
        output = model(input_ids=ids, labels=labels, fused_lm_head=True)
        output.loss.backward()
        results.append((output.loss, output.log_probs, {name: w.grad for name, w in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][2].keys() == results[1][2].keys()
    for name, gradient in results[0][2].items():
        torch.testing.assert_close(gradient, results[1][2][name], rtol=1e-4, atol=1e-6)
