"""Print the tables of README.md, draw its figure, and write the controls that reports cite, from study.py's records.

    python experiments/laptop/readout.py [--to experiments/laptop]

Values of several seeds are pooled: intervals cover seeds and prompts (srlm/evaluation/arms.py). The difference of a
single seed's M_t to its M1 is paired by prompt, and its interval covers prompts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from study import ARMS, RECORDS, WORLDS

import srlm.reporting
from srlm.cli.commands import BY_NAME
from srlm.cli.help import experiment_options
from srlm.config import option_value
from srlm.evaluation.arms import Items, Pooled, pooled
from srlm.evaluation.measures import Measure
from srlm.reporting.controls import FILE, JUDGES

matplotlib.use("Agg")
# options besides those of conf/experiment/facts.yaml in which a run must agree
SAME = ("model.name", "recipe", "method", "judge.model", "judge.scorer", "sft.data", "dpo.beta", "pairs.policy")
CONTROLS = Path(srlm.reporting.__file__).parent / "assets" / FILE
LABELS = {
    "self": "self-judged",
    "program": "judged by a program (oracle)",
    "random": "random scores",
    "labels": "DPO on the EFT labels, no loop",
    "without_nll": "self-judged, without the NLL term",
    "votes": "votes (ScPO)",
}
Records = dict[str, dict[int, dict[str, Any]]]  # arm -> seed -> model -> its measures


def read_records() -> Records:
    """Return the models of every record, by arm and seed.

    Raises
    ------
    SystemExit
        If runs of one world were measured on different prompts.
    """
    found: Records = {}
    prompts: dict[str, set[str]] = {}
    for path in sorted(RECORDS.glob("*.json")):
        arm, _, seed = path.stem.rpartition("-")
        record = json.loads(path.read_text())
        found.setdefault(arm, {})[int(seed)] = record["models"]
        prompts.setdefault(ARMS[arm].world, set()).add(record["prompts"])
    if different := [world for world, hashes in prompts.items() if len(hashes) > 1]:
        raise SystemExit(f"The records of {', '.join(different)} are of different test prompts. Run the study again.")
    return found


def items(model: dict[str, Any]) -> Items:
    """Return number of the prompt -> (whether it is followed, 1)."""
    return {str(number): (float(one), 1.0) for number, one in enumerate(model["followed"]) if one != "."}


def value(arm: dict[int, dict[str, Any]], name: str) -> Pooled | None:
    """Return the share of prompts that M_t follows, over the arm's seeds; None if a seed has no such model."""
    models = [arm[seed].get(name) for seed in sorted(arm)]
    return None if None in models else pooled([items(model) for model in models if model], (0.0, 1.0))


def gain(arm: dict[int, dict[str, Any]], name: str) -> Measure | None:
    """Return M_t minus M1, over the arm's seeds."""
    now, before = value(arm, name), value(arm, "M1")
    return now.minus(before).measure() if now and before else None


def ahead(ours: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]], name: str) -> Measure | None:
    """Return M_t of one arm minus that of another, paired by prompt and by seed, over the seeds that both have."""
    common = ours.keys() & theirs.keys()
    now, other = (value({seed: arm[seed] for seed in common}, name) for arm in (ours, theirs))
    return now.minus(other).measure() if common and now and other else None


def gain_of_seed(models: dict[str, Any], name: str) -> Measure:
    """Return M_t minus M1 of one seed, with an interval over prompts."""
    now, before = (pooled([items(models[one])], (0.0, 1.0), sampled=False) for one in (name, "M1"))
    return now.minus(before).measure()


def percent(measure: Measure | None, sign: bool = False) -> str:
    """Return a measure in percent with its interval, such as "46.5 [40.0, 53.5]"."""
    if measure is None or measure.value is None:
        return "-"
    text = f"{100 * measure.value:{'+' if sign else ''}.1f}"
    return text if measure.low is None else f"{text} [{100 * measure.low:.1f}, {100 * measure.high:.1f}]"


def judge_accuracy(arm: dict[int, dict[str, Any]], name: str) -> str:
    """Return the judge's accuracy on the candidates from which M_t was trained: mean over seeds, and range."""
    found = [arm[seed][name]["feedback"]["judge_accuracy"]["value"] for seed in sorted(arm) if _judged(arm[seed], name)]
    if not found:
        return "-"
    return f"{100 * sum(found) / len(found):.0f} ({100 * min(found):.0f} to {100 * max(found):.0f})"


def _judged(models: dict[str, Any], name: str) -> bool:
    feedback = models.get(name, {}).get("feedback")
    return bool(feedback and feedback["judge_accuracy"]["value"] is not None)


