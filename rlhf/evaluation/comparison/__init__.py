"""Compare the stages of a chain."""
