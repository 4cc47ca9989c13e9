"""Reading windows: they equal a naive reading of the history, transition by transition, wherever they lie in it."""

import itertools
import math
import tracemalloc
from dataclasses import dataclass
from fractions import Fraction

import datasets
import numpy as np
import pyarrow as pa
import pytest
from gymnasium.spaces import Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from algodistill import HistoryWindows, HistoryWriter
from algodistill.histories.schema import COLUMNS, history_table
from algodistill.histories.windows import check_histories


NUMBERS = 50_000
SPACES = {
    "scalars": (Discrete(NUMBERS, start=-7), Discrete(NUMBERS)),
    "vectors": (MultiDiscrete([NUMBERS, 3]), MultiDiscrete([NUMBERS, 2, 2])),
}


@dataclass
class Transition:
    observation: list[int] | int
    action: list[int] | int
    reward: float
    terminated: bool
    truncated: bool


def make_histories(shapes, spaces: str) -> list[list[Transition]]:
    """Histories of transitions that all differ; a shape is (episode lengths, length of an unfinished last episode)."""
    number = itertools.count(1)
    histories = []
    for lengths, unfinished in shapes:
        history = []
        for index, length in enumerate([*lengths, unfinished]):
            for step in range(length):
                n = next(number)
                end = step == length - 1 and index < len(lengths)
                observation, action = (n, n + 1) if spaces == "scalars" else ([n, n % 3], [n + 1, n % 2, 1])
                # An episode ends in one of three ways.
                history.append(Transition(observation, action, n / 4, end and n % 3 != 1, end and n % 3 != 2))
        histories.append(history)
    return histories


def make_dataset(histories: list[list[Transition]], spaces: str, environment: str = "E-v0") -> datasets.Dataset:
    joined = [transition for history in histories for transition in history]
    steps = {
        "observations": np.array([transition.observation for transition in joined]),
        "actions": np.array([transition.action for transition in joined]),
        "rewards": np.array([transition.reward for transition in joined]),
        "terminations": np.array([transition.terminated for transition in joined]),
        "truncations": np.array([transition.truncated for transition in joined]),
    }
    descriptions = [
        {"id": str(index), "task": "{}", "environment": environment, "algorithm": "test", "seed": 0}
        for index in range(len(histories))
    ]
    lengths = np.array([len(history) for history in histories])
    return datasets.Dataset(history_table(*SPACES[spaces], descriptions, lengths, steps))


def naively_kept(
    history: list[Transition],
    first: int,
    last: int | None,
    stride: int,
    share: float | None = None,
    quantile: float | None = None,
    returns_to_go: bool = False,
) -> list[tuple]:
    """The (transition, whether an episode starts there) of the kept episodes, one after the other."""
    episodes, episode = [], []
    for transition in history:
        episode.append(transition)
        if transition.terminated or transition.truncated:
            episodes.append(episode)
            episode = []
    if episode:
        episodes.append(episode)
    episodes = [
        episode for index, episode in enumerate(episodes) if index >= first and (last is None or index <= last)
    ]
    if share is not None:
        experts = math.ceil(Fraction(str(share)) * len(episodes))
        episodes = [episode for index, episode in enumerate(episodes) if index >= len(episodes) - experts]
    if returns_to_go or quantile is not None:
        # What an unfinished episode returns is not known.
        episodes = [episode for episode in episodes if episode[-1].terminated or episode[-1].truncated]
    if quantile is not None:
        returns = [sum(transition.reward for transition in episode) for episode in episodes]
        enough = naive_quantile(returns, quantile) if returns else 0
        episodes = [episode for episode, achieved in zip(episodes, returns, strict=True) if achieved >= enough]
    return [
        (transition, step == 0)
        for index, episode in enumerate(episodes)
        if index % stride == 0
        for step, transition in enumerate(episode)
    ]


