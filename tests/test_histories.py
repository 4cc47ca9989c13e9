"""Collecting and writing learning histories: the schema, what is recorded, and that no crash spoils what is there."""

import contextlib
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import gymnasium
import numpy as np
import pyarrow.parquet
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from algodistill import HistoryWriter, collect
from algodistill.environments import DarkRoomTasks
from algodistill.histories import Collection, collect_histories, learners
from algodistill.histories import collection as collection_module
from algodistill.histories.schema import COLUMNS, STEP_COLUMNS, history_features
from algodistill.sources import SOURCES
from algodistill.training.collecting import collect_into


GOALS = DarkRoomTasks().tasks()


def dark_room(**changes) -> Collection:
    settings = {
        "environment": "algodistill/DarkRoom-v0",
        "source": "q_learning",
        "source_kwargs": {"initial_value": 10.5},
        "tasks": {"train": GOALS[:6], "test": GOALS[6:10]},
        "learners_per_task": 2,
        "episodes": 3,
    }
    return Collection(**{**settings, **changes})


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too; cards without the folder's name."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content.replace(str(folder).encode(), b"FOLDER") for name, content in files.items()}


def load(folder: Path) -> datasets.DatasetDict:
    return datasets.load_dataset(str(folder), cache_dir=str(folder.parent / f"cache-{folder.name}"))


def naive_episodes(row: dict) -> tuple[list[float], list[int]]:
    """Returns and lengths of a row's complete episodes."""
    returns, lengths, total, steps = [], [], 0.0, 0
    for reward, terminated, truncated in zip(row["rewards"], row["terminations"], row["truncations"], strict=True):
        total, steps = total + reward, steps + 1
        if terminated or truncated:
            returns.append(total)
            lengths.append(steps)
            total, steps = 0.0, 0
    return returns, lengths


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    collection = dark_room(tasks={"train": GOALS[:6], "validation": GOALS[10:13], "test": GOALS[6:10]})
    folder = tmp_path_factory.mktemp("collected") / "histories"
    collect_into(folder, collection, "dark_room", progress=False)
    return SimpleNamespace(collection=collection, folder=folder, splits=load(folder))


class RandomLengthEnv(gymnasium.Env):
    """Episodes that terminate at random, or are truncated after 9 steps; it keeps a log of its own."""

    made: list["RandomLengthEnv"] = []

    def __init__(self, task, observation_space=None):
        self.observation_space = Discrete(50, start=-3) if observation_space is None else observation_space
        self.action_space = Discrete(3, start=1)
        self.task, self.log = task, []
        self.made.append(self)

    def _observe(self):
        if isinstance(self.observation_space, Discrete):
            self._observation = self.np_random.integers(50) - 3
        else:
            self._observation = self.np_random.integers(self.observation_space.nvec)
        return self._observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._elapsed = 0
        return self._observe(), {}

    def step(self, action):
        before = self._observation
        self._elapsed += 1
        reward, terminated = float(self.np_random.normal()), bool(self.np_random.random() < self.task["end"])
        truncated = self._elapsed >= 9
        after = self._observe()
        self.log.append((before, action, reward, terminated, truncated, after))
        return after, reward, terminated, truncated, {}


gymnasium.register(id="tests/RandomLength-v0", entry_point=RandomLengthEnv)


# The schema


def test_columns_and_types_of_a_collected_folder(collected):
    for split in collected.splits.values():
        assert tuple(split.column_names) == COLUMNS
        assert split.features == datasets.Features(
            {
                "id": datasets.Value("string"),
                "task": datasets.Value("string"),
                "environment": datasets.Value("string"),
                "algorithm": datasets.Value("string"),
                "seed": datasets.Value("int64"),
                "observations": datasets.Array2D((None, 2), "uint8"),
                "actions": datasets.List(datasets.Value("uint8")),
                "rewards": datasets.List(datasets.Value("float32")),
                "terminations": datasets.List(datasets.Value("bool")),
                "truncations": datasets.List(datasets.Value("bool")),
                "episode_returns": datasets.List(datasets.Value("float32")),
                "episode_lengths": datasets.List(datasets.Value("int32")),
            }
        )


