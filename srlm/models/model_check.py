"""Check models by name: find each, read what is on this machine or on the Hub, and report its problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from srlm.config import Config
from srlm.errors import ModelError
from srlm.models.adapters import base_of, is_adapter
from srlm.models.chat_template import has_chat_template
from srlm.models.checkpoint import Checkpoint, Use
from srlm.models.checkpoint_checks import notes_of, problems_of
from srlm.models.config import ModelConfig
from srlm.models.resolve import (
    PACKAGED,
    TINY,
    cache_folder,
    converted_package,
    files_on_hub,
    hub_id,
    identity,
    locate,
)
from srlm.pipeline.provenance import library_versions

_LIBRARIES = ("srlm", "transformers", "huggingface-hub")


@dataclass(frozen=True)
class NamedModel:
    """A model that an option names.

    Parameters
    ----------
    option : str
        The option, such as "judge.model".
    options : ModelConfig
        The model's name, and how the command uses it.
    use : Use
        What the command uses it for.
    own_template : bool
        Whether the model's own chat template has priority over `options.chat_template`.
    """

    option: str
    options: ModelConfig
    use: Use
    own_template: bool = False

    @property
    def name(self) -> str:
        return self.options.name

    def __str__(self) -> str:
        return f"{self.option}={self.name}"


@dataclass(frozen=True)
class Report:
    """The result of one model's check. Problems prevent its use, and notes are warnings."""

    model: NamedModel
    problems: list[str]
    notes: list[str]


def report_of(config: Config, model: NamedModel) -> Report:
    """Check one model. For a Hub model, the files except its weights are downloaded."""
    if model.name == TINY:
        return Report(model, [], [])
    options = model.options
    try:
        path = locate(options, weights=False)
    except ModelError as error:
        return Report(model, [str(error).removeprefix(f"model.name={model.name}: ")], [])
    if model.name in PACKAGED:  # tested, and checked again when it has been converted
        converted = converted_package(model.name)
        if converted is None:
            return Report(model, [], [])
        path = converted
    if model.own_template and has_chat_template(path):
        options = replace(options, chat_template="")
    downloaded = path.is_file() or any(path.glob("*.safetensors"))
    listed = (files_on_hub(options) or ()) if _is_on_hub(model) and not downloaded else None
    engine = config.engine
    checkpoint = Checkpoint(path, options, model.use, engine.max_model_len or 0, engine.kind, listed)
    problems = problems_of(checkpoint)
    if not problems and is_adapter(path):  # its tokenizer is checked when it has been merged
        base, revision = base_of(path)
        of_base = replace(options, name=base, revision=revision, trust_remote_code=False)
        found = report_of(config, NamedModel(model.option, of_base, "train", own_template=True)).problems
        problems = [f"The base model of the adapter, {base}: {problem}" for problem in found]
    return Report(model, problems, notes_of(checkpoint))


def _is_on_hub(model: NamedModel) -> bool:
    return model.name not in PACKAGED and hub_id(model.name) is not None


def check_key(config: Config, model: NamedModel) -> str | None:
    """Return a hash of all that a model's check depends on; None if the model is not on this machine.

    A folder or file counts by names, sizes and times, and a Hub model by the commit that was downloaded last.
    """
    if _is_on_hub(model):
        stats: Any = identity(model.name, options=model.options).get(model.name)
    else:
        try:
            path = locate(model.options, weights=False)
        except ModelError:
            return None
        template = Path(model.options.chat_template).expanduser()
        files = [*(sorted(path.iterdir()) if path.is_dir() else [path]), template]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    engine = (config.engine.max_model_len, config.engine.kind)
    parts = [asdict(model), engine, stats, library_versions(_LIBRARIES)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32] if stats else None


def is_checked(key: str | None) -> bool:
    """Return whether the check with this key has been made before, without problems."""
    return key is not None and _mark(key).is_file()


def remember(keys: Sequence[str | None]) -> None:
    """Store that these checks found no problem."""
    for key in keys:
        if key is not None:
            _mark(key).parent.mkdir(parents=True, exist_ok=True)
            _mark(key).touch()


def _mark(key: str) -> Path:
    return cache_folder() / "checked" / key
