"""The adversarial bandit: which arms pay, how often, and in which of its distributions."""

import gymnasium
import numpy as np
import pytest

from algodistill.environments import AdversarialBanditTasks, make_environments
from algodistill.environments.adversarial_bandit import BAR, PULLED


BANDIT = "algodistill/AdversarialBandit-v0"


def means_of(tasks):
    return np.array([task["means"] for task in tasks])


def test_arms_pay_as_often_as_their_means_say():
    count, means = 20_000, [0.0, 0.25, 0.9, 1.0]
    envs = make_environments(BANDIT, [{"means": means}] * count, arms=4)
    envs.reset(seed=0)
    arms = np.arange(count) % 4
    rewards = np.concatenate([envs.step(np.roll(arms, shift))[1][None] for shift in range(4)])
    assert set(np.unique(rewards)) == {0.0, 1.0}
    for arm, mean in enumerate(means):
        paid = np.concatenate([rewards[shift][np.roll(arms, shift) == arm] for shift in range(4)])
        assert len(paid) == count
        assert paid.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean * (1 - mean) / count))


def test_every_bandit_pays_by_its_own_means_and_independently():
    envs = make_environments(BANDIT, [{"means": [0, 1]}, {"means": [1, 0]}] + [{"means": [0.5, 0.5]}] * 2, arms=2)
    envs.reset(seed=0)
    rewards = np.array([envs.step(np.array([1, 1, 0, 0]))[1] for _ in range(4_000)])
    assert (rewards[:, 0] == 1).all() and (rewards[:, 1] == 0).all()
    assert abs(np.corrcoef(rewards[:, 2], rewards[:, 3])[0, 1]) < 0.07
    assert abs(np.corrcoef(rewards[:-1, 2], rewards[1:, 2])[0, 1]) < 0.07


def test_an_episode_is_so_many_pulls_and_there_is_nothing_to_see():
    envs = make_environments(BANDIT, AdversarialBanditTasks().sample(3, np.random.default_rng(0)))
    assert (envs.single_observation_space.n, envs.single_action_space.n) == (1, 10)
    assert envs.reset(seed=0)[0].tolist() == [0, 0, 0]
    for pull in range(1, 301):
        observations, _, terminations, truncations, infos = envs.step(np.full(3, 9))
        assert observations.tolist() == [0, 0, 0] and not terminations.any()
        assert truncations.all() == truncations.any() == (pull % 100 == 0)
        assert "source_observations" not in infos


SPLIT = AdversarialBanditTasks().split(split_seed=1, train_tasks=4_000, validation_tasks=500, test_tasks=400)


@pytest.mark.parametrize(
    ("kind", "first_arm", "second_arm"), [("odd", (0.5, 1), (0, 0.5)), ("even", (0, 0.5), (0.5, 1)), ("uniform",) * 3]
)
def test_test_bandits_have_the_ranges_that_their_name_says(kind, first_arm, second_arm):
    means = means_of(SPLIT.tests[kind])
    assert means.shape == (400, 10)
    for first, bounds in ((0, first_arm), (1, second_arm)):
        low, high = (0, 1) if kind == "uniform" else bounds
        arms = means[:, first::2]
        assert low <= arms.min() < low + 0.01 and high - 0.01 < arms.max() <= high
        # Uniform in between, arm by arm.
        np.testing.assert_allclose(arms.mean(axis=0), (low + high) / 2, atol=4 * (high - low) / np.sqrt(12 * 400))
        deciles = np.quantile(arms, np.arange(0.1, 1, 0.1))
        np.testing.assert_allclose(deciles, low + (high - low) * np.arange(0.1, 1, 0.1), atol=0.06 * (high - low))


def is_odd(means):
    return (means[:, 0::2] >= 0.5).all(axis=1) & (means[:, 1::2] <= 0.5).all(axis=1)


def is_even(means):
    return (means[:, 0::2] <= 0.5).all(axis=1) & (means[:, 1::2] >= 0.5).all(axis=1)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_share_of_odd_bandits_in_training(share):
    means = means_of(AdversarialBanditTasks(odd_share=share).sample(20_000, np.random.default_rng(0)))
    assert (is_odd(means) ^ is_even(means)).all()
    assert is_odd(means).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 20_000))


