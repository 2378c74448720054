"""Starts and stops the programs under test: relays and endpoints, ours and Python's, on loopback only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import requests
from proxystore.endpoint.config import EndpointConfig, read_config

HERE = Path(__file__).parent
BIN_DIR = Path(os.environ.get('PROXYSTORE_BIN_DIR', HERE / '../../target/debug')).resolve()
PYTHON_BIN_DIR = Path(sys.executable).parent

PATIENCE = 60.0
"""Seconds that a step may take at most: far more than it needs on a busy machine."""

PORTS = iter(range(21_000 + os.getpid() * 97 % 9_000, 32_000))
"""Ports to try, another beginning for each process."""


class Session(requests.Session):
    """A session for `proxystore.endpoint.client`, which itself waits for ever."""

    def request(self, *args, **kwargs):
        kwargs.setdefault('timeout', PATIENCE)
        return super().request(*args, **kwargs)


def free_port() -> int:
    """A free port, given out once, below those that Linux gives to sockets that ask for any."""
    for port in PORTS:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(('127.0.0.1', port))
            return port
    raise OSError('no port is free')


def until(what: str, condition: Callable[[], bool]) -> None:
    """Waits until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f'{what}: not within {PATIENCE} s'
        time.sleep(0.05)


def run(*words: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with `home` as ProxyStore's home."""
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, 'PROXYSTORE_HOME': str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def endpoint(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Our command line."""
    return run(BIN_DIR / 'endpoint', *words, home=home)


def proxystore_endpoint(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Python's command line."""
    return run(PYTHON_BIN_DIR / 'proxystore-endpoint', *words, home=home)


class Program:
    """A running program. Its output is the test's: pytest shows it when the test fails."""

    def __init__(self, name: str, words: list[str | Path], env: dict[str, str] | None = None) -> None:
        self.name = name
        print(f'[{name}] started')
        self.process = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ends it, by force if it does not listen."""
        if self.runs():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Relay:
    """A relay on a port of its own, which it keeps when it is started again."""

    def __init__(self, command: list[str | Path], name: str) -> None:
        self.port = free_port()
        self.address = f'ws://127.0.0.1:{self.port}'
        self._command = [*command, '--host', '127.0.0.1', '--port', str(self.port)]
        self._name = name
        self.start()

    def start(self) -> None:
        """Starts it and waits until it accepts connections."""
        self._program = Program(self._name, self._command)
        try:
            until(f'{self._name} listens', self._listens)
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        assert self._program.runs(), f'{self._name} ended'
        with socket.socket() as client:
            return client.connect_ex(('127.0.0.1', self.port)) == 0

    def stop(self) -> None:
        """Stops it."""
        self._program.stop()


def our_relay(*options: str | Path) -> Relay:
    """This project's relay."""
    return Relay([BIN_DIR / 'relay', '--udp-ports', '0,0', *options], 'relay')


def python_relay() -> Relay:
    """Python's relay."""
    return Relay([PYTHON_BIN_DIR / 'proxystore-relay'], 'proxystore-relay')


class Site:
    """An endpoint in a ProxyStore home of its own."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        self.name = name
        self.dir = home / name
        self.session = Session()
        self.program: Program | None = None

    @property
    def config(self) -> EndpointConfig:
        """The configuration as Python reads it."""
        return read_config(str(self.dir))

    @cached_property
    def uuid(self) -> str:
        """The endpoint's id."""
        return self.config.uuid

    @cached_property
    def address(self) -> str:
        """Where its HTTP API is."""
        return f'http://127.0.0.1:{self.config.port}'

    def launch(self, words: list[str | Path]) -> None:
        """Starts the endpoint and waits until it answers."""
        # Read now: Python rewrites its configuration as it starts, and not at one stroke.
        expected = self.address, self.uuid
        self.program = Program(self.name, words, {'PROXYSTORE_HOME': str(self.home)})
        try:
            until(f'{expected} answers', self.answers)
        except BaseException:
            self.stop()
            raise

    def answers(self) -> bool:
        """Whether the endpoint is there."""
        assert self.program is None or self.program.runs(), f'{self.name} ended'
        try:
            return self.session.get(f'{self.address}/endpoint').json()['uuid'] == self.uuid
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """Stops the endpoint."""
        if self.program is not None:
            self.program.stop()
            self.program = None


class OurSite(Site):
    """An endpoint of this project."""

    def configure(self, relay: Relay | None, *options: str) -> None:
        """Makes the endpoint's folder."""
        peering = ['--no-relay-server'] if relay is None else ['--relay-address', relay.address, '--no-relay-auth']
        words = ['--host', '127.0.0.1', '--port', str(free_port()), '--peer-bind', '127.0.0.1']
        done = endpoint('configure', self.name, *words, *peering, *options, home=self.home)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Starts the endpoint and waits until its relay, if any, knows it."""
        self.launch([BIN_DIR / 'endpoint', 'start', self.name, '--no-detach'])
        if self.config.relay.address is not None:
            until(f'{self.name} is registered', self.is_registered)

    def is_registered(self) -> bool:
        """Whether the relay knows the endpoint."""
        return self.session.get(f'{self.address}/v1/status').json()['relay']['connected']


class PythonSite(Site):
    """An endpoint of Python ProxyStore."""

    def configure(self, relay: Relay | None, *options: str) -> None:
        """Makes the endpoint's folder."""
        peering = ['--no-relay-server'] if relay is None else ['--relay-address', relay.address, '--no-relay-auth']
        words = ['--host', '127.0.0.1', '--port', str(free_port())]
        done = proxystore_endpoint('configure', self.name, *words, *peering, *options, home=self.home)
        assert done.returncode == 0, done.stdout
        # Without this, aiortc asks public STUN servers for its address.
        path = self.dir / 'config.toml'
        path.write_text(path.read_text().replace('[relay]\n', '[relay]\nice_servers = []\n'))

    def start(self) -> None:
        """Starts the endpoint; it answers once its relay, if any, knows it."""
        if self.config.relay.address is None:
            self.launch([PYTHON_BIN_DIR / 'proxystore-endpoint', 'start', self.name, '--no-detach'])
        else:
            self.launch([sys.executable, HERE / 'python_endpoint.py', self.name])
