"""Python's `EndpointConnector` and `Store`, unchanged, with our endpoints.

Each site has a ProxyStore home of its own, as two machines have. The connector finds its endpoint by reading the
configurations there, so these tests also show that Python understands the ones we write."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from harness import HERE, OurSite, run
from proxystore.connectors.endpoint import EndpointConnector, EndpointConnectorError, EndpointKey
from proxystore.store import Store

Sites = tuple[OurSite, OurSite]
StoreAt = Callable[[OurSite], Store[EndpointConnector]]

LARGE = 300_000_000


@pytest.fixture(scope='module')
def sites(start_site, relay) -> Sites:
    """Two peers that take large objects."""
    options = ('--max-object-size', str(2 * LARGE))
    return start_site(OurSite, 'site-a', relay, *options), start_site(OurSite, 'site-b', relay, *options)


@pytest.fixture
def connect(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> Callable[[OurSite], EndpointConnector]:
    """Connects as a program at a site does: its environment names its home, the configuration names both sites."""

    def connect(site: OurSite) -> EndpointConnector:
        monkeypatch.setenv('PROXYSTORE_HOME', str(site.home))
        return EndpointConnector([each.uuid for each in sites])

    return connect


@pytest.fixture
def store_at(connect) -> Iterator[StoreAt]:
    """A store of a site, without a cache: what it gets comes from an endpoint."""
    with ExitStack() as stores:
        yield lambda site: stores.enter_context(Store(f'store-{uuid.uuid4()}', connect(site), cache_size=0))


@pytest.mark.parametrize('index', [0, 1])
def test_the_connector_finds_the_endpoint_of_its_home(sites: Sites, connect, index: int) -> None:
    with connect(sites[index]) as connector:
        assert str(connector.endpoint_uuid) == sites[index].uuid
        assert connector.address == sites[index].address


def test_the_connector_finds_the_right_folder_among_many(start_site, tmp_path: Path) -> None:
    first, second = start_site(OurSite, 'one', None), start_site(OurSite, 'two', None)
    for site in (first, second):
        shutil.copytree(site.dir, tmp_path / site.name, ignore=shutil.ignore_patterns('*.sock'))
    with EndpointConnector([second.uuid], proxystore_dir=str(tmp_path)) as connector:
        assert str(connector.endpoint_uuid) == second.uuid


def test_the_connector_finds_no_endpoint_that_it_was_not_given(sites: Sites) -> None:
    with pytest.raises(EndpointConnectorError):
        EndpointConnector([uuid.uuid4()], proxystore_dir=str(sites[0].home))


OBJECTS: dict[str, Any] = {
    'bytes': b'\x00\xff\r\n' * 1000,
    'no bytes': b'',
    'text': 'Zwölf Boxkämpfer 🥊\n',
    'no text': '',
    'numbers': np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000),
    'no numbers': np.empty((0, 3)),
    'frame': pd.DataFrame({'name': ['a', 'b', None], 'value': [1.5, float('nan'), 3]}),
    'nested': {'list': [1, 2, {'deep': (None, True)}], 'set': {1, 2}, 'array': [0.1] * 100},
}


def assert_equal(left: Any, right: Any) -> None:
    """Equality, also of arrays and frames."""
    assert type(left) is type(right)
    if isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right, strict=True)
    else:
        assert left == right


@pytest.mark.parametrize('name', OBJECTS)
def test_objects_of_every_kind_travel(sites: Sites, store_at: StoreAt, name: str) -> None:
    here, there = map(store_at, sites)
    key = here.put(OBJECTS[name])
    assert key.endpoint_id == sites[0].uuid
    assert_equal(here.get(key), OBJECTS[name])
    assert_equal(there.get(key), OBJECTS[name])


def test_a_batch_travels(sites: Sites, store_at: StoreAt) -> None:
    here, there = map(store_at, sites)
    values = [f'value {number}' for number in range(20)]
    assert [there.get(key) for key in here.put_batch(values)] == values


def test_what_is_evicted_there_is_gone_here(sites: Sites, store_at: StoreAt) -> None:
    here, there = map(store_at, sites)
    key = here.put('soon gone')
    assert here.exists(key) and there.exists(key)
    there.evict(key)
    assert not here.exists(key) and not there.exists(key)
    assert here.get(key) is None and there.get(key) is None


def test_python_refuses_a_serialized_object_without_bytes(sites: Sites, connect) -> None:
    with connect(sites[0]) as connector, pytest.raises(EndpointConnectorError, match='code 400'):
        connector.put(b'')


def test_an_absent_site_is_an_error(sites: Sites, connect) -> None:
    with connect(sites[0]) as connector, pytest.raises(EndpointConnectorError, match='code 500'):
        connector.get(EndpointKey('any', str(uuid.uuid4())))


def test_a_proxy_made_here_resolves_there(sites: Sites, store_at: StoreAt, tmp_path: Path) -> None:
    proxy = store_at(sites[0]).proxy([1, 'two', {'three': 3}])
    path = tmp_path / 'proxy.pickle'
    path.write_bytes(pickle.dumps(proxy))
    done = run(sys.executable, HERE / 'resolve_proxy.py', path, home=sites[1].home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {'content': [1, 'two', {'three': 3}], 'through': sites[1].uuid}


@pytest.mark.timeout(900)
def test_a_large_object_travels(sites: Sites, store_at: StoreAt) -> None:
    here, there = map(store_at, sites)
    block = os.urandom(1_000_000)
    data = block * (LARGE // len(block))
    key = here.put(data)
    assert there.get(key) == data
    there.evict(key)
    assert not here.exists(key)
