"""srlm: self-rewarding language models, as a research framework."""

__version__ = "0.1.0"
