"""One training, from its parts to its record."""

__all__ = ["balance", "callbacks", "catastrophic_overfitting", "nonfinite", "optuna_trial", "run", "trainer", "wandb"]
