"""Readers of judge benchmarks: prompts with answers and human preferences, as ranked prompts.

Supported are the published formats of LLMBar, PandaLM, RewardBench and JudgeBench, a plain format {prompt, response_a,
response_b, human_preference: a | b | tie}, and all formats of `srlm.data.readers.read_ranked`. A row that cannot be
parsed raises an error with its file and line. Rows without a majority of annotators are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from srlm.data.config import SourceConfig
from srlm.data.files import Fault, Row, get, keys_of, load_rows, text_of
from srlm.data.readers import read_ranked
from srlm.errors import SeedError
from srlm.types import RankedAnswer, RankedPrompt

_Pair = tuple[str, str, str, str]  # prompt, answer a, answer b, "a" | "b" | "tie" | "" (no majority)


def read_benchmark(source: SourceConfig, seed: int = 0) -> tuple[list[RankedPrompt], dict[str, int]]:
    """Return prompts with answers and human ranks.

    Parameters
    ----------
    source : SourceConfig
        `path`, `split` (Hub only) and `limit` are used. Rows are drawn with `seed`, in proportion to the subsets.
    seed : int, default 0

    Returns
    -------
    prompts : list of RankedPrompt
        `type` is the row's subset. Two answers are in the order of the source, more from best to worst. Two answers
        that people tie both have rank 0.
    excluded : dict
        Reason -> number of rows.

    Raises
    ------
    SeedError
        If the source is missing or unreadable, has an unknown format, or no row is left.
    """
    name = source.path.removeprefix("hub:") if source.path.startswith("hub:") else Path(source.path).name
    rows = [] if source.path == "builtin" else list(load_rows(source, source.path, name))
    parse = _form_of(rows[0][1]) if rows and isinstance(rows[0][1], dict) else None
    if parse is None:
        return read_ranked(source, seed), {}
    prompts: dict[str, RankedPrompt] = {}
    excluded: Counter[str] = Counter()
    for line, data in rows:
        try:
            if not isinstance(data, dict):
                raise Fault(f"expected an object, found {type(data).__name__}", "Write {...} for each row")
            prompt, a, b, preferred = parse(data)
            if not prompt:
                raise Fault("the prompt is empty", "Write it, or delete the row")
            given_id = get(data, "id")
            has_id = isinstance(given_id, str | int) and str(given_id)
            row_id = str(given_id) if has_id else f"{Path(name).stem}-{line:05d}"
            if row_id in prompts:
                raise Fault(f"duplicate id {row_id!r}, also in {prompts[row_id].source}", "Use different ids")
        except Fault as fault:
            raise SeedError(f"{name}:{line}: {fault.args[0]}. {fault.args[1]}.") from fault
        if not preferred:
            excluded["no majority"] += 1
            continue
        ranks = {"a": (0, 1), "b": (1, 0), "tie": (0, 0)}[preferred]
        answers = (RankedAnswer(a, ranks[0]), RankedAnswer(b, ranks[1]))
        subset = data.get("subset")
        row_type = subset if isinstance(subset, str) else ""
        prompts[row_id] = RankedPrompt(row_id, prompt, answers, row_type, "", f"{name}:{line}")
    if not prompts:
        raise SeedError(f"{name}: no row is left ({dict(excluded)}). Use another file.")
    chosen = _draw(list(prompts.values()), source.limit, f"{seed}/{source.path.rpartition('/')[2]}/limit")
    if len(chosen) < len(prompts):
        excluded["beyond limit"] = len(prompts) - len(chosen)
    return chosen, dict(excluded)


def _draw(prompts: list[RankedPrompt], limit: int, seed: str) -> list[RankedPrompt]:
    """Return a sample of `limit` prompts in their order, stratified by subset; all prompts if limit is 0."""
    if not 0 < limit < len(prompts):
        return prompts
    by_type: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_type.setdefault(prompt.type, []).append(index)
    rng = Random(seed)
    spread = sorted(
        ((n + rng.random()) / len(indices), index)
        for indices in by_type.values()
        for n, index in enumerate(rng.sample(indices, len(indices)))
    )
    return [prompts[index] for index in sorted(index for _, index in spread[:limit])]


def _form_of(row: Row) -> Callable[[Row], _Pair] | None:
    return next((parse for keys, parse in _FORMS if keys <= row.keys() and _plain_texts(row, keys)), None)


def _plain_texts(row: Row, keys: set[str]) -> bool:
    """Return False for dialogues in HH-RLHF's format, which `read_ranked` reads."""
    return "chosen" not in keys or not str(row["chosen"]).lstrip().startswith("Human:")


def _preference(data: Row) -> _Pair:
    return (
        text_of(data, "prompt"),
        text_of(data, "response_a"),
        text_of(data, "response_b"),
        _one_of(data, "human_preference", {"a": "a", "b": "b", "tie": "tie"}),
    )


def _llmbar(data: Row) -> _Pair:
    preferred = _one_of(data, "label", {1: "a", 2: "b"})
    return text_of(data, "input"), text_of(data, "output_1"), text_of(data, "output_2"), preferred


def _pandalm(data: Row) -> _Pair:
    """Parse the votes of three annotators: 0 = tie, 1 = first answer, 2 = second answer."""
    meaning = {0: "tie", 1: "a", 2: "b"}
    votes = Counter(_one_of(data, f"annotator{n}", meaning) for n in (1, 2, 3))
    [(preferred, count)] = votes.most_common(1)
    prompt, context = text_of(data, "instruction"), text_of(data, "input") if "input" in data else ""
    prompt = f"{prompt}\n\n{context}" if prompt and context else prompt
    return prompt, text_of(data, "response1"), text_of(data, "response2"), preferred if count > 1 else ""


def _judgebench(data: Row) -> _Pair:
    preferred = _one_of(data, "label", {"A>B": "a", "B>A": "b", "A=B": "tie"})
    return text_of(data, "question"), text_of(data, "response_A"), text_of(data, "response_B"), preferred


def _rewardbench(data: Row) -> _Pair:
    return text_of(data, "prompt"), text_of(data, "chosen"), text_of(data, "rejected"), "a"


_FORMS: list[tuple[set[str], Callable[[Row], _Pair]]] = [
    ({"prompt", "response_a", "response_b", "human_preference"}, _preference),
    ({"input", "output_1", "output_2", "label"}, _llmbar),
    ({"instruction", "response1", "response2", "annotator1"}, _pandalm),
    ({"question", "response_A", "response_B", "label"}, _judgebench),
    ({"prompt", "chosen", "rejected"}, _rewardbench),
]


def _one_of(data: Row, name: str, meaning: dict[Any, str]) -> str:
    if name not in data:
        raise Fault(f"no field {name!r}; the row has {keys_of(data)}", "Add it")
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in meaning:
        raise Fault(f"{name!r} is {value!r:.60}", f"Write one of {', '.join(map(repr, meaning))}")
    return meaning[value]
