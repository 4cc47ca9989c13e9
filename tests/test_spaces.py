"""Continuous and nested spaces, from what an environment gives to what the model reads, and its actions back."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import gymnasium
import numpy as np
import pytest
import torch
from commands import write_preset
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from test_modeling import CLEAN_PROCESS, run_clean_process, save
from tiny import (
    NaiveContext,
    map_leaves,
    one_hot_logits,
    random_elements,
    random_window,
    slice_window,
    tiny_model,
)

import algodistill
from algodistill import HistoryTokeniser, HistoryWindows, HistoryWriter
from algodistill.environments import TASK_DISTRIBUTIONS
from algodistill.environments.tasks import FiniteTasks
from algodistill.evaluation import load_checkpoint
from algodistill.histories import Collection, StreamedHistoryWindows, collect_histories
from algodistill.histories import spaces as recorded
from algodistill.histories.schema import STEP_COLUMNS, history_table, step_columns
from algodistill.histories.spaces import flat_columns
from algodistill.hub import write_dataset_card
from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel
from algodistill.models import spaces_algodistill as described
from algodistill.sources import SOURCES
from algodistill.training import running


NESTED = Dict(
    {
        "position": Box(-3, 3, (2,)),
        "door": Discrete(4, start=1),
        "arm": Tuple([Box(-np.inf, np.inf, (2, 2), dtype=np.float64), MultiBinary(2)]),
        "counter": Box(0, 200, (), dtype=np.int64),
    }
)
TORQUE = Box(np.array([-2.0, 0.0]), np.array([2.0, 1.0]), dtype=np.float32)
OBSERVATION_SPACES = {
    "vector": Box(-1, 1, (3,)),
    "scalar": Box(-1, 1, ()),
    "unbounded": Box(-np.inf, np.inf, (4,), dtype=np.float64),
    "picture": Box(0, 255, (3, 2, 2), dtype=np.uint8),
    "dict": Dict({"b": Discrete(3), "a": Box(-1, 1, (2,))}),
    "tuple": Tuple([MultiDiscrete([[2, 3], [3, 2]]), Discrete(4, start=-2)]),
    "nested": NESTED,
}
every_space = pytest.mark.parametrize("space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES)
both_layouts = pytest.mark.parametrize("layout", ["transition", "interleaved"])


@st.composite
def boxes(draw: st.DrawFn, bounded: bool = False) -> Box:
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    low = draw(st.integers(-5, 5))
    high = low + draw(st.integers(0, 40))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int64, np.int8, np.uint8]))
    if dtype == np.uint8:
        low, high = abs(low), abs(low) + 40
    if not bounded and np.dtype(dtype).kind == "f" and draw(st.booleans()):
        return Box(-np.inf, draw(st.sampled_from([np.inf, high])), shape, dtype=dtype)
    return Box(low, high, shape, dtype=dtype)


@st.composite
def leaf_spaces(draw: st.DrawFn) -> gymnasium.Space:
    kind = draw(st.sampled_from(["discrete", "multidiscrete", "multibinary", "box"]))
    if kind == "box":
        return draw(boxes())
    if kind == "discrete":
        return Discrete(draw(st.integers(1, 9)), start=draw(st.integers(-20, 20)))
    if kind == "multibinary":
        return MultiBinary(draw(st.sampled_from([1, 3, (2, 2)])))
    return MultiDiscrete(draw(st.sampled_from([[4], [2, 300], [[2, 3], [1, 2]]])))


def nested(children: st.SearchStrategy) -> st.SearchStrategy:
    names = st.sampled_from(["a", "b", "z z", "10", "9", "observations", "type"])
    return st.one_of(
        st.dictionaries(names, children, min_size=1, max_size=3).map(Dict),
        st.lists(children, min_size=1, max_size=3).map(Tuple),
    )


any_space = st.recursive(leaf_spaces(), nested, max_leaves=5)


def numbered(space: gymnasium.Space, steps: int, seed: int) -> dict[str, Any]:
    """Transitions with observations of a space as vector environments give them, and everything else at random."""
    rng = np.random.default_rng(seed)
    return {
        "observations": random_elements(space, (steps,), rng),
        "actions": rng.integers(3, size=steps),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminations": rng.random(steps) < 0.3,
        "truncations": np.zeros(steps, dtype=bool),
    }


def dataset_of(space: gymnasium.Space, steps: dict[str, Any], action_space: gymnasium.Space) -> datasets.Dataset:
    """Transitions as a dataset of one history."""
    total = len(steps["rewards"])
    description = {"id": "0", "task": "{}", "environment": "E-v0", "algorithm": "test", "seed": 0}
    return datasets.Dataset(
        history_table(space, action_space, [description], np.array([total]), flat_columns(space, steps))
    )


def leaves_of(space: gymnasium.Space, observations: Any) -> dict[str, np.ndarray]:
    """The leaves as they are stored: flat, and reals as float32."""
    return {
        path: np.asarray(values)
        .reshape(len(values), *([-1] if recorded.leaf_spaces(space)[path].shape else []))
        .astype(recorded.smallest_dtype(recorded.leaf_spaces(space)[path]))
        for path, values in described.leaves(described.describe_space(space), observations).items()
    }


def windows_observations(window: dict[str, Any]) -> dict[str, np.ndarray]:
    observations = window["observations"]
    return observations if isinstance(observations, dict) else {"": observations}


# ---- taking spaces apart


@settings(max_examples=80, deadline=None)
@given(space=any_space, seed=st.integers(0, 99))
def test_spaces_and_their_elements_are_taken_apart_alike(space, seed):
    description = described.describe_space(space)
    assert json.loads(json.dumps(description, sort_keys=True)) == description
    assert described.describe_space(description) == description
    stored, read = recorded.leaf_spaces(space), described.leaf_spaces(description)
    assert list(stored) == list(read)
    for path, leaf in stored.items():
        assert described.describe_space(leaf) == read[path]
        assert described.width_of(read[path]) == (recorded.space_width(leaf) or 1)
    observations = random_elements(space, (3,), np.random.default_rng(seed))
    apart = described.leaves(description, observations)
    assert list(apart) == list(described.leaves(description, space.sample())) == list(stored)
    # What is apart already stays so.
    if "" not in apart:
        assert described.leaves(description, apart) == apart


def test_leaves_come_in_the_order_of_sorted_names():
    assert list(recorded.leaf_spaces(NESTED)) == ["arm.0", "arm.1", "counter", "door", "position"]
    turned = Dict([(name, NESTED[name]) for name in ("position", "counter", "door", "arm")])
    assert described.describe_space(turned) == described.describe_space(NESTED)
    assert list(recorded.leaf_spaces(Tuple([Discrete(2)] * 11)))[-2:] == ["9", "10"]


WRONG_PARTS = {
    "a part is missing": ({"b": 0}, r"observations are \['b'\], expected a dict with the parts \['a', 'b'\]"),
    "a part too many": ({"a": (0, 0), "b": 0, "c": 1}, "observations are .*'c'"),
    "no dict": ([0, 1], "observations are list"),
    "too few inside": ({"a": (0,), "b": 0}, "observations.a are 1 parts, expected a tuple of 2"),
    "an array inside": ({"a": np.zeros(2), "b": 0}, "observations.a are ndarray, expected a tuple of 2"),
}


@pytest.mark.parametrize(("value", "named"), WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_observations_with_other_parts_are_refused(value, named, tmp_path):
    space = Dict({"a": Tuple([Discrete(2), Discrete(2)]), "b": Discrete(2)})
    tokeniser = HistoryTokeniser(space, Discrete(2))
    with pytest.raises(ValueError, match=named):
        tokeniser.encode_steps(value, 0, 0.0, False, False)
    with pytest.raises(ValueError, match=named):
        tiny_model(tokeniser).agent(tokeniser, num_envs=1).act(value)
    writer = HistoryWriter(tmp_path, space, Discrete(2), environment="E-v0", algorithm="test")
    with pytest.raises(ValueError, match=named), writer.record(task={}) as history:
        history.append(value, 0, 0.0, False, False)


# ---- recording and reading


@settings(max_examples=60, deadline=None)
@given(space=any_space, seed=st.integers(0, 99))
def test_windows_hold_what_was_recorded(space, seed):
    steps = numbered(space, 9, seed)
    dataset = dataset_of(space, steps, Discrete(3))
    assert [name for name in dataset.column_names if name in step_columns(space)] == list(step_columns(space))
    window = HistoryWindows(dataset, length=20).read(0, 0)
    expected = leaves_of(space, steps["observations"])
    found = windows_observations(window)
    assert list(found) == list(expected)
    for path, values in expected.items():
        assert found[path].dtype == values.dtype
        np.testing.assert_array_equal(found[path], values)
    part = HistoryWindows(dataset, length=4).read(0, 3)
    for path, values in expected.items():
        np.testing.assert_array_equal(windows_observations(part)[path], values[3:7])
    np.testing.assert_array_equal(part["previous_reward"], steps["rewards"][2])

    # What the model reads of it: ids of discrete leaves, and numbers that can be made into the others again.
    tokeniser = HistoryTokeniser(space, Discrete(3)).fit(dataset)
    inputs = tokeniser([window])
    assert inputs["observations"].shape == (1, 9, len(tokeniser.observation_sizes))
    assert ("observation_values" in inputs) == (tokeniser.observation_numbers > 0)
    live = tokeniser.encode_steps(
        steps["observations"], steps["actions"], np.zeros(9), np.zeros(9, bool), np.zeros(9, bool)
    )
    torch.testing.assert_close(live["observations"], inputs["observations"][0], rtol=0, atol=0)
    boxes = [path for path, leaf in recorded.leaf_spaces(space).items() if isinstance(leaf, Box)]
    if boxes:
        values = inputs["observation_values"]
        assert values.dtype == torch.float32 and values.shape == (1, 9, tokeniser.observation_numbers)
        torch.testing.assert_close(live["observation_values"], values[0], rtol=0, atol=0)
        numbers = np.concatenate([expected[path].reshape(9, -1) for path in boxes], axis=1)
        restored = values[0].numpy() * np.array(tokeniser.observation_std) + np.array(tokeniser.observation_mean)
        np.testing.assert_allclose(restored, numbers, rtol=1e-4, atol=1e-4)


@every_space
def test_histories_come_back_from_files(space, tmp_path):
    folder = tmp_path / "histories"
    histories = [numbered(space, steps, steps) for steps in (7, 1, 12)]
    with HistoryWriter(folder, space, TORQUE, environment="E-v0", algorithm="test") as writer:
        for number, steps in enumerate(histories):
            total = len(steps["rewards"])
            steps["actions"] = random_elements(TORQUE, (total,), np.random.default_rng(number))
            if number == 0:
                writer.write(tasks=[{}], seeds=[0], lengths=[total], steps=steps)
                continue
            with writer.record(task={}, seed=number) as history:
                for step in range(total):
                    one = {name: map_leaves(lambda values, step=step: values[step], steps[name]) for name in steps}
                    history.append(*(one[name] for name in STEP_COLUMNS))
    dataset = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    windows = HistoryWindows(dataset, length=20)
    assert dataset.features["actions"] == datasets.Array2D((None, 2), "float32")
    streamed = datasets.load_dataset(str(folder), split="train", streaming=True)
    stream = StreamedHistoryWindows(streamed, length=20)
    for number, steps in enumerate(histories):
        expected = leaves_of(space, steps["observations"])
        read = [windows.read(number, 0), *([stream.first()] if number == 0 else [])]
        for window in read:
            assert list(windows_observations(window)) == list(expected)
            for path, values in expected.items():
                np.testing.assert_array_equal(windows_observations(window)[path], values)
            np.testing.assert_array_equal(window["actions"], steps["actions"])
    # Opening it anew is possible for the same spaces only.
    HistoryWriter(folder, space, TORQUE, environment="E-v0", algorithm="test").close()
    with pytest.raises(ValueError, match="other spaces"):
        HistoryWriter(folder, Dict({"other": Discrete(2)}), TORQUE, environment="E-v0", algorithm="test")


def wrong_observations():
    good = {"x": np.zeros((4, 2)), "n": np.zeros(4, int), "big": np.zeros((4, 2, 2), np.uint8)}
    yield "not a number", {**good, "x": np.array([[0, 0], [0, np.nan], [0, 0], [0, 0]])}, "observations.x hold nan"
    yield "infinite", {**good, "x": np.full((4, 2), -np.inf)}, "observations.x hold -inf"
    yield "infinite as float32", {**good, "x": np.full((4, 2), 1e39)}, r"observations.x hold 1e\+39.*float32"
    yield "too wide", {**good, "x": np.zeros((4, 3))}, r"observations.x have the shape \(4, 3\), expected \(4, 2\)"
    yield "too few", {**good, "x": np.zeros((3, 2))}, r"observations.x have the shape \(3, 2\)"
    yield "flat", {**good, "big": np.zeros((4, 4), np.uint8)}, r"observations.big have the shape \(4, 4\)"
    yield "outside", {**good, "n": np.array([0, 1, 3, 0])}, r"observations.n hold 3, .*outside the space Discrete\(3\)"
    yield "outside whole numbers", {**good, "big": np.full((4, 2, 2), 300)}, "observations.big hold 300"
    yield "between whole numbers", {**good, "big": np.full((4, 2, 2), 0.5)}, "observations.big hold 0.5"
    yield "words", {**good, "x": np.full((4, 2), "word")}, "observations.x have the type <U4"


@pytest.mark.parametrize(
    ("observations", "named"), [pytest.param(*case[1:], id=case[0]) for case in wrong_observations()]
)
def test_observations_that_do_not_fit_are_refused_by_their_column(observations, named, tmp_path):
    space = Dict({"x": Box(-1, 1, (2,)), "n": Discrete(3), "big": Box(0, 255, (2, 2), dtype=np.uint8)})
    steps = {**numbered(space, 4, 0), "observations": observations}
    with HistoryWriter(tmp_path, space, Discrete(3), environment="E-v0", algorithm="test") as writer:
        with pytest.raises(ValueError, match=named):
            writer.write(tasks=[{}], seeds=[0], lengths=[4], steps=steps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_and_rewards_that_are_not_finite_are_refused(value, tmp_path):
    space = Box(-1, 1, (2,))
    writer = HistoryWriter(tmp_path, Discrete(3), space, environment="E-v0", algorithm="test")
    steps = {**numbered(Discrete(3), 3, 0), "actions": np.zeros((3, 2))}
    for column, wrong in (("actions", np.full((3, 2), value)), ("rewards", np.array([0, value, 0]))):
        with pytest.raises(ValueError, match=f"{column} hold {value}"):
            writer.write(tasks=[{}], seeds=[0], lengths=[3], steps={**steps, column: wrong})
    tokeniser = HistoryTokeniser(space, space)
    window = random_window(3, 0, space, space)
    for column in ("actions", "observations"):
        with pytest.raises(ValueError, match=f"{column} hold .*finite"):
            tokeniser([{**window, column: np.full((3, 2), value)}])


# ---- bins of actions

BINNINGS = ["uniform", "mu_law"]


def indices_of(tokeniser: HistoryTokeniser) -> np.ndarray:
    """Every bin of the first dimension, and of the others as many as they have, `(bins, dimensions)`."""
    sizes = tokeniser.action_sizes
    return np.stack([np.arange(max(sizes)) % size for size in sizes], axis=1)


def decode(tokeniser: HistoryTokeniser, indices: np.ndarray) -> np.ndarray:
    return tokeniser.decode(torch.stack([one_hot_logits(row, tokeniser.action_sizes) for row in indices.tolist()]))


def encode(tokeniser: HistoryTokeniser, actions: np.ndarray) -> np.ndarray:
    window = {
        "observations": np.zeros(len(actions), int),
        "actions": actions,
        "rewards": np.zeros(len(actions)),
        "episode_starts": np.zeros(len(actions), bool),
    }
    return tokeniser([window])["labels"][0].numpy()


@settings(max_examples=60, deadline=None)
@given(space=boxes(bounded=True), bins=st.integers(2, 40), binning=st.sampled_from(BINNINGS))
def test_the_bin_of_a_bins_centre_is_that_bin(space, bins, binning):
    tokeniser = HistoryTokeniser(Discrete(2), space, action_bins=bins, action_binning=binning)
    assert len(tokeniser.action_sizes) == int(np.prod(space.shape))
    assert all(1 <= size <= bins for size in tokeniser.action_sizes)
    indices = indices_of(tokeniser)
    actions = decode(tokeniser, indices)
    assert actions.dtype == space.dtype and actions.shape == (len(indices), *space.shape)
    assert all(space.contains(action) for action in actions)
    np.testing.assert_array_equal(encode(tokeniser, actions), indices)
    np.testing.assert_array_equal(encode(tokeniser, actions.astype(np.float32)), indices)  # as they are recorded
    assert (np.diff(actions.reshape(len(actions), -1)[: min(tokeniser.action_sizes)].astype(float), axis=0) > 0).all()


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("bins", [2, 5, 21, 256])
def test_bins_are_monotone_symmetric_and_reach_both_bounds(binning, bins):
    tokeniser = HistoryTokeniser(Discrete(2), Box(-2, 2, (1,)), action_bins=bins, action_binning=binning)
    actions = np.linspace(-3, 3, 2001)[:, None]
    indices = encode(tokeniser, actions)[:, 0]
    assert (np.diff(indices) >= 0).all()
    assert (indices[actions[:, 0] < -1.9999] == 0).all() and (indices[actions[:, 0] > 1.9999] == bins - 1).all()
    assert bins > 50 or len(np.unique(indices)) == bins
    centres = decode(tokeniser, np.arange(bins)[:, None])[:, 0]
    np.testing.assert_array_equal(centres, -centres[::-1])
    assert not bins % 2 or centres[bins // 2] == 0


def test_uniform_bins_go_from_bound_to_bound_and_take_what_is_nearest():
    tokeniser = HistoryTokeniser(Discrete(2), Box(-1, 3, (1,), dtype=np.float64), action_bins=5)
    np.testing.assert_allclose(decode(tokeniser, np.arange(5)[:, None])[:, 0], [-1, 0, 1, 2, 3])
    edges = np.array([-1, -0.51, -0.49, 0.49, 0.51, 1.49, 1.51, 2.49, 2.51, 3])[:, None]
    assert encode(tokeniser, edges)[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("bins", [2, 21, 64])
def test_mu_law_bins_follow_the_formula(bins):
    tokeniser = HistoryTokeniser(Discrete(2), Box(-5, 5, (1,)), action_bins=bins, action_binning="mu_law")
    centres = decode(tokeniser, np.arange(bins)[:, None])[:, 0].astype(float)
    compressed = np.sign(centres) * np.log(1 + 255 * np.abs(centres) / 5) / np.log(256)
    np.testing.assert_allclose(compressed, np.linspace(-1, 1, bins), atol=1e-5)
    actions = np.random.default_rng(0).uniform(-5, 5, (3000, 1)).astype(np.float32)
    np.testing.assert_array_equal(encode(tokeniser, actions)[:, 0], np.abs(actions - centres).argmin(axis=1))


def test_whole_numbers_have_a_bin_each_if_there_are_enough():
    space = Box(np.array([0, -3, 0]), np.array([4, 3, 1000]), dtype=np.int64)
    tokeniser = HistoryTokeniser(Discrete(2), space, action_bins=7)
    assert tokeniser.action_sizes == [5, 7, 7]
    assert np.unique(decode(tokeniser, indices_of(tokeniser))[:, 1]).tolist() == [-3, -2, -1, 0, 1, 2, 3]


# ---- normalisation


def test_fitted_numbers_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    space = Dict({"a": Box(-np.inf, np.inf, (3,), dtype=np.float64), "n": Discrete(2), "b": Box(0, 9, ())})
    histories = [
        {
            "observations": {
                "a": rng.normal([5e5, -3, 0.002], [10, 0.1, 1e-4], (steps, 3)) + shift,
                "n": rng.integers(2, size=steps),
                "b": np.full(steps, 0.1),
            },
            "rewards": rng.normal(size=steps) * 300,
        }
        for steps, shift in ((50, 0), (3, 0.001), (1000, 0.002))
    ]
    tokeniser = HistoryTokeniser(space, Discrete(2)).fit(histories)
    joined = {name: np.concatenate([history["observations"][name] for history in histories]) for name in "anb"}
    steps = len(joined["n"])
    zeros, none = np.zeros(steps, dtype=int), np.zeros(steps, dtype=bool)
    rewards = np.concatenate([history["rewards"] for history in histories])
    encoded = tokeniser.encode_steps(joined, zeros, rewards, none, none)
    values = encoded["observation_values"].double()
    assert values.mean(dim=0).abs().max() < 1e-3
    torch.testing.assert_close(values[:, :3].std(dim=0, correction=0), torch.ones(3).double(), rtol=0, atol=1e-3)
    assert (values[:, 3] == 0).all() and tokeniser.observation_std[3] == 1  # what never changes
    assert encoded["previous_rewards"].square().mean().sqrt() == pytest.approx(1, abs=1e-4)
    # Numbers far from all that was seen do not drown the others.
    far = tokeniser.encode_steps(
        {"a": np.array([[1e30, -1e30, 0]]), "n": [0], "b": [0.1]}, [0], [0.0], [False], [False]
    )
    assert far["observation_values"][0, :2].tolist() == [10, -10]


def test_fitting_reads_datasets_windows_and_streams_alike_and_is_deterministic(tmp_path):
    rng = np.random.default_rng(0)
    with HistoryWriter(tmp_path / "h", NESTED, Discrete(3), environment="E-v0", algorithm="test") as writer:
        for number in range(20):
            steps = numbered(NESTED, 5 + number, number)
            steps["rewards"] = rng.normal(size=5 + number) * 40
            writer.write(tasks=[{}], seeds=[0], lengths=[5 + number], steps=steps)
    dataset = datasets.load_dataset(str(tmp_path / "h"), split="train", cache_dir=str(tmp_path / "cache"))
    whole = HistoryWindows(dataset, length=100)
    stream = datasets.load_dataset(str(tmp_path / "h"), split="train", streaming=True)
    of_all = [
        HistoryTokeniser(NESTED, Discrete(3)).fit(histories).to_dict()
        for histories in (dataset, dataset.with_format("numpy"), whole, stream, iter(list(dataset)))
    ]
    for other in of_all[1:]:
        assert other == of_all[0]
    some = HistoryTokeniser(NESTED, Discrete(3)).fit(dataset, max_histories=3).to_dict()
    chosen = HistoryTokeniser(NESTED, Discrete(3)).fit([dataset[index] for index in (0, 10, 19)]).to_dict()
    assert some == chosen != of_all[0]


@pytest.mark.parametrize("rewards", [[0.0, 1.0, -1.0], [0.5, 0.0, 0.25], [0.0, 0.0, 0.0]])
def test_discrete_observations_and_small_rewards_are_left_as_they_are(rewards):
    space = MultiDiscrete([6, 4])
    window = {**random_window(3, 0, space, Discrete(3)), "rewards": np.array(rewards, np.float32)}
    plain = HistoryTokeniser(space, Discrete(3))
    fitted = HistoryTokeniser(space, Discrete(3)).fit([window])
    assert fitted.to_dict() == plain.to_dict() and fitted.reward_scale == 1.0
    inputs = fitted([window])
    assert "observation_values" not in inputs
    np.testing.assert_array_equal(inputs["previous_rewards"][0, 1:].numpy(), window["rewards"][:-1])


def test_large_rewards_are_scaled_to_order_1():
    rewards = np.zeros(100)
    rewards[::10] = -16
    tokeniser = HistoryTokeniser(Discrete(2), Discrete(2)).fit(
        [{"observations": np.zeros(100, int), "rewards": rewards}]
    )
    assert tokeniser.reward_scale == 16
    encoded = tokeniser.encode_steps([1], [1], [-8.0], [False], [False])
    assert encoded["previous_rewards"].tolist() == [-0.5]


def test_without_fitting_the_bounds_normalise():
    space = Box(np.array([0, -4, -np.inf, -3.4e38]), np.array([100, 4, np.inf, 3.4e38]), dtype=np.float64)
    tokeniser = HistoryTokeniser(space, Discrete(2))
    encoded = tokeniser.encode_steps([[100, -4, 2.5, 2.5]], [0], [0.0], [False], [False])
    assert encoded["observation_values"].tolist() == [[1, -1, 2.5, 2.5]]


@pytest.mark.parametrize("bins", [2, 7])
def test_observations_may_be_binned(bins):
    space = Dict({"n": Discrete(3), "x": Box(-np.inf, np.inf, (2,)), "y": Box(0, 1, ())})
    steps = numbered(space, 200, 0)
    tokeniser = HistoryTokeniser(space, Discrete(3), observation_bins=bins)
    with pytest.raises(ValueError, match=rf"observations.x have no bounds.*{bins} bins.*fit"):
        tokeniser.encode_steps(steps["observations"], steps["actions"], np.zeros(200), np.zeros(200), np.zeros(200))
    tokeniser.fit(dataset_of(space, steps, Discrete(3)))
    assert tokeniser.observation_sizes == [3, bins, bins, bins] and tokeniser.observation_numbers == 0
    inputs = tokeniser([{**steps, "episode_starts": np.zeros(200, bool)}])
    assert "observation_values" not in inputs
    ids = inputs["observations"][0].numpy() - [0, 3, 3 + bins, 3 + 2 * bins]
    for column, values in ((1, steps["observations"]["x"][:, 0]), (3, steps["observations"]["y"])):
        order = np.argsort(values)
        assert (np.diff(ids[order, column]) >= 0).all()
        assert ids[order[0], column] == 0 and ids[order[-1], column] == bins - 1
        expected = np.floor((values - values.min()) / (values.max() - values.min()) * bins).clip(0, bins - 1)
        assert (ids[:, column] == expected).mean() > 0.99
    # Beyond the range, the last bins go on.
    far = {"n": np.zeros(2, int), "x": np.array([[-1e9, 1e9], [1e9, -1e9]]), "y": np.array([-5.0, 5.0])}
    encoded = tokeniser.encode_steps(far, [0, 0], [0.0, 0.0], [0, 0], [0, 0])["observations"].numpy()
    ends = (encoded - [0, 3, 3 + bins, 3 + 2 * bins])[:, 1:]
    assert ends.tolist() == [[0, bins - 1, 0], [bins - 1, 0, bins - 1]]


WRONG_ARGUMENTS = {
    "action_bins": {"action_bins": 1},
    "action_bins=21.5": {"action_bins": 21.5},
    "observation_bins": {"observation_bins": 0},
    "action_binning='log'.*'uniform'.*'mu_law'": {"action_binning": "log"},
    "reward_scale=0": {"reward_scale": 0.0},
    "reward_scale=nan": {"reward_scale": float("nan")},
    r"observation_mean=\[0.0\].*expected 3": {"observation_mean": [0.0]},
    "observation_std=.*above 0": {"observation_std": [1.0, 0.0, 1.0]},
}


@pytest.mark.parametrize(("named", "arguments"), WRONG_ARGUMENTS.items(), ids=WRONG_ARGUMENTS)
def test_arguments_out_of_range_are_refused(named, arguments):
    with pytest.raises(ValueError, match=named):
        HistoryTokeniser(Box(-1, 1, (3,)), Box(-1, 1, (2,)), **arguments)


@pytest.mark.parametrize(
    ("histories", "named"),
    [
        ([], "no history"),
        ([{"rewards": [1.0]}], "expected also .*'observations.a'"),
        ([{"observations": {"a": [[0.0]], "b": [0]}}], "rewards"),
        ([{"observations": {"a": [[0.0]] * 2, "b": [0]}, "rewards": [0.0]}], "different numbers of steps"),
        ([{"observations": {"a": [[np.nan]], "b": [0]}, "rewards": [0.0]}], "observations.a hold .*nan"),
        ([{"observations": {"a": [[0.0]], "b": [0]}, "rewards": [np.inf]}], "rewards hold"),
    ],
)
def test_histories_that_cannot_be_fitted_to_are_refused(histories, named):
    tokeniser = HistoryTokeniser(Dict({"a": Box(-1, 1, (1,)), "b": Discrete(2)}), Discrete(2))
    with pytest.raises(ValueError, match=named):
        tokeniser.fit(histories)


# ---- the model

KINDS = {
    "numbers alone": (Box(-3, 3, (4,)), Discrete(3), {}),
    "nested, torques": (NESTED, TORQUE, {"action_bins": 3}),
    "binned": (Box(-3, 3, (2,)), TORQUE, {"observation_bins": 5, "action_bins": 4, "action_binning": "mu_law"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, layout: str = "transition") -> tuple[HistoryTokeniser, Any, Any]:
    observation_space, action_space, settings = KINDS[kind]
    return HistoryTokeniser(observation_space, action_space, layout, **settings), observation_space, action_space


def model_inputs(tokeniser: HistoryTokeniser, windows: list[dict], **kwargs: Any) -> dict[str, torch.Tensor]:
    inputs = dict(tokeniser(windows, **kwargs))
    inputs.pop("labels")
    return inputs


@both_layouts
@every_kind
def test_a_model_of_continuous_observations_is_causal(kind, layout):
    tokeniser, *spaces = make(kind, layout)
    model = tiny_model(tokeniser, context_length=12)
    window, other = random_window(12, 0, *spaces), random_window(12, 1, *spaces)
    window["rewards"], other["rewards"] = np.zeros(12), np.ones(12)
    for name, first in (("observations", 7), ("actions", 8), ("rewards", 8)):

        def changed(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
            values = mine.copy()
            values[7] = others[7]
            return values

        inputs = [
            model_inputs(tokeniser, [{**window, name: values}])
            for values in (window[name], map_leaves(changed, window[name], other[name]))
        ]
        with torch.no_grad():
            difference = (model(**inputs[0]).logits - model(**inputs[1]).logits).abs().amax(dim=-1)[0]
        assert difference[:first].max() < 1e-5, name
        assert difference[first] > 1e-3, name


@both_layouts
def test_hidden_observations_hide_their_numbers(layout):
    tokeniser = HistoryTokeniser(NESTED, Discrete(3), layout)
    model = tiny_model(tokeniser, context_length=12, token_masking=0.5)
    inputs = model_inputs(tokeniser, [random_window(6, 0, NESTED, Discrete(3))])
    mask = torch.zeros(1, 6, 3, dtype=torch.bool)
    mask[0, 2, 2] = True
    changed = {**inputs, "observation_values": inputs["observation_values"].clone()}
    changed["observation_values"][0, 2] += 1
    with torch.no_grad():
        for token_mask, shows in ((mask, False), (None, True)):
            first, second = (model(**each, token_mask=token_mask).logits for each in (inputs, changed))
            assert bool((first - second).abs().max() > 1e-3) == shows


@pytest.mark.parametrize("given", [True, False])
def test_a_model_wants_the_numbers_that_it_reads_and_no_others(given):
    tokeniser = HistoryTokeniser(Discrete(4) if given else Box(-1, 1, (3,)), Discrete(2))
    inputs = model_inputs(tokeniser, [random_window(3, 0, Discrete(4) if given else Box(-1, 1, (3,)), Discrete(2))])
    inputs = {**inputs, "observation_values": torch.zeros(1, 3, 2)} if given else inputs
    if not given:
        del inputs["observation_values"]
    with pytest.raises(ValueError, match=f"observation_values were {'' if given else 'not '}given"):
        tiny_model(tokeniser)(**inputs)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"observation_sizes": []}, "nothing to observe"),
        ({"observation_sizes": [], "observation_numbers": -1}, "observation_numbers=-1"),
        ({"observation_sizes": [0], "observation_numbers": 2}, r"observation_sizes=\[0\]"),
        ({"action_sizes": []}, r"action_sizes=\[\]"),
    ],
)
def test_a_configuration_that_observes_nothing_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        AlgorithmDistillationConfig(**arguments)


@every_kind
def test_every_parameter_gets_a_gradient(kind):
    tokeniser, *spaces = make(kind)
    model = tiny_model(tokeniser).train()
    model(**tokeniser([random_window(8, 0, *spaces)])).loss.backward()
    assert all(weights.grad is not None for weights in model.parameters() if weights.requires_grad)
    if tokeniser.observation_numbers:
        assert model.embedding.observation_values.weight.grad.abs().max() > 0


@pytest.mark.parametrize("options", [{}, {"observation_bins": 16}], ids=["numbers", "bins"])
def test_what_continuous_observations_say_is_learnt(options):
    space = Dict({"x": Box(-np.inf, np.inf, (2,), dtype=np.float64), "side": Discrete(2)})

    def window(seed: int) -> dict[str, Any]:
        """Which of two numbers, of very different sizes, an action follows is said by the third part."""
        rng = np.random.default_rng(seed)
        x, side = rng.normal(size=(16, 2)), rng.integers(2, size=16)
        followed = x[np.arange(16), side][:, None] / 2
        return {
            "observations": {"x": x * [1000, 0.01] + [5000, 0], "side": side},
            "actions": followed.clip(-1, 1).astype(np.float32),
            "rewards": rng.normal(size=16) * 100,
            "episode_starts": np.zeros(16, dtype=bool),
        }

    windows = [window(seed) for seed in range(300)]
    tokeniser = HistoryTokeniser(space, Box(-1, 1, (1,)), action_bins=9, **options).fit(windows)
    model = tiny_model(tokeniser, context_length=16).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng, losses = np.random.default_rng(0), []
    for _ in range(100):
        loss = model(**tokeniser([windows[index] for index in rng.integers(250, size=16)])).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        unseen = model.eval()(**tokeniser(windows[250:])).loss.item()
    assert losses[0] > 2 and unseen < 1  # ln 9 = 2.2


# ---- acting


def lives(space: gymnasium.Space, steps: int, streams: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observations": random_elements(space, (steps, streams), rng),
        "rewards": rng.normal(size=(steps, streams)).astype(np.float32),
        "done": rng.random((steps, streams)) < 0.2,
    }


def live(agent: Any, life: dict[str, Any], streams: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Actions and logits of an agent that lives through a life, each `(steps, streams, ...)`."""
    actions, logits, original = [], [], agent.tokeniser.decode

    def listen(scores: torch.Tensor, uniforms: torch.Tensor | None = None) -> np.ndarray:
        logits.append(scores.numpy().copy())
        return original(scores, uniforms)

    for step in range(len(life["rewards"])):
        agent.tokeniser.decode = listen
        observations = map_leaves(lambda values, step=step: values[step][streams], life["observations"])
        actions.append(agent.act(observations))
        del agent.tokeniser.decode
        done = life["done"][step][streams]
        agent.observe(life["rewards"][step][streams], done, np.zeros_like(done))
    return np.stack(actions), np.stack(logits)


