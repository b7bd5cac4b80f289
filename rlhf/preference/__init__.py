"""Preference pairs: the losses of a reward model, and the report card that says what it has learned."""