@pytest.mark.parametrize(
    ("space", "dtype", "width"),
    [
        (Discrete(256), "uint8", None),
        (Discrete(257), "uint16", None),
        (Discrete(3, start=-1), "int8", None),
        (Discrete(200, start=-1), "int16", None),
        (Discrete(2, start=70_000), "uint32", None),
        (MultiDiscrete([9, 300]), "uint16", 2),
        (MultiDiscrete([[2, 3, 4], [5, 6, 7]]), "uint8", 6),
        (MultiDiscrete([2, 2], start=[-1, 127]), "int16", 2),
        (MultiBinary(4), "uint8", 4),
        (Box(-1, 1, (2, 3)), "float32", 6),
        (Box(-1, 1, (), dtype=np.float64), "float32", None),
        (Box(0, 255, (4, 4, 3), dtype=np.uint8), "uint8", 48),
        (Box(-1, 300, (1,), dtype=np.int64), "int16", 1),
    ],
)
def test_smallest_type_that_holds_a_space(space, dtype, width):
    scalar = datasets.List(datasets.Value(dtype))
    expected = scalar if width is None else datasets.Array2D((None, width), dtype)
    features = history_features(space, Discrete(2))
    assert features["observations"] == expected
    assert features["actions"] == datasets.List(datasets.Value("uint8"))
    assert history_features(Discrete(2), space)["actions"] == expected


# Collecting


def test_splits_hold_their_own_tasks(collected):
    collection = collected.collection
    assert set(collected.splits) == {"train", "validation", "test"}
    for name, split in collected.splits.items():
        tasks = collection.tasks[name]
        assert len(split) == len(tasks) * collection.learners_per_task
        assert [json.loads(task) for task in split["task"]] == list(tasks) * collection.learners_per_task
        assert set(split["environment"]) == {"algodistill/DarkRoom-v0"}
        assert set(split["algorithm"]) == {"q_learning"}
    ids = [row_id for split in collected.splits.values() for row_id in split["id"]]
    assert len(set(ids)) == len(ids) == 26


def test_rows_are_what_the_environment_answers_to_their_actions(collected):
    for row in collected.splits["train"]:
        env = gymnasium.make("algodistill/DarkRoom-v0", task=json.loads(row["task"]))
        observation, _ = env.reset()
        assert len(row["actions"]) == 3 * 20
        for step, action in enumerate(row["actions"]):
            assert row["observations"][step] == observation.tolist()
            observation, reward, terminated, truncated, _ = env.step(action)
            recorded = row["rewards"][step], row["terminations"][step], row["truncations"][step]
            assert recorded == (reward, terminated, truncated)
            if truncated:
                observation, _ = env.reset()
    assert any(sum(row["rewards"]) > 0 for row in collected.splits["train"])
    assert len({str(row["actions"]) for row in collected.splits["train"]}) == 12


def test_episode_columns_equal_their_recomputation(collected):
    for split in collected.splits.values():
        for row in split:
            assert (row["episode_returns"], row["episode_lengths"]) == naive_episodes(row)
            assert row["episode_lengths"] == [20, 20, 20]


def test_learners_improve_in_what_is_recorded(tmp_path):
    collection = dark_room(tasks={"train": GOALS}, learners_per_task=1, episodes=100)
    collect_histories(collection, tmp_path / "histories", progress=False)
    returns = np.array(load(tmp_path / "histories")["train"]["episode_returns"])
    assert returns[:, :5].mean() < 2
    assert returns[:, -10:].mean() > 12


