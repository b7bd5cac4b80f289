"""What training changed, measured: the same held-out prompts through every stage."""
