"""The Hugging Face Hub: parents and data read from it at a pinned commit, finished runs put on it.

pinned.py     a model or a data set at a commit, and the run.json that lies there
faults.py     what the Hub and the network refuse, in one sentence
lineage.py    a run and everything that it descends from, here and on the Hub
licenses.py   the licenses of all that, and where they contradict each other
scrub.py      secrets, paths and names of this machine taken out, and looked for again
figure.py     the reward against the divergence, drawn
sections.py   the card's tables; snippets.py its code; card.md.jinja its page
card.py       the model card
bundle.py     the folder that goes up: weights, tokenizer, card, run.json, figures, and nothing else
upload.py     the folder put on the Hub: once, whole, and never over somebody else's commit
verify.py     fetched back into an empty cache: the same weights, logits, scores and text
"""
