"""The environments, their tasks, and the exact returns that evaluation is measured against."""

import itertools
import math
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from algodistill.environments import TASK_DISTRIBUTIONS, DarkRoomTasks, make_environments, split_tasks


DARK_ROOM = "algodistill/DarkRoom-v0"
ALL_TASKS = DarkRoomTasks().tasks()

ROOMS = [
    {},
    {"reward_once": True},
    {"size": 5, "episode_length": 7},
    {"size": 4, "episode_length": 9, "start": [3, 0], "reward_once": True},
    {"size": 2, "episode_length": 1, "start": [0, 1]},
    {"size": 1, "episode_length": 3},
]


def distinct_tasks(room: dict, count: int, seed: int = 0) -> list[dict]:
    tasks = DarkRoomTasks(**room).tasks()
    return [tasks[index] for index in np.random.default_rng(seed).integers(len(tasks), size=count)]


# check_env itself refuses episodes of a single step.
@pytest.mark.parametrize("room", [room for room in ROOMS if room.get("episode_length") != 1])
def test_check_env_finds_nothing(room):
    task = distinct_tasks(room, 1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(DARK_ROOM, task=task, **room).unwrapped)


@pytest.mark.parametrize("room", ROOMS)
def test_vector_env_equals_single_ones_step_by_step(room):
    num_envs, steps, episode_length = 7, 83, room.get("episode_length", 20)
    tasks = distinct_tasks(room, num_envs)
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=num_envs, tasks=tasks, **room)
    singles = [gymnasium.make(DARK_ROOM, task=task, **room) for task in tasks]
    rng = np.random.default_rng(1)

    observations, _ = envs.reset(seed=3)
    np.testing.assert_array_equal(observations, [single.reset(seed=3)[0] for single in singles])
    episodes = total_reward = 0
    for _ in range(steps):
        actions = rng.integers(5, size=num_envs)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        assert envs.observation_space.contains(observations)
        for i, single in enumerate(singles):
            observation, reward, terminated, truncated, _ = single.step(actions[i])
            assert (rewards[i], terminations[i], truncations[i]) == (reward, terminated, truncated)
            assert not terminated
            if truncated:
                assert infos["_final_obs"][i]
                np.testing.assert_array_equal(infos["final_obs"][i], observation)
                observation, _ = single.reset()
                episodes += 1
            np.testing.assert_array_equal(observations[i], observation)
            total_reward += reward
        assert ("final_obs" in infos) == truncations.any()
    assert episodes == steps // episode_length * num_envs
    assert total_reward > 0


def test_vector_env_equals_gymnasiums_own_vector_of_single_ones():
    tasks = distinct_tasks({}, 4)
    envs = make_environments(DARK_ROOM, tasks)
    reference = SyncVectorEnv(
        [lambda task=task: gymnasium.make(DARK_ROOM, task=task) for task in tasks],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert envs.metadata["autoreset_mode"] == reference.metadata["autoreset_mode"]
    assert envs.observation_space == reference.observation_space
    assert envs.action_space == reference.action_space
    np.testing.assert_array_equal(envs.reset(seed=0)[0], reference.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(45):
        actions = rng.integers(5, size=4)
        ours, theirs = envs.step(actions), reference.step(actions)
        for ours_part, theirs_part in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(ours_part, theirs_part)
        assert ("final_obs" in ours[4]) == ("final_obs" in theirs[4])
        if "final_obs" in ours[4]:
            np.testing.assert_array_equal(ours[4]["final_obs"], np.stack(list(theirs[4]["final_obs"])))
    reference.close()


@pytest.mark.parametrize(
    ("action", "expected"), [(0, [2, 2]), (1, [2, 1]), (2, [2, 3]), (3, [1, 2]), (4, [3, 2])], ids="0udlr"
)
def test_actions_move_as_they_are_named(action, expected):
    env = gymnasium.make(DARK_ROOM, task={"goal": [0, 0]}, size=5)
    assert env.reset()[0].tolist() == [2, 2]
    assert env.step(action)[0].tolist() == expected


def test_walls_stop_the_agent():
    env = gymnasium.make(DARK_ROOM, task={"goal": [0, 0]}, size=3, start=[0, 2])
    env.reset()
    assert env.step(3)[0].tolist() == [0, 2]
    assert env.step(2)[0].tolist() == [0, 2]


def test_reward_comes_on_every_step_on_the_goal_or_once_an_episode():
    for reward_once, expected in ((False, [0, 1, 1, 0, 1] * 2), (True, [0, 1, 0, 0, 0] * 2)):
        env = gymnasium.make_vec(
            DARK_ROOM, num_envs=1, tasks=[{"goal": [2, 0]}], size=3, episode_length=5, reward_once=reward_once
        )
        env.reset()
        # right, up, stay, left, right: the second arrival pays again only without `reward_once`
        assert [env.step(np.array([action]))[1][0] for action in [4, 1, 0, 3, 4] * 2] == expected


def test_returned_arrays_do_not_change_with_later_steps():
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=2, tasks=ALL_TASKS[:2], episode_length=2)
    first, _ = envs.reset()
    kept = first.copy()
    second, *_ = envs.step(np.array([1, 4]))
    second_kept = second.copy()
    final = envs.step(np.array([1, 4]))[4]["final_obs"]
    final_kept = final.copy()
    envs.step(np.array([2, 2]))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, second_kept)
    np.testing.assert_array_equal(final, final_kept)