def tables(records: Records) -> str:
    """Return the tables of each world in Markdown."""
    lines = []
    for world in WORLDS:
        arms = [name for name, arm in ARMS.items() if arm.world == world and name in records]
        if not arms:
            continue
        lines += [
            f"\n{world}\n",
            "| arm | seeds | judge accuracy, % | M1 | M2 | M2 - M1 | M3 | M3 - M1 |",
            "|" + "---|" * 8,
        ]
        for name in arms:
            arm = records[name]
            shares = [percent(found.measure() if (found := value(arm, t)) else None) for t in ("M1", "M2", "M3")]
            gains = [percent(gain(arm, t), sign=True) for t in ("M2", "M3")]
            row = [
                label(name),
                str(len(arm)),
                judge_accuracy(arm, "M2"),
                shares[0],
                shares[1],
                gains[0],
                shares[2],
                gains[1],
            ]
            lines.append(f"| {' | '.join(row)} |")
        lines += [f"\n{label(arms[0])} minus the others, points, over the seeds that both have\n"]
        for name in arms[1:]:
            for t in ("M2", "M3"):
                if found := ahead(records[arms[0]], records[name], t):
                    lines.append(f"- {label(name)}, {t}: {percent(found, sign=True)}")
        lines += ["\nby seed: judge accuracy, pairs, and M_last - M1\n"]
        for name in arms:
            for seed, models in sorted(records[name].items()):
                last = max(models)
                feedback = models["M2"].get("feedback") or {}
                accuracy = (feedback.get("judge_accuracy") or {}).get("value")
                found = gain_of_seed(models, last)
                beyond = "beyond the interval" if found.low is not None and found.low > 0 else "not beyond the interval"
                judge = "-" if accuracy is None else f"{100 * accuracy:.0f} %"
                lines.append(f"- {label(name)}, seed {seed}: {judge}, {last} {percent(found, sign=True)}, {beyond}")
    return "\n".join(lines)


def label(name: str) -> str:
    return LABELS[name.removeprefix("sums_")]


def draw(records: Records, path: Path) -> None:
    """Draw M2 - M1 and M3 - M1 of each arm: its seeds as small dots, their mean, and its interval."""
    import matplotlib.pyplot as plt

    worlds = [world for world in WORLDS if any(ARMS[name].world == world for name in records)]
    figure, axes = plt.subplots(1, len(worlds), figsize=(6.4 * len(worlds), 4.2), squeeze=False)
    for axis, world in zip(axes[0], worlds, strict=True):
        arms = [name for name, arm in ARMS.items() if arm.world == world and name in records]
        axis.axhline(0, color="0.5", linewidth=0.8)
        for place, name in enumerate(arms):
            color = f"C{place}"
            for number, t in enumerate(("M2", "M3")):
                found = gain(records[name], t)
                if found is None or found.value is None:
                    continue
                at = number + 0.14 * (place - (len(arms) - 1) / 2)
                seeds = [gain_of_seed(models, t).value or 0.0 for models in records[name].values()]
                axis.scatter([at + 0.03] * len(seeds), [100 * one for one in seeds], s=10, color=color, alpha=0.6)
                reach = None
                if found.low is not None and found.high is not None:
                    reach = [[100 * (found.value - found.low)], [100 * (found.high - found.value)]]
                axis.errorbar(
                    [at], [100 * found.value], yerr=reach, marker="o", capsize=3, color=color,
                    label="" if number else f"{label(name)} ({len(seeds)} seed{'s' * (len(seeds) > 1)})",
                )  # fmt: skip
        axis.set_xticks([0, 1], ["M2 minus M1", "M3 minus M1"])
        axis.set_xlim(-0.5, 1.5)
        axis.set_ylabel("test prompts followed, points")
        axis.set_title({"facts": "facts with constraints", "sums": "sums"}[world])
        axis.grid(alpha=0.3, axis="y")
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def write_controls(records: Records, path: Path) -> None:
    """Write what `srlm.reporting.controls` shows beside a run of the same setting: M3 minus M1, by judge."""
    arms = []
    for name in JUDGES:
        found = gain(records[name], "M3") if name in records else None
        if found and found.value is not None and found.low is not None:
            values = {key: value if key == "n" else round(value, 4) for key, value in found.to_dict().items()}
            arms.append({"judge": name, "seeds": len(records[name]), "gain": values})
    config = srlm.compose("experiment=facts")
    named = [*experiment_options(BY_NAME["run"]), *SAME]
    options = {name: option_value(config, name) for name in named if name != "iteration"}
    path.write_text(json.dumps({"options": options, "arms": arms}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder of arms.png")
    records = read_records()
    print(tables(records))
    draw(records, parser.parse_args().to / "arms.png")
    write_controls(records, CONTROLS)


if __name__ == "__main__":
    main()
