"""A trained network as a folder that needs neither this package nor Lightning, with its model card."""