@pytest.mark.parametrize(
    "observation_space",
    [None, MultiDiscrete([3, 300]), MultiDiscrete([[4, 4], [4, 4]])],
    ids=["scalar", "xy", "matrix"],
)
def test_episodes_of_any_length_are_recorded_as_they_happened(tmp_path, monkeypatch, observation_space):
    monkeypatch.setattr(RandomLengthEnv, "made", [])
    learnt = []

    class Watcher:
        def __init__(self, observation_space, action_space, learners, rng):
            self.rng, self.learners = rng, learners

        def act(self, observations):
            return 1 + self.rng.integers(3, size=self.learners)

        def learn(self, *step):
            learnt.append([np.array(part) for part in step])

    monkeypatch.setitem(SOURCES, "watcher", Watcher)
    tasks = [{"end": 0.0}, {"end": 0.1}, {"end": 0.4}, {"end": 1.0}]
    collection = Collection(
        environment="tests/RandomLength-v0",
        environment_kwargs={} if observation_space is None else {"observation_space": observation_space},
        source="watcher",
        tasks={"train": tasks},
        learners_per_task=2,
        episodes=12,
    )
    collect_histories(collection, tmp_path / "histories", progress=False)

    rows = load(tmp_path / "histories")["train"]
    assert len(rows) == 8
    for index, (row, env) in enumerate(zip(rows, RandomLengthEnv.made[-8:], strict=True)):
        assert json.loads(row["task"]) == env.task == tasks[index % 4]
        ends = [step for step, (*_, terminated, truncated, _) in enumerate(env.log) if terminated or truncated]
        log = env.log[: ends[11] + 1]
        assert len(row["rewards"]) == len(log)
        width = () if observation_space is None else (-1,)
        observations = [np.reshape(entry[0], width) for entry in log]
        np.testing.assert_array_equal(row["observations"], observations)
        assert row["actions"] == [entry[1] for entry in log]
        np.testing.assert_array_equal(np.float32(row["rewards"]), np.float32([entry[2] for entry in log]))
        assert row["terminations"] == [entry[3] for entry in log]
        assert row["truncations"] == [entry[4] for entry in log]
        returns, lengths = naive_episodes(row)
        assert row["episode_lengths"] == lengths and len(lengths) == 12
        np.testing.assert_allclose(row["episode_returns"], returns, rtol=1e-5, atol=1e-5)

        # What it was taught: each step's own outcome, the last observation of an episode too.
        for step, entry in enumerate(log):
            seen = [part[index] for part in learnt[step]]
            for part, expected in zip(seen, (entry[0], entry[1], entry[2], entry[5], entry[3], entry[4]), strict=True):
                np.testing.assert_array_equal(part, expected)
    lengths = [row["episode_lengths"] for row in rows]
    assert lengths[0] == [9] * 12 and lengths[3] == [1] * 12
    assert len(set(lengths[1])) > 2 and lengths[1] != lengths[5]


def test_history_longer_than_a_block_of_memory_is_whole(tmp_path, monkeypatch):
    collect_histories(dark_room(), tmp_path / "in one block", progress=False)
    monkeypatch.setattr(learners, "BLOCK_STEPS", 7)
    collect_histories(dark_room(), tmp_path / "in many", progress=False)
    assert files_in(tmp_path / "in one block") == files_in(tmp_path / "in many")


def test_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        collect_histories(dark_room(seed=seed), tmp_path / name, progress=False)
    first, second, other = (files_in(tmp_path / name) for name in ("first", "second", "other"))
    assert sorted(first) == ["DarkRoom-v0/test-00000.parquet", "DarkRoom-v0/train-00000.parquet"]
    assert first == second
    assert all(first[name] != other[name] for name in first)
    actions = [load(tmp_path / name)["train"]["actions"][:] for name in ("first", "other")]
    assert actions[0] != actions[1]


def test_splits_and_shards_have_randomness_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(collection_module, "SHARD_TRANSITIONS", 3 * 20 * 4)
    same_tasks = {"train": GOALS[:4], "test": GOALS[:4]}
    collect_histories(dark_room(tasks=same_tasks), tmp_path / "histories", progress=False)
    splits = load(tmp_path / "histories")
    assert len(list((tmp_path / "histories" / "DarkRoom-v0").glob("train-*.parquet"))) == 2
    actions = [str(actions) for split in splits.values() for actions in split["actions"]]
    assert len(set(actions)) == len(actions) == 16


