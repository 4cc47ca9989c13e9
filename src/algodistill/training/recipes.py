"""Recipes: which episodes of the histories a model imitates, and what it is conditioned on."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..histories.windows import share_of
from .arguments import ModelArguments, WindowArguments


@dataclass(frozen=True)
class Recipe:
    """A way to learn from histories.

    Attributes:
        experts_only (`bool`): Whether only experts' episodes are kept: the last ones of each history, or the best.
        return_conditioned (`bool`): Whether the model reads what is still to come of an episode's return.
        prompt_quantile (`float`, *optional*): How well the episodes do that the final evaluation starts contexts with.
    """

    experts_only: bool = False
    return_conditioned: bool = False
    prompt_quantile: float | None = None


RECIPES = {
    # Algorithm Distillation and its baseline, expert distillation (Laskin et al. 2022, section 4.2).
    "ad": Recipe(),
    "ed": Recipe(experts_only=True),
    # Expert distillation whose contexts start with an expert's demonstration of the task (Reed et al. 2022).
    "gato": Recipe(experts_only=True, prompt_quantile=1.0),
    # A Decision Transformer over many tasks (Chen et al. 2021, Lee et al. 2022).
    "return_conditioned": Recipe(return_conditioned=True),
}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ValueError: If there is none; the message names those that there are.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is not known: choose one of {list(RECIPES)}.")
    return RECIPES[name]


def unused_settings(windows: WindowArguments, model: ModelArguments) -> list[str]:
    """Settings that have been given, and that the recipe has no use for.

    Raises:
        ValueError: If there is no such recipe.
    """
    recipe = find_recipe(windows.recipe)
    given = {
        "expert_share": windows.expert_share != WindowArguments.expert_share,
        "expert_quantile": windows.expert_quantile is not None,
        "target_return": model.target_return is not None,
        "episode_stride": windows.episode_stride != WindowArguments.episode_stride,
    }
    used = {
        "expert_share": recipe.experts_only or recipe.return_conditioned,
        "expert_quantile": recipe.experts_only,
        "target_return": recipe.return_conditioned,
        "episode_stride": not recipe.experts_only,
    }
    return [name for name in given if given[name] and not used[name]]


def selection(arguments: WindowArguments) -> dict[str, Any]:
    """What [`HistoryWindows`] is told of the windows to train on."""
    recipe = find_recipe(arguments.recipe)
    told = dataclasses.asdict(arguments)
    del told["recipe"], told["max_tasks"]
    if not recipe.experts_only:
        told["expert_share"] = told["expert_quantile"] = None
    else:
        # Leaving episodes out makes learning steeper; an expert does not learn.
        told["episode_stride"] = 1
        if arguments.expert_quantile is not None:
            told["expert_share"] = None
    return {**told, "returns_to_go": recipe.return_conditioned}


def expert_return(
    histories: datasets.Dataset, share: float, first_episode: int = 0, last_episode: int | None = None
) -> float:
    """Mean over histories of the mean return of this share of their episodes, the last ones: at least one of each.

    Args:
        histories (`datasets.Dataset`): Learning histories.
        share (`float`): The share, from 0 to 1.
        first_episode (`int`, *optional*, defaults to `0`): First episode that counts.
        last_episode (`int`, *optional*): Last episode that counts (inclusive); by default each history's last.

    Raises:
        ValueError: If the share is out of its range, or there is no finished episode.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expert_share={share} is out of range: expected a number from 0 to 1.")
    kept = slice(first_episode, None if last_episode is None else last_episode + 1)
    returns = [of_one[kept] for of_one in histories.with_format("numpy")["episode_returns"] if len(of_one[kept])]
    if not returns:
        raise ValueError("No history has a finished episode whose return could be asked for: give --target_return.")
    return float(np.mean([of_one[-max(share_of(len(of_one), share), 1) :].mean() for of_one in returns]))
