"""The Trainer: HuggingFace's, with an in-context evaluation on tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..environments import Task
from ..evaluation import default_streams, rollout
from ..models import AlgorithmDistillationModel, HistoryTokeniser
from .arguments import AlgorithmDistillationTrainingArguments


class WindowCollator:
    """Makes a batch of windows into the model's inputs.

    Args:
        tokeniser ([`HistoryTokeniser`]): The tokeniser.
        token_masking (`float`, *optional*, defaults to `0.0`): Probability that a part of a step is hidden.
    """

    def __init__(self, tokeniser: HistoryTokeniser, token_masking: float = 0.0):
        self.tokeniser, self.token_masking = tokeniser, token_masking

    def __call__(self, windows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        return dict(self.tokeniser(windows, token_masking=self.token_masking))


class AlgorithmDistillationTrainer(Trainer):
    """A `Trainer` whose evaluation also lets the model learn tasks in its context.

    Its metrics gain `eval_in_context_return`, the mean return over tasks of the last tenth of the in-context episodes,
    and `eval_in_context_first_return`, that of the first episode. They are logged, and may be named in
    `metric_for_best_model`.

    Args:
        model ([`AlgorithmDistillationModel`]): The model.
        args ([`AlgorithmDistillationTrainingArguments`]): Training arguments.
        processing_class ([`HistoryTokeniser`]): The tokeniser; it is saved with every checkpoint.
        train_dataset ([`HistoryWindows`]): The windows to train on.
        eval_dataset ([`HistoryWindows`], *optional*): Windows to compute the evaluation loss on.
        eval_tasks (`Sequence[dict]`, *optional*): Tasks to learn in context when evaluating: of the training or
            validation tasks.
        kwargs: As for `Trainer`.
    """

    args: AlgorithmDistillationTrainingArguments

    def __init__(
        self,
        model: AlgorithmDistillationModel,
        args: AlgorithmDistillationTrainingArguments,
        *,
        processing_class: HistoryTokeniser,
        eval_tasks: Sequence[Task] | None = None,
        **kwargs: Any,
    ):
        self.eval_tasks = list(eval_tasks or [])
        self.tokeniser = processing_class
        kwargs.setdefault("data_collator", WindowCollator(processing_class, model.config.token_masking))
        super().__init__(model, args, processing_class=processing_class, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        if self.eval_tasks:
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._in_context_metrics().items()}
            output = output._replace(metrics={**(output.metrics or {}), **metrics})
        return output

    def _in_context_metrics(self) -> dict[str, float]:
        """Returns in context, every process acting in its share of the streams of each task."""
        model, args = self.accelerator.unwrap_model(self.model, keep_torch_compile=False), self.args
        processes, rank = args.world_size, args.process_index
        streams = args.eval_streams or default_streams(len(self.eval_tasks))
        per_process = max(streams // len(self.eval_tasks) // processes, 1) * len(self.eval_tasks)
        was_training = model.training
        returns, _ = rollout(
            model,
            self.tokeniser,
            model.config.environment,
            self.eval_tasks,
            episodes=args.eval_episodes,
            streams=per_process,
            environment_kwargs=model.config.environment_kwargs,
            seed=args.seed + 1_000_003 * rank,
        )
        model.train(was_training)
        per_task = torch.tensor(returns.mean(axis=1), device=args.device, dtype=torch.float32)[None]
        curve = self.accelerator.gather(per_task).mean(dim=(0, 1)).cpu().numpy()
        last = max(len(curve) // 10, 1)
        return {
            "in_context_return": float(np.mean(curve[-last:])),
            "in_context_first_return": float(curve[0]),
        }

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is written with the evaluation; the one that `Trainer` would write knows nothing of it."""
