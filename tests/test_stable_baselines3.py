"""Algorithms of Stable-Baselines3 as sources: every step is recorded as it was, in however many processes."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import datasets
import gymnasium
import numpy as np
import pytest
from commands import program_environment, write_preset
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from algodistill.environments import make_environment
from algodistill.histories import Collection, learners, processes
from algodistill.histories import collection as collection_module
from algodistill.histories.collecting import check_collection
from algodistill.histories.collection import batches
from algodistill.histories.processes import work_in_processes
from algodistill.sources import StableBaselines3
from algodistill.training import collect


pytest.importorskip("stable_baselines3")


class Odd(gymnasium.Env):
    """Ends in every way that there is, after some steps, and returns the same array again and again."""

    def __init__(self, observations="box", actions="discrete"):
        self._position = np.zeros(2, np.float32)
        self._count = np.zeros(1, np.int64)
        box = Box(-10, 10, (2,))
        self.observation_space = {
            "box": box,
            "discrete": Discrete(5),
            "dict": Dict({"position": box, "count": MultiDiscrete([5])}),
        }[observations]
        self.action_space = {
            "discrete": Discrete(3),
            "box": Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32)),
        }[actions]
        self._kind = observations

    def _observe(self):
        observed = {"position": self._position, "count": self._count}
        return {"box": self._position, "discrete": int(self._count[0]), "dict": observed}[self._kind]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._position[:] = self.np_random.normal(size=2)
        self._count[:] = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._position += self.np_random.normal(size=2)
        np.clip(self._position, -10, 10, out=self._position)
        self._count[:] = (self._count + 1) % 5
        reward = float(np.sum(action)) + self.np_random.normal()
        terminated, truncated = (bool(drawn) for drawn in self.np_random.random(2) < 0.15)
        if isinstance(action, np.ndarray) and action.ndim:
            action[:] = 0
        return self._observe(), reward, terminated, truncated, {}


class Log(gymnasium.Wrapper):
    """Keeps what really was done in an environment."""

    def __init__(self, env, log):
        super().__init__(env)
        self.log = log

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        self.log.append(("reset", copy.deepcopy(observation)))
        return observation, info

    def step(self, action):
        done = copy.deepcopy(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.log.append(("step", done, reward, terminated, truncated, copy.deepcopy(observation)))
        return observation, reward, terminated, truncated, info


def transitions(log):
    """Observation, action, reward, termination and truncation of each step in a log."""
    steps, seen, ended = [], None, True
    for kind, *entry in log:
        assert (kind == "reset") == ended
        if kind == "step":
            steps.append((seen, *entry[:4]))
        ended = kind == "step" and (entry[2] or entry[3])
        seen = entry[-1]
    return steps


def first_episodes(steps, episodes):
    ends = np.flatnonzero([step[3] or step[4] for step in steps])
    return steps[: ends[episodes - 1] + 1]


def record(learner, environment, streams, episodes, **options):
    """Run a learner; return what was recorded and what was logged of each stream."""
    logs = [[] for _ in range(streams)]
    spaces = environment().observation_space, environment().action_space
    recordings = [learners._Recording(1, *spaces) for _ in range(streams)]
    learner.record(
        [lambda log=log: Log(environment(), log) for log in logs],
        [recording.append for recording in recordings],
        episodes,
        **options,
    )
    columns = learners.step_columns(spaces[0])
    return [{column: recording.end_to_end(column) for column in columns} for recording in recordings], logs


ON_POLICY = {"n_steps": 6, "policy_kwargs": {"net_arch": [8]}}
OFF_POLICY = {"learning_starts": 12, "batch_size": 4, "buffer_size": 500, "policy_kwargs": {"net_arch": [8]}}
LEARNERS = {
    "a2c": ("discrete", "discrete", {"algorithm": "A2C", **ON_POLICY}),
    "a2c, box": ("box", "box", {"algorithm": "A2C", **ON_POLICY}),
    "a2c, squashed": (
        "box",
        "box",
        {
            "algorithm": "A2C",
            **ON_POLICY,
            "use_sde": True,
            "policy_kwargs": {"squash_output": True, "activation_fn": "ReLU"},
        },
    ),
    "ppo": ("box", "discrete", {"algorithm": "PPO", **ON_POLICY, "batch_size": 6, "n_epochs": 2}),
    "ppo, box, dict": ("dict", "box", {"algorithm": "PPO", **ON_POLICY, "batch_size": 6, "n_epochs": 2}),
    "dqn": ("discrete", "discrete", {"algorithm": "DQN", **OFF_POLICY, "train_freq": 4, "gradient_steps": 2}),
    "dqn, dict": ("dict", "discrete", {"algorithm": "DQN", **OFF_POLICY, "exploration_final_eps": 0.5}),
    "sac": ("box", "box", {"algorithm": "SAC", **OFF_POLICY}),
    "sac, dict": ("dict", "box", {"algorithm": "SAC", **OFF_POLICY, "train_freq": [3, "step"], "gradient_steps": -1}),
    "td3": ("box", "box", {"algorithm": "TD3", **OFF_POLICY, "action_noise": 0.3}),
}


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize(("observations", "actions", "settings"), LEARNERS.values(), ids=LEARNERS)
def test_what_is_recorded_is_what_happened(observations, actions, settings, streams):
    episodes, finished = 14, []
    recorded, logs = record(
        StableBaselines3(**settings, streams=streams),
        lambda: Odd(observations, actions),
        streams,
        episodes,
        seed=3,
        on_episode=lambda: finished.append(1),
    )
    ways = set()
    for columns, log in zip(recorded, logs, strict=True):
        happened = first_episodes(transitions(log), episodes)
        assert len(columns["rewards"]) == len(happened) > 3 * episodes
        seen, done, rewards, terminations, truncations = zip(*happened, strict=True)
        parts = ["position", "count"] if observations == "dict" else [None]
        for part in parts:
            column = "observations" if part is None else f"observations.{part}"
            expected = seen if part is None else [one[part] for one in seen]
            np.testing.assert_array_equal(columns[column], np.stack(expected))
        np.testing.assert_array_equal(columns["actions"], np.stack(done))
        np.testing.assert_array_equal(columns["rewards"], np.array(rewards, np.float32))
        np.testing.assert_array_equal(columns["terminations"], terminations)
        np.testing.assert_array_equal(columns["truncations"], truncations)
        assert columns["actions"].dtype == (np.float32 if actions == "box" else np.uint8)
        assert len(np.unique(columns["actions"], axis=0)) > 2
        ways |= set(zip(terminations, truncations, strict=True))
    assert len(finished) == episodes * streams
    # An end may be both.
    assert ways == {(False, False), (True, False), (False, True), (True, True)}
    # All streams went on until the last had its episodes, and no further.
    assert len({len(transitions(log)) for log in logs}) == 1
    assert len(transitions(logs[0])) == max(len(columns["rewards"]) for columns in recorded)


@pytest.mark.parametrize("name", ["ppo", "sac", "dqn"])
def test_recording_changes_nothing(name):
    import stable_baselines3
    from stable_baselines3.common.vec_env import DummyVecEnv

    observations, actions, settings = LEARNERS[name]
    _, logs = record(StableBaselines3(**settings), lambda: Odd(observations, actions), 2, 10, seed=5, episode_steps=7)
    steps = len(transitions(logs[0]))
    plain = [[], []]
    envs = DummyVecEnv([lambda log=log: Log(Odd(observations, actions), log) for log in plain])
    settings = copy.deepcopy(settings)
    learner = getattr(stable_baselines3, settings.pop("algorithm"))(
        "MlpPolicy", envs, seed=5, device="cpu", **settings
    )
    # The schedules stretch over as many steps.
    learner.learn(2 * 10 * 7)
    if len(transitions(plain[0])) < steps:
        learner.learn(200, reset_num_timesteps=False)
    for log, other in zip(logs, plain, strict=True):
        assert repr(transitions(log)) == repr(transitions(other)[:steps])


def test_seed_decides_whatever_ran_before():
    def actions(seed):
        learner = StableBaselines3(**LEARNERS["sac"][2])
        ((columns,), _) = record(learner, lambda: Odd("box", "box"), 1, 6, seed=seed)
        return columns["actions"].tolist()

    first = actions(0)
    assert first != actions(1)
    assert first == actions(0)


def test_learning_goes_on_past_the_steps_that_schedules_stretch_over():
    learner = StableBaselines3(**LEARNERS["dqn"][2], total_timesteps=20, exploration_final_eps=0)
    ((columns,), _) = record(learner, lambda: Odd("discrete", "discrete"), 1, 40, seed=0)
    assert (columns["terminations"] | columns["truncations"]).sum() == 40


def test_learner_sees_what_sources_may_and_the_record_does_not():
    environment, kwargs = "algodistill/DarkKeyToDoor-v0", {"size": 3, "episode_length": 6}
    env = make_environment(environment, {"key": [0, 0], "door": [1, 0]}, **kwargs)
    seen = []

    class Spy(gymnasium.Wrapper):
        def step(self, action):
            result = self.env.step(action)
            seen.append(result[-1]["source_observation"])
            return result

    ((columns,), _) = record(StableBaselines3(algorithm="A2C"), lambda: Spy(env), 1, 30, seed=0)
    assert columns["observations"].shape == (180, 2)
    assert {int(one[2]) for one in seen} == {0, 1, 2}
    np.testing.assert_array_equal(columns["observations"][1:6], np.stack(seen)[:5, :2])


@pytest.mark.parametrize("name", ["A2C", "SAC"])
def test_learning_improves(name):
    class Target(gymnasium.Env):
        """Pays the more the closer an action is to 0.6."""

        observation_space, action_space = Box(0, 1, (1,)), Box(-2, 2, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), -abs(float(action[0]) - 0.6), True, False, {}

    settings = {
        "A2C": {"learning_rate": 0.01},
        "SAC": {"learning_starts": 50, "learning_rate": 0.01, "batch_size": 32},
    }
    learner = StableBaselines3(algorithm=name, **settings[name], policy_kwargs={"net_arch": [16]})
    ((columns,), _) = record(learner, Target, 1, {"A2C": 1500, "SAC": 250}[name], seed=0)
    assert columns["rewards"][-50:].mean() > columns["rewards"][:50].mean() + 0.4


# What is asked for wrongly.


def pendulum(settings, **changes):
    asked = {"tasks": {"train": [{"kwargs": {"g": g}} for g in (5.0, 8.0, 10.0)]}, "learners_per_task": 1, **changes}
    environment_kwargs = {"max_episode_steps": 8}
    return Collection(
        "Pendulum-v1", "sb3", episodes=3, environment_kwargs=environment_kwargs, source_kwargs=settings, **asked
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "algorithm of source sb3 is missing.*A2C, DDPG, DQN, PPO, SAC"),
        ({"algorithm": "SARSA"}, "'SARSA' is not known.*A2C, DDPG, DQN, PPO, SAC"),
        ({"algorithm": "HerReplayBuffer"}, "'HerReplayBuffer' is not known"),
        ({"algorithm": "SAC", "learning_start": 3}, "SAC has no setting learning_start: .*learning_starts"),
        ({"algorithm": "SAC", "seed": 3}, "SAC has no setting seed"),
        ({"algorithm": "DQN"}, r"DQN does not take actions of Box\(.*\): choose A2C, DDPG, PPO, SAC or TD3"),
        ({"algorithm": "SAC", "policy": "BestPolicy"}, "SAC cannot be made with these settings.*BestPolicy"),
        ({"algorithm": "SAC", "policy_kwargs": {"layers": 3}}, "SAC cannot be made with these settings.*layers"),
        ({"algorithm": "SAC", "policy_kwargs": {"activation_fn": "Best"}}, "SAC cannot.*Best"),
        ({"algorithm": "SAC", "learning_rate": "fast"}, "SAC cannot be made with these settings.*fast"),
        ({"algorithm": "SAC", "train_freq": [1, "week"]}, "SAC cannot be made with these settings.*week"),
        (
            {"algorithm": "SAC", "train_freq": [1, "episode"], "streams": 2},
            "source_kwargs do not fit sb3.*only one env",
        ),
        ({"algorithm": "SAC", "streams": 0}, "streams=0"),
        ({"algorithm": "SAC", "processes": 0}, "processes=0"),
        ({"algorithm": "SAC", "streams": "many"}, "streams.*many"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_written(settings, named):
    with pytest.raises(ValueError, match=f"^[^\n]*{named}[^\n]*$"):
        check_collection(pendulum(settings))


class Shown(gymnasium.Env):
    """An environment with any spaces."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


