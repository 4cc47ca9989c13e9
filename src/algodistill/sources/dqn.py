"""Double deep Q-learning (Mnih et al., 2015; van Hasselt et al., 2016), as a batch of independent learners."""

import math

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete

from .networks import Features, Networks, clip_gradients
from .schedules import linear
from .settings import check_settings


class DQN:
    """Independent deep Q-learners, each with a network, a target network and a replay memory of its own.

    Every `train_every` steps, on transitions drawn from what a learner has seen:

        target = r + discount * Q_target(s', argmax_a Q(s', a))            (r alone after a termination)
        loss   = huber(Q(s, a) - target)

    and one step of Adam on it. Q_target is a copy of Q that is renewed every `target_every` steps. Actions are random
    with a probability that falls from `epsilon_start` to `epsilon_end` over `epsilon_steps` steps.

    Args:
        observation_space (`gymnasium.Space`): What a learner sees of its environment.
        action_space (`gymnasium.Space`): Its actions: Discrete.
        num_learners (`int`): Number of learners, one environment each: the leading axis of everything below.
        rng (`numpy.random.Generator`): Source of all randomness.
        hidden (`int`, *optional*, defaults to `64`): Width of the two hidden layers.
        learning_rate (`float`, *optional*, defaults to `0.001`): Step size of Adam.
        discount (`float`, *optional*, defaults to `0.95`): Discount factor.
        memory (`int`, *optional*, defaults to `10000`): Transitions that a learner remembers.
        batch_size (`int`, *optional*, defaults to `32`): Transitions that an update learns from.
        train_every (`int`, *optional*, defaults to `4`): Steps between two updates.
        learning_starts (`int`, *optional*, defaults to `200`): Steps before the first update.
        target_every (`int`, *optional*, defaults to `200`): Steps between two copies into the target network.
        epsilon_start (`float`, *optional*, defaults to `1.0`): Probability of a random action at the beginning.
        epsilon_end (`float`, *optional*, defaults to `0.02`): The same in the end.
        epsilon_steps (`int`, *optional*, defaults to `2000`): Steps over which it falls.
        clip_norm (`float`, *optional*, defaults to `10.0`): Largest norm of a learner's gradient.

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
        hidden: int = 64,
        learning_rate: float = 0.001,
        discount: float = 0.95,
        memory: int = 10_000,
        batch_size: int = 32,
        train_every: int = 4,
        learning_starts: int = 200,
        target_every: int = 200,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.02,
        epsilon_steps: int = 2_000,
        clip_norm: float = 10.0,
    ):
        check_settings(
            hidden=(hidden, 1, math.inf),
            learning_rate=(learning_rate, 0, math.inf),
            discount=(discount, 0, 1),
            memory=(memory, 1, math.inf),
            batch_size=(batch_size, 1, math.inf),
            train_every=(train_every, 1, math.inf),
            learning_starts=(learning_starts, 0, math.inf),
            target_every=(target_every, 1, math.inf),
            epsilon_start=(epsilon_start, 0, 1),
            epsilon_end=(epsilon_end, 0, 1),
            epsilon_steps=(epsilon_steps, 1, math.inf),
            clip_norm=(clip_norm, 0, math.inf),
        )
        if not isinstance(action_space, Discrete):
            raise ValueError(f"DQN needs Discrete actions, not {action_space}.")
        self._rng = rng
        self._first_action, self._num_actions = int(action_space.start), int(action_space.n)
        self._features = Features(observation_space)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        sizes = [self._features.size, hidden, hidden, self._num_actions]
        self._networks = Networks(num_learners, sizes, generator, last_scale=0.1)
        self._targets = Networks(num_learners, sizes, generator)
        self._targets.load_state_dict(self._networks.state_dict())
        self._parameters = list(self._networks.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate, fused=True)
        self._discount, self._batch_size, self._clip_norm = discount, batch_size, clip_norm
        self._train_every, self._learning_starts, self._target_every = train_every, learning_starts, target_every
        self._epsilon_start, self._epsilon_end, self._epsilon_steps = epsilon_start, epsilon_end, epsilon_steps
        self._steps = 0
        shape = observation_space.shape or ()
        self._seen = np.empty((memory, num_learners, *shape), observation_space.dtype)
        self._reached = np.empty_like(self._seen)
        self._actions = np.empty((memory, num_learners), np.int64)
        self._rewards = np.empty((memory, num_learners), np.float32)
        self._terminations = np.empty((memory, num_learners), bool)
        self._learners = np.arange(num_learners)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose one action a learner, shape `(learners,)`, for observations of shape `(learners, ...)`."""
        values = self._networks(self._features(observations)[:, None])[:, 0].numpy()
        epsilon = linear(self._epsilon_start, self._epsilon_end, self._steps / self._epsilon_steps)
        explore = self._rng.random(len(values)) < epsilon
        random = self._rng.integers(self._num_actions, size=len(values))
        return np.where(explore, random, values.argmax(axis=1)) + self._first_action

    def learn(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> None:
        """Remember one step of every learner, and update the networks when it is time."""
        place = self._steps % len(self._actions)
        self._seen[place], self._reached[place] = observations, next_observations
        self._actions[place], self._rewards[place] = actions - self._first_action, rewards
        self._terminations[place] = terminations
        self._steps += 1
        if self._steps >= self._learning_starts and self._steps % self._train_every == 0:
            self._update()
        if self._steps % self._target_every == 0:
            self._targets.load_state_dict(self._networks.state_dict())

    def _remembered(self, memory: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """What each learner remembers at the places drawn for it, `(learners, batch_size, ...)`."""
        return memory[drawn, self._learners[:, None]]

    def _encode(self, observations: np.ndarray) -> torch.Tensor:
        learners, batch = observations.shape[:2]
        return self._features(observations.reshape(learners * batch, -1)).view(learners, batch, -1)

    def _update(self) -> None:
        remembered = min(self._steps, len(self._actions))
        drawn = self._rng.integers(remembered, size=(len(self._learners), self._batch_size))
        seen, reached = (self._encode(self._remembered(memory, drawn)) for memory in (self._seen, self._reached))
        actions, rewards, terminations = (
            torch.from_numpy(self._remembered(memory, drawn))
            for memory in (self._actions, self._rewards, self._terminations)
        )
        best = self._networks(reached).argmax(dim=-1, keepdim=True)
        next_values = self._targets(reached).gather(-1, best)[..., 0]
        targets = rewards + self._discount * next_values * ~terminations
        activations = self._networks.activations(seen)
        outputs = activations[-1].requires_grad_()
        values = outputs.gather(-1, actions[..., None])[..., 0]
        loss = torch.nn.functional.smooth_l1_loss(values, targets, reduction="none")
        # The mean over a learner's batch, and the sum over learners: none's gradient depends on another.
        (gradients,) = torch.autograd.grad(loss.mean(dim=1).sum(), outputs)
        self._networks.backpropagate(activations, gradients)
        clip_gradients(self._parameters, self._clip_norm)
        self._optimizer.step()