def test_reset_mask_resets_only_the_rooms_it_names():
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=3, tasks=ALL_TASKS[:3], episode_length=3)
    envs.reset()
    envs.step(np.array([1, 1, 1]))
    observations, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert observations.tolist() == [[4, 3], [4, 4], [4, 3]]
    assert envs.step(np.zeros(3, int))[3].tolist() == [False, False, False]
    assert envs.step(np.zeros(3, int))[3].tolist() == [True, False, True]


def test_single_env_draws_the_task_that_a_vector_of_one_draws():
    drawn = set()
    for seed in range(8):
        env, envs = gymnasium.make(DARK_ROOM), gymnasium.make_vec(DARK_ROOM, num_envs=1)
        assert env.unwrapped.get_task() is None and envs.unwrapped.get_tasks() is None
        env.reset(seed=seed)
        envs.reset(seed=seed)
        task = env.unwrapped.get_task()
        assert [task] == envs.unwrapped.get_tasks()
        assert task in ALL_TASKS
        drawn.add(str(task))
    assert len(drawn) > 3


@pytest.mark.parametrize("task", [None, {"goal": [1, 2]}])
def test_reset_never_changes_the_task(task):
    env = gymnasium.make(DARK_ROOM, task=task)
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=3, tasks=None if task is None else [task] * 3)
    env.reset(seed=0)
    envs.reset(seed=0)
    before, all_before = env.unwrapped.get_task(), envs.unwrapped.get_tasks()
    assert task is None or before == task
    for seed in (None, 1, 2, 3):
        env.reset(seed=seed)
        envs.reset(seed=seed)
        assert env.unwrapped.get_task() == before
        assert envs.unwrapped.get_tasks() == all_before


def test_options_and_set_task_change_the_task_and_what_pays():
    env = gymnasium.make(DARK_ROOM, task={"goal": [4, 3]})
    env.reset()
    assert env.step(1)[1] == 1
    env.reset(options={"task": {"goal": [4, 5]}})
    assert env.unwrapped.get_task() == {"goal": [4, 5]}
    assert env.step(1)[1] == 0
    env.reset()
    assert env.step(2)[1] == 1
    env.unwrapped.set_task({"goal": [4, 4]})
    assert env.unwrapped.get_task() == {"goal": [4, 4]}
    assert env.step(1)[1] == 1

    envs = gymnasium.make_vec(DARK_ROOM, num_envs=2, tasks=ALL_TASKS[:2])
    envs.reset(options={"tasks": ALL_TASKS[5:7]})
    assert envs.unwrapped.get_tasks() == ALL_TASKS[5:7]
    envs.unwrapped.set_tasks(ALL_TASKS[2:4])
    assert envs.unwrapped.get_tasks() == ALL_TASKS[2:4]


WRONG_TASKS = {
    "outside": ({"goal": [9, 0]}, r"\[9, 0\]"),
    "negative": ({"goal": [0, -1]}, r"\[0, -1\]"),
    "fraction": ({"goal": [1.5, 2]}, r"\[1.5, 2\]"),
    "float": ({"goal": [1.0, 2.0]}, r"\[1.0, 2.0\]"),
    "infinite": ({"goal": [math.inf, 2]}, r"\[inf, 2\]"),
    "nan": ({"goal": [math.nan, 2]}, r"\[nan, 2\]"),
    "text": ({"goal": "12"}, "'12'"),
    "three": ({"goal": [1, 2, 3]}, r"\[1, 2, 3\]"),
    "number": ({"goal": 4}, "goal 4 "),
    "wrong key": ({"target": [1, 2]}, "target"),
    "one key more": ({"goal": [1, 2], "door": [0, 0]}, "door"),
    "not a dict": ([1, 2], r"\[1, 2\]"),
}


