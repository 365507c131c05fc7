"""Model card: README.md in the Hub's format, in the model's folder, built from the files of its run.

Its content comes from manifests, evaluation.json and run.json. A card contains no text of a prompt, an answer or a
judgement. Names that users gave (models, files, types of prompts) are escaped, and local paths are reduced to their
last part.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srlm.config import Config
from srlm.data.config import hub_name
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation, evaluation_path, read_evaluation
from srlm.io.files import write_atomic
from srlm.io.tables import cell, number
from srlm.judges.eft import sft_uses_eft
from srlm.judges.roles import feedback_judge
from srlm.metrics import PARTS, Metric, find, metric
from srlm.models.resolve import hub_id
from srlm.pipeline.artifacts import IFT
from srlm.pipeline.manifest import Manifest, finished_manifests
from srlm.pipeline.roles import CONTROLS
from srlm.pipeline.run_reader import manifest, model_name, model_stage
from srlm.pipeline.workspace import CARD, Workspace
from srlm.preferences.alarms import triggered
from srlm.preferences.pairs import describe_feedback
from srlm.reporting.summary import ROWS

PAPER = "[arXiv 2401.10020](https://arxiv.org/abs/2401.10020)"
_LOSSES = ("dropped", "rejected", "problems")  # counts by reason, which the card shows as one sum
_ORDER: tuple[str, ...] = ("sft_baseline", "rationales", "eft", "sft", "reward_model")
_ORDER += ("prompts", "candidates", "judgements", "meta_judgements", "pairs")
_LONGEST = 120  # maximum characters of an option's value


def write_card(workspace: Workspace, config: Config, t: int) -> None:
    """Write M_t's card to its folder, t >= 1; a file with the same content is not rewritten.

    M1 that is M0 (`sft.data=none`) gets none, because its folder is not the run's.
    """
    if workspace.is_base(t):
        return
    path = workspace.model(t) / CARD
    text = model_card(workspace, config, t)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_atomic(path, text)


def model_card(workspace: Workspace, config: Config, t: int, place: str = "") -> str:
    """Return the card of a finished and evaluated M_t.

    Parameters
    ----------
    t : int
        At least 1, because the run did not train M_0.
    place : str
        The Hub id to load the model from; "" = the card's folder.
    """
    from huggingface_hub import ModelCard, ModelCardData

    run, evaluation = workspace.run(), read_evaluation(evaluation_path(workspace, t))
    name, base, method = model_name(workspace, t), config.model.name, model_stage(workspace, t)
    licence = {key: _one_line(value) for key, value in run.get("base_licence", {}).items()}
    data = ModelCardData(
        license=licence.get("license", "unknown"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
        base_model=hub_id(base),
        datasets=_hub_data(config) or None,
        language=languages(workspace) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["srlm", "self-rewarding", "sft", *([method] if t >= 2 else [])],
        model_name=name,
        eval_results=_eval_results(config, evaluation),
    )
    training = (
        f"It was trained with {method.upper()} from M{t - 1} on "
        f"{describe_feedback(manifest(workspace, t, 'pairs').counts)} {_origin(config, t)}."
        if t >= 2
        else f"It was trained with SFT from M0 on {' and '.join(_sft_data(config))}."
    )
    sections = [
        f"# {plain(name)}\n\nThis is M{t} of the run {plain(workspace.root.name)}: self-rewarding training ({PAPER}) "
        f"of {plain(shown(base))} (M0) with srlm {plain(run.get('version', '?'))}. {training}",
        _load_section(place),
        _limits_section(workspace, config, t, evaluation),
        _measures_section(evaluation),
        _alarms_section(workspace, config, t),
        lineage_section(workspace, t),
        _licence_section(config, run),
        _options_section(_options(workspace, t)),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _sft_data(config: Config) -> list[str]:
    """Return what M1 was trained on."""
    ift = ["IFT examples (instructions with human answers)"] if config.sft.uses_ift else []
    return [*ift, *(["EFT examples (judgements of answers)"] if sft_uses_eft(config) else [])]


def _origin(config: Config, t: int) -> str:
    """Return whose answers M_t was trained on, and who judged them."""
    if path := config.pairs.path or config.judgements.path:
        return f"from {plain(shown(path))}"
    return f"of M{t - 1}'s own answers, judged by {plain(feedback_judge(config, t - 1))}"


def plain(text: object) -> str:
    """Return untrusted text for Markdown: one line without control characters, with markup characters escaped."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    html = printable.translate({ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"})
    marks = re.sub(r"[\\`*\[\]{}|~#$!^@]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", html)
    return re.sub(r":(?=//)|(?<=www)\.", lambda match: f"&#{ord(match[0])};", marks, flags=re.IGNORECASE).strip()


