"""The source algorithms: that they are the algorithms of the books, and that their learners are independent."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from learning import learning_returns, play

from algodistill.environments import AdversarialBanditTasks, DarkKeyToDoorTasks, DarkRoomTasks, make_environments
from algodistill.sources import SOURCES, UCB1, PosteriorSampling, TabularQLearning, ThompsonSampling


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


# Algorithms for bandits.

BANDIT = "algodistill/AdversarialBandit-v0"


def bandit_learner(source, pulls, paid, **settings):
    """A batch of learners that have counted what it says, `(learners, arms)`."""
    pulls, paid = np.array(pulls, float), np.array(paid, float)
    learner = source(Discrete(1), Discrete(pulls.shape[1]), len(pulls), np.random.default_rng(0), **settings)
    learner.pulls[:], learner.paid[:] = pulls, paid
    return learner


@pytest.mark.parametrize("source", [UCB1, ThompsonSampling])
def test_bandit_learners_count_their_own_pulls(source):
    learner = source(Discrete(1), Discrete(3, start=4), 2, np.random.default_rng(0))
    rng, pulls, paid = np.random.default_rng(1), np.zeros((2, 3)), np.zeros((2, 3))
    zeros, never = np.zeros(2, int), np.zeros(2, bool)
    for _ in range(50):
        actions = learner.act(zeros)
        assert set(actions.tolist()) <= {4, 5, 6}
        rewards = rng.integers(2, size=2).astype(float)
        learner.learn(zeros, actions, rewards, zeros, never, rng.random(2) < 0.5)
        for i in range(2):
            pulls[i, actions[i] - 4] += 1
            paid[i, actions[i] - 4] += rewards[i]
    np.testing.assert_array_equal(learner.pulls, pulls)
    np.testing.assert_array_equal(learner.paid, paid)


def test_ucb1_pulls_every_arm_once_in_random_order_first():
    learners, arms = 5_000, 4
    batch = UCB1(Discrete(1), Discrete(arms), learners, np.random.default_rng(0))
    zeros, never, order = np.zeros(learners, int), np.zeros(learners, bool), []
    for _ in range(arms):
        order.append(batch.act(zeros))
        # However well one pays, the others come first.
        batch.learn(zeros, order[-1], np.ones(learners), zeros, never, never)
    order = np.stack(order, axis=1)
    assert (np.sort(order, axis=1) == np.arange(arms)).all()
    for place in order.T:
        np.testing.assert_allclose(np.bincount(place) / learners, 1 / arms, atol=0.025)


@pytest.mark.parametrize("exploration", [0.0, 0.3, 2**0.5, 4.0])
def test_ucb1_pulls_the_highest_upper_confidence_bound(exploration):
    rng = np.random.default_rng(0)
    pulls = rng.integers(1, 30, size=(300, 5))
    paid = rng.binomial(pulls, rng.random((300, 5)))
    chosen = bandit_learner(UCB1, pulls, paid, exploration=exploration).act(np.zeros(300, int))
    for learner in range(300):
        time = sum(pulls[learner])
        bounds = [
            paid[learner, arm] / pulls[learner, arm] + exploration * math.sqrt(math.log(time) / pulls[learner, arm])
            for arm in range(5)
        ]
        assert bounds[chosen[learner]] == pytest.approx(max(bounds), abs=1e-12)


def test_ucb1s_default_is_that_of_auer_et_al():
    # mean + sqrt(2 ln 20 / n): 0.5 + 0.774 for the first arm, 0.2 + 1.095 for the second; with any constant
    # below 1.325 it would be the first.
    assert bandit_learner(UCB1, [[10, 5, 5]], [[5, 1, 0]]).act(np.zeros(1, int)).tolist() == [1]
    assert bandit_learner(UCB1, [[10, 5, 5]], [[5, 1, 0]], exploration=1.3).act(np.zeros(1, int)).tolist() == [0]


@pytest.mark.parametrize(("exploration", "arm"), [(3.1, 0), (3.5, 1)])
def test_ucb1_counts_the_pulls_that_were_made(exploration, arm):
    # 1 + c sqrt(ln 3 / 2) against c sqrt(ln 3): even at c = 3.26; with ln 4 at 2.90, with ln 2 at 4.10.
    chosen = bandit_learner(UCB1, [[2, 1]], [[2, 0]], exploration=exploration).act(np.zeros(1, int))
    assert chosen.tolist() == [arm]


def test_ucb1_breaks_ties_at_random():
    chosen = bandit_learner(UCB1, [[3, 3, 3, 3]] * 9_000, [[2, 1, 2, 2]] * 9_000).act(np.zeros(9_000, int))
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 9_000, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.02)


@pytest.mark.parametrize("exploration", [-0.1, float("nan")])
def test_wrong_exploration_is_refused_by_name(exploration):
    with pytest.raises(ValueError, match=f"exploration={exploration}"):
        UCB1(Discrete(1), Discrete(2), 1, np.random.default_rng(0), exploration=exploration)


@pytest.mark.parametrize(
    ("pulls", "paid", "chance"),
    [
        ([0, 0], [0, 0], 1 / 2),  # U[0, 1] against U[0, 1]
        ([1, 0], [1, 0], 2 / 3),  # E of Beta(2, 1)
        ([1, 0], [0, 0], 1 / 3),  # E of Beta(1, 2)
        ([3, 0], [2, 0], 3 / 5),  # E of Beta(3, 2)
        ([1, 1], [1, 0], 5 / 6),  # 1 - P(Beta(2, 1) < Beta(1, 2))
    ],
)
def test_thompson_samples_from_beta_posteriors(pulls, paid, chance):
    count = 40_000
    chosen = bandit_learner(ThompsonSampling, [pulls] * count, [paid] * count).act(np.zeros(count, int))
    assert (chosen == 0).mean() == pytest.approx(chance, abs=0.01)


def bandit_returns(source, tasks):
    envs = make_environments(BANDIT, tasks)
    learners = source(envs.single_observation_space, envs.single_action_space, len(tasks), np.random.default_rng(0))
    return np.array(learning_returns(envs, learners, 100))[:, 0]


@pytest.mark.parametrize("kind", ["odd", "even", "uniform"])
def test_bandit_algorithms_learn_and_thompson_regrets_less(kind):
    distribution = AdversarialBanditTasks()
    tasks = distribution.split(split_seed=5, train_tasks=1, test_tasks=200).tests[kind]
    optimal, random = (
        np.mean([reference(task) for task in tasks])
        for reference in (distribution.optimal_return, distribution.random_return)
    )
    ucb1, thompson = (bandit_returns(source, tasks * 3).mean() for source in (UCB1, ThompsonSampling))
    assert ucb1 > random + 0.3 * (optimal - random)
    assert thompson > random + 0.6 * (optimal - random)
    assert optimal > thompson > ucb1 + 2


# Posterior sampling.


@pytest.mark.parametrize(
    "room",
    [
        {"size": 4, "episode_length": 6},
        {"size": 4, "episode_length": 5, "start": [3, 0]},
        {"size": 4, "episode_length": 8, "reward_once": True},
        {"size": 2, "episode_length": 3, "reward_once": True},
    ],
    ids=str,
)
def test_posterior_sampling_rules_out_what_a_naive_filter_does_and_acts_for_what_is_left(room):
    distribution = DarkRoomTasks(**room)
    tasks = distribution.tasks() * 2
    envs = make_environments("algodistill/DarkRoom-v0", tasks, **room)
    source = PosteriorSampling(
        envs.single_observation_space,
        envs.single_action_space,
        len(tasks),
        np.random.default_rng(0),
        task_distribution=distribution,
    )
    goals = [tuple(task["goal"]) for task in distribution.tasks()]
    left = [set(goals) for _ in tasks]
    # What each goal would have been paid for, by now in this episode.
    paid = [set() for _ in tasks]
    observations, _ = envs.reset(seed=0)
    for _ in range(120):
        actions = source.act(observations)
        for i, (x, y) in enumerate(observations):
            goal_x, goal_y = goals[source._followed[i]]
            assert (goal_x, goal_y) in left[i]
            before = abs(goal_x - x) + abs(goal_y - y)
            dx, dy = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)][actions[i]]
            assert abs(goal_x - x - dx) + abs(goal_y - y - dy) == max(before - 1, 0)
        next_observations, rewards, terminations, truncations, infos = envs.step(actions)
        reached = infos.get("final_obs", next_observations)
        source.learn(observations, actions, rewards, reached, terminations, truncations)
        for i, cell in enumerate(map(tuple, reached.tolist())):
            pays = {cell} - (paid[i] if room.get("reward_once") else set())
            left[i] = left[i] & pays if rewards[i] else left[i] - pays
            paid[i] |= pays
            if truncations[i]:
                paid[i] = set()
        for i, possible in enumerate(source.possible):
            assert {goals[index] for index in np.flatnonzero(possible)} == left[i]
            assert tuple(tasks[i]["goal"]) in left[i]
        observations = next_observations
    assert all(len(goals_left) == 1 for goals_left in left)


def test_posterior_sampling_draws_evenly_anew_each_episode_and_when_it_is_refuted():
    count, distribution = 20_000, DarkRoomTasks(size=3)
    source = PosteriorSampling(
        MultiDiscrete([3, 3]), Discrete(5), count, np.random.default_rng(0), task_distribution=distribution
    )
    cells, never, zeros = np.full((count, 2), 1), np.zeros(count, bool), np.zeros(count)
    source.act(cells)
    first = source._followed.copy()
    np.testing.assert_allclose(np.bincount(first, minlength=9) / count, 1 / 9, atol=0.01)
    # The centre pays nothing: who followed it draws again, from the others; nobody else does.
    source.learn(cells, np.zeros(count, int), zeros, cells, never, never)
    source.act(cells)
    second = source._followed.copy()
    np.testing.assert_array_equal(second[first != 4], first[first != 4])
    shares = np.bincount(second[first == 4], minlength=9) / (first == 4).sum()
    np.testing.assert_allclose(shares, [1 / 8] * 4 + [0] + [1 / 8] * 4, atol=0.03)
    for ends in ((~never, never), (never, ~never)):
        source.learn(cells, np.zeros(count, int), zeros, cells, *ends)
        source.act(cells)
        np.testing.assert_allclose((source._followed == second).mean(), 1 / 8, atol=0.01)
        second = source._followed.copy()


def test_best_actions_draw_shortest_ways_evenly():
    tasks, count = DarkRoomTasks(size=5), 20_000
    rng = np.random.default_rng(0)

    def shares(goal, cell):
        chosen = tasks.best_actions(tasks.task_array([{"goal": goal}] * count), np.tile(cell, (count, 1)), rng)
        return np.bincount(chosen, minlength=5) / count

    # From (1, 1) to (4, 2) there are four shortest ways, three of which begin to the right.
    np.testing.assert_allclose(shares((4, 2), (1, 1)), [0, 0, 0.25, 0, 0.75], atol=0.015)
    np.testing.assert_allclose(shares((0, 0), (2, 2)), [0, 0.5, 0, 0.5, 0], atol=0.015)
    assert shares((3, 3), (3, 3)).tolist() == [1, 0, 0, 0, 0]
    assert shares((3, 3), (3, 4)).tolist() == [0, 1, 0, 0, 0]
    assert shares((0, 4), (3, 4, 1)).tolist() == [0, 0, 0, 1, 0]  # what the source sees counts no more


def test_posterior_sampling_finds_the_goal_and_stays_optimal():
    distribution = DarkRoomTasks()
    tasks = distribution.tasks()
    envs = make_environments("algodistill/DarkRoom-v0", tasks)
    source = PosteriorSampling(
        envs.single_observation_space,
        envs.single_action_space,
        len(tasks),
        np.random.default_rng(0),
        task_distribution=distribution,
    )
    returns = np.array(learning_returns(envs, source, 40 * 20))
    optimal = np.array([distribution.optimal_return(task) for task in tasks])
    found = returns.cumsum(axis=1) > 0
    assert found[:, -1].all()
    after = np.roll(found, 1, axis=1)
    after[:, 0] = False
    np.testing.assert_array_equal(returns[after], np.broadcast_to(optimal[:, None], returns.shape)[after])
    assert returns[:, 0].mean() < 0.5 * optimal.mean()


def test_posterior_sampling_needs_tasks_that_it_can_plan_for():
    with pytest.raises(ValueError, match="DarkKeyToDoorTasks are not"):
        PosteriorSampling(
            MultiDiscrete([3, 3]), Discrete(5), 1, np.random.default_rng(0), task_distribution=DarkKeyToDoorTasks()
        )


# What holds for all of them.

EVERY_SOURCE = {
    "a2c": {"streams": 1, "rollout": 5},
    "dqn": {"learning_starts": 5, "batch_size": 4, "epsilon_steps": 30, "target_every": 7},
    "q_learning": {"epsilon_start": 0.3, "epsilon_end": 0.1, "epsilon_episodes": 5},
    "thompson": {},
    "ucb1": {},
}


def knowledge(learners):
    """What each of the four learners has learnt, as one vector of each."""
    if hasattr(learners, "q_values"):
        parts = [learners.q_values.reshape(4, -1)]
    elif hasattr(learners, "pulls"):
        parts = [learners.pulls, learners.paid]
    else:
        parts = [parameter.detach().numpy().reshape(4, -1) for parameter in learners._parameters]
    return np.concatenate([part.copy() for part in parts], axis=1)


def make_source(name, seed=0, action_space=None):
    action_space = action_space or Discrete(3)
    return SOURCES[name](Discrete(5), action_space, 4, np.random.default_rng(seed), **EVERY_SOURCE[name])


# Thompson sampling draws as many random numbers as the counts of all learners ask for.
@pytest.mark.parametrize("name", sorted(set(EVERY_SOURCE) - {"thompson"}))
def test_what_a_learner_does_and_learns_does_not_depend_on_the_others(name):
    undisturbed = make_source(name)
    done = np.stack(play(undisturbed, 60))
    for disturbed in range(4):
        learners = make_source(name)
        others = [other for other in range(4) if other != disturbed]
        done_then = np.stack(play(learners, 60, disturb=disturbed))
        np.testing.assert_array_equal(done_then[:, others], done[:, others])
        np.testing.assert_array_equal(knowledge(learners)[others], knowledge(undisturbed)[others])
        assert (knowledge(learners)[disturbed] != knowledge(undisturbed)[disturbed]).any()


@pytest.mark.parametrize("name", EVERY_SOURCE)
def test_what_a_learner_learns_from_the_same_steps_does_not_depend_on_the_others(name):
    actions = np.random.default_rng(3).integers(3, size=(60, 4))
    undisturbed, learners = make_source(name), make_source(name)
    play(undisturbed, 60, actions=actions)
    play(learners, 60, disturb=1, actions=actions)
    differs = (knowledge(learners) != knowledge(undisturbed)).any(axis=1)
    assert differs.tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", EVERY_SOURCE)
def test_same_seed_learns_the_same_and_global_randomness_is_left_alone(name):
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    def life(seed):
        learners = make_source(name, seed)
        return np.stack(play(learners, 40)).tolist(), knowledge(learners).tolist()

    first = life(1)
    torch.rand(3)
    torch.set_rng_state(state)
    assert life(1) == first
    assert life(2)[0] != first[0]
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize("name", EVERY_SOURCE)
def test_actions_are_elements_of_a_space_that_starts_elsewhere(name):
    space = Discrete(3, start=-7)
    learners, zeros, never = make_source(name, action_space=space), np.zeros(4, int), np.zeros(4, bool)
    done = []
    for _ in range(80):
        actions = learners.act(zeros)
        assert actions.shape == (4,) and all(space.contains(action) for action in actions)
        done += actions.tolist()
        learners.learn(zeros, actions, np.ones(4), zeros, never, never)
    assert set(done) == {-7, -6, -5}


@pytest.mark.parametrize("name", [*EVERY_SOURCE])
@pytest.mark.parametrize("space", [Box(0, 1, (2,)), MultiDiscrete([2, 2])], ids=["box", "multi-discrete"])
def test_actions_that_cannot_be_chosen_from_are_refused_by_name(name, space):
    with pytest.raises(ValueError, match=f"not {type(space).__name__}"):
        SOURCES[name](Discrete(2), space, 4, np.random.default_rng(0), **EVERY_SOURCE[name])


def test_sources_are_known_by_the_names_presets_use():
    assert {name: source.__name__ for name, source in SOURCES.items()} == {
        "a2c": "A2C",
        "dqn": "DQN",
        "noise_distillation": "NoiseDistillation",
        "posterior_sampling": "PosteriorSampling",
        "q_learning": "TabularQLearning",
        "sb3": "StableBaselines3",
        "thompson": "ThompsonSampling",
        "ucb1": "UCB1",
    }
