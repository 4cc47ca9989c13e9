"""A2C and DQN: their targets and updates against one naive network a learner, and that they learn."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from learning import learning_returns

from algodistill.environments import DarkRoomTasks, make_environments
from algodistill.sources import A2C, DQN
from algodistill.sources.networks import Features, Networks, clip_gradients


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# What networks see.


@pytest.mark.parametrize(
    ("space", "observations", "vectors"),
    [
        (Discrete(3), [0, 2], [[1, 0, 0], [0, 0, 1]]),
        (Discrete(3, start=-1), [-1, 1], [[1, 0, 0], [0, 0, 1]]),
        (MultiDiscrete([2, 3]), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (MultiDiscrete([2, 2], start=[5, -3]), [[6, -3], [5, -2]], [[0, 1, 1, 0], [1, 0, 0, 1]]),
        (MultiDiscrete([[2], [2]]), [[[1], [0]]], [[0, 1, 1, 0]]),
        (MultiBinary(2), [[1, 0], [1, 1]], [[0, 1, 1, 0], [0, 1, 0, 1]]),
        (Box(0, 10, (2,)), [[0, 10], [5, 7.5]], [[-1, 1], [0, 0.5]]),
        (Box(-1, 3, (1, 2)), [[[-1, 3]]], [[-1, 1]]),
        (Box(-np.inf, np.inf, (1,)), [[3.5], [-100]], [[3.5], [-100]]),
        (Box(np.array([0, -np.inf]), np.array([np.inf, 2]), dtype=np.float64), [[3, -4]], [[3, -4]]),
        (Box(np.array([0, -np.inf]), np.array([4, np.inf]), dtype=np.float64), [[3, -4]], [[0.5, -4]]),
        (Box(2, 2, (1,)), [[2]], [[0]]),
        (Box(0, 255, (2,), np.uint8), [[0, 255]], [[-1, 1]]),
        (Box(-128, 127, (2,), np.int8), [[-128, 127]], [[-1, 1]]),
        (Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,)), [[3.5]], [[3.5]]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*overflow")
def test_observations_become_vectors(space, observations, vectors):
    features = Features(space)
    found = features(np.array(observations, dtype=space.dtype))
    assert found.dtype == torch.float32 and features.size == found.shape[1]
    torch.testing.assert_close(found, torch.tensor(vectors, dtype=torch.float32))


def test_observations_without_numbers_are_refused_by_name():
    with pytest.raises(ValueError, match="Dict"):
        Features(Dict({"a": Discrete(2)}))


def naive_forward(parameters, learner, inputs):
    """The perceptron of one learner, from weights and biases layer by layer."""
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs = inputs @ weight + bias
        if layer < len(weights) - 1:
            inputs = torch.tanh(inputs)
    return inputs


def parameters_of(networks, learner):
    """One learner's weights, then its biases, as leaves of its own."""
    return [
        parameter.detach()[learner].clone().requires_grad_()
        for parameters in (networks.weights, networks.biases)
        for parameter in parameters
    ]


def test_networks_are_many_perceptrons_with_weights_of_their_own():
    networks = Networks(3, [4, 6, 5, 2], torch.Generator().manual_seed(0))
    inputs = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1))
    outputs = networks(inputs)
    assert outputs.shape == (3, 7, 2)
    for learner in range(3):
        expected = naive_forward(parameters_of(networks, learner), learner, inputs[learner])
        torch.testing.assert_close(outputs[learner], expected)
    assert not torch.equal(networks.weights[0][0], networks.weights[0][1])
    scaled = Networks(3, [4, 6, 5, 2], torch.Generator().manual_seed(0), last_scale=0.1)
    torch.testing.assert_close(scaled.weights[-1], 0.1 * networks.weights[-1])
    torch.testing.assert_close(scaled.weights[0], networks.weights[0])


@pytest.mark.usefixtures("double_precision")
def test_backpropagation_is_that_of_autograd():
    networks = Networks(3, [4, 6, 5, 2], torch.Generator().manual_seed(0))
    inputs, gradients = (torch.randn(3, 7, width, generator=torch.Generator().manual_seed(1)) for width in (4, 2))
    networks.backpropagate(networks.activations(inputs), gradients)
    for learner in range(3):
        parameters = parameters_of(networks, learner)
        naive_forward(parameters, learner, inputs[learner]).backward(gradients[learner])
        for ours, alone in zip([*networks.weights, *networks.biases], parameters, strict=True):
            torch.testing.assert_close(ours.grad[learner], alone.grad)


