"""Experiments: their descriptions, their runs, and the figures that are made of them."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import write_preset
from matplotlib.figure import Figure

from algodistill import cli, evaluate
from algodistill.experiments import find_experiment, read_experiment, run_experiment, running
from algodistill.experiments.describing import Curve, experiment_names, paper_figures
from algodistill.experiments.figures import draw_bars, draw_episodes, draw_settings
from algodistill.experiments.runs import command_line, histories_folder
from algodistill.files import alone
from algodistill.outcomes import Interrupted
from algodistill.training import collect, load_histories
from algodistill.training.building import make_model
from algodistill.training.job import parse_job
from algodistill.training.recipes import selection


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_preset(tmp_path, max_steps=2)
    return tmp_path


def write_experiment(folder: Path, *panels: dict, name: str = "mine", **content: object) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"title": "Mine", "panels": list(panels), **content}, sort_keys=False))
    return path


def panel(curves: dict, **content: object) -> dict:
    return {"title": "Panel", "preset": "tiny.yaml", "curves": curves, **content}


# Descriptions


@pytest.mark.parametrize("name", experiment_names())
def test_shipped_experiment_can_be_run_as_described(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = read_experiment(find_experiment(name))
    for part in experiment.panels:
        assert part.curves
        for curve in part.curves:
            run = parse_job(command_line(curve))
            selection(run.windows)
            make_model(run)


@pytest.mark.parametrize("name", experiment_names())
def test_curves_of_a_shipped_experiment_are_of_different_runs(name):
    for part in read_experiment(find_experiment(name)).panels:
        shown = [(*command_line(curve), str(curve.evaluation)) for curve in part.curves]
        assert len(set(shown)) == len(shown)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"panels": []}, "not a list of one panel or more"),
        ({"panel": []}, "panel"),
        ({"panels": [{"curves": {"A": {}}}]}, "lacks title"),
        ({"panels": [{"title": "P", "curves": {}, "preset": "tiny.yaml"}]}, "not a mapping of labels"),
        (
            {"panels": [{"title": "P", "curves": {"A": {"options": {"output_dir": "x"}}}, "preset": "tiny.yaml"}]},
            "'A': output_dir is no option of a run",
        ),
        ({"panels": [{"title": "P", "curves": {"A": {}}}]}, "no preset"),
        ({"panels": [{"title": "P", "curves": {"A": {}}, "preset": "nothing"}]}, "no preset 'nothing'"),
        ({"panels": [{"title": "P", "curves": {"A": {}}, "preset": "tiny.yaml", "kind": "pie"}]}, "kind='pie'"),
        ({"panels": [{"title": "P", "curves": {"A": {}}, "preset": "tiny.yaml", "paper": "x"}]}, "paper='x'"),
        (
            {"panels": [{"title": "P", "curves": {"A": {"option": 1}}, "preset": "tiny.yaml"}]},
            "option. Known are",
        ),
        ({"panels": [{"title": "P", "curves": {"A": {"options": [1]}}, "preset": "tiny.yaml"}]}, "options are not"),
        (
            {"panels": [{"title": "P", "curves": {"A": {"evaluation": {"prompts": 1}}}, "preset": "tiny.yaml"}]},
            "prompts",
        ),
        (
            {"panels": [{"title": "P", "curves": {"A": {}}, "preset": "tiny.yaml", "kind": "settings"}]},
            "labels are numbers",
        ),
    ],
)
def test_wrong_description_is_refused_by_what_is_wrong(folder, content, said):
    path = write_experiment(folder, **content)
    with pytest.raises(ValueError, match=said):
        read_experiment(path)


def test_own_option_overrules_the_panels_and_the_command_line_both(folder):
    curves = {"A": {}, "B": {"options": {"max_steps": 5}}}
    path = write_experiment(folder, panel(curves, options={"max_steps": 4, "seed": 3}))
    (part,) = read_experiment(path).panels
    assert [curve.options for curve in part.curves] == [{"max_steps": 4, "seed": 3}, {"max_steps": 5, "seed": 3}]
    (part,) = read_experiment(path, {"max_steps": 6}).panels
    assert [curve.options["max_steps"] for curve in part.curves] == [6, 6]


def test_same_run_has_the_same_folder_and_another_one_another(folder):
    def output(**options):
        return parse_job(command_line(Curve("any", "tiny.yaml", options))).output

    assert output() == Path("runs/experiments/tiny")
    assert output(seed=1, max_steps=3) == output(max_steps=3, seed=1) != output(seed=1)
    decoder = {"hidden_size": 16, "num_hidden_layers": 1}
    assert output(decoder=decoder) == output(decoder=dict(reversed(decoder.items()))) != output(decoder={})


def test_histories_are_shared_unless_they_depend_on_an_option(folder):
    assert histories_folder(Curve("A", "tiny.yaml", {"recipe": "ed"})) == Path("data/tiny")
    assert histories_folder(Curve("A", "tiny.yaml", {"episodes": 12})) == Path("data/tiny-episodes=12")
    assert "--dataset" not in command_line(Curve("A", "tiny.yaml", {"recipe": "ed"}))
    assert command_line(Curve("A", "tiny.yaml", {"episodes": 12}))[-2:] == ["--dataset", "data/tiny-episodes=12"]


def test_histories_that_are_given_are_taken(folder):
    curve = Curve("A", "tiny.yaml", {"dataset": "data/mine", "train_tasks": 4})
    assert histories_folder(curve) == Path("data/mine")
    assert [part for part in command_line(curve) if part.startswith("--dataset")] == ["--dataset=data/mine"]


def test_commands_name_no_place_on_this_machine():
    for name in experiment_names():
        for part in read_experiment(find_experiment(name)).panels:
            assert not any("/" in str(argument) for curve in part.curves for argument in command_line(curve)[:2])


def test_paper_figures_end_where_the_paper_says():
    figures = paper_figures()
    ends = {
        ("figure_4_dark_room", "AD"): 14.12,
        ("figure_4_dark_key_to_door", "AD"): 1.81,
        ("figure_5_ed", "25 %"): 6.52,
        ("figure_7", "1"): 1.12,
        ("figure_10", "0.2"): 0.68,
        ("figure_12", "1212"): 1.87,
        ("figure_13", "0.9"): 0.20,
    }
    for (figure, label), value in ends.items():
        assert figures[figure][label][-1][1] == pytest.approx(value, abs=0.01)
    for figure, curves in figures.items():
        if figure != "figure_3":
            for points in curves.values():
                assert (np.diff(np.array(points)[:, 0]) > 0).all()


# Runs


def test_experiment_shows_what_its_runs_and_evaluations_are(folder):
    curves = {
        "AD": {},
        "ED": {"options": {"recipe": "ed"}},
        "prompted": {"evaluation": {"prompt_quantile": 1, "prompt_steps": 5, "episodes": 2}},
        "on more tasks": {"options": {"train_tasks": 6, "validation_tasks": 1}},
    }
    path = write_experiment(folder, panel(curves))
    said = []
    figure = run_experiment(read_experiment(path), folder / "out", said.append)
    assert figure == folder / "out/mine.png" and figure.stat().st_size > 10_000
    record = json.loads((folder / "out/mine.json").read_text())
    shown = {curve["label"]: curve for curve in record["panels"][0]["curves"]}
    assert list(shown) == list(curves)
    own = json.loads(Path("runs/experiments/tiny/in_context_evaluation.json").read_text())
    per_task = np.array(own["episode_return"]["per_task"])
    (result,) = shown["AD"]["results"]
    assert result["episode_return"]["mean"] == pytest.approx(own["episode_return"]["mean"], rel=1e-4)
    error = per_task[:, -1].std(ddof=1) / np.sqrt(len(per_task))
    assert result["last"] == pytest.approx({"mean": per_task[:, -1].mean(), "standard_error": error}, rel=1e-4)
    again = evaluate(
        "runs/experiments/tiny",
        episodes=2,
        streams=4,
        prompt_from=load_histories("data/tiny", "test"),
        prompt_quantile=1,
        prompt_steps=5,
    )
    (prompted,) = shown["prompted"]["results"]
    assert prompted["episode_return"]["mean"] == pytest.approx(again["episode_return"]["mean"], rel=1e-4)
    assert prompted["prompt"] == pytest.approx(again["prompt"], rel=1e-4)
    assert "--recipe=ed" in shown["ED"]["command"] and shown["ED"]["seconds"]["runs/experiments/tiny-recipe=ed"] > 0
    assert Path("data/tiny-train_tasks=6-validation_tasks=1").is_dir()
    assert [line for line in said if line.startswith("[4/4]")]


def test_finished_runs_are_used_again(folder, monkeypatch):
    path = write_experiment(folder, panel({"AD": {}, "prompted": {"evaluation": {"prompt_quantile": 1}}}))
    run_experiment(read_experiment(path), folder / "out")
    before = json.loads((folder / "out/mine.json").read_text())

    def fails(*arguments, **settings):
        raise AssertionError("It has been done before.")

    monkeypatch.setattr(running, "train", fails)
    monkeypatch.setattr(running, "evaluate", fails)
    run_experiment(read_experiment(path), folder / "out")
    assert json.loads((folder / "out/mine.json").read_text()) == before


def test_run_with_other_settings_is_not_taken_for_this_one(folder):
    path = write_experiment(folder, panel({"AD": {}}))
    run_experiment(read_experiment(path), folder / "out")
    write_preset(folder, max_steps=3)
    with pytest.raises(ValueError, match="max_steps was 2, is 3"):
        run_experiment(read_experiment(path), folder / "out")


def test_curves_before_an_interruption_are_kept_and_the_rest_continues(folder, monkeypatch):
    path = write_experiment(folder, panel({"AD": {}, "ED": {"options": {"recipe": "ed"}}}))
    train = running.train

    def interrupted(argv, say):
        if "--recipe=ed" in argv:
            raise Interrupted("Stopped.")
        train(argv, say)

    monkeypatch.setattr(running, "train", interrupted)
    with pytest.raises(Interrupted):
        run_experiment(read_experiment(path), folder / "out")
    kept = json.loads((folder / "out/mine.json").read_text())["panels"][0]["curves"]
    assert [curve["label"] for curve in kept] == ["AD"] and (folder / "out/mine.png").exists()
    monkeypatch.setattr(running, "train", train)
    run_experiment(read_experiment(path), folder / "out")
    assert len(json.loads((folder / "out/mine.json").read_text())["panels"][0]["curves"]) == 2


def test_wrong_option_is_found_before_the_first_run(folder, monkeypatch):
    path = write_experiment(folder, panel({"AD": {}, "wrong": {"options": {"max_stepz": 2}}}))
    monkeypatch.setattr(running, "train", lambda argv, say: pytest.fail("A run was begun."))
    with pytest.raises(ValueError, match="max_stepz"):
        run_experiment(read_experiment(path), folder / "out")


@pytest.mark.parametrize(
    ("curve", "content", "said"),
    [
        (
            {"evaluation": {"prompt_quantile": "25 %"}},
            {},
            "curve 'B': prompt_quantile='25 %' .* not a number",
        ),
        ({"evaluation": {"episodes": 4.5}}, {}, "episodes=4.5 in evaluation is not a whole number"),
        ({"evaluation": {"action_selection": "gredy"}}, {}, "action_selection='gredy' is not known"),
        ({"evaluation": {"temperature": -1}}, {}, "temperature=-1 is out of range"),
        ({"evaluation": {"streams": 7}}, {}, "streams=7 is not a multiple"),
        ({"options": {"test_streams": 7}}, {}, "curve 'B': streams=7 is not a multiple"),
        ({"options": {"source": "q_lerning"}}, {}, "curve 'B': .*q_lerning"),
        ({"options": {"context_length": -5}}, {}, "curve 'B': .*-5"),
        ({"options": {"episode_stride": 0}}, {}, "curve 'B': episode_stride=0"),
        ({"options": {"recpe": "ed"}}, {}, "curve 'B': .*recpe"),
        ({"evaluation": {}}, {}, "curve 'B' shows the same as curve 'A'"),
        ({"evaluation": {"prompt_quantile": 5}}, {}, "curve 'B': prompt_quantile=5 is out of range"),
        ({"evaluation": {"prompt_steps": 5}}, {}, "also give prompt_quantile"),
        ({"evaluation": {"target_return": 2}}, {}, "recipe 'ad' asks for no target_return"),
        ({"preset": "frozen_lake"}, {"kind": "bars", "evaluation": {"episodes": 1}}, "bars show one episode"),
        ({"evaluation": {"episodes": 2}}, {"kind": "bars", "options": {"test_episodes": 1}}, "bars show one episode"),
        ({"preset": "adversarial_bandit"}, {}, r"there are \['odd', 'even', 'uniform'\]"),
        (
            {"options": {"dataset": "data/tiny", "episodes": 12}},
            {"options": {"dataset": "data/tiny"}},
            "curve 'A' and Panel, curve 'B' are of histories that are collected in different ways",
        ),
    ],
)
def test_what_cannot_be_shown_as_described_is_found_before_the_first_run(folder, monkeypatch, curve, content, said):
    path = write_experiment(folder, panel({"A": {}, "B": curve}, **content))
    monkeypatch.setattr(running, "train", lambda argv, say: pytest.fail("A run was begun."))
    with pytest.raises(ValueError, match=said):
        run_experiment(read_experiment(path), folder / "out")
    assert not Path("runs").exists() and not Path("data").exists()


def test_presets_of_the_same_file_name_are_told_apart(folder, monkeypatch):
    for name, steps in (("a", 1), ("b", 2)):
        (folder / name).mkdir()
        write_preset(folder / name, "same", max_steps=steps)
    path = write_experiment(folder, panel({"A": {"preset": "a/same.yaml"}, "B": {"preset": "b/same.yaml"}}))
    monkeypatch.setattr(running, "train", lambda argv, say: pytest.fail("A run was begun."))
    with pytest.raises(ValueError, match="two presets of the same file name"):
        run_experiment(read_experiment(path), folder / "out")


def test_preset_may_lie_beside_its_experiment(folder):
    (folder / "sub").mkdir()
    write_preset(folder / "sub", "beside")
    path = write_experiment(folder / "sub", panel({"A": {"preset": "beside.yaml"}, "B": {}}))
    (part,) = read_experiment(path).panels
    assert [curve.preset for curve in part.curves] == [str(folder / "sub" / "beside.yaml"), "tiny.yaml"]


def test_label_that_is_given_twice_is_refused(folder):
    lines = ["title: T", "panels:", "- title: P", "  preset: tiny.yaml", "  curves:", "    A: {}", "    A: {}"]
    (folder / "twice.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="'A' is given twice.*line 6"):
        read_experiment(folder / "twice.yaml")


def test_histories_that_prompts_need_are_collected_again(folder):
    curves = {"AD": {}, "prompted": {"evaluation": {"prompt_quantile": 1}}}
    run_experiment(read_experiment(write_experiment(folder, panel({"AD": {}}))), folder / "out")
    shutil.rmtree("data")
    run_experiment(read_experiment(write_experiment(folder, panel(curves))), folder / "out")
    shown = json.loads((folder / "out/mine.json").read_text())["panels"][0]["curves"]
    assert [curve["label"] for curve in shown] == list(curves) and "prompt" in shown[1]["results"][0]


def test_checkpoint_is_evaluated_again_as_its_run_was_but_for_what_the_curve_says(folder):
    options = {"recipe": "gato", "action_selection": "greedy"}
    curves = {"own": {}, "again": {"evaluation": {"episodes": 3}}, "worse": {"evaluation": {"prompt_quantile": 0}}}
    run_experiment(read_experiment(write_experiment(folder, panel(curves, options=options))), folder / "out")
    record = json.loads((folder / "out/mine.json").read_text())
    own, again, worse = (curve["results"][0] for curve in record["panels"][0]["curves"])
    assert own["episodes"] == 3
    for name in ("episode_return", "last", "prompt", "action_selection", "streams", "seed"):
        assert again[name] == own[name], name
    assert (own["prompt"]["quantile"], worse["prompt"]["quantile"], own["action_selection"]) == (1, 0, "greedy")


def test_prompts_are_taken_from_the_dataset_that_a_preset_names(folder):
    elsewhere = collect("tiny.yaml", folder / "elsewhere", options=["--episodes", "4"], progress=False)
    write_preset(folder, max_steps=2, dataset=str(elsewhere))
    path = write_experiment(folder, panel({"prompted": {"evaluation": {"prompt_quantile": 1, "prompt_steps": 5}}}))
    run_experiment(read_experiment(path), folder / "out")
    (curve,) = json.loads((folder / "out/mine.json").read_text())["panels"][0]["curves"]
    best: dict[str, list[float]] = {}
    histories = load_histories(elsewhere, "test")
    for task, returns in zip(histories["task"], histories["episode_returns"], strict=True):
        best.setdefault(task, []).append(max(returns))
    assert curve["results"][0]["prompt"]["episode_return"] == pytest.approx(
        np.mean([own[:2] for own in best.values()]), rel=1e-4
    )
    assert not Path("data").exists()


def test_finished_runs_do_without_their_histories(folder):
    path = write_experiment(folder, panel({"AD": {"options": {"episodes": 8}}}))
    run_experiment(read_experiment(path), folder / "out")
    before = (folder / "out/mine.json").read_text()
    shutil.rmtree("data")
    run_experiment(read_experiment(path), folder / "out")
    assert (folder / "out/mine.json").read_text() == before


def test_another_process_is_waited_for(folder):
    path, said, run_folder = write_experiment(folder, panel({"AD": {}})), [], Path("runs/experiments/tiny")
    held = threading.Event()

    def hold() -> None:
        with alone(run_folder):
            held.set()
            while not any("waiting for it to end" in line for line in said):
                time.sleep(0.01)
            assert not (run_folder / "settings.json").exists()
            said.append("ended")

    with ThreadPoolExecutor() as pool:
        other = pool.submit(hold)
        held.wait()
        run_experiment(read_experiment(path), folder / "out", said.append)
        other.result()
    assert (run_folder / "in_context_evaluation.json").exists()
    assert said.index("ended") < next(i for i, line in enumerate(said) if line.startswith("Training"))


# The command line


def test_command_runs_an_experiment_with_options_of_its_own(folder, capsys):
    write_experiment(folder, panel({"AD": {}}))
    assert cli.main(["experiment", "mine.yaml", "--max-steps", "3", "--seed=2", "--output-dir", "out"]) == 0
    record = json.loads(Path("out/mine-max_steps=3-seed=2.json").read_text())
    assert "--max_steps=3 --seed=2" in record["panels"][0]["curves"][0]["command"]
    assert record["title"] == "Mine (max_steps=3, seed=2)"
    assert "See out/mine-max_steps=3-seed=2.png" in capsys.readouterr().out
    assert not Path("out/mine.json").exists(), "a quick look does not replace the experiment's own figure"


def test_option_without_a_value_is_a_flag():
    read = cli.read_options(["--use_cpu", "--max-steps", "3", "--bf16"])
    assert read == {"use_cpu": True, "max_steps": 3, "bf16": True}


def test_experiments_that_come_along_are_listed(folder, capsys):
    assert cli.main(["experiment"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == experiment_names() and lines["prompting"] == "Prompted with demonstrations, Dark Room"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "There is no experiment 'nothing': give a YAML file or one of"),
        (["mine.yaml", "--max_stepz", "3"], "max_stepz"),
        (["mine.yaml", "--seed"], "--seed: invalid int value: 'True'"),
        (["mine.yaml", "seed=3"], "'seed' is no option"),
        (["mine.yaml", "--config", "other"], "--config cannot be given"),
        (["mine.yaml", "--decoder", "{hidden_size: 16"], "--decoder '{hidden_size: 16' cannot be read"),
    ],
)
def test_wrong_command_is_told_in_one_line(folder, capsys, arguments, said):
    write_experiment(folder, panel({"AD": {}}))
    assert cli.main(["experiment", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


# Figures


def result(mean: list[float], split: str = "test", **references: object) -> dict:
    known = {"random": 0.0, "optimal": 2.0, "source": {"mean": [0.5, 1.0]}, **references}
    return {
        "split": split,
        "episode_return": {"mean": mean, "standard_error": [0.1] * len(mean)},
        "last": {"mean": mean[-1], "standard_error": None},
        "references": known,
    }


def test_returns_by_episode_begin_with_the_first_beside_the_papers():
    axes = Figure().subplots()
    draw_episodes(
        axes,
        {"curves": [{"label": "AD", "results": [result([0.1, 0.2, 0.3])]}]},
        {"AD": [[0, 0.5], [1, 1.0], [100, 2.0]]},
    )
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["AD"].get_xydata().tolist() == [[1, 0.1], [2, 0.2], [3, 0.3]]
    assert lines["AD, Laskin et al. 2022"].get_xydata().tolist() == [[1, 1.0], [100, 2.0]]
    assert lines["AD, Laskin et al. 2022"].get_color() == lines["AD"].get_color()
    assert lines["source algorithm"].get_xydata().tolist() == [[1, 0.5], [2, 1.0]]
    assert {"optimal", "random"} <= set(lines) and axes.get_xlim() == (1, 100)


def test_any_number_of_curves_can_be_drawn():
    axes = Figure().subplots()
    curves = [{"label": str(number), "results": [result([0.1, 0.2])]} for number in range(20)]
    draw_episodes(axes, {"curves": curves}, {})
    assert {str(number) for number in range(20)} <= {line.get_label() for line in axes.lines}


def test_returns_at_the_end_are_drawn_where_the_labels_say():
    axes = Figure().subplots()
    curves = [{"label": label, "results": [result([0.0, end])]} for label, end in (("0.5", 1.0), ("20", 2.0))]
    draw_settings(axes, {"curves": curves, "x_label": "tasks"}, {"3": [[1, 0.0], [10, 1.5]], "1": [[1, 0.7]]})
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert axes.lines[0].get_xydata().tolist() == [[0.5, 1.0], [20, 2.0]]
    assert lines["Laskin et al. 2022"] == [[1, 0.7], [3, 1.5]]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "tasks"


def test_bars_of_all_curves_are_scaled_alike():
    known = {"random": 1.0, "ucb1": 3.0, "thompson": 7.0}
    ad = [result([3.0], "odd", random=1.0, source={"mean": [5.0]}), result([2.0], "even", **known)]
    ed = [result([1.0], "odd", random=1.0, source={"mean": [9.0]}), result([4.0], "even", **known)]
    axes = Figure().subplots()
    curves = [{"label": "AD", "results": ad, "source": "ucb1"}, {"label": "ED", "results": ed, "source": "thompson"}]
    draw_bars(axes, {"curves": curves}, {})
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.5, 0.0, 1.5]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["odd", "even"]
