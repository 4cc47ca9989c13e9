"""Stopping a training run by Ctrl-C without losing what it has reached."""

import signal
from typing import Any

from transformers import TrainerCallback


class SaveOnInterrupt(TrainerCallback):
    """On Ctrl-C, finish the step under way, save a checkpoint, and stop; on a second one, stop at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = signal.SIG_DFL

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, *args: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._previous)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGINT, self._previous)