@pytest.mark.parametrize(
    ("algorithm", "observation_space", "action_space", "named"),
    [
        ("SAC", Discrete(3), Discrete(2), r"SAC does not take actions of Discrete\(2\): choose A2C, DQN or PPO"),
        ("DQN", Discrete(3), MultiDiscrete([2, 2]), "DQN does not take.*: choose A2C or PPO"),
        ("A2C", Discrete(3), Discrete(2, start=1), r"counts from 0, and Discrete\(2, start=1\) does not"),
        ("A2C", Dict({"a": MultiDiscrete([2], start=[1])}), Discrete(2), "counts from 0.*TransformObservation"),
        ("A2C", Tuple([Discrete(2), Discrete(2)]), Discrete(2), "A2C cannot be made"),
        ("A2C", Dict({"a": Dict({"b": Discrete(2)})}), Discrete(2), "cannot see these observations"),
    ],
    ids=str,
)
def test_spaces_that_an_algorithm_cannot_take_are_refused(algorithm, observation_space, action_space, named):
    learner = StableBaselines3(algorithm=algorithm)
    with pytest.raises(ValueError, match=f"^[^\n]*{named}[^\n]*$"):
        learner.record([lambda: Shown(observation_space, action_space)], [print], 1)


def test_without_stable_baselines3_one_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ValueError, match=r"pip install 'algodistill\[sb3\]'"):
        check_collection(pendulum({"algorithm": "SAC"}))


