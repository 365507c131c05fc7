"""Arms of a sweep: grouping of models by options of their runs, and pooled measures of each arm."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from srlm import errors
from srlm.config import Evaluate, options_of
from srlm.data.words import tokens
from srlm.evaluation.arms import Items, Pooled, pooled
from srlm.evaluation.instruction_following import check_answers
from srlm.evaluation.text_statistics import repeated_share
from srlm.models.resolve import label
from srlm.pipeline.run_reader import open_run
from srlm.pipeline.workspace import Workspace
from srlm.types import Answer, AnswerLoss, SeedExample

OWN = "train"  # value of `examples` for the training examples of each model's run
_MOST_TYPES = 8  # maximum number of types of prompts with separate measures


def expand(models: Sequence[str]) -> list[str]:
    """Return the models, with each pattern (`runs/sweep-*/iteration_1/model`) replaced by its matches, sorted by name.

    Raises
    ------
    ConfigError
        If a pattern has no match.
    """
    expanded: list[str] = []
    for model in models:
        if not re.search(r"[*?]", model):
            expanded.append(model)
            continue
        path = Path(model).expanduser()
        matches = sorted(str(folder) for folder in Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not matches:
            raise errors.ConfigError(f"models=[{model}] matches no folder (from {Path.cwd()}).")
        expanded += matches
    return expanded


def run_of(model: str) -> Workspace | None:
    """Return the run of a model (RUN/iteration_N/model or RUN/iteration_N); None for other models."""
    path = Path(model).expanduser().resolve()
    iteration = path.parent if path.name == "model" else path
    if not re.fullmatch(r"iteration_\d+", iteration.name) or not (iteration.parent / "run.json").is_file():
        return None
    return open_run(iteration.parent)


@dataclass(frozen=True)
class Setting:
    """One arm: the options that define it, and its models, one per run."""

    options: tuple[tuple[str, str], ...]  # (option, value); () for a model without a run
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the arm's name for tables: the values of its options."""
        return ", ".join(value for _, value in self.options) or label(self.models[0])


def settings(models: Sequence[str], by: Sequence[str]) -> list[Setting]:
    """Return the arms: models grouped by the values of some options of their runs, in the order of their seeds.

    A model without a run, such as M0, is a separate arm; these arms are first.

    Raises
    ------
    ConfigError
        If an option does not exist.
    """
    by_options: dict[tuple[tuple[str, str], ...], list[tuple[int, str]]] = {}
    without_run = []
    for model in models:
        run = run_of(model)
        if run is None:
            without_run.append(Setting((), (model,)))
            continue
        config = run.config()
        options = options_of(config, *(group.name for group in dataclasses.fields(config)))
        if unknown := [name for name in by if name not in options]:
            raise errors.ConfigError(
                f"group_by=[{','.join(by)}]: runs have no option {unknown[0]}. To list all options: srlm run --cfg job."
            )
        by_options.setdefault(tuple((name, _shown(options[name])) for name in by), []).append((config.seed, model))
    return without_run + [
        Setting(options, tuple(model for _, model in sorted(runs))) for options, runs in by_options.items()
    ]


def reference_of(arms: Sequence[Setting], arm: Setting) -> Setting | None:
    """Return the arm that an arm is compared with: the first one that differs only in the first option."""
    same = [other for other in arms if other.options and arm.options and other.options[1:] == arm.options[1:]]
    return same[0] if same and same[0] != arm else None


def _shown(value: Any) -> str:
    """Return an option's value for tables; paths are reduced to the file name without a data file's extension."""
    return re.sub(r"\.jsonl?(\.gz)?$", "", str(value).rpartition("/")[2])


# Measures and their items


