import itertools
import json

import datasets
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from PIL import Image
from tiny import (
    CORRIDOR,
    DECODERS,
    NaiveContext,
    corridor_tasks,
    tiny_model,
    tiny_tokeniser,
)
from transformers import GPT2Config

from algodistill.environments import DarkRoomEnv
from algodistill.evaluation import (
    default_streams,
    evaluate,
    load_checkpoint,
    named_episodes,
    plot_learning_curve,
    rollout,
    summary,
    write_result,
)
from algodistill.models import AlgorithmDistillationModel, HistoryTokeniser


DARK_ROOM = "algodistill/DarkRoom-v0"
ROOM = {"size": 3, "episode_length": 4}
ROOM_TASKS = [{"goal": [0, 1]}, {"goal": [2, 2]}, {"goal": [1, 1]}]


@pytest.fixture(scope="module")
def corridor():
    """A tokeniser and a model for corridors."""
    tokeniser = tiny_tokeniser()
    return tokeniser, tiny_model(tokeniser, context_length=7, environment=CORRIDOR, test_tasks=corridor_tasks(2))


@pytest.fixture(scope="module")
def room():
    """A tokeniser and a model for small Dark Rooms, which knows where it is to be evaluated."""
    tokeniser = tiny_tokeniser(MultiDiscrete([3, 3]), Discrete(5))
    model = tiny_model(
        tokeniser, context_length=9, environment=DARK_ROOM, environment_kwargs=ROOM, test_tasks=ROOM_TASKS
    )
    return tokeniser, model


def naive_returns(
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
    env: gymnasium.Env,
    episodes: int,
    seed: int,
    target_return: float | None = None,
) -> tuple[list[float], int]:
    """Returns of one stream's episodes and the steps they took, acting greedily, without a cache or a batch."""
    context = NaiveContext(model, tokeniser, model.config.context_length, target_return)
    returns, steps = [], 0
    observation, _ = env.reset(seed=seed)
    for _ in range(episodes):
        total, done = 0.0, False
        while not done:
            action = tokeniser.decode(context.logits(observation)[None])[0]
            next_observation, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            context.add(observation, action, reward, done)
            observation, total, steps = next_observation, total + float(reward), steps + 1
        observation, _ = env.reset()
        returns.append(total)
    return returns, steps


def test_a_rollout_returns_what_naive_single_streams_return(corridor):
    tokeniser, model = corridor
    tasks, per_task, episodes = corridor_tasks(3), 2, 5
    returns, environment_steps = rollout(
        model, tokeniser, CORRIDOR, tasks, episodes=episodes, streams=6, action_selection="greedy", seed=4
    )
    assert returns.shape == (3, per_task, episodes)
    expected, steps = np.zeros_like(returns), 0
    for stream in range(6):
        index, repetition = stream % 3, stream // 3
        env = gymnasium.make(CORRIDOR, task=tasks[index])
        # Stream i's environment is seeded with seed + i, as gymnasium's vector environments are.
        expected[index, repetition], taken = naive_returns(model, tokeniser, env, episodes, seed=4 + stream)
        steps += taken
    np.testing.assert_allclose(returns, expected, rtol=0, atol=1e-5)
    assert environment_steps == steps
    assert len(np.unique(expected)) > 10


def test_a_dark_room_rollout_returns_what_naive_single_streams_return(room):
    tokeniser, model = room
    returns, environment_steps = rollout(
        model,
        tokeniser,
        DARK_ROOM,
        ROOM_TASKS,
        episodes=6,
        streams=3,
        environment_kwargs=ROOM,
        action_selection="greedy",
    )
    assert environment_steps == 3 * 6 * 4
    for index, task in enumerate(ROOM_TASKS):
        expected, _ = naive_returns(model, tokeniser, DarkRoomEnv(task, **ROOM), 6, seed=0)
        assert returns[index, 0].tolist() == expected
    assert len(np.unique(returns)) > 1


