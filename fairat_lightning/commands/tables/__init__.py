"""The papers' tables: their rows and budgets as data (*.yaml), and how they are run and evaluated."""
