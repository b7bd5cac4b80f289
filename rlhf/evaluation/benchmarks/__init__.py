"""Public benchmarks of reward models: their rows, their definitions and a report."""