def test_a_rollout_asks_every_stream_for_the_target_return():
    tokeniser = tiny_tokeniser(return_conditioned=True, return_scale=3.0)
    model = tiny_model(tokeniser, context_length=7, target_return=4.0)
    tasks, found = corridor_tasks(3), []
    for given, asked in ((None, 4.0), (-6.0, -6.0)):
        arguments = {"episodes": 5, "streams": 3, "action_selection": "greedy", "target_return": given}
        returns, _ = rollout(model, tokeniser, CORRIDOR, tasks, seed=4, **arguments)
        for index, task in enumerate(tasks):
            env = gymnasium.make(CORRIDOR, task=task)
            expected, _ = naive_returns(model, tokeniser, env, 5, 4 + index, asked)
            np.testing.assert_allclose(returns[index, 0], expected, rtol=0, atol=1e-5)
        found.append(returns)
    assert not np.array_equal(*found)


def test_every_stream_runs_until_its_episodes_are_complete(corridor):
    tokeniser, model = corridor
    # Every step pays 100 or a little less, so that a return says how many steps were counted.
    tasks = [{"goal": 0, "lengths": [1]}, {"goal": 0, "lengths": [5]}, {"goal": 0, "lengths": [2, 4, 3]}]
    returns, environment_steps = rollout(
        model, tokeniser, CORRIDOR, tasks, episodes=4, streams=6, environment_kwargs={"bonus": 100.0}
    )
    lengths = np.array([[1, 1, 1, 1], [5, 5, 5, 5], [2, 4, 3, 2]])
    np.testing.assert_array_equal(np.round(returns / 100), np.repeat(lengths[:, None], 2, axis=1))
    assert environment_steps == 2 * lengths.sum()


def test_environment_arguments_and_context_length_reach_the_rollout(corridor):
    tokeniser, model = corridor
    arguments = {"episodes": 6, "streams": 2, "action_selection": "greedy"}
    plain, _ = rollout(model, tokeniser, CORRIDOR, corridor_tasks(2), **arguments)
    short, _ = rollout(model, tokeniser, CORRIDOR, corridor_tasks(2), context_length=1, **arguments)
    same, _ = rollout(model, tokeniser, CORRIDOR, corridor_tasks(2), context_length=7, **arguments)
    np.testing.assert_array_equal(plain, same)
    assert not np.array_equal(plain, short)


@pytest.mark.parametrize(("streams", "suggestions"), [(7, ("6", "9")), (2, ("3", "6")), (0, ("3", "6"))])
def test_streams_that_are_no_multiple_of_the_tasks_are_refused(room, streams, suggestions):
    tokeniser, model = room
    with pytest.raises(ValueError) as error:
        rollout(model, tokeniser, DARK_ROOM, ROOM_TASKS, episodes=1, streams=streams, environment_kwargs=ROOM)
    message = str(error.value)
    assert f"streams={streams}" in message and "3 tasks" in message
    for suggestion in suggestions:
        assert suggestion in message
        rollout(model, tokeniser, DARK_ROOM, ROOM_TASKS, episodes=1, streams=int(suggestion), environment_kwargs=ROOM)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": []}, "task"),
        ({"episodes": 0}, "episodes=0"),
        ({"environment": "algodistill/NoSuchRoom-v0"}, "NoSuchRoom"),
        ({"environment_kwargs": {"size": 4}}, r"observation space .*4, 4.*3, 3"),
        ({"context_length": 0}, "context_length=0"),
        ({"action_selection": "best"}, "'best'"),
    ],
)
def test_wrong_arguments_of_a_rollout_are_refused(room, arguments, named):
    tokeniser, model = room
    given = {"environment": DARK_ROOM, "tasks": ROOM_TASKS, "episodes": 1, "environment_kwargs": ROOM, **arguments}
    with pytest.raises(ValueError, match=named):
        rollout(model, tokeniser, given.pop("environment"), given.pop("tasks"), **given)


@pytest.mark.parametrize(("tasks", "streams"), [(1, 64), (3, 66), (16, 64), (17, 68), (64, 64), (65, 65), (100, 100)])
def test_by_default_there_are_at_least_64_streams_and_as_many_on_each_task(tasks, streams):
    assert default_streams(tasks) == streams


# ---- evaluate


@pytest.fixture(scope="module")
def result(room):
    tokeniser, model = room
    return evaluate(model, tokeniser, episodes=5, streams=12, seed=2)