def test_settings_are_left_as_they_are():
    settings = {"algorithm": "SAC", "streams": 2, "policy_kwargs": {"net_arch": [4]}, "replay_buffer_kwargs": {}}
    before = copy.deepcopy(settings)
    collection = pendulum(settings, learners_per_task=2)
    check_collection(collection)
    (batch,) = batches(collection)
    assert settings == before
    assert batch.tasks == [{"kwargs": {"g": g}} for g in [5.0, 8.0, 10.0] * 2 for _ in range(2)]


def test_episodes_that_an_algorithm_breaks_off_are_not_recorded(monkeypatch):
    from stable_baselines3 import A2C

    learn = A2C.learn

    def learn_twice(self, steps, callback, **kwargs):
        learn(self, 7, **kwargs)
        self._last_obs = None
        return learn(self, steps, callback, **kwargs)

    monkeypatch.setattr(A2C, "learn", learn_twice)
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(RuntimeError, match="breaks episodes off"):
        StableBaselines3(algorithm="A2C").record([lambda: env], [lambda **step: None], 1)


# Many learners, in processes.


def test_processes_shards_and_interruptions_change_nothing(tmp_path: Path, monkeypatch):
    # Two learners of two streams, three episodes of eight steps: two shards of train tasks, one of test tasks.
    monkeypatch.setattr(collection_module, "OWN_LOOP_SHARD_TRANSITIONS", 100)
    settings = {"algorithm": "SAC", "streams": 2, "processes": 2, **OFF_POLICY}
    asked = {
        "environment": "Pendulum-v1",
        "environment_kwargs": {"max_episode_steps": 8},
        "tasks": {"list": [{"kwargs": {"g": g}} for g in (4.0, 6.0, 8.0, 10.0)]},
        "train_tasks": 3,
        "validation_tasks": 0,
        "source": "sb3",
        "learners_per_task": 1,
        "episodes": 3,
    }
    folder = collect(write_preset(tmp_path, **asked, source_kwargs=settings), tmp_path / "data", progress=False)
    files = {file.name: file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}
    assert {"train-00000.parquet", "train-00001.parquet", "test-00000.parquet"} <= set(files)
    assert '"processes"' not in files["collection.json"].decode().split('"collection":')[1]
    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    rows = [*splits["train"], *splits["test"]]
    assert [json.loads(row["task"]) for row in rows[::2]] == [json.loads(row["task"]) for row in rows[1::2]]
    assert len({row["task"] for row in rows}) == 4 == len(rows) / 2
    assert all(row["episode_lengths"] == [8, 8, 8] and not any(row["terminations"]) for row in rows)
    # Each learner, and each of its streams, has randomness of its own.
    assert len({str(row["actions"]) for row in rows}) == len({str(row["observations"]) for row in rows}) == 8
    for row in rows:
        # The pendulum of the row's task, acted on as the row says.
        observations, torques = (np.array(row[column])[:8] for column in ("observations", "actions"))
        pull = 1.5 * json.loads(row["task"])["kwargs"]["g"] * observations[:, 1]
        speeds = np.clip(observations[:, 2] + (pull + 3 * torques[:, 0]) * 0.05, -8, 8)
        np.testing.assert_allclose(observations[1:, 2], speeds[:-1], rtol=1e-4, atol=1e-5)

    # One shard is missing, and another number of processes completes it.
    (folder / "Pendulum-v1" / "train-00000.parquet").unlink()
    (folder / "README.md").unlink()
    alone = write_preset(tmp_path, **asked, source_kwargs={**settings, "processes": 1})
    collect(alone, folder, progress=False)
    assert files["train-00000.parquet"] == (folder / "Pendulum-v1" / "train-00000.parquet").read_bytes()


