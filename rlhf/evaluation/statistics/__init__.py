"""Metrics, intervals and calibration."""