def test_a_checkpoint_is_evaluated_by_its_path(room, result, tmp_path):
    tokeniser, model = room
    model.save_pretrained(tmp_path)
    tokeniser.save_pretrained(tmp_path)
    for path in (tmp_path, str(tmp_path)):
        again = evaluate(path, episodes=5, streams=12, seed=2)
        assert again["episode_return"] == result["episode_return"]
    with pytest.raises(ValueError, match="tokeniser"):
        evaluate(model, episodes=1)


def test_a_result_has_the_documented_keys(result):
    assert list(result) == [
        "environment",
        "split",
        "tasks",
        "task_ids",
        "streams",
        "episodes",
        "context_length",
        "environment_steps",
        "action_selection",
        "temperature",
        "seed",
        "episode_return",
        "references",
        "wall_seconds",
    ]
    assert list(result["episode_return"]) == ["mean", "standard_error", "per_task"]
    assert set(result["references"]) == {"random", "optimal", "source"}
    described = {name: result[name] for name in list(result)[:11]}
    assert described == {
        "environment": DARK_ROOM,
        "split": "test",
        "tasks": 3,
        "task_ids": ["goal-0-1", "goal-2-2", "goal-1-1"],
        "streams": 12,
        "episodes": 5,
        "context_length": 9,
        "environment_steps": 12 * 5 * 4,
        "action_selection": "sample",
        "temperature": 1.0,
        "seed": 2,
    }
    assert result["wall_seconds"] > 0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_result_says_what_return_was_asked_for(result):
    tokeniser = tiny_tokeniser(MultiDiscrete([3, 3]), Discrete(5), return_conditioned=True)
    where = {"environment": DARK_ROOM, "environment_kwargs": ROOM, "test_tasks": ROOM_TASKS}
    model = tiny_model(tokeniser, context_length=9, target_return=3.0, **where)
    for arguments, expected in (({}, 3.0), ({"target_return": -1.0}, -1.0)):
        found = evaluate(model, tokeniser, episodes=1, streams=3, **arguments)
        assert found["target_return"] == expected
        # Between what it was evaluated with, and nothing else is new.
        assert [name for name in found if name != "target_return"] == list(result)
    with pytest.raises(ValueError, match="not conditioned"):
        unconditioned = tiny_tokeniser(MultiDiscrete([3, 3]), Discrete(5))
        evaluate(tiny_model(unconditioned, **where), unconditioned, episodes=1, streams=3, target_return=1.0)


def test_a_results_mean_and_standard_error_are_over_tasks(room, result):
    tokeniser, model = room
    returns, _ = rollout(
        model, tokeniser, DARK_ROOM, ROOM_TASKS, episodes=5, streams=12, environment_kwargs=ROOM, seed=2
    )
    per_task = np.array(result["episode_return"]["per_task"])
    assert per_task.shape == (3, 5)
    np.testing.assert_allclose(per_task, returns.mean(axis=1))
    assert per_task.std() > 0
    np.testing.assert_allclose(result["episode_return"]["mean"], per_task.mean(axis=0))
    # Three tasks: the unbiased variance has two degrees of freedom.
    deviations = per_task - per_task.mean(axis=0)
    expected = np.sqrt((deviations**2).sum(axis=0) / 2 / 3)
    np.testing.assert_allclose(result["episode_return"]["standard_error"], expected)


