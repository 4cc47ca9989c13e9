"""Collecting from every source algorithm: what it sees, what is recorded, and whose rows follow each other."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from commands import write_preset
from tqdm.auto import tqdm

from algodistill.environments import TASK_DISTRIBUTIONS
from algodistill.histories import Collection
from algodistill.histories import collection as collection_module
from algodistill.histories.collecting import check_collection
from algodistill.histories.collection import Batch, batches
from algodistill.histories.learners import make_learners, run_learners
from algodistill.sources import SOURCES, TabularQLearning
from algodistill.training import collect


BANDIT, ROOM, HARD, KEY_TO_DOOR = (
    f"algodistill/{name}-v0" for name in ("AdversarialBandit", "DarkRoom", "DarkRoomHard", "DarkKeyToDoor")
)
SMALL = {"size": 3, "episode_length": 6}
NEURAL = {"hidden": 8}

EXPERIMENTS = {
    "bandit, ucb1": (BANDIT, {"arms": 4, "pulls": 6}, "ucb1", {"exploration": 1.0}),
    "bandit, thompson": (BANDIT, {"arms": 4, "pulls": 6}, "thompson", {}),
    "bandit, dqn": (BANDIT, {"arms": 4, "pulls": 6}, "dqn", NEURAL),
    "room, posterior": (ROOM, SMALL, "posterior_sampling", {}),
    "hard, posterior": (HARD, SMALL, "posterior_sampling", {}),
    "bandit, noise": (BANDIT, {"arms": 4, "pulls": 6}, "noise_distillation", {}),
    "room, noise": (ROOM, SMALL, "noise_distillation", {"epsilon_episodes": 5}),
    "hard, noise": (HARD, SMALL, "noise_distillation", {"epsilon_episodes": 5}),
    "key to door, noise": (KEY_TO_DOOR, {**SMALL, "ends_at_door": True}, "noise_distillation", {}),
    "hard, q-learning": (HARD, SMALL, "q_learning", {"initial_value": 0.3}),
    "hard, dqn": (HARD, SMALL, "dqn", {**NEURAL, "learning_starts": 10}),
    "key to door, q-learning": (KEY_TO_DOOR, SMALL, "q_learning", {"initial_value": 0.3}),
    "key to door, a2c": (KEY_TO_DOOR, {**SMALL, "ends_at_door": True}, "a2c", {**NEURAL, "streams": 2}),
    "room, a2c": (ROOM, SMALL, "a2c", NEURAL),
}
TASKS, LEARNERS, EPISODES = {"train_tasks": 4, "validation_tasks": 2, "test_tasks": 3}, 2, 8


@pytest.mark.parametrize(("environment", "kwargs", "source", "settings"), EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_source_is_recorded(environment, kwargs, source, settings, tmp_path: Path):
    preset = write_preset(
        tmp_path,
        environment=environment,
        environment_kwargs=kwargs,
        source=source,
        source_kwargs=settings,
        learners_per_task=LEARNERS,
        episodes=EPISODES,
        **TASKS,
    )
    folder = collect(preset, tmp_path / "data", progress=False)
    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(splits) == {"train", "validation", "test"}
    distribution = TASK_DISTRIBUTIONS[environment](**kwargs)
    split = distribution.split(split_seed=1, **TASKS)
    streams = settings.get("streams", 8) if source == "a2c" else 1
    # The record holds what an agent will see, whatever its source saw.
    size = 1 if environment == BANDIT else 2
    for name, histories in splits.items():
        tasks = getattr(split, name)
        assert len(histories) == len(tasks) * LEARNERS * streams
        expected = [task for task in tasks * LEARNERS for _ in range(streams)]
        assert [json.loads(row["task"]) for row in histories] == expected
        assert len(set(histories["id"])) == len(histories)
        assert set(histories["algorithm"]) == {source}
        for row in histories.with_format("numpy"):
            rewards, ends = row["rewards"], row["terminations"] | row["truncations"]
            assert len(row["episode_returns"]) == EPISODES == ends.sum()
            assert np.asarray(row["observations"]).reshape(len(rewards), -1).shape[1] == size
            sums = np.add.reduceat(rewards, np.append(0, np.flatnonzero(ends)[:-1] + 1))
            np.testing.assert_array_equal(sums, row["episode_returns"])
            assert sums.max() <= {BANDIT: 6, ROOM: 6, HARD: 1, KEY_TO_DOOR: 2}[environment]
            assert bool(row["terminations"].any()) <= bool(kwargs.get("ends_at_door"))
    assert np.mean([np.mean(returns) for returns in splits["train"]["episode_returns"]]) > 0
    # Collected again, everything is there; somewhere else, it is the same.
    again = collect(preset, tmp_path / "again", progress=False)
    for file in folder.rglob("*.parquet"):
        assert file.read_bytes() == (again / file.relative_to(folder)).read_bytes()


class Spy(TabularQLearning):
    """A Q-learner that keeps what it was shown."""

    lives: list["Spy"] = []

    def __init__(self, observation_space, *args, **kwargs):
        super().__init__(observation_space, *args, **kwargs)
        self.space, self.seen, self.reached = observation_space, [], []
        self.lives.append(self)

    def learn(self, observations, actions, rewards, next_observations, terminations, truncations):
        self.seen.append(observations.copy())
        self.reached.append(next_observations.copy())
        super().learn(observations, actions, rewards, next_observations, terminations, truncations)


@pytest.mark.parametrize(
    ("environment", "kwargs", "values"),
    [
        (KEY_TO_DOOR, SMALL, 3),
        (KEY_TO_DOOR, {**SMALL, "ends_at_door": True}, 3),
        (HARD, SMALL, 2),
        (ROOM, SMALL, None),
    ],
)
def test_a_source_sees_how_far_an_episode_has_come_and_the_record_does_not(environment, kwargs, values, monkeypatch):
    monkeypatch.setitem(SOURCES, "spy", Spy)
    tasks = TASK_DISTRIBUTIONS[environment](**kwargs).sample(5, np.random.default_rng(0))
    collection = Collection(environment, "spy", {"train": tasks}, 1, 40, environment_kwargs=kwargs)
    (batch,) = batches(collection)
    with tqdm(disable=True) as bar:
        table = run_learners(collection, batch, bar)
    spy = Spy.lives[-1]
    assert spy.space.nvec.tolist() == [3, 3] + ([] if values is None else [values])
    progressed = 0
    for i, row in enumerate(table.to_pylist()):
        steps = len(row["rewards"])
        seen, reached = (np.array(shown)[:steps, i] for shown in (spy.seen, spy.reached))
        recorded = np.array(row["observations"])
        assert recorded.shape == (steps, 2)
        np.testing.assert_array_equal(seen[:, :2], recorded)
        ends = np.array(row["terminations"]) | np.array(row["truncations"])
        # Within an episode, what a step led to is what comes next; at its end, it is not.
        np.testing.assert_array_equal(reached[:-1][~ends[:-1]], seen[1:][~ends[:-1]])
        if values is None:
            continue
        got = 0
        for step in range(steps):
            assert seen[step, 2] == got
            got += int(row["rewards"][step])
            assert reached[step, 2] == got
            progressed += int(ends[step] and got > 0)
            got = 0 if ends[step] else got
    assert values is None or progressed > 0


class Shared:
    """A source whose learners act in several environments, and that keeps how many it was given."""

    made: list[int] = []

    def __init__(self, observation_space, action_space, num_learners, rng, *, streams=3):
        assert num_learners % streams == 0
        self.made.append(num_learners)

    def act(self, observations):
        return np.zeros(len(observations), int)

    def learn(self, *step):
        pass


@pytest.mark.parametrize("transitions", [1, 40, 4_000_000])
@pytest.mark.parametrize("streams", [None, 1, 4])
def test_environments_of_one_learner_share_its_task_and_its_shard(transitions, streams, monkeypatch):
    monkeypatch.setitem(SOURCES, "shared", Shared)
    monkeypatch.setattr(collection_module, "SHARD_TRANSITIONS", transitions)
    tasks = TASK_DISTRIBUTIONS[ROOM](size=3).tasks()[:5]
    collection = Collection(
        ROOM, "shared", {"train": tasks}, 2, 1, environment_kwargs=SMALL,
        source_kwargs={} if streams is None else {"streams": streams},
    )  # fmt: skip
    streams, all_rows = streams or 3, []
    for number, batch in enumerate(batches(collection)):
        assert (batch.index, batch.first_learner) == (number, len(all_rows))
        assert len(batch.tasks) % streams == 0
        with tqdm(disable=True) as bar:
            assert run_learners(collection, batch, bar).num_rows == len(batch.tasks)
        assert Shared.made[-1] == len(batch.tasks)
        all_rows += batch.tasks
    assert all_rows == [task for task in tasks * 2 for _ in range(streams)]
    assert (
        number == {1: 10, 40: -(-10 * streams // max(6 // streams * streams, streams)), 4_000_000: 1}[transitions] - 1
    )


@pytest.mark.parametrize(
    ("source", "settings", "named"),
    [
        ("a2c", {"streams": 0}, "0 each"),
        ("a2c", {"stream": 4}, "source_kwargs do not fit a2c.*stream"),
        ("dqn", {"batch": 4}, "source_kwargs do not fit dqn.*batch"),
        ("ucb1", {"exploration": -1}, "exploration=-1"),
        ("thompson", {"exploration": 1}, "source_kwargs do not fit thompson.*exploration"),
        ("posterior_sampling", {"prior": 1}, "source_kwargs do not fit posterior_sampling.*prior"),
        ("noise_distillation", {"epsilon": 1}, "source_kwargs do not fit noise_distillation.*epsilon"),
        ("noise_distillation", {"tasks": []}, "source_kwargs do not fit noise_distillation.*tasks"),
        ("a3c", {}, "a3c.*a2c.*dqn.*posterior_sampling.*q_learning.*thompson.*ucb1"),
    ],
)
def test_wrong_source_is_refused_before_anything_is_written(source, settings, named, tmp_path: Path):
    preset = write_preset(tmp_path, source=source, source_kwargs=settings)
    with pytest.raises(ValueError, match=named):
        collect(preset, tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_posterior_sampling_of_an_environment_with_unknown_tasks_is_refused():
    collection = Collection("CartPole-v1", "posterior_sampling", {"train": [{}]}, 1, 1)
    with pytest.raises(ValueError, match="CartPole-v1"):
        make_learners(collection, None, None, [{}], np.random.default_rng(0))
    with pytest.raises(ValueError, match="DarkKeyToDoorTasks are not"):
        tasks = TASK_DISTRIBUTIONS[KEY_TO_DOOR]().sample(1, np.random.default_rng(0))
        check_collection(Collection(KEY_TO_DOOR, "posterior_sampling", {"train": tasks}, 1, 1))


@pytest.mark.parametrize(("environment", "kwargs"), [(ROOM, SMALL), (BANDIT, {"arms": 3, "pulls": 5})])
def test_batches_differ_in_their_randomness(environment, kwargs):
    tasks = TASK_DISTRIBUTIONS[environment](**kwargs).sample(1, np.random.default_rng(0)) * 6
    source = "q_learning" if environment == ROOM else "ucb1"
    collection = Collection(environment, source, {"train": tasks, "test": tasks}, 1, 3, environment_kwargs=kwargs)
    with tqdm(disable=True) as bar:
        actions = [
            str(run_learners(collection, Batch(split, index, 0, tasks), bar)["actions"].to_pylist())
            for split, index in (("train", 0), ("train", 1), ("test", 0))
        ]
    assert len(set(actions)) == 3
