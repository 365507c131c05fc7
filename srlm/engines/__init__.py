"""Who writes text: vLLM, transformers, or any OpenAI-compatible server."""

from srlm.engines.base import Completion, Engine, Sampling, open_endpoint, open_engine

__all__ = ["Completion", "Engine", "Sampling", "open_endpoint", "open_engine"]
