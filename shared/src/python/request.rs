//! Requests and responses between Python endpoints: the dataclass `proxystore.endpoint.messages.EndpointRequest`, in the
//! serialized form of a pickled object.
//!
//! A response is its request again, with another `kind` and with what was asked for.

use std::rc::Rc;

use bytes::Bytes;

use super::pickle::{self, PickleError, Value, Writer};

/// First line of a pickled object ([`crate::python`]).
const PICKLED: &[u8] = b"PK\n";

const MODULE: &str = "proxystore.endpoint.messages";
const CLASS: &str = "EndpointRequest";
const ERROR_MODULE: &str = "proxystore.endpoint.exceptions";
const ERROR_CLASS: &str = "PeerRequestError";

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a serialized object, or not a pickled one.
    #[error("a message is not a pickled object")]
    NotPickled,
    /// See [`PickleError`].
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// An object of another class.
    #[error("a message is not an EndpointRequest")]
    Class,
    /// A field is missing, or not what it should be.
    #[error("field {0} of a message is missing or of another type")]
    Field(&'static str),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Forget an object.
    Evict,
    /// Tell whether there is one.
    Exists,
    /// Send one.
    Get,
    /// Store one.
    Set,
}

impl Op {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evict => "evict",
            Self::Exists => "exists",
            Self::Get => "get",
            Self::Set => "set",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Evict, Self::Exists, Self::Get, Self::Set].into_iter().find(|op| op.name() == name)
    }
}

/// A request, or the response to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRequest {
    /// Whether this answers the request of the same `uuid`.
    pub is_response: bool,
    /// What is asked for.
    pub op: Op,
    /// Names the request; whoever asks chooses it.
    pub uuid: String,
    /// The object.
    pub key: String,
    /// Its bytes, in pieces: in a `set`, and in the response to a `get` of an object that exists.
    pub data: Option<Vec<Bytes>>,
    /// In the response to `exists`.
    pub exists: Option<bool>,
    /// In the response to a request that failed: what the error says.
    pub error: Option<String>,
}

impl EndpointRequest {
    /// A request without data.
    pub fn new(op: Op, uuid: String, key: String) -> Self {
        Self { is_response: false, op, uuid, key, data: None, exists: None, error: None }
    }

    /// The response to this request, as far as it says the same; the data of a `set` is not sent back.
    pub fn response(&self) -> Self {
        let (uuid, key) = (self.uuid.clone(), self.key.clone());
        Self { is_response: true, ..Self::new(self.op, uuid, key) }
    }

    /// What comes before and after the data in the message. `data` is how many bytes it has, and stands for that of
    /// `self`.
    pub fn encode_around(&self, data: Option<u64>) -> (Bytes, Bytes) {
        let mut writer = Writer::new(PICKLED);
        writer.object(MODULE, CLASS);
        writer.dict();
        let kind = if self.is_response { "response" } else { "request" };
        for (field, text) in
            [("kind", kind), ("op", self.op.name()), ("uuid", &self.uuid), ("key", &self.key)]
        {
            writer.text(field);
            writer.text(text);
        }
        writer.text("exists");
        writer.flag(self.exists);
        writer.text("error");
        match &self.error {
            Some(text) => writer.made_of_text(ERROR_MODULE, ERROR_CLASS, text),
            None => writer.flag(None),
        }
        writer.text("data");
        match data {
            Some(len) => writer.bytes_to_follow(len),
            None => writer.flag(None),
        }
        let head = writer.take();
        writer.end_state();
        (head, writer.take())
    }

    /// Reads a message in pieces, which may come from anybody; its data is not copied.
    pub fn decode(mut message: Vec<Bytes>) -> Result<Self, RequestError> {
        let first = message.first_mut().ok_or(RequestError::NotPickled)?;
        if !first.starts_with(PICKLED) {
            return Err(RequestError::NotPickled);
        }
        *first = first.slice(PICKLED.len()..);
        let value = pickle::read(message)?;
        let Value::Object { class, args, state: Some(state) } = &*value else {
            return Err(RequestError::Class);
        };
        let expected = Value::Global(MODULE.into(), CLASS.into());
        if (&**class, &**args) != (&expected, &Value::Tuple(Vec::new())) {
            return Err(RequestError::Class);
        }
        let Value::Dict(items) = &**state else { return Err(RequestError::Class) };
        Fields(items).read()
    }
}

/// The state of the object.
struct Fields<'a>(&'a [(Rc<Value>, Rc<Value>)]);

