"""Noise distillation: histories from random to what a demonstrator does, ours or whichever function is named."""

import json
import sys
from pathlib import Path

import datasets
import gymnasium
import numpy as np
import pytest
from commands import write_preset
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from learning import learning_returns, play
from tiny import random_elements
from tqdm.auto import tqdm

from algodistill import cli
from algodistill.environments import (
    HARD,
    TASK_DISTRIBUTIONS,
    AdversarialBanditTasks,
    DarkKeyToDoorTasks,
    DarkRoomTasks,
    make_environments,
)
from algodistill.histories import Collection
from algodistill.histories.collecting import check_collection
from algodistill.histories.collection import Batch
from algodistill.histories.learners import run_learners, source_observation_space
from algodistill.sources import NoiseDistillation
from algodistill.sources.schedules import linear
from algodistill.training import collect


ROOM, ROOM_HARD, KEY_TO_DOOR, BANDIT = (
    f"algodistill/{name}-v0" for name in ("DarkRoom", "DarkRoomHard", "DarkKeyToDoor", "AdversarialBandit")
)
CART_POLE = "algodistill/CartPole-v0"
NO_NOISE, NOISE = {"epsilon_start": 0.0}, {"epsilon_end": 1.0}


def make_source(environment, tasks, seed=0, environment_kwargs=None, **settings):
    """The source, and the environments that it acts in."""
    kwargs = environment_kwargs or {}
    envs = make_environments(environment, tasks, **kwargs)
    spaces = source_observation_space(envs), envs.single_action_space
    told = {"environment": environment, "environment_kwargs": kwargs, "tasks": tasks}
    return NoiseDistillation(*spaces, len(tasks), np.random.default_rng(seed), **told, **settings), envs


def imitator(action_space, learners=4, demonstrator="zeros", seed=0, **settings):
    """The source by itself, with a demonstrator of this file."""
    return NoiseDistillation(
        Discrete(5),
        action_space,
        learners,
        np.random.default_rng(seed),
        environment="Elsewhere-v0",
        environment_kwargs={},
        tasks=[{"kwargs": {"number": number}} for number in range(learners)],
        demonstrator=f"{__name__}:{demonstrator}",
        **settings,
    )


def zeros(observations, tasks):
    return np.zeros(len(tasks), int)


# Noise.


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.75, 0.25), (0.0, 0.5), (0.3, 0.3)])
def test_schedule_is_exact_at_both_ends_and_linear_between(start, end):
    values = linear(start, end, np.arange(15) / 10)
    assert values[0] == start and (values[10:] == end).all()
    assert (np.sign(np.diff(values[:11])) == np.sign(end - start)).all()
    np.testing.assert_allclose(np.diff(values[:11]), (end - start) / 10, atol=1e-12)
    assert linear(start, end, 7 / 10) == values[7]


def test_epsilon_falls_over_each_learners_own_episodes():
    learners = 20_000
    source = imitator(Discrete(1000), learners, epsilon_episodes=4)
    seen, ends = np.zeros(learners, int), np.arange(learners) % 2 == 0  # the other half stays in its first episode
    for episode, epsilon in enumerate([1, 0.75, 0.5, 0.25, 0, 0]):
        follows = source.act(seen) == 0
        assert follows[ends].mean() == pytest.approx(1 - epsilon, abs=0.02)
        assert follows[~ends].mean() < 0.005
        terminated = ends if episode % 2 else np.zeros(learners, bool)
        source.learn(seen, seen, np.zeros(learners), seen, terminated, ends & ~terminated)
    assert follows[ends].all()


