"""The options, inputs and libraries that a model's text depends on, as manifests record them.

Options that only change speed or memory (concurrency, batch sizes, threads) are left out, so that a run can be resumed
on another machine. So is `engine.max_model_len`, because requests that do not fit are counted as missing
(srlm/engines/missing.py).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from srlm.config import Config, options_of
from srlm.engines import external_engine, own_options
from srlm.models.chat_template import chat_template_names, read_chat_template
from srlm.models.resolve import identity
from srlm.pipeline.artifacts import model_output
from srlm.pipeline.provenance import TRANSFORMERS, VLLM
from srlm.pipeline.roles import ModelRef
from srlm.pipeline.stage import recorded
from srlm.pipeline.workspace import Workspace

_ENGINE = ("engine.kind", "engine.dtype", "engine.extra")
# The model and its chat template are inputs instead, by their contents.
_BY_CONTENTS = ("model.name", "model.revision", "model.trust_remote_code", "model.chat_template")
_GENERATED = "model.max_thought_tokens"  # training does not depend on it


def chat_template(config: Config, ref: ModelRef | None = None) -> dict[str, str]:
    """Return the hash of the text of `model.chat_template`, as an input; a server (`ref`) has its own template."""
    if ref is not None and not ref.local:
        return {}
    name = config.model.chat_template
    if not name:
        return {"model.chat_template": "the model's own"}
    if name not in chat_template_names() and not Path(name).expanduser().is_file():
        return {}  # the engine that needs it reports that it is gone
    return {"model.chat_template": hashlib.sha256(read_chat_template(name).encode()).hexdigest()[:16]}


def model_input(workspace: Workspace, ref: ModelRef) -> dict[str, str]:
    """Return the fingerprint of a model, as an input; a server's model has none."""
    if ref.kind == "iteration":
        return recorded(workspace, model_output(workspace, ref.iteration))
    if ref.kind == "sft_baseline":
        return recorded(workspace, workspace.sft_baseline)
    if ref.kind == "reward_model":
        return recorded(workspace, workspace.reward_model)
    return identity(ref.name) if ref.kind == "external" else {}


def generation_options(config: Config, ref: ModelRef | None = None) -> dict[str, Any]:
    """Return the options besides the request that a model's text depends on; `ref` None = a model of the run."""
    if ref is not None and ref.kind == "program":
        return {}
    if ref is not None and not ref.local:
        names = ["model.thought_start", "model.thought_end", _GENERATED]
        if config.endpoint.template_variables:
            names += ["endpoint.template_variables", "model.chat_template_kwargs", "model.template_date"]
        return endpoint_options(config) | options_of(config, *names)
    own = [f"engine.{name}" for name in own_options(config.engine)]
    return model_options(config) | options_of(config, _GENERATED, *_ENGINE, *own)


def model_options(config: Config) -> dict[str, Any]:
    """Return the options of the group `model` that change texts or token ids."""
    options = options_of(config, "model")
    return {name: value for name, value in options.items() if name not in (*_BY_CONTENTS, _GENERATED)}


def endpoint_options(config: Config) -> dict[str, Any]:
    """Return the options of a server that change its answers or the requests to it."""
    options = options_of(
        config, *(f"endpoint.{name}" for name in ("base_url", "model", "prefill", "logprobs", "extra"))
    )
    return options | ({} if config.endpoint.temperature is None else options_of(config, "endpoint.temperature"))


def engine_libraries(config: Config, ref: ModelRef | None = None, scoring: bool = False) -> tuple[str, ...]:
    """Return the libraries whose version can change what a model generates or, with `scoring`, how it scores."""
    if ref is not None and not ref.local:
        return ()
    external = external_engine(config.engine.kind)
    if external and not scoring:
        return external.libraries
    return VLLM if config.engine.kind == "vllm" and not scoring else TRANSFORMERS
