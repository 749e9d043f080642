"""What a spiking network is: neuron, scan over time, layer graph, weight grid."""
