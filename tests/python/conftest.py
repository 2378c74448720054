"""Fixtures: relays and endpoints that are gone when their test, or their file, is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import OurSite, PythonSite, Relay, Site, our_relay, python_relay

# A proxy that the machine may need for the world outside is no way to 127.0.0.1.
os.environ['NO_PROXY'] = os.environ['no_proxy'] = '127.0.0.1'

StartSite = Callable[..., Site]


@pytest.fixture(scope='module')
def relay() -> Iterator[Relay]:
    """Our relay."""
    relay = our_relay()
    yield relay
    relay.stop()


@pytest.fixture(scope='module')
def relay_of_python() -> Iterator[Relay]:
    """Python's relay."""
    relay = python_relay()
    yield relay
    relay.stop()


@pytest.fixture(scope='module', params=['our relay', 'python relay'])
def either_relay(request: pytest.FixtureRequest) -> Iterator[Relay]:
    """Each of the two relays in turn."""
    relay = our_relay() if request.param == 'our relay' else python_relay()
    yield relay
    relay.stop()


@pytest.fixture(scope='module')
def start_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartSite]:
    """Configures and starts an endpoint in a home of its own: `start_site(OurSite, 'a', relay)`."""
    with ExitStack() as sites:

        def start(kind: type[OurSite | PythonSite], name: str, relay: Relay | None, *options: str) -> Site:
            site = kind(tmp_path_factory.mktemp(f'home-{name}'), name)
            site.configure(relay, *options)
            sites.callback(site.stop)
            site.start()
            return site

        yield start


@pytest.fixture(scope='module')
def sites(start_site: StartSite, relay: Relay) -> tuple[OurSite, OurSite]:
    """Two of our endpoints, peers over our relay."""
    return start_site(OurSite, 'site-a', relay), start_site(OurSite, 'site-b', relay)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty ProxyStore home."""
    path = tmp_path / 'home'
    path.mkdir()
    return path