@pytest.mark.parametrize(("task", "named"), WRONG_TASKS.values(), ids=WRONG_TASKS.keys())
def test_wrong_task_is_refused_by_name_wherever_it_enters(task, named):
    tasks = DarkRoomTasks()
    env = gymnasium.make(DARK_ROOM, task={"goal": [1, 1]})
    for enter in (
        lambda: gymnasium.make(DARK_ROOM, task=task),
        lambda: gymnasium.make_vec(DARK_ROOM, num_envs=2, tasks=[{"goal": [1, 1]}, task]),
        lambda: env.reset(options={"task": task}),
        lambda: env.unwrapped.set_task(task),
        lambda: tasks.check(task),
        lambda: tasks.task_id(task),
        lambda: tasks.random_return(task),
        lambda: tasks.optimal_return(task),
    ):
        with pytest.raises(ValueError, match=named):
            enter()
    assert env.unwrapped.get_task() == {"goal": [1, 1]}


@pytest.mark.parametrize(("num_envs", "count"), [(3, 2), (2, 3), (1, 0)])
def test_one_task_an_environment_or_an_error(num_envs, count):
    with pytest.raises(ValueError, match=f"{count} tasks.* {num_envs} environments"):
        gymnasium.make_vec(DARK_ROOM, num_envs=num_envs, tasks=ALL_TASKS[:count])
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=num_envs)
    with pytest.raises(ValueError, match=f"{count} tasks.* {num_envs} environments"):
        envs.reset(options={"tasks": ALL_TASKS[:count]})


