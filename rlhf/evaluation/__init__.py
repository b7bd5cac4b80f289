"""Metrics, judges, the comparison of stages on held-out prompts, and the reward model's report card."""
