//! Against servers that do what no endpoint should.

use std::future::Future;

use futures_util::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

/// Far longer than anything takes here.
const LONG: Duration = Duration::from_secs(30);

/// Of clients that are to give up.
const SHORT: Duration = Duration::from_millis(200);

/// More than the sockets in between hold.
const LARGE: usize = 64 << 20;

/// Ends its server when dropped.
struct Served {
    client: Client,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs `script` on every connection, with its number.
async fn serve<F, R>(patience: Duration, script: F) -> Served
where
    F: Fn(usize, TcpStream) -> R + Send + 'static,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(number, stream));
        }
    });
    Served { client: Client::new("127.0.0.1", port, patience), task }
}

/// Answers every request with these bytes, and closes.
async fn answering(answer: impl Into<Vec<u8>>) -> Served {
    let answer: Arc<[u8]> = answer.into().into();
    serve(LONG, move |_, mut stream| {
        let answer = answer.clone();
        async move {
            head_of_request(&mut stream).await?;
            stream.write_all(&answer).await
        }
    })
    .await
}

async fn head_of_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

async fn fetch(client: &Client, limit: u64) -> Result<Object, ConnectorError> {
    client.send(&Request::get("/get?key=a")).await?.object(limit).await
}

fn is_broken<T: std::fmt::Debug>(outcome: &Result<T, ConnectorError>) -> bool {
    matches!(outcome, Err(ConnectorError::Broken { .. }))
}

#[tokio::test]
async fn an_answer_cut_short_is_no_object() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
    ] {
        let server = answering(answer).await;
        let outcome = fetch(&server.client, u64::MAX).await;
        assert!(is_broken(&outcome), "{answer:?}: {outcome:?}");
        let Ok(response) = server.client.send(&Request::get("/")).await else { continue };
        let streamed = response.into_stream().chunks.try_collect::<Vec<_>>().await;
        assert!(is_broken(&streamed), "{answer:?}: {streamed:?}");
    }
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-Header: and so on\r\n".repeat(10_000));
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n12345",
        &endless,
    ] {
        let server = answering(answer).await;
        let outcome = fetch(&server.client, u64::MAX).await;
        assert!(is_broken(&outcome), "{}: {outcome:?}", &answer[..20]);
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let server = serve(LONG, |_, mut stream| async move {
        head_of_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        loop {
            stream.write_all(b"3\r\nabc\r\n").await?;
        }
    });
    let server = server.await;
    let outcome = fetch(&server.client, 1 << 20).await;
    assert!(matches!(&outcome, Err(ConnectorError::Refused { .. })), "{outcome:?}");
    let mut stream = server.client.send(&Request::get("/")).await.unwrap().into_stream();
    assert_eq!(stream.chunks.try_next().await.unwrap().unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = serve(SHORT, |_, stream| async move {
        tokio::time::sleep(LONG).await;
        drop(stream);
        Ok(())
    });
    let server = server.await;
    let timeout = ConnectorError::Timeout { target: server.client.name().to_owned(), after: SHORT };
    assert_eq!(fetch(&server.client, 10).await, Err(timeout.clone()));
    let unread = Request::post("/set?key=a", Object::from(vec![0; LARGE]));
    assert_eq!(server.client.send(&unread).await.unwrap_err(), timeout);
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_an_upload_arrives() {
    for drains in [true, false] {
        let server = serve(LONG, move |_, mut stream| async move {
            head_of_request(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nsplit i").await?;
            if drains {
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            }
            Ok(())
        });
        let server = server.await;
        let object = Object::from(vec![0; LARGE]);
        let response = server.client.send(&Request::post("/set?key=a", object.clone())).await.unwrap();
        assert_eq!(
            (response.status, response.object(99).await.unwrap().into_bytes()),
            (413, "split i".into())
        );
        let mut stream = ObjectStream { len: None, ..ObjectStream::from(object) };
        let response = server.client.upload("/set?key=a", &mut stream).await.unwrap();
        assert_eq!((response.status, response.object(99).await.unwrap().len()), (413, 7));
    }
}

#[tokio::test]
async fn a_success_before_the_whole_request_is_none() {
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let outcome = server.client.send(&Request::post("/set?key=a", Object::from(vec![0; LARGE]))).await;
    assert!(is_broken(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn connections_are_used_again_and_dead_ones_are_replaced() {
    // Each connection serves two requests and then dies with the third.
    let server = serve(LONG, |number, mut stream| async move {
        for _ in 0..2 {
            head_of_request(&mut stream).await?;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{number:02}");
            stream.write_all(answer.as_bytes()).await?;
        }
        head_of_request(&mut stream).await.map(|_| ())
    });
    let server = server.await;
    for expected in ["00", "00", "01", "01", "02"] {
        assert_eq!(fetch(&server.client, 10).await.unwrap().into_bytes(), expected);
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_not_taken_for_the_next() {
    let server = serve(LONG, |number, mut stream| async move {
        head_of_request(&mut stream).await?;
        let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{number:02}{smuggled}");
        stream.write_all(answer.as_bytes()).await?;
        head_of_request(&mut stream).await.map(|_| ())
    });
    let server = server.await;
    for expected in ["00", "01"] {
        assert_eq!(fetch(&server.client, 10).await.unwrap().into_bytes(), expected);
    }
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    let server = answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    assert_eq!(fetch(&server.await.client, 10).await.unwrap().into_bytes(), "ok");
}

#[tokio::test]
async fn requests_are_what_they_should_be() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = serve(LONG, move |_, mut stream| {
        let sender = sender.clone();
        async move {
            let mut request = head_of_request(&mut stream).await?;
            stream.set_nodelay(true)?;
            if !request.starts_with("GET") {
                let end = if request.contains("chunked") { "0\r\n\r\n" } else { "hello" };
                while !request.ends_with(end) {
                    request.push(stream.read_u8().await?.into());
                }
            }
            sender.send(request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await
        }
    });
    let server = server.await;
    let host = format!("Host: 127.0.0.1:{}\r\n", server.client.port);
    let hello = || Object::from_iter([Bytes::from_static(b"hel"), Bytes::from_static(b"lo")]);
    server.client.send(&Request::get("/get?key=a")).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), format!("GET /get?key=a HTTP/1.1\r\n{host}\r\n"));
    server.client.send(&Request::post("/set?key=a", hello())).await.unwrap();
    let head = format!("POST /set?key=a HTTP/1.1\r\n{host}Content-Type: application/octet-stream\r\n");
    assert_eq!(receiver.recv().await.unwrap(), format!("{head}Content-Length: 5\r\n\r\nhello"));
    let mut stream = ObjectStream { len: None, ..ObjectStream::from(hello()) };
    server.client.upload("/set?key=a", &mut stream).await.unwrap();
    let chunks = "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
    assert_eq!(receiver.recv().await.unwrap(), format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for host in ["127.0.0.1", "no such host"] {
        let outcome = fetch(&Client::new(host, port, LONG), 10).await;
        assert!(matches!(&outcome, Err(ConnectorError::Unreachable { .. })), "{outcome:?}");
    }
    assert_eq!(in_url("::1"), "[::1]");
}