def naive_quantile(values: list[float], quantile: float) -> float:
    """Between the two of the sorted values that are nearest, as far along as the quantile says."""
    ordered, place = sorted(values), quantile * (len(values) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (place - math.floor(place)) * (above - below)


def naive_return_to_go(kept: list[tuple], place: int) -> float:
    """The rewards from a transition on, up to where the next episode starts."""
    to_come = itertools.takewhile(lambda step: not step[1], kept[place + 1 :])
    return kept[place][0].reward + sum(transition.reward for transition, _ in to_come)


def assert_window_equals(window: dict, kept: list[tuple], start: int, length: int) -> None:
    expected = kept[start : start + length]
    assert window["observations"].tolist() == [transition.observation for transition, _ in expected]
    assert window["actions"].tolist() == [transition.action for transition, _ in expected]
    assert window["rewards"].tolist() == [transition.reward for transition, _ in expected]
    assert window["episode_starts"].tolist() == [starts for _, starts in expected]
    assert window["history_start"].shape == () and window["history_start"] == (start == 0)
    assert window["previous_action"].shape == window["actions"].shape[1:]
    assert window["previous_reward"].shape == ()
    if "returns_to_go" in window:
        to_go = [naive_return_to_go(kept, start + step) for step in range(len(expected))]
        assert window["returns_to_go"].tolist() == pytest.approx(to_go, rel=1e-6)
    if start == 0:
        assert not window["previous_action"].any() and window["previous_reward"] == 0
    else:
        before = kept[start - 1][0]
        assert window["previous_action"].tolist() == before.action and window["previous_reward"] == before.reward


@st.composite
def reading(draw):
    """A few histories, at least one with a kept transition, and how to read them."""
    shape = st.tuples(st.lists(st.integers(1, 5), max_size=6), st.integers(0, 4)).filter(lambda s: s[0] or s[1])
    shapes = draw(st.lists(shape, min_size=1, max_size=4), label="shapes")
    spaces = draw(st.sampled_from(sorted(SPACES)), label="spaces")
    first = draw(st.integers(0, 2), label="first_episode")
    last = draw(st.none() | st.integers(first, 6), label="last_episode")
    stride = draw(st.integers(1, 3), label="episode_stride")
    share = draw(st.none() | st.sampled_from([0, 0.01, 0.25, 0.5, 0.67, 1.0]), label="expert_share")
    quantile = draw(st.none() | st.sampled_from([0, 0.1, 0.5, 0.75, 1.0]), label="expert_quantile")
    length = draw(st.integers(1, 12), label="length")
    histories = make_histories(shapes, spaces)
    # Few different rewards, so that episodes return the same.
    rewards = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, -0.25, -1000.0, 2.0**20]), min_size=1, max_size=9))
    for transition, reward in zip(itertools.chain(*histories), itertools.cycle(rewards), strict=False):
        transition.reward = reward
    returns_to_go = draw(st.booleans(), label="returns_to_go")
    kept = [naively_kept(history, first, last, stride, share, quantile, returns_to_go) for history in histories]
    selection = {
        "first_episode": first,
        "last_episode": last,
        "episode_stride": stride,
        "expert_share": share,
        "expert_quantile": quantile,
        "returns_to_go": returns_to_go,
    }
    return histories, spaces, kept, length, selection


@given(reading())
@settings(max_examples=250, deadline=None)
def test_windows_equal_a_naive_reading_wherever_they_start(case):
    histories, spaces, kept, length, selection = case
    dataset = make_dataset(histories, spaces)
    if not any(kept):
        with pytest.raises(ValueError, match="No transition"):
            HistoryWindows(dataset, length, **selection)
        return
    windows = HistoryWindows(dataset, length, **selection)
    for index, transitions in enumerate(kept):
        for start in range(len(transitions)):
            window = windows.read(index, start)
            assert ("returns_to_go" in window) == selection["returns_to_go"]
            assert_window_equals(window, transitions, start, length)
        for outside in (-1, len(transitions)):
            with pytest.raises(IndexError):
                windows.read(index, outside)


