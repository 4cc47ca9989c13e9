"""Algorithms of Stable-Baselines3 (Raffin et al., 2021), each learner in the loop that its algorithm comes with."""

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete


# What the constructors are given here, or what would change whose steps are recorded.
NOT_SETTINGS = {"self", "env", "seed", "_init_setup_model"}
# The algorithms of Stable-Baselines3 itself that take such actions.
FITTING: dict[type[gymnasium.Space], str] = {
    Box: "A2C, DDPG, PPO, SAC or TD3",
    Discrete: "A2C, DQN or PPO",
    MultiBinary: "A2C or PPO",
    MultiDiscrete: "A2C or PPO",
}


class StableBaselines3:
    """A learner of Stable-Baselines3 or of sb3_contrib.

    These algorithms run their environments themselves: instead of `act` and `learn` with what a batch of environments
    brings, there is [`record`], which runs one learner and hands on each step that its environments take.

    Args:
        algorithm (`str`): Name of the algorithm's class, such as `"SAC"`.
        streams (`int`, *optional*, defaults to `1`): Environments that the learner acts in.
        processes (`int`, *optional*): Processes that learners are shared out to, by whoever runs many of them; all
            available cores by default.
        policy (`str`, *optional*): Name of the policy; by default `"MultiInputPolicy"` for Dict observations, else
            `"MlpPolicy"` (`"MultiInputLstmPolicy"` and `"MlpLstmPolicy"` for a recurrent algorithm).
        total_timesteps (`int`, *optional*): Steps, of all streams together, that the algorithm's schedules stretch
            over, such as DQN's exploration. It does not end the learning. By default, the episodes to record times the
            length of an episode of random actions.
        settings: What else the algorithm's constructor is given. What only Python can say has a short form:
            `action_noise` may be the standard deviation of a `NormalActionNoise`, `train_freq` a list, and
            `policy_kwargs["activation_fn"]` the name of a class of `torch.nn`. `device` is `"cpu"` by default.

    Raises:
        ValueError: If Stable-Baselines3 is not installed, there is no such algorithm, or it has no such setting.
    """

    # Whoever runs sources looks for this.
    own_loop = True

    def __init__(
        self,
        *,
        algorithm: str | None = None,
        streams: int = 1,
        processes: int | None = None,
        policy: str | None = None,
        total_timesteps: int | None = None,
        **settings: Any,
    ):
        for name, value in {"streams": streams, "processes": processes, "total_timesteps": total_timesteps}.items():
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}={value!r} is out of range: expected a whole number of at least 1.")
        self._class = find_algorithm(algorithm)
        known = inspect.signature(self._class).parameters.keys() - NOT_SETTINGS - {"policy"}
        if unknown := sorted(settings.keys() - known):
            raise ValueError(
                f"{algorithm} has no setting {', '.join(unknown)}: choose among {', '.join(sorted(known))}."
            )
        self.streams, self.processes = streams, processes
        self._policy, self._total_timesteps, self._settings = policy, total_timesteps, settings

    def record(
        self,
        makers: Sequence[Callable[[], gymnasium.Env]],
        records: Sequence[Callable[..., None]],
        episodes: int,
        *,
        seed: int | None = None,
        episode_steps: int = 1,
        on_episode: Callable[[], None] = lambda: None,
    ) -> None:
        """Let the learner learn until each of its streams has brought so many episodes.

        A stream that has brought them goes on, for the learner's sake, without being recorded.

        Args:
            makers (`Sequence[Callable]`): For each stream, what makes its environment.
            records (`Sequence[Callable]`): For each stream, what takes a step of it: `observations`, `actions`,
                `rewards`, `terminations` and `truncations` as keywords, just as the environment was given and gave
                them. The observation is the one that was acted on.
            episodes (`int`): Episodes of each stream; with 0, one step is taken that nobody is told of.
            seed (`int`, *optional*): Seed of all randomness, the global generators' included.
            episode_steps (`int`, *optional*, defaults to `1`): About how many steps an episode has.
            on_episode (`Callable`, *optional*): Called whenever an episode has been recorded.

        Raises:
            ValueError: If the algorithm, its settings and the environment do not go together.
        """
        from stable_baselines3.common.logger import Logger
        from stable_baselines3.common.utils import set_random_seed
        from stable_baselines3.common.vec_env import DummyVecEnv

        if seed is not None:
            # Before the environments, which may draw from them as they are made.
            set_random_seed(seed)

        streams: list[RecordedStream] = []

        def recorded(make: Callable[[], gymnasium.Env], append: Callable[..., None]) -> gymnasium.Env:
            streams.append(RecordedStream(make(), append, episodes, on_episode))
            return streams[-1]

        try:
            envs = DummyVecEnv([partial(recorded, *stream) for stream in zip(makers, records, strict=True)])
        except NotImplementedError as error:
            raise ValueError(f"Stable-Baselines3 cannot see these observations: {_in_words(error)}") from error

        def learning(*_: Any) -> bool:
            return any(stream.episodes_left for stream in streams)

        with contextlib.closing(envs), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="stable_baselines3|sb3_contrib")
            algorithm = self._make(envs, seed)
            # The logger that comes with it would make a folder of temporary files.
            algorithm.set_logger(Logger(folder=None, output_formats=[]))
            steps = self._total_timesteps or max(episodes * episode_steps * len(makers), 1)
            going_on = True
            while going_on:
                # Called again, it goes on where it stopped.
                algorithm.learn(steps, callback=learning, log_interval=None, reset_num_timesteps=False)
                going_on = learning()

    def _make(self, envs: Any, seed: int | None) -> Any:
        """The algorithm, in these environments."""
        name, action_space = self._class.__name__, envs.action_space
        for space in (action_space, *_parts(envs.observation_space)):
            if np.any(getattr(space, "start", 0)):
                raise ValueError(
                    f"Stable-Baselines3 counts from 0, and {space} does not: wrap the environment in "
                    "gymnasium.wrappers.TransformAction or TransformObservation."
                )
        kind = "MultiInput" if isinstance(envs.observation_space, Dict) else "Mlp"
        policy = self._policy or next(alias for alias in self._class.policy_aliases if alias.startswith(kind))
        try:
            settings = {"device": "cpu", "verbose": 0, **self._python_settings(action_space)}
            return self._class(policy, envs, seed=seed, **settings)
        except Exception as error:
            if isinstance(error, AssertionError) and "action space" in str(error):
                fitting = FITTING.get(type(action_space))
                mend = f"choose {fitting}" if fitting else "no algorithm of Stable-Baselines3 does"
                raise ValueError(f"{name} does not take actions of {action_space}: {mend}.") from error
            raise ValueError(f"{name} cannot be made with these settings: {_in_words(error)}") from error

    def _python_settings(self, action_space: gymnasium.Space) -> dict[str, Any]:
        """The settings, with Python's objects for those of which a preset has only a short form."""
        # Algorithms write into the dictionaries that they are given.
        settings = copy.deepcopy(self._settings)
        if isinstance(settings.get("train_freq"), list):
            settings["train_freq"] = tuple(settings["train_freq"])
        if isinstance(settings.get("action_noise"), int | float):
            from stable_baselines3.common.noise import NormalActionNoise

            deviation = np.full(action_space.shape or (), settings["action_noise"])
            settings["action_noise"] = NormalActionNoise(np.zeros_like(deviation), deviation)
        policy_kwargs = settings.get("policy_kwargs")
        if isinstance(policy_kwargs, dict) and isinstance(policy_kwargs.get("activation_fn"), str):
            policy_kwargs["activation_fn"] = getattr(torch.nn, policy_kwargs["activation_fn"])
        return settings


