"""The Algorithm Distillation model: a decoder that predicts the next action of a learning history."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, Cache, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, ModelOutput, cached_file

from .agent_algodistill import AlgorithmDistillationAgent
from .configuration_algodistill import AlgorithmDistillationConfig


@dataclass
class AlgorithmDistillationOutput(ModelOutput):
    """Output of an [`AlgorithmDistillationModel`].

    Attributes:
        loss (`torch.Tensor` of shape `()`, *optional*): Cross-entropy of the next actions, if labels were given.
        logits (`torch.Tensor` of shape `(batch, steps, sum of action sizes)`): Scores of the next actions, one after
            the other for each dimension of the action.
        past_key_values (`Cache`, *optional*): The decoder's cache.
        hidden_states (`tuple[torch.Tensor]`, *optional*): The decoder's, `(batch, tokens, hidden)` each.
        attentions (`tuple[torch.Tensor]`, *optional*): The decoder's, `(batch, heads, tokens, tokens)` each.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class StepEmbedding(nn.Module):
    """Embeds steps (previous action, previous reward, observation, episode start) as the decoder's tokens.

    Every dimension of an observation or action has ids of its own, and their embeddings are summed. Dimensions of an
    observation that are numbers are projected, and added to that sum; so is what is still to come of the episode's
    return, if the model is conditioned on that.
    """

    def __init__(self, config: AlgorithmDistillationConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        if config.observation_sizes:
            self.observation = nn.Embedding(sum(config.observation_sizes), hidden_size)
        if config.observation_numbers:
            self.observation_values = nn.Linear(config.observation_numbers, hidden_size)
        if config.return_conditioned:
            self.return_to_go = nn.Linear(1, hidden_size)
        # Every action dimension has one more: that there was no action yet.
        self.action = nn.Embedding(sum(config.action_sizes) + len(config.action_sizes), hidden_size)
        self.reward = nn.Linear(1, hidden_size)
        self.episode_start = nn.Embedding(2, hidden_size)
        # What stands in place of a hidden part: previous action, previous reward, observation.
        self.hidden_part = nn.Embedding(3, hidden_size)
        # Without masking nothing is ever hidden, and a table that gets no gradient is to be frozen.
        self.hidden_part.requires_grad_(config.token_masking > 0)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layout = config.layout
        self.observation_sizes, self.observation_numbers = config.observation_sizes, config.observation_numbers
        self.return_conditioned = config.return_conditioned

    def forward(
        self,
        observations: torch.Tensor,
        previous_actions: torch.Tensor,
        previous_rewards: torch.Tensor,
        episode_starts: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        observation_values: torch.Tensor | None = None,
        returns_to_go: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens of shape `(batch, steps * tokens per step, hidden)`."""
        seen = self.episode_start(episode_starts)
        if self.observation_sizes:
            seen = self.observation(observations).sum(dim=-2) + seen
        if (observation_values is not None) != bool(self.observation_numbers):
            raise ValueError(
                f"observation_values were{'' if observation_values is not None else ' not'} given: the model reads "
                f"{self.observation_numbers} numbers a step."
            )
        if observation_values is not None:
            seen = seen + self.observation_values(observation_values.to(self.observation_values.weight.dtype))
        if (returns_to_go is not None) != self.return_conditioned:
            raise ValueError(
                f"returns_to_go were{'' if returns_to_go is not None else ' not'} given: the model is"
                f"{'' if self.return_conditioned else ' not'} conditioned on returns."
            )
        if returns_to_go is not None:
            seen = seen + self.return_to_go(returns_to_go[..., None].to(self.return_to_go.weight.dtype))
        rewards = previous_rewards[..., None].to(self.reward.weight.dtype)
        parts = [
            self.action(previous_actions).sum(dim=-2),
            self.reward(rewards),
            seen,
        ]
        if token_mask is not None:
            parts = [
                torch.where(token_mask[..., index, None], self.hidden_part.weight[index], part)
                for index, part in enumerate(parts)
            ]
        if self.layout == "transition":
            tokens = parts[0] + parts[1] + parts[2]
        else:
            tokens = torch.stack(parts, dim=-2).flatten(1, 2)
        return self.dropout(tokens)


class AlgorithmDistillationModel(PreTrainedModel):
    """A causal decoder over the steps of a learning history, with a head that predicts the action of each step.

    The source is Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation", equation 6: the
    negative log-likelihood of every action of a history, given all that came before it.
    """

    config: AlgorithmDistillationConfig
    base_model_prefix = "algodistill"
    main_input_name = "observations"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: AlgorithmDistillationConfig):
        super().__init__(config)
        self.embedding = StepEmbedding(config)
        self.decoder = AutoModel.from_config(config.text_config)
        # Embeddings go in, never words: a table that gets no gradient would make DistributedDataParallel wait for it.
        self.decoder.get_input_embeddings().requires_grad_(False)
        self.action_head = nn.Linear(config.text_config.hidden_size, sum(config.action_sizes))
        # State-space decoders name their cache otherwise.
        parameters = inspect.signature(self.decoder.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in parameters else "cache_params"
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: for custom code, `from_pretrained` leaves out the decoder's own filling of its buffers."""
        return False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As for any `PreTrainedModel`, but from safetensors alone: whatever else holds weights is unpickled.

        Raises:
            OSError: If there are no weights in safetensors.
            ValueError: If the weights are said to lie in files of another kind.
        """
        if pretrained_model_name_or_path is not None:
            places = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
            place = {name: kwargs[name] for name in places if kwargs.get(name) is not None}
            missing_is_fine = {
                "_raise_exceptions_for_missing_entries": False,
                "_raise_exceptions_for_gated_repo": False,
            }
            index = cached_file(pretrained_model_name_or_path, SAFE_WEIGHTS_INDEX_NAME, **place, **missing_is_fine)
            shards = set(json.loads(Path(index).read_text())["weight_map"].values()) if index else set()
            if others := sorted(shard for shard in shards if not str(shard).endswith(".safetensors")):
                raise ValueError(f"{pretrained_model_name_or_path} has weights in {others[0]}: expected safetensors.")
        return super().from_pretrained(pretrained_model_name_or_path, *args, **{**kwargs, "use_safetensors": True})

    def forward(
        self,
        observations: torch.Tensor,
        previous_actions: torch.Tensor,
        previous_rewards: torch.Tensor,
        episode_starts: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        steps_to_keep: int = 0,
        num_items_in_batch: int | torch.Tensor | None = None,
        return_dict: bool | None = None,
        observation_values: torch.Tensor | None = None,
        returns_to_go: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> AlgorithmDistillationOutput | tuple[torch.Tensor, ...]:
        """Predict the actions of a batch of windows, as [`HistoryTokeniser`] encodes them.

        Args:
            observations (`torch.LongTensor` of shape `(batch, steps, observation dimensions)`): Ids; none, if all
                observations are numbers.
            previous_actions (`torch.LongTensor` of shape `(batch, steps, action dimensions)`): Ids.
            previous_rewards (`torch.Tensor` of shape `(batch, steps)`): Rewards, as the tokeniser scales them.
            episode_starts (`torch.LongTensor` of shape `(batch, steps)`): 1 where an episode starts, else 0.
            attention_mask (`torch.Tensor` of shape `(batch, steps)`, *optional*): 0 on padding. With a cache, of the
                shape `(batch, cached steps + steps)`.
            token_mask (`torch.BoolTensor` of shape `(batch, steps, 3)`, *optional*): True where the previous action,
                the previous reward or the observation is hidden.
            labels (`torch.LongTensor` of shape `(batch, steps, action dimensions)`, *optional*): The actions taken;
                -100 is passed over.
            past_key_values (`Cache`, *optional*): The decoder's cache of the steps before these.
            use_cache (`bool`, *optional*): Whether to return the cache.
            steps_to_keep (`int`, *optional*, defaults to `0`): Compute logits of so many last steps only; 0 is all.
            num_items_in_batch (`int`, *optional*): Labels over all batches that share an optimiser step, which the
                loss is then divided by; without it, those given here are counted.
            return_dict (`bool`, *optional*): Whether to return an output object rather than a tuple.
            observation_values (`torch.Tensor` of shape `(batch, steps, observation numbers)`, *optional*): The
                dimensions of observations that are numbers, if there are any.
            returns_to_go (`torch.Tensor` of shape `(batch, steps)`, *optional*): What is still to come of the
                episode's return, as the tokeniser scales it, if the model is conditioned on that.
        """
        tokens = self.embedding(
            observations,
            previous_actions,
            previous_rewards,
            episode_starts,
            token_mask,
            observation_values,
            returns_to_go,
        )
        tokens_per_step = self.config.tokens_per_step
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(tokens_per_step, dim=1)
        if past_key_values is not None:
            kwargs[self._cache_name] = past_key_values
        outputs = self.decoder(
            inputs_embeds=tokens, attention_mask=attention_mask, use_cache=use_cache, return_dict=True, **kwargs
        )
        # A step's action is predicted where its observation, the last of its tokens, has been read.
        hidden = outputs.last_hidden_state[:, tokens_per_step - 1 :: tokens_per_step]
        logits = self.action_head(hidden[:, -steps_to_keep:])
        result = AlgorithmDistillationOutput(
            loss=None if labels is None else self._loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=outputs.get(self._cache_name),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )
        return result if return_dict or (return_dict is None and self.config.return_dict) else result.to_tuple()

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: int | torch.Tensor | None
    ) -> torch.Tensor:
        """Mean cross-entropy over all labels, in float32."""
        total = logits.new_zeros((), dtype=torch.float32)
        for index, scores in enumerate(logits.float().split(self.config.action_sizes, dim=-1)):
            total = total + F.cross_entropy(
                scores.flatten(0, 1),
                labels[..., index].flatten(),
                reduction="sum",
                label_smoothing=self.config.label_smoothing if self.training else 0.0,
            )
        return total / (num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum())

    def agent(self, tokeniser: Any, num_envs: int, **kwargs: Any) -> AlgorithmDistillationAgent:
        """An agent that acts with this model, its weights frozen, in `num_envs` environments at once.

        Args:
            tokeniser ([`HistoryTokeniser`]): The checkpoint's tokeniser.
            num_envs (`int`): Number of environments, each a stream with a context of its own.
            kwargs: As for [`AlgorithmDistillationAgent`].
        """
        return AlgorithmDistillationAgent(self, tokeniser, num_envs, **kwargs)


AlgorithmDistillationModel.register_for_auto_class("AutoModel")