SPACES = {
    "discrete": Discrete(3, start=-7),
    "multi-discrete": MultiDiscrete([2, 3], start=[4, -1]),
    "matrix": MultiDiscrete([[2, 3], [2, 2]]),
    "multi-binary": MultiBinary(3),
    "box": Box(np.array([-1, 2], np.float32), np.array([1, 5], np.float32)),
    "box of whole numbers": Box(0, 3, (2, 2), dtype=np.uint8),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_noise_is_uniform_in_every_space(space):
    learners = 9_000
    source = imitator(space, learners, demonstrator="lowest", **NOISE)
    lowest.space = space
    actions = source.act(np.zeros(learners, int))
    assert actions.shape == (learners, *space.shape) and all(space.contains(action) for action in actions[:50])
    low, high = bounds(space)
    steps = (actions - low.astype(float)) / (high - low.astype(float))
    count = high - low.astype(int) + 1
    variance = 1 / 12 if actions.dtype.kind == "f" else (count + 1) / (count - 1) / 12
    np.testing.assert_allclose(steps.mean(axis=0), np.full(space.shape, 0.5), atol=0.02)
    np.testing.assert_allclose(steps.var(axis=0), np.full(space.shape, 1) * variance, atol=0.01)


def bounds(space):
    """The smallest and the largest element."""
    if isinstance(space, Box):
        return space.low, space.high
    if isinstance(space, MultiBinary):
        return np.zeros(space.shape, int), np.ones(space.shape, int)
    sizes = space.n if isinstance(space, Discrete) else space.nvec
    return np.array(space.start), np.array(space.start + sizes - 1)


def lowest(observations, tasks):
    return np.broadcast_to(bounds(lowest.space)[0], (len(tasks), *lowest.space.shape))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_without_noise_the_demonstrator_is_followed_in_every_space(space):
    lowest.space = space
    actions = imitator(space, demonstrator="lowest", **NO_NOISE).act(np.zeros(4, int))
    np.testing.assert_array_equal(actions, np.broadcast_to(bounds(space)[0], (4, *space.shape)))
    assert all(space.contains(action) for action in actions)


@pytest.mark.parametrize("environment", [ROOM, ROOM_HARD, KEY_TO_DOOR, BANDIT])
def test_noise_alone_returns_what_random_behaviour_does(environment):
    kwargs = {"pulls": 20} if environment == BANDIT else {"size": 5, "episode_length": 12}
    distribution = TASK_DISTRIBUTIONS[environment](**kwargs)
    tasks = distribution.sample(60, np.random.default_rng(0))
    source, envs = make_source(environment, tasks * 30, environment_kwargs=kwargs, **NOISE)
    returns = learning_returns(envs, source, 240)
    expected = np.mean([distribution.random_return(task) for task in tasks])
    assert np.mean(returns) == pytest.approx(expected, rel=0.03)


# Optimal behaviour.


@pytest.mark.parametrize(
    ("environment", "distribution"),
    [(ROOM, DarkRoomTasks()), (ROOM_HARD, DarkRoomTasks(**HARD))],
    ids=["room", "hard"],
)
def test_without_noise_every_episode_in_a_room_is_optimal(environment, distribution):
    tasks = distribution.tasks()
    source, envs = make_source(environment, tasks, **NO_NOISE)
    returns = learning_returns(envs, source, 3 * 20)
    assert returns == [[distribution.optimal_return(task)] * 3 for task in tasks]


@pytest.mark.parametrize("size", [2, 9])
def test_without_noise_key_and_door_are_reached_in_the_fewest_steps(size):
    kwargs = {"size": size, "ends_at_door": True}
    tasks = DarkKeyToDoorTasks(**kwargs).sample(500, np.random.default_rng(0))
    tasks += [{"key": [1, 1], "door": [1, 1]}] * 20  # behind a door where its key is, there is a step to take
    source, envs = make_source(KEY_TO_DOOR, tasks, environment_kwargs=kwargs, **NO_NOISE)
    observations, infos = envs.reset(seed=0)
    key, door = (np.array([task[name] for task in tasks]) for name in ("key", "door"))
    first, seen = observations.copy(), infos["source_observations"]
    steps, paid = np.zeros(len(tasks), int), np.zeros(len(tasks))
    for step in range(1, 40):
        _, rewards, terminations, _, infos = envs.step(source.act(seen))
        seen = infos["source_observations"]
        running = steps == 0
        paid += rewards * running
        steps[running & terminations] = step
    fewest = [np.maximum(abs(a - b).sum(axis=1), 1) for a, b in ((first, key), (key, door))]
    np.testing.assert_array_equal(steps, sum(fewest))
    assert (paid == 2).all() and steps[-20:].min() >= 2


def test_without_noise_the_best_arm_is_pulled():
    for tasks in AdversarialBanditTasks(arms=7).split(split_seed=0, train_tasks=1, test_tasks=50).tests.values():
        source, _ = make_source(BANDIT, tasks, environment_kwargs={"arms": 7}, **NO_NOISE)
        pulled = source.act(np.zeros(50, int))
        assert [task["means"][arm] for task, arm in zip(tasks, pulled, strict=True)] == [
            max(task["means"]) for task in tasks
        ]


def test_the_curve_rises_from_random_to_optimal():
    distribution = DarkRoomTasks()
    tasks = distribution.tasks()
    source, envs = make_source(ROOM, tasks * 4, epsilon_episodes=40)
    curve = np.mean(learning_returns(envs, source, 45 * 20), axis=0)
    random, optimal = (
        np.mean([reference(task) for task in tasks])
        for reference in (distribution.random_return, distribution.optimal_return)
    )
    assert curve[0] == pytest.approx(random, abs=0.2) and (curve[40:] == optimal).all()
    assert (np.diff(curve[:41].reshape(-1)[::10]) > 0.5).all()


# Seeds.


def test_same_seed_acts_the_same_and_others_do_not_matter():
    def life(seed, disturb=None):
        source = imitator(Discrete(3), seed=seed, epsilon_start=0.7, epsilon_end=0.2, epsilon_episodes=5)
        return np.stack(play(source, 60, disturb=disturb))

    state = np.random.get_state()[1].copy()
    done = life(1)
    np.testing.assert_array_equal(life(1), done)
    assert (life(2) != done).any()
    for disturbed in range(4):
        others = np.arange(4) != disturbed
        np.testing.assert_array_equal(life(1, disturbed)[:, others], done[:, others])
        assert (life(1, disturbed)[:, disturbed] != done[:, disturbed]).any()
    assert (np.random.get_state()[1] == state).all()


# Demonstrators that a setting names.

MIRROR = "algodistill-tests/Mirror-v0"


class MirrorEnv(gymnasium.Env):
    """Episodes of 2 to 5 steps, each of which pays 1 for the action that is shown, or, mirrored, for its opposite."""

    def __init__(self, space, mirrored=None):
        self.action_space, self.mirrored = SPACES[space], mirrored
        self.observation_space = Dict({"shown": self.action_space, "clock": Tuple([Discrete(6)])})

    def set_task(self, task):
        self.mirrored = task["mirrored"]

    def _observe(self):
        self._shown = random_elements(self.action_space, (), self.np_random)
        return {"shown": self._shown, "clock": (self._elapsed,)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mirrored = (options or {}).get("mirrored", self.mirrored)
        self._elapsed, self._length = 0, int(self.np_random.integers(2, 6))
        return self._observe(), {}

    def step(self, action):
        low, high = bounds(self.action_space)
        right = low + high - self._shown if self.mirrored else self._shown
        self._elapsed += 1
        return self._observe(), float(np.allclose(action, right)), self._elapsed == self._length, False, {}


gymnasium.register(MIRROR, MirrorEnv)


def mirror(observations, tasks):
    """The right actions in mirrors, of which only the tasks say which are which."""
    assert observations["clock"][0].shape == (len(tasks),)
    low, high = bounds(SPACES[tasks[0]["kwargs"]["space"]])
    shown = observations["shown"]
    is_mirrored = [any(part.get("mirrored") for part in task.values()) for task in tasks]
    return np.where(np.reshape(is_mirrored, (-1, *[1] * (shown.ndim - 1))), low + high - shown, shown)


def rude_mirror(observations, tasks):
    """The same, but it writes into whatever it is given."""
    actions = mirror(observations, tasks)
    observations["shown"][:] = 0
    observations["clock"][0][:] = 5
    tasks[0]["kwargs"]["forgotten"] = True
    return actions


WAYS = {
    "kwargs": lambda space, mirrored: {"kwargs": {"space": space, "mirrored": mirrored}},
    "options": lambda space, mirrored: {"kwargs": {"space": space}, "options": {"mirrored": mirrored}},
    "set_task": lambda space, mirrored: {"kwargs": {"space": space}, "set_task": {"mirrored": mirrored}},
}


def mirror_histories(space, way, demonstrator="mirror"):
    tasks = [WAYS[way](space, mirrored) for mirrored in (False, True, True)]
    settings = {"demonstrator": f"{__name__}:{demonstrator}", "epsilon_episodes": 6}
    collection = Collection(MIRROR, "noise_distillation", {"train": tasks}, 1, 10, source_kwargs=settings)
    check_collection(collection)
    return run_learners(collection, Batch("train", 0, 0, tasks), tqdm(disable=True)).to_pylist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("space", SPACES)
def test_a_named_demonstrator_is_followed_in_any_environment(space, way):
    rows = mirror_histories(space, way)
    assert [json.loads(row["task"]) for row in rows] == [
        WAYS[way](space, mirrored) for mirrored in (False, True, True)
    ]
    for row in rows:
        assert row["episode_returns"][6:] == row["episode_lengths"][6:]
    assert sum(row["episode_returns"][0] for row in rows) < sum(row["episode_lengths"][0] for row in rows)
    assert mirror_histories(space, way) == rows


def test_what_a_demonstrator_writes_into_is_not_what_is_recorded():
    rows = mirror_histories("multi-discrete", "kwargs")
    assert mirror_histories("multi-discrete", "kwargs", "rude_mirror") == rows
    assert (
        "forgotten" not in rows[0]["task"] and len({step for row in rows for step in row["observations.clock.0"]}) > 1
    )


def test_a_demonstrator_sees_what_source_algorithms_see():
    tasks = DarkKeyToDoorTasks(size=3).sample(5, np.random.default_rng(0))
    source, envs = make_source(KEY_TO_DOOR, tasks, environment_kwargs={"size": 3}, demonstrator=f"{__name__}:keeper")
    _, infos = envs.reset(seed=0)
    source.act(infos["source_observations"])
    seen, told = keeper.given
    np.testing.assert_array_equal(seen, infos["source_observations"])
    assert told == tasks


def keeper(observations, tasks):
    keeper.given = observations, tasks
    return np.zeros(len(tasks), bool)  # a number to NumPy, as good as 0


def test_a_named_demonstrator_comes_before_optimal_behaviour():
    tasks = [{"goal": [2, 2]}] * 9
    source, envs = make_source(ROOM, tasks, demonstrator=f"{__name__}:zeros", **NO_NOISE)
    assert source.act(envs.reset(seed=0)[0]).tolist() == [0] * 9


# What is refused.

not_a_function = 3


def takes_one(observations):
    return np.zeros(len(observations), int)


def fails(observations, tasks):
    return [task["wind"] for task in tasks]


def one_action(observations, tasks):
    return 0


def too_high(observations, tasks):
    return np.full(len(tasks), 2)


def fractions(observations, tasks):
    return np.full(len(tasks), 0.5)


def ragged(observations, tasks):
    return [[0], [0, 1]]


def too_strong(observations, tasks):
    return np.full((len(tasks), 1), 2.5)


def no_numbers(observations, tasks):
    return np.full((len(tasks), 1), np.nan)


REFUSED = {
    "nobody": (CART_POLE, None, ["best", CART_POLE, "demonstrator", "module:function", "(observations, tasks)"]),
    "no name": (CART_POLE, "zeros", ["demonstrator", "'zeros'", "module:function"]),
    "a number": (CART_POLE, 3, ["demonstrator", "3", "module:function"]),
    "no such module": (CART_POLE, "nowhere_at_all:zeros", ["nowhere_at_all", "PYTHONPATH"]),
    "no such function": (CART_POLE, f"{__name__}:nothing", ["demonstrator", ":nothing", "names no function"]),
    "no function": (CART_POLE, f"{__name__}:not_a_function", ["demonstrator", "names no function"]),
    "one argument": (CART_POLE, f"{__name__}:takes_one", ["takes_one", "(observations, tasks)", "TypeError"]),
    "a failure": (CART_POLE, f"{__name__}:fails", ["fails", "KeyError", "wind", f"{__file__}:"]),
    "one action": (CART_POLE, f"{__name__}:one_action", ["one_action", "shape ()", "(1,)", "Discrete(2)"]),
    "too high": (CART_POLE, f"{__name__}:too_high", ["too_high", "between 2 and 2", "Discrete(2)", "clip"]),
    "fractions": (CART_POLE, f"{__name__}:fractions", ["fractions", "float64", "int64", "Discrete(2)"]),
    "ragged": (CART_POLE, f"{__name__}:ragged", ["ragged", "ValueError", "shape"]),
    "too strong": ("Pendulum-v1", f"{__name__}:too_strong", ["too_strong", "2.5", "Box(-2.0, 2.0", "clip"]),
    "no numbers": ("Pendulum-v1", f"{__name__}:no_numbers", ["no_numbers", "nan", "Box(-2.0, 2.0"]),
    "flat actions": ("Pendulum-v1", f"{__name__}:zeros", ["zeros", "(1,)", "(1, 1)", "Box(-2.0, 2.0"]),
}


@pytest.mark.parametrize(("environment", "demonstrator", "words"), REFUSED.values(), ids=REFUSED)
def test_demonstrator_that_cannot_be_followed_is_refused_before_anything_is_written(
    environment, demonstrator, words, tmp_path: Path
):
    preset = write_preset(
        tmp_path,
        environment=environment,
        environment_kwargs={},
        tasks={"list": [{}, {"kwargs": {"max_episode_steps": 7}}]},
        train_tasks=1,
        validation_tasks=0,
        source="noise_distillation",
        source_kwargs={"demonstrator": demonstrator},
    )
    with pytest.raises(ValueError) as refusal:
        collect(preset, tmp_path / "data", progress=False)
    assert [word for word in words if word not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value) and not (tmp_path / "data").exists()


def test_whole_numbers_too_large_for_their_type_are_refused():
    with pytest.raises(ValueError, match="between 256 and 256"):
        imitator(MultiBinary(1), demonstrator="far_too_high", **NO_NOISE).act(np.zeros(4, int))


def far_too_high(observations, tasks):
    return np.full((len(tasks), 1), 256)


def test_described_tasks_of_our_own_need_a_demonstrator():
    tasks = [{"set_task": {"goal": [0, 1]}}]
    with pytest.raises(ValueError, match=f"best in these tasks of {ROOM}"):
        make_source(ROOM, tasks)
    make_source(ROOM, tasks, demonstrator=f"{__name__}:zeros")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epsilon_start", 1.5), ("epsilon_end", -0.1), ("epsilon_start", float("nan")), ("epsilon_episodes", 0)],
)
def test_setting_out_of_range_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        imitator(Discrete(3), **{setting: value})


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (Box(-np.inf, 1, (2,)), "bounds.*TransformAction"),
        (Tuple([Discrete(2)]), "Discrete, MultiDiscrete, MultiBinary or Box actions, not Tuple"),
    ],
    ids=["no bounds", "tuple"],
)
def test_space_that_has_no_uniform_actions_is_refused(space, named):
    with pytest.raises(ValueError, match=named):
        imitator(space)


