"""What several methods are made of."""

__all__ = ["checked_batches", "class_transfer", "cuda_graph", "hard_examples", "worst_case"]
