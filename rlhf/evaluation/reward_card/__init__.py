"""The reward model's report card."""
