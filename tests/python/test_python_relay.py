"""Two of our endpoints that meet over Python's relay."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest
from harness import OurSite, Relay, endpoint, python_relay, until
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


def test_check_nat_says_what_the_relay_cannot_do(relay_of_python: Relay, home: Path) -> None:
    done = endpoint('check-nat', '--relay', relay_of_python.address, '--json', home=home)
    # Nothing speaks against it: sites that reach each other need only the offers that this relay passes on.
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    relay = report['relay']
    assert (relay['reached'], relay['error'], relay['proxy']) == (True, None, None)
    assert relay['round_trip_ms'] > 0
    assert (relay['carries_data'], relay['udp_ports']) == (False, [])
    assert (report['udp'], report['ipv4'], report['ipv6']) == ('unknown', None, None)
    assert report['path_to_expect'] == 'unknown'
    data, address = report['advice']
    assert 'carries no data' in data
    assert 'public address' in address
    assert all('docs/relay.md' in advice for advice in report['advice'])


def test_check_nat_tells_people_how_to_learn_more(relay_of_python: Relay, home: Path) -> None:
    done = endpoint('check-nat', '--relay', relay_of_python.address, home=home)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split('  ', 1) for line in done.stdout.splitlines() if '  ' in line)
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert rows['relay'].startswith(f'{relay_of_python.address}, round trip ')
    assert rows['data through the relay'] == 'no'
    assert '--server HOST:PORT' in rows['UDP']
    assert rows['path to expect'] == 'not known: UDP was not checked, and the relay carries no data'


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


def test_check_nat_fails_where_the_relay_is_gone(own_relay: Relay, home: Path) -> None:
    own_relay.stop()
    done = endpoint('check-nat', '--relay', own_relay.address, '--json', home=home)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report['relay']['reached'], report['path_to_expect']) == (False, 'nothing')
    assert own_relay.address in report['advice'][0]