@dataclass(frozen=True)
class Of:
    """A measure of arms, with its items from each model's records."""

    measure: str  # loss, gap, follows, characters, truncated, seq_rep_4
    of: str  # the file of examples, or the type of prompts; "" = all prompts
    items: Callable[[str], Items]  # model -> its items
    less: Of | None = None  # gap: the measure that is subtracted

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return (0, 1) for fractions; None for losses and lengths."""
        return None if self.measure in ("loss", "gap", "characters") else (0.0, 1.0)


def losses(
    files: Sequence[str],
    read: Callable[[str, str], Sequence[AnswerLoss]],
    prompts: Callable[[str, str], Mapping[str, str]],
) -> list[Of]:
    """Return the measures of the loss on each file of examples, and of its gap to the first file.

    Parameters
    ----------
    read : callable
        (model, file) -> the records, or an empty sequence.
    prompts : callable
        (model, file) -> example id -> prompt, for examples with records. An item is a prompt with all its answers.
    """

    def items(file: str) -> Callable[[str], Items]:
        def of_model(model: str) -> Items:
            by_prompt: dict[str, tuple[float, float]] = {}
            rows = [row for row in read(model, file) if row.nats is not None]
            of_example = prompts(model, file) if rows else {}
            for row in rows:
                nats, tokens = by_prompt.get(of_example[row.id], (0.0, 0.0))
                by_prompt[of_example[row.id]] = (nats + (row.nats or 0.0), tokens + row.tokens)
            return by_prompt

        return of_model

    of_files = [Of("loss", file, items(file)) for file in files]
    return of_files + [Of("gap", loss.of, loss.items, less=of_files[0]) for loss in of_files[1:]]


def answers(prompts: Sequence[SeedExample], read: Callable[[str], Sequence[Answer]]) -> list[Of]:
    """Return the measures of the answers: length, repetition and, for prompts with constraints, instructions followed.

    Instructions followed are also measured by type of prompt if there are at most `_MOST_TYPES` types.

    Parameters
    ----------
    read : callable
        model -> its answers.
    """
    types = {prompt.id: prompt.type for prompt in prompts if prompt.constraints}
    all_types = sorted(set(types.values()))

    answers_of = cache(read)
    checked = cache(lambda model: check_answers(prompts, answers_of(model)))

    def followed(of_type: str) -> Callable[[str], Items]:
        def items(model: str) -> Items:
            rows = [row for row in checked(model) if not of_type or types[row.id] == of_type]
            return {row.id: row.terms("prompt_level_strict_acc") for row in rows}

        return items

    def each(value: Callable[[Answer], float | None]) -> Callable[[str], Items]:
        def items(model: str) -> Items:
            values = {answer.id: value(answer) for answer in answers_of(model)}
            return {item: (x, 1.0) for item, x in values.items() if x is not None}

        return items

    separate = all_types if 1 < len(all_types) <= _MOST_TYPES else []
    return [
        *([Of("follows", of_type, followed(of_type)) for of_type in ["", *separate]] if types else []),
        Of("characters", "", each(lambda answer: len(answer.text))),
        Of("truncated", "", each(lambda answer: answer.truncated)),
        Of("seq_rep_4", "", each(lambda answer: repeated_share(tokens(answer.text)))),
    ]


def arms_results(options: Evaluate, arms: Sequence[Setting], measures: Iterable[Of]) -> dict[str, Any]:
    """Return the part "arms" of evaluation.json.

    Returns
    -------
    dict
        - "by": the options that define the arms.
        - "arms": for each arm its "options", "name", "models" and "reference", the index of the arm that it is
          compared with.
        - "measures": for each measure "measure", "of", for a gap "less", and "arms", with an entry per arm: "value" (a
          Measure, `n` counts items), "runs" (the value of each run), and "against" (a Measure: the difference to the
          reference).
    """
    references = [reference_of(arms, arm) for arm in arms]
    rows = []
    for row in measures:
        values = {arm: _pooled(row, arm) for arm in arms}
        entries = []
        for arm, reference in zip(arms, references, strict=True):
            against = values[arm].minus(values[reference]) if reference else None
            entries.append(
                {
                    "value": values[arm].measure().to_dict(),
                    "runs": values[arm].of_runs,
                    "against": against.measure().to_dict() if against else None,
                }
            )
        less = {"less": _shown(row.less.of)} if row.less else {}
        rows.append({"measure": row.measure, "of": _shown(row.of), **less, "arms": entries})
    return {
        "by": options.group_by,
        "arms": [
            {
                "options": dict(arm.options),
                "name": arm.name,
                "models": list(arm.models),
                "reference": arms.index(reference) if reference else None,
            }
            for arm, reference in zip(arms, references, strict=True)
        ],
        "measures": rows,
    }


def _pooled(measure: Of, arm: Setting) -> Pooled:
    value = pooled([measure.items(model) for model in arm.models], measure.bounds, sampled=bool(arm.options))
    return value.minus(_pooled(measure.less, arm)) if measure.less else value
