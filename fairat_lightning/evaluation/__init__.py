"""Evaluation of a classifier: attacks, the suites made of them, and a journal from which an evaluation continues."""

__all__ = ["attacks", "audit", "autoattack", "corruptions", "progress", "run", "sanity", "suites"]