# From the command line.

DEMONSTRATORS = """
import numpy as np

def brake(observations, tasks):
    return np.clip(-observations[:, 2:], -2, 2)

def confused(observations, tasks):
    return observations
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with demonstrators in it."""
    (tmp_path / "demonstrators_of_a_test.py").write_text(DEMONSTRATORS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def pendulum(folder, demonstrator):
    return write_preset(
        folder,
        environment="Pendulum-v1",
        environment_kwargs={"max_episode_steps": 30},
        tasks={"sample": {"kwargs": {"g": {"uniform": [2.0, 6.0]}}}},
        train_tasks=3,
        validation_tasks=0,
        test_tasks=1,
        source="noise_distillation",
        source_kwargs={"demonstrator": f"demonstrators_of_a_test:{demonstrator}", "epsilon_episodes": 5},
        learners_per_task=2,
        episodes=8,
    )


def test_histories_of_a_demonstrator_in_the_current_folder_are_collected(folder, capsys):
    pendulum(folder, "brake")
    assert cli.main(["collect", "tiny.yaml"]) == 0
    rows = datasets.load_dataset(str(folder / "data" / "tiny"), split="train", cache_dir=str(folder / "cache"))
    assert len(rows) == 6 and set(rows["algorithm"]) == {"noise_distillation"}
    for row in rows.with_format("numpy"):
        velocities, actions = row["observations"][:, 2:], row["actions"]
        followed = np.isclose(np.clip(-velocities, -2, 2), actions, atol=1e-5)[:, 0].reshape(8, 30).mean(axis=1)
        assert followed[0] < 0.3 and (followed[5:] == 1).all() and np.corrcoef(followed, np.arange(8))[0, 1] > 0.8
    card = (folder / "data" / "tiny" / "README.md").read_text()
    assert "demonstrators_of_a_test:brake" in card and "less and less noise" in card


def test_a_wrong_demonstrator_ends_the_command_in_one_line(folder, capsys):
    pendulum(folder, "confused")
    assert cli.main(["collect", "tiny.yaml"]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith(
        "algodistill: The demonstrator 'demonstrators_of_a_test:confused' returned actions of shape"
    )
    assert "\n" not in message and not (folder / "data").exists()
