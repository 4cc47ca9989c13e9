"""Reading windows out of a stream: the same windows as from a table, each history its share, no process twice."""

import itertools
import pickle
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from gymnasium.spaces import Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_hub import LoopbackHub, Request
from test_windows import SPACES, Transition, assert_window_equals, make_dataset, make_histories, naively_kept, reading
from torch.utils.data import DataLoader

from algodistill import HistoryWindows, HistoryWriter, StreamedHistoryWindows
from algodistill.histories import streaming, writing
from algodistill.histories.schema import COLUMNS


History = list[Transition]
TASKS = [{"goal": [0, 1]}, {"goal": [2, 2]}]


def write_histories(
    folder: Path,
    parts: Sequence[Sequence[History]],
    spaces: str = "scalars",
    environment: str = "E-v0",
    task: dict | None = None,
) -> Path:
    """Write each part as a shard of its own."""
    writer = HistoryWriter(folder, *SPACES[spaces], environment=environment, algorithm="test", shard_megabytes=1e-9)
    with writer:
        for histories in parts:
            joined = [transition for history in histories for transition in history]
            steps = {
                "observations": np.array([transition.observation for transition in joined]),
                "actions": np.array([transition.action for transition in joined]),
                "rewards": np.array([transition.reward for transition in joined]),
                "terminations": np.array([transition.terminated for transition in joined]),
                "truncations": np.array([transition.truncated for transition in joined]),
            }
            lengths = [len(history) for history in histories]
            writer.write(tasks=[task or {}] * len(lengths), seeds=[0] * len(lengths), lengths=lengths, steps=steps)
    return folder


def open_stream(folder: Path | str) -> datasets.IterableDataset:
    return datasets.load_dataset(str(folder), split="train", streaming=True)


def stream_of(histories: Sequence[History], spaces: str = "scalars", shards: int = 1) -> datasets.IterableDataset:
    """A stream that no file is read for."""
    return make_dataset(list(histories), spaces).to_iterable_dataset(num_shards=shards)


def take(windows: Iterable[dict], count: int) -> list[dict]:
    return list(itertools.islice(windows, count))


def places(windows: Iterable[dict], kept: Sequence[list[tuple]], length: int) -> list[tuple[int, int]]:
    """The history of each window and where in it the window starts, once each equals a naive reading from there."""
    where = {
        str(transition.observation): (index, start)
        for index, transitions in enumerate(kept)
        for start, (transition, _) in enumerate(transitions)
    }
    found = []
    for window in windows:
        index, start = where[str(window["observations"][0].tolist())]
        assert_window_equals(window, kept[index], start, length)
        assert len(window["rewards"]) == min(length, len(kept[index]))
        found.append((index, start))
    return found


def whole(histories: Sequence[History]) -> list[list[tuple]]:
    return [naively_kept(history, 0, None, 1) for history in histories]


