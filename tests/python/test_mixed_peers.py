"""A Python endpoint and one of ours as peers: unchanged Python code on either side, over either relay."""

from __future__ import annotations

import asyncio
import os
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from harness import OurSite, PythonSite, Relay, endpoint, until
from proxystore.connectors.endpoint import EndpointConnector
from proxystore.endpoint import client
from proxystore.endpoint.messages import EndpointRequest
from proxystore.p2p.chunks import Chunk, chunkify
from proxystore.p2p.manager import PeerManager
from proxystore.p2p.relay.client import RelayClient
from proxystore.serialize import deserialize, serialize
from proxystore.store import Store

SIZES = [1, 1000, 32_768 - 200, 32_768, 1_000_000, 20_000_000]
"""Bytes: within one chunk, about its size, and many."""


@pytest.fixture(scope='module')
def mixed(start_site, either_relay: Relay) -> tuple[OurSite, PythonSite]:
    """One of ours and one of Python's."""
    kinds = {'ours': OurSite, 'python': PythonSite}
    ours, python = (start_site(kind, f'{name}-{uuid.uuid4().hex[:4]}', either_relay) for name, kind in kinds.items())
    return ours, python


@pytest.fixture(params=['ours asks', 'python asks'])
def asking(request: pytest.FixtureRequest, mixed: tuple[OurSite, PythonSite]) -> tuple[OurSite | PythonSite, ...]:
    """The endpoint that is asked by clients, and its peer."""
    return mixed if request.param == 'ours asks' else mixed[::-1]


def new_key() -> str:
    """A key that nobody has used."""
    return str(uuid.uuid4())


@pytest.mark.parametrize('size', SIZES)
def test_an_object_is_fetched_from_the_peer(asking, size: int) -> None:
    here, there = asking
    key, data = new_key(), os.urandom(size)
    client.put(there.address, key, data, session=there.session)
    assert client.get(here.address, key, there.uuid, here.session) == data


@pytest.mark.parametrize('size', SIZES)
def test_an_object_is_stored_at_the_peer(asking, size: int) -> None:
    here, there = asking
    key, data = new_key(), os.urandom(size)
    client.put(here.address, key, data, there.uuid, here.session)
    assert client.get(there.address, key, session=there.session) == data


def test_objects_are_found_and_forgotten(asking) -> None:
    here, there = asking
    key = new_key()
    assert not client.exists(here.address, key, there.uuid, here.session)
    assert client.get(here.address, key, there.uuid, here.session) is None
    client.put(there.address, key, b'data', session=there.session)
    assert client.exists(here.address, key, there.uuid, here.session)
    client.evict(here.address, key, there.uuid, here.session)
    assert not client.exists(there.address, key, session=there.session)
    client.evict(here.address, key, there.uuid, here.session)


def test_many_requests_at_once_get_what_is_theirs(asking) -> None:
    here, there = asking
    objects = {new_key(): os.urandom(1000 + 3000 * n) for n in range(40)}
    for key, data in objects.items():
        client.put(there.address, key, data, session=there.session)

    def fetch(key: str) -> bytes | None:
        return client.get(here.address, key, there.uuid)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fetch, objects)) == list(objects.values())


def test_an_object_that_is_too_large_is_refused_by_the_peer(start_site, relay: Relay, tmp_path_factory) -> None:
    limit = 1_000_000
    ours = start_site(OurSite, 'ours-small', relay, '--max-object-size', str(limit))
    python = PythonSite(tmp_path_factory.mktemp('home-python-small'), 'python-small')
    python.configure(relay)
    path = python.dir / 'config.toml'
    path.write_text(path.read_text().replace('max_object_size = 100000000', f'max_object_size = {limit}'))
    large = bytes(limit + 1)
    roomy = start_site(OurSite, 'ours-roomy', relay)
    try:
        python.start()
        for here, there in [(roomy, python), (python, ours)]:
            # What a Python endpoint lets its own clients store is another matter.
            with pytest.raises(requests.RequestException, match='HTTP error code 500') as failure:
                client.put(here.address, 'large', large, there.uuid, here.session)
            assert 'limit' in str(failure.value) or 'max_object_size' in str(failure.value)
            assert client.get(there.address, 'large', session=there.session) is None
        answer = roomy.session.put(f'{roomy.address}/v1/objects/large?endpoint={python.uuid}', data=large)
        assert answer.status_code == 413
    finally:
        python.stop()


