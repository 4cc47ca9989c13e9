"""Adversarial bandit: which arms pay differs between training and testing (Laskin et al. 2022, section 4.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from .tasks import Task, TaskSplit
from .vectorised import TaskEnv, TaskVectorEnv


BAR_PIXELS, HEIGHT_PIXELS = 24, 120
BACKGROUND, BAR, PULLED = (245, 245, 240), (86, 140, 180), (200, 112, 26)


class AdversarialBanditTasks:
    """Bernoulli bandits whose good arms are the odd ones, the even ones, or any.

    Arms are counted from 1, as in the paper: the first is odd. In a bandit of the distribution `"odd"`, the odd arms
    draw their means from U[0.5, 1] and the even ones from U[0, 0.5]; in `"even"`, the other way round; in `"uniform"`,
    all from U[0, 1]. Training tasks are of `"odd"`, but for 5 % of `"even"`. The paper gives no formula; this one is
    that of Sinii et al. 2024 (arXiv 2312.13327).

    Args:
        arms (`int`, *optional*, defaults to `10`): Number of arms.
        pulls (`int`, *optional*, defaults to `100`): Pulls in an episode.
        odd_share (`float`, *optional*, defaults to `0.95`): Share of `"odd"` among the training tasks.
    """

    TESTS = ("odd", "even", "uniform")

    def __init__(self, arms: int = 10, pulls: int = 100, odd_share: float = 0.95):
        for name, value in (("arms", arms), ("pulls", pulls)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a bandit's: expected a whole number of at least 1.")
        if not isinstance(odd_share, int | float) or not 0 <= odd_share <= 1:
            raise ValueError(f"odd_share={odd_share} is out of range: expected a number from 0 to 1.")
        self.arms, self.pulls, self.odd_share = arms, pulls, odd_share

    def sample(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Draw training tasks."""
        odd = rng.random(n) < self.odd_share
        means = np.where(odd[:, None], self._means("odd", n, rng), self._means("even", n, rng))
        return _as_tasks(means)

    def _means(self, kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
        """Means of the arms of `n` bandits, `(n, arms)`."""
        uniform = rng.random((n, self.arms))
        if kind == "uniform":
            return uniform
        is_odd = np.arange(self.arms) % 2 == 0  # the first arm is number 1
        return uniform / 2 + 0.5 * (is_odd if kind == "odd" else ~is_odd)

    def split(
        self, *, split_seed: int, train_tasks: int, validation_tasks: int = 0, test_tasks: int | None = None
    ) -> TaskSplit:
        """Draw training tasks, validation tasks like them, and test tasks of each of the three distributions."""
        test_tasks = 100 if test_tasks is None else test_tasks
        sizes = {"train_tasks": train_tasks, "validation_tasks": validation_tasks, "test_tasks": test_tasks}
        if train_tasks < 1 or min(sizes.values()) < 0:
            listed = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(f"Bandits cannot be drawn with {listed}: at least one must train, none may be negative.")
        train, validation, *tests = (np.random.default_rng([split_seed, part]) for part in range(2 + len(self.TESTS)))
        return TaskSplit(
            train=self.sample(train_tasks, train),
            validation=self.sample(validation_tasks, validation),
            tests={
                kind: _as_tasks(self._means(kind, test_tasks, rng))
                for kind, rng in zip(self.TESTS, tests, strict=True)
            },
        )

    def check(self, task: Task) -> None:
        means = task.get("means") if isinstance(task, dict) and set(task) == {"means"} else None
        is_list = isinstance(means, Sequence) and len(means) == self.arms
        if not is_list or not all(isinstance(mean, int | float) and 0 <= mean <= 1 for mean in means or ()):
            raise ValueError(
                f"{task!r} is not a bandit: expected {{'means': [...]}}, how often each of {self.arms} arms pays."
            )

    def task_id(self, task: Task) -> str:
        self.check(task)
        return "arms-" + "-".join(f"{mean:.4f}".rstrip("0").rstrip(".") for mean in task["means"])

    def random_return(self, task: Task) -> float:
        self.check(task)
        return float(self.pulls * np.mean(task["means"]))

    def optimal_return(self, task: Task) -> float:
        """Expected return of whoever knows the best arm."""
        self.check(task)
        return float(self.pulls * max(task["means"]))

    def task_array(self, tasks: Sequence[Task]) -> np.ndarray:
        """The arms' means, `(n, arms)`."""
        return np.array([task["means"] for task in tasks])

    def best_actions(self, means: np.ndarray, observations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The best arms, `(n,)`, of bandits as [`task_array`] gives them, `(n, arms)`, whatever is observed."""
        return means.argmax(axis=1)


def _as_tasks(means: np.ndarray) -> list[Task]:
    return [{"means": row} for row in means.round(4).tolist()]


class AdversarialBanditVectorEnv(TaskVectorEnv):
    """Many Bernoulli bandits at once, one task each, in NumPy.

    There is nothing to observe (always 0). The actions are the arms; reward is 1 if the arm pays, else 0. An episode
    is `pulls` pulls long.

    Args:
        num_envs (`int`, *optional*, defaults to `1`): Number of bandits.
        tasks (`Sequence[dict]`, *optional*): One task a bandit, `{"means": [...]}`. Without them, each draws a
            training task on the first reset and keeps it.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.
        kwargs: As for [`AdversarialBanditTasks`].
    """

    task_distribution: AdversarialBanditTasks

    def __init__(
        self,
        num_envs: int = 1,
        tasks: Sequence[Task] | None = None,
        *,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        distribution = AdversarialBanditTasks(**kwargs)
        self._means = np.zeros((num_envs, distribution.arms))
        self._last_pulls = np.full(num_envs, -1)
        super().__init__(
            num_envs,
            tasks,
            task_distribution=distribution,
            episode_length=distribution.pulls,
            observation_space=gymnasium.spaces.Discrete(1),
            action_space=gymnasium.spaces.Discrete(distribution.arms),
            render_mode=render_mode,
        )

    def _take_tasks(self, tasks: Sequence[Task]) -> None:
        self._means = self.task_distribution.task_array(tasks)

    def _start_episodes(self, mask: np.ndarray) -> None:
        self._last_pulls[mask] = -1

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._last_pulls = actions.copy()
        pays = self.np_random.random(self.num_envs) < self._means[np.arange(self.num_envs), actions]
        return pays.astype(np.float64), np.zeros(self.num_envs, dtype=bool)

    def _observe(self) -> np.ndarray:
        return np.zeros(self.num_envs, dtype=np.int64)

    def _draw(self, index: int) -> Any:
        draw: Callable[..., Any] = _draw_text if self.render_mode == "ansi" else _draw_picture
        return draw(self._means[index], int(self._last_pulls[index]))


class AdversarialBanditEnv(TaskEnv):
    """A single bandit: [`AdversarialBanditVectorEnv`] with one of them."""

    vector_class = AdversarialBanditVectorEnv


def _draw_text(means: np.ndarray, pulled: int) -> str:
    """One arm a line, with its chance to pay; `>` marks the one that was pulled last."""
    lines = (
        f"{'>' if arm == pulled else ' '} {arm + 1:2d} {mean:.2f} {'#' * round(20 * mean)}"
        for arm, mean in enumerate(means)
    )
    return "\n".join(lines) + "\n"


def _draw_picture(means: np.ndarray, pulled: int) -> np.ndarray:
    """A bar an arm, as high as its chance to pay; the one that was pulled last is orange."""
    picture = np.full((HEIGHT_PIXELS, len(means) * BAR_PIXELS, 3), BACKGROUND, dtype=np.uint8)
    for arm, mean in enumerate(means):
        top = HEIGHT_PIXELS - max(1, round(mean * HEIGHT_PIXELS))
        picture[top:, arm * BAR_PIXELS + 2 : (arm + 1) * BAR_PIXELS - 2] = PULLED if arm == pulled else BAR
    return picture
