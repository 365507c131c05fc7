"""Engines, which generate text (vLLM, transformers, an OpenAI-compatible server), and sequence scorers."""
