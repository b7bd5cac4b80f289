"""Collection of preferences: pairs of sampled responses, the web pages of annotators and of the chat, verdicts."""
