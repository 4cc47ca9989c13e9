"""Tiny models, tokenisers, windows and an environment that the tests share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser
from algodistill.models.spaces_algodistill import describe_space, leaves


# Every decoder with two layers of width 32, and weights large enough for the history to show in the logits.
COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.15}
ATTENTION = {**COMMON, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48, "head_dim": 16}
DECODERS: dict[str, dict[str, Any]] = {
    "qwen3": {**ATTENTION, "model_type": "qwen3"},
    "llama": {**ATTENTION, "model_type": "llama"},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 256,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.15,
    },
    # The window is shorter than the tests' windows, so that it matters.
    "mistral": {**ATTENTION, "model_type": "mistral", "sliding_window": 4},
    "opt": {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
        "do_layer_norm_before": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "init_std": 0.15,
    },
    "gemma3_text": {
        **ATTENTION,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 16,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mamba2": {
        **COMMON,
        "model_type": "mamba2",
        "state_size": 8,
        "num_heads": 4,
        "head_dim": 16,
        "n_groups": 1,
        "chunk_size": 4,
    },
    "falcon_h1": {
        **ATTENTION,
        "model_type": "falcon_h1",
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 4,
    },
}

OBSERVATION_SPACE = MultiDiscrete([6, 4])
ACTION_SPACE = Discrete(3)


def tiny_tokeniser(
    observation_space: Any = OBSERVATION_SPACE,
    action_space: Any = ACTION_SPACE,
    layout: str = "transition",
    **settings: Any,
) -> HistoryTokeniser:
    return HistoryTokeniser(observation_space, action_space, layout=layout, **settings)


def tiny_model(
    tokeniser: HistoryTokeniser, decoder: str = "qwen3", *, seed: int = 7, context_length: int = 8, **config: Any
) -> AlgorithmDistillationModel:
    """A model for this tokeniser with random weights, in evaluation mode.

    The default seed is one with which the likeliest action of every decoder above changes with what it sees.
    """
    torch.manual_seed(seed)
    return AlgorithmDistillationModel(
        AlgorithmDistillationConfig(
            text_config=DECODERS[decoder],
            observation_sizes=tokeniser.observation_sizes,
            observation_numbers=tokeniser.observation_numbers,
            action_sizes=tokeniser.action_sizes,
            layout=tokeniser.layout,
            context_length=context_length,
            return_conditioned=tokeniser.return_conditioned,
            initializer_range=0.4,
            **config,
        )
    ).eval()


def space_dimensions(space: gymnasium.Space) -> int:
    return int(np.prod(space.shape, dtype=int))


def random_elements(space: gymnasium.Space, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Elements of a space, drawn without the space's own generator, `(*shape, *element shape)`.

    Those of a Dict or Tuple are a dict or tuple of arrays, as vector environments give them.
    """
    if isinstance(space, Dict):
        return {name: random_elements(part, shape, rng) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(random_elements(part, shape, rng) for part in space.spaces)
    if isinstance(space, Box):
        low, high = (np.nan_to_num(np.clip(bound, -9, 9).astype(float)) for bound in (space.low, space.high))
        if space.dtype.kind != "f":
            return rng.integers(low.astype(int), high.astype(int) + 1, (*shape, *space.shape)).astype(space.dtype)
        return rng.uniform(low, high, (*shape, *space.shape)).astype(space.dtype)
    if isinstance(space, Discrete):
        return rng.integers(space.start, space.start + space.n, shape)
    if isinstance(space, MultiDiscrete):
        return rng.integers(space.start, space.start + space.nvec, (*shape, *space.shape))
    return rng.integers(2, size=(*shape, *space.shape)).astype(np.int8)


def map_leaves(function: Callable[..., Any], *structures: Any) -> Any:
    """A nested observation whose leaves are what a function makes of those of others that are nested likewise."""
    if isinstance(structures[0], Mapping):
        return {name: map_leaves(function, *(part[name] for part in structures)) for name in structures[0]}
    if isinstance(structures[0], tuple):
        return tuple(map_leaves(function, *parts) for parts in zip(*structures, strict=True))
    return function(*structures)


def stack(elements: Sequence[Any]) -> Any:
    """Observations one after the other, `(len(elements), ...)` in every leaf."""
    return map_leaves(lambda *values: np.array(values), *elements)


def random_window(
    steps: int,
    seed: int,
    observation_space: gymnasium.Space = OBSERVATION_SPACE,
    action_space: gymnasium.Space = ACTION_SPACE,
    *,
    history_start: bool = True,
    returns_to_go: bool = False,
) -> dict[str, np.ndarray]:
    """A window as `HistoryWindows` gives it, of random transitions in episodes of about four steps."""
    rng = np.random.default_rng(seed)
    episode_starts = rng.random(steps) < 0.25
    episode_starts[0] |= history_start
    previous = random_elements(action_space, (), rng)
    observations = leaves(describe_space(observation_space), random_elements(observation_space, (steps,), rng))
    window = {
        "observations": observations.get("", observations),
        "actions": random_elements(action_space, (steps,), rng),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "episode_starts": episode_starts,
        "previous_action": np.zeros_like(previous) if history_start else previous,
        "previous_reward": np.float32(0 if history_start else rng.normal()),
        "history_start": np.bool_(history_start),
        "seed": np.int64(seed),
    }
    if returns_to_go:
        window["returns_to_go"] = rng.normal(size=steps).astype(np.float32)
    return window


def slice_window(window: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    """The steps from `start` to `stop` of a window, as a window of their own."""
    part = dict(window)
    for name in ("observations", "actions", "rewards", "episode_starts", "returns_to_go"):
        if name in window:
            part[name] = map_leaves(lambda values: values[start:stop], window[name])
    if start:
        part["previous_action"], part["previous_reward"] = window["actions"][start - 1], window["rewards"][start - 1]
        part["history_start"] = np.bool_(False)
    return part


class NaiveContext:
    """One stream's context by the book: a list of transitions, all of which is encoded anew for every action.

    A context that is full gives way to its newest half, which counts the step that is being added. With a
    `target_return`, every step says how much of it has not been paid yet in its episode.
    """

    def __init__(
        self,
        model: AlgorithmDistillationModel,
        tokeniser: HistoryTokeniser,
        context_length: int,
        target_return: float | None = None,
    ):
        self.model, self.tokeniser, self.context_length = model, tokeniser, context_length
        self.target_return = target_return
        # Everything lived through: observation, action, reward, whether an episode starts.
        self.transitions: list[tuple[Any, Any, float, bool]] = []
        self.first = 0
        self.starts_episode = True

    @property
    def length(self) -> int:
        return len(self.transitions) - self.first

    def window(self, observation: Any) -> dict[str, Any]:
        """The context with a step added whose action and reward are not known yet (any will do: no step sees them)."""
        if self.length == self.context_length:
            self.first = len(self.transitions) + 1 - (self.context_length + 1) // 2
        context = self.transitions[self.first :]
        blank = self.tokeniser.decode(torch.zeros(1, sum(self.tokeniser.action_sizes)))[0]
        before = self.transitions[self.first - 1] if self.first else (None, blank, 0.0, False)
        asked = {} if self.target_return is None else {"returns_to_go": self.returns_to_go()[self.first :]}
        return {
            **asked,
            "observations": stack([step[0] for step in context] + [observation]),
            "actions": np.array([step[1] for step in context] + [blank]),
            "rewards": np.array([step[2] for step in context] + [0.0], dtype=np.float32),
            "episode_starts": np.array([step[3] for step in context] + [self.starts_episode]),
            "previous_action": before[1],
            "previous_reward": np.float32(before[2]),
            "history_start": np.bool_(self.first == 0),
        }

    def returns_to_go(self) -> np.ndarray:
        """What has not been paid yet of the target: before every transition, and before the step to be added."""
        starts = [step[3] for step in self.transitions] + [self.starts_episode]
        to_go: list[float] = []
        for index, starts_episode in enumerate(starts):
            paid = float(self.transitions[index - 1][2]) if index else 0.0
            to_go.append(self.target_return if starts_episode else to_go[-1] - paid)
        return np.array(to_go)

    @torch.no_grad()
    def logits(self, observation: Any) -> torch.Tensor:
        """Logits of the next action, shape `(sum of action sizes,)`."""
        inputs = self.tokeniser([self.window(observation)])
        inputs.pop("labels")
        return self.model(**inputs).logits[0, -1]

    def add(self, observation: Any, action: Any, reward: float, done: bool) -> None:
        self.transitions.append((observation, action, reward, self.starts_episode))
        self.starts_episode = done


class CorridorEnv(gymnasium.Env):
    """Episodes of varying length, on a ring of five cells; the observation is the cell and the steps taken modulo 4.

    Episode k has `lengths[k % len(lengths)]` steps. Even episodes terminate, odd ones are truncated, and the cell of
    an observation that ends an episode is 5, which no other observation has.
    """

    TERMINAL_CELL = 5

    def __init__(self, task: Mapping[str, Any] | None = None, bonus: float = 0.0, render_mode: str | None = None):
        self.task = task or {"lengths": [3], "goal": 0}
        self.bonus = bonus
        self.observation_space, self.action_space = OBSERVATION_SPACE, ACTION_SPACE
        self.render_mode = render_mode
        self._episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._episode += 1
        self._cell, self._elapsed = int(self.np_random.integers(5)), 0
        return np.array([self._cell, 0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._cell = (self._cell + int(action)) % 5
        self._elapsed += 1
        reward = self.bonus + (1.5 if self._cell == self.task["goal"] else -0.25 * float(action))
        done = self._elapsed == self.task["lengths"][self._episode % len(self.task["lengths"])]
        observation = np.array([self.TERMINAL_CELL if done else self._cell, self._elapsed % 4])
        terminated = done and self._episode % 2 == 0
        return observation, reward, terminated, done and not terminated, {}


CORRIDOR = "algodistill-tests/Corridor-v0"
gymnasium.register(id=CORRIDOR, entry_point=CorridorEnv)


def corridor_tasks(count: int) -> list[dict[str, Any]]:
    """Tasks whose episodes end at different times: of 1 to 5 steps."""
    return [{"goal": index % 5, "lengths": [1 + index % 3, 5 - index % 4, 2]} for index in range(count)]


def one_hot_logits(indices: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """Logits of one step that leave no doubt about each dimension's index, shape `(sum of sizes,)`."""
    parts = [torch.full((size,), -1e4) for size in sizes]
    for part, index in zip(parts, indices, strict=True):
        part[index] = 0
    return torch.cat(parts)
