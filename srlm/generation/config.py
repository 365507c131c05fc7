"""Options of new prompts and of candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from srlm.data.config import RowsConfig
from srlm.ranges import MODEL, SHARE, TEMPERATURE, Range, at_least


@dataclass
class PromptsConfig(RowsConfig):
    """New prompts (arXiv 2401.10020, section 2.2; filters as in Self-Instruct, arXiv 2212.10560), or a fixed pool.

    Of a pool, only `count`, `max_overlap` and the options of its rows are used.
    """

    # "" = a model writes new prompts. Otherwise the pool from which each iteration takes its own prompts: a file,
    # hub:OWNER/NAME or a published dataset, as data.ift.path; builtin = the built-in IFT prompts; or the folder of
    # another run, runs/NAME
    path: str = ""
    count: Annotated[int, at_least(1)] = 24  # accepted prompts per iteration
    attempts: Annotated[int, at_least(1)] = 4  # give up after count x this many attempts
    model: Annotated[str, MODEL] = "self"  # self = M_t; sft = M1; base = M0; endpoint; or any model name
    shots_ift: Annotated[int, at_least(1)] = 6  # examples from IFT
    # examples from prompts that were accepted before (from IFT while there are none)
    shots_generated: Annotated[int, at_least(0)] = 2
    round_size: Annotated[int, at_least(1)] = 16  # attempts that share one view of what was accepted so far
    temperature: Annotated[float, TEMPERATURE] = 0.6  # of sampling
    top_p: Annotated[float, SHARE] = 0.9  # nucleus sampling: total probability of the tokens drawn from
    max_new_tokens: Annotated[int, at_least(1)] = 96  # tokens
    # reject from this ROUGE-L F1 with any prompt seen; of a pool, with its other prompts and those of evaluation
    max_overlap: Annotated[float, SHARE] = 0.7
    # words (characters in scripts written without spaces: Chinese, Japanese, Thai, ...)
    min_words: Annotated[int, at_least(1)] = 4
    max_words: int = 120  # words, counted as for min_words
    languages: list[str] = field(default_factory=lambda: ["en"])  # accepted (ISO 639-1); empty = all
    keywords: list[str] = field(
        default_factory=lambda: [
            "image", "images", "picture", "pictures", "photo", "graph", "graphs", "chart", "diagram", "file", "files",
            "map", "draw", "plot", "video", "audio", "music score", "go to", "website link", "url", "attached",
            "图片", "照片", "附件", "视频", "文件",
        ]
    )  # a prompt with one of these (whole words) asks for something that text cannot do  # fmt: skip


_SAMPLED = Range(lambda temperature: temperature > 0, "above 0, or all candidates are the same text")


@dataclass
class CandidatesConfig:
    """Answers of M_t to the new prompts, which are judged."""

    count: Annotated[int, at_least(2)] = 4  # N, candidates per prompt
    temperature: Annotated[float, TEMPERATURE, _SAMPLED] = 0.7  # of sampling
    top_p: Annotated[float, SHARE] = 0.9  # nucleus sampling: total probability of the tokens drawn from
    max_new_tokens: Annotated[int, at_least(1)] = 128  # tokens


@dataclass
class JudgementsConfig(RowsConfig):
    """Own candidates with their scores, instead of those of the run's models."""

    # "" = M_t's candidates are judged. Otherwise prompts with scored answers: a file, hub:OWNER/NAME or a published
    # dataset, or the folder of another run, runs/NAME; iteration t takes that run's judgements of iteration t
    path: str = ""
    count: Annotated[int, at_least(0)] = 0  # rows per iteration, drawn with the run's seed; 0 = all, for one iteration
