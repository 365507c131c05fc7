"""srlm.reporting.page: the page is self-contained, escapes all texts, and respects the size limit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.report import main
from srlm.errors import RunFolderError
from srlm.evaluation.attacks import ATTACKS
from srlm.pipeline.resume import COMPLETED, RUNNING, STOPPED, RunState
from srlm.pipeline.workspace import Workspace
from srlm.reporting.page import fit, pack, write_report
from tests.reporting.made_run import RIVERS, make_run

HOSTILE = [
    "</script><script>window.fooled = 1</script>",
    "<img src=x onerror='window.fooled = 2'>",
    "--><svg onload=window.fooled=3>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.fooled=4",
    "\u202egnp.exe \u200b\x1b[31m\x00 \u2028",
    *(attack("A plain answer.") for attack in ATTACKS.values()),
]


def unpack(packed: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed), -15))


def block(page: str, name: str) -> Any:
    return unpack(re.search(rf'id="data-{name}">([^<]*)</script>', page)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = make_run(tmp_path_factory.mktemp("runs") / "made", HOSTILE)
    write_report([root], root / "report.html")
    assert not (root / "report_data").exists()
    return (root / "report.html").read_text(encoding="utf-8")


def test_page_is_self_contained(page: str) -> None:
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", page)
    assert {row[0] for row in block(page, "index")[0]} >= {RIVERS, "eval-1", "eft-1"}
    assert block(page, "piece-0-0")[0]["answers"][0]["text"] == "Yangtze, Mekong, Indus."
    assert block(page, "charts")[0]["name"] == "made"


def test_content_security_policy_allows_only_the_pages_own_scripts(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]  # type: ignore[index]
    policy = policy.replace("&#39;", "'")
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    scripts, styles = re.findall(r"<script>(.*?)</script>", page, re.S), re.findall(r"<style>(.*?)</style>", page, re.S)
    for allowed, found in (("script-src", scripts), ("style-src", styles)):
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
        assert rules[allowed] == [f"'sha256-{hash_}'" for hash_ in hashes]
    assert " style=" not in page
    assert not re.search(r"\son\w+=", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_hostile_texts_are_not_in_the_markup(page: str) -> None:
    outside = re.sub(r"<script[ >].*?</script>|<style>.*?</style>", "", page, flags=re.S)
    assert "fooled" not in page
    assert "7 * 7" not in outside
    texts = {
        entry["answers"][0]["text"]
        for entry in block(page, "piece-0-0")
        if entry["source"] == "feedback" and entry["answers"]
    }
    assert texts >= set(HOSTILE)


def test_hostile_run_name_is_escaped(tmp_path: Path) -> None:
    root = make_run(tmp_path / "<b>name&")
    write_report([root], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<b>name" not in page
    assert "&lt;b&gt;name&amp;" in page


@pytest.mark.parametrize("data", ["</script>", "<!--", '"\\', "é\U0001f600", [1, None, {"a": "b"}]])
def test_packed_data_contain_no_markup_and_round_trip(data: Any) -> None:
    assert re.fullmatch(r"[A-Za-z0-9+/=]*", pack(data))
    assert unpack(pack(data)) == data


def long_entry(n: int) -> dict[str, Any]:
    draws = hashlib.sha256(str(n).encode()).hexdigest()
    text = "".join(hashlib.sha256(f"{draws}{i}".encode()).hexdigest() for i in range(20))
    answers = [{"text": text, "thought": "", "judgements": [{"text": text}]}]
    return {"prompt": f"{n}", "history": [], "answers": answers, "comparisons": []}


def test_texts_are_shortened_to_the_largest_limit_that_fits() -> None:
    pieces = [[long_entry(n) for n in range(place, place + 5)] for place in range(0, 40, 5)]
    whole = sum(len(pack(piece)) for piece in pieces)
    assert fit(pieces, None) is None
    assert fit(pieces, whole * 1.1) is None
    limits = [fit(pieces, whole * share) for share in (0.1, 0.3, 0.6)]
    assert limits == sorted(limits)  # type: ignore[type-var]
    assert limits[0] < limits[1] < limits[2] < 1280  # type: ignore[operator]
    assert fit(pieces, 10) == 40  # the minimum


def test_too_large_page_stores_whole_texts_in_separate_files(tmp_path: Path) -> None:
    long = ["".join(long_entry(n)["answers"][0]["text"] for n in range(k, k + 5)) for k in range(0, 100, 5)]
    root = make_run(tmp_path / "made", long)
    to = root / "report.html"
    whole = write_report([root], to, 0)
    cut = write_report([root], to, whole / 1e6 - 0.05)
    page = to.read_text()
    places = json.loads(re.search(r'data-places="([^"]*)"', page)[1].replace("&#34;", '"'))  # type: ignore[index]
    assert cut < whole
    assert places["limit"] < max(map(len, long))
    [piece] = (root / "report_data").glob("*.js")
    assert f"report_data/{piece.name}" == f"{places['folder']}-0-0.js"
    found = unpack(re.fullmatch(r'Report\.receive\("0-0","([^"]*)"\)\n', piece.read_text())[1])  # type: ignore[index]
    assert {entry["prompt"] for entry in found} >= set(long)
    assert "'self' file:" in page.replace("&#39;", "'")
    (root / "report_data/mine.js").write_text("not the page's own")
    make_run(root, [*long, "one more"])
    write_report([root], to, whole / 1e6 - 0.05)
    assert len(list((root / "report_data").glob("*-*.js"))) == 1  # files of the old page are deleted
    write_report([root], to, 0)
    assert [path.name for path in (root / "report_data").glob("*.js")] == ["mine.js"]


def test_several_runs_are_shown_side_by_side(tmp_path: Path) -> None:
    roots = [make_run(tmp_path / name) for name in ("one", "two")]
    write_report(roots, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert [run["name"] for run in block(page, "charts")] == ["one", "two"]
    assert len(block(page, "index")) == 2
    assert page.count('<article class="run">') == 2


def test_command_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_run(tmp_path / "made")
    main([str(root)])
    assert (root / "report.html").exists()
    assert "report.html (0." in capsys.readouterr().out
    main([str(root), "--to", str(tmp_path / "elsewhere.html")])
    assert (tmp_path / "elsewhere.html").exists()
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "nothing")])
    assert "is not a run:" in capsys.readouterr().err


def test_full_disk_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    root = make_run(tmp_path / "made")
    (root / "report.html").write_text("the old one")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on disk"):
        write_report([root], root / "report.html")
    assert (root / "report.html").read_text() == "the old one"


def headline(root: Path) -> str:
    write_report([root], root / "report.html")
    page = (root / "report.html").read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<section") : page.index("<table")]).split())


ARGUMENTS = ["experiment=smoke", "endpoint.base_url=http://user:word@host", "candidates.count=5"]


@pytest.fixture
def made(tmp_path: Path) -> Workspace:
    workspace = Workspace(make_run(tmp_path / "made"))
    workspace.update_run(arguments=ARGUMENTS)
    return workspace


def test_completed_run_is_shown_as_completed(made: Workspace) -> None:
    RunState(COMPLETED).save(made)
    text = headline(made.root)
    assert "; completed" in text
    assert not re.search("stopped|running|resume", text)


def test_stopped_run_shows_the_reason_and_how_to_resume(made: Workspace) -> None:
    why = f"AlarmError: M3 is not trained. The feedback is in {made.root}/iteration_3."
    RunState(STOPPED, why, ("alarms.mean_gap.action=warn",)).save(made)
    text = headline(made.root)
    assert "; stopped" in text
    assert "AlarmError: M3 is not trained. The feedback is in made/iteration_3." in text
    assert str(made.root.parent) not in text
    command = "python -m srlm.run experiment=smoke endpoint.base_url=... candidates.count=5 name=made runs_dir=... "
    assert f"To resume: {command}iteration=2 alarms.mean_gap.action=warn (complete in run.json)" in text
    assert "word@host" not in text
    assert not re.search("running|completed|goes on", text)


def test_locked_run_is_shown_as_running(made: Workspace) -> None:
    with made.lock():
        RunState(RUNNING).save(made)
        text = headline(made.root)
    assert "; running when this page was written" in text
    assert not re.search("stopped|completed|resume", text)
    assert "; stopped" in (killed := headline(made.root))
    assert "its process ended without a message" in killed


def test_state_of_an_older_run_follows_from_its_models(made: Workspace) -> None:
    assert "; completed" in headline(made.root)
    config = made.config()
    config.iteration = 3
    made.save_config(config)
    assert "; stopped" in headline(made.root)