@given(reading(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_windows_of_an_epoch_cover_each_history_by_its_length_and_never_leave_it(case, start_share, seed, epoch):
    histories, spaces, kept, length, selection = case
    if not any(kept):
        return
    windows = HistoryWindows(make_dataset(histories, spaces), length, start_share=start_share, seed=seed, **selection)
    windows.set_epoch(epoch)
    expected_histories = [
        index for index, transitions in enumerate(kept) for _ in range(-(-len(transitions) // length))
    ]
    assert len(windows) == len(expected_histories)
    for index, history in enumerate(expected_histories):
        window = windows[index]
        transitions = kept[history]
        # All observations differ, so the first one tells where the window starts.
        start = [transition.observation for transition, _ in transitions].index(window["observations"][0].tolist())
        assert_window_equals(window, transitions, start, length)
        assert len(window["rewards"]) == min(length, len(transitions))
        assert start == 0 or start_share < 1
    for outside in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows[outside]


@pytest.mark.parametrize("spaces", SPACES)
def test_context_goes_on_across_a_kept_episodes_end(spaces):
    """Of episodes of 3 steps, 0, 2 and 4 are kept; what comes before episode 2 is the last step of episode 0."""
    (history,) = make_histories([([3] * 5, 2)], spaces)
    windows = HistoryWindows(make_dataset([history], spaces), 4, episode_stride=2)
    assert windows.transitions.tolist() == [9]
    for start, origins in ((0, [0, 1, 2, 6]), (2, [2, 6, 7, 8]), (3, [6, 7, 8, 12]), (6, [12, 13, 14])):
        window = windows.read(0, start)
        assert window["rewards"].tolist() == [history[origin].reward for origin in origins]
        assert window["episode_starts"].tolist() == [origin in (0, 6, 12) for origin in origins]
    across = windows.read(0, 3)
    assert across["previous_action"].tolist() == history[2].action
    assert across["previous_reward"] == history[2].reward
    assert not across["history_start"]


def test_first_kept_episode_begins_a_history():
    (history,) = make_histories([([3] * 5, 0)], "scalars")
    window = HistoryWindows(make_dataset([history], "scalars"), 4, first_episode=2).read(0, 0)
    assert window["rewards"][0] == history[6].reward
    assert window["history_start"] and window["previous_action"] == 0 and window["previous_reward"] == 0


def test_last_episode_may_be_unfinished_and_is_kept_like_any_other():
    (history,) = make_histories([([2, 2], 3)], "scalars")
    dataset = make_dataset([history], "scalars")
    assert HistoryWindows(dataset, 10).read(0, 0)["episode_starts"].tolist() == [1, 0, 1, 0, 1, 0, 0]
    assert HistoryWindows(dataset, 10, last_episode=1).transitions.tolist() == [4]
    assert HistoryWindows(dataset, 10, first_episode=2).transitions.tolist() == [3]
    assert HistoryWindows(dataset, 10, episode_stride=2).transitions.tolist() == [5]


def test_history_of_which_nothing_is_kept_has_no_window():
    histories = make_histories([([2], 0), ([2, 2, 2], 0), ([2], 0)], "scalars")
    windows = HistoryWindows(make_dataset(histories, "scalars"), 3, first_episode=1)
    assert windows.transitions.tolist() == [0, 4, 0]
    assert len(windows) == 2
    own = {transition.observation for transition in histories[1][2:]}
    for epoch in range(5):
        windows.set_epoch(epoch)
        assert all(set(windows[index]["observations"].tolist()) <= own for index in range(2))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"expert_share": 0.5}, [3, 4, 5]),
        ({"expert_share": 0.4}, [3, 4, 5]),  # rounded up
        ({"expert_share": 1e-3}, [5]),
        ({"expert_share": 1.0}, [0, 1, 2, 3, 4, 5]),
        ({"expert_share": 0.5, "last_episode": 3}, [2, 3]),  # of what else is kept
        ({"expert_share": 0.5, "episode_stride": 2}, [3, 5]),
        ({"expert_quantile": 0}, [0, 1, 2, 3, 4]),  # what the unfinished one returns is not known
        ({"expert_quantile": 1}, [1, 3]),  # two that do equally well
        ({"expert_quantile": 0.5}, [1, 3, 4]),
        ({"expert_quantile": 0.51}, [1, 3]),
        ({"expert_quantile": 1, "last_episode": 2}, [1]),
        ({"expert_quantile": 0.5, "expert_share": 0.5}, [3]),
        ({"expert_quantile": 0, "episode_stride": 2}, [0, 2, 4]),
    ],
)
def test_experts_are_the_last_episodes_or_the_best(selection, expected):
    (history,) = make_histories([([2] * 5, 1)], "scalars")
    for episode, achieved in enumerate([-3.0, 7.0, 0.0, 7.0, 1.5, 100.0]):
        history[2 * episode].reward = achieved
    for transition in history[1::2]:
        transition.reward = 0.0
    windows = HistoryWindows(make_dataset([history], "scalars"), 12, **selection)
    window = windows.read(0, 0)
    numbers = {transition.observation: step // 2 for step, transition in enumerate(history)}
    assert [numbers[first] for first in window["observations"][window["episode_starts"]].tolist()] == expected
    assert windows.transitions.tolist() == [len(window["rewards"])]
    assert window["history_start"]


@pytest.mark.parametrize(("share", "expected"), [(0.07, 7), (0.55, 55), (0.29, 29), (0.291, 30), (1.0, 100)])
def test_a_share_of_a_hundred_episodes_is_not_rounded_up_beyond_itself(share, expected):
    """In floating point, 0.07 * 100 is more than 7."""
    dataset = make_dataset(make_histories([([1] * 100, 0)], "scalars"), "scalars")
    assert HistoryWindows(dataset, 4, expert_share=share).transitions.tolist() == [expected]


def test_experts_of_which_nothing_is_left_are_named():
    dataset = make_dataset(make_histories([([], 3)] * 2, "scalars"), "scalars")
    for selection, named in (({"expert_share": 0.0}, "expert_share=0.0"), ({"expert_quantile": 0}, "quantile=0")):
        with pytest.raises(ValueError, match=f"No transition is left to read: 2 histories.*{named}"):
            HistoryWindows(dataset, 2, **selection)


@pytest.mark.parametrize("spaces", SPACES)
def test_what_is_to_come_of_a_return_counts_steps_beyond_the_window_and_none_of_another_episode(spaces):
    (history,) = make_histories([([3, 3, 2], 2)], spaces)
    for transition, reward in zip(history, [1, 2, 4, -8, 16, -32, 64, 128, 256, 512], strict=True):
        transition.reward = float(reward)
    dataset = make_dataset([history], spaces)
    windows = HistoryWindows(dataset, 3, returns_to_go=True)
    for start, expected in ((0, [7, 6, 4]), (1, [6, 4, -24]), (4, [-16, -32, 192]), (7, [128])):
        returns = windows.read(0, start)["returns_to_go"]
        assert returns.tolist() == expected and returns.dtype == np.float32
    # The episode that the history breaks off, whose return is not known, is left out.
    assert windows.transitions.tolist() == [8] and HistoryWindows(dataset, 3).transitions.tolist() == [10]
    # What is left out between two episodes does not count either.
    strided = HistoryWindows(dataset, 3, returns_to_go=True, episode_stride=2)
    assert [strided.read(0, start)["returns_to_go"].tolist() for start in (1, 2)] == [[6, 4, 192], [4, 192, 128]]
    assert "returns_to_go" not in HistoryWindows(dataset, 3).read(0, 0)


def test_small_rewards_are_not_lost_beside_large_ones():
    """In single precision, the sum from the front would drop them."""
    (history,) = make_histories([([4], 0)], "scalars")
    for transition, reward in zip(history, [1e8, -1e8, 0.25, 0.5], strict=True):
        transition.reward = reward
    window = HistoryWindows(make_dataset([history], "scalars"), 4, returns_to_go=True).read(0, 0)
    assert window["returns_to_go"].tolist() == [0.75, -(10.0**8), 0.75, 0.5]


def test_values_keep_the_small_types_of_the_file():
    window = HistoryWindows(make_dataset(make_histories([([3], 0)], "vectors"), "vectors"), 2)[0]
    assert window["observations"].dtype == window["actions"].dtype == np.uint16
    assert window["rewards"].dtype == window["previous_reward"].dtype == np.float32
    assert window["episode_starts"].dtype == window["history_start"].dtype == np.bool_


@pytest.fixture(scope="module")
def long_dataset():
    """200 histories of 10 episodes of 10 steps."""
    return make_dataset(make_histories([([10] * 10, 0)] * 200, "scalars"), "scalars")


@pytest.mark.parametrize("start_share", [0.0, 0.3, 1.0])
def test_share_of_windows_at_the_start(long_dataset, start_share):
    windows = HistoryWindows(long_dataset, 20, start_share=start_share)
    starts = []
    for epoch in range(2):
        windows.set_epoch(epoch)
        starts += [windows[index]["history_start"] for index in range(len(windows))]
    assert len(starts) == 2000
    # One of the 81 places where any other window may start is the beginning, too.
    expected = start_share + (1 - start_share) / 81
    assert np.mean(starts) == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 2000) + 1e-9)


