"""Environments that know nothing of tasks: how they are given one, how tasks are described, and what is recorded."""

import builtins
import json
import os
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from commands import algodistill, write_preset
from gymnasium.envs.classic_control.cartpole import CartPoleEnv as GymnasiumCartPoleEnv
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from algodistill import cli, evaluate
from algodistill.environments import (
    CartPoleEnv,
    DarkRoomTasks,
    DarkRoomVectorEnv,
    make_environment,
    make_environments,
    split_described_tasks,
)
from algodistill.histories import config_name
from algodistill.histories.schema import task_json
from algodistill.train import main as train_main
from algodistill.training import collect, load_histories
from algodistill.training.collecting import collect_command, history_arguments, task_split


LAKE, CART_POLE, DARK_ROOM = "FrozenLake-v1", "algodistill/CartPole-v0", "algodistill/DarkRoom-v0"
RANDOM_MAP = "gymnasium.envs.toy_text.frozen_lake:generate_random_map"
RECORDER = "algodistill-tests/Recorder-v0"


class RecorderEnv(gymnasium.Env):
    """Episodes of random observations and three steps, which keeps all that it is given."""

    observation_space, action_space = gymnasium.spaces.Discrete(1000), gymnasium.spaces.Discrete(2)

    def __init__(self, raises=None, render_mode=None, **kwargs):
        if raises is not None:
            raise getattr(builtins, raises)("sorry")
        self.kwargs, self.task, self.options = kwargs, "none", []

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options.append(dict(options or {}))
        if options:
            options.clear()  # What an environment takes out for itself is there again the next time.
        self.steps = 0
        return int(self.np_random.integers(1000)), {}

    def step(self, action):
        self.steps += 1
        return int(self.np_random.integers(1000)), self.np_random.random(), self.steps == 3, False, {}


gymnasium.register(RECORDER, RecorderEnv)
# One with a vectorised form of its own, which takes no tasks; and one that is not made without a task.
gymnasium.register("algodistill-tests/Wide-v0", RecorderEnv, vector_entry_point=lambda num_envs: None)
gymnasium.register("algodistill-tests/Lock-v0", lambda task: RecorderEnv())


# How an environment is given its task.


def given_to(env):
    inner = env.unwrapped
    return inner.kwargs, inner.task, inner.options


WAYS = {
    "nothing": ({}, {"b": 1}, {"b": 1}, "none", {}),
    "kwargs": ({"kwargs": {"a": [1, None]}}, {"b": 1}, {"a": [1, None], "b": 1}, "none", {}),
    "kwargs that overrule": ({"kwargs": {"b": 2}}, {"b": 1}, {"b": 2}, "none", {}),
    "kwargs of any name": (
        {"kwargs": {"task": 1, "tasks": 2}},
        {"environment": 3, "num_envs": 4},
        {"task": 1, "tasks": 2, "environment": 3, "num_envs": 4},
        "none",
        {},
    ),
    "options": ({"options": {"map": "x"}}, {"task": 5, "tasks": 6}, {"task": 5, "tasks": 6}, "none", {"map": "x"}),
    "set_task": ({"set_task": {"goal": [1, 2]}}, {}, {}, {"goal": [1, 2]}, {}),
    "set_task to nothing": ({"set_task": None}, {}, {}, None, {}),
    "all at once": ({"kwargs": {"a": 1}, "options": {"c": 2}, "set_task": 3}, {}, {"a": 1}, 3, {"c": 2}),
    "left empty": ({"kwargs": None, "options": None}, {}, {}, "none", {}),
    "a task of its own": ({"goal": 4}, {}, {"task": {"goal": 4}}, "none", {}),
    "one with another key": ({"kwargs": {}, "goal": 4}, {}, {"task": {"kwargs": {}, "goal": 4}}, "none", {}),
}


