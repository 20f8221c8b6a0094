"""Judging a classifier: attacks, the suites that they make up, and a journal from which an evaluation goes on."""

__all__ = ["attacks", "audit", "autoattack", "corruptions", "progress", "run", "sanity", "suites"]
