"""Options of models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from srlm.ranges import DATE, at_least


@dataclass
class ModelConfig:
    """The base model M0, or any fixed model next to it."""

    name: str = "smollm2-135m-instruct"  # packaged name, Hub id, local folder, or a .gguf file
    revision: str = ""  # Hub revision; "" = the default branch
    chat_template: str = ""  # "" = the model's own; else a name in srlm/models/chat_templates or a .jinja file
    # variables for the chat template, such as {enable_thinking: false}, in training and generation alike
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    # for templates that write today's date, so that no prompt depends on the clock
    template_date: Annotated[str, DATE] = "2024-07-26"
    # What a model writes from thought_start to thought_end, before its answer: not judged, measured or checked, but
    # trained on by DPO. An empty thought_start: whatever stands before thought_end; an empty thought_end: no thoughts.
    thought_start: str = "<think>"
    thought_end: str = "</think>"
    # tokens that a thought may have, in addition to max_new_tokens of the answer. A longer thought is cut, and its
    # completion is truncated, without an answer; 0 = max_new_tokens limits thought and answer together
    max_thought_tokens: Annotated[int, at_least(0)] = 0
    trust_remote_code: bool = False  # run code that a Hub repository ships: only for repositories you trust
