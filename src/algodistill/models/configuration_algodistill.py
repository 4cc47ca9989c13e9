"""Configuration of an Algorithm Distillation model."""

import math
from dataclasses import field
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


LAYOUTS = ("transition", "interleaved")


class AlgorithmDistillationConfig(PreTrainedConfig):
    """Configuration of an [`AlgorithmDistillationModel`]: a decoder, what its tokens stand for, and where it acts.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*): Any decoder of `transformers`, as its configuration or
            as a dict with its `model_type`. By default a 4-layer, 64-wide `qwen3`. Its vocabulary is not used.
        observation_sizes (`list[int]`): Number of values of each dimension of an observation that is an id; empty if
            all of it is numbers.
        observation_numbers (`int`, *optional*, defaults to `0`): Dimensions of an observation that are numbers.
        action_sizes (`list[int]`): Number of values of each dimension of an action.
        layout (`str`, *optional*, defaults to `"transition"`): Tokens of one step: `"transition"` sums the previous
            action, the previous reward and the observation into one, `"interleaved"` makes one of each (the three
            tokens per step of Laskin et al. 2022).
        context_length (`int`, *optional*, defaults to `500`): Transitions in the model's context.
        label_smoothing (`float`, *optional*, defaults to `0.0`): Share of the target spread over all actions.
        token_masking (`float`, *optional*, defaults to `0.0`): Probability that a training token is hidden
            (Laskin et al. 2022, appendix J).
        embedding_dropout (`float`, *optional*, defaults to `0.0`): Dropout of the tokens that enter the decoder.
        temperature (`float`, *optional*, defaults to `1.0`): What an agent divides logits by when it samples, unless
            it is told otherwise.
        return_conditioned (`bool`, *optional*, defaults to `False`): Whether a step also says what is still to come
            of the episode's return, as in a Decision Transformer (Chen et al. 2021).
        target_return (`float`, *optional*): Return that an agent then asks for in every episode, unless it is told
            otherwise.
        environment (`str`, *optional*): Id of the environment that the model acts in.
        environment_kwargs (`dict`, *optional*): What else the environment is made with.
        test_tasks (`list[dict]` or `dict[str, list[dict]]`, *optional*): Tasks held out from training; by name, where
            they are drawn from several distributions.

    Raises:
        ValueError: If a value is out of its range.
    """

    model_type = "algodistill"
    sub_configs = {"text_config": AutoConfig}

    text_config: Any = None
    observation_sizes: list[int] = field(default_factory=lambda: [1])
    observation_numbers: int = 0
    action_sizes: list[int] = field(default_factory=lambda: [1])
    layout: str = "transition"
    context_length: int = 500
    label_smoothing: float = 0.0
    token_masking: float = 0.0
    embedding_dropout: float = 0.0
    temperature: float = 1.0
    return_conditioned: bool = False
    target_return: float | None = None
    initializer_range: float = 0.02
    environment: str | None = None
    environment_kwargs: dict[str, Any] | None = None
    test_tasks: list[dict[str, Any]] | dict[str, list[dict[str, Any]]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        decoder = {} if self.text_config is None else self.text_config
        if not isinstance(decoder, dict):
            decoder = decoder.to_dict()
        decoder = {**DEFAULT_DECODER, **decoder} if decoder.get("model_type", "qwen3") == "qwen3" else dict(decoder)
        # The decoder is fed embeddings: a table of words would only take memory, and special tokens mean nothing.
        decoder.update(vocab_size=1, pad_token_id=None, bos_token_id=None, eos_token_id=None)
        model_type = decoder.pop("model_type")
        self.text_config = AutoConfig.for_model(model_type, **decoder)
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is not known: choose one of {list(LAYOUTS)}.")
        if self.context_length < 1:
            raise ValueError(f"context_length={self.context_length} holds no step: expected at least 1.")
        tokens = self.context_length * self.tokens_per_step
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if positions is not None and tokens > positions:
            raise ValueError(
                f"context_length={self.context_length} makes {tokens} tokens, more than the decoder's "
                f"max_position_embeddings={positions}."
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} is out of range: expected a number above 0.")
        if self.target_return is not None and not math.isfinite(self.target_return):
            raise ValueError(f"target_return={self.target_return} is out of range: expected a finite number.")
        for name in ("observation_sizes", "action_sizes"):
            sizes = getattr(self, name)
            if min(sizes, default=0 if name == "action_sizes" else 1) < 1:
                raise ValueError(f"{name}={sizes} is out of range: expected numbers of values of at least 1.")
        if self.observation_numbers < 0:
            raise ValueError(
                f"observation_numbers={self.observation_numbers} is out of range: expected a number of at least 0."
            )
        if not self.observation_sizes and not self.observation_numbers:
            raise ValueError("observation_sizes=[] and observation_numbers=0 leave nothing to observe: give either.")
        for name in ("label_smoothing", "token_masking", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is out of range: expected a number from 0 to below 1.")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one environment step takes in the decoder."""
        return 1 if self.layout == "transition" else 3


# Rotary positions count tokens of one context; the default base of 10 000 spans far more than any context here.
DEFAULT_DECODER = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 8192,
}

AlgorithmDistillationConfig.register_for_auto_class()
