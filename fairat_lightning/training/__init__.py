"""One training, from its parts to its record."""