@pytest.mark.parametrize(
    ("room", "named"),
    [
        ({"size": 0}, "size=0"),
        ({"episode_length": 0}, "episode_length=0"),
        ({"start": [9, 0]}, r"start \[9, 0\]"),
        ({"start": [0]}, r"start \[0\]"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_wrong_room_is_refused_by_name(room, named):
    with pytest.raises(ValueError, match=named):
        # Not through `make`, which has its own word on render modes.
        gymnasium.make_vec(DARK_ROOM, num_envs=1, **room)


@pytest.mark.parametrize("actions", [[0, 5], [-1, 0], [0], [[0, 1]]])
def test_wrong_actions_are_refused(actions):
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=2, tasks=ALL_TASKS[:2])
    envs.reset()
    with pytest.raises(ValueError, match="actions"):
        envs.step(np.array(actions))


@pytest.mark.parametrize("reward_once", [False, True])
@pytest.mark.parametrize(("size", "start"), [(2, None), (3, None), (3, [0, 2])])
def test_random_return_equals_the_mean_over_all_action_sequences(size, start, reward_once):
    room = {"size": size, "start": start, "reward_once": reward_once, "episode_length": 4}
    sequences = np.array(list(itertools.product(range(5), repeat=4)))
    tasks = DarkRoomTasks(**room)
    for task in tasks.tasks():
        envs = gymnasium.make_vec(DARK_ROOM, num_envs=len(sequences), tasks=[task] * len(sequences), **room)
        envs.reset()
        total = sum(envs.step(actions)[1].sum() for actions in sequences.T)
        assert tasks.random_return(task) == pytest.approx(total / len(sequences), abs=1e-12)


@pytest.mark.parametrize("goal", [[4, 4], [4, 3], [5, 6], [0, 8]])
@pytest.mark.parametrize("reward_once", [False, True])
def test_random_return_agrees_with_monte_carlo(goal, reward_once):
    episodes = 10_000
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=episodes, tasks=[{"goal": goal}] * episodes, reward_once=reward_once)
    rng = np.random.default_rng(0)
    envs.reset()
    returns = np.zeros(episodes)
    for _ in range(20):
        returns += envs.step(rng.integers(5, size=episodes))[1]
    exact = DarkRoomTasks(reward_once=reward_once).random_return({"goal": goal})
    assert exact > 0
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(episodes) + 1e-3


@pytest.mark.parametrize("room", [*ROOMS, {"episode_length": 3}])
def test_optimal_return_is_that_of_a_shortest_path(room):
    tasks = DarkRoomTasks(**room)
    for task in tasks.tasks():
        env = gymnasium.make(DARK_ROOM, task=task, **room)
        (x, y), _ = env.reset()
        goal_x, goal_y = task["goal"]
        total, truncated = 0.0, False
        while not truncated:
            if x != goal_x:
                action = 4 if x < goal_x else 3
            elif y != goal_y:
                action = 2 if y < goal_y else 1
            else:
                action = 0
            (x, y), reward, _, truncated, _ = env.step(action)
            total += reward
        assert tasks.optimal_return(task) == total


def test_reference_returns_of_the_papers_room():
    tasks = DarkRoomTasks()
    assert np.mean([tasks.random_return(task) for task in ALL_TASKS]) == pytest.approx(0.2469, abs=5e-5)
    assert np.mean([tasks.optimal_return(task) for task in ALL_TASKS]) == pytest.approx(16.5432, abs=5e-5)


def test_task_distribution_lists_row_by_row_under_stable_names():
    tasks = TASK_DISTRIBUTIONS[DARK_ROOM](size=3)
    assert tasks.tasks()[:4] == [{"goal": [0, 0]}, {"goal": [1, 0]}, {"goal": [2, 0]}, {"goal": [0, 1]}]
    assert len(tasks.tasks()) == 9
    assert tasks.task_id({"goal": [2, 1]}) == "goal-2-1"
    assert len({tasks.task_id(task) for task in tasks.tasks()}) == 9


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_split_divides_the_permuted_tasks(data):
    count = data.draw(st.integers(1, 100), label="tasks")
    train = data.draw(st.integers(1, count), label="train")
    validation = data.draw(st.integers(0, count - train), label="validation")
    test = data.draw(st.none() | st.integers(0, count - train - validation), label="test")
    seed = data.draw(st.integers(0, 2**32), label="seed")
    tasks = [{"number": number} for number in range(count)]
    sizes = {"train_tasks": train, "validation_tasks": validation, "test_tasks": test}

    split = split_tasks(tasks, split_seed=seed, **sizes)
    tested = count - train - validation if test is None else test
    assert (len(split.train), len(split.validation), len(split.test)) == (train, validation, tested)
    order = np.random.default_rng(seed).permutation(count)
    assert [task["number"] for part in split for task in part] == order[: train + validation + tested].tolist()
    assert split == split_tasks(tasks, split_seed=seed, **sizes)
    # The training tasks do not depend on how the others are divided.
    assert split.train == split_tasks(tasks, split_seed=seed, train_tasks=train).train


def test_split_of_the_dark_room_preset():
    split = split_tasks(ALL_TASKS, split_seed=1, train_tasks=65)
    assert (len(split.train), len(split.validation), len(split.test)) == (65, 0, 16)
    assert split.test == [ALL_TASKS[index] for index in np.random.default_rng(1).permutation(81)[65:]]
    assert split != split_tasks(ALL_TASKS, split_seed=2, train_tasks=65)


@pytest.mark.parametrize(
    "sizes",
    [
        {"train_tasks": 0},
        {"train_tasks": 82},
        {"train_tasks": 80, "validation_tasks": 2},
        {"train_tasks": 80, "validation_tasks": -1},
        {"train_tasks": 80, "test_tasks": 2},
        {"train_tasks": 80, "test_tasks": -1},
    ],
)
def test_impossible_split_is_refused(sizes):
    with pytest.raises(ValueError, match=f"81 tasks .*train_tasks={sizes['train_tasks']}"):
        split_tasks(ALL_TASKS, split_seed=1, **sizes)


def test_picture_shows_agent_and_goal():
    env = gymnasium.make(DARK_ROOM, task={"goal": [0, 0]}, size=3, render_mode="rgb_array")
    env.reset()
    first = env.render()
    assert first.dtype == np.uint8
    assert first.shape[0] == first.shape[1] > 0 and first.shape[2] == 3
    np.testing.assert_array_equal(first, env.render())

    def changed_cells(before, after):
        """Cells (x, y) in which two pictures differ."""
        rows, columns = np.nonzero((before != after).any(axis=-1))
        cell = before.shape[0] / 3
        return {(int(x), int(y)) for x, y in zip(columns // cell, rows // cell, strict=True)}

    env.step(4)
    right = env.render()
    assert changed_cells(first, right) == {(1, 1), (2, 1)}
    env.unwrapped.set_task({"goal": [0, 2]})
    assert changed_cells(right, env.render()) == {(0, 0), (0, 2)}
    away = env.render()
    env.unwrapped.set_task({"goal": [2, 1]})
    assert changed_cells(away, env.render()) == {(0, 2), (2, 1)}  # the agent stands on the goal


def test_text_shows_agent_and_goal():
    env = gymnasium.make(DARK_ROOM, task={"goal": [2, 1]}, size=3, render_mode="ansi")
    env.reset()
    assert env.render() == ". . .\n. A G\n. . .\n"
    env.step(4)
    assert env.render() == ". . .\n. . *\n. . .\n"
    env.step(2)
    assert env.render() == ". . .\n. . G\n. . A\n"


def test_vector_env_draws_every_room():
    envs = gymnasium.make_vec(
        DARK_ROOM, num_envs=2, tasks=[{"goal": [0, 0]}, {"goal": [1, 0]}], size=2, render_mode="ansi"
    )
    envs.reset()
    assert envs.render() == ("G .\n. A\n", ". G\n. A\n")


def test_unregistered_environment_is_named():
    with pytest.raises(ValueError, match="algodistill/LightRoom-v0"):
        make_environments("algodistill/LightRoom-v0", [{}])
