"""The stage contract: a run's directory, its run.json, its parents."""
