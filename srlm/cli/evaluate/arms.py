"""The models of a sweep by arm: which options of their runs tell them apart, and what all runs of an arm came to."""

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

OWN = "train"  # of `examples`: those that each model's run was trained on
_MOST_TYPES = 8  # of prompts that are told one by one


def expand(models: Sequence[str]) -> list[str]:
    """The models, with each pattern (`runs/sweep-*/iteration_1/model`) replaced by what it finds, in order of name.

    Raises
    ------
    ConfigError
        If a pattern finds nothing.
    """
    found: list[str] = []
    for model in models:
        if not re.search(r"[*?]", model):
            found.append(model)
            continue
        path = Path(model).expanduser()
        matches = sorted(str(one) for one in Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not matches:
            raise errors.ConfigError(f"models=[{model}] finds no folder (from {Path.cwd()}).")
        found += matches
    return found


def run_of(model: str) -> Workspace | None:
    """The run that a model is of, RUN/iteration_N/model or RUN/iteration_N; None for other models."""
    path = Path(model).expanduser().resolve()
    iteration = path.parent if path.name == "model" else path
    if not re.fullmatch(r"iteration_\d+", iteration.name) or not (iteration.parent / "run.json").is_file():
        return None
    return open_run(iteration.parent)


@dataclass(frozen=True)
class Setting:
    """One arm: what tells it from the others, and its models, one a run."""

    options: tuple[tuple[str, str], ...]  # option, value; () for a model that is of no run
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        """As tables show it: the options' values alone."""
        return ", ".join(value for _, value in self.options) or label(self.models[0])


def settings(models: Sequence[str], by: Sequence[str]) -> list[Setting]:
    """The models by the values of some options of their runs, in the order of their seeds; M0, and what else is of no
    run, is an arm of its own, before the others.

    Raises
    ------
    ConfigError
        If runs have no such option.
    """
    found: dict[tuple[tuple[str, str], ...], list[tuple[int, str]]] = {}
    alone = []
    for model in models:
        run = run_of(model)
        if run is None:
            alone.append(Setting((), (model,)))
            continue
        config = run.config()
        options = options_of(config, *(group.name for group in dataclasses.fields(config)))
        if unknown := [name for name in by if name not in options]:
            raise errors.ConfigError(
                f"group_by=[{','.join(by)}]: runs have no option {unknown[0]}. To list all options: srlm run --cfg job."
            )
        found.setdefault(tuple((name, _shown(options[name])) for name in by), []).append((config.seed, model))
    return alone + [Setting(options, tuple(model for _, model in sorted(own))) for options, own in found.items()]


def reference_of(arms: Sequence[Setting], arm: Setting) -> Setting | None:
    """The arm that another is compared with: the first that differs in nothing but the first option."""
    same = [other for other in arms if other.options and arm.options and other.options[1:] == arm.options[1:]]
    return same[0] if same and same[0] != arm else None


def _shown(value: Any) -> str:
    """A value in a table; of a path its last part, without what all kinds of data files end in."""
    return re.sub(r"\.jsonl?(\.gz)?$", "", str(value).rpartition("/")[2])


# What every model adds to each measure, item by item.


@dataclass(frozen=True)
class Of:
    """One measure of one arm after another: its name, and its items in each model's records."""

    measure: str  # loss, gap, follows, characters, truncated, seq_rep_4
    of: str  # the file of examples, or the type of prompts; "" = all prompts
    items: Callable[[str], Items]  # model -> its items
    less: Of | None = None  # gap: the measure that is taken off

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Of a share, 0 and 1; None for losses and lengths."""
        return None if self.measure in ("loss", "gap", "characters") else (0.0, 1.0)


def losses(
    files: Sequence[str],
    read: Callable[[str, str], Sequence[AnswerLoss]],
    prompts: Callable[[str, str], Mapping[str, str]],
) -> list[Of]:
    """The loss of each file of examples, and how much it is above that of the first file.

    Parameters
    ----------
    read : function of a model and a file
        Its records; none where there are none.
    prompts : function of a model and a file
        Example id -> prompt, of the examples that have records. An item is a prompt with all its answers.
    """

    def items(file: str) -> Callable[[str], Items]:
        def of_model(model: str) -> Items:
            found: dict[str, tuple[float, float]] = {}
            rows = [row for row in read(model, file) if row.nats is not None]
            of_example = prompts(model, file) if rows else {}
            for row in rows:
                nats, tokens = found.get(of_example[row.id], (0.0, 0.0))
                found[of_example[row.id]] = (nats + (row.nats or 0.0), tokens + row.tokens)
            return found

        return of_model

    every = [Of("loss", file, items(file)) for file in files]
    return every + [Of("gap", one.of, one.items, less=every[0]) for one in every[1:]]


def answers(prompts: Sequence[SeedExample], read: Callable[[str], Sequence[Answer]]) -> list[Of]:
    """What the answers are like, and where prompts can be checked, how many are followed, by type where these are few.

    Parameters
    ----------
    read : function of a model
        Its answers.
    """
    types = {prompt.id: prompt.type for prompt in prompts if prompt.constraints}
    kinds = sorted(set(types.values()))

    own = cache(read)
    checked = cache(lambda model: check_answers(prompts, own(model)))

    def followed(kind: str) -> Callable[[str], Items]:
        def items(model: str) -> Items:
            rows = checked(model)
            return {row.id: row.terms("prompt_level_strict_acc") for row in rows if not kind or types[row.id] == kind}

        return items

    def each(value: Callable[[Answer], float | None]) -> Callable[[str], Items]:
        def items(model: str) -> Items:
            found = {answer.id: value(answer) for answer in own(model)}
            return {item: (number, 1.0) for item, number in found.items() if number is not None}

        return items

    told = kinds if 1 < len(kinds) <= _MOST_TYPES else []
    return [
        *([Of("follows", kind, followed(kind)) for kind in ["", *told]] if types else []),
        Of("characters", "", each(lambda answer: len(answer.text))),
        Of("truncated", "", each(lambda answer: answer.truncated)),
        Of("seq_rep_4", "", each(lambda answer: repeated_share(tokens(answer.text)))),
    ]


def arms_card(options: Evaluate, arms: Sequence[Setting], measures: Iterable[Of]) -> dict[str, Any]:
    """What evaluation.json says of a sweep.

    Returns
    -------
    dict
        - "by": the options that arms differ in; "arms": each with its "options", "name", "models" and "reference", the
          place of the arm that it is compared with.
        - "measures": each with its "measure", what it is "of", of a gap what it is "less", and "arms", an entry an arm:
          "value" (a Measure, `n` counts items), "runs" (the value of each run), "against" (a Measure: the difference to
          the reference).
    """
    references = [reference_of(arms, arm) for arm in arms]
    rows = []
    for one in measures:
        found = {arm: _pooled(one, arm) for arm in arms}
        entries = []
        for arm, reference in zip(arms, references, strict=True):
            against = found[arm].minus(found[reference]) if reference else None
            entries.append(
                {
                    "value": found[arm].measure().to_dict(),
                    "runs": found[arm].of_runs,
                    "against": against.measure().to_dict() if against else None,
                }
            )
        less = {"less": _shown(one.less.of)} if one.less else {}
        rows.append({"measure": one.measure, "of": _shown(one.of), **less, "arms": entries})
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


def _pooled(one: Of, arm: Setting) -> Pooled:
    found = pooled([one.items(model) for model in arm.models], one.bounds, sampled=bool(arm.options))
    return found.minus(_pooled(one.less, arm)) if one.less else found