@both_layouts
@every_kind
def test_cached_logits_are_those_of_reading_the_whole_context_again(kind, layout):
    tokeniser, observation_space, action_space = make(kind, layout)
    model = tiny_model(tokeniser, context_length=7)
    life = lives(observation_space, 20, 2)
    actions, logits = live(model.agent(tokeniser, num_envs=2, seed=1), life)
    assert actions.dtype == action_space.dtype and actions.shape == (20, 2, *action_space.shape)
    assert all(action_space.contains(action) for step in actions for action in step)
    for stream in range(2):
        context = NaiveContext(model, tokeniser, 7)
        for step in range(20):
            observation = map_leaves(lambda values, at=(step, stream): values[at], life["observations"])
            expected = context.logits(observation).numpy()
            np.testing.assert_allclose(logits[step, stream], expected, rtol=0, atol=1e-4)
            context.add(observation, actions[step, stream], life["rewards"][step, stream], life["done"][step, stream])
    assert logits.std(axis=0).min() > 0.01


@every_kind
def test_streams_together_act_as_each_alone(kind):
    tokeniser, observation_space, _ = make(kind)
    model = tiny_model(tokeniser, context_length=6)
    life = lives(observation_space, 15, 3)
    together = live(model.agent(tokeniser, num_envs=3, action_selection="greedy"), life)
    for stream in range(3):
        alone = live(model.agent(tokeniser, num_envs=1, action_selection="greedy"), life, [stream])
        np.testing.assert_array_equal(alone[0][:, 0], together[0][:, stream])
        np.testing.assert_allclose(alone[1][:, 0], together[1][:, stream], rtol=0, atol=1e-4)


