import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from rlhf.hub.faults import status, told, transient, unreachable


def answered(code: int, message: str = "because") -> HfHubHTTPError:
    response = httpx2.Response(code, request=httpx2.Request("GET", "http://x/y"), headers={"X-Error-Message": message})
    return HfHubHTTPError(f"{code} error", response=response, server_message=message)


def wrapped(error: Exception) -> RuntimeError:
    """Return ``error`` in a RuntimeError, as the client wraps the errors of its threads."""
    try:
        raise RuntimeError("Error while uploading") from error
    except RuntimeError as found:
        return found


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_transient_error_is_worth_another_attempt(code: int) -> None:
    assert transient(answered(code))
    assert transient(wrapped(answered(code)))


@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 409, 412, 507])
def test_other_errors_are_not_worth_another_attempt(code: int) -> None:
    assert not transient(answered(code))


def test_a_broken_connection_is_transient() -> None:
    for error in (httpx2.ConnectError("refused"), ConnectionError("xet: 404"), TimeoutError(), httpx2.ReadError("cut")):
        assert unreachable(error)
        assert transient(wrapped(error))
        assert "cannot be reached" in str(told(error, "x"))
    assert not transient(OfflineModeIsEnabled("offline"))
    assert not transient(ValueError("no metadata"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answered(401), "x: the token is not accepted (401): use a token from"),
        (answered(403), "x: the token lacks permission (403: because): use another token, or another name"),
        (
            answered(403, "Storage quota exceeded"),
            "x: no storage is left (403: Storage quota exceeded): free some",
        ),
        (answered(404), "x: not found, or the token has no access (404): correct the name"),
        (answered(429), "x: the Hub limits the rate of requests (429: because): run the command again later"),
        (answered(418), "x: the Hub returns 418 (because): run the command again"),
        (LocalTokenNotFoundError("none"), "x: no token is set: use a token from"),
        (OfflineModeIsEnabled("offline"), "x: HF_HUB_OFFLINE is set"),
        (ValueError("Invalid metadata\nin README.md"), "x: the request fails (Invalid metadata in README.md): correct"),
    ],
)
def test_an_error_becomes_a_one_line_message(error: Exception, message: str) -> None:
    assert str(told(error, "x")).startswith(message)
    assert "\n" not in str(told(error, "x"))


def test_the_status_of_a_wrapped_error_is_found() -> None:
    assert status(wrapped(answered(403))) == 403
    assert status(RuntimeError("x")) is None
