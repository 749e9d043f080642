"""Deep Q-learning: replay, roll-outs, targets, losses, one stage's training."""
