"""Ways to end a run early, as callbacks for the command line."""

import os
import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer


class SignalAt(Callback):
    """Sends a signal to its own process when training has come to a batch, before the batch is worked on."""

    def __init__(self, signal_number: int, epoch: int, batch: int) -> None:
        self.signal_number, self.when = signal_number, (epoch, batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.when:
            os.kill(os.getpid(), signal.Signals(self.signal_number))


class SignalInValidation(Callback):
    """Sends a signal to its own process when the first validation has come to its first batch."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.sent = False

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.Signals(self.signal_number))


class SignalInTest(SignalInValidation):
    """The same of the test."""

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.on_validation_batch_start(trainer, pl_module)
