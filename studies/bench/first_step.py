"""A callback that ends the process where the first training step would begin, so that its start-up can be timed."""

import os

from lightning.pytorch.callbacks import Callback


class FirstStep(Callback):
    def on_train_batch_start(self, *_: object) -> None:
        os._exit(0)
