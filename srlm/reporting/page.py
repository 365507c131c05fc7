"""The report page: one self-contained file with numbers and texts as compressed data, and the scripts that draw them.

Model texts are untrusted. The page contains them only as compressed base64, and the DOM only as text, never as markup.
The Content-Security-Policy allows only the page's own scripts and styles, by their hash, and no network access.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srlm.evaluation.measures import FEW_PROMPTS
from srlm.io.files import write_atomic
from srlm.metrics import metric
from srlm.reporting.behaviours import behaviour_lines, behaviour_rows
from srlm.reporting.collect import RunNumbers, collect
from srlm.reporting.entries import FLAGS, all_entries, cut, row
from srlm.reporting.html import asset, render_page
from srlm.reporting.panels import DEFINED, PANELS
from srlm.reporting.phrases import grounds, verdict
from srlm.reporting.readers import Readers
from srlm.reporting.summary import table_rows

SCRIPTS = ("d3.min.js", "plot.min.js", "tips.js", "charts.js", "diff.js", "verdicts.js", "browser.js")
STYLES = ("report.css",)
PIECE = 200  # entries per piece; a piece is unpacked when one of its entries is shown, and all pieces for a search
MEGABYTE = 1_000_000
SAMPLED = 8  # pieces from which the compressed size is estimated
MARGIN = 0.97  # fraction of the room that the estimate may use, because other pieces may compress less
LEAST_TEXT = 40  # characters; texts are never cut to fewer
FRAME = 60_000  # bytes reserved for the page without data, scripts and styles


def write_report(roots: Sequence[Path], to: Path, megabytes: float = 5.0) -> int:
    """Write the page of one or several runs; return its size in bytes.

    The page is one file. If it would be larger than `megabytes`, its texts are cut, and the folder `STEM_data` next to
    it contains the complete texts in pieces. The page loads these from there if the folder exists.

    Parameters
    ----------
    roots : sequence of Path
        Folders of runs.
    megabytes : float
        Approximate maximum size of the page; 0 = one file with everything.

    Raises
    ------
    RunFolderError
        As in `srlm.reporting.collect.collect`, or if the disk is full.
    """
    return write_page([collect(root) for root in roots], to, megabytes)


def write_page(
    runs: Sequence[RunNumbers], to: Path, megabytes: float = 5.0, readers: Sequence[Readers | None] = ()
) -> int:
    """Write the page of runs, as `write_report`, with the readers' verdicts on each run, if there are any."""
    entries = [[asdict(entry) for entry in all_entries(run)] for run in runs]
    rows = [[row(entry) for entry in of_run] for of_run in entries]
    definitions = {key: metric(key).definition for key in DEFINED}
    labels = {
        "panels": [panel.data() for panel in PANELS],
        "flags": FLAGS,
        "definitions": definitions,
        "few": FEW_PROMPTS,
    }
    data = {"charts": pack([run.charts() for run in runs]), "index": pack(rows), "labels": pack(labels)}
    fixed = sum(map(len, [*map(asset, (*SCRIPTS, *STYLES)), *data.values()])) + FRAME
    pieces = {
        f"{run}-{n // PIECE}": of_run[n : n + PIECE]
        for run, of_run in enumerate(entries)
        for n in range(0, len(of_run), PIECE)
    }
    limit = fit(list(pieces.values()), megabytes * MEGABYTE - fixed if megabytes else None)
    folder, digest = to.with_name(f"{to.stem}_data"), ""
    stale = {path for path in folder.glob("*.js") if re.fullmatch(r"[0-9a-f]{12}-\d+-\d+\.js", path.name)}
    if limit is not None:
        complete = {name: pack(piece) for name, piece in pieces.items()}
        digest = hashlib.sha256("".join(complete.values()).encode()).hexdigest()[
            :12
        ]  # so that a page never loads the texts of another page
        for name, piece in complete.items():
            write_atomic(path := folder / f"{digest}-{name}.js", f'Report.receive("{name}","{piece}")\n')
            stale.discard(path)
    packed = {name: pack(piece if limit is None else [cut(e, limit) for e in piece]) for name, piece in pieces.items()}
    tops = [_top(run, of_run) for run, of_run in zip(runs, readers or [None] * len(runs), strict=True)]
    page = _render(tops, data, packed, {"limit": limit, "folder": f"{folder.name}/{digest}" if digest else ""})
    write_atomic(to, page)
    for path in stale:
        path.unlink()
    return len(page.encode())


def fit(pieces: Sequence[Sequence[dict[str, Any]]], room: float | None) -> int | None:
    """Return the number of characters to cut texts to, so that all packed pieces take about `room` bytes at most.

    None if nothing has to be cut. It is at least `LEAST_TEXT`, so that very many prompts can take more than `room`.
    """
    sample = pieces[:: max(1, len(pieces) // SAMPLED)]
    share = sum(map(len, sample)) / max(1, sum(map(len, pieces)))
    if room is None or sum(len(pack(piece)) for piece in sample) <= MARGIN * share * room:
        return None
    limit = LEAST_TEXT
    above = max(len(text) for piece in sample for entry in piece for text in [entry["prompt"], *_answers(entry)])
    while limit < above:  # bisection for the largest limit at which the sample fits
        middle = (limit + above + 1) // 2
        if sum(len(pack([cut(entry, middle) for entry in piece])) for piece in sample) <= MARGIN * share * room:
            limit = middle
        else:
            above = middle - 1
    return limit


def pack(data: Any) -> str:
    """Return data as JSON, compressed with deflate, in base64, which cannot contain markup."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # "replace": a lone surrogate, which JSON can contain, has no UTF-8.
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return base64.b64encode(compressor.compress(text.encode("utf-8", "replace")) + compressor.flush()).decode()


def _render(runs: Sequence[dict[str, Any]], data: dict[str, str], pieces: dict[str, str], texts: dict[str, Any]) -> str:
    return render_page(
        "report.html",
        STYLES,
        SCRIPTS,
        # The folder of texts contains scripts with one call each, from the page's own folder or server.
        "'self' file:" if texts["folder"] else "",
        title=", ".join(run["name"] for run in runs),
        runs=runs,
        data=data | {f"piece-{name}": piece for name, piece in pieces.items()},
        places=json.dumps(texts | {"piece": PIECE}),
        licences=asset("LICENSES.txt"),
    )


def _top(run: RunNumbers, readers: Readers | None) -> dict[str, Any]:
    """Return the data that the page shows above the charts for one run."""
    return {
        "name": run.name,
        "of": f"M{run.last} of M{run.config.iteration}" if run.last < run.config.iteration else f"M{run.last}",
        "state": run.state(),
        "base": Path(run.config.model.name).name,
        "verdict": verdict(run),
        "columns": [f"M{t}" for t in run.models],
        "table": [*table_rows(run.models, run.checks), *([readers.section()] if readers else [])],
        "grounds": grounds(run, readers),
        "behaviours": behaviour_rows(run.models),
        "behaviour_lines": behaviour_lines(run.models),
        "alarms": [(f"Before the training of M{t}", messages) for t, messages in run.alarms.items() if messages],
        "options": {name: json.dumps(value, ensure_ascii=False) for name, value in run.options().items()},
        "facts": run.facts(),
    }


def _answers(entry: dict[str, Any]) -> list[str]:
    return [answer["text"] for answer in entry["answers"]]
