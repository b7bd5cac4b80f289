"""Collection of preferences: pairs of sampled responses, the web page of the annotators, and their answers."""
