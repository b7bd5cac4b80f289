"""What the Hub and the network refuse: whether another attempt may help, and one sentence with the remedy."""

from collections.abc import Iterator

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # of the client's transport: what a connection that breaks raises, too
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from rlhf.errors import HubError

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
QUOTA = (402, 413, 507)
FAULTS = (HTTPError, OSError, RuntimeError, ValueError)  # xet raises the built-in ConnectionError, an OSError
TOKEN = "a token from https://huggingface.co/settings/tokens, in HF_TOKEN or with `hf auth login`"


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it: the client wraps what an upload thread raises in a RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (seen.__context__ if not seen.__suppress_context__ else None)


def status(error: BaseException) -> int | None:
    """The status of the answer that is behind ``error``; None where there was no answer."""
    for one in chain(error):
        if isinstance(one, HfHubHTTPError) and one.response is not None:
            return one.response.status_code
    return None


def unreachable(error: BaseException) -> bool:
    """Whether no answer came: no network, a connection that broke, or offline by choice."""
    kinds = (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError)
    return status(error) is None and any(isinstance(one, kinds) for one in chain(error))


def transient(error: BaseException) -> bool:
    """Whether the same request may be answered in a moment."""
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain(error)):
        return False
    return status(error) in TRANSIENT or unreachable(error)


def told(error: BaseException, what: str) -> HubError:
    """``error``, met at ``what``, as one sentence that says what to do."""
    code, reason = status(error), _reason(error)
    if any(isinstance(one, LocalTokenNotFoundError) for one in chain(error)):
        return HubError(f"{what}: there is no token: give {TOKEN}")
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain(error)):
        return HubError(f"{what}: HF_HUB_OFFLINE is set, so nothing is asked of the Hub: unset it")
    if code == 404 or any(isinstance(one, RepositoryNotFoundError) for one in chain(error)):
        return HubError(
            f"{what}: it is not there, or the token may not see it ({code}): correct its name, or give {TOKEN}"
        )
    if code == 401:
        return HubError(f"{what}: the token is not accepted (401): give {TOKEN}")
    if code in QUOTA or (code == 403 and any(word in reason.lower() for word in ("quota", "storage"))):
        return HubError(f"{what}: there is no room for it ({code}: {reason}): free some, or publish somewhere else")
    if code == 403:
        return HubError(f"{what}: the token may not do this ({code}: {reason}): give one that may, or another name")
    if code == 412:
        return HubError(
            f"{what}: somebody else has committed in the meantime (412): look at it, then run the command again"
        )
    if code == 429:
        return HubError(f"{what}: the Hub asks for patience (429: {reason}): run the command again later")
    if code is not None:
        return HubError(f"{what}: the Hub answers {code} ({reason}): run the command again, nothing is sent twice")
    if unreachable(error):
        return HubError(f"{what}: the Hub cannot be reached ({reason}): run the command again, nothing is sent twice")
    return HubError(f"{what}: it cannot be done ({reason}): correct that and run the command again")


def _reason(error: BaseException) -> str:
    """What the server says, or the first line of what the client does, of the first cause that has a text."""
    for one in chain(error):
        if isinstance(one, HfHubHTTPError) and one.server_message:
            return " ".join(one.server_message.split())
    texts = [" ".join(str(one).split()) for one in chain(error)]
    return next((text for text in reversed(texts) if text), type(error).__name__)[:300]
