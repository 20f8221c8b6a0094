"""A trained network as a folder that needs neither this package nor Lightning, with its model card."""

__all__ = ["card_records", "card_tables", "export", "folder", "model_card", "source"]
