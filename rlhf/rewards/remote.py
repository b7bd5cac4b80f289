"""A reward behind HTTP, in a separate process, on another machine, or in another language.

    POST url  {"prompts": [...], "completions": [...]}  ->  {"scores": [...]}

A prompt is a string or a list of {"role", "content"}; scores are one finite number per completion. With ``columns``,
the request has "columns", too: name -> one value per completion.
"""

import os
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from rlhf.console import printable
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, TrainingError
from rlhf.rewards.bounded import bounded
from rlhf.rewards.protocol import checked

BUSY = (408, 425, 429)  # like every 5xx, worth another try; any other status means that the request is wrong


class UnansweredError(Exception):
    """A failed try that may be repeated; ``wait`` is the number of seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class RemoteReward:
    """Scores from a server, requested in batches, as a RewardFunction.

    Failures that may be temporary are retried: no connection, a timeout, status 408, 425, 429 or 5xx, a response
    without JSON or scores, with a wrong number of scores, or with a score that is not finite. The n-th wait is drawn
    from [0, min(longest_wait, backoff · 2ⁿ⁻¹)] (full jitter, so that ranks do not retry simultaneously), or is the
    server's Retry-After if that is longer, at most longest_wait.

    Args:
        url: http:// or https://.
        batch_size: completions per request.
        timeout: seconds per response, from the connection to its last byte.
        attempts: tries per batch, including the first.
        backoff: seconds; doubled with each retry.
        longest_wait: seconds.
        columns: names of the row's columns that are sent, too.
        token_variable: the environment variable whose value is sent as a bearer token. It is read for each request,
            and is neither stored nor logged.

    Raises:
        ConfigError: the variable is not set.
        TrainingError: a batch has no scores after the last try, or the server rejects the request.
    """

    def __init__(
        self,
        url: str,
        *,
        batch_size: int = 64,
        timeout: float = 60.0,
        attempts: int = 6,
        backoff: float = 1.0,
        longest_wait: float = 60.0,
        columns: Sequence[str] | None = None,
        token_variable: str | None = None,
    ):
        self.url, self.batch_size, self.token_variable = url, batch_size, token_variable
        self.attempts, self.longest_wait, self.reads = attempts, longest_wait, tuple(columns or ())
        self.jitter = wait_random_exponential(multiplier=backoff, max=longest_wait)
        self.client = bounded(httpx2, httpx2.Client, timeout)(timeout=timeout, follow_redirects=False)
        self._headers()  # report a missing variable before training

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str], **columns: Sequence) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(completions), self.batch_size):
            part = slice(start, start + self.batch_size)
            sent: dict[str, Any] = {"prompts": list(prompts[part]), "completions": list(completions[part])}
            if columns:
                sent["columns"] = {name: list(values[part]) for name, values in columns.items()}
            scores += self._ask(sent)
        return scores

    def _ask(self, sent: dict[str, Any]) -> list[float]:
        tries = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            retry=retry_if_exception_type(UnansweredError),
            reraise=True,
        )
        many = len(sent["completions"])
        try:
            return tries(self._try, sent)
        except UnansweredError as error:
            raise TrainingError(
                f"the remote reward {self.place} returned no scores for a batch of {many} completions "
                f"in {self.attempts} tries, last because {error}: make sure that it runs and returns "
                '{"scores": [...]}, then continue with resume=true'
            ) from error

    def _try(self, sent: dict[str, Any]) -> list[float]:
        try:
            answer = self.client.post(self.url, json=sent, headers=self._headers())
        except httpx2.TimeoutException as error:
            raise UnansweredError(f"it did not respond in time ({type(error).__name__})") from error
        except httpx2.TransportError as error:
            raise UnansweredError(f"it cannot be reached ({type(error).__name__}: {printable(str(error))})") from error
        if answer.status_code in BUSY or answer.status_code >= 500:
            raise UnansweredError(f"it returned status {answer.status_code}", retry_after(answer.headers))
        if answer.status_code != 200:
            raise TrainingError(
                f"the remote reward {self.place} rejected the request with status {answer.status_code}: correct its "
                "url, or the token in the environment variable named by token_variable"
            )
        try:
            return checked(answer.json()["scores"], sent["completions"], "it")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnansweredError(f'it returned {answer.text[:80]!r} instead of {{"scores": [...]}}') from error
        except TrainingError as error:
            raise UnansweredError(str(error)) from error

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        requested = error.wait if isinstance(error, UnansweredError) else 0.0
        return min(max(self.jitter(state), requested), self.longest_wait)

    def _headers(self) -> dict[str, str]:
        if self.token_variable is None:
            return {}
        if self.token_variable not in os.environ:
            raise ConfigError(
                f"the remote reward {self.place} needs a token from the environment variable {self.token_variable}, "
                "which is not set: export it, or set token_variable=null"
            )
        return {"Authorization": f"Bearer {os.environ[self.token_variable]}"}

    @property
    def place(self) -> str:
        """The URL for messages: without user name, password and query."""
        url = httpx2.URL(self.url)
        return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def retry_after(headers: httpx2.Headers) -> float:
    """Return the seconds of a Retry-After header in seconds or as a date (RFC 9110, section 10.2.3); 0 without one."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError):
        return 0.0
