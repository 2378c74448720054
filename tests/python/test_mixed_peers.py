"""A Python endpoint and one of ours as peers.

Ours speaks QUIC and Python WebRTC, so neither can serve the other: what is shown is that both say so soon, and go on
serving everybody else."""

from __future__ import annotations

import time
import uuid

import pytest
import requests
from harness import OurSite, PythonSite, Relay
from proxystore.endpoint import client

CONNECT_TIMEOUT = 10
"""Seconds that ours tries to reach a peer (`peering.connect_timeout`)."""

PYTHON_TIMEOUT = 30
"""Seconds that Python tries."""

SLACK = 10
"""Seconds for a busy machine."""


@pytest.fixture
def mixed(start_site, either_relay: Relay) -> tuple[OurSite, PythonSite, PythonSite]:
    """One of ours, and two of Python's that can reach each other."""
    names = (f'{kind}-{uuid.uuid4().hex[:4]}' for kind in ('ours', 'python-a', 'python-b'))
    kinds = (OurSite, PythonSite, PythonSite)
    ours, a, b = (start_site(kind, name, either_relay) for kind, name in zip(kinds, names, strict=True))
    return ours, a, b


def assert_python_serves(a: PythonSite, b: PythonSite) -> None:
    """The endpoint serves its own clients and its Python peer."""
    key = str(uuid.uuid4())
    client.put(a.address, key, b'still here', session=a.session)
    assert client.get(a.address, key, session=a.session) == b'still here'
    assert client.get(b.address, key, a.uuid, b.session) == b'still here'


def test_ours_is_told_that_python_speaks_webrtc_only(mixed: tuple[OurSite, PythonSite, PythonSite]) -> None:
    ours, a, b = mixed
    # The second attempt meets what the first left behind at the Python endpoint.
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(requests.RequestException, match='WebRTC only') as failure:
            client.get(ours.address, 'key', a.uuid, ours.session)
        assert failure.value.response.status_code == 500
        assert a.uuid in str(failure.value)
        assert time.monotonic() - started < CONNECT_TIMEOUT + SLACK
    assert_python_serves(a, b)
    answer = ours.session.get(f'{ours.address}/v1/objects/key', params={'endpoint': a.uuid})
    assert answer.status_code == 502
    assert 'WebRTC only' in answer.text
    assert_python_serves(b, a)


def test_python_is_told_that_ours_cannot_answer(mixed: tuple[OurSite, PythonSite, PythonSite]) -> None:
    ours, a, b = mixed
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(requests.RequestException, match='HTTP error code 500') as failure:
            client.get(a.address, 'key', ours.uuid, a.session)
        assert ours.uuid in str(failure.value)
        assert time.monotonic() - started < PYTHON_TIMEOUT + SLACK
    client.put(ours.address, 'key', b'unharmed', session=ours.session)
    assert client.get(ours.address, 'key', session=ours.session) == b'unharmed'
    assert_python_serves(a, b)


def test_python_does_not_hang_on_what_our_offer_left_behind(start_site, relay: Relay) -> None:
    ours = start_site(OurSite, 'ours', relay)
    a, b = start_site(PythonSite, 'python-a', relay), start_site(PythonSite, 'python-b', relay)
    with pytest.raises(requests.RequestException, match='WebRTC only'):
        client.get(ours.address, 'key', a.uuid, ours.session)
    # Python now waits for the connection that our offer announced, instead of making an offer of its own.
    started = time.monotonic()
    with pytest.raises(requests.RequestException, match='HTTP error code 500'):
        client.get(a.address, 'key', ours.uuid, a.session)
    assert time.monotonic() - started < PYTHON_TIMEOUT + SLACK
    assert_python_serves(a, b)
