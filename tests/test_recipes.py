"""Recipes through the main job: which episodes are imitated, what is asked for, and how the model is evaluated."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from commands import write_preset
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from algodistill.evaluation import evaluate, load_checkpoint
from algodistill.histories import HistoryWindows
from algodistill.outcomes import WrongInput
from algodistill.training import building, collect, load_histories, running
from algodistill.training.arguments import WindowArguments
from algodistill.training.job import parse_job
from algodistill.training.recipes import RECIPES, expert_return, find_recipe, selection


every_recipe = pytest.mark.parametrize("recipe", RECIPES)
# Told of the windows to train on, unless something else is.
PLAIN = {
    "episode_stride": 3,
    "first_episode": 1,
    "last_episode": 8,
    "expert_share": None,
    "expert_quantile": None,
    "start_share": 0.5,
    "returns_to_go": False,
}


@pytest.mark.parametrize(
    ("recipe", "settings", "expected"),
    [
        ("ad", {}, {}),
        ("ad", {"expert_share": 0.1, "expert_quantile": 0.9}, {}),  # all episodes of a learner
        ("return_conditioned", {"expert_share": 0.1}, {"returns_to_go": True}),
        # An expert does not learn: nothing is left out of what it does.
        *((recipe, {}, {"episode_stride": 1, "expert_share": 0.25}) for recipe in ("ed", "gato")),
        ("ed", {"expert_share": 0.1}, {"episode_stride": 1, "expert_share": 0.1}),
        ("gato", {"expert_quantile": 0.9}, {"episode_stride": 1, "expert_quantile": 0.9}),
        ("ed", {"expert_share": 0.1, "expert_quantile": 0.9}, {"episode_stride": 1, "expert_quantile": 0.9}),
    ],
)
def test_a_recipe_chooses_the_episodes(recipe, settings, expected):
    kept = {name: PLAIN[name] for name in ("episode_stride", "first_episode", "last_episode", "start_share")}
    assert selection(WindowArguments(recipe=recipe, **kept, **settings)) == {**PLAIN, **expected}


def test_a_recipe_that_is_not_known_is_refused_by_name():
    with pytest.raises(ValueError, match=r"recipe='cot' is not known: .*'ad', 'ed', 'gato', 'return_conditioned'"):
        find_recipe("cot")


def returns_dataset(*returns: list[float]) -> datasets.Dataset:
    features = datasets.Features({"episode_returns": datasets.List(datasets.Value("float32"))})
    return datasets.Dataset.from_dict({"episode_returns": list(returns)}, features=features)


@pytest.mark.parametrize(
    ("returns", "share", "expected"),
    [
        ([[0.0, 0.0, 2.0, 4.0]], 0.5, 3.0),
        ([[0.0, 0.0, 2.0, 4.0]], 0.25, 4.0),
        ([[0.0, 0.0, 2.0, 4.0]], 0.26, 3.0),  # rounded up, as the episodes of an expert are
        ([[0.0, 0.0, 2.0, 4.0]], 1.0, 1.5),
        ([[0.0, 0.0, 2.0, 4.0]], 0.0, 4.0),  # at least one
        ([[9.0, 1.0], [9.0, 9.0, 9.0, 9.0, 2.0, 4.0, 6.0]], 0.4, 2.5),  # histories count alike
        ([[9.0, 1.0], [], [3.0]], 0.5, 2.0),
        ([[-1600.0, -200.0], [-1500.0, -100.0]], 0.25, -150.0),
    ],
)
def test_an_expert_returns_the_mean_over_histories_of_their_last_episodes(returns, share, expected):
    assert expert_return(returns_dataset(*returns), share) == pytest.approx(expected)


def test_the_return_to_ask_for_is_that_of_the_episodes_an_expert_is_imitated_in():
    rng = np.random.default_rng(0)
    returns = [rng.normal(size=episodes).astype(np.float32).tolist() for episodes in (1, 2, 7, 10, 100)]
    for share in (0.01, 0.07, 0.25, 0.3, 0.5, 1.0):
        of_experts = []
        for own in returns:
            # Every episode is one step, and pays what it returns.
            history = {
                **dict.fromkeys(("id", "task", "environment", "algorithm"), [""]),
                "seed": [0],
                **{name: [[0] * len(own)] for name in ("observations", "actions", "terminations", "truncations")},
                "rewards": [own],
                "episode_returns": [own],
                "episode_lengths": [[1] * len(own)],
            }
            windows = HistoryWindows(datasets.Dataset.from_dict(history), 1000, expert_share=share)
            of_experts.append(windows.read(0, 0)["rewards"].mean())
        assert expert_return(returns_dataset(*returns), share) == pytest.approx(np.mean(of_experts), rel=1e-5)


@pytest.mark.parametrize(("first", "last", "expected"), [(0, 1, 2.0), (2, None, 7.0), (1, 2, 5.0), (0, 9, 7.0)])
def test_the_return_to_ask_for_is_of_the_episodes_that_are_kept(first, last, expected):
    returns = returns_dataset([0.0, 2.0, 5.0, 7.0], [])
    assert expert_return(returns, 0.25, first, last) == expected


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"expert_share={share}"):
        expert_return(returns_dataset([1.0]), share)


def test_without_a_finished_episode_the_return_to_ask_for_has_to_be_given():
    with pytest.raises(ValueError, match="No history has a finished episode.*--target_return"):
        expert_return(returns_dataset([], []), 0.5)


# ---- the main job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny preset and its histories."""
    folder = tmp_path_factory.mktemp("project")
    collect(write_preset(folder), folder / "data" / "tiny", progress=False)
    return folder


