"""`python -m snn_rl`: the command line."""

from snn_rl.cli import main

main()
