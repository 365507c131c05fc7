"""Size and speed of the report page of a large run: `python -m benchmarks.report [PROMPTS]`.

Makes a run folder with PROMPTS (5,000) prompts x 4 candidates x 3 judgements, whose texts come from a Markov chain over
the words of the built-in seeds. Opens its report in headless Chromium, and for comparison the report of 24 prompts.
Prints sizes and times, and their ratios to those of the small report. Needs Chromium and the package playwright.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from srlm.config import Config
from srlm.data.readers import read_ift
from srlm.generation.pairs import SelectPairs
from srlm.io import serialization
from srlm.judges.config import SampledJudgeConfig
from srlm.pipeline.workspace import Workspace
from srlm.preferences.alarms import feedback_statistics
from srlm.preferences.pairs import select_pairs
from srlm.reporting import write_report
from srlm.types import Candidate, Judgement, Prompt

CANDIDATES, JUDGEMENTS = 4, 3
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def chromium() -> str | None:
    """Return the path of the browser's program; None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Words:
    """Random text: a Markov chain over the words of the built-in seeds."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.after: dict[str, list[str]] = defaultdict(list)
        for example in read_ift(Config().data.ift):
            words = f"{example.prompt} {example.response}".split()
            for word, following in pairwise(words):
                self.after[word].append(following)
        self.starts = list(self.after)

    def text(self, count: int) -> str:
        word, words = self.random.choice(self.starts), []
        for _ in range(count):
            words.append(word)
            word = self.random.choice(self.after.get(word) or self.starts)
        return " ".join(words)


def make_run(root: Path, prompts: int) -> None:
    """Write the files of a run to M2 with an additive judge that the report reads."""
    words, draw = Words(), random.Random(1)
    config = Config(name=root.name, judge=SampledJudgeConfig(count=JUDGEMENTS))
    workspace = Workspace(root)
    workspace.save_config(config)
    workspace.update_run(name=root.name, seed=0)
    made: dict[str, list[object]] = {"1_prompts": [], "2_candidates": [], "3_judgements": []}
    for n in range(prompts):
        prompt = Prompt(f"t2/p{n:05}", words.text(draw.randrange(10, 40)), ())
        made["1_prompts"].append(prompt)
        for c in range(CANDIDATES):
            tokens = draw.randrange(60, 160)
            candidate = Candidate(f"{prompt.id}/c{c}", prompt.id, words.text(tokens), tokens, False)
            made["2_candidates"].append(candidate)
            for j in range(JUDGEMENTS):
                score, tokens = draw.randrange(6), draw.randrange(30, 60)
                text = f"{words.text(tokens)}\nScore: {score}"
                made["3_judgements"].append(Judgement(f"{candidate.id}/j{j}", candidate.id, text, score, tokens=tokens))
    of_kind: tuple[list[Prompt], list[Candidate], list[Judgement]] = tuple(made.values())  # type: ignore[assignment]
    pairs, dropped = select_pairs(*of_kind, config.pairs, config.judge.min_valid)
    made["4_pairs"] = list(pairs)
    for name, rows in made.items():
        path = workspace.iteration(2) / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(serialization.to_json(row) + "\n" for row in rows), encoding="utf-8")
    found = feedback_statistics(of_kind[1], of_kind[2], pairs, config.judge.max_score, None)
    SelectPairs(workspace, config, 2).done({}, {"pairs": len(pairs), "dropped": dropped, "alarms": found})
    for t in range(3):
        workspace.iteration(t).mkdir(exist_ok=True)
        (workspace.iteration(t) / "evaluation.json").write_text(json.dumps({"iteration": t}))


def times(page: Page, path: Path) -> Iterator[tuple[str, float]]:
    """Yield the name and the seconds of each measured step of a page."""
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield "first view, with the list", time.perf_counter() - start
    page.wait_for_selector("body[data-ready=charts], body[data-ready=texts]")
    yield "charts drawn", time.perf_counter() - start
    page.wait_for_selector("body[data-ready=texts]", timeout=120_000)
    yield "all texts unpacked for the search", time.perf_counter() - start
    page.wait_for_timeout(500)
    for query in ("the", "score: 4", "without any match"):
        start = time.perf_counter()
        page.evaluate(
            """query => new Promise((done) => {
                 const box = document.getElementById("query"), found = document.getElementById("found");
                 found.textContent = "";
                 const observer = new MutationObserver(() => requestAnimationFrame(() => setTimeout(done)));
                 observer.observe(found, {childList: true});
                 box.value = query;
                 box.dispatchEvent(new Event("input"));
               })""",
            query,
        )
        yield f"search for {query!r}, drawn", time.perf_counter() - start


def main(prompts: int) -> None:
    program = chromium()
    if program is None:
        sys.exit("No Chromium found: install it (Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        measured: dict[str, list[float]] = defaultdict(list)
        sizes = []
        for name, count in (("small", 24), ("large", prompts)):
            root = Path(folder) / name
            make_run(root, count)
            start = time.perf_counter()
            sizes.append(write_report([root], root / "report.html") / 1e6)
            measured["writing the report"].append(time.perf_counter() - start)
            page = browser.new_page()
            for what, seconds in times(page, root / "report.html"):
                measured[what].append(seconds)
            page.close()
        print(f"{prompts:,} prompts x {CANDIDATES} candidates x {JUDGEMENTS} judgements, against 24 prompts")
        print(f"{'size of the page':36} {sizes[1]:8.2f} MB  ratio {sizes[1] / sizes[0]:6.1f}")
        for what, (small, large) in measured.items():
            print(f"{what:36} {1000 * large:8.0f} ms  ratio {large / small:6.1f}")
        browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
