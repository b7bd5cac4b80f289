"""Code that loads a published model with transformers or PEFT only. Tests run this code unchanged."""

from rlhf.config import Weights

QUESTION = "Who won the World Cup?"
ANSWER = "Argentina won the FIFA World Cup in 2022."

LOAD = """\
from {library} import {model}{more}

name, revision = "{repo}", "{revision}"
tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
model = {model}.from_pretrained(name, revision=revision)
"""
ASK = """
messages = [{{"role": "user", "content": "{question}"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
"""
CONTINUE = """
inputs = tokenizer("{question}", return_tensors="pt")
"""
GENERATE = """\
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""
SCORE_TALK = """
messages = [{{"role": "user", "content": "{question}"}}, {{"role": "assistant", "content": "{answer}"}}]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
"""
SCORE_TEXT = """
inputs = tokenizer("{question} {answer}" + tokenizer.eos_token, return_tensors="pt")
"""
SCORE = """\
score = model(**inputs).logits[0, 0].item()
print(score, (score - model.config.score_mean) / model.config.score_std)
"""


def snippet(repo: str, revision: str, stage: str, weights: Weights, has_template: bool) -> str:
    """Return the code for a card."""
    classifier, adapter = stage == "reward", weights is Weights.adapter
    model = "AutoModelForSequenceClassification" if classifier else "AutoModelForCausalLM"
    load = LOAD
    if adapter:
        model, more, library = "AutoPeftModelForCausalLM", "\nfrom transformers import AutoTokenizer", "peft"
    else:
        more, library = ", AutoTokenizer", "transformers"
    if classifier:
        rest = (SCORE_TALK if has_template else SCORE_TEXT) + SCORE
    else:
        rest = (ASK if has_template and stage != "base" else CONTINUE) + GENERATE
    values = {"library": library, "model": model, "more": more, "repo": repo, "revision": revision}
    return (load + rest).format(**values, question=QUESTION, answer=ANSWER).rstrip()
