"""No usage statistics are sent, unless telemetry=true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.hub import telemetry
from tests.conftest import tiny_overrides

CHAIN = """
import json, socket, sys

found, connect, resolve = [], socket.socket.connect, socket.getaddrinfo

def local(host):
    return host in ("localhost", "127.0.0.1", "::1", None, "")

def connected(own, address):
    if isinstance(address, tuple) and not local(address[0]):
        found.append(str(address[0]))
        raise OSError("no network")
    return connect(own, address)

def resolved(host, *given, **named):
    if not local(host):
        found.append(str(host))
        raise socket.gaierror("no network")
    return resolve(host, *given, **named)

socket.socket.connect = socket.socket.connect_ex = connected
socket.getaddrinfo = resolved

from rlhf import cli

for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    cli.main()

from huggingface_hub.utils import _telemetry

_telemetry._TELEMETRY_QUEUE.join()  # it sends from a thread
print("asked for:", json.dumps(found))
"""


def asked_for(checkpoints: Path, stages: tuple[str, ...], *overrides: str) -> list[str]:
    """Return the hosts that a chain of stages contacts. trl sends nothing in CI, huggingface_hub nothing offline."""
    dropped = {*telemetry.OFF, telemetry.OURS, "CI", "HF_HUB_OFFLINE", "DO_NOT_TRACK", "DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    jobs = [[*tiny_overrides(stage, checkpoints), *overrides] for stage in stages]
    command = [sys.executable, "-c", CHAIN, json.dumps(jobs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("asked for:", 1)[1])


def test_a_chain_of_stages_contacts_no_host(tmp_path: Path) -> None:
    assert asked_for(tmp_path, ("base", "sft", "reward", "dpo", "ppo")) == []


def test_telemetry_is_sent_if_it_is_enabled(tmp_path: Path) -> None:
    assert set(asked_for(tmp_path, ("base", "sft"), "telemetry=true")) == {"huggingface.co"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*telemetry.OFF, telemetry.OURS):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_variable_that_the_user_has_set_is_kept(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    telemetry.off()
    telemetry.off()
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0"
    assert {name: os.environ[name] for name in telemetry.OFF} == {**telemetry.OFF, "HF_HUB_DISABLE_TELEMETRY": "0"}
    telemetry.on()
    assert {name for name in telemetry.OFF if name in os.environ} == {"HF_HUB_DISABLE_TELEMETRY"}
    assert telemetry.OURS not in os.environ


def test_an_imported_huggingface_hub_is_disabled_too(environment: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    environment.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    environment.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    telemetry.off()
    assert constants.HF_HUB_DISABLE_TELEMETRY is False
    environment.delenv("HF_HUB_DISABLE_TELEMETRY")
    telemetry.off()
    assert constants.HF_HUB_DISABLE_TELEMETRY is True
