"""Statements of a model card about each stage: intended use, limitations, and the types of its metrics on the Hub."""

USES = {
    "base": "It continues text and was not trained on turns of a chat. Later stages start from it.",
    "sft": "It responds in the style of its demonstrations. Later stages are compared with it.",
    "reward": "It scores responses, for training and for choosing among samples. Only differences between scores of "
    "the same reward model are meaningful.",
    "dpo": "It responds in the style that its preference pairs prefer: for research into alignment, and for assistance "
    "like that in its data.",
    "kto": "It responds in the style of the responses that were labeled as desirable: for research into alignment, and "
    "for assistance like that in its data.",
    "ppo": "It responds in the style that its reward model scores highly: for research into alignment, and for "
    "assistance like that in its data.",
    "merge": "It is an average of the weights of other policies, and is used like them.",
} | dict.fromkeys(
    ("online_dpo", "raft"),
    "It responds in the style that its reward or judge prefers among its own responses: for research into alignment, "
    "and for assistance like that in its data.",
)
LIMITS = {
    "base": ["It was not trained to respond to instructions, to refuse or to stop."],
    "sft": ["It imitates its demonstrations, including their mistakes."],
    "reward": [
        "It is a learned proxy: optimizing a policy too far against it makes the policy worse (https://arxiv.org/abs/2210.10760).",
        "Its scores are unreliable outside the distribution of its training prompts and responses.",
    ],
    "dpo": ["It has the knowledge of the model that it started from; preferences change which responses it prefers."],
    "kto": ["It has the knowledge of the model that it started from; labels change which responses it prefers."],
    "ppo": [
        "It has the knowledge of the model that it started from; the reward changes which responses it prefers.",
        "Its reward model is a learned proxy, and responses that the proxy overrates are overrepresented.",
    ],
    "merge": ["It was not trained: it has the knowledge and the faults of the models that were averaged."],
}
LIMITS["online_dpo"] = LIMITS["raft"] = [
    "It has the knowledge of the model that it started from; the scores change which responses it prefers.",
    "Responses that its reward or judge overrates are overrepresented.",
]
# Metric in run.json -> its type on the Hub.
TYPES = {
    "eval/loss": "loss", "eval/mean_token_accuracy": "accuracy", "eval/rewards/accuracies": "accuracy",
    "test/accuracy": "accuracy", "test/ece": "ece", "eval/rewards/margins": "margin", "objective/scores": "reward",
    "objective/kl": "kl", "gold": "reward", "score": "reward",
    "kl": "kl", "win_rate": "win rate", "rounds": "rounds",
}  # fmt: skip
EVERY_LIMIT = (
    "It can be wrong, offensive or biased, like its data and its initial model: check before relying on it.",
    "It was not tested for any use in which a mistake causes harm.",
)
