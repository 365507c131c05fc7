"""Who writes text: vLLM, transformers, or any OpenAI-compatible server; and who rates it without a word."""

from srlm.engines.base import (
    Completion,
    Engine,
    Sampling,
    SequenceScorer,
    gather_or_cancel,
    open_endpoint,
    open_engine,
    open_likelihood,
    open_named,
    open_sequence_scorer,
)

__all__ = [
    "Completion",
    "Engine",
    "Sampling",
    "SequenceScorer",
    "gather_or_cancel",
    "open_endpoint",
    "open_engine",
    "open_likelihood",
    "open_named",
    "open_sequence_scorer",
]
