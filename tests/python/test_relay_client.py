"""Python's relay client, and the websockets library it uses, with our relay."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable

import pytest
import websockets
from harness import PATIENCE, Relay, our_relay
from proxystore.p2p.relay.client import RelayClient
from proxystore.p2p.relay.exceptions import RelayRegistrationError
from proxystore.p2p.relay.messages import PeerConnectionRequest

DESCRIPTION = json.dumps({'sdp': 'v=0\r\nÄ "quoted" \\ \u2028', 'type': 'offer'})


def play(scene: Awaitable[None]) -> None:
    """Runs a test's coroutine."""
    asyncio.run(asyncio.wait_for(scene, PATIENCE))


def message(source: RelayClient, peer: uuid.UUID, description: str = DESCRIPTION) -> PeerConnectionRequest:
    """An offer."""
    return PeerConnectionRequest(source.uuid, source.name, peer, 'offer', description)


async def close_code(socket: websockets.ClientConnection) -> int | None:
    """The code that the relay closes the socket with."""
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code


def registration(id_: uuid.UUID) -> str:
    """A registration as Python sends it."""
    return json.dumps({'name': 'raw', 'uuid': str(id_), 'message_type': 'relay_registration'})


def test_messages_are_forwarded_both_ways(relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(relay.address, client_name='a') as a, RelayClient(relay.address, client_name='b') as b:
            offer, answer = message(a, b.uuid), message(b, a.uuid)
            answer.description_type = 'answer'
            await a.send(offer)
            assert await b.recv() == offer
            await b.send(answer)
            assert await a.recv() == answer

    play(scene())


def test_a_message_to_oneself_comes_back(relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(relay.address) as client:
            await client.send(message(client, client.uuid))
            assert await client.recv() == message(client, client.uuid)

    play(scene())


def test_a_peer_reports_an_error(relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(relay.address) as a, RelayClient(relay.address) as b:
            refusal = message(a, b.uuid)
            refusal.error = 'cannot answer'
            await a.send(refusal)
            assert await b.recv() == refusal

    play(scene())


def test_a_message_to_an_unknown_peer_comes_back_with_an_error(relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(relay.address) as client:
            lost = message(client, uuid.uuid4())
            await client.send(lost)
            returned = await client.recv()
            assert str(lost.peer_uuid) in returned.error
            returned.error = None
            assert returned == lost

    play(scene())


def test_a_second_registration_replaces_the_first(relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(relay.address, reconnect_task=False) as first:
            socket = first.websocket
            async with RelayClient(relay.address, client_uuid=first.uuid) as second:
                assert await close_code(socket) == 4004
                with pytest.raises(RelayRegistrationError):
                    await first.connect()
                await second.send(message(second, second.uuid))
                assert await second.recv() == message(second, second.uuid)

    play(scene())


def test_registering_again_on_one_socket_is_harmless(relay: Relay) -> None:
    async def scene() -> None:
        async with websockets.connect(relay.address) as socket:
            id_ = uuid.uuid4()
            for _ in range(2):
                await socket.send(registration(id_))
                assert json.loads(await socket.recv())['success'] is True

    play(scene())


def test_the_client_comes_back_to_a_restarted_relay() -> None:
    relay = our_relay()

    async def scene() -> None:
        async with RelayClient(relay.address) as client:
            socket = client.websocket
            await asyncio.to_thread(relay.stop)
            await socket.wait_closed()
            await asyncio.to_thread(relay.start)
            await client.send(message(client, client.uuid))
            assert await client.recv() == message(client, client.uuid)

    try:
        play(scene())
    finally:
        relay.stop()


UNDECODABLE = {
    'not JSON': 'hello',
    'no object': '[]',
    'binary': b'{}',
    'unknown type': '{"message_type": "gossip"}',
    'no type': '{"name": "a"}',
    'missing key': '{"message_type": "relay_registration", "name": "a"}',
    'unknown key': json.dumps({'message_type': 'relay_registration', 'name': 'a', 'uuid': str(uuid.uuid4()), 'x': 1}),
    'bad id': '{"message_type": "relay_registration", "name": "a", "uuid": "b"}',
}


@pytest.mark.parametrize('name', UNDECODABLE)
def test_what_is_no_message_closes_with_4000(relay: Relay, name: str) -> None:
    async def scene() -> None:
        async with websockets.connect(relay.address) as socket:
            await socket.send(UNDECODABLE[name])
            assert await close_code(socket) == 4000

    play(scene())


def test_a_message_before_registration_closes_with_4002(relay: Relay) -> None:
    async def scene() -> None:
        async with websockets.connect(relay.address) as socket:
            offer = {'source_uuid': str(uuid.uuid4()), 'source_name': 'a', 'peer_uuid': str(uuid.uuid4())}
            rest = {'description_type': 'offer', 'description': '{}', 'error': None}
            await socket.send(json.dumps({**offer, **rest, 'message_type': 'peer_connection'}))
            assert await close_code(socket) == 4002

    play(scene())


def test_a_false_sender_closes_with_4002(relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(relay.address, reconnect_task=False) as client:
            forged = message(client, client.uuid)
            forged.source_uuid = uuid.uuid4()
            await client.send(forged)
            assert await close_code(client.websocket) == 4002

    play(scene())


@pytest.fixture
def strict_relay(tmp_path):
    """A relay that takes messages of 4 kB at most."""
    config = tmp_path / 'relay.toml'
    config.write_text('max_message_bytes = 4000\n')
    relay = our_relay('--config', config)
    yield relay
    relay.stop()


def test_a_message_over_the_limit_closes_with_4003(strict_relay: Relay) -> None:
    async def scene() -> None:
        async with RelayClient(strict_relay.address, reconnect_task=False) as client:
            await client.send(message(client, client.uuid, 'x' * 3000))
            assert (await client.recv()).description == 'x' * 3000
            await client.send(message(client, client.uuid, 'x' * 4000))
            assert await close_code(client.websocket) == 4003

    play(scene())
