"""An agent at play, as a person watches it."""
