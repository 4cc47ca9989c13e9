"""Everything a job can be told, as dataclasses: the keys of a preset and the options of the command line."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy


class JsonMapping(dict[str, Any]):
    """A mapping that may come as JSON from the command line."""

    def __init__(self, value: str | Mapping[str, Any] | Iterable[tuple[str, Any]] = ()):
        super().__init__(json.loads(value) if isinstance(value, str) else value)


@dataclass
class HistoryArguments:
    """Which learning histories to learn from: those of a dataset, or those that are collected as said here."""

    _argument_group_name = "histories"

    environment: str = field(metadata={"help": "Gymnasium id of the environment."})
    environment_kwargs: JsonMapping = field(
        default_factory=JsonMapping,
        metadata={"help": "What else the environment is made with (a mapping; JSON on the command line)."},
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Learning histories to train on: a folder or a Hub id. Without it they are collected first."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Leave the dataset where it is and read it as a stream, without downloading it first."},
    )
    tasks: JsonMapping | None = field(
        default=None,
        metadata={
            "help": "The tasks, where the environment does not bring its own: {'list': [...]} or {'sample': {...}} (a "
            "mapping; JSON on the command line). A task is what gymnasium.make is given ('kwargs'), reset "
            "('options') or the environment's set_task ('set_task')."
        },
    )
    split_seed: int = field(default=1, metadata={"help": "Seed of the division of the tasks."})
    train_tasks: int = field(default=1, metadata={"help": "Number of tasks to train on."})
    validation_tasks: int = field(default=0, metadata={"help": "Number of tasks to tune on."})
    test_tasks: int | None = field(
        default=None, metadata={"help": "Number of tasks to hold out; by default all that remain."}
    )
    source: str = field(default="q_learning", metadata={"help": "Source algorithm to record."})
    source_kwargs: JsonMapping = field(
        default_factory=JsonMapping, metadata={"help": "Its settings (a mapping; JSON on the command line)."}
    )
    learners_per_task: int = field(default=1, metadata={"help": "Independent learners on each task."})
    episodes: int = field(default=100, metadata={"help": "Episodes in each history."})
    collect_seed: int = field(default=0, metadata={"help": "Seed of collecting."})


@dataclass
class WindowArguments:
    """Which windows of the histories the model is trained on."""

    _argument_group_name = "windows"

    recipe: str = field(
        default="ad",
        metadata={
            "help": "What is distilled: 'ad' how a learner learns, 'ed' only experts' episodes, 'gato' these, and "
            "evaluated after an expert's demonstration, 'return_conditioned' any episode, given its return."
        },
    )
    max_tasks: int | None = field(
        default=None, metadata={"help": "Keep the histories of so many training tasks only; of all by default."}
    )
    episode_stride: int = field(default=1, metadata={"help": "Keep every k-th episode of a history."})
    first_episode: int = field(default=0, metadata={"help": "First episode to keep."})
    last_episode: int | None = field(
        default=None, metadata={"help": "Last episode to keep; the history's by default."}
    )
    expert_share: float = field(
        default=0.25,
        metadata={"help": "Share of a history's episodes that are an expert's: the last ones ('ed', 'gato')."},
    )
    expert_quantile: float | None = field(
        default=None,
        metadata={"help": "Instead, all episodes that returned at least this quantile of their history's returns."},
    )
    start_share: float = field(
        default=0.25, metadata={"help": "Share of the windows that start at their history's beginning."}
    )


@dataclass
class ModelArguments:
    """The model, if none is loaded."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or a Hub id. It brings its own settings."}
    )
    decoder: JsonMapping = field(
        default_factory=JsonMapping,
        metadata={
            "help": "Decoder: its model_type and its configuration (a mapping; JSON on the command line). By default "
            "a 4-layer, 64-wide qwen3."
        },
    )
    layout: str = field(
        default="transition",
        metadata={"help": "Tokens of a step: 'transition' makes one, 'interleaved' makes three."},
    )
    context_length: int = field(default=500, metadata={"help": "Transitions in the model's context."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of the target spread over all actions."})
    token_masking: float = field(
        default=0.0, metadata={"help": "Probability that a part of a training step is hidden."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "What an agent divides the logits by when it samples actions."}
    )
    target_return: float | None = field(
        default=None,
        metadata={
            "help": "Return that a return-conditioned agent asks for; by default what experts' episodes return "
            "(--expert_share) in the mean over the histories."
        },
    )
    embedding_dropout: float = field(default=0.0, metadata={"help": "Dropout of the tokens that enter the decoder."})
    observation_bins: int | None = field(
        default=None,
        metadata={"help": "Bins of each dimension of continuous observations; by default they are read as numbers."},
    )
    action_bins: int = field(default=21, metadata={"help": "Bins of each dimension of continuous actions."})
    action_binning: str = field(
        default="uniform",
        metadata={"help": "'uniform' spaces these equally, 'mu_law' more closely near the middle of the range."},
    )


@dataclass
class EvaluationArguments:
    """The evaluation on held-out tasks that ends a run."""

    _argument_group_name = "evaluation on held-out tasks"

    test_episodes: int = field(default=100, metadata={"help": "In-context episodes of every stream."})
    test_streams: int | None = field(
        default=None,
        metadata={"help": "Streams, a multiple of the test tasks; by default the smallest that is at least 64."},
    )
    test_seed: int = field(default=0, metadata={"help": "Seed of environments and actions."})
    action_selection: str = field(
        default="sample",
        metadata={"help": "'sample' draws actions by their probability, 'greedy' takes the likeliest."},
    )
    prompt_quantile: float | None = field(
        default=None,
        metadata={
            "help": "Start every context with episodes of the task's own source history that do so well: 0 is random, "
            "1 is optimal. By default contexts start empty; with the recipe 'gato' it is 1."
        },
    )


@dataclass
class AlgorithmDistillationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the in-context evaluation during training, and defaults that suit learning histories.

    Args:
        eval_episodes (`int`, *optional*, defaults to `40`): In-context episodes of an evaluation during training.
        eval_streams (`int`, *optional*): Its streams, a multiple of the tasks; by default the smallest of at least 64.
    """

    _argument_group_name = "training (all of transformers.TrainingArguments)"

    eval_episodes: int = field(default=40, metadata={"help": "In-context episodes of an evaluation during training."})
    eval_streams: int | None = field(
        default=None,
        metadata={"help": "Streams of such an evaluation, a multiple of its tasks; by default at least 64."},
    )
    # Windows hold more than the model's inputs; the tokeniser takes what it needs.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Windows hold more than the model's inputs: keep this off."}
    )
    adam_beta2: float = field(default=0.99, metadata={"help": "Beta2 of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Drop the last batch of an epoch if it is smaller than the others."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Names of the labels among the model's inputs."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.push_to_hub and self.hub_strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            strategy = HubStrategy(self.hub_strategy).value
            raise ValueError(
                f"hub_strategy={strategy!r} would publish optimiser states, which are pickles: choose 'every_save' or "
                "'end'."
            )
        # Pinned memory speeds up copies to a GPU; without one it only draws a warning.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
