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

from algodistill.environments import (
    TASK_DISTRIBUTIONS,
    AdversarialBanditTasks,
    DarkKeyToDoorTasks,
    DarkRoomTasks,
    make_environments,
    split_tasks,
)


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
    assert list(split.tests) == ["test"] and split.tests["test"] == split.test
    every = [*split.train, *split.validation, *split.test]
    assert [task["number"] for task in every] == order[: train + validation + tested].tolist()
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


# What holds for all kinds of environments here.

KINDS = {
    "bandit": ("algodistill/AdversarialBandit-v0", {"arms": 5, "pulls": 6}),
    "room": (DARK_ROOM, {"size": 3, "episode_length": 6}),
    "hard": ("algodistill/DarkRoomHard-v0", {"size": 3, "episode_length": 6}),
    "key to door": ("algodistill/DarkKeyToDoor-v0", {"size": 3, "episode_length": 6}),
    "key to door, ending": ("algodistill/DarkKeyToDoor-v0", {"size": 2, "episode_length": 9, "ends_at_door": True}),
}
every_kind = pytest.mark.parametrize(("environment", "kwargs"), KINDS.values(), ids=KINDS.keys())


def kind_tasks(environment: str, kwargs: dict, count: int, seed: int = 0) -> list[dict]:
    return TASK_DISTRIBUTIONS[environment](**kwargs).sample(count, np.random.default_rng(seed))


@every_kind
@pytest.mark.parametrize("with_task", [False, True])
def test_check_env_finds_nothing_in_any_kind(environment, kwargs, with_task):
    task = kind_tasks(environment, kwargs, 1)[0] if with_task else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(environment, task=task, **kwargs).unwrapped)


@every_kind
def test_a_vector_of_one_is_the_single_environment(environment, kwargs):
    task = kind_tasks(environment, kwargs, 1, seed=3)[0]
    single = gymnasium.make(environment, task=task, **kwargs)
    envs = gymnasium.make_vec(environment, num_envs=1, tasks=[task], **kwargs)
    assert single.observation_space == envs.single_observation_space
    assert single.action_space == envs.single_action_space
    rng, rewarded = np.random.default_rng(0), 0
    for seed in range(30):
        ours, infos = envs.reset(seed=seed)
        observation, info = single.reset(seed=seed)
        np.testing.assert_array_equal(ours[0], observation)
        done = False
        while not done:
            action = int(rng.integers(envs.single_action_space.n))
            observation, reward, terminated, truncated, info = single.step(action)
            ours, rewards, terminations, truncations, infos = envs.step(np.array([action]))
            assert (rewards[0], terminations[0], truncations[0]) == (reward, terminated, truncated)
            done, rewarded = terminated or truncated, rewarded + reward
            assert ("final_obs" in infos) == ("final_info" in infos) == done
            seen = infos["final_obs"] if done else ours
            np.testing.assert_array_equal(seen[0], observation)
            seen = (infos["final_info"] if done else infos).get("source_observations")
            assert (seen is None) == ("source_observation" not in info)
            if seen is not None:
                np.testing.assert_array_equal(seen[0], info["source_observation"])
    assert rewarded > 0


@every_kind
def test_an_episode_ends_and_the_next_begins_in_the_same_step(environment, kwargs):
    num_envs = 6
    envs = gymnasium.make_vec(
        environment, num_envs=num_envs, tasks=kind_tasks(environment, kwargs, num_envs), **kwargs
    )
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    length = kwargs.get("episode_length") or kwargs["pulls"]
    observations, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observations)
    elapsed = np.zeros(num_envs, int)
    rng, ended = np.random.default_rng(0), 0
    for _ in range(4 * length):
        observations, _, terminations, truncations, infos = envs.step(rng.integers(envs.single_action_space.n, size=6))
        elapsed += 1
        np.testing.assert_array_equal(truncations, (elapsed == length) & ~terminations)
        assert not terminations.any() or kwargs.get("ends_at_door")
        dones = terminations | truncations
        assert envs.observation_space.contains(observations)
        if dones.any():
            np.testing.assert_array_equal(infos["_final_obs"], dones)
            np.testing.assert_array_equal(infos["_final_info"], dones)
            assert envs.observation_space.contains(infos["final_obs"])
        else:
            assert not {"final_obs", "final_info", "_final_obs", "_final_info"} & set(infos)
        elapsed[dones] = 0
        ended += dones.sum()
    assert ended >= 4 * num_envs


@every_kind
def test_single_environments_in_gymnasiums_vector_are_collected_from_alike(environment, kwargs):
    """`make_vec`'s own vectors of the single environment, as someone else's code would make them, agree on spaces."""
    ours = gymnasium.make_vec(environment, num_envs=2, **kwargs)
    theirs = gymnasium.make_vec(environment, num_envs=2, vectorization_mode="sync", **kwargs)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert theirs.reset(seed=0)[0].shape == ours.reset(seed=0)[0].shape


