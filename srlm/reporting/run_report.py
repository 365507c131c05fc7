"""Keep a run's report page up to date during the run."""

from __future__ import annotations

import shlex

from srlm.evaluation.record import evaluation_path
from srlm.io.progress import say
from srlm.pipeline.manifest import finished_manifests
from srlm.pipeline.resume import python_word
from srlm.pipeline.workspace import Workspace
from srlm.reporting import write_report


def update_report(workspace: Workspace, again: bool = False) -> None:
    """Write report.html from the finished stages. If none has finished since, do nothing, unless `again`."""
    root, to = workspace.root, workspace.root / "report.html"
    if not evaluation_path(workspace, 0).exists():
        return
    newest = max(path.stat().st_mtime for path in finished_manifests(root))
    if not again and to.exists() and to.stat().st_mtime >= newest:
        return
    try:
        write_report([root], to)
    # No error of the page may stop the run, because the page can be written again at any time.
    except Exception as error:
        retry = shlex.join([python_word(), "-m", "srlm", "report", str(root)])
        say(f"No report: {type(error).__name__}: {error}. The run continues. To try again:", command=retry)