COLLECT_SLOWLY = """
import json, sys
from pathlib import Path
from algodistill.histories import Collection, collection
from algodistill.training.collecting import collect_into

collection.SHARD_TRANSITIONS = int(sys.argv[1])
collect_into(Path(sys.argv[2]), Collection(**json.loads(sys.argv[3])), "dark_room", progress=False)
"""


def test_killed_collection_continues_to_the_same_bytes(tmp_path, monkeypatch):
    collection = dark_room(tasks={"train": GOALS[:60], "test": GOALS[60:]}, learners_per_task=4, episodes=20)
    shard_transitions = 20 * 20 * 8
    killed, undisturbed = tmp_path / "killed" / "histories", tmp_path / "undisturbed" / "histories"
    settings = json.dumps(vars(collection))
    child = subprocess.Popen([sys.executable, "-c", COLLECT_SLOWLY, str(shard_transitions), str(killed), settings])
    deadline = time.monotonic() + 120
    while not list(killed.glob("DarkRoom-v0/*.parquet")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = {name: data for name, data in files_in(killed).items() if not name.endswith(".partial")}

    monkeypatch.setattr(collection_module, "SHARD_TRANSITIONS", shard_transitions)
    collect_into(undisturbed, collection, "dark_room", progress=False)
    expected = files_in(undisturbed)
    assert 1 < len(left) < len(expected) == 3 + 30 + 11
    assert left == {name: expected[name] for name in left}
    # It may have died in the middle of any shard.
    (killed / "DarkRoom-v0" / ".train-00029.parquet.partial").write_bytes(b"PAR1 half a shard")
    collect_into(killed, collection, "dark_room", progress=False)
    assert files_in(killed) == expected
    assert len(load(killed)["train"]) == 240


def fail_to_write(monkeypatch, after: int) -> None:
    """Let the disk be full half-way through the Parquet file that comes `after` so many others."""
    write_table, written = pyarrow.parquet.write_table, []

    def full_disk(table, where, **options):
        written.append(where)
        write_table(table, where, **options)
        if len(written) > after:
            half = Path(where).read_bytes()[: Path(where).stat().st_size // 2]
            Path(where).write_bytes(half)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full_disk)


def test_full_disk_leaves_whole_shards_only_and_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(collection_module, "SHARD_TRANSITIONS", 3 * 20 * 4)
    undisturbed, full = tmp_path / "undisturbed" / "histories", tmp_path / "full" / "histories"
    collect_into(undisturbed, dark_room(), "dark_room", progress=False)
    expected = files_in(undisturbed)
    with monkeypatch.context() as context:
        fail_to_write(context, after=2)
        with pytest.raises(OSError, match="No space left on device") as failure:
            collect_into(full, dark_room(), "dark_room", progress=False)
        assert failure.value.errno == errno.ENOSPC
    left = files_in(full)
    assert sorted(left) == [
        "DarkRoom-v0/collection.json",
        "DarkRoom-v0/train-00000.parquet",
        "DarkRoom-v0/train-00001.parquet",
    ]
    assert left == {name: expected[name] for name in left}
    collect_into(full, dark_room(), "dark_room", progress=False)
    assert files_in(full) == expected


def test_only_what_is_missing_is_collected_again(tmp_path, monkeypatch):
    monkeypatch.setattr(collection_module, "SHARD_TRANSITIONS", 3 * 20 * 4)
    folder = tmp_path / "histories"
    collect_into(folder, dark_room(), "dark_room", progress=False)
    expected = files_in(folder)
    missing = folder / "DarkRoom-v0" / "train-00001.parquet"
    missing.unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("DarkRoom-v0/*.parquet")}
    collect_into(folder, dark_room(), "dark_room", progress=False)
    assert files_in(folder) == expected
    assert {path: path.stat().st_mtime_ns for path in times} == times

    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    collect_into(folder, dark_room(), "dark_room", progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("episodes", 4),
        ("learners_per_task", 1),
        ("source_kwargs", {"initial_value": 0.0}),
        ("environment_kwargs", {"episode_length": 10}),
        ("tasks", {"train": GOALS[:6], "test": GOALS[6:11]}),
    ],
)
def test_folder_with_other_settings_is_refused_by_the_key(collected, key, value):
    before = files_in(collected.folder)
    settings = {**vars(collected.collection), key: value}
    with pytest.raises(ValueError, match=rf"histories.*other settings \({key}\)"):
        collect_into(collected.folder, Collection(**settings), "dark_room", progress=False)
    assert files_in(collected.folder) == before


