"""Dark Key-to-Door: its rules against a naive implementation of the paper's, and its exact reference returns."""

import itertools

import gymnasium
import numpy as np
import pytest

from algodistill.environments import DarkKeyToDoorTasks, make_environments
from algodistill.sources import TabularQLearning


KEY_TO_DOOR = "algodistill/DarkKeyToDoor-v0"
MOVES = {0: (0, 0), 1: (0, -1), 2: (0, 1), 3: (-1, 0), 4: (1, 0)}


class NaiveKeyToDoor:
    """One room in plain Python, after Laskin et al. (2022), section 4.1."""

    def __init__(self, task, size, episode_length, ends_at_door=False):
        self.key, self.door = tuple(task["key"]), tuple(task["door"])
        self.size, self.episode_length, self.ends_at_door = size, episode_length, ends_at_door

    def reset(self, start):
        self.cell, self.elapsed, self.phase = tuple(start), 0, 0

    def step(self, action):
        self.cell = tuple(min(max(c + d, 0), self.size - 1) for c, d in zip(self.cell, MOVES[action], strict=True))
        self.elapsed += 1
        reward = 0
        if self.phase == 0:
            if self.cell == self.key:
                reward, self.phase = 1, 1
        elif self.phase == 1 and self.cell == self.door:
            reward, self.phase = 1, 2
        terminated = bool(self.ends_at_door and self.phase == 2)
        return reward, terminated, not terminated and self.elapsed == self.episode_length


ROOMS = [
    {},
    {"size": 3, "episode_length": 12},
    {"size": 3, "episode_length": 25, "ends_at_door": True},
    {"size": 2, "episode_length": 1},
    {"size": 1, "episode_length": 3},
    {"size": 1, "episode_length": 3, "ends_at_door": True},
]


