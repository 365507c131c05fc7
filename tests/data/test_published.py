"""Published datasets by name: files with their columns and types, in place of the Hub, are read by every name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from srlm.config import Config
from srlm.data.config import PUBLISHED, SourceConfig, hub_name
from srlm.data.prepare import read_eft_seeds, read_ift_seeds, read_seeds
from srlm.data.readers import read_benchmark, read_ift, read_prompts, read_ranked
from tests.helpers import ROOT, options

Rows = list[dict[str, Any]]
TOPICS = ("rivers", "violins", "glaciers", "beehives", "tunnels", "sundials", "otters", "kites", "looms", "quarries")
DATA = sorted(path.stem for path in (ROOT / "conf/data").glob("*.yaml") if path.stem in PUBLISHED)


def each(row: Callable[[int, str], dict[str, Any]]) -> Rows:
    return [row(n, f"Which {topic} did people {verb}?") for n, (topic, verb) in enumerate(zip(
        TOPICS, ("cross", "play", "climb", "keep", "dig", "read", "feed", "fly", "weave", "abandon"), strict=True
    ))]  # fmt: skip


def oasst(n: int, text: str, parent: str | None = None, rank: int | None = None) -> dict[str, Any]:
    key = f"{parent or 'root'}-{n}-{rank}"
    return {
        "message_id": key, "parent_id": parent, "user_id": "u", "created_date": "2023-02-05T14:23:50", "text": text,
        "role": "assistant" if parent else "prompter", "lang": "en", "review_count": 3, "review_result": True,
        "deleted": False, "rank": rank, "synthetic": False, "model_name": None,
        "detoxify": {"toxicity": 0.1, "insult": 0.0}, "message_tree_id": parent or key,
        "tree_state": "ready_for_export", "emojis": {"name": ["+1"], "count": [2]},
        "labels": {"name": ["spam", "quality"], "value": [0.0, 0.75], "count": [3, 3]},
    }  # fmt: skip


def oasst_rows() -> Rows:
    rows = []
    for n, row in enumerate(each(oasst)):
        replies = [oasst(n, text, row["message_id"], rank) for rank, text in enumerate(("Good.", "Bad.", "Spam."))]
        replies[2]["labels"] = {"name": ["spam"], "value": [1.0], "count": [3]}
        rows += [row, *replies]
    return [*rows, oasst(99, "Wie geht es?") | {"lang": "de"}]


def ultrafeedback(n: int, text: str) -> dict[str, Any]:
    rating = {"Rating": "4", "Rationale": "r"}
    annotations = {name: rating for name in ("helpfulness", "honesty", "instruction_following", "truthfulness")}
    completions = [
        {"annotations": annotations, "custom_system_prompt": "c", "model": "m", "principle": "p", "response": answer,
         "critique": "c", "fine-grained_score": score, "overall_score": 10.0}
        for answer, score in (("Bad.", 1.25), ("Good.", 4.75), ("Fair.", 3.0), ("Fine.", 4.0))
    ]  # fmt: skip
    return {
        "source": "sharegpt", "instruction": text, "models": ["m"] * 4, "completions": completions,
        "correct_answers": ["None"], "incorrect_answers": ["None"],
    }  # fmt: skip


def messages(prompt: str, answer: str) -> Rows:
    return [{"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]


def binarized(n: int, text: str) -> dict[str, Any]:
    good, bad = messages(text, "Good."), messages(text, "Bad.")
    row = {"prompt": text, "prompt_id": f"{n:064x}", "chosen": good, "rejected": bad, "messages": good}
    return row | {"score_chosen": 9.5, "score_rejected": 2.0}


def helpsteer() -> Rows:
    names = ("correctness", "coherence", "complexity", "verbosity")
    return [
        {"prompt": row["prompt"], "response": text, "helpfulness": rating} | dict.fromkeys(names, 2)
        for row in each(lambda n, text: {"prompt": text})
        for text, rating in (("Bad.", 1), ("Good.", 4))
    ]


def wildchat(n: int, text: str) -> dict[str, Any]:
    turn = {"country": "X", "hashed_ip": "h", "header": {"accept-language": "a"}, "language": "English",
            "redacted": False, "state": None, "timestamp": None, "toxic": False, "turn_identifier": n}  # fmt: skip
    conversation = [turn | message for message in messages(text, "Good.") * 2]
    return {
        "conversation_hash": "same", "model": "m", "timestamp": None, "conversation": conversation, "turn": 2,
        "language": "English" if n else "German", "openai_moderation": [{"flagged": False}],
        "detoxify_moderation": [{"toxicity": 0.1}], "toxic": n == 1, "redacted": n == 2, "state": None, "country": None,
        "hashed_ip": "h", "header": {"accept-language": "a"},
    }  # fmt: skip


ALPACA = each(lambda n, text: {"output": "Good.", "input": "", "instruction": text})
IFEVAL = {"num_highlights": None, "relation": "at least", "num_words": 300}
GSM8K = each(lambda n, text: {"question": text, "answer": "Good.\n#### 7"})
ARC = each(
    lambda n, text: {
        "id": f"Q{n}", "question": text, "choices": {"text": [f"x{n} a{n}", f"y{n} b{n}"], "label": ["A", "B"]},
        "answerKey": "B",
    }
)  # fmt: skip
HUB: dict[str, dict[str, dict[str, Rows]]] = {  # dataset -> configuration -> split -> rows
    "yahma/alpaca-cleaned": {"": {"train": ALPACA}},
    "allenai/ai2_arc": {name: {"train": ARC[:6], "test": ARC[6:]} for name in ("ARC-Challenge", "ARC-Easy")},
    "lmarena-ai/arena-hard-auto-v0.1": {
        "": {"train": each(lambda n, text: {"question_id": f"{n:032x}", "category": "arena-hard-v0.1", "cluster": "c",
                                            "turns": [{"content": text}]})}
    },
    "databricks/databricks-dolly-15k": {
        "": {"train": each(lambda n, text: {"instruction": text, "context": "", "response": "Good.",
                                            "category": "open_qa"})}
    },
    "openai/gsm8k": {name: {"train": GSM8K[:6], "test": GSM8K[6:]} for name in ("main", "socratic")},
    "nvidia/HelpSteer": {"": {"train": helpsteer(), "validation": helpsteer()[:2]}},
    "nvidia/HelpSteer2": {"": {"train": helpsteer(), "validation": helpsteer()[:2]}},
    "google/IFEval": {
        "": {"train": each(lambda n, text: {"key": n, "prompt": text, "kwargs": [{**IFEVAL}], "instruction_id_list":
                                            ["length_constraints:number_words"]})}
    },
    "OpenAssistant/oasst1": {"": {"train": oasst_rows(), "validation": oasst_rows()[:4]}},
    "OpenAssistant/oasst2": {"": {"train": oasst_rows(), "validation": oasst_rows()[:4]}},
    "allenai/reward-bench-2": {
        "": {"test": each(lambda n, text: {"id": f"{n}", "prompt": text, "chosen": ["Good.", "Fine."][: 1 + n % 2],
                                           "rejected": ["Bad.", "Worse.", "No."], "num_correct": 1 + n % 2,
                                           "num_incorrect": 3, "total_completions": 4, "models": ["m"] * 4,
                                           "subset": ["Math", "Ties"][n % 2], "additional_metadata": {"n": n}})}
    },
    "openbmb/UltraFeedback": {"": {"train": each(ultrafeedback)}},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "": {"train_prefs": each(binarized), "train_sft": each(binarized)[:2], "test_prefs": each(binarized)[:3]}
    },
    "allenai/WildChat-1M": {"": {"train": each(wildchat) * 60}},
}  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the datasets: `datasets` prefers a local folder OWNER/NAME to the Hub."""
    root = tmp_path_factory.mktemp("hub")
    for name, configurations in HUB.items():
        for configuration, splits in configurations.items():
            for split, rows in splits.items():
                path = root / name / (configuration or "data") / f"{split}-00000-of-00001.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                datasets.Dataset.from_list(rows).to_parquet(path)
        if "" not in configurations:
            configs = [{"config_name": name, "data_dir": name} for name in configurations]
            (root / name / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return root


@pytest.fixture(autouse=True)
def in_hub(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_every_published_dataset_has_rows_here() -> None:
    assert {hub_name(path) for path in PUBLISHED} == set(HUB)
    assert set(PUBLISHED) - set(DATA) == {"reward_bench_2"}  # a benchmark, not to be trained on


@pytest.mark.parametrize("name", DATA)
def test_every_data_configuration_reads_and_splits_its_sources(name: str) -> None:
    config: Config = options(f"data={name}")
    named = {part for part in ("ift", "eft", "evaluation") if getattr(config.data, part).path == name}
    assert named
    if "eft" in named:
        assert config.data.eft.limit > 0, "IFT would have no other prompts than EFT"
        rows = read_eft_seeds(config)
        assert len(rows) == 10
        assert {(row.answers[0].text, row.answers[-1].text) for row in rows} == {("Good.", "Bad.")}
        config.data.eft.limit = 6
    if "ift" in named:
        examples = read_ift_seeds(config)
        assert len(examples) == (6 if "evaluation" in named else 10)
        assert all(row.response.startswith(("Good.", "B. y")) for row in examples)
    split, evaluation = read_seeds(config)
    if "eft" in named:
        assert (len(split.train), len(split.held_out), len(split.ift)) == (4, 2, 4)
    if "evaluation" in named:
        assert len(evaluation) == {"gsm8k": 4, "arc_easy": 4, "arc_challenge": 4, "wildchat": 7}.get(name, 10)


def test_scores_of_published_data_are_kept() -> None:
    def scores(name: str) -> list[float | None]:
        return [answer.score for answer in read_ranked(SourceConfig(path=name))[0].answers]

    assert scores("ultrafeedback") == [4.75, 4.0, 3.0, 1.25]
    assert scores("ultrafeedback_binarized") == [4.75, 1.0]
    assert scores("helpsteer2") == [5.0, 1.25]
    assert scores("oasst1") == [None, None]


def test_open_assistant_without_languages_has_all_and_no_spam() -> None:
    rows = read_prompts(SourceConfig(path="oasst2"))
    assert {row.language for row in rows} == {"en", "de"}
    assert all(answer.text != "Spam." for row in read_ranked(SourceConfig(path="oasst2")) for answer in row.answers)


def test_ifeval_has_constraints_and_dolly_has_categories() -> None:
    prompt = read_prompts(SourceConfig(path="ifeval"))[0]
    assert [(one.id, one.kwargs) for one in prompt.constraints] == [
        ("length_constraints:number_words", {"relation": "at least", "num_words": 300})
    ]
    assert read_ift(SourceConfig(path="dolly"))[0].type == "open_qa"


def test_reward_bench_2_is_a_judge_benchmark() -> None:
    prompts, excluded = read_benchmark(SourceConfig(path="reward_bench_2"))
    assert (len(prompts), excluded) == (10, {})
    assert [len([a for a in row.answers if a.rank == 0]) for row in prompts] == [1, 2] * 5
    assert {row.type for row in prompts} == {"Math", "Ties"}