def test_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(ValueError, match="not a collection of histories"):
        collect_into(tmp_path, dark_room(), "dark_room", progress=False)
    assert files_in(tmp_path) == {"thesis.tex": b"important"}


def test_folder_from_a_collection_killed_at_its_first_file_is_continued(tmp_path):
    (tmp_path / "DarkRoom-v0").mkdir()
    (tmp_path / "DarkRoom-v0/.collection.json.partial").write_text('{"fingerprint"')
    collect_into(tmp_path, dark_room(), "dark_room", progress=False)
    assert sorted(files_in(tmp_path)) == [
        "DarkRoom-v0/collection.json",
        "DarkRoom-v0/learning_curve.png",
        "DarkRoom-v0/test-00000.parquet",
        "DarkRoom-v0/train-00000.parquet",
        "README.md",
    ]


@pytest.mark.parametrize(
    ("option", "wrong", "named"),
    [
        ("--source_kwargs", '{"learning_rate": 2}', "learning_rate=2"),
        ("--source_kwargs", '{"learning_rat": 1}', "learning_rat"),
        ("--environment_kwargs", '{"sise": 5}', "sise"),
        ("--environment_kwargs", '{"start": [9, 9]}', r"start \[9, 9\]"),
        ("--source", "qlearning", "qlearning"),
        ("--environment", "algodistill/LightRoom-v0", "LightRoom"),
        ("--train_tasks", "82", "train_tasks=82"),
        ("--episodes", "0", "episodes=0"),
        ("--learners_per_task", "0", "learners_per_task=0"),
        ("--collect_seed", "-1", "seed"),
    ],
)
def test_wrong_setting_is_refused_by_name_and_leaves_nothing_behind(tmp_path, option, wrong, named):
    folder = tmp_path / "histories"
    small = ["--train_tasks", "2", "--learners_per_task", "1", "--episodes", "1"]
    with pytest.raises(ValueError, match=named):
        collect("dark_room", folder, options=[*small, option, wrong], progress=False)
    # So that the same command, mended, goes through.
    assert not folder.exists()


def test_preset_is_collected_with_what_overrules_it(tmp_path):
    folder = collect(
        "dark_room",
        tmp_path / "histories",
        options=["--train_tasks", "2", "--validation_tasks", "3", "--learners_per_task", "1", "--episodes", "2"],
        progress=False,
    )
    splits = load(folder)
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "validation": 3, "test": 76}
    order = np.random.default_rng(1).permutation(81)
    tasks = [json.loads(task) for name in ("train", "validation", "test") for task in splits[name]["task"]]
    assert tasks == [GOALS[index] for index in order]


# Writing histories of one's own


SPACES = {
    "xy": (MultiDiscrete([9, 9]), Discrete(5)),
    "from elsewhere": (Discrete(400, start=-5), MultiDiscrete([3, 4], start=[-1, 0])),
    "binary": (MultiBinary(3), Discrete(2)),
    "matrix": (MultiDiscrete([[2, 3], [4, 500]]), MultiBinary((2, 2))),
}


