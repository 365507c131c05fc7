"""The package as users install it: built as a wheel, installed without the checkout, run from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import hydra
import pytest
import yaml

from srlm.cli.help import conf_folder
from tests.helpers import ROOT

pytestmark = [pytest.mark.process, pytest.mark.variant]
HYDRA_COMMANDS = ("run", "judge_bench", "evaluate", "side_by_side", "show_masking", "check_model")
OTHER_COMMANDS = ("report", "export", "push")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that contains only the installed package."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=120)
    return target


def start(installed: Path, cwd: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed package. PYTHONPATH precedes the checkout of the environment."""
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "SRLM_CACHE": str(cwd / "cache")}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=timeout)


def run(installed: Path, cwd: Path, command: str, *words: str, timeout: float = 120) -> str:
    ran = start(installed, cwd, "-m", "srlm", command.replace("_", "-"), *words, timeout=timeout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_wheel_contains_all_data_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    made_by_python = {"__pycache__"}
    of_package = {p for p in (ROOT / "srlm").rglob("*") if p.is_file() and not made_by_python & set(p.parts)}
    of_conf = {path for path in (ROOT / "conf").rglob("*") if path.is_file()}
    expected = {str(path.relative_to(ROOT)) for path in of_package}
    expected |= {f"srlm/{path.relative_to(ROOT)}" for path in of_conf}
    assert expected == {name for name in names if name.startswith("srlm/")}
    endings = {Path(name).suffix for name in expected}
    assert {".py", ".yaml", ".jsonl", ".jinja", ".txt", ".html", ".css", ".js"} <= endings
    [others] = {name.split("/")[0] for name in names} - {"srlm"}
    assert others.endswith(".dist-info")
    licences = {name.split("/licenses/")[1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "srlm/data/builtin/LICENSE", "srlm/reporting/assets/LICENSES.txt"}


def test_installed_package_is_imported(installed: Path, tmp_path: Path) -> None:
    code = "import srlm; from srlm.cli.help import conf_folder; print(srlm.__file__); print(conf_folder())"
    lines = start(installed, tmp_path, "-c", code).stdout.splitlines()
    assert lines == [str(installed / "srlm/__init__.py"), str(installed / "srlm/conf")]


@pytest.mark.parametrize("command", [*HYDRA_COMMANDS, *OTHER_COMMANDS])
def test_help_runs_and_creates_no_files(installed: Path, tmp_path: Path, command: str) -> None:
    assert run(installed, tmp_path, command, "--help")
    assert not any(tmp_path.iterdir())


OPTIONS = """
import json, hydra
from omegaconf import OmegaConf
import srlm.cli.schemas
from srlm.cli.help import conf_folder

with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
    composed = {path.stem: hydra.compose(path.stem) for path in sorted(conf_folder().glob("*.yaml"))}
print(json.dumps({name: OmegaConf.to_container(options, enum_to_str=True) for name, options in composed.items()}))
"""


def test_installed_options_equal_those_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    shown = json.loads(start(installed, tmp_path, "-c", OPTIONS).stdout)
    assert set(shown) >= {"config", *HYDRA_COMMANDS} - {"run"}
    assert shown == json.loads(start(ROOT, tmp_path, "-c", OPTIONS).stdout)


def test_user_folder_is_searched_first(installed: Path, tmp_path: Path) -> None:
    """--config-dir adds experiments and overrides packaged ones of the same name."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ncandidates: {count: 7}\n")
    (folder / "smoke.yaml").write_text("# @package _global_\ncandidates: {count: 8}\n")
    for experiment, count in (("mine", 7), ("smoke", 8), ("eft_ranking", 4)):
        shown = run(installed, tmp_path, "run", "--config-dir", "mine", f"experiment={experiment}", "--cfg", "job")
        assert yaml.safe_load(shown)["candidates"]["count"] == count


def test_checkout_uses_its_own_conf_folder() -> None:
    assert conf_folder() == ROOT / "conf"
    with hydra.initialize(version_base="1.3", config_path=None):  # uses the plugin's search path, like the commands
        assert hydra.compose("config", ["experiment=smoke"]).name == "smoke"


def test_report_export_and_push_work_on_a_run(installed: Path, tmp_path: Path, own_run: Path) -> None:
    assert "report.html" in run(installed, tmp_path, "report", str(own_run))
    assert "<!doctype html>" in (own_run / "report.html").read_text(encoding="utf-8")
    assert run(installed, tmp_path, "export", str(own_run), "--to", "exported", "--what", "pairs")
    assert any((tmp_path / "exported").iterdir())
    refused = start(installed, tmp_path, "-m", "srlm", "push", str(own_run), "--to", "owner/name", "--dry-run")
    assert "Traceback" not in refused.stderr


@pytest.mark.variant
@pytest.mark.e2e
@pytest.mark.slow
def test_installed_package_trains_and_shows_masking(installed: Path, tmp_path: Path) -> None:
    """Run SFT with its data stages in a worker process, with options of a packaged experiment."""
    short = ("model.name=tiny-random", "data.ift.limit=8", "runs_dir=runs")
    run(installed, tmp_path, "show_masking", "model=tiny_random", "judge=logprob", "runs_dir=runs")
    assert (tmp_path / "runs/show_masking/masking.html").is_file()
    quick = ("experiment=smoke", "evaluation=none", "iteration=1", "engine=transformers", "sft.epochs=1")
    run(installed, tmp_path, "run", *quick, *short, "data.eft_limit=16", timeout=300)
    assert (tmp_path / "runs/smoke/iteration_1/model/config.json").is_file()
    log = (tmp_path / "runs/smoke/logs/iteration_1_sft.log").read_text()
    assert str(ROOT / "srlm") not in log