def test_validation_bandits_come_as_training_ones_do():
    assert is_odd(means_of(SPLIT.train)).mean() == pytest.approx(0.95, abs=0.015)
    assert is_odd(means_of(SPLIT.validation)).mean() == pytest.approx(0.95, abs=0.04)
    assert not is_odd(means_of(SPLIT.train)).all() and not is_odd(means_of(SPLIT.validation)).all()


def test_parts_of_a_split_are_drawn_apart():
    parts = {"train": SPLIT.train, "validation": SPLIT.validation, **SPLIT.tests}
    assert list(SPLIT.tests) == ["odd", "even", "uniform"]
    assert SPLIT.test == [*SPLIT.tests["odd"], *SPLIT.tests["even"], *SPLIT.tests["uniform"]]
    every = [str(task) for tasks in parts.values() for task in tasks]
    assert len(set(every)) == len(every)
    # Where a mean lies in its range is not the same in two parts either.
    places = {name: (means_of(tasks[:400]) % 0.5).ravel() for name, tasks in parts.items()}
    for name, one in places.items():
        for other in set(places) - {name}:
            assert abs(np.corrcoef(one, places[other])[0, 1]) < 0.08


def test_parts_of_a_split_share_no_stream_of_random_numbers():
    split = AdversarialBanditTasks().split(split_seed=1, train_tasks=50, validation_tasks=50, test_tasks=100)
    uniform = means_of(split.tests["uniform"])
    # Where the means lie in the half that they are drawn from: what a generator gave, halved.
    parts = [means_of(tasks) % 0.5 for tasks in (split.train, split.validation, *split.tests.values())]
    parts[-1] = uniform / 2
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            assert abs(part[:, None] - other[None]).max(axis=-1).min() > 0.01


def test_split_depends_on_its_seed_and_each_part_on_its_own_size_only():
    bandits = AdversarialBanditTasks()
    again = bandits.split(split_seed=1, train_tasks=4_000, validation_tasks=500, test_tasks=400)
    assert again == SPLIT
    other = bandits.split(split_seed=2, train_tasks=4_000, validation_tasks=500, test_tasks=400)
    assert other.train[0] != SPLIT.train[0] and other.tests["odd"][0] != SPLIT.tests["odd"][0]
    smaller = bandits.split(split_seed=1, train_tasks=10, validation_tasks=3, test_tasks=400)
    assert smaller.tests == SPLIT.tests
    shorter = bandits.split(split_seed=1, train_tasks=4_000, validation_tasks=500, test_tasks=7)
    assert shorter.train == SPLIT.train and shorter.validation == SPLIT.validation
    assert all(shorter.tests[kind] == SPLIT.tests[kind][:7] for kind in SPLIT.tests)


def test_split_holds_out_100_of_each_kind_unless_it_is_told():
    split = AdversarialBanditTasks().split(split_seed=0, train_tasks=1)
    assert {kind: len(tasks) for kind, tasks in split.tests.items()} == {"odd": 100, "even": 100, "uniform": 100}
    assert (len(split.train), split.validation) == (1, [])


@pytest.mark.parametrize(
    "sizes",
    [
        {"train_tasks": 0},
        {"train_tasks": -1},
        {"train_tasks": 1, "validation_tasks": -1},
        {"train_tasks": 1, "test_tasks": -1},
    ],
)
def test_impossible_split_is_refused_by_name(sizes):
    name, value = list(sizes.items())[-1]
    with pytest.raises(ValueError, match=f"{name}={value}"):
        AdversarialBanditTasks().split(split_seed=1, **sizes)


def test_reference_returns():
    tasks = AdversarialBanditTasks(arms=4, pulls=50)
    task = {"means": [0.1, 0.2, 0.9, 0.4]}
    assert tasks.random_return(task) == pytest.approx(50 * 0.4)
    assert tasks.optimal_return(task) == pytest.approx(45)


