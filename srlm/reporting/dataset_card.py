"""The data that a run's models made, as a data set: its files, and its card.

New prompts (the accepted ones), candidates, judgements and preference pairs of every iteration up to a model's.
Attempts at prompts that were rejected stay out, since many repeat a seed; so do EFT examples, which are made of seeds.
The seeds come along only where they are asked for.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.config import Config
from srlm.io import serialization
from srlm.io.record_file import read_records
from srlm.pipeline import artifacts
from srlm.pipeline.artifacts import Artifact
from srlm.pipeline.run_reader import finished_output
from srlm.pipeline.workspace import Workspace
from srlm.reporting.model_card import PAPER, languages, lineage_section, plain, seed_paths, shown
from srlm.types import Prompt, SeedExample

_PLAIN = {str: "string", int: "int64", float: "float64", bool: "bool"}


@dataclass(frozen=True)
class Kind:
    """One kind of record: a configuration of the data set."""

    name: str
    stage: str  # that made it
    artifact: Artifact[Any]
    always: bool = True  # False = some judges leave it


KINDS = (
    Kind("prompts", "prompts", artifacts.PROMPTS),
    Kind("candidates", "candidates", artifacts.CANDIDATES),
    Kind("judgements", "judgements", artifacts.JUDGEMENTS),
    Kind("comparisons", "judgements", artifacts.COMPARISONS, False),
    Kind("ratings", "judgements", artifacts.RATINGS, False),
    Kind("meta_comparisons", "meta_judgements", artifacts.META_COMPARISONS, False),
    Kind("pairs", "pairs", artifacts.PAIRS),
    Kind("labelled_answers", "pairs", artifacts.LABELLED, False),
    Kind("judgement_pairs", "pairs", artifacts.JUDGEMENT_PAIRS, False),
)


def data_files(workspace: Workspace, t: int, with_seeds: bool) -> tuple[dict[str, Path | bytes], dict[str, type]]:
    """What M_t and the models before it were trained on, as far as models made it.

    Parameters
    ----------
    t : int
        From 2.
    with_seeds : bool
        Whether the seeds are to be among them.

    Returns
    -------
    files : dict
        Path in the data set -> a file of the run, or the content.
    kinds : dict
        Configuration -> the dataclass of its records.

    Raises
    ------
    RunFolderError
        If an iteration's records are not all finished, or were changed since.
    """
    files: dict[str, Path | bytes] = {}
    kinds: dict[str, type] = {}
    for u in range(2, t + 1):
        for kind in KINDS:
            if kind.always or kind.artifact.path(workspace, u).is_file():
                path = finished_output(workspace, u, kind.stage, kind.artifact.file)
                kinds[kind.name] = kind.artifact.record
                files[f"{kind.name}/iteration_{u}.jsonl"] = (
                    _accepted(path) if kind.artifact is artifacts.PROMPTS else path
                )
    if with_seeds:
        for artifact in artifacts.SEEDS:
            path = artifact.path(workspace)
            kinds[f"seeds_{path.stem}"] = artifact.record
            files[f"seeds_{path.stem}/seeds.jsonl"] = _with_texts(path) if artifact.record is SeedExample else path
    return files, kinds


def data_card(
    workspace: Workspace, config: Config, t: int, kinds: Mapping[str, type], place: str, with_seeds: bool
) -> str:
    """The card of the data set that `data_files` makes.

    Parameters
    ----------
    kinds : mapping
        Configuration of the data set, a folder of it -> the dataclass of its records.
    place : str
        The hub id to load it from.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    run = workspace.root.name
    data = DatasetCardData(
        license="unknown",
        language=languages(workspace) or None,
        task_categories=["text-generation"],
        tags=["srlm", "self-rewarding", "dpo", "synthetic"],
        pretty_name=f"{run}, data that models made",
        configs=[{"config_name": kind, "data_files": f"{kind}/*.jsonl"} for kind in kinds],
        dataset_info=[{"config_name": kind, "features": features(record)} for kind, record in kinds.items()],
    )
    seeds = ", ".join(f"{group.upper()} {plain(shown(path))}" for group, path in seed_paths(config).items())
    base = plain(shown(config.model.name))
    stated = plain(workspace.run().get("base_licence", {}).get("license", "")) or "not known to the run"
    sections = [
        f"# {plain(run)}, data that models made\n\nWhat M1 to M{t - 1} of a run of self-rewarding training ({PAPER}) "
        f"wrote, which began with {base} (M0): new prompts (the accepted ones), answers to them, judgements of the "
        "answers, and the preference pairs that come of it. Ids lead from one to the other: `t2/p00003/c1/j0` is "
        "judgement 0 of candidate 1 of prompt 3, for the training of M2.",
        f"## Load\n\nConfigurations: {', '.join(kinds)}.\n\n```python\nfrom datasets import load_dataset\n\n"
        f'rows = load_dataset("{place}", "pairs", split="train")\n```',
        "## Limits\n\n"
        "- All texts are a model's, unchecked for truth, harm and personal data; a judgement is a model's opinion.\n"
        "- Models repeat what they have learnt: texts can hold sentences of the seeds or of the base model's data.\n"
        "- Texts can hold a model's control tokens: spell these apart before you train on them.",
        lineage_section(workspace, t),
        f"## Licence\n\nNone is stated: a model wrote the texts whose base's own licence is {stated}, after training "
        f"on seeds ({seeds}) with terms of their own. "
        + ("The seeds are part of this data set." if with_seeds else "The seeds are not in this data set."),
    ]
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def features(record: type) -> list[dict[str, Any]]:
    """A record's fields as the hub's metadata names columns: one that is null throughout has its type, too."""
    hints = typing.get_type_hints(record)
    return [_column(field.name, hints[field.name]) for field in dataclasses.fields(record)]


def _column(name: str, kind: Any) -> dict[str, Any]:
    inner = [one for one in typing.get_args(kind) if one not in (type(None), Ellipsis)]
    if typing.get_origin(kind) is dict:
        return {"name": name, "dtype": "string"}
    if typing.get_origin(kind) is tuple:
        return {"name": name, "list": _PLAIN.get(inner[0]) or features(inner[0])}
    return {"name": name, "dtype": _PLAIN[inner[0] if inner else kind]}


def _with_texts(path: Path) -> bytes:
    """A file of seeds whose constraints have their arguments as JSON: a column of the hub has one type throughout."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    for row in rows:
        for constraint in row.get("constraints", []):
            constraint["kwargs"] = json.dumps(constraint["kwargs"], ensure_ascii=False)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _accepted(path: Path) -> bytes:
    """A file of prompts without the attempts that were rejected."""
    kept = [prompt for prompt in read_records(path, Prompt) if not prompt.rejected]
    return "".join(serialization.to_json(prompt) + "\n" for prompt in kept).encode()
