"""The tokeniser of histories: from what a learner saw, did and got to the model's inputs, and back to actions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin


LAYOUTS = ("transition", "interleaved")
# Labels of padding, which the loss passes over.
IGNORED = -100
# The parts of a step that can be hidden from the model, in the order of `token_mask`'s last axis.
PARTS = ("previous_actions", "previous_rewards", "observations")


def describe_space(space: Any) -> dict[str, Any]:
    """A gymnasium space as JSON; a description is returned as it is.

    Raises:
        ValueError: If the space is neither Discrete, MultiDiscrete nor MultiBinary.
    """
    if isinstance(space, Mapping) and space.get("type") in ("Discrete", "MultiDiscrete", "MultiBinary"):
        return dict(space)
    kind = type(space).__name__
    if kind == "Discrete":
        return {"type": kind, "n": int(space.n), "start": int(space.start), "dtype": space.dtype.name}
    if kind == "MultiDiscrete":
        described = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": kind, **described, "dtype": space.dtype.name}
    if kind == "MultiBinary":
        return {"type": kind, "shape": list(space.shape), "dtype": space.dtype.name}
    raise ValueError(f"The space {space} cannot be tokenised: expected Discrete, MultiDiscrete or MultiBinary.")


def _shape(space: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of one element of a described space."""
    return tuple(space["shape"]) if space["type"] == "MultiBinary" else np.shape(space.get("nvec", 0))


def _sizes(space: Mapping[str, Any]) -> np.ndarray:
    """Number of values of each dimension of a described space, shape `(dimensions,)`."""
    if space["type"] == "MultiBinary":
        return np.full(int(np.prod(space["shape"])), 2)
    return np.atleast_1d(space["n"] if space["type"] == "Discrete" else space["nvec"]).reshape(-1)


def _starts(space: Mapping[str, Any]) -> np.ndarray:
    """Smallest value of each dimension of a described space, shape `(dimensions,)`."""
    return np.broadcast_to(np.asarray(space.get("start", 0)), _shape(space)).reshape(-1)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """The first id of each dimension."""
    return np.cumsum(sizes) - sizes


def _encode(name: str, values: Any, space: Mapping[str, Any], leading: int) -> np.ndarray:
    """Elements of a space as indices counted from 0, shape `(*leading axes, dimensions)`.

    Raises:
        ValueError: If the values have another shape, are not whole numbers, or lie outside the space.
    """
    values = np.asarray(values)
    shape = _shape(space)
    if values.ndim != leading + len(shape) or values.shape[leading:] != shape:
        raise ValueError(
            f"{name} have the shape {values.shape}: expected {leading} leading {'axis' if leading == 1 else 'axes'} "
            f"followed by {shape}, one element of {space}."
        )
    if values.dtype.kind not in "iub":
        raise ValueError(f"{name} have the type {values.dtype}: expected whole numbers, elements of {space}.")
    sizes = _sizes(space)
    indices = values.reshape(*values.shape[:leading], len(sizes)).astype(np.int64) - _starts(space)
    outside = (indices < 0) | (indices >= sizes)
    if outside.any():
        where = tuple(int(axis[0]) for axis in np.nonzero(outside.any(axis=-1)))
        raise ValueError(
            f"{name} hold {values[where].tolist()} at {list(where)}, which lies outside the space {space}."
        )
    return indices


