"""Training on preference pairs: shared prefixes, losses of reward models, log-probabilities of the reference."""