class Breaking(Odd):
    def step(self, action):
        self.steps = getattr(self, "steps", 0) + 1
        return *super().step(action)[:3], 1 / (7 - self.steps) < 0, {}


def test_a_learner_that_fails_says_on_which_task():
    spec = gymnasium.envs.registration.EnvSpec("Breaking-v0", entry_point=Breaking)
    collection = Collection("Breaking-v0", "sb3", {}, 1, 100, source_kwargs={"algorithm": "A2C"})
    spaces = Breaking().observation_space, Breaking().action_space
    options = {"kwargs": {"observations": "box"}}
    try:
        with pytest.raises(
            RuntimeError, match=r'^The learner of task {"kwargs": {.*}} failed: ZeroDivisionError: div'
        ):
            learners._record_learner(collection, spec, spaces, 5, options, 0, print)
        with pytest.raises(ValueError, match="Breaking-v0 do not all have the same spaces"):
            learners._record_learner(collection, spec, (spaces[0], Discrete(9)), 5, options, 0, print)
    finally:
        gymnasium.registry.pop("Breaking-v0")


class Unreadable(ValueError):
    """Cannot be made again from what is sent of it."""

    def __init__(self, one, two):
        super().__init__(one)


def work(what, advance):
    for _ in range(3):
        advance()
    if what == "raise ValueError":
        raise ValueError("so it goes")
    if what == "raise":
        raise Unreadable("so it goes", 2)
    if what == "exit":
        sys.exit("so it goes")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(600)
    return what


