"""The Hugging Face Hub: models and data sets at pinned commits, and its errors explained.

pinned.py      a model or a data set at one commit, and its run.json
faults.py      errors of the Hub and the network, as one-line messages
telemetry.py   usage statistics of the libraries, off by default
"""
