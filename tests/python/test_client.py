"""Python's endpoint client, unchanged, with two of our endpoints that are peers over our relay."""

from __future__ import annotations

import os
import uuid

import pytest
import requests
from harness import OurSite, Session, endpoint, proxystore_endpoint
from proxystore.endpoint import client

Sites = tuple[OurSite, OurSite]


@pytest.fixture
def key() -> str:
    """A key nobody used."""
    return str(uuid.uuid4())


@pytest.fixture
def session() -> Session:
    """A session that does not wait for ever."""
    return Session()


# 1 MB is where Python's client cuts its uploads.
@pytest.mark.parametrize('size', [1, 999_999, 1_000_000, 1_000_001, 10_000_000])
@pytest.mark.parametrize('where', ['here', 'at a peer'])
def test_what_is_put_is_got(sites: Sites, session: Session, key: str, where: str, size: int) -> None:
    here, there = sites
    at = there.uuid if where == 'at a peer' else None
    data = os.urandom(size)
    client.put(here.address, key, data, at, session)
    assert client.exists(here.address, key, at, session)
    assert client.get(here.address, key, at, session) == data


def test_a_peer_sees_what_was_put_there(sites: Sites, session: Session, key: str) -> None:
    here, there = sites
    client.put(here.address, key, b'from here', there.uuid, session)
    assert client.get(there.address, key, session=session) == b'from here'
    assert client.get(here.address, key, session=session) is None
    assert client.get(there.address, key, there.uuid, session) == b'from here', 'its own id is no peer'


def test_put_again_replaces(sites: Sites, session: Session, key: str) -> None:
    here, there = sites
    for data in (b'first', b'second'):
        client.put(here.address, key, data, there.uuid, session)
    assert client.get(there.address, key, session=session) == b'second'


@pytest.mark.parametrize('where', ['here', 'at a peer'])
def test_evicted_objects_are_gone(sites: Sites, session: Session, key: str, where: str) -> None:
    here, there = sites
    at = there.uuid if where == 'at a peer' else None
    client.put(here.address, key, b'data', at, session)
    client.evict(here.address, key, at, session)
    assert not client.exists(here.address, key, at, session)
    assert client.get(here.address, key, at, session) is None
    client.evict(here.address, key, at, session)


@pytest.mark.parametrize('where', ['here', 'at a peer'])
def test_a_missing_object_is_none(sites: Sites, session: Session, key: str, where: str) -> None:
    here, there = sites
    at = there.uuid if where == 'at a peer' else None
    assert client.get(here.address, key, at, session) is None
    assert not client.exists(here.address, key, at, session)


@pytest.mark.parametrize('where', ['here', 'at a peer'])
def test_an_empty_body_is_refused(sites: Sites, session: Session, key: str, where: str) -> None:
    here, there = sites
    at = there.uuid if where == 'at a peer' else None
    with pytest.raises(requests.RequestException, match='HTTP error code 400'):
        client.put(here.address, key, b'', at, session)
    assert not client.exists(here.address, key, at, session)


def test_a_bad_endpoint_id_is_refused(sites: Sites, session: Session, key: str) -> None:
    with pytest.raises(requests.RequestException, match='HTTP error code 400'):
        client.get(sites[0].address, key, 'not-a-uuid', session)


@pytest.mark.parametrize('route', ['get', 'exists'])
def test_a_request_without_a_key_is_refused(sites: Sites, session: Session, route: str) -> None:
    assert session.get(f'{sites[0].address}/{route}').status_code == 400


def test_a_peer_that_is_not_there_is_named(sites: Sites, session: Session, key: str) -> None:
    here, absent = sites[0].address, str(uuid.uuid4())
    operations = {
        'get': lambda: client.get(here, key, absent, session),
        'exists': lambda: client.exists(here, key, absent, session),
        'evict': lambda: client.evict(here, key, absent, session),
        'put': lambda: client.put(here, key, b'data', absent, session),
    }
    for operation, attempt in operations.items():
        with pytest.raises(requests.RequestException, match='HTTP error code 500') as failure:
            attempt()
        assert absent in str(failure.value), operation


def test_a_peer_that_stopped_is_named_and_found_again(start_site, relay, session: Session, key: str) -> None:
    here, there = start_site(OurSite, 'stays', relay), start_site(OurSite, 'goes', relay)
    client.put(here.address, key, b'data', there.uuid, session)
    there.stop()
    with pytest.raises(requests.RequestException, match=there.uuid) as failure:
        client.get(here.address, key, there.uuid, session)
    assert failure.value.response.status_code == 500
    there.start()
    assert client.get(here.address, key, there.uuid, session) is None, 'memory does not survive'


def test_an_object_over_the_limit_is_refused(start_site, session: Session, key: str) -> None:
    site = start_site(OurSite, 'small', None, '--max-object-size', '1000')
    client.put(site.address, key, bytes(1000), session=session)
    with pytest.raises(requests.RequestException, match='HTTP error code 413'):
        client.put(site.address, f'{key}+', bytes(1001), session=session)


def test_a_solo_endpoint_serves_every_id_itself(start_site, session: Session, key: str) -> None:
    site = start_site(OurSite, 'solo', None)
    client.put(site.address, key, b'data', uuid.uuid4(), session)
    assert client.get(site.address, key, session=session) == b'data'




@pytest.mark.parametrize('command', [endpoint, proxystore_endpoint])
def test_both_command_lines_reach_a_peer(sites: Sites, session: Session, key: str, command) -> None:
    here, there = sites
    client.put(there.address, key, b'US\na text', session=session)
    done = command('test', '--remote', there.uuid, here.name, 'get', key, home=here.home)
    assert done.returncode == 0, done
    assert 'a text' in done.stdout
