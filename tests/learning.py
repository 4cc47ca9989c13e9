"""Letting source algorithms learn, the way that histories are collected, without writing anything down."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv


def learning_returns(envs: VectorEnv, learners: Any, steps: int, seed: int = 0) -> list[list[float]]:
    """Returns of every environment's episodes, in their order, while learners act and learn for so many steps."""
    observations, infos = envs.reset(seed=seed)
    seen = infos.get("source_observations", observations)
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    running = np.zeros(envs.num_envs)
    for _ in range(steps):
        actions = learners.act(seen)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        next_seen = infos.get("source_observations", observations)
        reached, dones = next_seen, terminations | truncations
        running += rewards
        if dones.any():
            reached = next_seen.copy()
            final = infos["final_info"].get("source_observations", infos["final_obs"])
            reached[dones] = np.stack(list(final[dones]))
            for index in np.flatnonzero(dones):
                returns[index].append(float(running[index]))
            running[dones] = 0
        learners.learn(seen, actions, rewards, reached, terminations, truncations)
        seen = next_seen
    envs.close()
    return returns


def play(learners: Any, steps: int, disturb: int | None = None, actions: Any = None) -> list[np.ndarray]:
    """Let four learners (or environments) live in a world of their own: five states, three actions.

    Args:
        learners: What learns.
        steps (`int`): How long.
        disturb (`int`, *optional*): Whose rewards, observations and ends are changed.
        actions (`np.ndarray`, *optional*): What is done, `(steps, 4)`, whatever is chosen.

    Returns:
        `list`: What was done in each step.
    """
    rng = np.random.default_rng(7)
    seen, done = rng.integers(5, size=4), []
    for step in range(steps):
        chosen = learners.act(seen)
        chosen = chosen if actions is None else actions[step]
        done.append(chosen)
        reached = (seen + chosen) % 5
        rewards = (reached == np.arange(4)).astype(float)
        ends = rng.random((2, 4)) < 0.1
        if disturb is not None:
            rewards[disturb], reached[disturb] = 1 - rewards[disturb], (reached[disturb] + 1) % 5
            ends[0, disturb] = not ends[0, disturb]
        learners.learn(seen, chosen, rewards, reached, ends[0], ends[1] & ~ends[0])
        seen = np.where(ends.any(axis=0), 0, reached)
    return done
