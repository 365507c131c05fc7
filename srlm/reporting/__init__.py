"""Reports of a run: report page, terminal summary, plots, model card and dataset card."""

from srlm.reporting.page import write_report

__all__ = ["write_report"]
