"""Judges of responses: gold functions, reward models, language models, people."""