def shown(value: object) -> str:
    """Return a name or an option's value for publication; local paths are reduced to their last part."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    local = text.startswith(("/", "~", ".")) or "\\" in text or text.count("/") > 1
    text = Path(text.replace("\\", "/")).name if local and not text.startswith("hub:") else text
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _measures_section(evaluation: Evaluation) -> str:
    lines = [
        "## Measures\n\nValues have 95 % intervals ([n/a] = no interval), and n is the number of items that a value is "
        "computed from. Measures without a value are undefined for this model."
    ]
    of_part: dict[str, list[tuple[Metric, Measure]]] = defaultdict(list)
    for key, measure in evaluation.measures():
        part, _, name = key.partition("/")
        of_part[part].append((find(key) or Metric(key, name.replace("_", " "), "-", "", ""), measure))
    for part, title in PARTS.items():
        rows = of_part[part]
        if not rows:
            continue
        judge = f" (judged by {plain(evaluation.head_to_head_judge)})" if part.startswith("head_to_head") else ""
        table = [f"| {title}{judge} | | n |", "| --- | ---: | ---: |"]
        for row, measure in rows:
            if measure.value is not None:
                table.append(f"| {plain(row.heading)} | {cell(measure, row.scale, row.digits)} | {measure.n} |")
        undefined = [plain(row.label) for row, measure in rows if measure.value is None]
        without = f"\n\nUndefined: {'; '.join(undefined)}." if undefined else ""
        lines.append("\n".join(table) + without)
    return "\n\n".join(lines)


def _eval_results(config: Config, evaluation: Evaluation) -> list[Any]:
    """Return the measures for the card's metadata; values are strings, because the Hub has no field for intervals."""
    from huggingface_hub import EvalResult

    paths = seed_paths(config)
    results = []
    for part, group, title in (
        ("judge", "eft", f"held-out answers with {'labels' if config.data.own_answers.used else 'human ranks'}"),
        ("answers", "evaluation", "evaluation prompts"),
        ("head_to_head", "evaluation", "evaluation prompts"),
    ):
        for name, measure in evaluation.part(part).items():
            if name in ROWS[part] and measure.value is not None:
                ends = [number(end, 4) for end in (measure.low, measure.high) if end is not None]
                interval = f" [{', '.join(ends)}]" if ends else ""
                results.append(
                    EvalResult(
                        task_type="text-generation",
                        dataset_type=paths[group].removeprefix("hub:") if _is_hub(paths[group]) else f"srlm-{group}",
                        dataset_name=f"{title} ({_one_line(shown(paths[group]))})",
                        metric_type=name,
                        metric_name=metric(f"{part}/{name}").label,
                        metric_value=f"{number(measure.value, 4)}{interval}",
                    )
                )
    return results


def _alarms_section(workspace: Workspace, config: Config, t: int) -> str:
    if t < 2:
        return "## Alarms\n\nAlarms check preference pairs, and M1 is trained without pairs."
    counts = manifest(workspace, t, "pairs").counts
    statistics: dict[str, float] = counts.get("alarms", {})
    alarms = "\n".join(f"- {plain(message)}" for _, message in triggered(counts, config.alarms))
    values = "; ".join(f"{metric(f'alarms/{name}').label}: {number(value)}" for name, value in statistics.items())
    none = "No alarm was triggered before this model's training."
    return f"## Alarms\n\n{alarms or none}\n\nFeedback statistics: {plain(values)}."


def lineage_section(workspace: Workspace, t: int) -> str:
    """Return a section with every stage up to M_t: its outputs with their hashes, and its counts."""
    folders = [workspace.data, *(workspace.iteration(u) for u in range(t + 1))]
    lines = [
        "## Lineage\n\nStages from the seed data and the base model to this model. Hashes are prefixes of SHA-256, "
        "of a file's bytes, or of a model's file names and contents (of large files, of sampled blocks).",
        "| stage | outputs | counts |\n| --- | --- | --- |",
    ]
    for folder in folders:
        manifests = [Manifest.load(path) for path in finished_manifests(folder, below=False)]
        for stage in sorted(manifests, key=_position):
            if not stage.stage.endswith("/evaluation"):
                outputs = ", ".join(f"{plain(path)} ({plain(hash_[:12])})" for path, hash_ in stage.outputs.items())
                lines[-1] += f"\n| {plain(stage.stage)} | {outputs} | {plain(_counts(stage))} |"
    return "\n\n".join(lines)


def _position(stage: Manifest) -> tuple[int, str]:
    """Return a sort key of a stage within its iteration; unknown stages come last."""
    name = stage.stage.rpartition("/")[2]
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _counts(stage: Manifest) -> str:
    texts = []
    for name, value in stage.counts.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            texts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
        elif name in _LOSSES:
            texts.append(f"{name} {sum(value.values())}")
    return ", ".join(text.replace("_", " ") for text in texts)


