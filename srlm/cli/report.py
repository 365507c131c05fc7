"""`srlm report RUN...`: the report page of a run, or of several runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from srlm.reporting.collect import collect
from srlm.reporting.page import MEGABYTE, write_page
from srlm.reporting.readers import read_back
from srlm.run import user_errors


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="srlm report", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, such as runs/default")
    made.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the first run's folder")
    made.add_argument(
        "--megabytes",
        type=float,
        default=5.0,
        help="approximate size limit; above it, full texts are in a folder next to the page; 0 = no limit (default: 5)",
    )
    made.add_argument(
        "--verdicts",
        nargs="+",
        type=Path,
        metavar="FILE",
        default=[],
        help="readers' verdicts that the page exported: agreement of the judge with people, and win rates",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    to = options.to or options.runs[0] / "report.html"
    with user_errors():
        runs = [collect(run.resolve()) for run in options.runs]
        readers = read_back(runs, options.verdicts) if options.verdicts else []
        size = write_page(runs, to, options.megabytes, readers)
    for of_run in readers:
        print(f"{of_run.run.name}: {of_run.counted()}")
        for _, sentence in of_run.sentences():
            print(f"  {sentence}")
    print(f"{to} ({size / MEGABYTE:.1f} MB)")


if __name__ == "__main__":
    main()
