"""srlm compare: arms of finished runs, their measures, and differences paired by prompt and by seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from srlm.cli import compare
from srlm.cli.compare import Arm, ComparedRun, arms_of, difference, differing_options, read_run, results_of, show
from srlm.errors import ConfigError
from srlm.evaluation.arms import Items
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation
from srlm.evaluation.run_items import KEYS

WIN = "head_to_head/win_rate"


def made(name: str, seed: int, items: Items, **options: object) -> ComparedRun:
    """Return a run whose M2 has these items of the win rate."""
    value = sum(top for top, _ in items.values()) / sum(bottom for _, bottom in items.values())
    evaluation = Evaluation(2, head_to_head={"win_rate": Measure(value, None, None, len(items))})
    return ComparedRun(name, seed, options, {2: evaluation}, {2: {WIN: items}})


def wins(*scores: float, first: int = 0) -> Items:
    return {f"prompt {n}": (score, 1.0) for n, score in enumerate(scores, first)}


@pytest.fixture(scope="module")
def read(finished_run: Path) -> ComparedRun:
    return read_run(finished_run)


def test_items_give_the_values_in_evaluation_json(read: ComparedRun) -> None:
    compared = set()
    for t, evaluation in read.models.items():
        measures = {key: one for key, one in evaluation.measures() if key in KEYS}
        assert set(measures) == set(read.items[t])
        for key, one in measures.items():
            items = read.items[t][key]
            bottom = sum(denominator for _, denominator in items.values())
            assert bottom == one.n or key.startswith("judge/"), key
            if one.value is not None:
                assert sum(top for top, _ in items.values()) / bottom == pytest.approx(one.value), key
                compared.add(key.partition("/")[0])
    assert compared >= {"judge", "answers", "head_to_head"}


def test_runs_that_differ_only_in_name_and_seed_are_one_arm() -> None:
    runs = [
        made("self-1", 1, wins(1, 0), model="self"),
        made("random-1", 1, wins(0, 0), model="random"),
        made("self-0", 0, wins(1, 1), model="self"),
    ]
    arms = arms_of(runs)
    assert [arm.name for arm in arms] == ["self-0 (2 runs)", "random-1"]
    assert [arm.seeds for arm in arms] == [(0, 1), (1,)]
    assert differing_options(arms) == {"model": ["self", "random"]}
    with pytest.raises(ConfigError, match="self-1 and again have the same options and seed=1"):
        arms_of([*runs, made("again", 1, wins(1), model="self")])


def test_difference_is_over_the_prompts_of_both_runs() -> None:
    first, second = Arm((made("a", 0, wins(1, 0, 0, 0)),)), Arm((made("b", 0, wins(1, 1, 0, 1, first=1)),))
    found = difference(second, first, WIN, 2)
    assert found is not None
    assert found.value == pytest.approx(2 / 3 - 0)  # prompts 1 to 3; prompt 0 and prompt 4 have one answer
    assert found.n == 3
    assert difference(second, first, WIN, 1) is None


def test_pairing_by_prompt_removes_what_all_runs_share() -> None:
    """Prompts differ, and the arms differ by the same amount on each: without pairing the interval would be wide."""
    base = [0.0, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9]
    first, second = Arm((made("a", 0, wins(*base)),)), Arm((made("b", 0, wins(*(x + 0.1 for x in base))),))
    found = difference(second, first, WIN, 2)
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.low is not None
    assert found.high is not None
    shuffled = difference(Arm((made("b", 0, wins(*(x + 0.1 for x in reversed(base)))),)), first, WIN, 2)
    assert shuffled is not None
    assert shuffled.value == pytest.approx(0.1)
    assert shuffled.low is not None
    assert shuffled.high is not None
    assert shuffled.high - shuffled.low > 1.2 * (found.high - found.low)


def test_pairing_by_seed_removes_what_a_seed_does_to_both_arms() -> None:
    prompts = [0.1, 0.3, 0.5, 0.6]
    offsets = [0.0, 0.1, 0.2, 0.3]
    noise = [0.0, 0.01, 0.0, 0.01]
    first = Arm(tuple(made("a", s, wins(*(x + o for x in prompts))) for s, o in enumerate(offsets)))
    second = Arm(tuple(made("b", s, wins(*(x + o + 0.1 + noise[s] for x in prompts))) for s, o in enumerate(offsets)))
    other = Arm(tuple(made("b", s + 7, wins(*(x + o + 0.1 for x in prompts))) for s, o in enumerate(offsets[::-1])))
    paired, unpaired = difference(second, first, WIN, 2), difference(other, first, WIN, 2)
    assert paired is not None
    assert unpaired is not None
    assert paired.value == pytest.approx(0.105)
    assert None not in (paired.low, paired.high, unpaired.low, unpaired.high)
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)  # type: ignore[operator]


def test_single_runs_are_shown_as_in_evaluation_json(read: ComparedRun) -> None:
    arm = Arm((read,))
    for key in ("judge/pairwise_accuracy_imputed", "answers/mean_characters"):
        assert arm.measure(key, 2) == dict(read.models[2].measures())[key]


def test_command_prints_80_columns_and_writes_json(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "a_control_with_a_rather_long_name"
    shutil.copytree(own_run, other)
    text = (other / "config.yaml").read_text()
    assert "\n  min_gap: 0.0\n" in text
    (other / "config.yaml").write_text(text.replace("\n  min_gap: 0.0\n", "\n  min_gap: 0.5\n", 1))
    monkeypatch.setattr(compare, "screen", lambda: Console(width=80))
    compare.main([str(own_run), str(other), "--json", str(tmp_path / "c.json")])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "over prompts only, not over seeds of training" in " ".join(printed.split())
    found = json.loads((tmp_path / "c.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == ["rivers", other.name]
    assert found["options"] == {"pairs.min_gap": [0.0, 0.5]}
    first, second = found["measures"]["head_to_head/win_rate"]["M2"]
    assert first["value"] == second["value"]
    assert (first["against_first"], second["against_first"]["value"]) == (None, 0.0)
    assert found["measures"]["head_to_head/win_rate"]["M0"][0]["value"] is None


def test_unknown_metrics_and_single_arms_are_refused(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--metrics", "judge/kappa"], "--metrics judge/kappa cannot be compared prompt by prompt"),
        ([], "at least two configurations"),
    ):
        with pytest.raises(SystemExit):
            compare.main([str(finished_run), *arguments])
        assert message in capsys.readouterr().err


def test_arms_without_a_measure_have_no_value() -> None:
    arms = [Arm((made("a", 0, wins(1, 0), x=1),)), Arm((made("b", 0, wins(0, 0), x=2),))]
    results = results_of(arms, [WIN, "ifeval/prompt_level_strict_acc"])
    assert results["measures"]["ifeval/prompt_level_strict_acc"]["M2"][0]["value"] is None
    console = Console(width=80, record=True)
    show(results, console)
    printed = console.export_text()
    assert "head_to_head: win rate" in printed
    assert "ifeval" not in printed
    assert "x  a: 1; b: 2" in printed
