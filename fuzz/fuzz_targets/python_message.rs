//! Messages of Python endpoints: what decodes is encoded to something that means the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proxystore_shared::python::request::EndpointRequest;

fuzz_target!(|bytes: &[u8]| {
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let pieces = vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)];
    let Ok(mut request) = EndpointRequest::decode(pieces) else { return };
    // An error is made another class's on its way.
    request.error = None;
    let len = request.data.as_ref().map(|data| data.iter().map(|piece| piece.len() as u64).sum());
    let (before, after) = request.encode_around(len);
    let whole = [vec![before], request.data.clone().unwrap_or_default(), vec![after]].concat();
    assert_eq!(EndpointRequest::decode(whole), Ok(request));
});
