"""How often 95 % intervals contain the truth, by simulation: `python -m benchmarks.coverage` writes docs/statistics.md.

Each cell of each table has its own seed, so that a single cell can be recomputed. The script takes about 5 minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from srlm.evaluation.intervals import Interval, Terms, bootstrap, bootstrap_interval, combined_interval, share_interval

PAGE = Path(__file__).resolve().parent.parent / "docs/statistics.md"
TRIALS = 2000
PROMPTS = (8, 24, 98, 500)
SHARES = (0.0, 0.02, 0.1, 0.5)
UNEVEN = -1  # rows per prompt: log-normal, 1 to 20 for most prompts and more than 50 for one in a hundred
# Title, rows per prompt (0: 1 to 12 at random; or UNEVEN), and the intra-class correlation of the rows of one prompt.
DESIGNS = (
    ("1 row a prompt", 1, 0.0),
    ("4 rows, correlation 0.3", 4, 0.3),
    ("12 rows, independent", 12, 0.0),
    ("12 rows, correlation 0.1", 12, 0.1),
    ("12 rows, correlation 0.5", 12, 0.5),
    ("12 rows, correlation 1", 12, 1.0),
    ("1 to 12 rows, correlation 0.5", 0, 0.5),
    ("very different numbers of rows, correlation 0.3", UNEVEN, 0.3),
)
NETS = ((0.02, 0.0), (0.1, 0.02), (0.3, 0.1), (0.5, 0.5), (0.98, 0.02))  # wins, losses; the rest is tied
CHANGED = (0.02, 0.1, 0.5)  # share of verdicts that a second judge draws again
RESAMPLES = 1000

Rng = np.random.Generator


def sample(rng: Rng, prompts: int, share: float, rows: int, correlation: float) -> Terms:
    """Return random rows of prompts, each correct or not; the prompts' shares are beta-distributed around `share`."""
    sizes = rng.integers(1, 13, prompts) if rows == 0 else np.full(prompts, rows)
    if rows == UNEVEN:
        sizes = np.maximum(1, rng.lognormal(1.5, 1.0, prompts).round()).astype(int)
    return Terms(rng.binomial(sizes, own_shares(rng, prompts, share, correlation)).astype(float), sizes.astype(float))


def own_shares(rng: Rng, prompts: int, share: float, correlation: float) -> np.ndarray:
    """Return the shares of prompts with this mean, whose rows have this intra-class correlation."""
    if share in (0, 1) or correlation == 0:
        return np.full(prompts, share)
    if correlation == 1:
        return (rng.random(prompts) < share).astype(float)
    concentration = (1 - correlation) / correlation
    return rng.beta(share * concentration, (1 - share) * concentration, prompts)


def net_wins(rng: Rng, prompts: int, win: float, loss: float) -> list[Terms]:
    """Return wins and losses of one match with one verdict per prompt."""
    drawn = rng.random(prompts)
    one = np.ones(prompts)
    return [Terms((drawn < win).astype(float), one), Terms((drawn >= 1 - loss).astype(float), one)]


def two_judges(rng: Rng, prompts: int, changed: float) -> list[Terms]:
    """Return two equally good judges on 12 pairs per prompt, correct on 60 %; the second draws some verdicts again."""
    own = own_shares(rng, prompts, 0.6, 0.3)[:, None]
    first = rng.random((prompts, 12)) < own
    second = np.where(rng.random((prompts, 12)) < changed, rng.random((prompts, 12)) < own, first)
    return [Terms(side.sum(axis=1).astype(float), np.full(prompts, 12.0)) for side in (first, second)]


def coverage(name: str, truth: float, interval: Callable[[Rng, str], Interval], trials: int = TRIALS) -> float:
    """Return the share of `trials` intervals that contain the truth; `name` seeds the cell."""
    rng = np.random.default_rng(list(name.encode()))
    covered = 0
    for number in range(trials):
        low, high = interval(rng, f"{name}/{number}")
        covered += low is not None and high is not None and low - 1e-12 <= truth <= high + 1e-12
    return covered / trials


def of_shares(method: str, design: tuple[str, int, float], prompts: int, share: float, trials: int = TRIALS) -> float:
    """Return one cell of the tables of shares; `method` is "interval" or "percentile", a plain bootstrap."""
    title, rows, correlation = design

    def interval(rng: Rng, seed: str) -> Interval:
        terms = sample(rng, prompts, share, rows, correlation)
        if method == "interval":
            return share_interval(terms)
        low, high = np.quantile(bootstrap(terms.numerators, terms.denominators, RESAMPLES, seed), [0.025, 0.975])
        return float(low), float(high)

    return coverage(f"{title}/{prompts}/{share}", share, interval, trials)


