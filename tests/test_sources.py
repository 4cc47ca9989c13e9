"""The source algorithms: that they are the algorithms of the books, and that their learners are independent."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from algodistill.environments import DarkRoomTasks, make_environments
from algodistill.sources import SOURCES, TabularQLearning


SPACES = {
    "discrete": (Discrete(6), Discrete(3)),
    "discrete from elsewhere": (Discrete(6, start=-2), Discrete(3, start=4)),
    "multi-discrete": (MultiDiscrete([3, 2, 4]), Discrete(4)),
    "multi-discrete from elsewhere": (MultiDiscrete([3, 4], start=[5, -3]), Discrete(2, start=-1)),
    "matrix": (MultiDiscrete([[2, 3], [2, 2]]), Discrete(2)),
}


class NaiveQLearner:
    """One learner after Watkins' (1989) pseudo-code, with a dictionary for a table."""

    def __init__(self, actions, learning_rate, discount, initial_value):
        self.actions, self.learning_rate, self.discount = actions, learning_rate, discount
        self.initial_value, self.table = initial_value, {}

    def value(self, observation, action):
        return self.table.get((observation, action), self.initial_value)

    def learn(self, observation, action, reward, next_observation, terminated):
        target = reward
        if not terminated:
            target += self.discount * max(self.value(next_observation, other) for other in self.actions)
        old = self.value(observation, action)
        self.table[observation, action] = old + self.learning_rate * (target - old)


def hashable(observation):
    return tuple(np.ravel(observation).tolist())


def all_observations(space):
    """Every element of a space, in the order in which the table keeps them (the last dimension fastest)."""
    if isinstance(space, Discrete):
        return [(int(space.start) + index,) for index in range(space.n)]
    indices = np.ndindex(*space.nvec.ravel())
    return [tuple((np.array(index) + space.start.ravel()).tolist()) for index in indices]


