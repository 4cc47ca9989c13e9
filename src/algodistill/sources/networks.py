"""Networks of many independent learners at once: a leading axis holds one small network each."""

from collections.abc import Sequence

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete


# Bounds beyond this stand for none.
LARGEST_BOUND = 1e6


class Features:
    """Turns observations into vectors: discrete dimensions one-hot, bounded numbers scaled to [-1, 1], others as they
    are.

    Args:
        space (`gymnasium.Space`): One environment's observations: Discrete, MultiDiscrete, MultiBinary or Box.

    Raises:
        ValueError: If the space is another.
    """

    def __init__(self, space: gymnasium.Space):
        self._is_discrete = not isinstance(space, Box)
        if isinstance(space, Box):
            low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
            # CartPole's velocities are "below" 3.4e38: that is no bound to scale by.
            bounded = (abs(low) <= LARGEST_BOUND) & (abs(high) <= LARGEST_BOUND)
            low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
            self._centre, self._half = (low + high) / 2, np.maximum((high - low) / 2, 1e-8)
            self.size = int(np.prod(space.shape))
            return
        if isinstance(space, Discrete):
            sizes, starts = np.array([space.n]), np.array([space.start])
        elif isinstance(space, MultiDiscrete):
            sizes, starts = space.nvec.ravel(), space.start.ravel()
        elif isinstance(space, MultiBinary):
            sizes, starts = np.full(int(np.prod(space.shape)), 2), np.zeros(1, dtype=np.int64)
        else:
            raise ValueError(f"Observations of {space} cannot be learnt from: expected numbers, or a vector of them.")
        # Where the ones of each dimension begin.
        self._offsets = np.cumsum(sizes) - sizes - starts
        self.size = int(sizes.sum())

    def __call__(self, observations: np.ndarray) -> torch.Tensor:
        """Observations `(n, ...)` as vectors `(n, size)`."""
        flat = observations.reshape(len(observations), -1)
        if not self._is_discrete:
            return torch.from_numpy(((flat - self._centre) / self._half).astype(np.float32))
        vectors = torch.zeros(len(flat), self.size)
        return vectors.scatter_(1, torch.from_numpy(flat.astype(np.int64) + self._offsets), 1.0)


class Networks(torch.nn.Module):
    """One multilayer perceptron a learner, all of the same shape, with tanh between the layers.

    Args:
        learners (`int`): Number of learners.
        sizes (`Sequence[int]`): Width of the input, of each hidden layer, and of the output.
        generator (`torch.Generator`): Draws the initial weights.
        last_scale (`float`, *optional*, defaults to `1.0`): Scale of the last layer's initial weights.
    """

    def __init__(self, learners: int, sizes: Sequence[int], generator: torch.Generator, last_scale: float = 1.0):
        super().__init__()
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            scale = (last_scale if layer == len(sizes) - 2 else 1.0) / inputs**0.5
            self.weights.append(scale * torch.randn(learners, inputs, outputs, generator=generator))
            self.biases.append(torch.zeros(learners, 1, outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs `(learners, batch, outputs)` for inputs `(learners, batch, inputs)`: numbers, without a graph."""
        return self.activations(inputs)[-1]

    @torch.no_grad()
    def activations(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The inputs, the hidden layers and the outputs, each `(learners, batch, width)`."""
        activations = [inputs]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer > 0:
                hidden = activations[-1].numpy()
                # Not torch.tanh, which takes ten times as long where it is MKL's and the processor is not Intel's.
                np.tanh(hidden, out=hidden)
            activations.append(torch.baddbmm(bias, activations[-1], weight))
        return activations

    @torch.no_grad()
    def backpropagate(self, activations: Sequence[torch.Tensor], gradients: torch.Tensor) -> None:
        """Set the gradients of all parameters, from the activations and the gradients of the outputs.

        By hand and not by autograd, so that activations can be put together from those of many steps.
        """
        for layer in reversed(range(len(self.weights))):
            weight, bias, inputs = self.weights[layer], self.biases[layer], activations[layer]
            weight.grad, bias.grad = inputs.mT @ gradients, gradients.sum(dim=1, keepdim=True)
            if layer > 0:
                # tanh'(x) = 1 - tanh(x)^2
                gradients = (gradients @ weight.mT).mul_(1 - inputs.square())


def clip_gradients(parameters: Sequence[torch.nn.Parameter], norm: float) -> None:
    """Scale each learner's gradient down to at most this norm, whatever the other learners' are."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = sum(gradient.flatten(1).square().sum(dim=1) for gradient in gradients)
    scales = (norm / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scales[:, None, None])
