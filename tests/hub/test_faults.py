import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from rlhf.hub.faults import status, told, transient, unreachable


def answered(code: int, message: str = "because") -> HfHubHTTPError:
    response = httpx2.Response(code, request=httpx2.Request("GET", "http://x/y"), headers={"X-Error-Message": message})
    return HfHubHTTPError(f"{code} error", response=response, server_message=message)


def wrapped(error: Exception) -> RuntimeError:
    """As the client wraps what one of its threads raises."""
    try:
        raise RuntimeError("Error while uploading") from error
    except RuntimeError as found:
        return found


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_another_attempt_may_help(code: int) -> None:
    assert transient(answered(code))
    assert transient(wrapped(answered(code)))


@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 409, 412, 507])
def test_no_attempt_helps(code: int) -> None:
    assert not transient(answered(code))


def test_what_breaks_on_the_way() -> None:
    for error in (httpx2.ConnectError("refused"), ConnectionError("xet: 404"), TimeoutError(), httpx2.ReadError("cut")):
        assert unreachable(error)
        assert transient(wrapped(error))
        assert "cannot be reached" in str(told(error, "x"))
    assert not transient(OfflineModeIsEnabled("offline"))
    assert not transient(ValueError("no metadata"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (answered(401), "x: the token is not accepted (401): give a token from"),
        (answered(403), "x: the token may not do this (403: because): give one that may, or another name"),
        (
            answered(403, "Storage quota exceeded"),
            "x: there is no room for it (403: Storage quota exceeded): free some",
        ),
        (answered(404), "x: it is not there, or the token may not see it (404): correct its name"),
        (answered(429), "x: the Hub asks for patience (429: because): run the command again later"),
        (answered(418), "x: the Hub answers 418 (because): run the command again"),
        (LocalTokenNotFoundError("none"), "x: there is no token: give a token from"),
        (OfflineModeIsEnabled("offline"), "x: HF_HUB_OFFLINE is set"),
        (ValueError("Invalid metadata\nin README.md"), "x: it cannot be done (Invalid metadata in README.md): correct"),
    ],
)
def test_one_sentence(error: Exception, sentence: str) -> None:
    assert str(told(error, "x")).startswith(sentence)
    assert "\n" not in str(told(error, "x"))


def test_the_status_is_found_below_what_wraps_it() -> None:
    assert status(wrapped(answered(403))) == 403
    assert status(RuntimeError("x")) is None
