"""Agents from elsewhere and for elsewhere: what `snn_rl.exchange` reads and writes, as agents."""
