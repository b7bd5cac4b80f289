"""Preferences collected: pairs of sampled responses, the answers of those who compare them, and a page to do it on."""
