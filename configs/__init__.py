"""YAML presets of the training runs, shipped with the package."""
