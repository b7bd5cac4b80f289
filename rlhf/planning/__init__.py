"""What a stage will take of memory and time on a machine, before it runs, and the remedy where it does not fit.

`activations` has what a forward pass leaves behind, `ledger` adds up who holds what and when, `strategy` divides it
over GPUs, `work` counts steps and tokens, `pace` says how long a token takes, `remedies` tries what would help, and
`outlook` puts them together.
"""