class RecordedStream(gymnasium.Wrapper):
    """An environment that hands on each step that it takes, until there have been so many episodes.

    What an algorithm tells its callbacks is less exact: an end that is both a termination and a truncation counts as
    a termination, pictures have their channels first, and actions go by different names.

    Args:
        env (`gymnasium.Env`): The environment.
        append (`Callable`): What takes a step.
        episodes (`int`): Episodes to hand on.
        on_episode (`Callable`): Called after the last step of each.
    """

    def __init__(self, env: gymnasium.Env, append: Callable[..., None], episodes: int, on_episode: Callable[[], None]):
        super().__init__(env)
        # What learners may see is more than what is recorded in some environments here.
        self.observation_space = getattr(env.unwrapped, "source_observation_space", None) or env.observation_space
        self.episodes_left = episodes
        self._append, self._on_episode = append, on_episode
        self._within_episode = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self._within_episode and self.episodes_left:
            raise RuntimeError("The algorithm breaks episodes off, which cannot be recorded: choose streams=1.")
        self._observation, info = self.env.reset(seed=seed, options=options)
        return info.get("source_observation", self._observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        # Copies: the environment may write into either.
        observed, done = copy.deepcopy(self._observation), np.array(action)
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        ended = bool(terminated or truncated)
        self._within_episode = not ended
        if self.episodes_left:
            self._append(
                observations=observed, actions=done, rewards=reward, terminations=terminated, truncations=truncated
            )
            if ended:
                self.episodes_left -= 1
                self._on_episode()
        return info.get("source_observation", self._observation), reward, terminated, truncated, info


def find_algorithm(name: str | None) -> Any:
    """The class of an algorithm.

    Raises:
        ValueError: If Stable-Baselines3 is not installed, or has no such algorithm.
    """
    try:
        import stable_baselines3
        from stable_baselines3.common.base_class import BaseAlgorithm
    except ImportError as error:
        raise ValueError(
            f"Source sb3 needs Stable-Baselines3, pip install 'algodistill[sb3]' ({_in_words(error)})."
        ) from error
    found = dict(vars(stable_baselines3))
    with contextlib.suppress(ImportError):
        import sb3_contrib

        found.update(vars(sb3_contrib))
    algorithms = {name: value for name, value in found.items() if inspect.isclass(value)}
    algorithms = {name: value for name, value in algorithms.items() if issubclass(value, BaseAlgorithm)}
    if name not in algorithms:
        wrong = "is missing" if name is None else f"{name!r} is not known"
        raise ValueError(
            f"The algorithm of source sb3 {wrong}: source_kwargs need one of {', '.join(sorted(algorithms))}."
        )
    return algorithms[name]


def _parts(space: gymnasium.Space) -> list[gymnasium.Space]:
    """A space, or those that a Dict or Tuple consists of."""
    parts = getattr(space, "spaces", [space])
    return list(parts.values() if isinstance(parts, Mapping) else parts)


def _in_words(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(str(error).split()) or type(error).__name__