def test_gradients_are_clipped_learner_by_learner():
    parameters = [torch.nn.Parameter(torch.zeros(3, 2, 4)), torch.nn.Parameter(torch.zeros(3, 1, 4))]
    gradients = [torch.randn(3, 2, 4), torch.randn(3, 1, 4)]
    sizes = torch.tensor([0.01, 1.0, 1000.0])[:, None, None]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient * sizes
    clip_gradients(parameters, 0.5)
    for learner, size in enumerate(sizes.ravel()):
        alone = [torch.nn.Parameter(torch.zeros_like(gradient[learner])) for gradient in gradients]
        for parameter, gradient in zip(alone, gradients, strict=True):
            parameter.grad = gradient[learner] * size
        torch.nn.utils.clip_grad_norm_(alone, 0.5)
        for parameter, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(parameter.grad[learner], expected.grad)
    assert torch.cat([parameter.grad[0].ravel() for parameter in parameters]).norm() < 0.1


# Updates, against a network of each learner's own. In double precision: Adam makes steps of noise.


def assert_same_parameters(networks, naive):
    for learner, parameters in enumerate(naive):
        for ours, theirs in zip(parameters_of(networks, learner), parameters, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def one_hot(state, states=5):
    return torch.nn.functional.one_hot(torch.as_tensor(state), states).double()


class NaiveDQN:
    """One double-DQN learner with a list for a memory, after Mnih et al. (2015) and van Hasselt et al. (2016)."""

    def __init__(self, batch, learner, settings):
        self.parameters, self.settings = parameters_of(batch._networks, learner), settings
        self.targets = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings["learning_rate"])
        self.learner, self.memory = learner, []

    def remember(self, step, transition):
        if len(self.memory) < self.settings["memory"]:
            self.memory.append(transition)
        else:
            self.memory[step % self.settings["memory"]] = transition

    def update(self, drawn):
        losses = []
        for place in drawn:
            seen, action, reward, reached, terminated = self.memory[place]
            with torch.no_grad():
                best = int(naive_forward(self.parameters, self.learner, one_hot(reached)[None])[0].argmax())
                next_value = naive_forward(self.targets, self.learner, one_hot(reached)[None])[0, best]
                target = reward + (0 if terminated else self.settings["discount"] * next_value)
            error = naive_forward(self.parameters, self.learner, one_hot(seen)[None])[0, action] - target
            losses.append(0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5)
        self.optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"])
        self.optimizer.step()

    def renew_target(self):
        self.targets = [parameter.detach().clone() for parameter in self.parameters]


@pytest.mark.parametrize("clip_norm", [10.0, 0.05])
@pytest.mark.usefixtures("double_precision")
def test_dqn_equals_naive_learners(clip_norm):
    settings = {
        "hidden": 6, "learning_rate": 0.02, "discount": 0.8, "memory": 11, "batch_size": 4, "clip_norm": clip_norm
    }  # fmt: skip
    times = {"train_every": 3, "learning_starts": 7, "target_every": 8}
    batch = DQN(Discrete(5), Discrete(3, start=2), 3, np.random.default_rng(0), **settings, **times)
    naive = [NaiveDQN(batch, learner, settings) for learner in range(3)]
    before = copy.deepcopy(batch._networks)
    rng = np.random.default_rng(1)
    for step in range(60):
        seen, reached = rng.integers(5, size=(2, 3))
        actions = batch.act(seen)
        rewards = (rng.normal(size=3) * [0.1, 1, 30]).astype(np.float32)
        terminations, truncations = rng.random((2, 3)) < 0.3
        same_draws = copy.deepcopy(batch._rng)
        batch.learn(seen, actions, rewards, reached, terminations, truncations)
        for i, one in enumerate(naive):
            transition = (int(seen[i]), int(actions[i]) - 2, float(rewards[i]), int(reached[i]), bool(terminations[i]))
            one.remember(step, transition)
        done = step + 1
        if done >= 7 and done % 3 == 0:
            places = same_draws.integers(min(done, 11), size=(3, 4))
            for one, drawn in zip(naive, places, strict=True):
                one.update(drawn)
        if done % 8 == 0:
            for one in naive:
                one.renew_target()
        assert_same_parameters(batch._networks, [one.parameters for one in naive])
        if done == 6:
            assert_same_parameters(before, [one.parameters for one in naive])
    assert (batch._networks.weights[0] - before.weights[0]).abs().max() > 0.05