def brute_force_returns(goal: list[int], size: int, steps: int) -> list[float]:
    """Returns of all sequences of actions in a Dark Room."""
    moves = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]
    returns = []
    for sequence in itertools.product(moves, repeat=steps):
        position, total = [size // 2, size // 2], 0.0
        for move in sequence:
            position = [min(max(position[axis] + move[axis], 0), size - 1) for axis in range(2)]
            total += position == goal
        returns.append(total)
    return returns


def test_the_references_are_exact(result):
    every_return = [brute_force_returns(task["goal"], 3, 4) for task in ROOM_TASKS]
    assert result["references"]["random"] == pytest.approx(np.mean(every_return))
    assert result["references"]["optimal"] == np.mean([max(returns) for returns in every_return])
    assert result["references"]["source"] is None


def test_the_same_seed_gives_the_same_result(room, result):
    tokeniser, model = room
    arguments = {"episodes": 5, "streams": 12}
    again = evaluate(model, tokeniser, seed=2, **arguments)
    assert {**again, "wall_seconds": 0} == {**result, "wall_seconds": 0}
    other = evaluate(model, tokeniser, seed=3, **arguments)
    assert other["episode_return"]["per_task"] != result["episode_return"]["per_task"]


def test_evaluating_draws_nothing_from_the_global_generators(room, result):
    tokeniser, model = room
    torch.manual_seed(123)
    np.random.seed(123)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = evaluate(model, tokeniser, episodes=5, streams=12, seed=2)
    assert again["episode_return"] == result["episode_return"]
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_what_is_given_goes_before_what_the_checkpoint_names(room):
    tokeniser, model = room
    given = evaluate(
        model,
        tokeniser,
        tasks=[{"goal": [0, 0]}],
        split="train",
        environment_kwargs={"size": 3, "episode_length": 2},
        episodes=3,
        action_selection="greedy",
        context_length=4,
    )
    assert (given["tasks"], given["task_ids"], given["split"]) == (1, ["goal-0-0"], "train")
    assert (given["streams"], given["environment_steps"]) == (64, 64 * 3 * 2)
    assert (given["action_selection"], given["context_length"]) == ("greedy", 4)
    assert given["references"]["optimal"] == 0.0 + max(brute_force_returns([0, 0], 3, 2))
    # A single task says nothing of the spread over tasks.
    assert given["episode_return"]["standard_error"] == [None] * 3


def test_an_environment_without_a_task_distribution_has_no_references(corridor):
    tokeniser, model = corridor
    found = evaluate(model, tokeniser, episodes=2, streams=4)
    assert found["references"] == {"random": None, "optimal": None, "source": None}
    assert [json.loads(name) for name in found["task_ids"]] == corridor_tasks(2)


def test_a_model_that_knows_no_environment_must_be_told():
    tokeniser = tiny_tokeniser()
    with pytest.raises(ValueError, match="environment=.*tasks="):
        evaluate(tiny_model(tokeniser), tokeniser, episodes=1)


def test_an_evaluation_leaves_the_weights_as_they_are(corridor):
    tokeniser, model = corridor
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, tokeniser, episodes=2, streams=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def histories(*rows: tuple[dict, list[float]]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "task": [json.dumps(task, sort_keys=True) for task, _ in rows],
            "episode_returns": [returns for _, returns in rows],
            "seed": list(range(len(rows))),
        }
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # Two learners on the first task, one on the second: tasks count alike, not learners.
        (
            [
                (ROOM_TASKS[0], [0.0, 1.0, 2.0]),
                (ROOM_TASKS[1], [4.0, 8.0, 4.0]),
                (ROOM_TASKS[0], [2.0, 3.0, 4.0]),
                ({"goal": [2, 0]}, [100.0, 100.0, 100.0]),  # not evaluated
            ],
            {"mean": [2.5, 5.0, 3.5]},
        ),
        # Episodes count as far as every learner got.
        ([(ROOM_TASKS[0], [1.0, 2.0, 3.0]), (ROOM_TASKS[1], [3.0, 4.0])], {"mean": [2.0, 3.0]}),
        ([({"goal": [2, 0]}, [1.0, 2.0])], None),
        ([(ROOM_TASKS[0], [])], None),
    ],
    ids=["tasks count alike", "different lengths", "other tasks", "no episode"],
)
def test_the_source_curve_is_that_of_the_tasks_evaluated(room, rows, expected):
    tokeniser, model = room
    found = evaluate(model, tokeniser, episodes=1, streams=3, histories=histories(*rows))
    assert found["references"]["source"] == expected


# ---- results on disk and in words


def hand_made_result(episodes: int = 3, **changes) -> dict:
    return {
        "environment": "Somewhere-v0",
        "split": "test",
        "tasks": 2,
        "streams": 64,
        "episode_return": {
            "mean": [0.5 * episode for episode in range(episodes)],
            "standard_error": [0.25] * episodes,
            "per_task": [[0.0] * episodes] * 2,
        },
        "references": {"random": 0.125, "optimal": 2.0, "source": {"mean": [0.0, 0.75]}},
        **changes,
    }


RESULTS = {
    "full": {},
    "no references": {"references": {"random": None, "optimal": None, "source": None}},
    "one task": {"tasks": 1, "episode_return": {"mean": [1.0, 2.0], "standard_error": [None, None], "per_task": [[]]}},
    "one episode": {"episode_return": {"mean": [1.0], "standard_error": [0.5], "per_task": [[1.0], [1.0]]}},
    "negative returns": {"episode_return": {"mean": [-3.0, -1.0], "standard_error": [0.5, 0.5], "per_task": [[]]}},
}