def assert_equal_windows(found: Sequence[dict], expected: Sequence[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
            assert one[key].dtype == other[key].dtype


@pytest.fixture
def row_groups_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every history is a row group of its own, hence a part."""
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 1)


@pytest.fixture(scope="module")
def twelve() -> list[History]:
    """Histories that a window of 20 holds whole."""
    return make_histories([([3, 2], index % 3) for index in range(12)], "scalars")


@pytest.fixture(scope="module")
def twelve_parts(twelve: list[History], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve in four shards of three row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_BYTES", 1)
        folder = write_histories(tmp_path_factory.mktemp("twelve"), [twelve[i : i + 3] for i in range(0, 12, 3)])
    files = sorted(folder.rglob("*.parquet"))
    assert [pyarrow.parquet.read_metadata(file).num_row_groups for file in files] == [3] * 4
    return folder


@given(reading(), st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_pass_covers_each_history_by_its_length(case, shards, start_share, seed):
    histories, spaces, kept, length, selection = case
    stream = stream_of(histories, spaces, min(shards, len(histories)))
    windows = StreamedHistoryWindows(stream, length, start_share=start_share, seed=seed, **selection)
    if not any(kept):
        for read in (lambda: next(iter(windows)), windows.first):
            with pytest.raises(ValueError, match="No transition is left to read of the stream"):
                read()
        return
    share = {index: -(-len(transitions) // length) for index, transitions in enumerate(kept) if transitions}
    per_pass = sum(share.values())
    endless = iter(windows)
    for _ in range(3):
        found = places(take(endless, per_pass), kept, length)
        assert Counter(index for index, _ in found) == share
        assert start_share < 1 or {start for _, start in found} == {0}
    assert places([windows.first()], kept, length)


@pytest.mark.parametrize("spaces", SPACES)
@pytest.mark.parametrize("group_bytes", [1, 100, 8 * 2**20])
@pytest.mark.parametrize(
    ("selection", "shares"),
    [
        ({"episode_stride": 2}, {0: 2, 1: 2, 2: 2, 3: 1, 4: 4}),
        ({"expert_share": 0.5, "returns_to_go": True}, {0: 1, 2: 2, 4: 3}),
        ({"expert_quantile": 0.9, "returns_to_go": True}, {0: 1, 2: 2, 3: 1, 4: 2}),
    ],
    ids=["stride", "share", "quantile"],
)
def test_windows_of_files_are_those_of_the_same_files_read_as_a_table(
    tmp_path, monkeypatch, spaces, group_bytes, selection, shares
):
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", group_bytes)
    histories = make_histories([([3, 1, 4], 2), ([], 7), ([2, 2, 5], 0), ([1], 1), ([6] * 4, 3)], spaces)
    folder = write_histories(tmp_path / "histories", [histories[:3], histories[3:]], spaces)
    selection = {"last_episode": 4, **selection}
    table = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    read_as_table = HistoryWindows(table, 4, **selection)
    naive = [selection.get(name) for name in ("expert_share", "expert_quantile", "returns_to_go")]
    kept = [naively_kept(history, 0, 4, selection.get("episode_stride", 1), *naive) for history in histories]
    endless = iter(StreamedHistoryWindows(open_stream(folder), 4, **selection))
    for _ in range(4):
        windows = take(endless, len(read_as_table))
        found = places(windows, kept, 4)
        assert Counter(index for index, _ in found) == Counter(shares)
        expected = [
            {**read_as_table.read(index, start), "seed": window["seed"]}
            for (index, start), window in zip(found, windows, strict=True)
        ]
        assert_equal_windows(windows, expected)
    assert windows[0]["seed"].shape == ()
    assert ("returns_to_go" in windows[0]) == ("returns_to_go" in selection)


def test_windows_start_everywhere_and_at_the_beginning_as_often_as_asked():
    histories = make_histories([([10] * 5, 0)] * 40, "scalars")
    for share in (0.0, 0.3, 1.0):
        windows = take(StreamedHistoryWindows(stream_of(histories), 10, start_share=share), 2000)
        starts = np.array([start for _, start in places(windows, whole(histories), 10)])
        # One of the 41 places where any other window may start is the beginning, too.
        expected = share + (1 - share) / 41
        assert np.mean(starts == 0) == pytest.approx(expected, abs=4 * np.sqrt(expected / 2000) + 1e-9)
        assert share == 1 or set(starts) == set(range(41))
        assert len({int(window["seed"]) for window in windows}) == 2000


def test_same_seed_gives_the_same_windows_in_the_same_order(twelve_parts):
    def sequence(seed: int) -> StreamedHistoryWindows:
        return StreamedHistoryWindows(open_stream(twelve_parts), 3, start_share=0.3, seed=seed)

    windows = sequence(5)
    expected = take(windows, 70)
    assert_equal_windows(take(windows, 70), expected)
    assert_equal_windows(take(sequence(5), 70), expected)
    # Looking at the first window changes nothing, and neither does someone who reads along.
    windows.first()
    one, other = iter(windows), iter(windows)
    alternating = [next(reader) for _ in range(70) for reader in (one, other)]
    assert_equal_windows(alternating[::2], expected)
    assert_equal_windows(alternating[1::2], expected)
    for seed in (0, 6):
        others = take(sequence(seed), 70)
        assert not {int(window["seed"]) for window in others} & {int(window["seed"]) for window in expected}


def test_sequence_depends_on_no_global_random_state(twelve_parts):
    def sequence(state: int) -> list[dict]:
        random.seed(state)
        np.random.seed(state)
        return take(StreamedHistoryWindows(open_stream(twelve_parts), 3), 40)

    assert_equal_windows(sequence(0), sequence(1))


@pytest.mark.parametrize("parts", [1, 12])
def test_every_pass_comes_in_another_order(twelve, parts):
    endless = iter(StreamedHistoryWindows(stream_of(twelve, shards=parts), 20))
    passes = [tuple(index for index, _ in places(take(endless, 12), whole(twelve), 20)) for _ in range(6)]
    assert len(set(passes)) == 6
    assert all(sorted(one) == list(range(12)) for one in passes)


def test_row_groups_are_read_in_another_order_each_pass(twelve, twelve_parts, monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLED_WINDOWS", 1)
    endless = iter(StreamedHistoryWindows(open_stream(twelve_parts), 20))
    passes = [tuple(index for index, _ in places(take(endless, 12), whole(twelve), 20)) for _ in range(6)]
    assert len(set(passes)) == 6
    # Not only the four files change places: histories of one file are apart from each other.
    apart = [abs(one.index(3) - one.index(4)) > 2 for one in passes]
    assert any(apart)


@pytest.mark.parametrize("parts", [1, 4, 12])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 12])
def test_ranks_read_different_histories_and_together_all(twelve, parts, world_size):
    """Of fewer parts than ranks, each rank takes every so many-th history."""
    per_rank = []
    for rank in range(world_size):
        share = (
            len(range(rank, parts, world_size)) * 12 // parts
            if parts >= world_size
            else len(range(rank, 12, world_size))
        )
        windows = StreamedHistoryWindows(stream_of(twelve, shards=parts), 20, rank=rank, world_size=world_size)
        endless = iter(windows)
        per_rank.append([[index for index, _ in places(take(endless, share), whole(twelve), 20)] for _ in range(4)])
    for one_pass in zip(*per_rank, strict=True):
        assert sorted(itertools.chain(*one_pass)) == list(range(12))
    if 1 < world_size and parts > 1:
        assert len({tuple(sorted(one)) for one in per_rank[0]}) > 1, "the first rank reads the same part every time"


def test_ranks_read_different_row_groups_of_files(twelve, twelve_parts):
    found = []
    for rank, share in enumerate((3, 3, 2, 2, 2)):
        windows = StreamedHistoryWindows(open_stream(twelve_parts), 20, rank=rank, world_size=5)
        found += [index for index, _ in places(take(windows, share), whole(twelve), 20)]
    assert sorted(found) == list(range(12))


def test_ranks_draw_different_windows_of_histories():
    histories = make_histories([([50] * 10, 0)] * 4, "scalars")
    starts = []
    for rank in range(4):
        windows = StreamedHistoryWindows(stream_of(histories, shards=4), 20, rank=rank, world_size=4)
        starts.append(tuple(start for _, start in places(take(windows, 25), whole(histories), 20)))
    for one, other in itertools.combinations(starts, 2):
        assert np.mean(np.equal(one, other)) < 0.3 and sorted(one) != sorted(other)


@pytest.mark.parametrize("parts", [1, 3])
def test_rank_that_is_left_without_a_history_says_so(parts):
    histories = make_histories([([2], 0)] * 3, "scalars")
    windows = StreamedHistoryWindows(stream_of(histories, shards=parts), 5, rank=4, world_size=5)
    for read in (lambda: next(iter(windows)), windows.first):
        with pytest.raises(ValueError, match="No transition is left to read of the stream"):
            read()


def test_rank_goes_on_where_one_pass_leaves_it_nothing():
    """Of two histories, one has no second episode; a pass gives each rank one of them, now this one, now that."""
    histories = make_histories([([2], 0), ([2, 3], 0)], "scalars")
    for rank in range(2):
        stream = stream_of(histories, shards=2)
        windows = StreamedHistoryWindows(stream, 5, first_episode=1, rank=rank, world_size=2)
        assert [window["rewards"].tolist() for window in take(windows, 5)] == [
            [transition.reward for transition in histories[1][2:]]
        ] * 5


def test_workers_neither_repeat_nor_lose_a_history(twelve, twelve_parts):
    windows = StreamedHistoryWindows(open_stream(twelve_parts), 20)
    read = iter(DataLoader(windows, batch_size=None, num_workers=2, collate_fn=as_it_is))
    for _ in range(3):
        found = places(take(read, 12), whole(twelve), 20)
        assert sorted(index for index, _ in found) == list(range(12))


def test_workers_of_two_ranks_read_everything_once(twelve, twelve_parts):
    found = []
    for rank in range(2):
        windows = StreamedHistoryWindows(open_stream(twelve_parts), 20, rank=rank, world_size=2)
        loader = DataLoader(windows, batch_size=None, num_workers=2, collate_fn=as_it_is)
        found += [index for index, _ in places(take(loader, 6), whole(twelve), 20)]
    assert sorted(found) == list(range(12))


def test_windows_travel_to_other_processes(twelve_parts):
    windows = StreamedHistoryWindows(open_stream(twelve_parts), 3, start_share=0.5, seed=1)
    expected = take(windows, 30)
    assert_equal_windows(take(pickle.loads(pickle.dumps(windows)), 30), expected)


@pytest.mark.slow
def test_spawned_workers_read_what_forked_ones_do(twelve, twelve_parts):
    windows = StreamedHistoryWindows(open_stream(twelve_parts), 20)
    forked, spawned = (
        take(
            DataLoader(windows, batch_size=None, num_workers=2, collate_fn=as_it_is, multiprocessing_context=context),
            24,
        )
        for context in ("fork", "spawn")
    )
    assert_equal_windows(spawned, forked)
    assert sorted(index for index, _ in places(spawned[:12], whole(twelve), 20)) == list(range(12))


def test_workers_draw_different_windows_and_the_same_ones_again():
    histories = make_histories([([50] * 10, 0)] * 2, "scalars")
    windows = StreamedHistoryWindows(stream_of(histories, shards=2), 20)

    def read() -> list[dict]:
        return take(DataLoader(windows, batch_size=None, num_workers=2, collate_fn=as_it_is), 50)

    first = read()
    found = places(first, whole(histories), 20)
    by_history = [[start for index, start in found if index == history] for history in (0, 1)]
    assert [len(starts) for starts in by_history] == [25, 25]
    assert sorted(by_history[0]) != sorted(by_history[1])
    assert len({int(window["seed"]) for window in first}) == 50
    assert_equal_windows(read(), first)


@pytest.mark.parametrize("world_size", [1, 3])
def test_more_workers_than_parts_is_no_end(twelve, world_size):
    """One part, or every third of its histories, is read by one worker; the others have nothing to do."""
    windows = StreamedHistoryWindows(stream_of(twelve), 20, rank=0, world_size=world_size)
    loader = DataLoader(windows, batch_size=None, num_workers=2, collate_fn=as_it_is)
    share = 12 // world_size
    read = iter(loader)
    for _ in range(3):
        found = places(take(read, share), whole(twelve), 20)
        assert len({index for index, _ in found}) == share


def test_worker_that_one_pass_leaves_nothing_goes_on():
    """Histories that are kept in turn fall to one worker or the other."""
    histories = make_histories([([2], 0), ([2, 3], 0)], "scalars")
    windows = StreamedHistoryWindows(stream_of(histories, shards=2), 5, first_episode=1)
    loader = DataLoader(windows, batch_size=None, num_workers=2, collate_fn=as_it_is)
    assert [len(window["rewards"]) for window in take(loader, 40)] == [3] * 40


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_disturb_each_other_over_many_passes(twelve):
    """`datasets` keeps the number of a stream's epoch in memory that its workers share."""
    windows = StreamedHistoryWindows(stream_of(twelve, shards=12), 20)
    runs = []
    for _ in range(2):
        loader = DataLoader(windows, batch_size=None, num_workers=4, collate_fn=as_it_is)
        runs.append([index for index, _ in places(take(loader, 12 * 150), whole(twelve), 20)])
    assert runs[0] == runs[1]
    # Each worker has three histories in every pass.
    of_workers = [np.reshape(runs[0][worker::4], (150, 3)) for worker in range(4)]
    assert np.array_equal(np.sort(np.concatenate(of_workers, axis=1)), np.tile(np.arange(12), (150, 1)))


def as_it_is(window: dict) -> dict:
    return window


def test_windows_of_different_histories_are_mixed():
    histories = make_histories([([10] * 10, 0)] * 100, "scalars")
    found = places(take(StreamedHistoryWindows(stream_of(histories), 10), 1000), whole(histories), 10)
    indices = np.array([index for index, _ in found])
    assert np.mean(indices[1:] == indices[:-1]) < 0.05
    assert len(set(indices[:64].tolist())) > 35
    # No trend from the first history to the last is left.
    assert abs(np.corrcoef(np.arange(1000), indices)[0, 1]) < 0.15


@pytest.mark.parametrize("held", [1, 16, 2048])
def test_windows_held_at_a_time_are_bounded(monkeypatch, held):
    monkeypatch.setattr(streaming, "SHUFFLED_WINDOWS", held)
    histories = make_histories([([10] * 10, 0)] * 300, "scalars")
    windows = StreamedHistoryWindows(stream_of(histories), 10)
    cut, lead = 0, []
    original = windows.cutter.cut

    def counting(*arguments):
        nonlocal cut
        cut += 1
        return original(*arguments)

    monkeypatch.setattr(windows.cutter, "cut", counting)
    for given_out, _ in enumerate(itertools.islice(windows, 3000), start=1):
        lead.append(cut - given_out)
    assert max(lead) == held


def test_window_holds_no_more_memory_than_its_own(tmp_path):
    """A window that is held for shuffling must not hold the history, of thousands of transitions, along with it."""
    histories = make_histories([([100] * 50, 0)] * 2, "vectors")
    folder = write_histories(tmp_path, [histories], "vectors")
    for window in take(StreamedHistoryWindows(open_stream(folder), 10), 20):
        for name, values in window.items():
            owner = values
            while isinstance(owner, np.ndarray | np.generic) and getattr(owner, "base", None) is not None:
                owner = owner.base
            assert isinstance(owner, np.ndarray | np.generic), name
            assert owner.nbytes <= 8 * 3 * 11, name


@pytest.mark.parametrize(
    ("arrange", "left"),
    [
        (lambda stream: stream.filter(lambda row: int(row["id"].rpartition("-")[2]) % 2 == 1), range(1, 12, 2)),
        (lambda stream: stream.take(5), range(5)),
        (lambda stream: stream.skip(5), range(5, 12)),
        (lambda stream: stream.with_format("numpy"), range(12)),
        (lambda stream: stream.with_format("torch"), range(12)),
        (lambda stream: stream.shard(4, 2, contiguous=True), range(6, 9)),
        (lambda stream: datasets.concatenate_datasets([stream.take(3), stream.skip(9)]), [0, 1, 2, 9, 10, 11]),
    ],
    ids=["filter", "take", "skip", "numpy", "torch", "shard", "concatenate"],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_rearranged_stream_gives_the_histories_that_are_left(twelve, twelve_parts, arrange, left, world_size):
    found = set()
    for rank in range(world_size):
        stream = arrange(open_stream(twelve_parts))
        windows = StreamedHistoryWindows(stream, 20, rank=rank, world_size=world_size)
        # Enough passes to see all that there is to see.
        found |= {index for index, _ in places(take(windows, 8 * len(left)), whole(twelve), 20)}
    assert found == set(left)


def test_histories_of_another_environment_are_refused(tmp_path, twelve):
    folder = write_histories(tmp_path / "other", [twelve[:2]], environment="Other-v0")
    windows = StreamedHistoryWindows(open_stream(folder), 5, environment="E-v0")
    for read in (lambda: next(iter(windows)), windows.first):
        with pytest.raises(ValueError, match="histories of Other-v0, expected only E-v0"):
            read()
    assert take(StreamedHistoryWindows(open_stream(folder), 5, environment="Other-v0"), 3)
    assert take(StreamedHistoryWindows(open_stream(folder), 5), 3)


def test_histories_of_held_out_tasks_are_refused(tmp_path, twelve):
    folder = write_histories(tmp_path / "leaked", [twelve[:2]], task=TASKS[1])
    windows = StreamedHistoryWindows(open_stream(folder), 5, environment="E-v0", held_out_tasks=TASKS)
    for read in (lambda: next(iter(windows)), windows.first):
        with pytest.raises(ValueError, match=re.escape('1 of the tasks to evaluate on, such as {"goal": [2, 2]}')):
            read()
    fine = StreamedHistoryWindows(open_stream(folder), 5, environment="E-v0", held_out_tasks=TASKS[:1])
    assert take(fine, 3)


def test_held_out_tasks_are_refused_without_an_environment_too(tmp_path, twelve):
    folder = write_histories(tmp_path / "leaked", [twelve[:2]], task=TASKS[1])
    with pytest.raises(ValueError, match="1 of the tasks to evaluate on"):
        take(StreamedHistoryWindows(open_stream(folder), 5, held_out_tasks=TASKS), 1)


def test_single_leaked_history_never_becomes_a_window(tmp_path, twelve, row_groups_of_one, monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLED_WINDOWS", 1)
    write_histories(tmp_path, [twelve[:5]], task=TASKS[0])
    write_histories(tmp_path, [twelve[5:6]], task=TASKS[1])
    write_histories(tmp_path, [twelve[6:]], task=TASKS[0])
    windows = StreamedHistoryWindows(open_stream(tmp_path), 20, environment="E-v0", held_out_tasks=[TASKS[1]], seed=3)
    seen: list[dict] = []
    with pytest.raises(ValueError, match="1 of the tasks to evaluate on"):
        for window in windows:
            seen.append(window)
    assert 5 not in [index for index, _ in places(seen, whole(twelve), 20)]
    assert len(seen) < 12


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"length": 0}, "length=0"),
        ({"length": -1}, "length=-1"),
        ({"episode_stride": 0}, "episode_stride=0"),
        ({"first_episode": -1}, "first_episode=-1"),
        ({"first_episode": 2, "last_episode": 1}, "last_episode=1"),
        ({"start_share": -0.1}, "start_share=-0.1"),
        ({"start_share": 1.1}, "start_share=1.1"),
        ({"start_share": float("nan")}, "start_share=nan"),
        ({"expert_share": 1.1}, "expert_share=1.1"),
        ({"expert_quantile": -0.1}, "expert_quantile=-0.1"),
        ({"seed": -1}, "seed=-1"),
        ({"rank": -1}, "rank=-1"),
        ({"rank": 1}, "rank=1, world_size=1"),
        ({"rank": 3, "world_size": 2}, "rank=3, world_size=2"),
        ({"world_size": 0}, "world_size=0"),
    ],
)
def test_argument_out_of_range_is_refused_by_name(twelve, arguments, named):
    with pytest.raises(ValueError, match=named):
        StreamedHistoryWindows(stream_of(twelve), **{"length": 2, **arguments})


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column_is_named(twelve, column):
    with pytest.raises(ValueError, match=rf"lacks the columns \['{column}'\]"):
        StreamedHistoryWindows(stream_of(twelve).remove_columns(column), 2)


