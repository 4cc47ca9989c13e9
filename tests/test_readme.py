"""The README's code, run as it stands."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from commands import ROOT, algodistill, program_environment, write_preset

from algodistill.environments import DarkRoomTasks, make_environments
from algodistill.experiments import read_experiment
from algodistill.experiments.describing import EVALUATION_SETTINGS, KINDS
from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser


README = (ROOT / "README.md").read_text()


def code_below(heading: str, language: str = "python") -> str:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    return code


def run_code(code: str, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_acting_takes_about_ten_lines_and_works(tmp_path: Path) -> None:
    code = code_below("Act with a checkpoint")
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    tasks = DarkRoomTasks().tasks()[:3]
    envs = make_environments("algodistill/DarkRoom-v0", tasks)
    tokeniser = HistoryTokeniser(envs.single_observation_space, envs.single_action_space)
    config = AlgorithmDistillationConfig(
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
        observation_sizes=tokeniser.observation_sizes,
        action_sizes=tokeniser.action_sizes,
        test_tasks=tasks,
    )
    for part in (AlgorithmDistillationModel(config), tokeniser):
        part.save_pretrained(tmp_path / "runs" / "dark_room")
    assert "return in the last" in run_code(code, tmp_path)


@pytest.mark.slow
def test_own_environment_is_learnt_in_context(tmp_path: Path) -> None:
    last_line = run_code(code_below("Your own algorithm"), tmp_path).strip().splitlines()
    returns = [float(number) for number in re.findall(r"\d+\.\d*", " ".join(last_line[-2:]).rsplit("[", 1)[1])]
    assert len(returns) == 10
    # Guessing opens a fifth of both dials; whoever remembers what failed has them all by the fifth episode.
    assert returns[0] < 0.8
    assert returns[-1] > 1.5


def test_demonstrator_of_the_readme_holds_the_pole_up(tmp_path: Path) -> None:
    section = README.split("## What there is to distil\n")[1]
    (command,) = re.findall(r"algodistill (collect cart_pole .*)", section)
    (tmp_path / "demonstrators.py").write_text(code_below("What there is to distil"))
    options = ["--train_tasks", "6", "--test_tasks", "1", "--episodes", "110", "--output_dir", "histories"]
    result = algodistill(tmp_path, *shlex.split(command), *options)
    assert result.returncode == 0, result.stderr
    histories = datasets.load_dataset(str(tmp_path / "histories"), split="train", cache_dir=str(tmp_path / "cache"))
    curve = np.mean(histories["episode_returns"], axis=0)
    assert curve[:5].mean() < 35 and curve[101:].min() == 100


def test_own_comparison_is_run_as_described(tmp_path: Path) -> None:
    write_preset(tmp_path, "my_preset", test_streams=64)
    (tmp_path / "mine.yaml").write_text(code_below("Compare it with imitating experts", "yaml"))
    (command,) = re.findall(r"`algodistill (experiment mine.yaml)`", README)
    result = algodistill(tmp_path, *shlex.split(command))
    assert result.returncode == 0, result.stderr
    (panel,) = json.loads((tmp_path / "experiments" / "mine.json").read_text())["panels"]
    returns = [curve["results"][0]["episode_return"]["mean"] for curve in panel["curves"]]
    assert len(returns) == 4 and all(one != other for one, other in itertools.combinations(returns, 2))


def test_format_of_experiments_is_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    (code,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    write_preset(tmp_path, "my_preset")
    (tmp_path / "mine.yaml").write_text(code)
    (panel,) = read_experiment(tmp_path / "mine.yaml").panels
    assert [curve.label for curve in panel.curves] == ["AD", "ED", "AD, prompted"]
    assert panel.curves[2].evaluation == {"episodes": 60, "prompt_quantile": 0.25}
    assert all(f"`{name}`" in page for name in (*EVALUATION_SETTINGS, *KINDS, "x_label"))


def test_readme_shows_no_picture_or_file_that_is_not_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            assert (ROOT / file).exists(), target
            assert not heading or re.search(f"^#+ {heading}$", (ROOT / file).read_text(), re.MULTILINE | re.IGNORECASE)
