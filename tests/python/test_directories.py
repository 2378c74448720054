"""One endpoint folder, two command lines: Python's reads, tests, stops and removes what ours configured and
started, and ours starts what Python's configured."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import OurSite, PythonSite, Site, endpoint, proxystore_endpoint, until
from proxystore.endpoint import client
from proxystore.endpoint.commands import EndpointStatus, get_status
from proxystore.endpoint.config import get_configs, read_config

NAME = 'lab-1'


@pytest.fixture
def daemon(home: Path) -> Iterator[OurSite]:
    """An endpoint that our `configure` and `start` put into the background."""
    site = OurSite(home, NAME)
    site.configure(None)
    started = endpoint('start', NAME, home=home)
    assert started.returncode == 0, started.stderr
    yield site
    endpoint('stop', NAME, home=home)


def status(site: Site) -> EndpointStatus:
    """The endpoint's status as Python sees it."""
    return get_status(site.name, str(site.home))


@pytest.mark.parametrize(
    'options',
    [
        [],
        ['--no-relay-server'],
        ['--relay-address', 'ws://127.0.0.1:1', '--peer-channels', '4', '--no-relay-auth', '--persist'],
        ['--host', 'fqdn', '--max-object-size', '5000', '--memory-limit', '4G'],
        ['--host', '192.0.2.1', '--port', '9999', '--peer-bind', '127.0.0.1', '--peer-port', '9998'],
    ],
    ids=' '.join,
)
def test_python_reads_the_configuration_we_write(home: Path, options: list[str]) -> None:
    done = endpoint('--json', 'configure', NAME, *options, home=home)
    assert done.returncode == 0, done.stderr
    [config] = get_configs(str(home))
    assert config.name == NAME
    assert uuid.UUID(config.uuid).version == 4
    assert str(uuid.UUID(config.uuid, version=4)) == config.uuid, 'Python would make another id of it'
    given = dict(zip(options[::2], options[1::2], strict=False))
    assert config.relay.address == (
        None if '--no-relay-server' in options else given.get('--relay-address', 'wss://relay.proxystore.dev')
    )
    assert config.relay.auth.method == (None if '--no-relay-auth' in options else 'globus')
    assert config.storage.max_object_size == int(given.get('--max-object-size', 100_000_000))
    assert config.storage.database_path == (str(home / NAME / 'blobs.db') if '--persist' in options else None)


def test_pythons_commands_know_our_endpoint(daemon: OurSite) -> None:
    assert daemon.config.host == '127.0.0.1'
    assert status(daemon) is EndpointStatus.RUNNING
    listed = proxystore_endpoint('list', home=daemon.home).stdout
    assert re.search(rf'{NAME} +RUNNING +{daemon.uuid}', listed), listed
    refused = proxystore_endpoint('start', NAME, '--no-detach', home=daemon.home)
    assert refused.returncode == 1 and 'already running' in refused.stdout
    refused = proxystore_endpoint('remove', NAME, home=daemon.home)
    assert refused.returncode == 1 and 'must be stopped' in refused.stdout


def test_pythons_test_commands_work_on_our_endpoint(daemon: OurSite) -> None:
    def test(*words: str) -> str:
        done = proxystore_endpoint('test', NAME, *words, home=daemon.home)
        assert done.returncode == 0, done.stdout
        return done.stdout

    key = re.search(r'key ([0-9a-f-]{36})', test('put', 'a text'))[1]
    assert 'Object exists: True' in test('exists', key)
    assert 'Result: a text' in test('get', key)
    ours = endpoint('test', NAME, 'get', key, home=daemon.home)
    assert 'a text' in ours.stdout, ours
    test('evict', key)
    assert 'Object exists: False' in test('exists', key)
    assert 'does not exist' in test('get', key)


