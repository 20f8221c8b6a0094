"""One training, from its parts to its record."""

__all__ = ["balance", "callbacks", "catastrophic_overfitting", "logged", "nonfinite", "optuna_trial", "run", "trainer", "wandb"]