def same_cell_first(size, count):
    """Tasks, half of which have the key on the door's cell."""
    tasks = DarkKeyToDoorTasks(size=size).sample(count, np.random.default_rng(0))
    return [{"key": task["key"], "door": task["key"]} if i % 2 else task for i, task in enumerate(tasks)]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_follow_the_papers_rules(room):
    num_envs, size, length = 24, room.get("size", 9), room.get("episode_length", 50)
    tasks = same_cell_first(size, num_envs)
    envs = make_environments(KEY_TO_DOOR, tasks, **room)
    naive = [NaiveKeyToDoor(task, size, length, room.get("ends_at_door", False)) for task in tasks]
    observations, infos = envs.reset(seed=0)
    for i, one in enumerate(naive):
        one.reset(observations[i].tolist())
    assert infos["source_observations"].tolist() == [[*one.cell, 0] for one in naive]
    rng, paid, ends, phases = np.random.default_rng(1), 0, 0, set()
    for _ in range(160):
        actions = rng.integers(5, size=num_envs)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        for i, one in enumerate(naive):
            assert (rewards[i], terminations[i], truncations[i]) == one.step(int(actions[i]))
            paid += rewards[i]
            phases.add(one.phase)
            last, seen = observations, infos
            if terminations[i] or truncations[i]:
                ends += 1
                last, seen = infos["final_obs"], infos["final_info"]
            assert tuple(last[i]) == one.cell
            assert seen["source_observations"][i].tolist() == [*one.cell, one.phase]
            if terminations[i] or truncations[i]:
                one.reset(observations[i].tolist())
                assert infos["source_observations"][i].tolist() == [*one.cell, 0]
    assert ends >= num_envs * (160 // length)
    # In a room of one cell, the first step finds the key.
    assert paid > 0 and phases == {0, 1, 2} - ({0} if size == 1 else set()) - ({2} if length == 1 else set())


def test_episodes_start_evenly_from_all_cells():
    count = 40_000
    envs = gymnasium.make_vec(KEY_TO_DOOR, num_envs=count, size=3, episode_length=1)
    for starts in (envs.reset(seed=0)[0], envs.step(np.zeros(count, int))[0]):
        shares = np.bincount(starts @ [1, 3], minlength=9) / count
        np.testing.assert_allclose(shares, 1 / 9, atol=0.008)


def walk(task, start, actions, **room):
    """Rewards and terminations of one episode that starts where it is told to."""
    env = gymnasium.make(KEY_TO_DOOR, task=task, **room)
    seed = next(seed for seed in range(10_000) if env.reset(seed=seed)[0].tolist() == start)
    env.reset(seed=seed)
    steps = [env.step(action) for action in actions]
    return [step[1] for step in steps], [step[2] for step in steps]


STAY, UP, DOWN, LEFT, RIGHT = range(5)


@pytest.mark.parametrize(
    ("task", "start", "actions", "rewards"),
    [
        ({"key": [1, 0], "door": [2, 0]}, [0, 0], [RIGHT, RIGHT, LEFT, RIGHT], [1, 1, 0, 0]),
        # The door before the key pays nothing, and neither does coming back to the key.
        ({"key": [1, 0], "door": [2, 0]}, [2, 0], [STAY, LEFT, STAY, RIGHT], [0, 1, 0, 1]),
        # Starting on the key is not finding it: a step that ends there is.
        ({"key": [0, 0], "door": [1, 0]}, [0, 0], [RIGHT, LEFT, RIGHT, STAY], [0, 1, 1, 0]),
        ({"key": [0, 0], "door": [1, 0]}, [0, 0], [LEFT, RIGHT], [1, 1]),
        # With the key on the door's cell, the same step does not do both.
        ({"key": [1, 0], "door": [1, 0]}, [0, 0], [RIGHT, STAY, STAY, LEFT], [1, 1, 0, 0]),
        ({"key": [1, 0], "door": [1, 0]}, [0, 0], [RIGHT, LEFT, RIGHT, STAY], [1, 0, 1, 0]),
    ],
)
def test_key_pays_once_and_then_the_door_once(task, start, actions, rewards):
    assert walk(task, start, actions, size=3)[0] == rewards
    assert not any(walk(task, start, actions, size=3)[1])
    opened = [sum(rewards[: step + 1]) == 2 and reward == 1 for step, reward in enumerate(rewards)]
    last = opened.index(True) + 1
    assert walk(task, start, actions[:last], size=3, ends_at_door=True) == (rewards[:last], opened[:last])


def test_opening_the_door_with_the_last_step_terminates_and_does_not_truncate():
    envs = make_environments(KEY_TO_DOOR, [{"key": [0, 0], "door": [0, 0]}] * 2, size=1, episode_length=2)
    ending = make_environments(
        KEY_TO_DOOR, [{"key": [0, 0], "door": [0, 0]}] * 2, size=1, episode_length=2, ends_at_door=True
    )
    for one, terminates in ((envs, False), (ending, True)):
        one.reset(seed=0)
        one.step(np.zeros(2, int))
        _, rewards, terminations, truncations, _ = one.step(np.zeros(2, int))
        assert rewards.tolist() == [1, 1]
        assert terminations.tolist() == [terminates] * 2 and truncations.tolist() == [not terminates] * 2


@pytest.mark.parametrize(
    "room",
    [
        {"size": 2, "episode_length": 4},
        {"size": 2, "episode_length": 1},
        {"size": 3, "episode_length": 3},
        {"size": 1, "episode_length": 2},
        {"size": 2, "episode_length": 4, "ends_at_door": True},
    ],
)
def test_reference_returns_equal_enumeration_of_all_starts_and_action_sequences(room):
    tasks, size, length = DarkKeyToDoorTasks(**room), room["size"], room["episode_length"]
    sequences = list(itertools.product(range(5), repeat=length))
    for task in tasks.tasks():
        naive, random, optimal = NaiveKeyToDoor(task, size, length), [], []
        for start in itertools.product(range(size), repeat=2):
            returns = []
            for actions in sequences:
                naive.reset(start)
                returns.append(sum(naive.step(action)[0] for action in actions))
            random.append(np.mean(returns))
            optimal.append(max(returns))
        assert tasks.random_return(task) == pytest.approx(np.mean(random), abs=1e-12)
        assert tasks.optimal_return(task) == pytest.approx(np.mean(optimal), abs=1e-12)


@pytest.mark.parametrize(
    "task",
    [{"key": [4, 4], "door": [4, 5]}, {"key": [0, 0], "door": [8, 8]}, {"key": [2, 7], "door": [2, 7]}],
    ids=str,
)
def test_random_return_agrees_with_monte_carlo(task):
    episodes = 15_000
    envs = make_environments(KEY_TO_DOOR, [task] * episodes)
    rng, returns = np.random.default_rng(0), np.zeros(episodes)
    envs.reset(seed=0)
    for _ in range(50):
        returns += envs.step(rng.integers(5, size=episodes))[1]
    exact = DarkKeyToDoorTasks().random_return(task)
    assert exact > 0.02
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(episodes)


def test_reference_returns_of_the_papers_rooms():
    tasks = DarkKeyToDoorTasks()
    every = tasks.tasks()
    assert len(every) == 9**4
    assert np.mean([tasks.random_return(task) for task in every]) == pytest.approx(0.25, abs=0.005)
    assert {tasks.optimal_return(task) for task in every} == {2.0}


def test_tasks_are_listed_key_by_key_under_names_of_their_own():
    tasks = DarkKeyToDoorTasks(size=2)
    listed = tasks.tasks()
    assert listed[:2] == [{"key": [0, 0], "door": [0, 0]}, {"key": [0, 0], "door": [1, 0]}]
    assert listed[4] == {"key": [1, 0], "door": [0, 0]}
    assert tasks.task_id({"key": [1, 0], "door": [0, 1]}) == "key-1-0-door-0-1"
    assert len({tasks.task_id(task) for task in listed}) == len(listed) == 16


def test_listed_tasks_share_no_cells():
    listed = DarkKeyToDoorTasks(size=2).tasks()
    listed[0]["key"][0] = 7
    assert all(task["door"] != [7, 0] for task in listed) and all(task["key"] != [7, 0] for task in listed[1:])


def test_split_keeps_as_many_test_tasks_as_are_asked_for():
    split = DarkKeyToDoorTasks().split(split_seed=1, train_tasks=2000, validation_tasks=64, test_tasks=64)
    assert (len(split.train), len(split.validation), len(split.test)) == (2000, 64, 64)
    names = {str(task) for part in (split.train, split.validation, split.test) for task in part}
    assert len(names) == 2128
    everything = DarkKeyToDoorTasks().split(split_seed=1, train_tasks=2000, validation_tasks=64)
    assert everything.train == split.train and everything.test[:64] == split.test
    assert len(everything.test) == 6561 - 2064


WRONG_TASKS = {
    "no door": ({"key": [0, 0]}, "'key': \\[0, 0\\]}"),
    "one key more": ({"key": [0, 0], "door": [1, 1], "goal": [0, 0]}, "goal"),
    "key outside": ({"key": [3, 0], "door": [1, 1]}, r"key \[3, 0\]"),
    "door outside": ({"key": [0, 0], "door": [1, -1]}, r"door \[1, -1\]"),
    "fraction": ({"key": [0.5, 0], "door": [1, 1]}, r"key \[0.5, 0\]"),
    "three": ({"key": [0, 0], "door": [1, 1, 1]}, r"door \[1, 1, 1\]"),
    "no dict": ([[0, 0], [1, 1]], r"\[\[0, 0\], \[1, 1\]\]"),
}


@pytest.mark.parametrize(("task", "named"), WRONG_TASKS.values(), ids=WRONG_TASKS.keys())
def test_wrong_task_is_refused_by_name_wherever_it_enters(task, named):
    tasks = DarkKeyToDoorTasks(size=3)
    env = gymnasium.make(KEY_TO_DOOR, task={"key": [0, 0], "door": [1, 1]}, size=3)
    for enter in (
        lambda: gymnasium.make(KEY_TO_DOOR, task=task, size=3),
        lambda: make_environments(KEY_TO_DOOR, [task], size=3),
        lambda: env.reset(options={"task": task}),
        lambda: env.unwrapped.set_task(task),
        lambda: tasks.task_id(task),
        lambda: tasks.random_return(task),
        lambda: tasks.optimal_return(task),
    ):
        with pytest.raises(ValueError, match=named):
            enter()
    assert env.unwrapped.get_task() == {"key": [0, 0], "door": [1, 1]}


@pytest.mark.parametrize(
    ("room", "named"),
    [
        pytest.param(
            {"size": 0},
            "size=0",
        ),
        ({"size": "3"}, "size='3'"),
        ({"episode_length": 0}, "episode_length=0"),
        ({"episode_length": 2.5}, "episode_length=2.5"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_wrong_room_is_refused_by_name(room, named):
    with pytest.raises(ValueError, match=named):
        gymnasium.make_vec(KEY_TO_DOOR, num_envs=1, **room)


def test_text_shows_how_far_an_episode_has_come():
    env = gymnasium.make(KEY_TO_DOOR, task={"key": [1, 0], "door": [2, 0]}, size=3, render_mode="ansi")
    seed = next(seed for seed in range(100) if env.reset(seed=seed)[0].tolist() == [0, 0])
    env.reset(seed=seed)
    assert env.render() == "A K D\n. . .\n. . .\n"
    pictures = []
    for action in (RIGHT, DOWN, UP):
        env.step(action)
        pictures.append(env.render().splitlines()[0])
    assert pictures == [". * D", ". . D", ". * D"]


def test_picture_loses_the_key_and_opens_the_door():
    env = gymnasium.make(KEY_TO_DOOR, task={"key": [1, 0], "door": [2, 0]}, size=3, render_mode="rgb_array")
    seed = next(seed for seed in range(100) if env.reset(seed=seed)[0].tolist() == [0, 0])
    env.reset(seed=seed)

    def corner(cell):
        """A cell's colour, away from its middle, where the agent is drawn."""
        picture = env.render()
        side = picture.shape[0] // 3
        return tuple(picture[2, cell * side + 2].tolist())

    floor, key, door = corner(0), corner(1), corner(2)
    assert len({floor, key, door}) == 3
    env.step(RIGHT)
    assert (corner(1), corner(2)) == (floor, door)
    env.step(RIGHT)
    assert corner(2) not in (floor, door)


def returns_of_q_learning(shown, size=5, episodes=400):
    """Mean return per episode of Q-learners that see, or do not see, whether they have the key."""
    tasks = DarkKeyToDoorTasks(size=size).sample(64, np.random.default_rng(0))
    tasks = [task for task in tasks if task["key"] != task["door"]][:48]
    envs = make_environments(KEY_TO_DOOR, tasks, size=size, episode_length=20)
    space = envs.source_observation_space if shown else envs.single_observation_space
    learner = TabularQLearning(
        space, envs.single_action_space, len(tasks), np.random.default_rng(0), learning_rate=0.5, initial_value=0.5,
        epsilon_start=0.3, epsilon_end=0.05, epsilon_episodes=200,
    )  # fmt: skip
    seen, infos = envs.reset(seed=0)
    seen = infos["source_observations"] if shown else seen
    returns = np.zeros(episodes)
    for step in range(episodes * 20):
        actions = learner.act(seen)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        next_seen = infos["source_observations"] if shown else observations
        reached = next_seen
        if truncations.any():
            reached = infos["final_info"]["source_observations"] if shown else infos["final_obs"]
        learner.learn(seen, actions, rewards, reached, terminations, truncations)
        seen = next_seen
        returns[step // 20] += rewards.mean()
    return returns


def test_memoryless_source_needs_to_see_whether_it_has_the_key():
    with_it, without = (returns_of_q_learning(shown)[-40:].mean() for shown in (True, False))
    assert with_it > 1.9
    assert 0.8 < without < 1.4