def test_dqns_random_actions_fall_linearly_and_the_others_are_its_best():
    learners, settings = 3_000, {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_steps": 4}
    batch = DQN(Discrete(1), Discrete(4), learners, np.random.default_rng(0), hidden=2, memory=1, **settings)
    zeros, never = np.zeros(learners, int), np.zeros(learners, bool)
    with torch.no_grad():
        best = batch._networks(torch.ones(learners, 1, 1))[:, 0].argmax(dim=-1).numpy()
    assert len(set(best.tolist())) == 4
    for epsilon in [0.9, 0.7, 0.5, 0.3, 0.1, 0.1]:
        actions = batch.act(zeros)
        assert (actions == best).mean() == pytest.approx(1 - epsilon * 3 / 4, abs=0.03)
        batch.learn(zeros, actions, np.zeros(learners), zeros, never, never)


class NaiveA2C:
    """One actor-critic with several streams, after Mnih et al. (2016) and Schulman et al. (2016), step by step."""

    def __init__(self, batch, learner, settings):
        self.parameters, self.settings, self.learner = parameters_of(batch._networks, learner), settings, learner
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings["learning_rate"], eps=1e-5)

    def policy_and_value(self, state):
        outputs = naive_forward(self.parameters, self.learner, one_hot(state)[None])[0]
        return torch.softmax(outputs[:-1], dim=0), outputs[-1]

    def update(self, streams):
        """`streams`: for each environment, its transitions (seen, action, reward, reached, terminated, truncated)."""
        discount, trace = self.settings["discount"], self.settings["discount"] * self.settings["gae_lambda"]
        losses = []
        for stream in streams:
            deltas = []
            for seen, _, reward, reached, terminated, _ in stream:
                with torch.no_grad():
                    next_value = 0 if terminated else self.policy_and_value(reached)[1]
                    deltas.append(reward + discount * next_value - self.policy_and_value(seen)[1])
            for time, (seen, action, *_) in enumerate(stream):
                # The sum of all deltas up to the end of the episode, or of the rollout.
                advantage = 0
                for later in range(time, len(stream)):
                    advantage = advantage + trace ** (later - time) * deltas[later]
                    if stream[later][4] or stream[later][5]:
                        break
                policy, value = self.policy_and_value(seen)
                target = advantage + value.detach()
                entropy = -(policy * policy.log()).sum()
                losses.append(
                    -policy[action].log() * advantage
                    - self.settings["entropy"] * entropy
                    + self.settings["value_weight"] * (value - target) ** 2
                )
        self.optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"])
        self.optimizer.step()


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("clip_norm", [100.0, 0.05])
@pytest.mark.usefixtures("double_precision")
def test_a2c_equals_naive_learners(streams, clip_norm):
    learners, rollout = 2, 6
    settings = {
        "hidden": 6, "learning_rate": 0.02, "discount": 0.8, "gae_lambda": 0.7, "entropy": 0.05, "value_weight": 0.4,
        "clip_norm": clip_norm,
    }  # fmt: skip
    batch = A2C(
        Discrete(5), Discrete(3, start=2), learners * streams, np.random.default_rng(0),
        streams=streams, rollout=rollout, **settings,
    )  # fmt: skip
    naive = [NaiveA2C(batch, learner, settings) for learner in range(learners)]
    before = copy.deepcopy(batch._networks)
    rng, envs = np.random.default_rng(1), learners * streams
    seen, ends = rng.integers(5, size=envs), set()
    for step in range(20 * rollout):
        if step % rollout == 0:
            record = [[] for _ in range(envs)]
        reached, start = rng.integers(5, size=(2, envs))
        actions = batch.act(seen)
        rewards = (rng.normal(size=envs) * np.repeat([0.1, 20], streams)).astype(np.float32)
        terminations, truncations = rng.random((2, envs)) < 0.3
        ends |= {(step % rollout, *end) for end in zip(terminations.tolist(), truncations.tolist(), strict=True)}
        batch.learn(seen, actions, rewards, reached, terminations, truncations)
        for i in range(envs):
            record[i].append(
                (
                    int(seen[i]),
                    int(actions[i]) - 2,
                    float(rewards[i]),
                    int(reached[i]),
                    terminations[i],
                    truncations[i],
                )
            )
        if step % rollout == rollout - 1:
            for learner, one in enumerate(naive):
                one.update(record[learner * streams : (learner + 1) * streams])
        assert_same_parameters(batch._networks, [one.parameters for one in naive])
        if step == rollout - 2:
            assert_same_parameters(before, [one.parameters for one in naive])
        seen = np.where(terminations | truncations, start, reached)
    # Episodes went on, terminated, were truncated, or both, at each step of a rollout.
    assert len(ends) == 4 * rollout
    assert (batch._networks.weights[0] - before.weights[0]).abs().max() > 0.02


