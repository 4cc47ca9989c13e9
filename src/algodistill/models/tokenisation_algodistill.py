"""The tokeniser of histories: from what a learner saw, did and got to the model's inputs, and back to actions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .configuration_algodistill import LAYOUTS
from .spaces_algodistill import (
    BINNINGS,
    ActionBins,
    bounds_of,
    check_action_space,
    describe_space,
    encode_discrete,
    leaf_name,
    leaf_spaces,
    leaves,
    numbers_of,
    shape_of,
    sizes_of,
    starts_of,
    width_of,
)


# Labels of padding, which the loss passes over.
IGNORED = -100
# The parts of a step that can be hidden from the model, in the order of `token_mask`'s last axis.
PARTS = ("previous_actions", "previous_rewards", "observations")


# Normalised numbers beyond this many standard deviations are clipped.
CLIP = 10.0
# Bounds of a Box beyond this stand for no bound (CartPole's velocities are "below" 3.4e38).
LARGEST_BOUND = 1e6
# What a tokeniser is told beside its spaces.
SETTINGS = (
    "layout",
    "observation_bins",
    "action_bins",
    "action_binning",
    "observation_mean",
    "observation_std",
    "observation_low",
    "observation_high",
    "reward_scale",
    "return_conditioned",
    "return_scale",
)
# Fitting reads so many histories at most.
FITTED_HISTORIES = 256


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """The first id of each dimension."""
    return np.cumsum(sizes) - sizes


class HistoryTokeniser(FeatureExtractionMixin):
    """Turns histories into the inputs of an [`AlgorithmDistillationModel`], and its logits into actions.

    What the model knows when it acts at step t is the previous action and reward, the observation and whether an
    episode starts; that is one *step*. In the layout `"transition"` a step is one token, in `"interleaved"` three.

    Discrete observations and actions keep their dimensions: each has an index of its own. Continuous observations
    become numbers, normalised and clipped to [-10, 10], or with `observation_bins` indices too. Continuous actions are
    divided into bins. Means, deviations, ranges and the scale of the rewards are what [`fit`] finds in histories:

    ```python
    tokeniser = HistoryTokeniser(env.observation_space, env.action_space).fit(load_dataset("data/mine", split="train"))
    ```

    Args:
        observation_space (`gymnasium.Space` or `dict`): One environment's observations: Discrete, MultiDiscrete,
            MultiBinary, Box, or a Dict or Tuple of these; or what [`describe_space`] makes of them.
        action_space (`gymnasium.Space` or `dict`): One environment's actions: Discrete, MultiDiscrete, MultiBinary, or
            a Box with finite bounds; or what [`describe_space`] makes of them.
        layout (`str`, *optional*, defaults to `"transition"`): As in the model's configuration.
        observation_bins (`int`, *optional*): Divide each dimension of continuous observations into so many equally
            wide bins, instead of reading them as numbers.
        action_bins (`int`, *optional*, defaults to `21`): Bins of each dimension of continuous actions, from its lower
            bound to its upper one; with an odd number, one lies in the middle of the range.
        action_binning (`str`, *optional*, defaults to `"uniform"`): `"uniform"` spaces these equally, `"mu_law"` more
            closely near the middle of the range.
        observation_mean (`list[float]`, *optional*): Mean of each number of continuous observations, in the order of
            their leaves. By default the middle between the bounds, 0 where there are none.
        observation_std (`list[float]`, *optional*): Standard deviation of each of these. By default half the range
            between the bounds, 1 where there are none.
        observation_low (`list[float]`, *optional*): Where the first bin of each of these starts. By default the lower
            bound.
        observation_high (`list[float]`, *optional*): Where the last bin of each of these ends. By default the upper
            bound.
        reward_scale (`float`, *optional*, defaults to `1.0`): What rewards are divided by for the model to read.
        return_conditioned (`bool`, *optional*, defaults to `False`): Whether the model also reads what is still to
            come of the episode's return.
        return_scale (`float`, *optional*, defaults to `1.0`): What that is divided by.

    Raises:
        ValueError: If a space cannot be tokenised or an argument is out of its range.
    """

    model_input_names = [
        *PARTS,
        "episode_starts",
        "observation_values",
        "returns_to_go",
        "attention_mask",
        "token_mask",
        "labels",
    ]

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        layout: str = "transition",
        *,
        observation_bins: int | None = None,
        action_bins: int = 21,
        action_binning: str = "uniform",
        observation_mean: Sequence[float] | None = None,
        observation_std: Sequence[float] | None = None,
        observation_low: Sequence[float | None] | None = None,
        observation_high: Sequence[float | None] | None = None,
        reward_scale: float = 1.0,
        return_conditioned: bool = False,
        return_scale: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.observation_space = describe_space(observation_space)
        self.action_space = describe_space(action_space)
        check_action_space(self.action_space, action_space)
        for name, value, choices in (("layout", layout, LAYOUTS), ("action_binning", action_binning, BINNINGS)):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is not known: choose one of {list(choices)}.")
        for name, bins in (("observation_bins", observation_bins), ("action_bins", action_bins)):
            if bins is not None and (not isinstance(bins, int) or bins < 2):
                raise ValueError(f"{name}={bins!r} is out of range: expected a whole number of at least 2.")
        for name, scale in (("reward_scale", reward_scale), ("return_scale", return_scale)):
            if not (np.isfinite(scale) and scale > 0):
                raise ValueError(f"{name}={scale} is out of range: expected a finite number above 0.")
        self.layout = layout
        self.observation_bins, self.action_bins, self.action_binning = observation_bins, action_bins, action_binning
        self.reward_scale, self.return_scale = float(reward_scale), float(return_scale)
        self.return_conditioned = return_conditioned
        self._leaves = leaf_spaces(self.observation_space)
        self._bins = ActionBins(self.action_space, action_bins, action_binning) if self._acts_in_a_box else None
        self._observation_offsets = _offsets(np.asarray(self.observation_sizes, dtype=np.int64))
        # Every action dimension has one id more, "no action".
        self._action_offsets = _offsets(np.asarray(self.action_sizes) + 1)
        self._set_statistics(observation_mean, observation_std, observation_low, observation_high)

    @property
    def _acts_in_a_box(self) -> bool:
        return self.action_space["type"] == "Box"

    def _set_statistics(self, mean: Any, std: Any, low: Any, high: Any) -> None:
        """Take means and deviations, or ranges, of the continuous observations; by default after their bounds."""
        bounds = [bounds_of(leaf) for leaf in self._leaves.values() if leaf["type"] == "Box"]
        lowest, highest = (np.concatenate([np.zeros(0), *(pair[side] for pair in bounds)]) for side in (0, 1))
        bounded = (np.abs(lowest) <= LARGEST_BOUND) & (np.abs(highest) <= LARGEST_BOUND)
        lowest, highest = np.where(bounded, lowest, np.nan), np.where(bounded, highest, np.nan)
        half = (highest - lowest) / 2
        defaults = {
            "observation_mean": np.where(bounded, (lowest + highest) / 2, 0.0),
            "observation_std": np.where(bounded & (half > 0), half, 1.0),
            "observation_low": lowest,
            "observation_high": highest,
        }
        unused = ("observation_low", "observation_high") if self.observation_bins is None else tuple(defaults)[:2]
        for (name, default), values in zip(defaults.items(), (mean, std, low, high), strict=True):
            if not len(default) or name in unused:
                setattr(self, name, None)
                continue
            array = default if values is None else np.asarray(values, dtype=np.float64)
            if array.shape != default.shape or (name == "observation_std" and not (array > 0).all()):
                expected = "numbers above 0" if name == "observation_std" else "numbers"
                raise ValueError(f"{name}={values} does not fit: expected {len(default)} {expected}.")
            # JSON has no other word for "not known" than null.
            setattr(self, name, [None if np.isnan(value) else value for value in array.tolist()])
        self._normalisation = [
            np.asarray([] if getattr(self, name) is None else getattr(self, name), dtype=np.float64)
            for name in defaults
        ]

    @property
    def observation_sizes(self) -> list[int]:
        """Number of values of each dimension of an observation that becomes ids."""
        sizes: list[int] = []
        for leaf in self._leaves.values():
            if leaf["type"] != "Box":
                sizes += sizes_of(leaf).tolist()
            elif self.observation_bins is not None:
                sizes += [self.observation_bins] * width_of(leaf)
        return sizes

    @property
    def observation_numbers(self) -> int:
        """Number of dimensions of an observation that stay numbers."""
        if self.observation_bins is not None:
            return 0
        return sum(width_of(leaf) for leaf in self._leaves.values() if leaf["type"] == "Box")

    @property
    def action_sizes(self) -> list[int]:
        """Number of values of each dimension of an action."""
        return list(self._bins.sizes) if self._bins else sizes_of(self.action_space).tolist()

    def check_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Raise a `ValueError` that names the difference if these are not the spaces the tokeniser was built for."""
        for name, mine, other in (
            ("observation space", self.observation_space, describe_space(observation_space)),
            ("action space", self.action_space, describe_space(action_space)),
        ):
            if mine != other:
                raise ValueError(f"The environment's {name} is {other}, the checkpoint's is {mine}.")

    def fit(self, histories: Any, *, max_histories: int = FITTED_HISTORIES) -> "HistoryTokeniser":
        """Find the mean, deviation and range of continuous observations and the scale of rewards in histories.

        Rewards within [-1, 1] stay as they are; others are divided by the root mean square of those that are not 0.
        Where the model is conditioned on returns, these are divided by the largest sum of rewards of an episode.

        Args:
            histories (`datasets.Dataset`, [`HistoryWindows`] or any `Iterable[Mapping]`): Histories or windows of
                them, each with `observations` and `rewards`; to condition on returns, also `episode_returns` or
                `returns_to_go`.
            max_histories (`int`, *optional*, defaults to `256`): How many to read at most: evenly spaced ones if their
                number is known, else the first.

        Returns:
            [`HistoryTokeniser`]: Itself.

        Raises:
            ValueError: If there is no history, or one does not fit the spaces.
        """
        if max_histories < 1:
            raise ValueError(f"max_histories={max_histories} is out of range: expected at least 1.")
        count, largest, largest_return, paid, squares = 0, 0.0, 0.0, 0, 0.0
        mean = deviations = np.zeros(sum(width_of(leaf) for leaf in self._leaves.values() if leaf["type"] == "Box"))
        low, high = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
        for history in _some(histories, max_histories):
            numbers, rewards = self._numbers_and_rewards(history)
            largest = max(largest, float(np.abs(rewards).max()))
            if self.return_conditioned:
                largest_return = max(largest_return, _largest_return(history))
            paid, squares = paid + int(np.count_nonzero(rewards)), squares + float(np.square(rewards).sum())
            if not len(mean):
                continue
            low, high = np.minimum(low, numbers.min(axis=0)), np.maximum(high, numbers.max(axis=0))
            # Means and sums of squared deviations of two parts give those of the whole (Chan et al. 1979).
            own_mean, total = numbers.mean(axis=0), count + len(numbers)
            difference = own_mean - mean
            deviations = deviations + np.square(numbers - own_mean).sum(axis=0)
            deviations = deviations + np.square(difference) * count * len(numbers) / total
            mean, count = mean + difference * len(numbers) / total, total
        self.reward_scale = 1.0 if largest <= 1 else float(np.sqrt(squares / paid))
        self.return_scale = largest_return or 1.0
        if len(mean):
            std = np.sqrt(deviations / count)
            # What never changes is only centred.
            std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
            self._set_statistics(mean, np.where(std > 0, std, 1.0), low, high)
        return self

    def _numbers_and_rewards(self, history: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Continuous observations `(steps, numbers)` and rewards `(steps,)` of a history, or a window of one."""
        if not isinstance(history, Mapping) or "rewards" not in history:
            raise ValueError("That is no learning history: expected observations and rewards of its steps.")
        columns = {path: leaf_name("observations", path) for path in self._leaves}
        if "observations" in history:
            parts = leaves(self.observation_space, history["observations"])
        elif all(column in history for column in columns.values()):
            parts = {path: history[column] for path, column in columns.items()}
        else:
            raise ValueError(f"A history has {sorted(history)}: expected also {list(columns.values())}.")
        rewards = np.asarray(history["rewards"], dtype=np.float64)
        boxes = {path: leaf for path, leaf in self._leaves.items() if leaf["type"] == "Box"}
        numbers = [numbers_of(columns[path], parts[path], leaf, 1) for path, leaf in boxes.items()]
        if not len(rewards) or any(len(part) != len(rewards) for part in numbers):
            lengths = {"rewards": len(rewards), **dict(zip(boxes, map(len, numbers), strict=True))}
            raise ValueError(f"A history has different numbers of steps, {lengths}: expected one number, at least 1.")
        if not np.isfinite(rewards).all():
            raise ValueError("rewards hold values that are not finite numbers.")
        return np.concatenate([np.zeros((len(rewards), 0)), *numbers], axis=1), rewards

    def encode_steps(
        self,
        observations: Any,
        previous_actions: Any,
        previous_rewards: Any,
        episode_starts: Any,
        history_starts: Any,
        returns_to_go: Any = None,
    ) -> dict[str, torch.Tensor]:
        """Encode steps, whose leading axes (streams, windows, time) are all those of `previous_rewards`.

        Args:
            observations: Elements of the observation space, `(..., *observation shape)`; of a Dict or Tuple space, a
                dict or tuple of such arrays, or a dict from the paths of the leaves to them.
            previous_actions: Elements of the action space, `(..., *action shape)`.
            previous_rewards: Shape `(...)`.
            episode_starts: Whether an episode starts with the step, shape `(...)`.
            history_starts: Whether there is no previous action, shape `(...)`.
            returns_to_go: What is still to come of the episode's return, shape `(...)`, if the model is conditioned
                on that.

        Returns:
            `dict[str, torch.Tensor]`: `observations` `(..., observation dimensions)` and `previous_actions`
            `(..., action dimensions)`, as ids; `previous_rewards` `(...)`; `episode_starts` `(...)`; if there are
            continuous observations, `observation_values` `(..., observation numbers)`; and, if the model is
            conditioned on returns, `returns_to_go` `(...)`. The ids of a dimension follow
            those of the dimension before it; an action dimension's first id is "no action".
        """
        rewards = np.asarray(previous_rewards, dtype=np.float32)
        parts = leaves(self.observation_space, observations)
        actions = self._encode_actions(previous_actions, rewards.ndim)
        return self._encode(parts, actions, rewards, episode_starts, history_starts, returns_to_go)

    def _encode(
        self,
        observations: Mapping[str, Any],
        previous_actions: np.ndarray,
        previous_rewards: np.ndarray,
        episode_starts: Any,
        history_starts: Any,
        returns_to_go: Any,
    ) -> dict[str, torch.Tensor]:
        """As [`encode_steps`], from the leaves of the observations and the indices of the actions."""
        ids, values = self._encode_observations(observations, previous_rewards.ndim)
        actions = previous_actions + 1
        actions[np.asarray(history_starts, dtype=bool)] = 0
        if self.reward_scale != 1:
            previous_rewards = previous_rewards / np.float32(self.reward_scale)
        encoded = {
            "observations": torch.from_numpy(ids + self._observation_offsets),
            "previous_actions": torch.from_numpy(actions + self._action_offsets),
            "previous_rewards": torch.from_numpy(previous_rewards),
            "episode_starts": torch.from_numpy(np.asarray(episode_starts).astype(np.int64)),
        }
        if values is not None:
            encoded["observation_values"] = torch.from_numpy(values)
        if self.return_conditioned:
            encoded["returns_to_go"] = self._encode_returns(returns_to_go, previous_rewards.shape)
        return encoded

    def _encode_returns(self, returns_to_go: Any, shape: tuple[int, ...]) -> torch.Tensor:
        if returns_to_go is None:
            raise ValueError(
                "The model is conditioned on returns, and returns_to_go is missing: HistoryWindows gives it when told "
                "returns_to_go=True."
            )
        returns = np.asarray(returns_to_go, dtype=np.float32)
        if returns.shape != shape:
            raise ValueError(f"returns_to_go have the shape {returns.shape}: expected {shape}, as the rewards have.")
        if not np.isfinite(returns).all():
            raise ValueError("returns_to_go hold values that are not finite numbers.")
        return torch.from_numpy(returns / np.float32(self.return_scale))

    def _encode_observations(
        self, observations: Mapping[str, Any], leading: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Indices counted from 0 `(*leading axes, dimensions)`, and what is continuous, normalised, as float32
        `(*leading axes, numbers)`, or `None` if nothing is."""
        ids: list[np.ndarray] = []
        values: list[np.ndarray] = []
        first = 0
        mean, std, low, high = self._normalisation
        for path, leaf in self._leaves.items():
            name = leaf_name("observations", path)
            if leaf["type"] != "Box":
                ids.append(encode_discrete(name, observations[path], leaf, leading))
                continue
            numbers = numbers_of(name, observations[path], leaf, leading)
            own = slice(first, first + numbers.shape[-1])
            first = own.stop
            if self.observation_bins is None:
                values.append(np.clip((numbers - mean[own]) / std[own], -CLIP, CLIP).astype(np.float32))
                continue
            if np.isnan(low[own]).any() or np.isnan(high[own]).any():
                raise ValueError(
                    f"{name} have no bounds that {self.observation_bins} bins could lie between: call "
                    "tokeniser.fit(histories) first."
                )
            ranges = np.where(high[own] > low[own], high[own] - low[own], 1.0)
            bins = np.floor((numbers - low[own]) / ranges * self.observation_bins)
            ids.append(np.clip(bins, 0, self.observation_bins - 1).astype(np.int64))
        if not ids:
            ids = [np.zeros((*values[0].shape[:-1], 0), dtype=np.int64)]
        return np.concatenate(ids, axis=-1), np.concatenate(values, axis=-1) if values else None

    def _encode_actions(self, actions: Any, leading: int) -> np.ndarray:
        """Indices of actions, counted from 0, shape `(*leading axes, action dimensions)`."""
        if self._bins:
            return self._bins.encode("actions", actions, leading)
        return encode_discrete("actions", actions, self.action_space, leading)

    def __call__(
        self, windows: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, token_masking: float = 0.0
    ) -> BatchFeature:
        """Encode windows of histories as one padded batch with labels.

        Args:
            windows (`Mapping` or `Sequence[Mapping]`): Windows as [`HistoryWindows`] gives them: `observations`
                (nested ones in any way that [`encode_steps`] takes them), `actions`, `rewards`, `episode_starts` and,
                unless the window begins its history, `previous_action` and `previous_reward` with
                `history_start=False`. With `token_masking`, also a `seed`; to condition on returns, `returns_to_go`.
            token_masking (`float`, *optional*, defaults to `0.0`): Probability that a part of a step is hidden.

        Returns:
            `BatchFeature`: The tensors of [`encode_steps`] with axes `(windows, steps)`, `labels` of shape
            `(windows, steps, action dimensions)` with -100 on padding, `attention_mask` `(windows, steps)` if there is
            padding (on the right), and `token_mask` `(windows, steps, 3)`, true where a part is hidden, if there is
            masking.

        Raises:
            ValueError: If a window has wrong shapes or values outside the spaces.
        """
        windows = [windows] if isinstance(windows, Mapping) else list(windows)
        examples = [self._encode_window(window) for window in windows]
        steps = [len(example["labels"]) for example in examples]
        longest = max(steps)
        padded = {
            name: torch.stack(
                [_pad(example[name], longest, 0 if name != "labels" else IGNORED) for example in examples]
            )
            for name in examples[0]
        }
        if min(steps) < longest:
            padded["attention_mask"] = (torch.arange(longest) < torch.tensor(steps)[:, None]).long()
        if token_masking:
            masks = [
                np.random.default_rng(int(window["seed"])).random((longest, len(PARTS))) < token_masking
                for window in windows
            ]
            padded["token_mask"] = torch.from_numpy(np.stack(masks))
        return BatchFeature(padded)

    def _encode_window(self, window: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        rewards = np.asarray(window["rewards"], dtype=np.float32)
        observations = leaves(self.observation_space, window["observations"])
        steps = {leaf_name("observations", path): values for path, values in observations.items()}
        steps |= {name: window[name] for name in ("actions", "rewards", "episode_starts")}
        lengths = {name: len(values) for name, values in steps.items()}
        if len(set(lengths.values())) > 1 or not len(rewards):
            raise ValueError(f"A window has different numbers of steps, {lengths}: expected one number, at least 1.")
        labels = self._encode_actions(window["actions"], 1)
        history_starts = np.zeros(len(rewards), dtype=bool)
        history_starts[0] = window.get("history_start", True)
        first_action, first_reward = np.zeros_like(labels[:1]), np.zeros_like(rewards[:1])
        if not history_starts[0]:
            first_action[0] = self._encode_actions(window["previous_action"], 0)
            first_reward[0] = window["previous_reward"]
        encoded = self._encode(
            observations,
            np.concatenate([first_action, labels[:-1]]),
            np.concatenate([first_reward, rewards[:-1]]),
            window["episode_starts"],
            history_starts,
            window.get("returns_to_go"),
        )
        return {**encoded, "labels": torch.from_numpy(labels)}

    def decode(self, logits: torch.Tensor, uniforms: torch.Tensor | None = None) -> np.ndarray:
        """Turn logits of one step into actions.

        Args:
            logits (`torch.Tensor`): Shape `(streams, sum of action sizes)`.
            uniforms (`torch.Tensor`, *optional*): Numbers in [0, 1) of shape `(streams, action dimensions)` that
                choose among the actions by their probability. Without them, the likeliest action is taken.

        Returns:
            `np.ndarray`: Elements of the action space, `(streams, *action shape)`; of a Box, the centres of the bins.
        """
        columns = []
        for dimension, part in enumerate(logits.float().cpu().split(self.action_sizes, dim=-1)):
            if uniforms is None:
                columns.append(part.argmax(dim=-1))
            else:
                cumulative = part.softmax(dim=-1).double().cumsum(dim=-1)
                chosen = (cumulative <= uniforms[:, dimension, None] * cumulative[:, -1:]).sum(dim=-1)
                columns.append(chosen.clamp(max=part.shape[-1] - 1))
        indices = torch.stack(columns, dim=-1).numpy()
        actions = self._bins.decode(indices) if self._bins else indices + starts_of(self.action_space)
        return actions.reshape(len(actions), *shape_of(self.action_space)).astype(self.action_space["dtype"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "feature_extractor_type": type(self).__name__,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            **{name: getattr(self, name) for name in SETTINGS},
            # Set by `register_for_auto_class` when saving; says where the code of this class lies.
            **({"auto_map": self.auto_map} if hasattr(self, "auto_map") else {}),
        }


def _some(histories: Any, most: int) -> Iterator[Any]:
    """At most so many histories: evenly spaced ones if their number is known, else the first."""
    if isinstance(histories, Mapping):
        histories = [histories]
    found = False
    if hasattr(histories, "__len__") and hasattr(histories, "__getitem__"):
        total = len(histories)
        places = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int)).tolist() if total else []
        chosen: Iterable[Any] = (histories[place] for place in places)
    else:
        chosen = (history for history, _ in zip(histories, range(most), strict=False))
    for history in chosen:
        found = True
        yield history
    if not found:
        raise ValueError("There is no history to fit to: give at least one.")


def _largest_return(history: Mapping[str, Any]) -> float:
    """The largest sum of rewards, whatever its sign, that is told of a history's or window's episodes."""
    for name in ("episode_returns", "returns_to_go"):
        if name in history:
            returns = np.asarray(history[name], dtype=np.float64)
            if not np.isfinite(returns).all():
                raise ValueError(f"{name} hold values that are not finite numbers.")
            return float(np.abs(returns).max(initial=0.0))
    raise ValueError("A history has neither episode_returns nor returns_to_go, which the model is conditioned on.")


def _pad(values: torch.Tensor, length: int, value: int) -> torch.Tensor:
    missing = length - len(values)
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), value)])


HistoryTokeniser.register_for_auto_class()
