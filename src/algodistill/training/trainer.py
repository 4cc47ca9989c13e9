"""The Trainer: HuggingFace's, with an in-context evaluation on tasks."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub import HfApi
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, HubStrategy
from transformers.utils import PushInProgress

from ..environments import Task
from ..evaluation import default_streams, make_prompts, rollout
from ..histories import HistoryWindows, StreamedHistoryWindows
from ..hub import SETTINGS_FILE, Publication, model_files, plain_errors, publish
from ..models import AlgorithmDistillationModel, HistoryTokeniser
from ..outcomes import HubUnavailable
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


class DrawWindows(TrainerCallback):
    """Draws other windows in every epoch. On the way through accelerate, the number of the epoch does not reach the
    windows of an epoch that is continued in its middle, nor those that several processes share."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        if isinstance(train_dataloader.dataset, HistoryWindows):
            train_dataloader.dataset.set_epoch(int(state.epoch))


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
        eval_prompts (`tuple[datasets.Dataset, float]`, *optional*): Learning histories of these tasks, and how well
            those of their episodes do, from 0 (random behaviour) to 1 (optimal), that contexts then start with.
        kwargs: As for `Trainer`.
    """

    args: AlgorithmDistillationTrainingArguments
    push_in_progress: Any

    def __init__(
        self,
        model: AlgorithmDistillationModel,
        args: AlgorithmDistillationTrainingArguments,
        *,
        processing_class: HistoryTokeniser,
        eval_tasks: Sequence[Task] | None = None,
        eval_prompts: tuple[datasets.Dataset, float] | None = None,
        **kwargs: Any,
    ):
        self.eval_tasks, self.eval_prompts = list(eval_tasks or []), eval_prompts
        self.tokeniser = processing_class
        # Taken out of the arguments, which are saved with every checkpoint.
        self._hub_token, args.hub_token = args.hub_token, None
        # What it runs in the background, it runs one after the other.
        self._hub = HfApi()
        kwargs.setdefault("data_collator", WindowCollator(processing_class, model.config.token_masking))
        super().__init__(model, args, processing_class=processing_class, **kwargs)
        self.add_callback(DrawWindows())

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
        prompts = None
        if self.eval_prompts is not None:
            prompts, _ = make_prompts(
                self.eval_prompts[0],
                model.config.environment,
                model.config.environment_kwargs or {},
                self.eval_tasks,
                quantile=self.eval_prompts[1],
                streams=per_process,
                context_length=model.config.context_length,
                returns_to_go=model.config.return_conditioned,
            )
        was_training = model.training
        returns, _ = rollout(
            model,
            self.tokeniser,
            model.config.environment,
            self.eval_tasks,
            episodes=args.eval_episodes,
            streams=per_process,
            environment_kwargs=model.config.environment_kwargs,
            prompts=prompts,
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

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, StreamedHistoryWindows):
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        # Every process reads a part of its own already: accelerate, told of one process, does not divide it again.
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        with plain_errors(name, "Nothing has been trained; run the same command again to continue."):
            super().init_hf_repo(token=token or self._hub_token, private=private)
            if self.is_world_process_zero():
                # A repository that is there already is found whether or not one may write to it.
                self._hub.auth_check(str(self.hub_model_id), write=True, token=token or self._hub_token)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish a checkpoint that has just been saved, while the training goes on."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done() and not self.args.hub_always_push:
            return
        # A copy: the checkpoint may be deleted for a newer one before it has been uploaded.
        copy = tempfile.TemporaryDirectory(prefix="algodistill-push-")
        for file in [*model_files(Path(checkpoint_folder)), *Path(str(self.args.output_dir)).glob(SETTINGS_FILE)]:
            shutil.copy(file, copy.name)
        job = self._hub.run_as_future(self._publish, copy.name, f"Training in progress, step {self.state.global_step}")
        job.add_done_callback(lambda job: _report_push(job, copy))
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress()  # a list of jobs that `Trainer` waits for
        self.push_in_progress.jobs.append(job)

    def _publish(self, folder: str | Path, message: str | None = None, **kwargs: Any) -> Publication:
        return publish(
            folder,
            self.hub_model_id or str(self.args.hub_model_id),
            private=bool(self.args.hub_private_repo),
            revision=self.args.hub_revision,
            **{"token": self._hub_token, "message": message, **kwargs},
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save model and tokeniser, and publish the run's folder with its card, as [`publish`] does.

        Args:
            commit_message (`str`, *optional*): Title of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait for the end of the upload.
            token (`str`, *optional*): Token of the Hub; by default the arguments', or the one that is logged in.
            revision (`str`, *optional*): Branch; by default the arguments'.
            private (`bool`, *optional*): Whether a repository that is created is private; by default the arguments'.

        Returns:
            [`Publication`], or a `Future` of it if `blocking` is false; `None` on all processes but the first.

        Raises:
            ValueError: If the Hub refuses.
            HubUnavailable: If it cannot be reached, or fails.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        chosen = {"token": token, "revision": revision, "private": private, **kwargs}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if blocking:
            return self._publish(str(self.args.output_dir), commit_message, **chosen)
        return self._hub.run_as_future(self._publish, str(self.args.output_dir), commit_message, **chosen)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is written with the evaluation; the one that `Trainer` would write knows nothing of it."""


def _report_push(job: Future, copy: tempfile.TemporaryDirectory) -> None:
    """A push that failed does not stop the training: the next one brings everything."""
    copy.cleanup()
    if error := job.exception():
        reason = error.failure if isinstance(error, HubUnavailable) else error
        logging.getLogger(__name__).warning("A checkpoint could not be published; training goes on. %s", reason)
