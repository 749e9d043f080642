"""Event-driven execution of saved spiking networks, without torch.

A saved network is lowered to a plan (flat arrays of few primitives); a compiled function runs any
plan, a NumPy interpreter of the same plan is what it is tested against.
"""
