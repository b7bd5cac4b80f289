"""A reward behind HTTP: another process, another machine, another language.

    POST url  {"prompts": [...], "completions": [...]}  ->  {"scores": [...]}

A prompt is a string or a list of {"role", "content"}, as everywhere; a score is one finite number per completion.
"""

import os
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from time import time

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from rlhf.console import printable
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, TrainingError
from rlhf.rewards.bounded import bounded
from rlhf.rewards.protocol import checked

BUSY = (408, 425, 429)  # with every 5xx: what another try may mend; any other status says that the request is wrong


class UnansweredError(Exception):
    """A try that may be made again; ``wait``: the seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class RemoteReward:
    """The scores that a server gives, asked for in batches; no batch is left without them.

    What may be mended by asking again is asked again: no connection, no answer in time, a status of 408, 425, 429 or
    5xx, an answer that is no JSON, has no scores, another number of them, or one that is not finite. The n-th wait is
    drawn from [0, min(longest_wait, backoff · 2ⁿ⁻¹)] ("full jitter": many ranks do not come back at once), and is
    as long as the server's Retry-After where that is longer, within longest_wait.

    Args:
        url: http:// or https://.
        batch_size: completions of one request.
        timeout: seconds for one answer, from the connection to its last byte.
        attempts: tries for each batch, the first included.
        backoff: seconds; doubled for each further try.
        longest_wait: seconds, at most.
        token_variable: the environment variable whose value is sent as a bearer token. It is read when it is sent, and
            is neither stored nor told.

    Raises:
        ConfigError: the variable is not set.
        TrainingError: a batch has no scores after the last try, or the server says that the request is wrong.
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
        token_variable: str | None = None,
    ):
        self.url, self.batch_size, self.token_variable = url, batch_size, token_variable
        self.attempts, self.longest_wait = attempts, longest_wait
        self.jitter = wait_random_exponential(multiplier=backoff, max=longest_wait)
        self.client = bounded(httpx2, httpx2.Client, timeout)(timeout=timeout, follow_redirects=False)
        self._headers()  # a variable that is not set is told before anything is trained

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(completions), self.batch_size):
            part = slice(start, start + self.batch_size)
            scores += self._ask(list(prompts[part]), list(completions[part]))
        return scores

    def _ask(self, prompts: list[Prompt], completions: list[str]) -> list[float]:
        tries = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            retry=retry_if_exception_type(UnansweredError),
            reraise=True,
        )
        try:
            return tries(self._try, prompts, completions)
        except UnansweredError as error:
            raise TrainingError(
                f"the remote reward {self.place} gave no scores for a batch of {len(completions)} completions in "
                f"{self.attempts} tries, at last because {error}: see that it runs and answers "
                '{"scores": [...]}, then go on with resume=true'
            ) from error

    def _try(self, prompts: list[Prompt], completions: list[str]) -> list[float]:
        try:
            answer = self.client.post(
                self.url, json={"prompts": prompts, "completions": completions}, headers=self._headers()
            )
        except httpx2.TimeoutException as error:
            raise UnansweredError(f"it did not answer in time ({type(error).__name__})") from error
        except httpx2.TransportError as error:
            raise UnansweredError(f"it cannot be reached ({type(error).__name__}: {printable(str(error))})") from error
        if answer.status_code in BUSY or answer.status_code >= 500:
            raise UnansweredError(f"it answered with status {answer.status_code}", retry_after(answer.headers))
        if answer.status_code != 200:
            raise TrainingError(
                f"the remote reward {self.place} refused the request with status {answer.status_code}: correct its "
                "url, or the token in the environment variable that token_variable names"
            )
        try:
            return checked(answer.json()["scores"], completions, "it")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnansweredError(f'it answered {answer.text[:80]!r} and not {{"scores": [...]}}') from error
        except TrainingError as error:
            raise UnansweredError(str(error)) from error

    def _wait(self, state: RetryCallState) -> float:
        asked = state.outcome.exception().wait
        return min(max(self.jitter(state), asked), self.longest_wait)

    def _headers(self) -> dict[str, str]:
        if self.token_variable is None:
            return {}
        if self.token_variable not in os.environ:
            raise ConfigError(
                f"the remote reward {self.place} wants a token from the environment variable {self.token_variable}, "
                "which is not set: export it, or set token_variable=null"
            )
        return {"Authorization": f"Bearer {os.environ[self.token_variable]}"}

    @property
    def place(self) -> str:
        """The URL as it may be told: without a name and a password, and without a query."""
        url = httpx2.URL(self.url)
        return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def retry_after(headers: httpx2.Headers) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date (RFC 9110, section 10.2.3); else 0."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError):
        return 0.0