@every_kind
@pytest.mark.parametrize("flat", [True, False], ids=["as read", "as lived"])
def test_a_prompt_stands_for_what_was_lived(kind, flat):
    tokeniser, observation_space, action_space = make(kind)
    model = tiny_model(tokeniser, context_length=12)
    life = lives(observation_space, 9, 1)
    actions, logits = live(model.agent(tokeniser, num_envs=1, seed=2), life)
    first = {name: map_leaves(lambda values: values[:5, 0], life[name]) for name in life}
    starts = np.append(True, first["done"][:-1])
    prompt = {**first, "actions": actions[:5, 0], "episode_starts": starts}
    if flat:
        steps = {**first, "actions": actions[:5, 0], "terminations": first["done"], "truncations": np.zeros(5, bool)}
        prompt = HistoryWindows(dataset_of(observation_space, steps, action_space), length=5).read(0, 0)
        np.testing.assert_array_equal(prompt["episode_starts"], starts)
    if life["done"][4, 0]:
        pytest.skip("the prompt must end within an episode")
    agent = model.agent(tokeniser, num_envs=1)
    agent.reset(prompt=prompt)
    agent._episode_starts[:] = False  # the observation that follows goes on with the prompt's episode
    after = {name: map_leaves(lambda values: values[5:], life[name]) for name in life}
    again = live(agent, {name: map_leaves(lambda values: values[:1], after[name]) for name in after})[1]
    np.testing.assert_allclose(again[0], logits[5], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("observations", "named"),
    [
        ({"a": np.zeros((3, 2)), "n": [0, 0]}, r"observations.a have the shape \(3, 2\): expected 2 along"),
        ({"a": np.zeros((2, 3)), "n": [0, 0]}, r"observations.a have the shape \(2, 3\)"),
        ({"a": np.zeros((2, 2)), "n": 0}, r"observations.n have the shape \(\): expected 2 along"),
        ({"a": np.full((2, 2), np.nan), "n": [0, 0]}, "observations.a hold .*nan"),
        ({"a": np.zeros((2, 2)), "n": [0, 5]}, "observations.n hold 5"),
        ({"a": np.zeros((2, 2)), "n": [0.0, 0.0]}, "observations.n have the type float64"),
        ({"a": np.full((2, 2), "x"), "n": [0, 0]}, "observations.a have the type <U1"),
    ],
)
def test_wrong_observations_are_refused_and_harmless(observations, named):
    tokeniser = HistoryTokeniser(Dict({"a": Box(-1, 1, (2,)), "n": Discrete(3)}), Discrete(2))
    agent = tiny_model(tokeniser).agent(tokeniser, num_envs=2)
    with pytest.raises(ValueError, match=named):
        agent.act(observations)
    assert agent.context_lengths.tolist() == [0, 0]
    agent.act({"a": np.zeros((2, 2)), "n": [0, 1]})


