"""Evaluation of a classifier: attacks, the suites made of them, and a journal from which an evaluation continues."""