def writer_for(folder, spaces="xy", **options) -> HistoryWriter:
    return HistoryWriter(folder, *SPACES[spaces], environment="Mine-v0", algorithm="ppo", **options)


def random_steps(spaces: str, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    observation_space, action_space = SPACES[spaces]
    observation_space.seed(seed)
    action_space.seed(seed)
    rng = np.random.default_rng(seed)
    return {
        "observations": np.array([observation_space.sample() for _ in range(count)]),
        "actions": np.array([action_space.sample() for _ in range(count)]),
        "rewards": rng.integers(-4, 5, size=count) / 4,
        "terminations": rng.random(count) < 0.2,
        "truncations": rng.random(count) < 0.2,
    }


def record(writer: HistoryWriter, steps: dict[str, np.ndarray], **description) -> None:
    with writer.record(**description) as history:
        for step in zip(*(steps[column] for column in STEP_COLUMNS), strict=True):
            history.append(*step)


@pytest.mark.parametrize("spaces", SPACES)
def test_recorded_and_written_histories_come_back(tmp_path, spaces):
    lengths = [13, 1, 30]
    histories = [random_steps(spaces, length, seed) for seed, length in enumerate(lengths)]
    tasks = [{"number": number, "name": "t"} for number in range(3)]
    with writer_for(tmp_path / "recorded", spaces) as writer:
        for seed, (task, steps) in enumerate(zip(tasks, histories, strict=True)):
            record(writer, steps, task=task, seed=seed)
    with writer_for(tmp_path / "written", spaces) as writer:
        joined = {column: np.concatenate([steps[column] for steps in histories]) for column in STEP_COLUMNS}
        writer.write(tasks=tasks, seeds=range(3), lengths=lengths, steps=joined)

    recorded, written = load(tmp_path / "recorded")["train"], load(tmp_path / "written")["train"]
    assert recorded.features == written.features == history_features(*SPACES[spaces])
    assert recorded[:] == written[:]
    for seed, (row, steps) in enumerate(zip(recorded, histories, strict=True)):
        assert json.loads(row["task"]) == tasks[seed]
        assert (row["seed"], row["environment"], row["algorithm"]) == (seed, "Mine-v0", "ppo")
        for column in STEP_COLUMNS:
            values = steps[column]
            flat = values if values.ndim == 1 else values.reshape(len(values), -1)
            np.testing.assert_array_equal(row[column], flat)
        assert (row["episode_returns"], row["episode_lengths"]) == naive_episodes(row)
    assert len(set(recorded["id"])) == 3


def test_episode_that_is_broken_off_counts_as_none(tmp_path):
    ends = {
        "cut": [False, True, False, False],
        "whole": [False, True, False, True],
        "never": [False] * 4,
        "each": [True] * 4,
    }
    with writer_for(tmp_path / "histories") as writer:
        steps = {
            **random_steps("xy", 16),
            "rewards": np.arange(16.0),
            "terminations": np.concatenate(list(ends.values())),
            "truncations": np.zeros(16, bool),
        }
        writer.write(tasks=[{}] * 4, seeds=[0] * 4, lengths=[4] * 4, steps=steps)
    rows = load(tmp_path / "histories")["train"]
    assert rows["episode_lengths"][:] == [[2], [2, 2], [], [1, 1, 1, 1]]
    assert rows["episode_returns"][:] == [[1], [9, 13], [], [12, 13, 14, 15]]


def test_observations_are_kept_as_they_were_when_appended(tmp_path):
    """Many environments return the same array again and again, with new contents."""
    observation = np.array([0, 0])
    with writer_for(tmp_path / "histories") as writer, writer.record(task={}) as history:
        for step in range(3):
            observation[:] = step, 2 * step
            history.append(observation, step, 0.0, False, step == 2)
    assert load(tmp_path / "histories")["train"][0]["observations"] == [[0, 0], [1, 2], [2, 4]]


def wrong_columns():
    good = random_steps("xy", 4)
    yield "observations too wide", "observations", np.zeros((4, 3), int)
    yield "observations too narrow", "observations", np.zeros((4, 1), int)
    yield "observations without width", "observations", np.zeros(4, int)
    yield "observations too few", "observations", good["observations"][:3]
    yield "observations too big for the type", "observations", good["observations"] + 300
    yield "observations outside the space", "observations", good["observations"] + 9
    yield "observations negative", "observations", good["observations"] - 10
    yield "observations between", "observations", good["observations"] + 0.5
    yield "actions with width", "actions", np.zeros((4, 1), int)
    yield "actions too many", "actions", np.zeros(5, int)
    yield "actions outside the space", "actions", np.array([0, 1, 5, 0])
    yield "actions negative", "actions", np.array([0, 1, -1, 0])
    yield "actions between", "actions", np.array([0, 1, 0.5, 0])
    yield "rewards too few", "rewards", np.zeros(3)
    yield "rewards too many", "rewards", np.zeros(5)
    yield "rewards with width", "rewards", np.zeros((4, 1))
    yield "terminations too few", "terminations", np.zeros(3, bool)
    yield "truncations too many", "truncations", np.zeros(5, bool)


@pytest.mark.parametrize(("column", "values"), [pytest.param(*case[1:], id=case[0]) for case in wrong_columns()])
def test_column_that_does_not_fit_is_refused_by_name(tmp_path, column, values):
    steps = {**random_steps("xy", 4), "terminations": np.array([False, False, False, True])}
    with writer_for(tmp_path) as writer, pytest.raises(ValueError, match=column):
        writer.write(tasks=[{}], seeds=[0], lengths=[4], steps={**steps, column: values})
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("column", STEP_COLUMNS)
def test_missing_column_is_named(tmp_path, column):
    steps = random_steps("xy", 4)
    del steps[column]
    with writer_for(tmp_path) as writer, pytest.raises(ValueError, match=f"lack the column '{column}'"):
        writer.write(tasks=[{}], seeds=[0], lengths=[4], steps=steps)
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("tasks", "seeds", "lengths"), [([{}] * 2, [0], [4]), ([{}], [0] * 2, [4]), ([{}], [0], [2, 2]), ([{}], [0], [3])]
)
def test_descriptions_that_do_not_match_the_histories_are_refused(tmp_path, tasks, seeds, lengths):
    with writer_for(tmp_path) as writer, pytest.raises(ValueError):
        writer.write(tasks=tasks, seeds=seeds, lengths=lengths, steps=random_steps("xy", 4))
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("observation", [[0, 0, 0], [0], 0, [0, 300], [0, 9], [0.5, 0]])
def test_recorded_transition_that_does_not_fit_is_refused_by_name(tmp_path, observation):
    with writer_for(tmp_path) as writer, pytest.raises(ValueError, match="observation"):
        with writer.record(task={}) as history:
            history.append([1, 2], 0, 0.0, False, False)
            history.append(observation, 0, 0.0, False, True)
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("reward", [np.inf, -np.inf, np.nan])
def test_reward_that_is_no_number_is_refused_or_spoils_its_own_history_only(tmp_path, reward):
    steps = {
        **random_steps("xy", 4),
        "rewards": np.array([reward, 1, 2, 3]),
        "terminations": np.array([False, True, False, True]),
    }
    with writer_for(tmp_path / "histories") as writer:
        try:
            writer.write(tasks=[{}] * 2, seeds=[0] * 2, lengths=[2] * 2, steps=steps)
        except ValueError as error:
            assert "rewards" in str(error)
            return
    assert load(tmp_path / "histories")["train"]["episode_returns"][1] == [5]


