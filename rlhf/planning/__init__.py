"""Memory and time of a stage on a machine, before it runs, and the remedy if it does not fit.

`activations` has the formulas of activation memory, `memory_estimate` sums memory by role and phase, `strategy` divides
it over GPUs, `workload` counts steps and tokens, `throughput` has the time per token, `remedies` tries changes of
settings, and `estimate` combines them.
"""
