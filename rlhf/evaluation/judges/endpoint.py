"""A judge behind an OpenAI-compatible endpoint: both orders, a cache on disk, and a count of its cost."""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from rlhf.config import Judge
from rlhf.config.library_errors import first_sentence
from rlhf.console import printable
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, TrainingError
from rlhf.evaluation.judges.judge import CHOICE, Form, asked, both_orders, consistency
from rlhf.rewards.bounded import bounded
from rlhf.rewards.spending import Spending

MOST_UNUSABLE = 0.2  # of the verdicts; above it the model cannot serve as a judge


class Reply(NamedTuple):
    """The text of a reply with the tokens that it cost; ``refused`` if the model or a content filter refused."""

    text: str
    prompt_tokens: int
    response_tokens: int
    refused: bool = False


class Cache:
    """Question -> reply in one SQLite file, written at once, so that no reply is paid for twice.

    A corrupted entry counts as ``damaged`` and is asked again.

    Raises (on any call):
        ConfigError: the file is not such a cache, is corrupted, or cannot be read or written.
    """

    def __init__(self, path: Path):
        self.path, self.damaged = path, 0
        self._lock = threading.Lock()
        with self._readable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, check_same_thread=False, timeout=60)
            self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            self._connection.commit()

    @contextmanager
    def _readable(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"judge.cache={self.path} cannot be used ({first_sentence(error)}): remove the file if it is damaged, "
                "or set another path"
            ) from error

    def get(self, key: str) -> Reply | None:
        """Return the reply to a question; None if it is not in the cache or corrupted."""
        with self._lock, self._readable():
            row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            text, *tokens = json.loads(row[0])
            if isinstance(text, str) and len(tokens) == 2:
                return Reply(text, int(tokens[0]), int(tokens[1]))
        except (ValueError, TypeError, RecursionError):
            pass
        self.damaged += 1
        return None

    def put(self, key: str, reply: Reply) -> None:
        """Write the reply to a question to disk."""
        with self._lock, self._readable(), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply[:3])))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class EndpointJudge:
    """The language model ``judge.model`` at ``judge.url``. The client repeats failed requests with exponential backoff.

    ``spending`` counts the questions; several judges of a run share it.

    Raises (on a call):
        TrainingError: the endpoint does not answer, refuses, or returns too few verdicts, or a budget of ``judge`` is
            spent; replies so far stay in the cache.
    """

    def __init__(self, judge: Judge, text: Template, spending: Spending | None = None):
        try:
            import httpx
            import openai
        except ImportError:
            raise ConfigError("judge=endpoint needs openai: pip install 'rlhf[judge]', or use judge=local") from None
        assert judge.url is not None  # both are checked by rlhf.config.Judge
        assert judge.model is not None
        # A local server usually works without a key, but the client requires one.
        key = os.environ.get(judge.key_variable) or ("none" if "api.openai.com" not in judge.url else None)
        if key is None:
            raise ConfigError(
                f"judge.key_variable={judge.key_variable} is not set in the environment: set it to the key"
            )
        self.judge, self.model, self.text, self.refusal = judge, judge.model, text, openai.OpenAIError
        self.client = openai.OpenAI(
            base_url=judge.url,
            api_key=key,
            timeout=judge.timeout,
            max_retries=judge.attempts - 1,
            http_client=bounded(httpx, openai.DefaultHttpxClient, judge.timeout)(timeout=judge.timeout),
        )
        self.cache = Cache(Path(judge.cache))
        self.spending = spending or Spending(judge)
        self.consistent: list[bool] = []

    def __call__(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        found = self.compare(prompts, firsts, seconds)
        missing = sum(value is None for value in found)
        self.spending.add(unusable=missing)
        if missing > MOST_UNUSABLE * len(found):
            raise self.useless(missing, len(found), "pairs", "A, B or TIE")
        return found

    def compare(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        """Return the preferences for the first responses, from both orders; None without a verdict."""
        pairs = list(zip(prompts, firsts, seconds, strict=True))
        questions = [asked(self.text, *pair) for pair in pairs]
        questions += [asked(self.text, prompt, second, first) for prompt, first, second in pairs]
        verdicts = self.ask(questions, CHOICE)
        forwards, backwards = verdicts[: len(pairs)], verdicts[len(pairs) :]
        for a, b in zip(forwards, backwards, strict=True):
            if a is not None and b is not None:
                self.consistent.append(a == 1 - b)
        return [both_orders(a, b) for a, b in zip(forwards, backwards, strict=True)]

    def ask(self, questions: Sequence[str], form: Form) -> list[float | None]:
        """Return the value of the reply to each question; None without one. Equal questions are asked once."""
        pool = ThreadPoolExecutor(self.judge.workers)
        distinct = list(dict.fromkeys(questions))
        try:
            values = dict(zip(distinct, pool.map(lambda text: self._ask(text, form.read), distinct), strict=True))
        except self.refusal as error:
            raise TrainingError(
                f"judge.url={self.judge.url} failed ({_reason(error)}): "
                "fix this and run again; replies so far are kept and are not paid for again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        return [values[text] for text in questions]

    def close(self) -> None:
        """Close the connections and the cache."""
        self.client.close()
        self.cache.close()

    def useless(self, missing: int, count: int, units: str, replies: str) -> TrainingError:
        """Return the error of a model that returned no verdict on ``missing`` of ``count`` pairs or responses."""
        malformed, refused, total = (self.spending[name] for name in ("malformed", "refused", "asked"))
        return TrainingError(
            f"judge.model={self.model} returned no verdict on {missing} of {count} {units} ({malformed:.0f} of "
            f"{total:.0f} replies were malformed, {refused:.0f} refused): it must answer {replies}; raise "
            f"judge.max_tokens={self.judge.max_tokens}, or set another model or judge.template"
        )

    def _ask(self, text: str, read: Callable[[str], float | None]) -> float | None:
        """Return the value of the reply to one question; None if it is refused, or after ``judge.attempts`` replies."""
        whole = json.dumps([self.judge.url, self.model, self.judge.max_tokens, text])
        key = hashlib.sha256(whole.encode()).hexdigest()
        reply = self.cache.get(key)
        if reply is not None:
            self.spending.add(cached=1)
            return read(reply.text)
        for _ in range(self.judge.attempts):
            self.spending.ask()
            reply = self._reply(text)
            self.spending.add(prompt_tokens=reply.prompt_tokens, response_tokens=reply.response_tokens)
            if (found := read(reply.text)) is not None:
                self.cache.put(key, reply)
                return found
            if reply.refused:  # the same question would be refused again
                self.spending.add(refused=1)
                break
        return None

    def _reply(self, text: str) -> Reply:
        """Ask once. A reply in another form than the API's counts as malformed; its readable parts are used."""
        answer: Any = None
        with suppress(ValueError, RecursionError):  # not JSON, or nested too deeply
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": text}],
                temperature=0.0,
                max_tokens=self.judge.max_tokens,
            )
        try:
            choice = answer.choices[0]
            content = choice.message.content
            refused = bool(choice.message.refusal) or choice.finish_reason == "content_filter"
        except (AttributeError, LookupError, TypeError):  # a server may reply with anything
            content, answer, refused = None, None, False
        usage = getattr(answer, "usage", None)
        tokens = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        counts = [count if isinstance(count, int) and count >= 0 else 0 for count in tokens]
        whole = answer is not None and isinstance(content, str | None)
        if not whole or any(count not in (None, kept) for count, kept in zip(tokens, counts, strict=True)):
            self.spending.add(malformed=1)
        return Reply(content if isinstance(content, str) else "", *counts, refused)

    def report(self) -> dict[str, float]:
        """Return the counts of questions, cached and malformed replies, lost verdicts and tokens, and the dollars."""
        return self.spending.report() | {"judge/damaged": float(self.cache.damaged)} | consistency(self.consistent)


def _reason(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    text = printable(" ".join(str(error).split()), 160)
    return text if status is None else f"{status}: {text}"
