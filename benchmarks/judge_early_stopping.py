"""Judgements that early stopping would save: `python -m benchmarks.judge_early_stopping RUN_FOLDER [ITERATION]`.

Replays a run's judgements in rounds, as `judge.early_stopping=true` would request them, and compares the pairs with
those of all judgements.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from srlm.io.record_file import read_records
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.early_stopping import ScoreBounds, still_contending
from srlm.pipeline.workspace import Workspace
from srlm.preferences.pairs import length_points, select_pairs, takes_part
from srlm.types import Candidate, Judgement, Prompt


def main(run: str, iteration: str = "2") -> None:
    for risk in (0.0, 0.01, 0.02, 0.05, 0.1):
        print(f"risk {risk}: {outcome(run, iteration, risk)}")


def outcome(run: str, iteration: str, risk: float) -> str:
    workspace = Workspace(Path(run))
    config, folder = workspace.config(), workspace.iteration(int(iteration))
    if not isinstance(config.judge, SampledJudgeConfig):
        sys.exit(f"{run} has judge.scorer={config.judge.scorer}, which samples no judgements to stop early.")
    config.judge.early_stopping_risk = risk
    prompts = [row for row in read_records(folder / "1_prompts.jsonl", Prompt) if not row.rejected]
    candidates = read_records(folder / "2_candidates.jsonl", Candidate)
    full = read_records(folder / "3_judgements.jsonl", Judgement)
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in full:
        of_candidate[judgement.candidate_id].append(judgement)
    k, penalty = config.judge.count, config.pairs.length_penalty or 0.0
    requested: dict[str, list[Judgement]] = defaultdict(list)
    for prompt in prompts:
        own = [one for one in candidates if one.prompt_id == prompt.id and takes_part(one, config.pairs)]
        for j in range(k):
            bounds = [ScoreBounds.of(requested[one.id], k, length_points(one, penalty)) for one in own]
            for one, matters in zip(own, still_contending(bounds, config.judge), strict=True):
                requested[one.id] += of_candidate[one.id][j : j + 1] if matters else []
    fewer = [judgement for judgements in requested.values() for judgement in judgements]
    select = (config.pairs, config.judge.min_valid, penalty)
    pairs, _ = select_pairs(prompts, candidates, full, *select)
    others, _ = select_pairs(prompts, candidates, fewer, *select)
    chosen, again = ({p.id: (p.chosen_id, p.rejected_id) for p in some} for some in (pairs, others))
    same = sum(chosen.get(prompt.id) == again.get(prompt.id) for prompt in prompts)
    saved = 100 * (1 - len(fewer) / len(full))
    return (
        f"{len(fewer)} of {len(full)} judgements, {saved:.0f} % saved; same pair for {same} of {len(prompts)} prompts"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