def test_history_whose_block_raises_is_dropped_and_the_others_kept(tmp_path):
    steps = random_steps("xy", 5)
    with pytest.raises(RuntimeError, match="the learner crashed"):
        with writer_for(tmp_path / "histories") as writer:
            record(writer, steps, task={"number": 0})
            with contextlib.suppress(ZeroDivisionError), writer.record(task={"number": 1}) as history:
                history.append([0, 0], 0, 0.0, False, False)
                raise ZeroDivisionError
            record(writer, steps, task={"number": 2})
            with writer.record(task={"number": 3}) as history:
                history.append([0, 0], 0, 0.0, False, False)
                raise RuntimeError("the learner crashed")
    rows = load(tmp_path / "histories")["train"]
    assert [json.loads(task)["number"] for task in rows["task"]] == [0, 2]
    assert len(set(rows["id"])) == 2


def test_history_without_a_transition_is_not_written(tmp_path):
    with writer_for(tmp_path) as writer, writer.record(task={}):
        pass
    assert files_in(tmp_path) == {}


def test_shards_are_written_as_they_fill_and_splits_apart(tmp_path):
    folder = tmp_path / "histories"
    with writer_for(folder, shard_megabytes=1e-6) as writer:
        for number, split in enumerate(["train", "test", "train"]):
            record(writer, random_steps("xy", 5, number), task={"number": number}, split=split)
            assert len(files_in(folder)) == number + 1
    assert sorted(files_in(folder)) == [
        "Mine-v0/test-00000.parquet",
        "Mine-v0/train-00000.parquet",
        "Mine-v0/train-00001.parquet",
    ]
    splits = load(folder)
    assert [json.loads(task)["number"] for task in splits["train"]["task"]] == [0, 2]
    assert [json.loads(task)["number"] for task in splits["test"]["task"]] == [1]