@pytest.mark.parametrize("changes", RESULTS.values(), ids=RESULTS)
def test_a_result_is_written_as_json_and_as_a_picture(changes, tmp_path):
    result = hand_made_result(**changes)
    write_result(result, tmp_path / "runs" / "new")
    assert json.loads((tmp_path / "runs" / "new" / "in_context_evaluation.json").read_text()) == result
    with Image.open(tmp_path / "runs" / "new" / "learning_curve.png") as picture:
        assert picture.format == "PNG" and picture.width > 600 and picture.height > 300
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 1  # something is drawn


def test_the_picture_shows_the_curve(tmp_path):
    low, high = (
        hand_made_result(episodes=3, episode_return={"mean": mean, "standard_error": [0.0] * 3, "per_task": [[]]})
        for mean in ([0.1, 0.1, 0.1], [1.9, 1.9, 1.9])
    )
    heights = []
    for name, result in (("low", low), ("high", high)):
        plot_learning_curve(result, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0] > 80).nonzero()[0]
        heights.append(np.median(blue))
    assert heights[1] < heights[0] - 50  # rows count from the top


def test_the_summary_shows_the_curve_in_figures():
    assert summary(hand_made_result()).splitlines() == [
        "  episode        1       2       3",
        "  return      0.00    0.50    1.00",
        "  +/-         0.25    0.25    0.25",
        "  source      0.00    0.75       -",
        "  random 0.12, optimal 2.00, 2 tasks, 64 streams",
    ]


def test_the_summary_does_without_what_is_unknown():
    result = hand_made_result(
        references={"random": None, "optimal": None, "source": None},
        episode_return={"mean": [1.0, 2.0], "standard_error": [None, None], "per_task": [[]]},
    )
    assert summary(result).splitlines() == [
        "  episode        1       2",
        "  return      1.00    2.00",
        "  +/-            -       -",
        "  2 tasks, 64 streams",
    ]


@pytest.mark.parametrize("episodes", [1, 2, 8, 9, 40, 1000])
def test_a_curve_is_shown_by_about_eight_episodes_from_first_to_last(episodes):
    named = named_episodes(episodes)
    assert named[0] == 0 and named[-1] == episodes - 1
    assert named == sorted(set(named)) and len(named) == min(episodes, 8)


# ---- checkpoints


def test_a_saved_checkpoint_is_evaluated_as_the_model_was(room, result, tmp_path):
    tokeniser, model = room
    model.save_pretrained(tmp_path)
    tokeniser.save_pretrained(tmp_path)
    for folder in (tmp_path, str(tmp_path)):
        loaded, loaded_tokeniser = load_checkpoint(folder)
        assert isinstance(loaded, AlgorithmDistillationModel) and isinstance(loaded_tokeniser, HistoryTokeniser)
    again = evaluate(loaded.cpu(), loaded_tokeniser, episodes=5, streams=12, seed=2)
    assert {**again, "wall_seconds": 0} == {**result, "wall_seconds": 0}


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'gpt2'.*'algodistill'") as error:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises((OSError, ValueError)) as error:
            load_checkpoint(folder)
        assert str(folder) in str(error.value)


def test_a_checkpoint_without_its_tokeniser_is_refused(room, tmp_path):
    _, model = room
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="preprocessor_config.json"):
        load_checkpoint(tmp_path)


def test_checkpoints_of_other_decoders_load_too(tmp_path):
    for decoder in ("gpt2", "mamba2"):
        tokeniser = tiny_tokeniser()
        model = tiny_model(tokeniser, decoder, environment=CORRIDOR, test_tasks=corridor_tasks(2))
        model.save_pretrained(tmp_path / decoder)
        tokeniser.save_pretrained(tmp_path / decoder)
        loaded, loaded_tokeniser = load_checkpoint(tmp_path / decoder)
        assert loaded.config.text_config.model_type == DECODERS[decoder]["model_type"]
        expected, found = (
            evaluate(*pair, episodes=3, streams=4)["episode_return"]
            for pair in ((model, tokeniser), (loaded.cpu(), loaded_tokeniser))
        )
        assert found == expected
