"""`python -m srlm.tracking` rewrites docs/metrics.md in a checkout; elsewhere it prints the page."""

from pathlib import Path

from srlm.tracking.metrics import markdown

if __name__ == "__main__":
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    if page.is_file():
        page.write_text(markdown(), encoding="utf-8")
    else:  # an installed package has no docs folder
        print(markdown())
