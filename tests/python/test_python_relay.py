"""Two of our endpoints that meet over Python's relay."""

from __future__ import annotations

import os
import uuid

import pytest
from harness import OurSite, Relay, python_relay, until
from proxystore.endpoint import client


@pytest.fixture(scope='module')
def our_sites(start_site, relay_of_python) -> tuple[OurSite, OurSite]:
    """Two of our endpoints at Python's relay."""
    return start_site(OurSite, 'site-a', relay_of_python), start_site(OurSite, 'site-b', relay_of_python)


def pass_on(holder: OurSite, asker: OurSite, size: int) -> None:
    """Puts at one, gets at the other."""
    key, data = str(uuid.uuid4()), os.urandom(size)
    client.put(holder.address, key, data, session=holder.session)
    assert client.get(asker.address, key, holder.uuid, asker.session) == data


@pytest.mark.parametrize('size', [1, 10_000_000])
def test_what_one_holds_the_other_gets(our_sites: tuple[OurSite, OurSite], size: int) -> None:
    a, b = our_sites
    pass_on(a, b, size)
    pass_on(b, a, size)


def test_an_absent_peer_is_named(our_sites: tuple[OurSite, OurSite]) -> None:
    a, _ = our_sites
    absent = str(uuid.uuid4())
    answer = a.session.get(f'{a.address}/get', params={'key': 'key', 'endpoint': absent})
    assert answer.status_code == 500
    assert absent in answer.text


@pytest.fixture
def own_relay():
    """A relay that a test may stop."""
    relay = python_relay()
    yield relay
    relay.stop()


def test_sessions_outlive_the_relay_and_new_ones_follow_its_return(start_site, own_relay: Relay) -> None:
    a, b, late = (start_site(OurSite, name, own_relay) for name in ('a', 'b', 'late'))
    pass_on(a, b, 1000)
    own_relay.stop()
    until('a noticed', lambda: not a.is_registered())
    pass_on(a, b, 1000)
    pass_on(b, a, 1000)
    own_relay.start()
    for site in (a, late):
        until(f'{site.name} is registered again', site.is_registered)
    pass_on(a, late, 1000)
    pass_on(a, b, 1000)