def test_the_tokeniser_of_a_model_with_other_numbers_is_refused():
    tokeniser, other = (HistoryTokeniser(Box(-1, 1, (width,)), Discrete(2)) for width in (2, 3))
    with pytest.raises(ValueError, match="observation_numbers is 3, the model's is 2"):
        tiny_model(tokeniser).agent(other, num_envs=1)


def test_a_tokeniser_names_the_part_in_which_spaces_differ():
    tokeniser = HistoryTokeniser(NESTED, TORQUE)
    tokeniser.check_spaces(NESTED, TORQUE)
    other = Dict({**NESTED.spaces, "position": Box(-77, 3, (2,))})
    with pytest.raises(ValueError, match=r"observation space.*'position'.*-77.0"):
        tokeniser.check_spaces(other, TORQUE)
    with pytest.raises(ValueError, match=r"action space.*'high': 1.5"):
        tokeniser.check_spaces(NESTED, Box(-2, 1.5, (2,)))


# ---- saving and loading


@every_kind
def test_a_saved_checkpoint_acts_alike(kind, tmp_path):
    tokeniser, observation_space, action_space = make(kind, "interleaved")
    steps = {**numbered(observation_space, 50, 0), "rewards": np.linspace(-300, 200, 50)}
    steps["actions"] = random_elements(action_space, (50,), np.random.default_rng(0))
    tokeniser.fit(dataset_of(observation_space, steps, action_space))
    model = tiny_model(tokeniser)
    folder = save(model, tokeniser, tmp_path)
    loaded, its_tokeniser = load_checkpoint(folder)
    assert its_tokeniser.to_dict().items() >= tokeniser.to_dict().items()
    assert its_tokeniser.reward_scale == tokeniser.reward_scale > 1
    its_tokeniser.check_spaces(observation_space, action_space)
    life = lives(observation_space, 12, 2)
    expected, found = (
        live(each.agent(words, 2, seed=4), life) for each, words in ((model, tokeniser), (loaded, its_tokeniser))
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


CHECKPOINT = Path(__file__).parent / "checkpoints" / "discrete_0.1.0"


def test_a_checkpoint_from_before_there_were_numbers_reads_the_same_and_says_the_same():
    # Written by version 0.1.0 of 2026-11, with what its tokeniser and model made of these windows.
    expected = json.loads((CHECKPOINT / "expected.json").read_text())
    model, tokeniser = load_checkpoint(CHECKPOINT)
    spaces = MultiDiscrete([6, 4], start=[0, -1]), Discrete(3, start=1)
    tokeniser.check_spaces(*spaces)
    windows = [random_window(7, 7, *spaces), random_window(5, 5, *spaces, history_start=False)]
    inputs = tokeniser(windows, token_masking=0.3)
    assert {name: values.tolist() for name, values in inputs.items()} == expected["inputs"]
    with torch.no_grad():
        output = model.eval()(**inputs)
    torch.testing.assert_close(output.logits, torch.tensor(expected["logits"]), rtol=0, atol=1e-6)
    assert output.loss.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert model.config.observation_numbers == 0
    assert "observation_values" not in dict(model.embedding.named_children())


def test_a_folder_alone_is_enough_to_act_without_the_package(tmp_path):
    space = Dict({"xy": MultiDiscrete([6, 4]), "z": Box(-1, 1, (2,))})
    tokeniser = HistoryTokeniser(space, TORQUE, action_bins=5)
    model = tiny_model(tokeniser)
    folder = save(model, tokeniser, tmp_path / "model")
    code = CLEAN_PROCESS.replace(
        "agent.act(rng.integers(0, [6, 4], (2, 2)))",
        'agent.act({"xy": rng.integers(0, [6, 4], (2, 2)), "z": np.eye(2)})',
    )
    process = run_clean_process(tmp_path, str(folder), code=code)
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(process.stdout.splitlines()[-1])
    assert np.shape(result["actions"]) == (11, 2, 2)
    agent, rng, actions = model.agent(tokeniser, num_envs=2, seed=3), np.random.default_rng(5), []
    for step in range(11):
        actions.append(agent.act({"xy": rng.integers(0, [6, 4], (2, 2)), "z": np.eye(2)}).tolist())
        agent.observe(rng.normal(size=2), np.array([step % 4 == 3, step % 3 == 2]), np.zeros(2, dtype=bool))
    assert result["actions"] == actions


# ---- the whole road


class TaskWrapper(gymnasium.Wrapper):
    """An environment that is made with a task, which changes nothing in it."""

    def __init__(self, env: gymnasium.Env, task: dict[str, Any]):
        super().__init__(env)
        self.task = task


def make_wrapped(name: str, steps: int, task: dict[str, Any]) -> gymnasium.Env:
    return TaskWrapper(gymnasium.make(name, max_episode_steps=steps), task)


class ReachEnv(gymnasium.Env):
    """A point that is pushed towards a goal: nested observations, pushes within bounds, rewards in the hundreds."""

    observation_space = Dict(
        {"point": Dict({"x": Box(-np.inf, np.inf, (2,), dtype=np.float64)}), "clock": Tuple([Discrete(6)])}
    )
    action_space = Box(-1, 1, (2,), dtype=np.float32)

    def __init__(self, task: dict[str, Any], log: list | None = None):
        self.task, self.log = task, log

    def _observe(self) -> dict[str, Any]:
        return {"point": {"x": self._x.copy()}, "clock": (self._elapsed,)}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self._x, self._elapsed = self.np_random.normal(size=2) * 1000, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self._x, self._elapsed = self._x + 100 * action, self._elapsed + 1
        reward = -float(np.abs(self._x - 100 * np.array(self.task["goal"])).sum())
        return self._observe(), reward, False, self._elapsed == 5, {}


class ReachTasks(FiniteTasks):
    def tasks(self) -> list[dict[str, Any]]:
        return [{"goal": [x, y]} for x in range(3) for y in range(3)]

    def task_id(self, task: dict[str, Any]) -> str:
        return str(task["goal"])

    def check(self, task: dict[str, Any]) -> None:
        pass

    def random_return(self, task: dict[str, Any]) -> float:
        return -1.0

    optimal_return = random_return


class RandomPushes:
    """A source algorithm that keeps what it is taught, and learns nothing."""

    taught: list[tuple] = []

    def __init__(self, observation_space: Any, action_space: Any, learners: int, rng: np.random.Generator):
        self.shape, self.rng = (learners, *action_space.shape), rng

    def act(self, observations: Any) -> np.ndarray:
        return self.rng.uniform(-1, 1, self.shape).astype(np.float32)

    def learn(self, *step: Any) -> None:
        self.taught.append(step)


REACH = "algodistill-tests/Reach-v0"
gymnasium.register(REACH, ReachEnv)
gymnasium.register("algodistill-tests/CartPole-v1", partial(make_wrapped, "CartPole-v1", 20))
gymnasium.register("algodistill-tests/Pendulum-v1", partial(make_wrapped, "Pendulum-v1", 10))


def test_nested_observations_are_collected_as_they_happened(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "pushes", RandomPushes)
    monkeypatch.setattr(RandomPushes, "taught", [])
    tasks = ReachTasks().tasks()[:2]
    collection = Collection(REACH, "pushes", {"train": tasks}, learners_per_task=2, episodes=3)
    collect_histories(collection, tmp_path / "h", progress=False)
    rows = datasets.load_dataset(str(tmp_path / "h"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 4
    assert rows.features["observations.point.x"] == datasets.Array2D((None, 2), "float32")
    assert rows.features["observations.clock.0"] == datasets.List(datasets.Value("uint8"))
    for index, row in enumerate(rows):
        assert row["observations.clock.0"] == [0, 1, 2, 3, 4] * 3
        positions = np.array(row["observations.point.x"])
        moved = positions[:-1] + 100 * np.array(row["actions"])[:-1]
        inside = np.arange(14) % 5 != 4
        np.testing.assert_allclose(moved[inside], positions[1:][inside], rtol=1e-4, atol=1e-2)
        for step, (seen, actions, rewards, reached, _, truncations) in enumerate(RandomPushes.taught[:15]):
            np.testing.assert_allclose(seen["point"]["x"][index], positions[step], rtol=1e-6)
            after = seen["point"]["x"][index] + 100 * actions[index]
            np.testing.assert_allclose(reached["point"]["x"][index], after, rtol=1e-5)
            assert reached["clock"][0][index] == step % 5 + 1
            assert truncations[index] == (step % 5 == 4)
            assert row["rewards"][step] == np.float32(rewards[index])


def test_the_card_of_nested_histories_tells_every_column(tmp_path):
    with HistoryWriter(tmp_path, NESTED, TORQUE, environment="E-v0", algorithm="test") as writer:
        steps = {**numbered(NESTED, 9, 0), "actions": random_elements(TORQUE, (9,), np.random.default_rng(0))}
        steps["terminations"][-1] = True
        writer.write(tasks=[{}], seeds=[0], lengths=[9], steps=steps)
    write_dataset_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for row in (
        "`observations.arm.0` | float32 | (steps, 4) | what the learner saw",
        "`actions` | float32 | (steps, 2)",
    ):
        assert row in card


@pytest.mark.parametrize("options", [{}, {"observation_bins": 9, "action_bins": 5, "action_binning": "mu_law"}])
def test_the_main_job_distils_a_continuous_environment(options, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "pushes", RandomPushes)
    monkeypatch.setitem(TASK_DISTRIBUTIONS, REACH, ReachTasks)
    monkeypatch.chdir(tmp_path)
    preset = {"environment": REACH, "environment_kwargs": {}, "source": "pushes", "source_kwargs": {}, **options}
    write_preset(tmp_path, "reach", **preset, max_steps=2)
    running.run(["--config", "reach.yaml", "--use_cpu"], say=lambda message: None)
    model, tokeniser = load_checkpoint(tmp_path / "runs" / "reach")
    assert tokeniser.reward_scale > 100
    bins = options.get("observation_bins")
    assert model.config.observation_sizes == tokeniser.observation_sizes == [6, *([bins] * 2 if bins else [])]
    assert model.config.observation_numbers == tokeniser.observation_numbers == (0 if bins else 2)
    assert model.config.action_sizes == [options.get("action_bins", 21)] * 2
    if not bins:
        assert 500 < tokeniser.observation_std[0] < 2000
    result = json.loads((tmp_path / "runs" / "reach" / "in_context_evaluation.json").read_text())
    assert max(result["episode_return"]["mean"]) < -100


def test_training_from_a_checkpoint_keeps_its_statistics(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "pushes", RandomPushes)
    monkeypatch.setitem(TASK_DISTRIBUTIONS, REACH, ReachTasks)
    monkeypatch.chdir(tmp_path)
    tokeniser = HistoryTokeniser(ReachEnv.observation_space, ReachEnv.action_space, reward_scale=7.0, action_bins=3)
    save(tiny_model(tokeniser), tokeniser, tmp_path / "first")
    preset = {"environment": REACH, "environment_kwargs": {}, "source": "pushes", "source_kwargs": {}}
    write_preset(tmp_path, "reach", **preset, max_steps=1, model_name_or_path="first")
    running.run(["--config", "reach.yaml", "--use_cpu"], say=lambda message: None)
    _, continued = load_checkpoint(tmp_path / "runs" / "reach")
    assert continued.reward_scale == 7 and continued.action_bins == 3
    assert continued.observation_mean == tokeniser.observation_mean == [0, 0]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_classic_control_from_recording_to_evaluation(name, tmp_path):
    environment = f"algodistill-tests/{name}"
    tasks = [{"number": number} for number in range(4)]
    with contextlib.closing(gymnasium.make(environment, task=tasks[0])) as env:
        spaces = env.observation_space, env.action_space
        env.action_space.seed(0)
        with HistoryWriter(tmp_path / "h", *spaces, environment=environment, algorithm="random") as writer:
            for seed, task in enumerate(tasks):
                with writer.record(task=task, seed=seed) as history:
                    for episode in range(4):
                        observation, _ = env.reset(seed=10 * seed + episode)
                        done = False
                        while not done:
                            action = env.action_space.sample()
                            following, reward, terminated, truncated, _ = env.step(action)
                            history.append(observation, action, reward, terminated, truncated)
                            observation, done = following, terminated or truncated
    histories = datasets.load_dataset(str(tmp_path / "h"), split="train", cache_dir=str(tmp_path / "cache"))
    tokeniser = HistoryTokeniser(*spaces).fit(histories)
    assert (tokeniser.reward_scale == 1) == (name == "CartPole-v1")
    torch.manual_seed(0)
    model = AlgorithmDistillationModel(
        AlgorithmDistillationConfig(
            observation_sizes=tokeniser.observation_sizes,
            observation_numbers=tokeniser.observation_numbers,
            action_sizes=tokeniser.action_sizes,
            context_length=24,
            environment=environment,
            test_tasks=tasks[:2],
        )
    )
    before = model.embedding.observation_values.weight.detach().clone()
    arguments = algodistill.AlgorithmDistillationTrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    trainer = algodistill.AlgorithmDistillationTrainer(
        model, arguments, processing_class=tokeniser, train_dataset=HistoryWindows(histories, length=24)
    )
    trainer.train()
    trainer.save_model()
    assert not torch.equal(model.embedding.observation_values.weight, before)
    result = algodistill.evaluate(model, tokeniser, episodes=2, streams=4)
    returns = np.array(result["episode_return"]["mean"])
    assert returns.shape == (2,) and np.isfinite(returns).all()
    assert (returns > 0).all() if name == "CartPole-v1" else (returns < 0).all()
    from_disk = algodistill.evaluate(tmp_path / "run", episodes=2, streams=4)
    assert from_disk["episode_return"] == result["episode_return"]


def test_vectorised_environments_of_nested_spaces_are_acted_in_as_single_ones():
    tokeniser = HistoryTokeniser(ReachEnv.observation_space, ReachEnv.action_space, reward_scale=1000.0)
    model = tiny_model(tokeniser, context_length=6)
    tasks = ReachTasks().tasks()[:3]

    def run(chosen: list[dict[str, Any]], seeds: list[int]) -> np.ndarray:
        makers: list[Callable] = [partial(gymnasium.make, REACH, task=task) for task in chosen]
        envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        agent = model.agent(tokeniser, num_envs=len(chosen), action_selection="greedy")
        observations, _ = envs.reset(seed=seeds)
        actions = []
        for _ in range(13):
            actions.append(agent.act(observations))
            observations, rewards, terminations, truncations, _ = envs.step(actions[-1])
            agent.observe(rewards, terminations, truncations)
        envs.close()
        return np.stack(actions, axis=1)

    together = run(tasks, [1, 2, 3])
    alone = np.concatenate([run([task], [seed]) for task, seed in zip(tasks, [1, 2, 3], strict=True)])
    np.testing.assert_array_equal(together, alone)
    assert together.shape == (3, 13, 2) and together.dtype == np.float32


def test_slices_of_nested_windows_carry_the_previous_action():
    tokeniser, *spaces = make("nested, torques")
    whole = random_window(9, 3, *spaces)
    inside = tokeniser([slice_window(whole, 4, 9)])
    for name, values in tokeniser([whole]).items():
        torch.testing.assert_close(inside[name][0], values[0, 4:], rtol=0, atol=0)
