"""The report of a run: its records read, figures, one page."""
