//! Asks STUN servers from which address they see a socket, and knows nothing of sockets itself: the running endpoint
//! asks through the one that QUIC uses, `endpoint check-nat` through sockets of its own.
//!
//! The owner of the socket sends what [`StunClient::handle_timeout`] gives, at the latest when
//! [`StunClient::poll_timeout`] says, and passes on every STUN message that arrives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxystore_shared::stun::{Message, TransactionId};

/// The pause after each transmission of a request; after the last the server counts as silent. Common round trips
/// are below the first. A path that loses every tenth datagram loses four in a row once in ten thousand requests.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(1000),
];

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Where the request goes.
    pub server: SocketAddr,
    /// For an answer from another port of the server: which address that is. It tells whether what the socket did
    /// not ask for gets in.
    pub answer_from: Option<SocketAddr>,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Neither answered nor given up.
    Open,
    /// The server saw this address.
    Mapped(SocketAddr),
    /// No answer.
    Silent,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmission {
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub datagram: Vec<u8>,
}

/// The questions asked, and what became of them.
#[derive(Debug, Default)]
pub struct StunClient {
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    question: Question,
    id: TransactionId,
    outcome: Outcome,
    sent: usize,
    /// Of the next transmission, or of giving up.
    due: Instant,
}

impl StunClient {
    /// Asks, at once. Asked again, a question is open again.
    pub fn ask(&mut self, question: Question, now: Instant) {
        let question = canonical(question);
        self.requests.retain(|request| request.question != question);
        let id = TransactionId(rand::random());
        self.requests.push(Request { question, id, outcome: Outcome::Open, sent: 0, due: now });
    }

    /// Gives what is to be sent by now, and gives up on servers that were silent for long.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Transmission> {
        self.requests.iter_mut().filter_map(|request| request.handle_timeout(now)).collect()
    }

    /// When [`StunClient::handle_timeout`] has something to do next; none once every question is settled.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open = self.requests.iter().filter(|request| request.outcome == Outcome::Open);
        open.map(|request| request.due).min()
    }

    /// Takes a message that came `from` somebody. Gives the question that it answers and the mapped address; none
    /// for whatever was not asked for.
    pub fn handle_message(&mut self, from: SocketAddr, message: Message) -> Option<(Question, SocketAddr)> {
        let Message::Response { id, mapped } = message else { return None };
        let from = canonical_address(from);
        let request = self.requests.iter_mut().find(|request| request.is_answered_by(id, from))?;
        request.outcome = Outcome::Mapped(mapped);
        Some((request.question, mapped))
    }

    /// Every question, in the order they were asked.
    pub fn outcomes(&self) -> impl Iterator<Item = (Question, Outcome)> {
        self.requests.iter().map(|request| (request.question, request.outcome))
    }
}

impl Request {
    fn handle_timeout(&mut self, now: Instant) -> Option<Transmission> {
        if self.outcome != Outcome::Open || now < self.due {
            return None;
        }
        let Some(pause) = PAUSES.get(self.sent) else {
            self.outcome = Outcome::Silent;
            return None;
        };
        self.sent += 1;
        self.due = now + *pause;
        let message = Message::Request { id: self.id, change_port: self.question.answer_from.is_some() };
        Some(Transmission { to: self.question.server, datagram: message.encode() })
    }

    fn is_answered_by(&self, id: TransactionId, from: SocketAddr) -> bool {
        let expected = self.question.answer_from.unwrap_or(self.question.server);
        self.outcome == Outcome::Open && self.sent > 0 && self.id == id && expected == from
    }
}

/// A socket for both families sees IPv4 addresses in their IPv6 form.
fn canonical_address(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn canonical(question: Question) -> Question {
    Question {
        server: canonical_address(question.server),
        answer_from: question.answer_from.map(canonical_address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn question() -> Question {
        Question { server: address("192.0.2.1:3478"), answer_from: None }
    }

    fn id_of(transmission: &Transmission) -> TransactionId {
        match Message::decode(&transmission.datagram) {
            Some(Message::Request { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    fn answer(id: TransactionId) -> Message {
        Message::Response { id, mapped: address("198.51.100.7:40000") }
    }

    #[test]
    fn an_answer_settles_its_question() {
        let (mut client, now) = (StunClient::default(), Instant::now());
        client.ask(question(), now);
        let sent = client.handle_timeout(now);
        assert_eq!((sent.len(), sent[0].to), (1, question().server));
        let mapped = address("198.51.100.7:40000");
        let from = address("[::ffff:192.0.2.1]:3478");
        assert_eq!(client.handle_message(from, answer(id_of(&sent[0]))), Some((question(), mapped)));
        assert_eq!(client.outcomes().collect::<Vec<_>>(), [(question(), Outcome::Mapped(mapped))]);
        assert_eq!(client.poll_timeout(), None);
        assert_eq!(client.handle_message(from, answer(id_of(&sent[0]))), None, "the first answer counts");
    }

    #[test]
    fn a_silent_server_is_asked_four_times_in_three_seconds() {
        let (mut client, start) = (StunClient::default(), Instant::now());
        client.ask(question(), start);
        let (mut at, mut ids) = (Vec::new(), Vec::new());
        while let Some(due) = client.poll_timeout() {
            let sent = client.handle_timeout(due);
            at.extend(sent.iter().map(|_| (due - start).as_millis()));
            ids.extend(sent.iter().map(id_of));
        }
        assert_eq!(at, [0, 250, 750, 1750]);
        assert!(ids.iter().all(|id| *id == ids[0]), "a repetition belongs to the same transaction");
        assert_eq!(client.outcomes().collect::<Vec<_>>(), [(question(), Outcome::Silent)]);
    }

    #[test]
    fn others_cannot_answer() {
        let (mut client, now) = (StunClient::default(), Instant::now());
        client.ask(question(), now);
        let id = id_of(&client.handle_timeout(now)[0]);
        assert_eq!(client.handle_message(address("192.0.2.1:3479"), answer(id)), None, "another port");
        assert_eq!(client.handle_message(address("192.0.2.9:3478"), answer(id)), None, "another host");
        assert_eq!(client.handle_message(question().server, answer(TransactionId([0; 12]))), None, "a guess");
        let request = Message::Request { id, change_port: false };
        assert_eq!(client.handle_message(question().server, request), None, "no answer");
        assert_eq!(client.outcomes().next(), Some((question(), Outcome::Open)));
    }

    #[test]
    fn an_answer_from_the_other_port_is_taken_where_it_was_asked_for() {
        let (mut client, now) = (StunClient::default(), Instant::now());
        let other = address("192.0.2.1:3479");
        let question = Question { answer_from: Some(other), ..question() };
        client.ask(question, now);
        let sent = client.handle_timeout(now);
        let Some(Message::Request { id, change_port: true }) = Message::decode(&sent[0].datagram) else {
            panic!("{sent:?}")
        };
        assert_eq!(client.handle_message(question.server, answer(id)), None);
        assert!(client.handle_message(other, answer(id)).is_some());
    }

    #[test]
    fn a_question_asked_again_is_open_again() {
        let (mut client, now) = (StunClient::default(), Instant::now());
        client.ask(question(), now);
        let old = id_of(&client.handle_timeout(now)[0]);
        client.ask(question(), now);
        let new = id_of(&client.handle_timeout(now)[0]);
        assert_ne!(old, new);
        assert_eq!(client.handle_message(question().server, answer(old)), None);
        assert_eq!(client.outcomes().count(), 1);
    }
}