def test_pythons_client_reads_what_our_test_command_put(daemon: OurSite) -> None:
    done = endpoint('--json', 'test', NAME, 'put', 'ein Text: äöü', home=daemon.home)
    assert done.returncode == 0, done.stderr
    key = re.search(r'[0-9a-f-]{36}', done.stdout.replace(daemon.uuid, ''))[0]
    assert 'Result: ein Text: äöü' in proxystore_endpoint('test', NAME, 'get', key, home=daemon.home).stdout


def test_python_stops_and_removes_our_endpoint(daemon: OurSite) -> None:
    stopped = proxystore_endpoint('stop', NAME, home=daemon.home)
    assert stopped.returncode == 0 and 'has been stopped' in stopped.stdout
    assert not daemon.answers()
    assert status(daemon) is EndpointStatus.STOPPED
    log = (daemon.dir / 'log.txt').read_text()
    assert f'endpoint {NAME} stopped' in log, 'it ended by itself within the second that Python gives it'
    assert proxystore_endpoint('remove', NAME, home=daemon.home).returncode == 0
    assert not daemon.dir.exists()


def test_our_commands_know_a_python_endpoint(home: Path) -> None:
    site = PythonSite(home, NAME)
    site.configure(None)
    site.start()
    try:
        assert re.search(rf'{NAME} +RUNNING +{site.uuid}', endpoint('list', home=home).stdout)
        refused = endpoint('start', NAME, home=home)
        assert refused.returncode == 1 and 'already running' in refused.stderr
        done = endpoint('test', NAME, 'put', 'from our command', home=home)
        assert done.returncode == 0, done.stderr
    finally:
        site.stop()


def test_our_stop_ends_a_python_endpoint(home: Path) -> None:
    site = PythonSite(home, NAME)
    site.configure(None)
    site.start()
    try:
        stopped = endpoint('stop', NAME, home=home)
        assert stopped.returncode == 0, stopped.stderr
        until('the Python endpoint ended', lambda: not site.program.runs())
    finally:
        site.stop()
    assert status(site) is EndpointStatus.STOPPED


@pytest.mark.parametrize('persist', [False, True])
def test_we_start_a_folder_that_python_configured(home: Path, persist: bool) -> None:
    python = PythonSite(home, NAME)
    python.configure(None, *(['--persist'] if persist else []))
    before = read_config(str(python.dir))
    ours = OurSite(home, NAME)
    ours.start()
    try:
        assert ours.uuid == before.uuid
        client.put(ours.address, 'key', b'data', session=ours.session)
        assert client.get(ours.address, 'key', session=ours.session) == b'data'
    finally:
        ours.stop()
    before.host = '127.0.0.1'
    assert read_config(str(python.dir)) == before, 'nothing else of the configuration has changed'


def test_objects_in_pythons_database_are_announced_and_left_alone(home: Path) -> None:
    python = PythonSite(home, NAME)
    python.configure(None, '--persist')
    python.start()
    client.put(python.address, 'old', b'from Python', session=python.session)
    python.stop()

    started = endpoint('start', NAME, home=home)
    try:
        assert started.returncode == 0, started.stderr
        for where in (started.stderr, (python.dir / 'log.txt').read_text()):
            assert re.search(r'warning.*blobs\.db', where, re.IGNORECASE), where
        assert client.get(python.address, 'old', session=python.session) is None
        client.put(python.address, 'new', b'from us', session=python.session)
    finally:
        endpoint('stop', NAME, home=home)

    python.start()
    try:
        assert client.get(python.address, 'old', session=python.session) == b'from Python'
    finally:
        python.stop()


def test_objects_on_disk_survive_a_restart(home: Path) -> None:
    site = OurSite(home, NAME)
    site.configure(None, '--persist')
    for round_ in range(2):
        site.start()
        try:
            if round_ == 0:
                client.put(site.address, 'key', b'data', session=site.session)
            assert client.get(site.address, 'key', session=site.session) == b'data'
        finally:
            site.stop()
