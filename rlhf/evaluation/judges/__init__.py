"""Judges of responses: functions, reward models and language models."""
