"""How fast agents train, beside others."""
