"""Train and audit image classifiers that are adversarially robust for every class, not only on average."""

__version__ = "0.1.0"