def test_reopened_folder_is_added_to(tmp_path):
    folder = tmp_path / "histories"
    with writer_for(folder) as writer:
        record(writer, random_steps("xy", 5), task={"number": 0})
        record(writer, random_steps("xy", 6), task={"number": 1})
    before = files_in(folder)
    with writer_for(folder) as writer:
        record(writer, random_steps("xy", 7), task={"number": 2})
    after = files_in(folder)
    assert len(after) == 2 and before.items() < after.items()
    rows = load(folder)["train"]
    assert [json.loads(task)["number"] for task in rows["task"]] == [0, 1, 2]
    assert len(set(rows["id"])) == 3


def test_ids_stay_unique_after_a_refused_history(tmp_path):
    folder = tmp_path / "histories"
    with writer_for(folder) as writer:
        with pytest.raises(ValueError):
            record(writer, {**random_steps("xy", 5), "actions": np.full(5, 999)}, task={})
        record(writer, random_steps("xy", 5), task={})
    with writer_for(folder) as writer:
        record(writer, random_steps("xy", 5), task={})
    assert len(set(load(folder)["train"]["id"])) == 2


def test_adding_to_a_folder_never_replaces_a_shard(tmp_path):
    folder = tmp_path / "histories"
    for number in range(2):
        with writer_for(folder) as writer:
            record(writer, random_steps("xy", 5), task={"number": number})
    (folder / "Mine-v0" / "train-00000.parquet").unlink()
    with writer_for(folder) as writer:
        record(writer, random_steps("xy", 5), task={"number": 2})
    rows = load(folder)["train"]
    assert sorted(json.loads(task)["number"] for task in rows["task"]) == [1, 2]
    assert len(set(rows["id"])) == 2


def test_full_disk_leaves_no_half_shard_of_a_writer(tmp_path, monkeypatch):
    folder = tmp_path / "histories"
    fail_to_write(monkeypatch, after=1)
    with pytest.raises(OSError, match="No space left on device"):
        with writer_for(folder, shard_megabytes=1e-6) as writer:
            record(writer, random_steps("xy", 5), task={"number": 0})
            record(writer, random_steps("xy", 5), task={"number": 1})
    assert sorted(files_in(folder)) == ["Mine-v0/train-00000.parquet"]
    assert [json.loads(task)["number"] for task in load(folder)["train"]["task"]] == [0]
