"""Agents that were trained elsewhere: read within bounds, and described on a card."""
