"""The model card of an exported network."""

from fairat_lightning.card.page import Facts, write
from fairat_lightning.card.records import Records, read_records
from fairat_lightning.card.tables import columns

__all__ = ["Facts", "Records", "columns", "read_records", "write"]