@pytest.mark.parametrize("task, environment_kwargs, kwargs, set_task, options", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("environment", [RECORDER, "algodistill-tests/Wide-v0"])
def test_task_reaches_the_environment_and_stays_in_later_episodes(
    environment, task, environment_kwargs, kwargs, set_task, options
):
    single = make_environment(environment, task, **environment_kwargs)
    for seed in (None, 1, None):
        single.reset(seed=seed)
    assert given_to(single) == (kwargs, set_task, [options] * 3)

    envs = make_environments(environment, [{"kwargs": {"other": 0}}, task], **environment_kwargs)
    envs.reset(seed=0)
    for _ in range(7):
        envs.step(np.zeros(2, int))
    assert given_to(envs.envs[1]) == (kwargs, set_task, [options] * 3)
    assert given_to(envs.envs[0]) == ({**environment_kwargs, "other": 0}, "none", [{}] * 3)


def test_options_of_a_reset_add_to_those_of_the_task_for_one_episode():
    env = make_environment(RECORDER, {"options": {"a": 1, "b": 2}})
    env.reset(options={"b": 3, "c": 4})
    env.reset()
    assert env.unwrapped.options == [{"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 2}]


def test_what_gymnasium_makes_environments_with_may_be_the_task():
    envs = make_environments(CART_POLE, [{"kwargs": {"max_episode_steps": steps}} for steps in (2, 3)])
    envs.reset(seed=0)
    assert [envs.step(np.zeros(2, int))[3].tolist() for _ in range(3)] == [[False] * 2, [True, False], [False, True]]


ALIKE = {
    "recorder": (RECORDER, [{"kwargs": {"a": 1}, "options": {"b": 2}, "set_task": 3}, {}], {}),
    "slippery lakes": (
        LAKE,
        [{"kwargs": {"map_name": None, "desc": ["SF", "HG"]}}, {"kwargs": {"desc": ["SG", "HF"]}}],
        {},
    ),
    "gymnasium's own vectors": ("CartPole-v1", [{}, {"kwargs": {"sutton_barto_reward": True}}], {}),
    "physics": (CART_POLE, [{"kwargs": {"length": 0.1}}, {"kwargs": {"force_mag": -30.0}}], {"max_episode_steps": 9}),
    "rooms": (DARK_ROOM, [{"set_task": {"goal": [0, 1]}}, {"options": {"task": {"goal": [1, 0]}}}], {"size": 2}),
}


@pytest.mark.parametrize("environment, tasks, kwargs", ALIKE.values(), ids=ALIKE.keys())
def test_many_environments_are_single_ones_that_begin_again_in_the_same_step(environment, tasks, kwargs):
    envs = make_environments(environment, tasks, **kwargs)
    singles = [make_environment(environment, task, **kwargs) for task in tasks]
    assert isinstance(envs, SyncVectorEnv) and envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    observations, _ = envs.reset(seed=3)
    np.testing.assert_array_equal(observations, [env.reset(seed=3 + i)[0] for i, env in enumerate(singles)])
    rng, ended = np.random.default_rng(0), 0
    for _ in range(60):
        actions = rng.integers(envs.single_action_space.n, size=2)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        for i, env in enumerate(singles):
            observation, reward, terminated, truncated, _ = env.step(actions[i])
            assert (rewards[i], terminations[i], truncations[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                np.testing.assert_array_equal(infos["final_obs"][i], observation)
                observation, ended = env.reset()[0], ended + 1
            np.testing.assert_array_equal(observations[i], observation)
    assert ended > 3


@pytest.mark.parametrize(
    "describe",
    [
        lambda task: {"set_task": task},
        lambda task: {"options": {"task": task}},
        lambda task: {"kwargs": {"task": task}},
    ],
    ids=["set_task", "options", "kwargs"],
)
def test_our_own_environment_with_described_tasks_is_the_same(describe):
    tasks = DarkRoomTasks(size=3).tasks()
    ours = make_environments(DARK_ROOM, tasks, size=3)
    described = make_environments(DARK_ROOM, [describe(task) for task in tasks], size=3)
    ours.reset(seed=0)
    described.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(45):
        actions = rng.integers(5, size=9)
        for ours_part, part in zip(ours.step(actions)[:4], described.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(ours_part, part)


@pytest.mark.parametrize("environment", [DARK_ROOM, f"algodistill.environments:{DARK_ROOM}"])
def test_tasks_go_to_a_vectorised_form_that_takes_them(environment):
    envs = make_environments(environment, [{"goal": [0, 1]}])
    assert isinstance(envs.unwrapped, DarkRoomVectorEnv) and envs.unwrapped.get_tasks() == [{"goal": [0, 1]}]


REFUSED = {
    "unknown id": ("Nowhere-v0", {}, ["Nowhere-v0", "not registered"]),
    "unknown version": ("FrozenLake-v9", {}, ["FrozenLake-v9", "v1"]),
    "unknown module": ("nowhere_at_all:FrozenLake-v1", {}, ["'nowhere_at_all'", "PYTHONPATH"]),
    "no module": (":FrozenLake-v1", {}, ["''", "package.module"]),
    "file for a module": ("./here.py:FrozenLake-v1", {}, ["./here.py", "package.module"]),
    "two modules": ("json:json:FrozenLake-v1", {}, ["'json:json'", "package.module"]),
    "module without it": ("json:Nowhere-v0", {}, ["json:Nowhere-v0", "not registered"]),
    "kwargs that do not fit": (LAKE, {"kwargs": {"slippery": 1}}, [LAKE, "slippery"]),
    "values that do not fit": (LAKE, {"kwargs": {"map_name": "9x9"}}, [LAKE, "map_name", "9x9"]),
    "what gymnasium takes itself": (LAKE, {"kwargs": {"id": "x"}}, [LAKE, "id"]),
    "nothing where a task is needed": ("algodistill-tests/Lock-v0", {}, ["Lock-v0 cannot be made: ", "'task'"]),
    "kwargs that are a list": (LAKE, {"kwargs": [1]}, ["kwargs", "[1]", "mapping"]),
    "kwargs that are empty text": (LAKE, {"kwargs": ""}, ["kwargs", "''", "mapping"]),
    "options that are a number": (RECORDER, {"options": 3}, ["options", "3", "mapping"]),
    "no set_task": ("CartPole-v1", {"set_task": 1}, ["CartPole-v1", "set_task", "kwargs", "options"]),
    "not described": ("CartPole-v1", {"gravity": 5}, ["CartPole-v1", "gravity", "kwargs", "set_task"]),
    "not described, no vectors": (LAKE, {"desc": ["SG"]}, [LAKE, "task", "kwargs"]),
    "empty task of ours": (DARK_ROOM, {}, ["{}", "goal"]),
    "assertion": (RECORDER, {"kwargs": {"raises": "AssertionError"}}, [RECORDER, "raises", "sorry"]),
    "runtime error": (RECORDER, {"kwargs": {"raises": "RuntimeError"}}, [RECORDER, "cannot be made", "sorry"]),
    "massless": (CART_POLE, {"kwargs": {"masspole": 0}}, ["masspole=0", "more than 0"]),
    "length as text": (CART_POLE, {"kwargs": {"length": "long"}}, [CART_POLE, "length"]),
}


@pytest.mark.parametrize("environment, task, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_made_is_refused_by_name(environment, task, words):
    with pytest.raises(ValueError) as refusal:
        make_environments(environment, [task])
    assert [word for word in words if word not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


def test_missing_dependency_of_an_environment_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    with pytest.raises(ValueError, match="LunarLander-v3 cannot be made: .*Box2D"):
        make_environments("LunarLander-v3", [{}])


def test_tasks_with_different_spaces_are_refused():
    with pytest.raises(ValueError, match=r"FrozenLake-v1 do not all have the same spaces: .*Discrete\(64\)"):
        make_environments(LAKE, [{"kwargs": {"map_name": name}} for name in ("4x4", "8x8")])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=5,
)


@given(value=json_values)
@settings(max_examples=50, deadline=None)
def test_what_is_recorded_makes_the_same_environment_again(value):
    """Of a task that is listed, and of one that is drawn although nothing in it is drawn."""
    task = {"kwargs": {"v": value}, "options": {"v": value}, "set_task": value}
    for description in ({"list": [task]}, {"sample": task}):
        (split,) = split_described_tasks(description, split_seed=0, train_tasks=1, test_tasks=0).train
        recorded = json.loads(task_json(split))
        assert task_json(recorded) == task_json(task)
        env = make_environment(RECORDER, recorded)
        env.reset()
        assert task_json(given_to(env)) == task_json(({"v": value}, value, [{"v": value}]))


# What tasks are drawn from.


def echo(seed, kind="float", **kwargs):
    """What the draws below call."""
    kinds = {"float": float, "array": np.array, "int64": np.int64, "tuple": lambda number: (number, 1)}
    return {**kwargs, "seed": kinds[kind](seed)} if kind != "tuple" else kinds[kind](seed)


def draw(value, count=40, seed=1):
    """So many values that something stands for."""
    template = {"kwargs": {"v": value}}
    split = split_described_tasks({"sample": template}, split_seed=seed, train_tasks=count, test_tasks=0)
    return [task["kwargs"]["v"] for task in split.train]


ECHO = f"{__name__}:echo"
DRAWS = {
    "uniform": ({"uniform": [-2, 3.5]}, lambda v: type(v) is float and -2 <= v <= 3.5),
    "integers": ({"integers": [-50, 50]}, lambda v: type(v) is int and -50 <= v <= 50),
    "choice": ({"choice": [*range(40)]}, lambda v: v in range(40)),
    "list": ([{"integers": [0, 9]}, "x", {"uniform": [5, 6]}], lambda v: 0 <= v[0] <= 9 and v[1] == "x" and v[2] >= 5),
    "mapping": ({"a": {"b": {"uniform": [1, 2]}}, "c": None}, lambda v: 1 <= v["a"]["b"] <= 2 and v["c"] is None),
    "choice of draws": ({"choice": [{"uniform": [-2, -1]}, {"uniform": [1, 2]}]}, lambda v: 1 <= abs(v) <= 2),
    "call": ({"call": ECHO, "a": [1, {}]}, lambda v: v["a"] == [1, {}] and v["seed"] >= 0),
    "call with draws": ({"call": ECHO, "a": {"integers": [3, 4]}}, lambda v: v["a"] in (3, 4)),
    "call for a tuple": ({"call": ECHO, "kind": "tuple"}, lambda v: type(v) is list and v[1] == 1),
    "map": ({"call": RANDOM_MAP, "size": 4}, lambda v: [len(row) for row in v] == [4] * 4 and v[0][0] == "S"),
}


@pytest.mark.parametrize("value, fits", DRAWS.values(), ids=DRAWS.keys())
def test_draws_are_in_range_all_different_and_those_of_their_seed(value, fits):
    drawn = draw(value)
    assert all(fits(one) for one in drawn)
    assert len({json.dumps(one) for one in drawn}) == 40
    assert drawn == draw(value)
    assert drawn != draw(value, seed=2)


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_drawn_tasks_are_divided_without_overlap(data):
    low = data.draw(st.integers(-(2**63), 2**63 - 10), label="low")
    train, validation, test = data.draw(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)))
    sizes = {"train_tasks": train, "validation_tasks": validation, "test_tasks": test}
    # Both bounds are among what is drawn: there are just as many tasks as are asked for.
    high = low + train + validation + test - 1
    split = split_described_tasks({"sample": {"v": {"integers": [low, high]}}}, split_seed=low % 1000, **sizes)
    assert (len(split.train), len(split.validation), len(split.test)) == (train, validation, test)
    every = [task["v"] for task in (*split.train, *split.validation, *split.test)]
    assert sorted(every) == list(range(low, high + 1))


@given(low=st.floats(-1e300, 1e300), width=st.floats(0, 1e300), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_uniform_draws_lie_between_their_bounds(low, width, seed):
    (drawn,) = draw({"uniform": [low, low + width]}, count=1, seed=seed)
    assert low <= drawn <= low + width


def test_whole_tasks_can_be_drawn():
    tasks = [{"kwargs": {"a": 1}}, {"options": {"a": 1}}, {}]
    split = split_described_tasks({"sample": {"choice": tasks}}, split_seed=0, train_tasks=1, test_tasks=2)
    assert sorted(map(str, (*split.train, *split.test))) == sorted(map(str, tasks))


def test_all_listed_tasks_that_remain_are_held_out():
    tasks = [{"kwargs": {"v": number}} for number in range(9)]
    split = split_described_tasks({"list": tasks}, split_seed=0, train_tasks=4, validation_tasks=2)
    assert (len(split.train), len(split.validation), len(split.test)) == (4, 2, 3)
    assert sorted(map(str, (*split.train, *split.validation, *split.test))) == sorted(map(str, tasks))


def in_kwargs(value):
    return {"sample": {"kwargs": {"v": value}}}


MALFORMED = {
    "nothing": ({}, ["{}", '"list"', '"sample"']),
    "a list": ([{"kwargs": {}}], ['"list"', '"sample"']),
    "another key": ({"grid": []}, ["grid", '"list"', '"sample"']),
    "both": ({"list": [], "sample": {}}, ['"list"', '"sample"']),
    "a list that is none": ({"list": {"a": 1}}, ["'a'", '"list"']),
    "no tasks in it": ({"list": [{"a": 1}, 7]}, ["7", "mapping"]),
    "the same twice": ({"list": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}, ['{"a": 1, "b": 2}', "more than once"]),
    "too few": ({"list": [{"a": 1}, {"a": 2}]}, ["2 tasks", "train_tasks=2", "test_tasks=1"]),
    "a sample that is none": ({"sample": []}, ["[]", '"sample"']),
    "nothing to draw": ({"sample": {"kwargs": {}}}, ["3 tasks", "1 found", "fewer"]),
    "too few to draw": (in_kwargs({"integers": [1, 2]}), ["3 tasks", "2 found", "fewer"]),
    "uniform, reversed": (in_kwargs({"uniform": [2, 1]}), ["uniform", "[2, 1]", "lower one first"]),
    "uniform, one": (in_kwargs({"uniform": [1]}), ["uniform", "[1]", "two numbers"]),
    "uniform, text": (in_kwargs({"uniform": ["1", "2"]}), ["uniform", "['1', '2']", "two numbers"]),
    "uniform, truth": (in_kwargs({"uniform": [False, True]}), ["uniform", "True", "two numbers"]),
    "uniform, nan": (in_kwargs({"uniform": [float("nan"), 1]}), ["uniform", "nan"]),
    "uniform, endless": (in_kwargs({"uniform": [0, float("inf")]}), ["uniform", "inf"]),
    "uniform, too wide": (in_kwargs({"uniform": [-1.7e308, 1.7e308]}), ["uniform", "1.7e+308"]),
    "integers, fraction": (in_kwargs({"integers": [1, 2.5]}), ["integers", "2.5", "whole numbers"]),
    "integers, too large": (in_kwargs({"integers": [0, 2**64]}), ["integers", str(2**64)]),
    "choice of nothing": (in_kwargs({"choice": []}), ["choice", "[]", "list"]),
    "choice of text": (in_kwargs({"choice": "abc"}), ["choice", "abc", "list"]),
    "call of a number": (in_kwargs({"call": 3}), ["call", "3", "module:function"]),
    "call of a module": (in_kwargs({"call": "json"}), ["call", "json", "module:function"]),
    "call of no module": (in_kwargs({"call": "nowhere_at_all:f"}), ["nowhere_at_all", "PYTHONPATH"]),
    "call of a file": (in_kwargs({"call": "./here.py:f"}), ["./here.py", "package.module"]),
    "call of what is not there": (in_kwargs({"call": "json:f"}), ["json:f", "module:function"]),
    "call of no function": (in_kwargs({"call": "json:__doc__"}), ["json:__doc__", "module:function"]),
    "call with others": (in_kwargs({"call": RANDOM_MAP, "sise": 3}), [RANDOM_MAP, "sise, seed"]),
    "call for an array": (in_kwargs({"call": ECHO, "kind": "array"}), ["array", "JSON", "lists"]),
    "call for an int64": (in_kwargs({"call": ECHO, "kind": "int64"}), ["int64", "JSON", "numbers"]),
}


@pytest.mark.parametrize("description, words", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_description_is_refused_by_name(description, words):
    with pytest.raises(ValueError) as refusal:
        split_described_tasks(description, split_seed=1, train_tasks=2, test_tasks=1)
    assert [word for word in words if word not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("sizes", [{"train_tasks": 0, "test_tasks": 1}, {"train_tasks": 1, "test_tasks": -1}])
def test_impossible_division_of_drawn_tasks_is_refused(sizes):
    with pytest.raises(ValueError, match=f"train_tasks={sizes['train_tasks']}"):
        split_described_tasks(in_kwargs({"uniform": [0, 1]}), split_seed=0, **sizes)


def test_drawn_tasks_need_to_be_told_how_many_to_hold_out():
    with pytest.raises(ValueError, match="give test_tasks"):
        split_described_tasks(in_kwargs({"uniform": [0, 1]}), split_seed=0, train_tasks=1)


# CartPole.

physics = st.fixed_dictionaries(
    {
        "gravity": st.floats(0, 20),
        "masscart": st.floats(0.1, 5),
        "masspole": st.floats(0.01, 1),
        "length": st.floats(0.1, 2),
        "force_mag": st.floats(-20, 20),
    }
)


def trajectory(env, actions, seed):
    steps = [env.reset(seed=seed)[0].tolist()]
    for action in actions:
        observation, reward, terminated, *_ = env.step(int(action))
        steps.append((observation.tolist(), reward, terminated))
        if terminated:
            break
    return steps


@pytest.mark.parametrize("seed", range(20))
def test_cart_pole_is_gymnasiums_by_default(seed):
    actions = np.random.default_rng(seed).integers(2, size=200)
    ours, theirs = gymnasium.make(CART_POLE), gymnasium.make("CartPole-v1")
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert trajectory(ours, actions, seed) == trajectory(theirs, actions, seed)


@given(physics=physics, seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_cart_pole_moves_by_its_physics(physics, seed):
    ours, theirs = CartPoleEnv(**physics), GymnasiumCartPoleEnv()
    for name, value in physics.items():
        setattr(theirs, name, value)
    theirs.total_mass = physics["masscart"] + physics["masspole"]
    theirs.polemass_length = physics["masspole"] * physics["length"]
    actions = np.random.default_rng(seed).integers(2, size=50)
    assert trajectory(ours, actions, seed) == trajectory(theirs, actions, seed)


@given(physics=physics, seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_negative_force_swaps_the_actions(physics, seed):
    swapped = CartPoleEnv(**{**physics, "force_mag": -physics["force_mag"]})
    actions = np.random.default_rng(seed).integers(2, size=50)
    assert trajectory(CartPoleEnv(**physics), actions, seed) == trajectory(swapped, 1 - actions, seed)


@pytest.mark.parametrize("kwargs", [{}, {"force_mag": -3.0, "masspole": 2, "sutton_barto_reward": True}])
def test_check_env_finds_nothing_in_cart_pole(kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity")  # of gymnasium's own observation space
        check_env(gymnasium.make(CART_POLE, **kwargs).unwrapped, skip_render_check=True)  # pictures need pygame


@pytest.mark.parametrize("name", ["masscart", "masspole", "length"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_impossible_physics_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} is out of range"):
        gymnasium.make(CART_POLE, **{name: value})


# From the preset to the cards.

CELLS = '''
"""Somebody's environment: five cells in a ring, of which one pays, as `reset` or `set_task` says."""

import gymnasium


class CellsEnv(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Discrete(5), gymnasium.spaces.Discrete(2)

    def __init__(self, steps=4):
        self.steps, self.goal = steps, None

    def set_task(self, goal):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.elapsed = 0, 0
        self.now = (options or {}).get("goal", self.goal)
        return self.cell, {}

    def step(self, action):
        self.cell, self.elapsed = (self.cell + 2 * int(action) - 1) % 5, self.elapsed + 1
        if self.now is None:
            raise RuntimeError("no goal")
        return self.cell, float(self.cell == self.now), False, self.elapsed == self.steps, {}


def draw_goal(seed):
    return seed % 5


gymnasium.register("Cells-v0", CellsEnv)
'''

SIZES = {"train_tasks": 2, "validation_tasks": 1, "test_tasks": 2, "learners_per_task": 2, "source_kwargs": {}}
PRESETS = {
    "maps": {
        "environment": LAKE,
        "environment_kwargs": {"is_slippery": False, "max_episode_steps": 12},
        "tasks": {"sample": {"kwargs": {"desc": {"call": RANDOM_MAP, "size": 3}}}},
    },
    "options": {
        "environment": "foreign_cells:Cells-v0",
        "environment_kwargs": {"steps": 3},
        "tasks": {"list": [{"options": {"goal": goal}} for goal in range(5)]},
        "eval_strategy": "steps",
    },
    "set_task": {
        "environment": "foreign_cells:Cells-v0",
        "environment_kwargs": {},
        "tasks": {"sample": {"set_task": {"call": "foreign_cells:draw_goal"}}},
    },
    "physics": {
        "environment": CART_POLE,
        "environment_kwargs": {"max_episode_steps": 6},
        "tasks": {"sample": {"kwargs": {"gravity": {"uniform": [5.0, 15.0]}, "force_mag": {"choice": [-10.0, 10.0]}}}},
        "source": "a2c",
        "source_kwargs": {"streams": 2},
    },
    "rooms": {"tasks": {"sample": {"set_task": {"goal": [{"integers": [0, 2]}, {"integers": [0, 2]}]}}}},
}
of_every_preset = pytest.mark.parametrize("finished", PRESETS, indirect=True)
of_options = pytest.mark.parametrize("finished", ["options"], indirect=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with somebody's module, where the user is."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "foreign_cells.py").write_text(CELLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder
    sys.modules.pop("foreign_cells", None)
    gymnasium.registry.pop("Cells-v0", None)


def train(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    return train_main()


@pytest.fixture(scope="module")
def finished(project, request):
    """The name of a preset, of which histories and run are there."""
    write_preset(project, request.param, **{**SIZES, **PRESETS[request.param]})
    with pytest.MonkeyPatch.context() as patch:
        assert train(patch, "--config", f"{request.param}.yaml") == 0
    return request.param


def one_line(capsys):
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("algodistill: ")
    return line


@of_every_preset
def test_histories_are_of_the_tasks_and_the_environment(finished):
    arguments = history_arguments(f"{finished}.yaml")
    split = task_split(arguments)
    for name, tasks in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        histories = load_histories(Path("data") / finished, name)
        assert set(histories["task"]) == {task_json(task) for task in tasks}
        assert set(histories["environment"]) == {arguments.environment}


@pytest.mark.parametrize("finished", ["maps", "options", "set_task", "rooms"], indirect=True)
def test_recorded_task_gives_what_was_recorded(finished):
    """These environments hold no chance: the same actions bring the same again."""
    arguments = history_arguments(f"{finished}.yaml")
    rewarded = 0
    for history in load_histories(Path("data") / finished, "train").with_format("numpy"):
        envs = make_environments(
            arguments.environment, [json.loads(str(history["task"]))], **arguments.environment_kwargs
        )
        observations = envs.reset(seed=0)[0]
        steps = zip(history["observations"], history["actions"], history["rewards"], strict=True)
        for observation, action, reward in steps:
            np.testing.assert_array_equal(observations[0], observation)
            observations, rewards, *_ = envs.step(np.array([action]))
            assert rewards[0] == reward
            rewarded += reward
    assert rewarded > 0


@of_every_preset
def test_bare_checkpoint_is_evaluated_on_its_test_tasks(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(Path("runs") / finished, tmp_path / "bare", ignore=shutil.ignore_patterns("*.md", "in_context*"))
    split, of_run = (
        task_split(history_arguments(f"{finished}.yaml")),
        json.loads((Path("runs") / finished / "in_context_evaluation.json").read_text()),
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "bare", "--episodes", "3", "--streams", "4"]) == 0
    result = json.loads((tmp_path / "evaluations" / "bare" / "in_context_evaluation.json").read_text())
    assert result["task_ids"] == [task_json(task) for task in split.test]
    assert (result["references"]["random"], result["references"]["optimal"]) == (None, None)
    assert result["episode_return"] == of_run["episode_return"]


@of_options
def test_module_is_imported_for_a_checkpoint_in_another_process(project, finished, tmp_path):
    found_in = os.pathsep.join([str(project), *sys.path])
    arguments = ["evaluate", str(project / "runs" / finished), "--episodes", "2", "--streams", "2"]
    result = algodistill(tmp_path, *arguments, environment={"PYTHONPATH": found_in})
    assert result.returncode == 0, result.stderr


@of_every_preset
def test_cards_name_the_environment(finished):
    environment = history_arguments(f"{finished}.yaml").environment
    folder = Path("data") / finished
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [config_name(environment)]
    for file, title in (
        (folder, f"# Learning histories of .* on {environment}"),
        (Path("runs") / finished, f"# Algorithm Distillation on {environment}"),
    ):
        card = (file / "README.md").read_text()
        assert re.search(f"^{title}$", card, re.MULTILINE)
        assert environment in yaml.safe_load(card.split("---")[1])["tags"]
    about = (folder / "README.md").read_text().partition("**The environment.** ")[2].partition("\n")[0]
    assert about.startswith({CART_POLE: "The pole on a cart", DARK_ROOM: "Many Dark Rooms"}.get(environment, ""))
    assert bool(about) == environment.startswith("algodistill/")


@of_every_preset
def test_code_in_the_models_card_runs(finished, capsys):
    card = (Path("runs") / finished / "README.md").read_text()
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("range(800)", "range(9)"), {})
    assert "mean reward" in capsys.readouterr().out


@of_every_preset
def test_command_in_the_card_collects_the_same(finished, tmp_path):
    place = Path("data") / finished / config_name(history_arguments(f"{finished}.yaml").environment)
    made = json.loads((place / "collection.json").read_text())
    card = (Path("data") / finished / "README.md").read_text()
    assert made["command"] == "algodistill collect preset.yaml" and made["command"] in card
    (tmp_path / "preset.yaml").write_text(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    again = collect(tmp_path / "preset.yaml", tmp_path / "again", progress=False) / place.name
    assert json.loads((again / "collection.json").read_text())["fingerprint"] == made["fingerprint"]
    shards = sorted(path.name for path in place.glob("*.parquet"))
    assert len(shards) == 3
    assert all((again / name).read_bytes() == (place / name).read_bytes() for name in shards)


def test_command_for_a_preset_of_the_package_tells_the_tasks_that_overrule_it():
    tasks = {"sample": {"kwargs": {"desc": {"call": RANDOM_MAP, "size": 4, "p": 0.9}}}}
    arguments = history_arguments("frozen_lake", ["--tasks", json.dumps(tasks), "--test_tasks", "3"])
    command, preset = collect_command("frozen_lake", arguments)
    name, *options = shlex.split(command)[2:]
    assert (name, preset) == ("frozen_lake", None)
    assert history_arguments(name, options) == arguments and arguments.tasks == tasks
    assert collect_command("frozen_lake", history_arguments("frozen_lake"))[0] == "algodistill collect frozen_lake"


def test_tasks_of_the_command_line_overrule_the_preset_and_meet_no_other_histories(project, capsys):
    write_preset(project, "overruled", **{**SIZES, **PRESETS["options"]})
    tasks = {"list": [{"set_task": goal} for goal in range(5)]}
    command = ["collect", "overruled.yaml", "--tasks", json.dumps(tasks)]
    assert cli.main(command) == 0
    made = json.loads((project / "data" / "overruled" / "Cells-v0" / "collection.json").read_text())["collection"]
    assert sorted(map(str, sum(made["tasks"].values(), []))) == sorted(map(str, tasks["list"]))
    assert cli.main(command) == 0
    assert cli.main(command[:2]) == 2
    line = one_line(capsys)
    assert "(tasks)" in line and "data/overruled" in line and "delete" in line


WRONG_PRESETS = {
    "no description": ({"tasks": None}, [], ["foreign_cells:Cells-v0", "tasks=", "list", "sample"]),
    "bare list": ({"tasks": [{"set_task": 1}]}, [], ["--tasks", "set_task"]),
    "text": ({}, ["--tasks", "{"], ["--tasks", "{"]),
    "list on the command line": ({}, ["--tasks", '[{"set_task": 1}]'], ["--tasks", "set_task"]),
    "too few": ({"train_tasks": 4}, [], ["5 tasks", "train_tasks=4"]),
    "none": ({"tasks": {"list": []}}, [], ["0 tasks"]),
    "not told how many": ({"tasks": {"sample": {}}, "test_tasks": None}, [], ["test_tasks"]),
    "no such function": ({"tasks": in_kwargs({"call": "foreign_cells:nothing"})}, [], ["foreign_cells:nothing"]),
    "no such module": ({"environment": "foreign_sells:Cells-v0"}, [], ["foreign_sells", "PYTHONPATH"]),
    "a task among others": (
        {"tasks": {"list": [*({"set_task": goal} for goal in range(4)), {"kwargs": {"speed": 2}}]}},
        [],
        ["foreign_cells:Cells-v0", "speed"],
    ),
    "different spaces": (
        {
            "environment": LAKE,
            "environment_kwargs": {"is_slippery": False},
            "tasks": {"list": [{"kwargs": {"desc": ["S" + "F" * size + "G"]}} for size in range(5)]},
            "train_tasks": 1,
            "validation_tasks": 1,
            "test_tasks": 1,
        },
        [],
        [LAKE, "same spaces"],
    ),
}


@pytest.mark.parametrize("changes, options, words", WRONG_PRESETS.values(), ids=WRONG_PRESETS.keys())
def test_wrong_tasks_are_told_in_one_line_before_anything_is_written(project, capsys, changes, options, words):
    write_preset(project, "wrong", **{**SIZES, **PRESETS["options"], **changes})
    assert cli.main(["collect", "wrong.yaml", *options]) == 2
    line = one_line(capsys)
    assert [word for word in words if word not in line] == []
    # The corrected command stumbles over nothing.
    assert not (project / "data" / "wrong").exists()


def test_dates_of_a_preset_are_text_as_on_the_command_line(project):
    write_preset(project, "dated", environment=RECORDER, tasks={"list": [{"kwargs": {"day": "DAY"}}]})
    (project / "dated.yaml").write_text((project / "dated.yaml").read_text().replace("DAY", "2020-01-31"))
    assert history_arguments("dated.yaml").tasks == {"list": [{"kwargs": {"day": "2020-01-31"}}]}


@of_options
def test_wrong_test_tasks_are_found_before_the_training(project, finished, capsys, monkeypatch):
    tasks = {"list": [*PRESETS["options"]["tasks"]["list"][:2], {"set_task": 1, "kwargs": {"speed": 2}}]}
    sizes = ["--train_tasks", "2", "--validation_tasks", "0", "--test_tasks", "1", "--split_seed"]
    seed = next(
        str(seed)
        for seed in range(9)
        if split_described_tasks(tasks, split_seed=seed, train_tasks=2).test == tasks["list"][2:]
    )
    options = [*sizes, seed, "--tasks", json.dumps(tasks), "--dataset", "data/options", "--output_dir", "runs/wrong"]
    assert train(monkeypatch, "--config", "options.yaml", *options) == 2
    assert "speed" in one_line(capsys)
    assert not (project / "runs" / "wrong" / "trainer_state.json").exists()


@of_options
@pytest.mark.parametrize(
    "tasks, words",
    [
        ('[{"kwargs": 3}]', ["kwargs", "3", "mapping"]),
        ('[{"options": {"goal": 0}}, {"kwargs": {"speed": 2}}]', ["foreign_cells:Cells-v0", "speed"]),
        ('[{"goal": 0}]', ["foreign_cells:Cells-v0", "task", "options"]),
    ],
)
def test_wrong_tasks_to_evaluate_on_are_told_in_one_line(finished, capsys, tasks, words):
    assert cli.main(["evaluate", "runs/options", "--episodes", "1", "--tasks", tasks]) == 2
    line = one_line(capsys)
    assert [word for word in words if word not in line] == []


@of_options
def test_checkpoint_is_evaluated_on_other_described_tasks(finished):
    result = evaluate("runs/options", tasks=[{"set_task": 3}, {"options": {"goal": 4}}], episodes=1, streams=2)
    assert result["task_ids"] == ['{"set_task": 3}', '{"options": {"goal": 4}}']


def test_holding_out_more_drawn_tasks_leaves_those_to_train_on():
    sizes = {"split_seed": 1, "train_tasks": 5, "validation_tasks": 2}
    few, many = (
        split_described_tasks({"sample": {"kwargs": {"g": {"uniform": [0, 1]}}}}, **sizes, test_tasks=count)
        for count in (1, 9)
    )
    assert (few.train, few.validation, few.test) == (many.train, many.validation, many.test[:1])


def test_only_collecting_looks_for_modules_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(cli, "evaluate_command", lambda arguments: None)
    cli.main(["evaluate", "nothing"])
    assert str(tmp_path) not in sys.path
    cli.main(["collect", "nothing"])
    assert sys.path[0] == str(tmp_path)