@every_kind
def test_same_seed_gives_the_same_episodes_and_another_one_others(environment, kwargs):
    def record(seed):
        envs = gymnasium.make_vec(environment, num_envs=20, **kwargs)
        rng, steps = np.random.default_rng(0), []
        steps.append(envs.reset(seed=seed)[0])
        steps.append(str(envs.unwrapped.get_tasks()))
        for _ in range(12):
            observations, rewards, *_ = envs.step(rng.integers(envs.single_action_space.n, size=20))
            steps += [observations, rewards]
        return str(steps)

    assert record(5) == record(5)
    assert record(5) != record(6)


@every_kind
def test_reset_draws_a_task_of_the_distribution_and_keeps_it(environment, kwargs):
    envs = gymnasium.make_vec(environment, num_envs=30, **kwargs).unwrapped
    assert envs.get_tasks() is None
    envs.reset(seed=1)
    tasks = envs.get_tasks()
    for task in tasks:
        envs.task_distribution.check(task)
    assert len({str(task) for task in tasks}) > 3
    for seed in (None, 2):
        envs.reset(seed=seed)
        assert envs.get_tasks() == tasks
    for _ in range(20):
        envs.step(np.zeros(30, int))
    assert envs.get_tasks() == tasks


@every_kind
def test_only_masked_environments_begin_anew(environment, kwargs):
    num_envs = 40
    envs = gymnasium.make_vec(environment, num_envs=num_envs, tasks=kind_tasks(environment, kwargs, 40), **kwargs)
    envs.reset(seed=0)
    length = kwargs.get("episode_length") or kwargs["pulls"]
    elapsed = np.zeros(num_envs, int)
    for _ in range(2):
        before, _, terminations, *_ = envs.step(np.zeros(num_envs, int))
        elapsed = np.where(terminations, 0, elapsed + 1)
    mask = np.arange(num_envs) % 2 == 0
    after, infos = envs.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    if "source_observations" in infos:
        assert (infos["source_observations"][mask, 2] == 0).all()
    elapsed[mask] = 0
    for _ in range(length):
        _, _, terminations, truncations, _ = envs.step(np.zeros(num_envs, int))
        elapsed += 1
        np.testing.assert_array_equal(truncations, (elapsed == length) & ~terminations)
        elapsed[terminations | truncations] = 0


@every_kind
@pytest.mark.parametrize("wrong", [[0, 5], [-1, 0], [0], [[0, 1]], 0])
def test_wrong_actions_are_refused(environment, kwargs, wrong):
    envs = gymnasium.make_vec(environment, num_envs=2, **kwargs)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="2 whole numbers from 0 to 4"):
        envs.step(np.array(wrong))


@pytest.mark.parametrize("wrong", [[0.0, 1.0], [0.5, 1.5], [math.nan, 0.0], ["up", "down"], [True, False]])
def test_actions_that_are_not_whole_numbers_are_refused(wrong):
    envs = gymnasium.make_vec(DARK_ROOM, num_envs=2)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="2 whole numbers from 0 to 4"):
        envs.step(np.array(wrong))


@every_kind
def test_step_before_reset_is_refused(environment, kwargs):
    envs = gymnasium.make_vec(environment, num_envs=2, **kwargs)
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(np.zeros(2, int))


@every_kind
def test_wrong_tasks_leave_the_old_ones(environment, kwargs):
    tasks = kind_tasks(environment, kwargs, 3)
    envs = gymnasium.make_vec(environment, num_envs=3, tasks=tasks, **kwargs).unwrapped
    with pytest.raises(ValueError, match="nonsense"):
        envs.set_tasks([*tasks[1:], {"nonsense": 1}])
    assert envs.get_tasks() == tasks
    envs.set_tasks(tasks[::-1])
    assert envs.get_tasks() == tasks[::-1]


@every_kind
@pytest.mark.parametrize("render_mode", ["rgb_array", "ansi"])
def test_every_kind_draws_itself(environment, kwargs, render_mode):
    tasks = kind_tasks(environment, kwargs, 2)
    envs = gymnasium.make_vec(environment, num_envs=2, tasks=tasks, render_mode=render_mode, **kwargs)
    envs.reset(seed=0)
    first = envs.render()
    assert len(first) == 2
    envs.step(np.array([1, 1]))
    envs.step(np.array([3, 3]))
    for before, after in zip(first, envs.render(), strict=True):
        assert str(before) != str(after) or (np.asarray(before) != np.asarray(after)).any()
        if render_mode == "rgb_array":
            assert after.dtype == np.uint8 and after.ndim == 3 and after.shape[2] == 3
        else:
            assert after.endswith("\n") and after.count("\n") == (kwargs.get("size") or kwargs["arms"])
    single = gymnasium.make(environment, task=tasks[0], render_mode=render_mode, **kwargs)
    single.reset(seed=0)
    assert type(single.render()) is type(first[0])
    assert gymnasium.make_vec(environment, num_envs=2, **kwargs).render() is None


