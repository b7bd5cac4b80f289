"""Devices, memory, precision, and the processes that share them."""
