"""Two Python endpoints, unchanged, that meet over our relay and then speak WebRTC with each other."""

from __future__ import annotations

import os
import uuid

import pytest
import requests
from harness import PythonSite
from proxystore.endpoint import client


@pytest.fixture(scope='module')
def python_sites(start_site, relay) -> tuple[PythonSite, PythonSite]:
    """Two Python endpoints at our relay."""
    return start_site(PythonSite, 'python-a', relay), start_site(PythonSite, 'python-b', relay)


@pytest.mark.parametrize('size', [1_000, 10_000_000])
def test_what_one_holds_the_other_gets(python_sites: tuple[PythonSite, PythonSite], size: int) -> None:
    a, b = python_sites
    key, data = str(uuid.uuid4()), os.urandom(size)
    client.put(a.address, key, data, session=a.session)
    assert client.get(b.address, key, a.uuid, b.session) == data
    client.evict(b.address, key, a.uuid, b.session)
    assert not client.exists(a.address, key, session=a.session)


def test_one_puts_at_the_other(python_sites: tuple[PythonSite, PythonSite]) -> None:
    a, b = python_sites
    key, data = str(uuid.uuid4()), os.urandom(1_000_000)
    client.put(a.address, key, data, b.uuid, a.session)
    assert client.get(b.address, key, session=b.session) == data


def test_the_first_to_ask_may_be_either(start_site, relay) -> None:
    a, b = start_site(PythonSite, 'python-c', relay), start_site(PythonSite, 'python-d', relay)
    client.put(b.address, 'key', b'data', session=b.session)
    assert client.get(a.address, 'key', b.uuid, a.session) == b'data'
    client.put(a.address, 'other', b'data', session=a.session)
    assert client.get(b.address, 'other', a.uuid, b.session) == b'data'


def test_our_relay_tells_python_of_an_unknown_peer(python_sites: tuple[PythonSite, PythonSite]) -> None:
    a, _ = python_sites
    absent = str(uuid.uuid4())
    with pytest.raises(requests.RequestException, match='HTTP error code 500') as failure:
        client.get(a.address, 'key', absent, a.session)
    assert absent in str(failure.value)
