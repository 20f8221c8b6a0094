"""What several methods are made of."""

__all__ = ["class_transfer", "cuda_graph", "hard_examples", "worst_case"]