def test_a2c_draws_actions_by_its_policy():
    streams = 20_000
    batch = A2C(Discrete(1), Discrete(3), 2 * streams, np.random.default_rng(0), streams=streams, hidden=2)
    with torch.no_grad():
        batch._networks.biases[-1][:, 0, :3] = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
        outputs = batch._networks(torch.ones(2, 1, 1))[:, 0, :3].softmax(dim=-1).numpy()
    actions = batch.act(np.zeros(2 * streams, int)).reshape(2, streams)
    for learner in range(2):
        np.testing.assert_allclose(np.bincount(actions[learner], minlength=3) / streams, outputs[learner], atol=0.015)
    assert abs(outputs[0] - outputs[1]).max() > 0.3


def test_a2cs_streams_share_a_learner_and_learners_share_nothing():
    """What one environment of a learner brings changes the policy in all of its environments, and in no other."""

    def policies(rewarded):
        batch = A2C(Discrete(2), Discrete(3), 6, np.random.default_rng(0), streams=3, rollout=1)
        zeros, never = np.zeros(6, int), np.zeros(6, bool)
        actions = batch.act(zeros)
        batch.learn(zeros, actions, np.arange(6) == rewarded, zeros, never, never)
        with torch.no_grad():
            return batch._networks(torch.eye(2).expand(2, 2, 2)).numpy()

    undisturbed = policies(None)
    for rewarded in range(6):
        differs = (policies(rewarded) != undisturbed).any(axis=(1, 2))
        assert differs.tolist() == [rewarded < 3, rewarded >= 3]


@pytest.mark.parametrize(("environments", "streams"), [(6, 4), (6, 0), (6, -2), (1, 8)])
def test_environments_that_cannot_be_shared_out_are_refused(environments, streams):
    with pytest.raises(ValueError, match=f"{environments} environments .*{streams} each"):
        A2C(Discrete(2), Discrete(2), environments, np.random.default_rng(0), streams=streams)


@pytest.mark.parametrize(
    ("source", "setting", "value"),
    [
        *((source, *setting) for source in (A2C, DQN) for setting in (("hidden", 0), ("discount", 1.5))),
        *((source, *setting) for source in (A2C, DQN) for setting in (("clip_norm", -1.0), ("learning_rate", -1.0))),
        *((DQN, name, 0) for name in ("memory", "batch_size", "train_every", "target_every", "epsilon_steps")),
        (DQN, "epsilon_start", 2.0),
        (DQN, "epsilon_end", -0.5),
        (A2C, "rollout", 0),
        (A2C, "gae_lambda", 1.5),
    ],
)
def test_setting_out_of_range_is_refused_by_name(source, setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        source(Discrete(2), Discrete(2), 8, np.random.default_rng(0), **{setting: value})


# Learning.


SOURCES = {"a2c": (A2C, {"streams": 4}), "dqn": (DQN, {})}


@pytest.mark.parametrize(("source", "settings"), SOURCES.values(), ids=SOURCES)
def test_dark_room_is_solved(source, settings):
    room = {"size": 5, "episode_length": 15}
    distribution = DarkRoomTasks(**room)
    goals = np.random.default_rng(0).permutation(25)[:12]
    tasks = [distribution.tasks()[goal] for goal in goals for _ in range(settings.get("streams", 2))]
    envs = make_environments("algodistill/DarkRoom-v0", tasks, **room)
    spaces = envs.single_observation_space, envs.single_action_space
    learners = source(*spaces, len(tasks), np.random.default_rng(0), **settings)
    returns = np.array(learning_returns(envs, learners, 4_500))
    optimal = np.mean([distribution.optimal_return(task) for task in tasks])
    assert returns[:, :5].mean() < 0.35 * optimal
    assert returns[:, -30:].mean() >= 0.8 * optimal


@pytest.mark.parametrize("source", ["a2c", "dqn"])
def test_cart_pole_is_balanced_longer(source):
    """Observations are a Box, and episodes end at different times, by termination."""
    envs = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1") for _ in range(4)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    settings = {"discount": 0.98, "streams": 4} if source == "a2c" else {"discount": 0.98}
    learners = {"a2c": A2C, "dqn": DQN}[source](
        envs.single_observation_space, envs.single_action_space, 4, np.random.default_rng(0), **settings
    )
    returns = learning_returns(envs, learners, 5_000)
    first, last = (np.mean([one[part] for one in returns]) for part in (slice(5), slice(-5, None)))
    assert first < 45
    assert last > 2 * first and last > 55