class HistoryTokeniser(FeatureExtractionMixin):
    """Turns histories into the inputs of an [`AlgorithmDistillationModel`], and its logits into actions.

    What the model knows when it acts at step t is the previous action and reward, the observation and whether an
    episode starts; that is one *step*. In the layout `"transition"` a step is one token, in `"interleaved"` three.
    Discrete observations and actions keep their dimensions: each has an index of its own.

    Args:
        observation_space (`gymnasium.Space` or `dict`): One environment's observations, Discrete, MultiDiscrete or
            MultiBinary, or what [`describe_space`] makes of them.
        action_space (`gymnasium.Space` or `dict`): One environment's actions, likewise.
        layout (`str`, *optional*, defaults to `"transition"`): As in the model's configuration.

    Raises:
        ValueError: If a space cannot be tokenised.
    """

    model_input_names = [*PARTS, "episode_starts", "attention_mask", "token_mask", "labels"]

    def __init__(self, observation_space: Any, action_space: Any, layout: str = "transition", **kwargs: Any):
        super().__init__(**kwargs)
        self.observation_space = describe_space(observation_space)
        self.action_space = describe_space(action_space)
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is not known: choose one of {list(LAYOUTS)}.")
        self.layout = layout

    @property
    def observation_sizes(self) -> list[int]:
        """Number of values of each dimension of an observation."""
        return _sizes(self.observation_space).tolist()

    @property
    def action_sizes(self) -> list[int]:
        """Number of values of each dimension of an action."""
        return _sizes(self.action_space).tolist()

    def check_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Raise a `ValueError` that names the difference if these are not the spaces the tokeniser was built for."""
        for name, mine, other in (
            ("observation space", self.observation_space, describe_space(observation_space)),
            ("action space", self.action_space, describe_space(action_space)),
        ):
            if mine != other:
                raise ValueError(f"The environment's {name} is {other}, the checkpoint's is {mine}.")

    def encode_steps(
        self,
        observations: Any,
        previous_actions: Any,
        previous_rewards: Any,
        episode_starts: Any,
        history_starts: Any,
    ) -> dict[str, torch.Tensor]:
        """Encode steps, whose leading axes (streams, windows, time) are all those of `previous_rewards`.

        Args:
            observations: Elements of the observation space, `(..., *observation shape)`.
            previous_actions: Elements of the action space, `(..., *action shape)`.
            previous_rewards: Shape `(...)`.
            episode_starts: Whether an episode starts with the step, shape `(...)`.
            history_starts: Whether there is no previous action, shape `(...)`.

        Returns:
            `dict[str, torch.Tensor]`: `observations` `(..., observation dimensions)` and `previous_actions`
            `(..., action dimensions)`, as ids; `previous_rewards` `(...)`; `episode_starts` `(...)`. The ids of a
            dimension follow those of the dimension before it; an action dimension's first id is "no action".
        """
        rewards = np.asarray(previous_rewards, dtype=np.float32)
        seen = _encode("observations", observations, self.observation_space, rewards.ndim)
        actions = _encode("actions", previous_actions, self.action_space, rewards.ndim) + 1
        actions[np.asarray(history_starts, dtype=bool)] = 0
        return {
            "observations": torch.from_numpy(seen + _offsets(_sizes(self.observation_space))),
            "previous_actions": torch.from_numpy(actions + _offsets(_sizes(self.action_space) + 1)),
            "previous_rewards": torch.from_numpy(rewards),
            "episode_starts": torch.from_numpy(np.asarray(episode_starts).astype(np.int64)),
        }

    def __call__(
        self, windows: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, token_masking: float = 0.0
    ) -> BatchFeature:
        """Encode windows of histories as one padded batch with labels.

        Args:
            windows (`Mapping` or `Sequence[Mapping]`): Windows as [`HistoryWindows`] gives them: `observations`,
                `actions`, `rewards`, `episode_starts` and, unless the window begins its history, `previous_action`
                and `previous_reward` with `history_start=False`. With `token_masking`, also a `seed`.
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
        actions, rewards = np.asarray(window["actions"]), np.asarray(window["rewards"])
        lengths = {name: len(window[name]) for name in ("observations", "actions", "rewards", "episode_starts")}
        if len(set(lengths.values())) > 1 or not len(rewards):
            raise ValueError(f"A window has different numbers of steps, {lengths}: expected one number, at least 1.")
        labels = torch.from_numpy(_encode("actions", actions, self.action_space, 1))
        history_starts = np.zeros(len(rewards), dtype=bool)
        history_starts[0] = window.get("history_start", True)
        first_action = np.zeros_like(actions[:1])
        first_reward = np.zeros_like(rewards[:1])
        if history_starts[0]:
            first_action[...] = _starts(self.action_space).reshape(_shape(self.action_space))
        else:
            first_action[0], first_reward[0] = window["previous_action"], window["previous_reward"]
        encoded = self.encode_steps(
            window["observations"],
            np.concatenate([first_action, actions[:-1]]),
            np.concatenate([first_reward, rewards[:-1]]),
            window["episode_starts"],
            history_starts,
        )
        return {**encoded, "labels": labels}

    def decode(self, logits: torch.Tensor, uniforms: torch.Tensor | None = None) -> np.ndarray:
        """Turn logits of one step into actions.

        Args:
            logits (`torch.Tensor`): Shape `(streams, sum of action sizes)`.
            uniforms (`torch.Tensor`, *optional*): Numbers in [0, 1) of shape `(streams, action dimensions)` that
                choose among the actions by their probability. Without them, the likeliest action is taken.

        Returns:
            `np.ndarray`: Elements of the action space, `(streams, *action shape)`.
        """
        columns = []
        for dimension, part in enumerate(logits.float().cpu().split(self.action_sizes, dim=-1)):
            if uniforms is None:
                columns.append(part.argmax(dim=-1))
            else:
                cumulative = part.softmax(dim=-1).double().cumsum(dim=-1)
                chosen = (cumulative <= uniforms[:, dimension, None] * cumulative[:, -1:]).sum(dim=-1)
                columns.append(chosen.clamp(max=part.shape[-1] - 1))
        indices = torch.stack(columns, dim=-1).numpy() + _starts(self.action_space)
        return indices.reshape(len(indices), *_shape(self.action_space)).astype(self.action_space["dtype"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "feature_extractor_type": type(self).__name__,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "layout": self.layout,
            # Set by `register_for_auto_class` when saving; says where the code of this class lies.
            **({"auto_map": self.auto_map} if hasattr(self, "auto_map") else {}),
        }


def _pad(values: torch.Tensor, length: int, value: int) -> torch.Tensor:
    missing = length - len(values)
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), value)])


HistoryTokeniser.register_for_auto_class()