def test_windows_elsewhere_start_uniformly_up_to_the_very_end(long_dataset):
    windows = HistoryWindows(long_dataset, 20)
    starts = []
    for epoch in range(3):
        windows.set_epoch(epoch)
        starts += [(windows[index]["observations"][0] - 1) % 100 for index in range(len(windows))]
    counts = np.bincount(starts, minlength=81)
    assert len(counts) == 81
    expected = len(starts) / 81
    assert counts.min() > 0
    # Chi-square with 80 degrees of freedom: mean 80, standard deviation 12.6.
    assert ((counts - expected) ** 2 / expected).sum() < 80 + 4 * 12.7


def assert_same_windows(first: HistoryWindows, second: HistoryWindows, indices) -> None:
    for index in indices:
        one, other = first[index], second[index]
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_window_depends_on_seed_epoch_and_index_alone(long_dataset):
    windows = HistoryWindows(long_dataset, 20, start_share=0.3, seed=5)
    again = HistoryWindows(long_dataset, 20, start_share=0.3, seed=5)
    [again[index] for index in range(50)]
    assert_same_windows(windows, again, reversed(range(100)))
    windows.set_epoch(3)
    again.set_epoch(1)
    [again[index] for index in range(50)]
    again.set_epoch(3)
    assert_same_windows(windows, again, range(100))


