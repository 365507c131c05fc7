"""The report page of a run: one file in which one sees what happened, and why to believe it or not."""

from srlm.reporting.page import write_report

__all__ = ["write_report"]