def _options(workspace: Workspace, t: int) -> dict[str, Any]:
    """Return the options of the stages up to M_t; of repeated stages, those of the last one."""
    options: dict[str, Any] = {}
    for folder in (workspace.data, workspace.iteration(0), workspace.iteration(1), workspace.iteration(t)):
        for path in finished_manifests(folder, below=False):
            options |= Manifest.load(path).options
    return options


def _options_section(options: Mapping[str, Any]) -> str:
    rows = [f"| {plain(name)} | {plain(shown(value)) or '-'} |" for name, value in sorted(options.items())]
    head = "## Options\n\nThese options of data, judge and training affect the results.\n"
    return "\n".join([head, "| option | value |", "| --- | --- |", *rows])


def _limits_section(workspace: Workspace, config: Config, t: int, evaluation: Evaluation) -> str:
    lines = []
    if t >= 2:
        judge = plain(feedback_judge(config, t - 1))
        by_model = (
            "No person checked the judgements"
            if config.judge.model != "endpoint"
            else "The judge is a model of an external server"
        )
        biased = f"{by_model}, so the model also learns the judge's biases, above all its length bias."
        control = "It is the model of a control arm, which shows what a judge's information is worth."
        limit = control if config.judge.model in CONTROLS else biased
        lines.append(f"- {judge} judged the answers that this model was trained on. {limit}")
        ratio = manifest(workspace, t, "pairs").counts.get("alarms", {}).get("length_ratio")
        if ratio is not None:
            lines.append(f"- Chosen answers were {ratio:.2f} times as long as rejected ones.")
    if t == 1:
        lines.append("- It was trained on the seed data only, without an iteration of self-rewarding.")
    judged, answered = evaluation.judge.get("pairwise_accuracy_imputed"), evaluation.answers.get("mean_characters")
    lines.append(
        f"- The measures are computed from {judged.n if judged else 0} pairs of ranked answers and "
        f"{answered.n if answered else 0} prompts. Consider their intervals."
    )
    if match_judge := evaluation.head_to_head_judge:
        lines.append(f"- The model {plain(match_judge)} judged the head to heads, not people.")
    lines.append(
        "- Not measured: truthfulness, safety, knowledge, longer conversations, languages other than the seeds', and "
        "whether evaluation prompts were in the base model's training data."
    )
    return "## Limits\n\n" + "\n".join(lines)


def _licence_section(config: Config, run: Mapping[str, Any]) -> str:
    stated, base = run.get("base_licence", {}), plain(shown(config.model.name))
    base_licence = (
        f"The licence of the base model {base} is {plain(', '.join(stated.values()))}. This model inherits it."
        if stated
        else f"The licence of the base model {base}, which this model inherits, is unknown."
    )
    seeds = [
        f"{group.upper()} {plain(shown(path))} ({'CC0-1.0' if path == 'builtin' else 'licence unknown'})"
        for group, path in seed_paths(config).items()
        if group != "evaluation"
    ]
    return f"## Licence\n\n{base_licence} The model was also trained on seed data: {'; '.join(seeds)}."


def _load_section(place: str) -> str:
    return (
        "## Load\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'name = "{place or "."}"  # {"on the Hub" if place else "the folder of this file"}\n'
        "tokenizer = AutoTokenizer.from_pretrained(name)\nmodel = AutoModelForCausalLM.from_pretrained(name)\n"
        'messages = [{"role": "user", "content": "Name three rivers of Asia."}]\n'
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        "output = model.generate(**inputs, max_new_tokens=64)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n```'
    )


def seed_paths(config: Config) -> dict[str, str]:
    """Return the sources of the data that no model of the run wrote: group -> builtin, hub:OWNER/NAME or a path."""
    data = config.data
    paths = {"ift": data.ift.path, "eft": data.eft.path, "evaluation": data.evaluation.path}
    paths |= {group: getattr(config, group).path for group in ("prompts", "judgements", "pairs")}
    return {group: f"hub:{hub_name(path)}" if hub_name(path) else path for group, path in paths.items() if path}


def _is_hub(path: str) -> bool:
    return path.startswith("hub:")


def _hub_data(config: Config) -> list[str]:
    paths = [path for group, path in seed_paths(config).items() if group != "evaluation"]
    return sorted({path.removeprefix("hub:") for path in paths if _is_hub(path)})


def languages(workspace: Workspace) -> list[str]:
    """Return the ISO 639-1 codes of the IFT seeds."""
    rows = IFT.read(workspace)
    return sorted({row.language for row in rows if re.fullmatch("[a-z]{2}", row.language)})


def _one_line(text: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()