def test_another_epoch_or_seed_draws_other_windows(long_dataset):
    def first_observations(seed, epoch):
        windows = HistoryWindows(long_dataset, 20, seed=seed)
        windows.set_epoch(epoch)
        drawn = [windows[index] for index in range(100)]
        return [window["observations"][0] for window in drawn], {int(window["seed"]) for window in drawn}

    draws = [first_observations(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for (starts, seeds), (other_starts, other_seeds) in itertools.combinations(draws, 2):
        assert np.mean(np.equal(starts, other_starts)) < 0.2
        assert len(seeds) == 100 and not seeds & other_seeds


@pytest.mark.parametrize("spaces", SPACES)
@pytest.mark.parametrize(
    ("rearrange", "order"),
    [
        (lambda dataset: dataset.select([2, 0, 2]), [2, 0, 2]),
        (lambda dataset: dataset.select(range(1, 4)), [1, 2, 3]),
        (lambda dataset: dataset.shuffle(seed=3), None),
        (lambda dataset: dataset.shard(2, 1, contiguous=False), [1, 3]),
        (lambda dataset: dataset.with_format("numpy"), [0, 1, 2, 3]),
        (lambda dataset: datasets.concatenate_datasets([dataset, dataset]), [0, 1, 2, 3] * 2),
        (lambda dataset: dataset.filter(lambda row: row["id"] in "13"), [1, 3]),
        (lambda dataset: dataset.map(lambda row: {"task": row["task"] + " "}), [0, 1, 2, 3]),
    ],
    ids=["select", "range", "shuffle", "shard", "format", "concatenate", "filter", "map"],
)
def test_rearranged_dataset_is_read_in_its_new_order(spaces, rearrange, order):
    histories = make_histories([([3, 1], 2), ([], 4), ([2, 2, 5], 0), ([1], 1)], spaces)
    dataset = rearrange(make_dataset(histories, spaces))
    if order is None:
        order = [int(row_id) for row_id in dataset["id"]]
        assert sorted(order) == [0, 1, 2, 3] != order
    windows = HistoryWindows(dataset, 3)
    assert windows.transitions.tolist() == [len(histories[index]) for index in order]
    for index, origin in enumerate(order):
        kept = naively_kept(histories[origin], 0, None, 1)
        for start in range(len(kept)):
            assert_window_equals(windows.read(index, start), kept, start, 3)


def test_many_histories_are_all_counted():
    """More than are read at once when they are counted."""
    lengths = [1 + index % 3 for index in range(2300)]
    dataset = make_dataset(
        make_histories([([length], index % 2) for index, length in enumerate(lengths)], "scalars"), "scalars"
    )
    expected = [length + index % 2 for index, length in enumerate(lengths)]
    assert HistoryWindows(dataset, 2).transitions.tolist() == expected
    backwards = dataset.select(range(2299, -1, -1))
    assert HistoryWindows(backwards, 2).transitions.tolist() == expected[::-1]


@pytest.mark.parametrize("rearranged", [False, True])
def test_reading_does_not_copy_the_history(tmp_path, rearranged):
    """A window of a history of ten million bytes takes thousands."""
    transitions = 1_000_000
    numbers = np.arange(transitions)
    ends = numbers % 1000 == 999
    steps = {
        "observations": np.stack([numbers % NUMBERS, numbers % 3], axis=1),
        "actions": np.stack([numbers % NUMBERS, numbers % 2, numbers % 2], axis=1),
        "rewards": numbers % 7,
        "terminations": ends,
        "truncations": ends,
    }
    with HistoryWriter(tmp_path / "histories", *SPACES["vectors"], environment="E-v0", algorithm="test") as writer:
        writer.write(tasks=[{}], seeds=[0], lengths=[transitions], steps=steps)
    dataset = datasets.load_dataset(str(tmp_path / "histories"), cache_dir=str(tmp_path / "cache"))["train"]
    windows = HistoryWindows(dataset.select([0]) if rearranged else dataset, 100)
    windows.read(0, 5)

    arrow, before = pa.default_memory_pool(), pa.total_allocated_bytes()
    # Everything that Arrow allocates from here on goes through a pool whose peak is known.
    watched = pa.proxy_memory_pool(arrow)
    pa.set_memory_pool(watched)
    tracemalloc.start()
    try:
        window = windows.read(0, transitions - 100)
        numpy_peak = tracemalloc.get_traced_memory()[1]
        arrow_peak = watched.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(arrow)
    assert window["observations"][-1].tolist() == [(transitions - 1) % NUMBERS, (transitions - 1) % 3]
    assert numpy_peak < 1_000_000
    assert arrow_peak < 1_000_000
    assert pa.total_allocated_bytes() - before < 1_000_000


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column_is_named(column):
    dataset = make_dataset(make_histories([([3], 0)], "scalars"), "scalars").remove_columns(column)
    with pytest.raises(ValueError, match=rf"lacks the columns \['{column}'\]"):
        HistoryWindows(dataset, 2)


def test_dataset_without_a_kept_transition_is_refused():
    dataset = make_dataset(make_histories([([3, 3], 0)], "scalars"), "scalars")
    with pytest.raises(ValueError, match="No transition is left to read: 0 histories"):
        HistoryWindows(dataset.select([]), 2)
    with pytest.raises(ValueError, match="No transition is left to read: 1 histories.*episodes 2 to the last"):
        HistoryWindows(dataset, 2, first_episode=2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"length": 0}, "length=0"),
        ({"length": -1}, "length=-1"),
        ({"episode_stride": 0}, "episode_stride=0"),
        ({"first_episode": -1}, "first_episode=-1"),
        ({"first_episode": 2, "last_episode": 1}, "last_episode=1"),
        ({"last_episode": -1}, "last_episode=-1"),
        ({"start_share": -0.1}, "start_share=-0.1"),
        ({"start_share": 1.1}, "start_share=1.1"),
        ({"start_share": float("nan")}, "start_share=nan"),
        ({"expert_share": -0.1}, "expert_share=-0.1"),
        ({"expert_share": 1.1}, "expert_share=1.1"),
        ({"expert_share": float("nan")}, "expert_share=nan"),
        ({"expert_quantile": -0.1}, "expert_quantile=-0.1"),
        ({"expert_quantile": 50}, "expert_quantile=50"),
        ({"expert_quantile": float("nan")}, "expert_quantile=nan"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_argument_out_of_range_is_refused_by_name(arguments, named):
    dataset = make_dataset(make_histories([([3, 3], 0)], "scalars"), "scalars")
    with pytest.raises(ValueError, match=named):
        HistoryWindows(dataset, **{"length": 2, **arguments})


def test_histories_of_another_environment_are_refused_by_name():
    histories = make_histories([([3], 0)], "scalars")
    own, other = (make_dataset(histories, "scalars", environment=name) for name in ("Own-v0", "Other-v0"))
    check_histories(own["environment"], own["task"], "Own-v0")
    with pytest.raises(ValueError, match="Other-v0, expected only Own-v0"):
        check_histories(other["environment"], other["task"], "Own-v0")
    both = datasets.concatenate_datasets([own, other])
    with pytest.raises(ValueError, match="histories of Other-v0, expected only Own-v0"):
        check_histories(both["environment"], both["task"], "Own-v0")


def test_histories_of_held_out_tasks_are_refused():
    tasks = ['{"goal": [0, 1]}', '{"goal": [2, 2]}']
    check_histories(["Own-v0"], tasks, "Own-v0", [{"goal": [1, 1]}])
    with pytest.raises(ValueError, match=r"1 of the tasks to evaluate on, such as \{\"goal\": \[2, 2\]\}"):
        check_histories(["Own-v0"], tasks, "Own-v0", [{"goal": [2, 2]}])
