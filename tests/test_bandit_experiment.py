"""An experiment with several kinds of held-out tasks, from histories to the card."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import train, write_preset

from algodistill import cli
from algodistill.environments import AdversarialBanditTasks, TaskSplit
from algodistill.evaluation import evaluate, held_out_tasks, load_checkpoint, plot_learning_curve, summary
from algodistill.evaluation.references import references, source_return
from algodistill.training.building import named_tests


KINDS = ("odd", "even", "uniform")
BANDIT = "algodistill/AdversarialBandit-v0"
SETTINGS = {
    "environment": BANDIT,
    "environment_kwargs": {"arms": 4, "pulls": 10},
    "train_tasks": 12,
    "validation_tasks": 2,
    "test_tasks": 3,
    "source": "ucb1",
    "source_kwargs": {},
    "learners_per_task": 2,
    "episodes": 2,
    "episode_stride": 1,
    "context_length": 10,
    "max_steps": 4,
    "test_episodes": 1,
    "test_streams": 6,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bandit")
    write_preset(folder, **SETTINGS)
    done = train(folder)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


def split():
    return AdversarialBanditTasks(arms=4, pulls=10).split(
        split_seed=1, train_tasks=12, validation_tasks=2, test_tasks=3
    )


def test_checkpoint_names_its_test_tasks_by_kind(folder: Path):
    config = load_checkpoint(folder / "runs" / "tiny")[0].config
    assert isinstance(config.test_tasks, dict)
    assert config.test_tasks == split().tests == held_out_tasks(config)


def test_a_run_ends_with_a_result_and_a_picture_of_each_kind(folder: Path):
    run = folder / "runs" / "tiny"
    assert {file.name for file in run.glob("*evaluation*")} == {f"in_context_evaluation_{kind}.json" for kind in KINDS}
    assert {file.name for file in run.glob("*.png")} == {f"learning_curve_{kind}.png" for kind in KINDS}
    said, distribution = (folder / "said.txt").read_text(), AdversarialBanditTasks(arms=4, pulls=10)
    for kind in KINDS:
        assert f"Evaluation on 3 held-out tasks ({kind})" in said
        result = json.loads((run / f"in_context_evaluation_{kind}.json").read_text())
        tasks = split().tests[kind]
        assert result["split"] == kind and result["tasks"] == 3 and result["streams"] == 6
        assert result["task_ids"] == [distribution.task_id(task) for task in tasks]
        found = result["references"]
        assert found["random"] == pytest.approx(np.mean([distribution.random_return(task) for task in tasks]))
        assert found["optimal"] == pytest.approx(np.mean([distribution.optimal_return(task) for task in tasks]))
        # The histories of the test split hold all three kinds; the curve is that of this kind alone.
        assert len(found["source"]["mean"]) == 2 and 0 < found["source"]["mean"][0] <= 10
        assert found["random"] < found["thompson"] < found["optimal"]
        assert found["random"] - 0.5 < found["ucb1"] < found["optimal"]


def test_the_card_holds_every_kind(folder: Path):
    card = (folder / "runs" / "tiny" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    results = metadata["model-index"][0]["results"]
    assert {result["dataset"]["split"] for result in results} == set(KINDS)
    for kind in KINDS:
        assert f"## Held-out tasks: {kind}" in card
        assert f"in_context_evaluation_{kind}.json" in card and f"(learning_curve_{kind}.png)" in card
    assert len(re.findall(r"^\| ucb1 \|", card, re.MULTILINE)) == 3
    assert len(re.findall(r"^\| thompson \|", card, re.MULTILINE)) == 3


def test_a_finished_run_is_not_run_again_but_an_unfinished_evaluation_is(folder: Path):
    run = folder / "runs" / "tiny"
    kept = {kind: (run / f"in_context_evaluation_{kind}.json").read_text() for kind in KINDS}
    assert "finished run" in train(folder).stdout
    (run / "in_context_evaluation_uniform.json").unlink()
    done = train(folder)
    assert done.returncode == 0 and "finished run" not in done.stdout
    for kind in KINDS:
        again, before = json.loads((run / f"in_context_evaluation_{kind}.json").read_text()), json.loads(kept[kind])
        assert {**again, "wall_seconds": 0} == {**before, "wall_seconds": 0}


def test_evaluate_takes_the_kind_that_it_is_told(folder: Path):
    run = folder / "runs" / "tiny"
    even = evaluate(run, split="even", episodes=1, streams=6)
    assert even["split"] == "even"
    assert even["task_ids"] == json.loads((run / "in_context_evaluation_even.json").read_text())["task_ids"]
    with pytest.raises(ValueError, match="no tasks 'test' .*'even', 'odd', 'uniform'"):
        evaluate(run, episodes=1)
    given = evaluate(run, tasks=[{"means": [0, 0, 0, 1]}], split="given", episodes=1, streams=2)
    assert given["references"]["optimal"] == 10 and given["references"]["random"] == 2.5


def test_the_command_line_evaluates_every_kind(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert cli.main(["evaluate", "runs/tiny", "--episodes", "1", "--dataset", "data/tiny"]) == 0
    found = {file.name for file in (folder / "evaluations" / "tiny").iterdir()}
    expected = {f"{name}_{kind}" for kind in KINDS for name in ("in_context_evaluation", "learning_curve")}
    assert {Path(name).stem for name in found} == expected
    said = capsys.readouterr().out
    for kind in KINDS:
        assert re.search(rf"^{kind}$", said, re.MULTILINE)
    assert said.count("thompson ") == 3

    tasks = '[{"means": [0, 0, 0, 1]}]'
    assert cli.main(["evaluate", "runs/tiny", "--episodes", "1", "--tasks", tasks, "--output_dir", "given"]) == 0
    assert {file.name for file in (folder / "given").iterdir()} == {
        "in_context_evaluation.json",
        "learning_curve.png",
    }
    assert json.loads((folder / "given" / "in_context_evaluation.json").read_text())["split"] == "given"


def test_wrong_tasks_end_in_one_line(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert cli.main(["evaluate", "runs/tiny", "--episodes", "1", "--tasks", '[{"means": [2, 0, 0, 1]}]']) != 0
    error = capsys.readouterr().err
    assert "[2, 0, 0, 1]" in error and "Traceback" not in error


def test_references_are_those_of_ucb1_and_thompson_and_always_the_same():
    tasks = AdversarialBanditTasks().split(split_seed=1, train_tasks=1, test_tasks=5).tests["odd"]
    found = references(BANDIT, {}, tasks)
    assert found == references(BANDIT, {}, tasks)
    assert found["random"] < found["ucb1"] < found["thompson"] < found["optimal"]
    assert set(references("algodistill/DarkRoom-v0", {}, [{"goal": [0, 0]}])) == {"random", "optimal", "source"}


def test_a_sources_return_is_the_mean_over_its_learners():
    assert source_return("thompson", BANDIT, {"arms": 2, "pulls": 7}, [{"means": [1, 1]}], runs=3) == 7
    assert (
        source_return("ucb1", BANDIT, {"arms": 2, "pulls": 7}, [{"means": [1, 1]}, {"means": [0, 0]}], runs=3) == 3.5
    )
    # Each arm once; with one that pays always and one never, UCB1 then pulls what has the higher bound.
    pulls, paid = np.zeros(2), 0
    for time in range(7):
        bounds = [
            np.inf if not n else mean + np.sqrt(2 * np.log(time) / n) for n, mean in zip(pulls, (1, 0), strict=True)
        ]
        arm = int(np.argmax(bounds))
        pulls[arm] += 1
        paid += arm == 0
    assert source_return("ucb1", BANDIT, {"arms": 2, "pulls": 7}, [{"means": [1, 0]}], runs=50) == paid


def test_a_single_episode_is_drawn_as_bars(tmp_path: Path):
    def result(**changes):
        return {
            "environment": BANDIT, "split": "odd", "tasks": 2, "streams": 4,
            "episode_return": {"mean": [5.0], "standard_error": [0.5]},
            "references": {"random": 3.0, "optimal": 9.0, "source": {"mean": [6.0]}, "ucb1": 6.0, "thompson": 7.0},
            **changes,
        }  # fmt: skip

    pictures = []
    for number, changes in enumerate(
        [
            {},
            {"episode_return": {"mean": [4.0], "standard_error": [0.5]}},
            {"references": {"random": 3.0, "optimal": 9.0, "source": None, "ucb1": 6.0, "thompson": 7.0}},
            {"references": {"random": 3.0, "optimal": 9.0, "source": {"mean": [6.0]}, "ucb1": 6.0, "thompson": 8.0}},
            {"references": {"random": None, "optimal": None, "source": None}},
            {"tasks": 1, "episode_return": {"mean": [5.0], "standard_error": [None]}},
        ]
    ):
        plot_learning_curve(result(**changes), tmp_path / f"{number}.png")
        pictures.append((tmp_path / f"{number}.png").read_bytes())
    assert len(set(pictures)) == len(pictures)
    assert "ucb1 6.00" in summary(result()) and "thompson 7.00" in summary(result())


def test_one_kind_of_test_tasks_is_named_as_a_list_and_several_by_kind():
    tasks = [{"goal": [0, 0]}, {"goal": [1, 0]}, {"goal": [2, 0]}]
    one = TaskSplit(train=tasks[:1], validation=[], tests={"test": tasks[1:]})
    several = TaskSplit(train=tasks[:1], validation=[], tests={"near": tasks[1:2], "far": tasks[2:]})
    assert one.test == several.test == tasks[1:]
    assert named_tests(one) == tasks[1:]
    assert named_tests(several) == {"near": tasks[1:2], "far": tasks[2:]}


@pytest.mark.parametrize("environment", [BANDIT, "algodistill/DarkRoom-v0"])
def test_a_run_without_test_tasks_ends_well_or_is_refused_at_once(environment: str, tmp_path: Path):
    kwargs = {"arms": 4, "pulls": 5} if environment == BANDIT else {"size": 3, "episode_length": 5}
    source = {"source": "ucb1", "source_kwargs": {}} if environment == BANDIT else {}
    write_preset(tmp_path, environment=environment, environment_kwargs=kwargs, test_tasks=0, **source)
    done = train(tmp_path)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "test_tasks" in done.stderr
        assert not (tmp_path / "data").exists()
