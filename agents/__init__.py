"""Deep Q-learning agents with spiking networks: learner, evaluation, saved agents."""
