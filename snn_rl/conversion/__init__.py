"""From an ANN to a spiking network, and to a smaller one: fewer timesteps, fewer weights."""
