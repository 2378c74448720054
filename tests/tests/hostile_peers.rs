//! Peers that lie, babble or fall silent harm nobody but themselves.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use noq::Connection;
use proxystore_shared::digest::{GROUP_LEN, group_digest};
use proxystore_shared::frame::{self, Answer, LEAD_GROUPS, ObjectMeta, Refusal, Request};
use proxystore_shared::relay_message::DescriptionKind;
use proxystore_shared::{Digest, EndpointId};
use proxystore_tests::scripted::{ScriptedPeer, answer_missing, ask, ask_raw, new_identity, next_request};
use proxystore_tests::{Site, noise, relay, url};

/// A site that loses patience after a second.
async fn impatient(relay: &str) -> Result<Site> {
    let site = Site::build("a", relay)?.with(|config| {
        config.peering.connect_timeout = 2;
        config.peering.read_timeout = 1;
    });
    site.start().await
}

/// What `site` says when asked for an object of `peer`.
async fn get(site: &Site, peer: EndpointId) -> Result<(u16, String)> {
    let url = format!("{}?endpoint={peer}", site.url("/v1/objects/k"));
    let answer = site.http().get(url).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn works(site: &Site) -> Result<()> {
    site.put("own", None, Bytes::from_static(b"fine")).await?;
    assert_eq!(&site.get("own", None).await?[..], b"fine");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_id_does_not_stand_for_is_refused() -> Result<()> {
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let victim = EndpointId::certified_by(&new_identity()?.public_key());
    let mut liar = ScriptedPeer::register_as(&url(&relay), victim, new_identity()?).await?;
    let (answer, _) = tokio::join!(get(&a, victim), liar.answer_without_waiting());
    let (status, text) = answer?;
    assert_eq!(status, 502, "{text}");
    assert!(text.contains("not the one its id"), "{text}");
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_claimed_but_not_proven_is_refused() -> Result<()> {
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let real = new_identity()?;
    let victim = EndpointId::certified_by(&real.public_key());
    let mut liar = ScriptedPeer::register_as(&url(&relay), victim, new_identity()?).await?;
    let (answer, connection) = tokio::join!(get(&a, victim), liar.answer_claiming(real.public_key()));
    let (status, text) = answer?;
    assert_eq!(status, 504, "{text}");
    assert!(text.contains("no address of either side could be reached"), "{text}");
    assert!(connection.is_err(), "the handshake must fail");
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_of_a_python_id_is_refused() -> Result<()> {
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let id: EndpointId = "12345678-1234-4234-9234-123456789abc".parse()?;
    let mut first = ScriptedPeer::register_as(&url(&relay), id, new_identity()?).await?;
    let serve = async {
        let connection = first.answer().await?;
        answer_missing(&connection).await?;
        connection.close(0u32.into(), b"");
        anyhow::Ok(())
    };
    let (answer, served) = tokio::join!(get(&a, id), serve);
    served?;
    assert_eq!(answer?.0, 404);
    let mut second = ScriptedPeer::register_as(&url(&relay), id, new_identity()?).await?;
    let (answer, _) = tokio::join!(get(&a, id), second.answer_without_waiting());
    let (status, text) = answer?;
    assert_eq!(status, 502, "{text}");
    assert!(text.contains("has changed") && text.contains("known_peers.toml"), "{text}");
    Ok(())
}

fn meta_of(bytes: &[u8]) -> ObjectMeta {
    ObjectMeta { size: bytes.len() as u64, digest: Digest::of(bytes), created_ms: 0 }
}

/// Answers one `get` with `bytes` as they are.
async fn babble(peer: &mut ScriptedPeer, bytes: Vec<u8>) -> Result<Connection> {
    let connection = peer.answer().await?;
    let (_, mut send, _) = next_request(&connection).await?;
    send.write_all(&bytes).await?;
    send.finish()?;
    Ok(connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_make_no_sense_become_errors() -> Result<()> {
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let object = |meta: ObjectMeta, end, ticket| {
        frame::encode(&Answer::Object { meta, start: 0, end, ticket, lead: 0 })
    };
    let small = meta_of(b"abc");
    let wrong_bytes = [&object(small.clone(), 3, None)?[..], b"xyz"].concat();
    let short = [&object(small.clone(), 3, None)?[..], b"a"].concat();
    let huge = ObjectMeta { size: u64::MAX, ..small.clone() };
    let cases = [
        ("noise", noise(500, 1).to_vec()),
        ("a header that is too long", vec![0xff, 0xff]),
        ("an answer to another question", frame::encode(&Answer::Accepted)?.to_vec()),
        ("nothing", Vec::new()),
        ("bytes of another object", wrong_bytes),
        ("too few bytes", short),
        ("a part nobody asked for", object(small.clone(), 2, None)?.to_vec()),
        ("a huge object in one piece", object(huge, u64::MAX, None)?.to_vec()),
    ];
    for (what, bytes) in cases {
        let mut peer = ScriptedPeer::register(&url(&relay)).await?;
        let id = peer.id;
        let (answer, connection) = tokio::join!(get(&a, id), babble(&mut peer, bytes));
        let _connection = connection?;
        let (status, text) = answer?;
        assert_eq!(status, 502, "{what}: {text}");
        assert!(text.contains("protocol"), "{what}: {text}");
    }
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_is_given_up() -> Result<()> {
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let id = peer.id;
    let stall = async {
        let connection = peer.answer().await?;
        let streams = next_request(&connection).await?;
        anyhow::Ok((connection, streams))
    };
    let (answer, held) = tokio::join!(get(&a, id), stall);
    let _held = held?;
    let (status, text) = answer?;
    assert_eq!(status, 504, "{text}");
    assert!(text.contains("sent nothing for 1 s"), "{text}");
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_group_never_reaches_the_client() -> Result<()> {
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let id = peer.id;
    let whole = noise(2 * GROUP_LEN as usize, 3);
    let lie = async {
        let connection = peer.answer().await?;
        let (_, mut send, _open) = next_request(&connection).await?;
        let meta = meta_of(&whole);
        let end = meta.size;
        send.write_all(&frame::encode(&Answer::Object { meta, start: 0, end, ticket: Some(1), lead: 0 })?)
            .await?;
        for _ in 0..2 {
            let (_, mut send, _) = next_request(&connection).await?;
            send.write_all(&frame::encode(&Answer::Group { len: GROUP_LEN, digest: Digest([0; 32]) })?)
                .await?;
            // The reader may hang up as soon as it has seen one lie.
            let _ = send.write_all(&whole[..GROUP_LEN as usize]).await;
            let _ = send.finish();
        }
        anyhow::Ok((connection, send, _open))
    };
    let url = format!("{}?endpoint={id}", a.url("/v1/objects/k"));
    let fetch = async { a.http().get(url).send().await?.bytes().await };
    let (fetched, _held) = tokio::join!(fetch, lie);
    assert!(fetched.is_err(), "a torn object must not end cleanly");
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lead_does_not_bring_is_asked_for() -> Result<()> {
    const LEN: usize = GROUP_LEN as usize;
    let relay = relay().await?;
    let a = impatient(&url(&relay)).await?;
    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let id = peer.id;
    let whole = noise(4 * LEN, 3);
    let group = |index: u64| whole.slice(index as usize * LEN..(index as usize + 1) * LEN);
    let digest = |index| group_digest(index, false, [&whole[index as usize % 4 * LEN..][..LEN]]);
    let own = async {
        let connection = peer.answer().await?;
        let (request, mut send, receive) = next_request(&connection).await?;
        let Request::Get { lead: Some(ticket), .. } = request else { bail!("the first reader wants a lead") };
        let meta = meta_of(&whole);
        let end = meta.size;
        send.write_all(&frame::encode(&Answer::Object { meta, start: 0, end, ticket: Some(1), lead: 4 })?)
            .await?;
        let push = async |index, len, bytes: Bytes| {
            let lead = Request::Lead { ticket, index, len, digest: digest(index) };
            ask_raw(&connection, &[&frame::encode(&lead)?[..], &bytes].concat()).await
        };
        ensure!(push(0, GROUP_LEN, group(0)).await? == Answer::Accepted);
        let refused = [
            ("damaged", push(1, GROUP_LEN, group(0)).await?),
            ("could not be read", push(2, 0, Bytes::new()).await?),
            ("came already", push(0, GROUP_LEN, Bytes::new()).await?),
            ("not in the lead", push(LEAD_GROUPS, GROUP_LEN, Bytes::new()).await?),
        ];
        for (why, answer) in refused {
            ensure!(matches!(answer, Answer::Failed { reason: Refusal::Invalid, .. }), "{why}: {answer:?}");
        }
        // Group 3 never comes by itself.
        let mut asked = Vec::new();
        while asked.len() < 3 {
            let (request, mut send, _) = next_request(&connection).await?;
            let Request::Group { ticket: 1, index } = request else { bail!("{request:?}") };
            send.write_all(&frame::encode(&Answer::Group { len: GROUP_LEN, digest: digest(index) })?).await?;
            send.write_all(&group(index)).await?;
            send.finish()?;
            asked.push(index);
        }
        asked.sort_unstable();
        Ok((asked, connection, send, receive))
    };
    let url = format!("{}?endpoint={id}", a.url("/v1/objects/k"));
    let fetch = async { a.http().get(url).send().await?.bytes().await };
    let (fetched, owned) = tokio::join!(fetch, own);
    let (asked, ..) = owned?;
    assert!(fetched? == whole);
    assert_eq!(asked, [1, 2, 3]);
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_and_the_session_goes_on() -> Result<()> {
    let relay = relay().await?;
    let a = Site::start("a", &url(&relay)).await?;
    a.put("k", None, noise(3 << 20, 1)).await?;
    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let connection = peer.call(a.id()).await?;
    for bytes in [
        noise(300, 1).to_vec(),
        vec![0xff, 0xff, 0, 0],
        b"\x00\x02{}".to_vec(),
        b"\x00\x0d{\"op\":\"steal\"}".to_vec(),
    ] {
        let answer = ask_raw(&connection, &bytes).await?;
        assert!(matches!(answer, Answer::Failed { reason: Refusal::Invalid, .. }), "{answer:?}");
    }
    let object_id: proxystore_shared::ObjectId = "k".parse()?;
    let nonsense = [
        Request::Group { ticket: 99, index: 0 },
        Request::Part { ticket: 99, index: 0, len: 5, digest: Digest([0; 32]) },
        Request::Commit { size: 1, digest: Digest([0; 32]) },
        Request::Put { object_id: object_id.clone(), size: None, create_only: false, inline: Some(u64::MAX) },
    ];
    for request in nonsense {
        let (answer, ..) = ask(&connection, &request, Bytes::new()).await?;
        assert!(matches!(answer, Answer::Failed { reason: Refusal::Invalid, .. }), "{request:?}: {answer:?}");
    }
    let (answer, ..) = ask(&connection, &Request::Stat { object_id }, Bytes::new()).await?;
    assert!(matches!(answer, Answer::Known { .. }), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_stores_nothing_unless_it_is_what_was_announced() -> Result<()> {
    let relay = relay().await?;
    let a = Site::start("a", &url(&relay)).await?;
    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let connection = peer.call(a.id()).await?;
    let put = Request::Put { object_id: "k".parse()?, size: None, create_only: false, inline: None };
    let (answer, mut send, mut receive) = ask(&connection, &put, Bytes::new()).await?;
    let Answer::Continue { ticket } = answer else { panic!("{answer:?}") };
    let group = noise(GROUP_LEN as usize, 1);
    let part = |index, digest| Request::Part { ticket, index, len: GROUP_LEN, digest };
    let right = proxystore_shared::digest::group_digest(0, false, [&group[..]]);
    let (answer, ..) = ask(&connection, &part(0, Digest([0; 32])), group.clone()).await?;
    assert!(matches!(answer, Answer::Failed { .. }), "a damaged part: {answer:?}");
    let (answer, ..) = ask(&connection, &part(500, right), group.clone()).await?;
    assert!(matches!(answer, Answer::Failed { .. }), "a part far ahead: {answer:?}");
    let empty = Request::Part { ticket, index: 0, len: 0, digest: Digest([0; 32]) };
    let (answer, ..) = ask(&connection, &empty, Bytes::new()).await?;
    assert!(matches!(answer, Answer::Failed { .. }), "an empty part: {answer:?}");
    let (answer, ..) = ask(&connection, &part(0, right), group.clone()).await?;
    assert_eq!(answer, Answer::Accepted);
    send.write_all(&frame::encode(&Request::Commit { size: GROUP_LEN, digest: Digest([9; 32]) })?).await?;
    let end = receive.read_to_end(1 << 16).await?;
    assert!(String::from_utf8_lossy(&end).contains("failed"), "a commit of something else");
    assert!(a.get("k", None).await.is_err());
    // An upload whose connection ends leaves nothing either.
    let (answer, ..) = ask(&connection, &put, Bytes::new()).await?;
    assert!(matches!(answer, Answer::Continue { .. }), "{answer:?}");
    connection.close(0u32.into(), b"gone");
    works(&a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_that_make_no_sense_are_answered_with_an_error() -> Result<()> {
    let relay = relay().await?;
    let a = Site::start("a", &url(&relay)).await?;
    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let python = r#"{"sdp": "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n", "type": "offer"}"#;
    for (description, expected) in [("rubbish", "unusable"), (python, "WebRTC")] {
        peer.send(a.id(), DescriptionKind::Offer, description.to_owned()).await?;
        let error = peer.receive().await?.error.expect("an error");
        assert!(error.contains(expected), "{error}");
    }
    works(&a).await
}
