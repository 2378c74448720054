"""aiortc, which Python endpoints connect with, understands the offers that our endpoint sends."""

from __future__ import annotations

import asyncio
import json
import uuid

import aiortc
import pytest
import requests
from aiortc.contrib.signaling import object_from_string
from harness import PATIENCE, OurSite, Relay
from proxystore.endpoint import client
from proxystore.p2p.relay.client import RelayClient
from proxystore.p2p.relay.messages import PeerConnectionRequest


async def capture_offer(relay: Relay, site: OurSite) -> PeerConnectionRequest:
    """Poses as a peer that one of the site's clients asks for, and refuses."""
    async with RelayClient(relay.address, client_uuid=uuid.uuid4()) as peer:
        asking = asyncio.to_thread(client.exists, site.address, 'key', peer.uuid, site.session)
        request = asyncio.create_task(asking)
        offer = await asyncio.wait_for(peer.recv(), PATIENCE)
        refusal = PeerConnectionRequest(peer.uuid, peer.name, offer.source_uuid, 'answer', offer.description)
        refusal.error = 'not today'
        await peer.send(refusal)
        with pytest.raises(requests.RequestException, match='not today'):
            await request
        return offer


async def answer(description: str) -> aiortc.RTCSessionDescription:
    """What aiortc answers to an offer, as a Python endpoint makes it do."""
    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    try:
        await connection.setRemoteDescription(object_from_string(description))
        await connection.setLocalDescription(await connection.createAnswer())
        return connection.localDescription
    finally:
        await connection.close()


def test_aiortc_answers_our_offer(sites: tuple[OurSite, OurSite], relay: Relay) -> None:
    offer = asyncio.run(asyncio.wait_for(capture_offer(relay, sites[0]), PATIENCE))
    assert (offer.source_uuid, offer.source_name) == (uuid.UUID(sites[0].uuid), sites[0].name)
    assert offer.description_type == 'offer' and offer.error is None
    assert set(json.loads(offer.description)) == {'sdp', 'type'}

    answered = asyncio.run(asyncio.wait_for(answer(offer.description), PATIENCE))
    assert answered.type == 'answer'
    assert 'm=application' in answered.sdp and 'UDP/DTLS/SCTP webrtc-datachannel' in answered.sdp


def test_every_offer_has_credentials_of_its_own(sites: tuple[OurSite, OurSite], relay: Relay) -> None:
    def credentials() -> set[str]:
        offer = asyncio.run(asyncio.wait_for(capture_offer(relay, sites[0]), PATIENCE))
        lines = json.loads(offer.description)['sdp'].splitlines()
        return {line for line in lines if line.startswith(('a=ice-ufrag:', 'a=ice-pwd:', 'a=proxystore-session:'))}

    first, second = credentials(), credentials()
    assert len(first) == len(second) == 3
    assert not first & second