@pytest.mark.parametrize("policy", ["random", "optimal"])
def test_reference_returns_agree_with_monte_carlo(policy):
    tasks, episodes = AdversarialBanditTasks(), 5_000
    task = SPLIT.tests["uniform"][0]
    envs = make_environments(BANDIT, [task] * episodes)
    rng, returns = np.random.default_rng(0), np.zeros(episodes)
    envs.reset(seed=0)
    for _ in range(100):
        arms = rng.integers(10, size=episodes) if policy == "random" else np.full(episodes, np.argmax(task["means"]))
        returns += envs.step(arms)[1]
    exact = getattr(tasks, f"{policy}_return")(task)
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(episodes)


def test_task_ids_are_short_and_their_own():
    tasks = AdversarialBanditTasks(arms=4)
    assert tasks.task_id({"means": [0, 0.5, 1.0, 0.1234]}) == "arms-0-0.5-1-0.1234"
    assert len({AdversarialBanditTasks().task_id(task) for task in SPLIT.train}) == 4_000


WRONG_TASKS = {
    "too few": ({"means": [0.5]}, r"\[0.5\]"),
    "too many": ({"means": [0.5, 0.5, 0.5]}, r"\[0.5, 0.5, 0.5\]"),
    "above one": ({"means": [0.5, 1.01]}, "1.01"),
    "negative": ({"means": [-0.1, 1]}, "-0.1"),
    "nan": ({"means": [float("nan"), 1]}, "nan"),
    "number": ({"means": 0.5}, "0.5"),
    "wrong key": ({"arms": [0.5, 0.5]}, "arms"),
    "one key more": ({"means": [0.5, 0.5], "goal": 1}, "goal"),
    "no dict": ([0.5, 0.5], r"\[0.5, 0.5\]"),
    "text": ({"means": "01"}, "'01'"),
    "texts": ({"means": ["0", "1"]}, r"\['0', '1'\]"),
    "none": ({"means": [None, 0.5]}, "None"),
    "nested": ({"means": [[0.5], [0.5]]}, r"\[\[0.5\]"),
}


@pytest.mark.parametrize(("task", "named"), WRONG_TASKS.values(), ids=WRONG_TASKS.keys())
def test_wrong_task_is_refused_by_name_wherever_it_enters(task, named):
    tasks = AdversarialBanditTasks(arms=2)
    env = gymnasium.make(BANDIT, task={"means": [0.1, 0.2]}, arms=2)
    for enter in (
        lambda: gymnasium.make(BANDIT, task=task, arms=2),
        lambda: make_environments(BANDIT, [task], arms=2),
        lambda: env.reset(options={"task": task}),
        lambda: env.unwrapped.set_task(task),
        lambda: tasks.task_id(task),
        lambda: tasks.random_return(task),
        lambda: tasks.optimal_return(task),
    ):
        with pytest.raises(ValueError, match=f"{named}.* is not a bandit"):
            enter()
    assert env.unwrapped.get_task() == {"means": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"arms": 0}, "arms=0"),
        ({"arms": 2.0}, "arms=2.0"),
        ({"pulls": 0}, "pulls=0"),
        ({"odd_share": 1.5}, "odd_share=1.5"),
        ({"odd_share": -0.1}, "odd_share=-0.1"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_wrong_bandit_is_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        gymnasium.make_vec(BANDIT, num_envs=1, **settings)


def test_text_shows_the_arms_and_the_last_pull():
    env = gymnasium.make(BANDIT, task={"means": [0.5, 0.0, 1.0]}, arms=3, pulls=2, render_mode="ansi")
    env.reset(seed=0)
    arms = [" 1 0.50 " + "#" * 10, " 2 0.00 ", " 3 1.00 " + "#" * 20]
    assert env.render() == "".join(f"  {arm}\n" for arm in arms)
    env.step(2)
    assert env.render() == f"  {arms[0]}\n  {arms[1]}\n> {arms[2]}\n"
    env.reset()
    assert ">" not in env.render()


def test_picture_shows_bars_as_high_as_arms_pay():
    env = gymnasium.make(BANDIT, task={"means": [0.5, 0.25, 1.0]}, arms=3, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(2)
    picture = env.render()
    width = picture.shape[1] // 3
    for arm, (mean, colour) in enumerate(((0.5, BAR), (0.25, BAR), (1.0, PULLED))):
        column = (picture[:, arm * width + width // 2] == colour).all(axis=-1)
        assert column.mean() == pytest.approx(mean, abs=0.02)
        assert column[-1]