@pytest.mark.parametrize("environment", [DARK_ROOM, "algodistill/DarkRoomHard-v0"])
def test_single_environment_shows_how_its_episode_ended(environment):
    env = gymnasium.make(environment, task={"goal": [0, 0]}, size=3, episode_length=2, render_mode="ansi")
    env.reset()
    env.step(3)
    assert env.step(1)[3]
    assert env.render() == "* . .\n. . .\n. . .\n"


# Dark Room, hard: what it registers, and that it pays once.

HARD = "algodistill/DarkRoomHard-v0"


def test_hard_is_a_room_of_17_that_pays_once():
    env = gymnasium.make(HARD, task={"goal": [8, 7]})
    assert env.observation_space.nvec.tolist() == [17, 17]
    assert env.reset()[0].tolist() == [8, 8]
    rewards = [env.step(action) for action in [1, 0, 2, 1] * 5]
    assert [step[1] for step in rewards] == [1] + [0] * 19
    assert [step[3] for step in rewards] == [False] * 19 + [True]
    distribution = TASK_DISTRIBUTIONS[HARD]()
    assert env.unwrapped.task_distribution.tasks() == distribution.tasks()
    assert len(distribution.tasks()) == 289


def test_reference_returns_of_the_papers_hard_room():
    tasks = TASK_DISTRIBUTIONS[HARD]()
    assert np.mean([tasks.optimal_return(task) for task in tasks.tasks()]) == 1
    assert np.mean([tasks.random_return(task) for task in tasks.tasks()]) == pytest.approx(0.037, abs=5e-4)


@pytest.mark.parametrize("make", [gymnasium.make, lambda *args, **kwargs: gymnasium.make_vec(*args, 1, **kwargs)])
def test_hards_kwargs_can_be_overruled(make):
    env = make(HARD, size=5, reward_once=False, episode_length=3).unwrapped
    distribution = TASK_DISTRIBUTIONS[HARD](size=5, reward_once=False, episode_length=3)
    for tasks in (env.task_distribution, distribution):
        assert (tasks.size, tasks.reward_once, tasks.episode_length) == (5, False, 3)
    assert TASK_DISTRIBUTIONS[HARD](episode_length=7).size == 17


def test_hards_source_sees_whether_it_was_paid_and_the_others_do_not():
    envs = make_environments(HARD, [{"goal": [1, 0]}, {"goal": [2, 2]}], size=3, episode_length=3)
    assert envs.source_observation_space == gymnasium.spaces.MultiDiscrete([3, 3, 2])
    assert envs.single_observation_space == gymnasium.spaces.MultiDiscrete([3, 3])
    observations, infos = envs.reset()
    assert infos["source_observations"].tolist() == [[1, 1, 0], [1, 1, 0]]
    steps = [envs.step(np.array(actions)) for actions in ([1, 0], [2, 4], [0, 2])]
    assert [step[0].tolist() for step in steps] == [[[1, 0], [1, 1]], [[1, 1], [2, 1]], [[1, 1], [1, 1]]]
    seen = [step[4]["source_observations"].tolist() for step in steps]
    assert seen == [[[1, 0, 1], [1, 1, 0]], [[1, 1, 1], [2, 1, 0]], [[1, 1, 0], [1, 1, 0]]]
    assert steps[-1][4]["final_info"]["source_observations"].tolist() == [[1, 1, 1], [2, 2, 1]]
    assert make_environments(DARK_ROOM, ALL_TASKS[:1]).source_observation_space is None


@pytest.mark.parametrize(
    ("environment", "distribution"),
    [
        ("algodistill/AdversarialBandit-v0", AdversarialBanditTasks),
        ("algodistill/DarkRoom-v0", DarkRoomTasks),
        ("algodistill/DarkKeyToDoor-v0", DarkKeyToDoorTasks),
    ],
)
def test_every_environment_has_its_distribution(environment, distribution):
    env = gymnasium.make(environment)
    assert type(env.unwrapped.task_distribution) is distribution
    assert isinstance(TASK_DISTRIBUTIONS[environment](), distribution)
    ours = {spec for spec in gymnasium.registry if spec.startswith("algodistill/")}
    # The tasks of CartPole are what it is made with.
    assert set(TASK_DISTRIBUTIONS) == ours - {"algodistill/CartPole-v0"}
