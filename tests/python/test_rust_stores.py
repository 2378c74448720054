"""Python ProxyStore and the Rust library read each other's objects: through files, Redis and endpoints.

The Rust side is its example `object`, which puts and gets from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from harness import BIN_DIR, OurSite, Program, PythonSite, free_port, run, until
from proxystore.connectors.endpoint import EndpointConnector, EndpointKey
from proxystore.connectors.file import FileConnector, FileKey
from proxystore.connectors.redis import RedisConnector, RedisKey
from proxystore.store import Store

NUMBERS = [0.5, -1.25, 3e300]


class Place(NamedTuple):
    """Where objects are, as each side names it."""

    store: Store[Any]
    config: dict[str, Any]
    key_type: type
    kind: str
    home: Path

    def rust(self, *words: str | Path) -> str:
        """What the example prints."""
        done = run(BIN_DIR / 'examples/object', words[0], json.dumps(self.config), *words[1:], home=self.home)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip('\n')

    def from_rust(self, *words: str | Path) -> Any:
        """Python's view of an object that Rust puts."""
        fields = json.loads(self.rust('put', *words))[self.kind]
        return self.store.get(self.key_type(**fields))

    def to_rust(self, value: Any) -> str:
        """Rust's view of an object that Python puts."""
        key = self.store.put(value)
        return self.rust('get', json.dumps({self.kind: key._asdict()}))


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    """A Redis server."""
    if shutil.which('redis-server') is None:
        print('SKIPPED: redis-server is not installed')
        pytest.skip('redis-server is not installed')
    port = free_port()
    words = ['redis-server', '--port', str(port), '--bind', '127.0.0.1', '--save', '', '--dir', tmp_path]
    server = Program('redis', words)
    until('Redis answers', lambda: subprocess.run(['redis-cli', '-p', str(port), 'ping'], check=False).returncode == 0)
    yield port
    server.stop()


@pytest.fixture(params=['file', 'redis', 'our endpoint', 'python endpoint'])
def place(request: pytest.FixtureRequest, tmp_path: Path, start_site) -> Iterator[Place]:
    """Each place in turn."""
    if request.param == 'file':
        directory = str(tmp_path / 'objects')
        place = FileConnector(directory), {'store_dir': directory}, FileKey, 'file', tmp_path
    elif request.param == 'redis':
        port = request.getfixturevalue('redis_port')
        place = RedisConnector('127.0.0.1', port), {'hostname': '127.0.0.1', 'port': port}, RedisKey, 'redis', tmp_path
    else:
        site = start_site(OurSite if request.param == 'our endpoint' else PythonSite, 'site', None)
        connector = EndpointConnector([site.uuid], proxystore_dir=str(site.home))
        place = connector, {'endpoints': [site.uuid]}, EndpointKey, 'endpoint', site.home
    connector, settings, key_type, kind, home = place
    with Store('interop', connector, cache_size=0, register=False) as store:
        yield Place(store, {'kind': kind, 'settings': settings}, key_type, kind, home)


def test_python_reads_what_rust_wrote(place: Place, tmp_path: Path) -> None:
    assert place.from_rust('text', 'naïve ☃') == 'naïve ☃'
    content = bytes(range(256)) * 5000
    (tmp_path / 'bytes').write_bytes(content)
    assert place.from_rust('bytes', tmp_path / 'bytes') == content
    (tmp_path / 'numbers').write_text('\n'.join(map(str, NUMBERS)))
    np.testing.assert_array_equal(place.from_rust('array', tmp_path / 'numbers'), NUMBERS)


def test_rust_reads_what_python_wrote(place: Place) -> None:
    assert place.to_rust('naïve ☃') == 'text naïve ☃'
    content = bytes(range(256)) * 5000
    assert place.to_rust(content) == f'bytes {len(content)} {sum(content)}'
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    assert place.to_rust(array) == 'array [3, 4] 66'
    fortran = np.asfortranarray(array)
    assert place.to_rust(fortran) == 'array [3, 4] 66'


def test_rust_refuses_a_pickle_and_says_so(place: Place) -> None:
    key = place.store.put({'a': 'dictionary'})
    words = [BIN_DIR / 'examples/object', 'get', json.dumps(place.config), json.dumps({place.kind: key._asdict()})]
    done = run(*words, home=place.home)
    assert done.returncode == 1
    assert 'only Python reads' in done.stderr, done.stderr
