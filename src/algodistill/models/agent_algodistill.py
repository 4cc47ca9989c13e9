"""An agent: a frozen model that acts in an environment, its context growing as it acts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .spaces_algodistill import leaf_name, leaves


ACTION_SELECTIONS = ("sample", "greedy")
AUTORESET_MODES = ("same_step", "next_step")
PARTS_OF_A_STEP = (
    "observations",
    "observation_values",
    "previous_actions",
    "previous_rewards",
    "episode_starts",
    "returns_to_go",
)


class PreallocatedLayer(DynamicLayer):
    """A cache layer whose memory is taken once: adding a step copies that step, not all the steps before it."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads, _, _ = key_states.shape
        self._all_keys = key_states.new_empty(batch, heads, self.capacity, key_states.shape[-1])
        self._all_values = value_states.new_empty(batch, heads, self.capacity, value_states.shape[-1])
        self.keys, self.values = self._all_keys[:, :, :0], self._all_values[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        return self.keys, self.values


@dataclass
class StreamGroup:
    """Streams whose contexts are equally long, and which therefore go through the model together.

    Attributes:
        streams (`np.ndarray`): Their numbers.
        length (`int`): Steps in each one's context.
        cached (`int`): How many of these, from the first, are in the cache.
        cache (`DynamicCache`, *optional*): The decoder's cache of those.
    """

    streams: np.ndarray
    length: int = 0
    cached: int = 0
    cache: DynamicCache | None = None


class AlgorithmDistillationAgent:
    """Acts in `num_envs` environments at once, each stream with a context of its own that crosses episode boundaries.

    While a context grows, every step is read once and its keys and values are kept. When a context is full, its
    newest half is read again in one pass and grows from there, so that every step sees between half and all of
    `context_length`, exactly as a model that reads that much history from its beginning.

    Streams never influence each other. Those whose contexts are equally long go through the model together, so it is
    fastest to reset all at once and to run environments with SAME_STEP autoreset.

    ```python
    agent = model.agent(tokeniser, num_envs=envs.num_envs, seed=0)
    observations, _ = envs.reset(seed=0)
    for _ in range(steps):
        actions = agent.act(observations)
        observations, rewards, terminations, truncations, _ = envs.step(actions)
        agent.observe(rewards, terminations, truncations)
    ```

    Args:
        model ([`AlgorithmDistillationModel`]): The model; it is put into evaluation mode.
        tokeniser ([`HistoryTokeniser`]): The checkpoint's tokeniser.
        num_envs (`int`): Number of environments.
        seed (`int`, *optional*, defaults to `0`): Seed of the choice of actions.
        action_selection (`str`, *optional*, defaults to `"sample"`): `"sample"` draws actions by their probability,
            `"greedy"` takes the likeliest.
        temperature (`float`, *optional*): What the logits are divided by before an action is drawn: below 1, likely
            actions become likelier. By default the model's.
        autoreset_mode (`str`, *optional*, defaults to `"same_step"`): How the environments begin a new episode, as
            gymnasium names it. With `"next_step"`, the step after an episode's end does nothing and is kept out of
            the context.
        context_length (`int`, *optional*): Steps in a context; by default the model's.
        target_return (`float` or `array` of shape `(num_envs,)`, *optional*): Return that is asked for in every
            episode, counted down by what has been paid, if the model is conditioned on returns; by default the
            model's.

    Raises:
        ValueError: If an argument is not one of its choices, or the tokeniser is not the model's.
    """

    def __init__(
        self,
        model: Any,
        tokeniser: Any,
        num_envs: int,
        *,
        seed: int = 0,
        action_selection: str = "sample",
        temperature: float | None = None,
        autoreset_mode: str = "same_step",
        context_length: int | None = None,
        target_return: Any = None,
    ):
        temperature = model.config.temperature if temperature is None else temperature
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} is out of range: expected a number above 0.")
        context_length = model.config.context_length if context_length is None else context_length
        if context_length < 1:
            raise ValueError(f"context_length={context_length} holds no step: expected at least 1.")
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} is out of range: expected at least 1.")
        for name, value, choices in (
            ("action_selection", action_selection, ACTION_SELECTIONS),
            ("autoreset_mode", autoreset_mode, AUTORESET_MODES),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is not known: choose one of {list(choices)}.")
        for name in ("observation_sizes", "observation_numbers", "action_sizes", "layout", "return_conditioned"):
            expected, found = getattr(model.config, name), getattr(tokeniser, name)
            if found != expected:
                raise ValueError(f"The tokeniser's {name} is {found!r}, the model's is {expected!r}.")
        self.model, self.tokeniser, self.num_envs = model.eval(), tokeniser, num_envs
        self.context_length, self.action_selection = context_length, action_selection
        self.temperature = temperature
        self._skips_after_done = autoreset_mode == "next_step"
        self._generator = torch.Generator().manual_seed(seed)
        # What each stream's model has read, `(streams, context, ...)`, made when the first step shows its layout.
        self._steps: dict[str, torch.Tensor] = {}
        # Any actions will do where no stream has acted yet: the tokeniser writes "no action".
        self._last_actions = tokeniser.decode(torch.zeros(num_envs, sum(tokeniser.action_sizes)))
        self._last_rewards = np.zeros(num_envs, dtype=np.float32)
        self._target_returns = self._targets(target_return)
        self._returns_to_go = self._target_returns.copy()
        self._episode_starts = np.ones(num_envs, dtype=bool)
        self._history_starts = np.ones(num_envs, dtype=bool)
        # Streams whose next step only resets their environment.
        self._skipping = np.zeros(num_envs, dtype=bool)
        # Streams whose last action has not led to anything yet.
        self._awaiting = np.zeros(num_envs, dtype=bool)
        self._groups = [StreamGroup(np.arange(num_envs))]

    def _targets(self, target_return: Any) -> np.ndarray:
        """Each stream's target, `(num_envs,)`; zeros, which nobody reads, where the model is not conditioned on it."""
        conditioned = self.model.config.return_conditioned
        if target_return is not None and not conditioned:
            raise ValueError("target_return was given, but the model is not conditioned on returns.")
        target_return = self.model.config.target_return if target_return is None else target_return
        if target_return is None and conditioned:
            raise ValueError("The model is conditioned on returns, and names none to ask for: give target_return=.")
        targets = np.asarray(target_return if conditioned else 0, dtype=np.float64)
        if targets.shape not in ((), (self.num_envs,)) or not np.isfinite(targets).all():
            raise ValueError(
                f"target_return={target_return} does not fit: expected a finite number, or {self.num_envs} of them."
            )
        return np.broadcast_to(targets, (self.num_envs,)).copy()

    @property
    def context_lengths(self) -> np.ndarray:
        """Steps in each stream's context, shape `(num_envs,)`."""
        lengths = np.zeros(self.num_envs, dtype=np.int64)
        for group in self._groups:
            lengths[group.streams] = group.length
        return lengths

    @torch.inference_mode()
    def act(self, observations: Any) -> np.ndarray:
        """Choose an action for every environment.

        Args:
            observations: Elements of the observation space, `(num_envs, *observation shape)`; of a Dict or Tuple
                space, a dict or tuple of such arrays, as gymnasium's vector environments give them.

        Returns:
            `np.ndarray`: Elements of the action space, `(num_envs, *action shape)`.

        Raises:
            ValueError: If the observations have another shape or lie outside the space.
            RuntimeError: If the last step has not been observed yet.
        """
        if self._awaiting.any():
            raise RuntimeError("act() was called twice: call observe(rewards, terminations, truncations) in between.")
        observations = leaves(self.tokeniser.observation_space, observations)
        for path, values in observations.items():
            if np.shape(values)[:1] != (self.num_envs,):
                raise ValueError(
                    f"{leaf_name('observations', path)} have the shape {np.shape(values)}: expected {self.num_envs} "
                    "along the first axis."
                )
        step = self.tokeniser.encode_steps(
            observations,
            self._last_actions,
            self._last_rewards,
            self._episode_starts,
            self._history_starts,
            self._returns_to_go,
        )
        if self._skipping.any():
            self._split(self._skipping)
        logits = torch.zeros(self.num_envs, sum(self.tokeniser.action_sizes))
        for group in self._groups:
            if not self._skipping[group.streams[0]]:
                logits[torch.from_numpy(group.streams)] = self._read(group, step).float().cpu()
        uniforms = None
        if self.action_selection == "sample":
            # One number a stream and dimension, whatever the streams do, so that none changes another's draws.
            uniforms = torch.rand(
                self.num_envs, len(self.tokeniser.action_sizes), generator=self._generator, dtype=torch.float64
            )
        actions = self.tokeniser.decode(logits / self.temperature, uniforms)
        acting = ~self._skipping
        self._last_actions = np.where(acting.reshape(-1, *[1] * (actions.ndim - 1)), actions, self._last_actions)
        self._history_starts &= ~acting
        self._awaiting[:] = True
        return actions

    def observe(self, rewards: Any, terminations: Any, truncations: Any) -> None:
        """Take in what the last actions led to.

        Args:
            rewards: Shape `(num_envs,)`.
            terminations: Shape `(num_envs,)`, boolean.
            truncations: Shape `(num_envs,)`, boolean.

        Raises:
            ValueError: If a shape is another.
            RuntimeError: If no action has been chosen since the last time.
        """
        if not self._awaiting.any():
            raise RuntimeError("observe() was called before act(): there is no action that it could belong to.")
        values = {
            name: np.asarray(value)
            for name, value in (("rewards", rewards), ("terminations", terminations), ("truncations", truncations))
        }
        for name, value in values.items():
            if value.shape != (self.num_envs,):
                raise ValueError(f"{name} have the shape {value.shape}, expected {(self.num_envs,)}.")
        done = values["terminations"].astype(bool) | values["truncations"].astype(bool)
        # What a stream did before it was reset belongs to a context that is gone.
        current, skipped = self._awaiting, self._skipping
        acted = current & ~skipped
        self._last_rewards = np.where(acted, values["rewards"], self._last_rewards).astype(np.float32)
        self._episode_starts = done | skipped | ~current
        to_come = self._returns_to_go - np.where(acted, values["rewards"], 0)
        self._returns_to_go = np.where(self._episode_starts, self._target_returns, to_come)
        self._skipping = done & acted if self._skips_after_done else np.zeros_like(done)
        self._awaiting = np.zeros_like(current)

    @torch.inference_mode()
    def reset(self, mask: Any = None, prompt: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None) -> None:
        """Empty the contexts of some streams, and start them from stretches of history where a prompt is given.

        The next observation of such a stream is taken for the first of an episode. The other streams go on
        undisturbed.

        Args:
            mask (`array` of shape `(num_envs,)`, *optional*): True for the streams to reset; all by default.
            prompt (`Mapping` or `Sequence[Mapping]`, *optional*): A stretch of history, as [`HistoryWindows`] gives
                them (`observations`, `actions`, `rewards`, `episode_starts` and, if the model is conditioned on
                returns, `returns_to_go`), for all these streams, or one for each of them in order. Lengths may differ;
                of one longer than the context, the newest steps are kept.

        Raises:
            ValueError: If the mask's shape or the number of prompts is wrong.
        """
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"mask has the shape {mask.shape} and type {mask.dtype}: expected {self.num_envs} booleans."
            )
        streams = np.flatnonzero(mask)
        prompts = [prompt] * len(streams) if prompt is None or isinstance(prompt, Mapping) else list(prompt)
        if len(prompts) != len(streams):
            raise ValueError(f"{len(prompts)} prompts were given for {len(streams)} streams: expected one for each.")
        encoded = [None if prompt is None else self.tokeniser([prompt]) for prompt in prompts]

        self._split(mask)
        self._groups = [group for group in self._groups if not mask[group.streams[0]]]
        self._last_rewards[mask] = 0
        self._returns_to_go[mask] = self._target_returns[mask]
        self._episode_starts[mask] = True
        self._history_starts[mask] = True
        self._skipping[mask] = False
        self._awaiting[mask] = False
        lengths = np.zeros(self.num_envs, dtype=np.int64)
        for stream, window, tokens in zip(streams.tolist(), prompts, encoded, strict=True):
            if window is not None and tokens is not None:
                lengths[stream] = self._write_prompt(stream, window, tokens)
        for length in np.unique(lengths[mask]):
            self._groups.append(StreamGroup(np.flatnonzero(mask & (lengths == length)), int(length)))

    def _write_prompt(self, stream: int, window: Mapping[str, Any], tokens: Mapping[str, torch.Tensor]) -> int:
        steps = {name: tokens[name][0, -self.context_length :] for name in PARTS_OF_A_STEP if name in tokens}
        length = len(steps["previous_rewards"])
        for name, values in self._memory(steps).items():
            values[stream, :length] = steps[name].to(values.device)
        self._last_actions[stream] = np.reshape(window["actions"][-1], self._last_actions.shape[1:])
        self._last_rewards[stream] = window["rewards"][-1]
        self._history_starts[stream] = False
        return length

    def _memory(self, steps: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not self._steps:
            self._steps = {
                name: values.new_zeros(self.num_envs, self.context_length, *values.shape[1:], device=self.model.device)
                for name, values in steps.items()
            }
        return self._steps

    def _split(self, mask: np.ndarray) -> None:
        """Divide the groups so that none has both streams in the mask and streams outside it."""
        groups = []
        for group in self._groups:
            inside = mask[group.streams]
            if inside.all() or not inside.any():
                groups.append(group)
            else:
                # The cache cannot be divided for every kind of decoder; what is read anew is the same.
                groups += [StreamGroup(group.streams[part], group.length) for part in (inside, ~inside)]
        self._groups = groups

    def _read(self, group: StreamGroup, step: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Add a step to the contexts of a group, and return its logits, `(streams of the group, actions)`."""
        memory = self._memory(step)
        whole = len(group.streams) == self.num_envs
        streams = slice(None) if whole else torch.from_numpy(group.streams)
        if group.length == self.context_length:
            # The newest half counts the step that is being added.
            kept = (self.context_length + 1) // 2 - 1
            for values in memory.values():
                values[streams, :kept] = values[streams, group.length - kept : group.length].clone()
            group.length, group.cached, group.cache = kept, 0, None
        if group.cache is None:
            group.cache, group.cached = self._empty_cache(), 0
        for name, values in memory.items():
            values[streams, group.length] = step[name][streams].to(values.device)
        group.length += 1
        outputs = self.model(
            **{name: values[streams, group.cached : group.length] for name, values in memory.items()},
            past_key_values=group.cache,
            use_cache=True,
            steps_to_keep=1,
            return_dict=True,
        )
        group.cached = group.length
        return outputs.logits[:, -1]

    def _empty_cache(self) -> DynamicCache:
        cache = DynamicCache(config=self.model.config.get_text_config())
        capacity = self.context_length * self.model.config.tokens_per_step
        # Layers of other kinds (sliding windows, recurrent states) stay as the decoder wants them.
        cache.layers = [
            PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers
        ]
        return cache