Train = Callable[..., tuple[Path, list[str]]]


@pytest.fixture(scope="module")
def train(folder: Path) -> Iterator[Train]:
    """What runs the main job on the tiny preset, and gives the run's folder and what the job said."""

    def run(name: str, *options: str) -> tuple[Path, list[str]]:
        said: list[str] = []
        with contextlib.chdir(folder):
            running.run(["--config", "tiny.yaml", "--output_dir", f"runs/{name}", *options], said.append)
        return folder / "runs" / name, said

    yield run


@pytest.fixture(scope="module")
def finished(train: Train) -> dict[str, tuple[Path, list[str]]]:
    """The runs of all recipes."""
    return {recipe: train(recipe, "--recipe", recipe) for recipe in RECIPES}


def result_of(run_folder: Path) -> dict:
    return json.loads((run_folder / "in_context_evaluation.json").read_text())


def assert_same_weights(found: Path, expected: Path) -> None:
    one, other = (load_file(path / "model.safetensors") for path in (found, expected))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name].numpy(), other[name].numpy(), err_msg=name)


# 20 histories of 10 episodes of 5 steps: every second of them, or of the last quarter all, rounded up.
KEPT = {"ad": 500, "ed": 300, "gato": 300, "return_conditioned": 500}


@every_recipe
def test_a_run_of_every_recipe_ends_with_a_checkpoint_and_an_evaluation(finished, recipe):
    run_folder, said = finished[recipe]
    assert any(f"20 histories, {KEPT[recipe]} transitions kept" in line for line in said)
    state = json.loads((run_folder / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 8 and np.isfinite(losses).all() and losses[-1] < losses[0]
    assert json.loads((run_folder / "settings.json").read_text())["settings"]["windows"]["recipe"] == recipe

    model, tokeniser = AutoModel.from_pretrained(run_folder), AutoProcessor.from_pretrained(run_folder)
    conditioned = recipe == "return_conditioned"
    assert model.config.return_conditioned == tokeniser.return_conditioned == conditioned
    assert (model.config.target_return is not None) == conditioned
    assert model.agent(tokeniser, 3).act(np.ones((3, 2), dtype=np.int64)).shape == (3,)

    result = result_of(run_folder)
    assert ("target_return" in result, "prompt" in result) == (conditioned, recipe == "gato")
    assert (result["tasks"], result["streams"], result["episodes"]) == (2, 4, 3)


def test_recipes_learn_different_things(finished):
    weights = [load_file(run_folder / "model.safetensors") for run_folder, _ in finished.values()]
    heads = [part["action_head.weight"].numpy().tobytes() for part in weights]
    assert heads[1] == heads[2] and len(set(heads)) == 3  # 'ed' and 'gato' differ in their evaluation alone
    assert [name for name in weights[3] if "return_to_go" in name and name not in weights[0]] == [
        "embedding.return_to_go.bias",
        "embedding.return_to_go.weight",
    ]


def test_an_expert_demonstrates_the_task_before_gato_is_evaluated(finished, folder):
    prompt = result_of(finished["gato"][0])["prompt"]
    histories = load_histories(folder / "data" / "tiny", "test")
    # Half a context of 12 steps is an episode of five: the best that the learners of these streams came to.
    assert (prompt["quantile"], prompt["steps"]) == (1.0, 5.0)
    best: dict[str, list[float]] = {}
    for task, returns in zip(histories["task"], histories["episode_returns"], strict=True):
        best.setdefault(task, []).append(max(returns))
    assert prompt["episode_return"] == np.mean([own[:2] for own in best.values()])
    assert result_of(finished["gato"][0])["episode_return"] != result_of(finished["ed"][0])["episode_return"]


def test_any_run_may_be_evaluated_after_a_demonstration_and_gato_after_a_worse_one(train):
    for recipe, quantile in (("ad", "1"), ("gato", "0"), ("return_conditioned", "0.5")):
        run_folder, _ = train(
            f"{recipe}-{quantile}", "--recipe", recipe, "--prompt_quantile", quantile, "--max_steps", "1"
        )
        assert result_of(run_folder)["prompt"]["quantile"] == float(quantile)


def test_the_return_of_experts_is_asked_for_unless_another_is_given(finished, train, folder):
    histories = load_histories(folder / "data" / "tiny", "train")
    of_experts = np.mean([np.mean(returns[-3:]) for returns in histories["episode_returns"]])
    of_best = np.mean([returns[-1] for returns in histories["episode_returns"]])
    one_step = ("--recipe", "return_conditioned", "--max_steps", "1")
    for run_folder, expected in (
        (finished["return_conditioned"][0], of_experts),
        (train("share", *one_step, "--expert_share", "0.1")[0], of_best),
        (train("given", *one_step, "--target_return", "-2.5")[0], -2.5),
    ):
        config = json.loads((run_folder / "config.json").read_text())
        assert config["target_return"] == result_of(run_folder)["target_return"] == pytest.approx(expected)
        scale = json.loads((run_folder / "preprocessor_config.json").read_text())["return_scale"]
        assert scale == max(map(max, histories["episode_returns"]))
    assert of_experts != of_best


def test_settings_that_a_recipe_has_no_use_for_are_named(train):
    given = ("--target_return", "2", "--expert_quantile", "0.5", "--expert_share", "0.5", "--max_steps", "1")
    for recipe, unused in (
        ("ad", "expert_share, expert_quantile, target_return"),
        ("ed", "target_return, episode_stride"),
        ("return_conditioned", "expert_quantile"),
    ):
        _, said = train(f"unused-{recipe}", "--recipe", recipe, *given)
        assert f"Not used by the recipe {recipe!r}: {unused}." in said


def test_a_finished_run_is_not_taken_for_one_with_other_settings(finished, train):
    for options, named in (
        (("--recipe", "ed"), "recipe was 'ad', is 'ed'"),
        (("--weight_decay", "0.5"), "weight_decay was 0.0, is 0.5"),
        (("--test_episodes", "4"), "test_episodes was 3, is 4"),
    ):
        with pytest.raises(WrongInput, match=named):
            train("ad", *options)
    _, said = train("ad")
    assert len(said) == 1 and "finished run" in said[0]


def test_gato_is_prompted_while_it_is_trained_too(train, folder):
    options = ("--eval_strategy", "steps", "--eval_steps", "8", "--eval_streams", "32")
    evaluated, _ = train("gato-evaluated", "--recipe", "gato", *options)
    state = json.loads((evaluated / "trainer_state.json").read_text())
    (evaluation,) = [entry for entry in state["log_history"] if "eval_loss" in entry]
    split = parse_job(["--config", str(folder / "tiny.yaml")]).split
    histories = load_histories(folder / "data" / "tiny", "validation")
    told = {"tasks": split.validation, "episodes": 2, "streams": 32, "seed": 42}
    prompted = evaluate(evaluated, prompt_from=histories, prompt_quantile=1, **told)["episode_return"]["mean"]
    assert [evaluation["eval_in_context_first_return"], evaluation["eval_in_context_return"]] == prompted
    assert prompted != evaluate(evaluated, **told)["episode_return"]["mean"]


@pytest.mark.parametrize("recipe", ["ad", "ed", "return_conditioned"])
def test_the_loss_while_training_is_of_such_windows_as_are_trained_on(train, folder, recipe):
    options = ("--recipe", recipe, "--max_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1")
    run_folder, _ = train(f"loss-{recipe}", *options)
    (logged,) = [
        entry["eval_loss"]
        for entry in json.loads((run_folder / "trainer_state.json").read_text())["log_history"]
        if "eval_loss" in entry
    ]
    job = parse_job(["--config", str(folder / "tiny.yaml"), *options])
    windows = HistoryWindows(load_histories(folder / "data" / "tiny", "validation"), 12, **selection(job.windows))
    model, tokeniser = load_checkpoint(run_folder)
    with torch.no_grad():
        losses = [float(model(**tokeniser([windows[index]])).loss) for index in range(len(windows))]
        steps = [len(windows[index]["rewards"]) for index in range(len(windows))]
    assert logged == pytest.approx(np.average(losses, weights=steps), rel=1e-4)


def test_histories_that_are_streamed_say_what_to_ask_for_too(finished, train):
    streaming = ("--streaming", "True", "--dataset", "data/tiny", "--recipe", "return_conditioned")
    run_folder, said = train("streamed", *streaming)
    assert any("read as a stream" in line for line in said)
    downloaded = finished["return_conditioned"][0]
    for file, name in (("config.json", "target_return"), ("preprocessor_config.json", "return_scale")):
        found, expected = (json.loads((path / file).read_text())[name] for path in (run_folder, downloaded))
        assert found == pytest.approx(expected)


def test_a_model_that_reads_returns_is_evaluated_while_it_is_trained(finished, train):
    evaluated, _ = train(
        "evaluated", "--recipe", "return_conditioned", "--eval_strategy", "steps", "--eval_steps", "4"
    )
    state = json.loads((evaluated / "trainer_state.json").read_text())
    evaluations = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [4, 8]
    assert all(np.isfinite([entry["eval_loss"], entry["eval_in_context_return"]]).all() for entry in evaluations)
    assert_same_weights(evaluated, finished["return_conditioned"][0])


@pytest.mark.parametrize("recipe", ["gato", "return_conditioned"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(finished, train, recipe):
    undisturbed, _ = finished[recipe]
    stopped = undisturbed.parent / f"{recipe}-stopped"
    shutil.copytree(undisturbed / "checkpoint-4", stopped / "checkpoint-4")
    shutil.copy(undisturbed / "settings.json", stopped)
    run_folder, said = train(stopped.name, "--recipe", recipe)
    assert any("Continuing from" in line and "checkpoint-4" in line for line in said)
    assert_same_weights(run_folder, undisturbed)
    for file in ("config.json", "preprocessor_config.json"):
        assert (run_folder / file).read_text() == (undisturbed / file).read_text()
    found, expected = ({**result_of(path), "wall_seconds": 0} for path in (run_folder, undisturbed))
    assert found == expected


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--recipe", "ad"), "recipe was 'return_conditioned', is 'ad'"),
        (("--recipe", "return_conditioned", "--expert_share", "0.5"), "expert_share was 0.25, is 0.5"),
        (("--recipe", "return_conditioned", "--target_return", "3"), "target_return was None, is 3.0"),
    ],
)
def test_an_unfinished_run_is_not_continued_with_another_recipe(finished, train, tmp_path, option, named):
    shutil.copy(finished["return_conditioned"][0] / "settings.json", tmp_path)
    with pytest.raises(WrongInput, match=named):
        train("other", "--output_dir", str(tmp_path), *option)


@pytest.mark.parametrize(
    ("recipe", "checkpoint", "named"),
    [
        ("return_conditioned", "ad", "ad is not conditioned on returns, unlike the recipe 'return_conditioned'"),
        *(
            (recipe, "return_conditioned", f"conditioned is conditioned on returns, unlike the recipe '{recipe}'")
            for recipe in ("ad", "ed", "gato")
        ),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(finished, train, recipe, checkpoint, named):
    with pytest.raises(WrongInput, match=named):
        train("tuned", "--recipe", recipe, "--model_name_or_path", str(finished[checkpoint][0]))
    assert not (finished[checkpoint][0].parent / "tuned").exists()


def test_training_goes_on_from_a_checkpoint_that_reads_returns(finished, train, folder):
    start = folder / "start"
    shutil.copytree(finished["return_conditioned"][0], start)
    options = ("--recipe", "return_conditioned", "--model_name_or_path", "start", "--learning_rate", "0")
    for target in (7.0, None):
        config = json.loads((start / "config.json").read_text())
        (start / "config.json").write_text(json.dumps({**config, "target_return": target}))
        tuned, _ = train(f"tuned-{target}", *options)
        assert_same_weights(tuned, start)
        asked, _ = train(f"asked-{target}", *options, "--target_return", "1.5")
        assert json.loads((asked / "config.json").read_text())["target_return"] == 1.5
        # Of a checkpoint that names none, it is found in the histories.
        found = json.loads((tuned / "config.json").read_text())["target_return"]
        expected = json.loads((finished["return_conditioned"][0] / "config.json").read_text())["target_return"]
        assert found == (target or expected)
        preprocessors = [json.loads((path / "preprocessor_config.json").read_text()) for path in (tuned, start)]
        assert preprocessors[0]["return_scale"] == preprocessors[1]["return_scale"] > 1


@pytest.mark.parametrize("quantile", [0, 0.5, 1])
def test_the_best_episodes_may_be_an_experts_instead_of_the_last(train, folder, quantile):
    histories = load_histories(folder / "data" / "tiny", "train")
    best = sum(
        achieved >= np.quantile(returns, quantile) for returns in histories["episode_returns"] for achieved in returns
    )
    _, said = train(f"best-{quantile}", "--recipe", "ed", "--expert_quantile", str(quantile), "--max_steps", "1")
    assert any(f"20 histories, {5 * best:,} transitions kept" in line for line in said)
    assert best == 200 if quantile == 0 else 20 <= best < 200


def test_the_first_training_tasks_alone_are_learnt_from(folder, monkeypatch):
    monkeypatch.chdir(folder)
    options = ["--config", "tiny.yaml", "--recipe", "return_conditioned", "--max_tasks", "2"]
    experiment = parse_job(options)
    histories = building.training_histories(experiment, "data/tiny")
    assert set(histories["task"]) == {json.dumps(task) for task in experiment.split.train[:2]}
    windows = building.make_windows(experiment, "data/tiny", 12)
    assert len(windows.transitions) == len(histories) == 8
    # What is found in histories is found in these alone.
    model, tokeniser = building.make_model(experiment)
    building.fit_to_histories(experiment, "data/tiny", model, tokeniser)
    assert model.config.target_return == expert_return(histories, 0.25)
    assert tokeniser.return_scale == max(max(returns) for returns in histories["episode_returns"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max_tasks", "0"], "max_tasks=0 is out of range: expected 1 to 5"),
        (["--max_tasks", "6"], "max_tasks=6 is out of range: expected 1 to 5"),
        (["--max_tasks", "1", "--per_device_train_batch_size", "1000"], "a batch has 1000"),
        (["--max_tasks", "2", "--streaming", "--dataset", "data/tiny"], "leave out --streaming"),
    ],
)
def test_a_wrong_number_of_tasks_is_refused(train, options, said):
    with pytest.raises(WrongInput, match=said):
        train("wrong", *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--recipe", "cot"], "recipe='cot'"), (["--test_streams", "3"], "streams=3 is not a multiple of the 2 tasks")],
)
def test_what_is_wrong_is_found_before_histories_are_collected(tmp_path, monkeypatch, options, said):
    write_preset(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongInput, match=said):
        running.run(["--config", "tiny.yaml", *options], lambda message: None)
    assert not (tmp_path / "data").exists()
