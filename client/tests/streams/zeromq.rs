use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore::stream::zeromq::{ZeroMqPublisher, ZeroMqSubscriber};
use proxystore::stream::{Publisher, StreamConsumer, StreamError, StreamProducer, Subscriber};

use crate::server::python;
use crate::suite::{self, Broker, PATIENCE};

struct ZeroMq(Arc<ZeroMqPublisher>);

impl ZeroMq {
    async fn new() -> Self {
        Self(Arc::new(ZeroMqPublisher::bind("127.0.0.1:0").await.unwrap()))
    }

    async fn connect(&self, topic: &str) -> Result<ZeroMqSubscriber, StreamError> {
        ZeroMqSubscriber::connect(&self.0.address().to_string(), topic).await
    }
}

#[async_trait]
impl Broker for ZeroMq {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.0.clone()
    }

    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber> {
        let subscriber = self.connect(topic).await.unwrap();
        self.0.wait_for_subscribers(topic, 1, PATIENCE).await.unwrap();
        Box::new(subscriber)
    }
}

#[tokio::test]
async fn suite() {
    suite::check(ZeroMq::new().await).await;
}

#[tokio::test]
async fn every_subscriber_gets_everything_and_closing_waits_for_them() {
    let broker = ZeroMq::new().await;
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        subscribers.push(broker.connect("t").await.unwrap());
    }
    broker.0.wait_for_subscribers("t", 3, PATIENCE).await.unwrap();
    let message = Bytes::from(vec![7; 1 << 20]);
    let receiving = tokio::spawn({
        let message = message.clone();
        async move {
            for mut subscriber in subscribers {
                for _ in 0..30 {
                    assert_eq!(subscriber.next().await.unwrap(), message);
                }
                assert!(matches!(subscriber.next().await, Err(StreamError::Broken { .. })), "closed");
            }
        }
    });
    for _ in 0..30 {
        broker.0.publish("t", message.clone()).await.unwrap();
    }
    broker.0.close().await.unwrap();
    receiving.await.unwrap();
    assert!(broker.0.publish("t", message).await.is_err(), "it is closed");
}

/// Sends what it gets on one topic back on another.
const ECHO: &str = r#"
import sys, zmq
context = zmq.Context()
publisher = context.socket(zmq.XPUB)
port = publisher.bind_to_random_port("tcp://127.0.0.1")
subscriber = context.socket(zmq.SUB)
subscriber.setsockopt(zmq.SUBSCRIBE, b"there")
subscriber.connect("tcp://" + sys.argv[1])
print(port, flush=True)
assert publisher.recv() == b"\x01back"
while True:
    topic, message = subscriber.recv_multipart()
    publisher.send_multipart((b"back and more", b"not for us"))
    publisher.send_multipart((b"back", message))
"#;

#[tokio::test]
async fn libzmq_understands_both_ends() {
    let broker = ZeroMq::new().await;
    let address = broker.0.address().to_string();
    let Some(echo) = python("zmq", ECHO, &[&address]) else { return };
    let back = ZeroMqSubscriber::connect(&format!("127.0.0.1:{}", echo.line), "back").await.unwrap();
    let mut back = StreamConsumer::<Vec<u8>>::new(back).patience(PATIENCE);
    broker.0.wait_for_subscribers("there", 1, PATIENCE).await.unwrap();
    let mut producer = StreamProducer::new(broker.publisher());
    for len in [0, 1, 200, 300, 5 << 20] {
        let object = vec![7; len];
        producer.send("there", object.clone()).await.unwrap();
        assert_eq!(*back.next().await.unwrap().unwrap().object().await.unwrap(), object);
    }
    drop(echo);
    assert!(suite::is_end_of_broker(&back.next().await.unwrap_err()));
}

#[tokio::test]
async fn a_peer_of_another_kind_is_refused() {
    let hostile = |answer: Vec<u8>| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(&answer);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    };
    let greeting = |mechanism: &[u8]| {
        let mut greeting = [&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1][..], mechanism].concat();
        greeting.resize(64, 0);
        greeting
    };
    let huge = [0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let sub = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB";
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\nThis is long enough to be taken for a greeting.........".to_vec(),
        greeting(b"PLAIN"),
        [&greeting(b"NULL")[..], &huge].concat(),
        [&greeting(b"NULL")[..], sub].concat(),
    ] {
        let refused = ZeroMqSubscriber::connect(&hostile(answer), "t").await.unwrap_err();
        assert!(matches!(refused, StreamError::Refused { .. }), "{refused}");
    }
    let publisher = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB";
    let address = hostile([&greeting(b"NULL")[..], publisher, &huge].concat());
    let mut subscriber = ZeroMqSubscriber::connect(&address, "t").await.unwrap();
    let error = subscriber.next().await.unwrap_err();
    assert!(error.to_string().contains("18446744073709551615 bytes"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let address = format!("127.0.0.1:{}", crate::server::free_port());
    let refused = ZeroMqSubscriber::connect(&address, "t").await.unwrap_err();
    assert!(matches!(refused, StreamError::Unreachable { .. }), "{refused}");
}