def test_tables_streams_and_all_splits_at_once_are_told_apart(twelve, twelve_parts):
    table = make_dataset(twelve, "scalars")
    with pytest.raises(ValueError, match="no stream.*HistoryWindows"):
        StreamedHistoryWindows(table, 2)
    with pytest.raises(ValueError, match="is a stream.*StreamedHistoryWindows"):
        HistoryWindows(stream_of(twelve), 2)
    for streams in (True, False):
        splits = datasets.load_dataset(str(twelve_parts), streaming=streams)
        for kind in (StreamedHistoryWindows, HistoryWindows):
            with pytest.raises(ValueError, match=r"\['train'\].*choose one"):
                kind(splits, 2)


def test_histories_too_short_for_the_episodes_that_are_kept(twelve_parts):
    windows = StreamedHistoryWindows(open_stream(twelve_parts), 2, first_episode=7, last_episode=9)
    for read in (lambda: next(iter(windows)), windows.first):
        with pytest.raises(ValueError, match=r"No transition is left to read .* \(7 to 9\)"):
            read()


SHARDS = 8


@pytest.fixture
def on_hub(hub: LoopbackHub, tmp_path: Path) -> list[str]:
    """A dataset on the Hub of 8 shards of some 0.2 MB, each of 2 row groups; the names of its files."""
    steps = 20_000
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_BYTES", 2**18)
        space = Discrete(2**31)
        writer = HistoryWriter(tmp_path, space, space, environment="E-v0", algorithm="test", shard_megabytes=1e-9)
        with writer:
            for _ in range(SHARDS):
                ends = np.arange(steps) % 100 == 99
                writer.write(
                    tasks=[{}] * 2,
                    seeds=[0] * 2,
                    lengths=[steps // 2] * 2,
                    steps={
                        "observations": rng.integers(2**31, size=steps),
                        "actions": rng.integers(2**31, size=steps),
                        "rewards": np.zeros(steps),
                        "terminations": ends,
                        "truncations": ends,
                    },
                )
    files = {str(file.relative_to(tmp_path)): file.read_bytes() for file in sorted(tmp_path.rglob("*.parquet"))}
    assert len(files) == SHARDS and min(map(len, files.values())) > 150_000
    hub.write("tester/histories", files, "dataset")
    return list(files)


def reads(requests: Iterable[Request]) -> dict[str, int]:
    """Bytes that were sent of each Parquet file."""
    sent: Counter[str] = Counter()
    for request in requests:
        if request.method == "GET" and request.path.endswith(".parquet"):
            sent[request.path.rpartition("/")[2]] += request.sent
    return dict(sent)


def test_few_windows_of_many_shards_on_the_hub_are_read_from_few(hub, on_hub, monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLED_WINDOWS", 4)
    stream = open_stream("tester/histories")
    assert len(reads(hub.requests)) <= 1
    before = len(hub.requests)
    windows = StreamedHistoryWindows(stream, 500)
    # To divide the files into parts, their footers are read, which are at their ends.
    assert max(reads(hub.requests[before:]).values(), default=0) <= 2**16
    before = len(hub.requests)
    windows.first()
    assert len(reads(hub.requests[before:])) == 1
    before = len(hub.requests)
    assert len(take(windows, 10)) == 10
    assert 1 <= len(reads(hub.requests[before:])) <= 2


def test_ranks_read_different_shards_of_the_hub(hub, on_hub):
    read = []
    for rank in range(4):
        windows = StreamedHistoryWindows(open_stream("tester/histories"), 10_000, rank=rank, world_size=4)
        before = len(hub.requests)
        read.append(reads(hub.requests[before:]))
        take(windows, 4)
        read[-1] = reads(hub.requests[before:])
    assert set().union(*read) == {name.rpartition("/")[2] for name in on_hub}
    # Four row groups each, of at most four of the eight shards.
    assert all(len(files) <= 4 for files in read)


@pytest.mark.parametrize("how", ["500", "503", "drop", "drop_after", "truncate"])
def test_hub_that_fails_for_a_moment_does_not_change_the_windows(hub, on_hub, how):
    windows = StreamedHistoryWindows(open_stream("tester/histories"), 10_000)
    expected = take(windows, 32)
    endless = iter(StreamedHistoryWindows(open_stream("tester/histories"), 10_000))
    found = take(endless, 3)
    hub.fail(how, method="GET", path=r"resolve/.*\.parquet")
    found += take(endless, 29)
    assert not any(fault.times for fault in hub.faults)
    assert_equal_windows(found, expected)


def test_dataset_that_changes_on_the_hub_is_read_as_it_was(hub, on_hub):
    windows = StreamedHistoryWindows(open_stream("tester/histories"), 10_000)
    expected = take(windows, 16)
    endless = iter(windows)
    found = take(endless, 1)
    hub.write("tester/histories", dict.fromkeys(on_hub, b"something else"), "dataset")
    found += take(endless, 15)
    assert_equal_windows(found, expected)