def test_our_own_api_says_what_can_be_known_of_a_python_object(mixed: tuple[OurSite, PythonSite]) -> None:
    ours, python = mixed
    key, data = new_key(), os.urandom(100_000)
    url, at = f'{ours.address}/v1/objects/{key}', {'endpoint': python.uuid}
    assert ours.session.head(url, params=at).status_code == 404
    stored = ours.session.put(url, params=at, data=data)
    assert stored.status_code in (200, 201), stored.text
    whole = ours.session.get(url, params=at)
    assert whole.content == data
    head = ours.session.head(url, params=at)
    assert (head.headers['Content-Length'], head.headers['ETag']) == (str(len(data)), whole.headers['ETag'])
    part = ours.session.get(url, params=at, headers={'Range': 'bytes=50000-50099'})
    assert (part.status_code, part.content) == (206, data[50_000:50_100])
    same = ours.session.get(url, params=at, headers={'If-None-Match': whole.headers['ETag']})
    assert same.status_code == 304
    outside = ours.session.get(url, params=at, headers={'Range': 'bytes=100000-'})
    assert outside.status_code == 416
    refused = ours.session.put(url, params=at, data=b'x', headers={'If-None-Match': '*'})
    assert refused.status_code == 502 and 'If-None-Match' in refused.text
    assert ours.session.delete(url, params=at).status_code in (200, 204)
    assert ours.session.get(url, params=at).status_code == 404


def test_status_names_the_protocol_and_the_path(mixed: tuple[OurSite, PythonSite]) -> None:
    ours, python = mixed
    client.exists(ours.address, 'any', python.uuid, ours.session)

    def peer() -> dict:
        peers = ours.session.get(f'{ours.address}/v1/peers').json()['peers']
        return next(peer for peer in peers if peer['id'] == python.uuid)

    until('the path is known', lambda: peer()['address'] is not None)
    assert (peer()['state'], peer()['protocol'], peer()['path']) == ('connected', 'webrtc', 'direct')
    assert peer()['sent_bytes'] > 0 and peer()['received_bytes'] > 0
    table = endpoint('status', ours.name, home=ours.home)
    assert 'webrtc' in table.stdout


def test_a_proxy_made_at_a_python_site_resolves_at_one_of_ours(mixed: tuple[OurSite, PythonSite], monkeypatch) -> None:
    ours, python = mixed
    sites = [python.uuid, ours.uuid]
    with Store('mixed', EndpointConnector(sites, proxystore_dir=str(python.home)), register=False) as store:
        key = store.put({'answer': 42})
    connector = EndpointConnector(sites, proxystore_dir=str(ours.home))
    with Store('mixed-far', connector, register=False) as store:
        assert store.get(key) == {'answer': 42}


def test_several_channels_are_as_good_as_one(start_site, relay: Relay, tmp_path_factory) -> None:
    sites = []
    for kind, name in ((OurSite, 'ours-many'), (PythonSite, 'python-many')):
        site = kind(tmp_path_factory.mktemp(f'home-{name}'), name)
        site.configure(relay)
        path = site.dir / 'config.toml'
        text = path.read_text()
        assert 'peer_channels = 1' in text
        path.write_text(text.replace('peer_channels = 1', 'peer_channels = 3'))
        sites.append(site)
    try:
        for site in sites:
            site.start()
        for here, there in (sites, sites[::-1]):
            data = os.urandom(3_000_000)
            client.put(there.address, 'k', data, session=there.session)
            assert client.get(here.address, 'k', there.uuid, here.session) == data
            # The next time, the other side makes the offer.
            here.stop()
            here.start()
    finally:
        for site in sites:
            site.stop()


def test_a_stopped_endpoint_is_reached_again_after_its_restart(start_site, relay: Relay) -> None:
    ours, python = start_site(OurSite, 'ours-again', relay), start_site(PythonSite, 'python-again', relay)
    client.put(python.address, 'k', b'data', session=python.session)
    assert client.get(ours.address, 'k', python.uuid, ours.session) == b'data'
    ours.stop()
    ours.start()
    assert client.get(ours.address, 'k', python.uuid, ours.session) == b'data'
    python.stop()
    python.start()
    client.put(ours.address, 'k', b'more', session=ours.session)
    assert client.get(python.address, 'k', ours.uuid, python.session) == b'more'