def test_work_comes_back_in_order_and_its_failure_ends_all():
    progress, found, began = [], [], time.monotonic()
    pieces = [("a",), ("b",), ("c",), ("raise",), ("hang",)]
    with pytest.raises(ValueError, match="^Unreadable: so it goes$"):
        for result in work_in_processes(work, pieces, 1, progress.append):
            found.append(result)
    assert "abc".startswith("".join(found)) and sum(progress) >= 12
    assert time.monotonic() - began < 200


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [("raise ValueError", ValueError, "^so it goes$"), ("exit", RuntimeError, "SystemExit: so it goes")],
)
def test_failures_can_be_sent_and_end_nothing_else(what, kind, words, monkeypatch):
    monkeypatch.setattr(processes, "_progress", [0, 0])
    with pytest.raises(kind, match=words):
        processes._do(1, cloudpickle.dumps((work, (what,))))
    assert processes._progress == [0, 3]


def test_a_killed_process_is_noticed():
    with pytest.raises(RuntimeError, match="2 processes has died.*fewer processes"):
        list(work_in_processes(work, [("hang",), ("die",)], 2, lambda steps: None))


# No `if __name__ == "__main__"`, and an environment that nothing but the main module knows.
SCRIPT = """
import os, sys, gymnasium
from pathlib import Path
from algodistill.histories import Collection, collect_histories

class Slow(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}
    def step(self, action):
        Path(sys.argv[1], f"pid-{os.getpid()}").touch()
        self.steps = getattr(self, "steps", 0) + 1
        return 0, 1.0, bool(self.np_random.random() < 0.1), False, {}

gymnasium.register("Slow-v0", eval(sys.argv[2]))
settings = {"algorithm": "A2C", "processes": 1}
collect_histories(
    Collection("Slow-v0", "sb3", {"train": [{"kwargs": {}}]}, 1, 1_000_000_000, source_kwargs=settings),
    Path(sys.argv[1]),
    progress=False,
)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("kind", "entry_point"), [(signal.SIGINT, "Slow"), (signal.SIGKILL, "'__main__:Slow'")])
def test_processes_end_with_the_one_that_they_work_for(kind, entry_point, tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen(
        [sys.executable, "script.py", str(tmp_path), entry_point],
        cwd=tmp_path, env=program_environment(), start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline, workers = time.monotonic() + 200, []
    while not workers and script.poll() is None and time.monotonic() < deadline:
        begun = [int(file.name.partition("-")[2]) for file in tmp_path.glob("pid-*")]
        workers = [pid for pid in begun if pid != script.pid]
        time.sleep(0.05)
    # Ctrl-C comes to all processes of a terminal.
    if kind == signal.SIGINT and workers:
        os.killpg(script.pid, kind)
    else:
        script.kill()
    _, said = script.communicate(timeout=60)
    assert workers, said
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(tmp_path.rglob("*.parquet*"))
    # A worker has nothing to say.
    assert said.count("Traceback") == (kind == signal.SIGINT) == said.count("\nKeyboardInterrupt")