def of_net_wins(prompts: int, win: float, loss: float) -> float:
    return coverage(
        f"net/{prompts}/{win}/{loss}",
        win - loss,
        lambda rng, _: combined_interval(net_wins(rng, prompts, win, loss), (1, -1)),
    )


def of_judges(prompts: int, changed: float) -> float:
    return coverage(
        f"judges/{prompts}/{changed}",
        0.0,
        lambda rng, _: combined_interval(two_judges(rng, prompts, changed), (1, -1)),
    )


def of_means(prompts: int, kind: str) -> float:
    def interval(rng: Rng, seed: str) -> Interval:
        values = rng.normal(0, 1, prompts) if kind == "normal" else rng.lognormal(0, 1, prompts)
        return bootstrap_interval(bootstrap(values, np.ones(prompts), RESAMPLES, seed), prompts)

    return coverage(f"mean/{prompts}/{kind}", 0.0 if kind == "normal" else float(np.exp(0.5)), interval)


def table(head: list[str], rows: list[tuple[str, list[float]]]) -> str:
    """Return a Markdown table of shares in percent."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += [f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |" for name, values in rows]
    return "\n".join(lines)


def tables(method: str, designs: tuple[tuple[str, int, float], ...], prompts: tuple[int, ...]) -> str:
    head = ["prompts", *(f"share {share:g}" for share in SHARES)]
    return "\n\n".join(
        f"{design[0]}:\n\n"
        + table(head, [(str(n), [of_shares(method, design, n, share) for share in SHARES]) for n in prompts])
        for design in designs
    )


def page() -> str:
    """Return docs/statistics.md."""
    few = PROMPTS[:3]
    nets = [(f"{n}", [of_net_wins(n, win, loss) for win, loss in NETS]) for n in few]
    judges = [(f"{n}", [of_judges(n, changed) for changed in CHANGED]) for n in few]
    means = [(f"{n}", [of_means(n, kind) for kind in ("normal", "skewed")]) for n in PROMPTS]
    return _PAGE.format(
        trials=TRIALS,
        shares=tables("interval", DESIGNS, PROMPTS),
        percentile=tables("percentile", (DESIGNS[0], DESIGNS[4]), few),
        nets=table(["prompts", *(f"{100 * w:g} % won, {100 * v:g} % lost" for w, v in NETS)], nets),
        judges=table(["prompts", *(f"{100 * changed:g} % decided again" for changed in CHANGED)], judges),
        means=table(["prompts", "normal", "skewed (log-normal)"], means),
    )


_PAGE = """# Statistics

Written by `python -m benchmarks.coverage`; the method is in
[srlm/evaluation/intervals.py](../srlm/evaluation/intervals.py).

Every measure has a 95 % interval. The unit of independence is the **prompt**: rows of one prompt (its pairs, its
answers, its judgements) form one cluster, so that 8 prompts with 12 pairs each are 8 observations. `[n/a]` means that
the data give no interval: a single prompt, a single run of an arm, or a mean of equal values.

| measure | interval |
|---|---|
| shares and rank correlations | Clopper-Pearson on an effective sample size |
| differences of shares, net wins, length bias | the wider one of two: of the prompts' differences, of both parts |
| means of lengths, scores and losses, and their differences | bootstrap over prompts, expanded for small samples |
| distinct n-grams | delete-one jackknife over answers, as for shares |
| arms of a sweep | two-way cluster-robust over runs and prompts, with t quantiles |
| change of a mean between different prompts (reward hacking, the gap in loss) | recovered from both intervals (MOVER) |
| benchmarks of lm-evaluation-harness | for a share of documents as for shares, otherwise 1.96 standard errors |

A change is significant ("better", "beyond its interval") if the interval of the difference excludes 0.

## How often the intervals contain the truth

In percent of {trials:,} simulations per cell. The target is 95; above it, intervals are wider than necessary.

### Shares

{shares}

A plain percentile bootstrap, which earlier versions used, for comparison:

{percentile}

### Net wins: wins minus losses, one verdict per prompt

{nets}

### Difference of two equally good judges, 12 pairs per prompt

The second judge draws some of the first judge's verdicts again. Pairs of a prompt have a correlation of 0.3.

{judges}

### Means, by bootstrap

These intervals can be too narrow, with a coverage below 92 %, if a mean is over few and very unequal values. An example
is the length of 8 answers of which one is ten times as long as the others.

{means}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