def sample(space, rng, learners):
    if isinstance(space, Discrete):
        return space.start + rng.integers(space.n, size=learners)
    return space.start + rng.integers(space.nvec, size=(learners, *space.shape))


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize(
    ("learning_rate", "discount", "initial_value"), [(1.0, 0.9, 10.5), (0.3, 0.5, 0.0), (0.7, 1.0, -1.0)]
)
def test_batch_equals_naive_learners(observation_space, action_space, learning_rate, discount, initial_value):
    learners, rng = 5, np.random.default_rng(0)
    options = {"learning_rate": learning_rate, "discount": discount, "initial_value": initial_value}
    batch = TabularQLearning(observation_space, action_space, learners, np.random.default_rng(1), **options)
    actions_of_space = [int(action_space.start) + index for index in range(action_space.n)]
    naive = [NaiveQLearner(actions_of_space, **options) for _ in range(learners)]

    observations = sample(observation_space, rng, learners)
    for _ in range(120):
        actions = batch.act(observations)
        assert all(action_space.contains(action) for action in actions)
        for i, learner in enumerate(naive):
            values = [learner.value(hashable(observations[i]), action) for action in actions_of_space]
            assert learner.value(hashable(observations[i]), int(actions[i])) == pytest.approx(max(values), abs=1e-4)
        rewards, reached = rng.normal(size=learners), sample(observation_space, rng, learners)
        terminations, truncations = rng.random((2, learners)) < 0.2
        batch.learn(observations, actions, rewards, reached, terminations, truncations)
        for i, learner in enumerate(naive):
            learner.learn(
                hashable(observations[i]), int(actions[i]), rewards[i], hashable(reached[i]), terminations[i]
            )
        observations = sample(observation_space, rng, learners)

    states = all_observations(observation_space)
    expected = [
        [[learner.value(state, action) for action in actions_of_space] for state in states] for learner in naive
    ]
    tables = batch.q_values.reshape(learners, len(states), len(actions_of_space))
    np.testing.assert_allclose(tables, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(tables - initial_value).max() > 0.5


def test_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not():
    learner = TabularQLearning(Discrete(2), Discrete(2), 3, np.random.default_rng(0), discount=0.5, initial_value=4.0)
    zeros, ones = np.zeros(3, int), np.ones(3, int)
    terminations, truncations = np.array([True, False, True]), np.array([False, True, True])
    learner.learn(zeros, zeros, np.ones(3), ones, terminations, truncations)
    assert learner.q_values.reshape(3, 2, 2)[:, 0, 0].tolist() == [1.0, 3.0, 1.0]


def test_learners_are_independent():
    def tables(changed_learner):
        batch = TabularQLearning(Discrete(4), Discrete(2), 3, np.random.default_rng(0), learning_rate=0.5)
        rng = np.random.default_rng(1)
        for _ in range(50):
            observations, reached = rng.integers(4, size=(2, 3))
            actions, rewards = rng.integers(2, size=3), rng.normal(size=3)
            if changed_learner is not None:
                rewards[changed_learner] += 1
            batch.learn(observations, actions, rewards, reached, np.zeros(3, bool), np.zeros(3, bool))
        return batch.q_values.reshape(3, 4, 2)

    undisturbed = tables(None)
    for changed in range(3):
        differs = (tables(changed) != undisturbed).any(axis=(1, 2))
        assert differs.tolist() == [learner == changed for learner in range(3)]


def test_optimistic_learners_solve_dark_room():
    distribution = DarkRoomTasks()
    tasks = [distribution.tasks()[index] for index in np.random.default_rng(0).permutation(81)[:64]]
    envs = make_environments("algodistill/DarkRoom-v0", tasks)
    learner = TabularQLearning(
        envs.single_observation_space, envs.single_action_space, 64, np.random.default_rng(0), initial_value=10.5
    )
    observations, _ = envs.reset(seed=0)
    returns = np.zeros(200)
    for step in range(200 * 20):
        actions = learner.act(observations)
        next_observations, rewards, terminations, truncations, infos = envs.step(actions)
        reached = infos.get("final_obs", next_observations)
        learner.learn(observations, actions, rewards, reached, terminations, truncations)
        observations = next_observations
        returns[step // 20] += rewards.mean()
    optimum = np.mean([distribution.optimal_return(task) for task in tasks])
    assert returns[:5].mean() < 0.25 * optimum
    assert returns[-20:].mean() >= 0.9 * optimum


def test_epsilon_falls_linearly_over_each_learners_own_episodes():
    learners, actions = 20_000, 4
    batch = TabularQLearning(
        Discrete(1),
        Discrete(actions),
        learners,
        np.random.default_rng(0),
        learning_rate=0.0,
        epsilon_start=0.8,
        epsilon_end=0.2,
        epsilon_episodes=3,
    )
    batch.q_values[:, 2] = 1
    zeros = np.zeros(learners, int)
    ends = np.arange(learners) % 2 == 0  # every second learner ends an episode each step, the others never do
    for episode, epsilon in enumerate([0.8, 0.6, 0.4, 0.2, 0.2, 0.2]):
        chosen = batch.act(zeros)
        for part, expected in ((chosen[ends], epsilon), (chosen[~ends], 0.8)):
            counts = np.bincount(part, minlength=actions) / len(part)
            others = np.delete(counts, 2)
            np.testing.assert_allclose(others, expected / actions, atol=0.017)
            assert counts[2] == pytest.approx(1 - expected * (actions - 1) / actions, abs=0.02)
        terminated = ends if episode % 2 else np.zeros(learners, bool)
        batch.learn(zeros, chosen, np.zeros(learners), zeros, terminated, ends & ~terminated)


@pytest.mark.parametrize(("best", "share"), [([0, 1, 2, 3, 4], 0.2), ([1, 4], 0.5), ([3], 1.0)])
def test_ties_are_broken_uniformly_at_random(best, share):
    learners = 20_000
    batch = TabularQLearning(Discrete(1), Discrete(5), learners, np.random.default_rng(0))
    batch.q_values[:, best] = 1
    observations = np.zeros(learners, int)
    first, second = batch.act(observations), batch.act(observations)
    counts = np.bincount(first, minlength=5) / learners
    expected = np.where(np.isin(np.arange(5), best), share, 0)
    np.testing.assert_allclose(counts, expected, atol=0.015)
    assert counts[expected == 0].sum() == 0
    assert (first == second).mean() == pytest.approx(share, abs=0.015)


def test_same_generator_seed_chooses_the_same_actions():
    def choices(seed):
        batch = TabularQLearning(Discrete(2), Discrete(5), 50, np.random.default_rng(seed), epsilon_start=0.5)
        return [batch.act(np.zeros(50, int)).tolist() for _ in range(5)]

    assert choices(3) == choices(3)
    assert choices(3) != choices(4)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 1.5),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("discount", 1.01),
        ("discount", -1),
        ("epsilon_start", 2),
        ("epsilon_end", -0.5),
        ("epsilon_episodes", 0),
        ("initial_value", float("nan")),  # no action would ever be the best
    ],
)
def test_setting_out_of_range_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        TabularQLearning(Discrete(2), Discrete(2), 1, np.random.default_rng(0), **{setting: value})


@pytest.mark.parametrize(
    ("observation_space", "action_space", "named"),
    [
        (Box(0, 1, (2,)), Discrete(2), "observations, not Box"),
        (Discrete(2), Box(0, 1, (2,)), "actions, not Box"),
        (Discrete(2), MultiDiscrete([2, 2]), "actions, not MultiDiscrete"),
    ],
)
def test_space_that_is_not_discrete_is_refused_by_name(observation_space, action_space, named):
    with pytest.raises(ValueError, match=named):
        TabularQLearning(observation_space, action_space, 1, np.random.default_rng(0))


def test_sources_are_known_by_the_names_presets_use():
    assert SOURCES["q_learning"] is TabularQLearning
