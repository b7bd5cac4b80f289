"""Sample and score responses to held-out prompts."""
