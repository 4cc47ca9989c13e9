"""The package as it is installed: from a wheel, in a place that has never seen this checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, program_environment, write_preset


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, without what it needs: that is in the environment already."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=300)
    return folder / "site"


def run_installed(installed: Path, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**program_environment(), "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_wheel_holds_code_presets_and_cards_and_nothing_else(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "algodistill/configs/dark_room.yaml" in names
    assert "algodistill/configs/experiments/prompting.yaml" in names
    assert "algodistill/experiments/paper_curves.json" in names
    assert "algodistill/hub_cards/model_card.md" in names and "algodistill/hub_cards/dataset_card.md" in names
    assert not [name for name in names if name.split("/")[0] not in ("algodistill", "algodistill-0.1.0.dist-info")]


def test_installed_package_is_used_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import algodistill; from algodistill.training.preset import find_preset; print(find_preset('dark_room'))"
    result = run_installed(installed, ["-c", code], tmp_path)
    assert result.stdout.strip() == str(installed / "algodistill" / "configs" / "dark_room.yaml"), result.stderr


def test_installed_package_trains(installed: Path, tmp_path: Path) -> None:
    write_preset(tmp_path)
    command = [
        "-m",
        "accelerate.commands.launch",
        "-m",
        "algodistill.train",
        "--config",
        "tiny.yaml",
        "--max_steps",
        "2",
    ]
    result = run_installed(installed, command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "in-context" in (tmp_path / "runs" / "tiny" / "README.md").read_text()
    assert "learning histories" in (tmp_path / "data" / "tiny" / "README.md").read_text().lower()
