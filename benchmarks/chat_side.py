"""One side of benchmarks.chat: an answer by stage=chat's stream, or by transformers' generate with a streamer."""

import ctypes
import gc
import time
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from sides import Step, forget_peak, peak_above, resident, serve
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

from rlhf.modeling.generation import stream

WORDS = "The old oak by the river is taller than the elm on the hill, and its leaves fall later in the year. "


def prompt_of(tokenizer: Any, tokens: int) -> str:
    """Return a text of about ``tokens`` tokens."""
    ids = tokenizer(WORDS * (tokens // 8 + 1), add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids[:tokens])


def ours(model: Any, tokenizer: Any, text: str, tokens: int, first: list[float]) -> str:
    """Return the answer of stage=chat; note the CPU time of its first piece."""
    prompt: Any = text if tokenizer.chat_template is None else [{"role": "user", "content": text}]

    def show(piece: str) -> None:
        first.append(time.process_time())

    return stream(
        model, tokenizer, prompt, show, max_prompt_length=None, max_response_length=tokens, temperature=0.0, seed=0
    ).text.strip()


class Noting(TextIteratorStreamer):
    """A streamer that notes the CPU time of its first token, which it may keep until a word is complete."""

    def __init__(self, tokenizer: Any, first: list[float]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.first, self.reads_prompt = first, True

    def put(self, value: Any) -> None:
        """Take the prompt, then a token at a time."""
        if not self.reads_prompt:
            self.first.append(time.process_time())
        self.reads_prompt = False
        super().put(value)


def theirs(model: Any, tokenizer: Any, text: str, tokens: int, first: list[float]) -> str:
    """Return the answer of generate in a thread, read from its streamer."""
    if tokenizer.chat_template is None:
        inputs = tokenizer(text, return_tensors="pt")
    else:
        talk = [{"role": "user", "content": text}]
        inputs = tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_tensors="pt", return_dict=True, tokenize=True
        )
    streamer = Noting(tokenizer, first)
    options = {"max_new_tokens": tokens, "do_sample": False, "streamer": streamer}
    thread = Thread(target=model.generate, kwargs={**inputs, **options, "pad_token_id": tokenizer.pad_token_id})
    thread.start()
    found = "".join(streamer)
    thread.join()
    return found.strip()


def make(spec: dict[str, Any]) -> Step:
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    tokenizer.strings_are_turns = False
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    text = prompt_of(tokenizer, spec["prompt"])
    answer = {"ours": ours, "transformers": theirs}[spec["side"]]
    answer(model, tokenizer, "The", 2, [])  # the weights are in memory then

    def step(number: int) -> dict[str, Any]:
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # memory that the first answer has freed would hide what this one takes
        forget_peak()
        before, first, started = resident(), [], time.process_time()
        said = answer(model, tokenizer, text, spec["tokens"], first)
        taken = {"first": first[0] - started, "overhead": peak_above(before)}
        return taken | {"text": said, "samples": 1, "tokens": spec["tokens"], "name": Path(spec["model"]).name}

    return step


if __name__ == "__main__":
    serve(make)
