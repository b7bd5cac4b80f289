"""Models and tokenizers: loading, adapters, generation, log-probabilities."""