def test_a_python_endpoint_survives_one_of_ours_that_is_killed(start_site, relay: Relay) -> None:
    """It keeps its half of the session for half a minute, in which it must get no second offer."""
    ours, python = start_site(OurSite, 'ours-killed', relay), start_site(PythonSite, 'python-left', relay)
    client.put(python.address, 'k', b'data', session=python.session)
    assert client.get(ours.address, 'k', python.uuid, ours.session) == b'data'
    ours.program.process.kill()
    ours.program.process.wait()
    ours.start()

    def is_reached() -> bool:
        assert client.get(python.address, 'k', session=python.session) == b'data', 'it serves its own'
        try:
            return client.get(ours.address, 'k', python.uuid, ours.session) == b'data'
        except requests.RequestException as error:
            assert python.uuid in str(error)
            return False

    until('the session is made anew', is_reached)


def test_who_has_proven_a_key_is_not_taken_for_a_python_endpoint(start_site, relay: Relay, tmp_path_factory) -> None:
    """The folder of a Python endpoint served by ours, and by Python again: the key it had is missed."""
    ours = start_site(OurSite, 'ours-careful', relay)
    home = tmp_path_factory.mktemp('home-changing')
    python = PythonSite(home, 'changing')
    python.configure(relay)
    as_ours = OurSite(home, 'changing')
    try:
        as_ours.start()
        client.put(as_ours.address, 'k', b'data', session=as_ours.session)
        assert client.get(ours.address, 'k', as_ours.uuid, ours.session) == b'data'
        as_ours.stop()
        python.start()
        until('the old session is gone', lambda: is_idle(ours, python.uuid))
        with pytest.raises(requests.RequestException, match='known_peers.toml'):
            client.get(ours.address, 'k', python.uuid, ours.session)
    finally:
        as_ours.stop()
        python.stop()


def is_idle(site: OurSite, peer: str) -> bool:
    """Whether the site has no session with the peer."""
    peers = site.session.get(f'{site.address}/v1/peers').json()['peers']
    return all(it['state'] != 'connected' for it in peers if it['id'] == peer)


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_what_is_no_request_does_no_harm(start_site, relay: Relay, tmp_path) -> None:
    ours = start_site(OurSite, 'ours-hostile', relay)
    client.put(ours.address, 'k', b'data', session=ours.session)
    harm = tmp_path / 'harm'
    request = EndpointRequest(kind='request', op='get', uuid='1', key='k')
    messages = [
        b'rubbish',
        b'PK\n' + pickle.dumps(Malicious(str(harm))),
        serialize(EndpointRequest(kind='request', op='set', uuid='2', key=Malicious(str(harm)), data=b'x')),
        serialize(EndpointRequest(kind='request', op='get', uuid='3', key='')),
        serialize(EndpointRequest(kind='request', op='set', uuid='4', key='k')),
        serialize(EndpointRequest(kind='response', op='get', uuid='5', key='k', data=b'not asked for')),
    ]
    frames = [
        b'',
        b'short',
        bytes(Chunk(1, 0, 1, 'text')),
        bytes(Chunk(2, 0, 2**32 - 1, b'the first of many')),
        bytes(Chunk(3, 0, 2, b'twice')),
        bytes(Chunk(3, 0, 2, b'twice')),
        *(bytes(chunk) for n, message in enumerate(messages) for chunk in chunkify(message, 1000, 10 + n)),
        *(bytes(chunk) for chunk in chunkify(serialize(request), 10, 99)),
    ]

    async def talk() -> dict[str, EndpointRequest]:
        relay_client = RelayClient(relay.address)
        async with PeerManager(relay_client, ice_servers=[]) as manager:
            connection = await manager.get_connection(uuid.UUID(ours.uuid))
            await connection.ready(20)
            for frame in frames:
                next(iter(connection._channels.values())).send(frame)
            answers: dict[str, EndpointRequest] = {}
            while '1' not in answers:
                _, message = await asyncio.wait_for(manager.recv(), 20)
                answer = deserialize(message)
                answers[answer.uuid] = answer
            return answers

    answers = asyncio.run(talk())
    assert answers['1'].data == b'data'
    assert answers.keys() <= {'1', '3', '4'}
    assert all(answer.error is not None for key, answer in answers.items() if key != '1')
    assert not harm.exists()
    assert client.get(ours.address, 'k', session=ours.session) == b'data'
