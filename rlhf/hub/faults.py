"""Errors of the Hub and the network: whether another attempt may help, and a one-line message with the remedy."""

from collections.abc import Iterator

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # of the client's transport, also for a broken connection
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
    """Yield an error and its causes: the client wraps the errors of upload threads in a RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (seen.__context__ if not seen.__suppress_context__ else None)


def status(error: BaseException) -> int | None:
    """Return the HTTP status of the response behind ``error``; None without a response."""
    for one in chain(error):
        if isinstance(one, HfHubHTTPError) and one.response is not None:
            return one.response.status_code
    return None


def unreachable(error: BaseException) -> bool:
    """Return whether no response came: no network, a broken connection, or offline mode."""
    kinds = (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError)
    return status(error) is None and any(isinstance(one, kinds) for one in chain(error))


def transient(error: BaseException) -> bool:
    """Return whether the same request may soon succeed."""
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain(error)):
        return False
    return status(error) in TRANSIENT or unreachable(error)


def told(error: BaseException, what: str) -> HubError:
    """Return ``error``, raised by the operation or repository ``what``, as a one-line message with the remedy."""
    code, reason = status(error), _reason(error)
    if any(isinstance(one, LocalTokenNotFoundError) for one in chain(error)):
        return HubError(f"{what}: no token is set: use {TOKEN}")
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain(error)):
        return HubError(f"{what}: HF_HUB_OFFLINE is set, so no request is sent: unset it")
    if code == 404 or any(isinstance(one, RepositoryNotFoundError) for one in chain(error)):
        return HubError(f"{what}: not found, or the token has no access ({code}): correct the name, or use {TOKEN}")
    if code == 401:
        return HubError(f"{what}: the token is not accepted (401): use {TOKEN}")
    if code in QUOTA or (code == 403 and any(word in reason.lower() for word in ("quota", "storage"))):
        return HubError(f"{what}: no storage is left ({code}: {reason}): free some, or publish to another account")
    if code == 403:
        return HubError(f"{what}: the token lacks permission ({code}: {reason}): use another token, or another name")
    if code == 412:
        return HubError(f"{what}: another commit was made meanwhile (412): check it, then run the command again")
    if code == 429:
        return HubError(f"{what}: the Hub limits the rate of requests (429: {reason}): run the command again later")
    if code is not None:
        return HubError(f"{what}: the Hub returns {code} ({reason}): run the command again, nothing is sent twice")
    if unreachable(error):
        return HubError(f"{what}: the Hub cannot be reached ({reason}): run the command again, nothing is sent twice")
    return HubError(f"{what}: the request fails ({reason}): correct this and run the command again")


def _reason(error: BaseException) -> str:
    """Return the server's message or else the text of the innermost cause that has one, on one line."""
    for one in chain(error):
        if isinstance(one, HfHubHTTPError) and one.server_message:
            return " ".join(one.server_message.split())
    texts = [" ".join(str(one).split()) for one in chain(error)]
    return next((text for text in reversed(texts) if text), type(error).__name__)[:300]
