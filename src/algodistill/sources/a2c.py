"""Advantage actor-critic (Mnih et al., 2016), synchronous, as a batch of independent learners."""

import math

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete

from .networks import Features, Networks, clip_gradients
from .settings import check_settings


class A2C:
    """Independent actor-critic learners, each with a network of its own and several environments at once.

    Every `rollout` steps, from what a learner's environments have brought:

        delta_t     = r_t + discount * V(s_t+1) - V(s_t)           (no V after a termination)
        advantage_t = delta_t + discount * gae_lambda * advantage_t+1    (within an episode; Schulman et al., 2016)
        loss        = -log pi(a_t|s_t) * advantage_t - entropy * H(pi) + value_weight * (V - advantage_t - V_old)^2

    and one step of Adam on it. The environments of a learner are consecutive in all batches; each environment's stream
    is recorded as a history of its own.

    Args:
        observation_space (`gymnasium.Space`): What a learner sees of one environment.
        action_space (`gymnasium.Space`): One environment's actions: Discrete.
        num_learners (`int`): Number of environments in all, a multiple of `streams`: the leading axis of everything.
        rng (`numpy.random.Generator`): Source of all randomness.
        streams (`int`, *optional*, defaults to `8`): Environments of each learner.
        hidden (`int`, *optional*, defaults to `64`): Width of the two hidden layers.
        learning_rate (`float`, *optional*, defaults to `0.003`): Step size of Adam.
        rollout (`int`, *optional*, defaults to `20`): Steps between two updates.
        discount (`float`, *optional*, defaults to `0.95`): Discount factor.
        gae_lambda (`float`, *optional*, defaults to `0.95`): Mixture of returns of different lengths.
        entropy (`float`, *optional*, defaults to `0.01`): Weight of the policy's entropy.
        value_weight (`float`, *optional*, defaults to `0.5`): Weight of the critic's loss.
        clip_norm (`float`, *optional*, defaults to `0.5`): Largest norm of a learner's gradient.

    Raises:
        ValueError: If a space cannot be learnt in, or a setting is out of its range.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_learners: int,
        rng: np.random.Generator,
        *,
        streams: int = 8,
        hidden: int = 64,
        learning_rate: float = 0.003,
        rollout: int = 20,
        discount: float = 0.95,
        gae_lambda: float = 0.95,
        entropy: float = 0.01,
        value_weight: float = 0.5,
        clip_norm: float = 0.5,
    ):
        check_settings(
            hidden=(hidden, 1, math.inf),
            learning_rate=(learning_rate, 0, math.inf),
            rollout=(rollout, 1, math.inf),
            discount=(discount, 0, 1),
            gae_lambda=(gae_lambda, 0, 1),
            entropy=(entropy, 0, math.inf),
            value_weight=(value_weight, 0, math.inf),
            clip_norm=(clip_norm, 0, math.inf),
        )
        if not isinstance(action_space, Discrete):
            raise ValueError(f"A2C needs Discrete actions, not {action_space}.")
        if streams < 1 or num_learners % streams:
            raise ValueError(f"{num_learners} environments cannot be shared out to learners of {streams} each.")
        self._learners, self._streams, self._rng = num_learners // streams, streams, rng
        self._first_action, self._num_actions = int(action_space.start), int(action_space.n)
        self._features = Features(observation_space)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        # The outputs are the logits of the actions, and the value.
        sizes = [self._features.size, hidden, hidden, self._num_actions + 1]
        self._networks = Networks(self._learners, sizes, generator, last_scale=0.1)
        self._parameters = list(self._networks.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate, eps=1e-5, fused=True)
        self._rollout, self._discount, self._gae_lambda = rollout, discount, gae_lambda
        self._entropy, self._value_weight, self._clip_norm = entropy, value_weight, clip_norm
        # One rollout. What the networks made of the observations when they acted is what updates learn from.
        shape = (self._learners, rollout, streams)
        self._time = 0
        self._activations = [torch.zeros(*shape, size) for size in sizes]
        self._actions = torch.zeros(shape, dtype=torch.int64)
        self._rewards, self._bootstrap_values = torch.zeros(shape), torch.zeros(shape)
        self._terminations, self._truncations = torch.zeros(2, *shape, dtype=torch.bool)

    def _by_learner(self, vectors: torch.Tensor) -> torch.Tensor:
        """`(environments, ...)` as `(learners, streams, ...)`."""
        return vectors.view(self._learners, self._streams, *vectors.shape[1:])

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Draw one action an environment, shape `(environments,)`, for observations of shape `(environments, ...)`."""
        activations = self._networks.activations(self._by_learner(self._features(observations)))
        for kept, values in zip(self._activations, activations, strict=True):
            kept[:, self._time] = values
        logits = activations[-1][..., : self._num_actions].reshape(-1, self._num_actions).numpy()
        # The largest of the logits with Gumbel noise is a draw from their softmax.
        noise = -np.log(self._rng.exponential(size=logits.shape))
        return (logits + noise).argmax(axis=1) + self._first_action

    def learn(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> None:
        """Keep one step of every environment, from what `act` was last given; update when a rollout is complete.

        Within an episode, `next_observations` are what `act` is given next.
        """
        for kept, values in (
            (self._actions, actions - self._first_action),
            (self._rewards, rewards.astype(np.float32)),
            (self._terminations, terminations),
            (self._truncations, truncations),
        ):
            kept[:, self._time] = self._by_learner(torch.from_numpy(values))
        is_last = self._time == self._rollout - 1
        # Any other next state is valued when it is acted in, or is a terminal one.
        if is_last or truncations.any():
            reached = self._by_learner(self._features(next_observations))
            self._bootstrap_values[:, self._time] = self._networks(reached)[..., -1]
        self._time += 1
        if is_last:
            self._update()
            self._time = 0

    def _advantages(self, values: torch.Tensor) -> torch.Tensor:
        """Generalised advantage estimates of all steps, from V of the states that they were made in."""
        bootstraps = self._truncations.clone()
        bootstraps[:, -1] = True
        next_values = torch.where(bootstraps, self._bootstrap_values, values.roll(-1, dims=1))
        deltas = self._rewards + self._discount * next_values * ~self._terminations - values
        decays = self._discount * self._gae_lambda * ~(self._terminations | self._truncations)
        advantages = deltas.clone()
        for time in reversed(range(self._rollout - 1)):
            advantages[:, time] += decays[:, time] * advantages[:, time + 1]
        return advantages

    def _update(self) -> None:
        advantages = self._advantages(self._activations[-1][..., -1]).flatten(1)
        activations = [kept.flatten(1, 2) for kept in self._activations]
        # (learners, outputs, steps): a softmax over a short last axis is slow.
        outputs = activations[-1].mT.contiguous().requires_grad_()
        log_policy, values = outputs[:, : self._num_actions].log_softmax(dim=1), outputs[:, -1]
        targets = advantages + values.detach()
        chosen = log_policy.gather(1, self._actions.flatten(1)[:, None])[:, 0]
        entropy = -(log_policy.exp() * log_policy).sum(dim=1)
        loss = -chosen * advantages - self._entropy * entropy + self._value_weight * (values - targets).square()
        # The mean over a learner's steps, and the sum over learners: none's gradient depends on another.
        (gradients,) = torch.autograd.grad(loss.mean(dim=1).sum(), outputs)
        self._networks.backpropagate(activations, gradients.mT.contiguous())
        clip_gradients(self._parameters, self._clip_norm)
        self._optimizer.step()
