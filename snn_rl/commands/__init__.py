"""The commands of `snn-rl`, assembled in snn_rl.cli."""