impl Fields<'_> {
    fn read(&self) -> Result<EndpointRequest, RequestError> {
        let is_response = match self.text("kind")?.as_str() {
            "request" => false,
            "response" => true,
            _ => return Err(RequestError::Field("kind")),
        };
        let op = Op::named(&self.text("op")?).ok_or(RequestError::Field("op"))?;
        let data = match self.get("data") {
            Value::None => None,
            Value::Bytes(pieces) => Some(pieces.clone()),
            _ => return Err(RequestError::Field("data")),
        };
        let exists = match self.get("exists") {
            Value::None => None,
            Value::Bool(exists) => Some(*exists),
            _ => return Err(RequestError::Field("exists")),
        };
        let (uuid, key) = (self.text("uuid")?, self.text("key")?);
        Ok(EndpointRequest { is_response, op, uuid, key, data, exists, error: self.error()? })
    }

    fn get(&self, name: &str) -> &Value {
        let field = self.0.iter().find(|(key, _)| matches!(&**key, Value::Text(text) if &**text == name));
        field.map_or(&Value::None, |(_, value)| value)
    }

    fn text(&self, name: &'static str) -> Result<String, RequestError> {
        match self.get(name) {
            Value::Text(text) => Ok(text.to_string()),
            _ => Err(RequestError::Field(name)),
        }
    }

    /// Exceptions have their text as first argument, or none; what else is in them is left alone.
    fn error(&self) -> Result<Option<String>, RequestError> {
        let (class, args) = match self.get("error") {
            Value::None => return Ok(None),
            Value::Object { class, args, .. } => (&**class, &**args),
            _ => return Err(RequestError::Field("error")),
        };
        let (Value::Global(_, name), Value::Tuple(args)) = (class, args) else {
            return Err(RequestError::Field("error"));
        };
        let text = args.iter().find_map(|arg| match &**arg {
            Value::Text(text) => Some(text),
            _ => None,
        });
        Ok(Some(text.map_or_else(|| name.to_string(), |text| format!("{name}: {text}"))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(request: &EndpointRequest) -> Vec<Bytes> {
        let len = request.data.as_ref().map(|data| data.iter().map(|piece| piece.len() as u64).sum());
        let (head, tail) = request.encode_around(len);
        let data = request.data.clone().unwrap_or_default();
        [vec![head], data, vec![tail]].concat()
    }

    /// `serialize(EndpointRequest(kind='request', op='get', uuid='u', key='k'))` of ProxyStore 1.1 and CPython 3.11.
    const GET: &[u8] = b"PK\n\x80\x05\x95\x88\x00\x00\x00\x00\x00\x00\x00\x8c\x1cproxystore.endpoint.messages\x94\x8c\x0fEndpointRequest\x94\x93\x94)\x81\x94}\x94(\x8c\x04kind\x94\x8c\x07request\x94\x8c\x02op\x94\x8c\x03get\x94\x8c\x04uuid\x94\x8c\x01u\x94\x8c\x03key\x94\x8c\x01k\x94\x8c\x04data\x94N\x8c\x06exists\x94N\x8c\x05error\x94Nub.";

    #[test]
    fn what_python_sends_is_read() {
        let read = EndpointRequest::decode(vec![Bytes::from_static(GET)]);
        assert_eq!(read, Ok(EndpointRequest::new(Op::Get, "u".into(), "k".into())));
    }

    #[test]
    fn an_error_is_what_its_class_and_its_text_say() {
        // The same with error=ObjectSizeExceededError('too big'), which comes last.
        let error = b"\x8c\x1eproxystore.endpoint.exceptions\x94\x8c\x17ObjectSizeExceededError\x94\x93\x94\x8c\x07too big\x94\x85\x94R\x94ub.";
        let bytes = [GET.strip_suffix(b"Nub.").expect("no error there"), error].concat();
        let read = EndpointRequest::decode(vec![Bytes::from(bytes)]).expect("reads");
        assert_eq!(read.error.as_deref(), Some("ObjectSizeExceededError: too big"));
    }

    #[test]
    fn other_messages_are_refused() {
        let decode = |bytes: &[u8]| EndpointRequest::decode(vec![Bytes::copy_from_slice(bytes)]);
        assert_eq!(EndpointRequest::decode(vec![]), Err(RequestError::NotPickled));
        assert_eq!(decode(b"BS\nabc"), Err(RequestError::NotPickled));
        assert_eq!(decode(b"PK\nN."), Err(RequestError::Class));
        let text = |from: &str, to: &str| {
            let at = GET.windows(from.len()).position(|window| window == from.as_bytes()).expect("is there");
            let mut bytes = GET.to_vec();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            decode(&bytes)
        };
        assert_eq!(text("EndpointRequest", "EndpointRequesT"), Err(RequestError::Class));
        assert_eq!(text("get", "got"), Err(RequestError::Field("op")));
        assert_eq!(text("key", "kEy"), Err(RequestError::Field("key")));
        assert_eq!(text("request", "reQuest"), Err(RequestError::Field("kind")));
    }

    proptest! {
        #[test]
        fn ours_round_trip(
            op in prop_oneof![Just(Op::Evict), Just(Op::Exists), Just(Op::Get), Just(Op::Set)],
            uuid in ".{0,40}", key in ".{0,300}", is_response: bool, exists: Option<bool>,
            data in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..500)),
        ) {
            let data = data.map(|data| vec![Bytes::from(data)]);
            let request = EndpointRequest { is_response, op, uuid, key, data, exists, error: None };
            prop_assert_eq!(EndpointRequest::decode(encode(&request)), Ok(request));
        }
    }

    #[test]
    fn an_error_of_ours_is_one_that_python_knows() {
        let mut request = EndpointRequest::new(Op::Set, "u".into(), "k".into()).response();
        request.error = Some("no room".into());
        let read = EndpointRequest::decode(encode(&request)).expect("reads");
        assert_eq!(read.error.as_deref(), Some("PeerRequestError: no room"));
    }
}
