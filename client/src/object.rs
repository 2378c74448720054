//! A serialized object: immutable bytes in one or more segments.
//!
//! Segments let the identifier of a serialized object stand before its payload, and chunks follow each other as
//! they arrived, without a copy into one buffer.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Immutable bytes, in order, in as many segments as they came in. Cloning shares them.
///
/// ```
/// use bytes::Bytes;
/// use proxystore::Object;
///
/// let object: Object = ["he", "llo"].map(|text| Bytes::from_static(text.as_bytes())).into_iter().collect();
/// assert_eq!((object.len(), object.segments().len()), (5, 2));
/// assert_eq!(object.into_bytes(), "hello");
/// ```
#[derive(Clone, Default)]
pub struct Object {
    segments: Vec<Bytes>,
    len: usize,
}

impl Object {
    /// No bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a segment, which is shared, not copied.
    pub fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push(segment);
        }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in order; no segment is empty.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// The bytes in order; no segment is empty.
    pub fn into_segments(self) -> Vec<Bytes> {
        self.segments
    }

    /// The bytes in one piece. Copies them only if there is more than one segment.
    pub fn into_bytes(mut self) -> Bytes {
        match self.segments.len() {
            0 => Bytes::new(),
            1 => self.segments.remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity(self.len);
                self.segments.iter().for_each(|segment| whole.extend_from_slice(segment));
                whole.freeze()
            }
        }
    }

    /// Removes the first `count` bytes and returns them, or none if there are fewer. Meant for short prefixes,
    /// which are copied; the rest is shared.
    pub(crate) fn split_prefix(&mut self, count: usize) -> Option<Vec<u8>> {
        if self.len < count {
            return None;
        }
        let mut prefix = Vec::with_capacity(count);
        while prefix.len() < count {
            let wanted = count - prefix.len();
            let first = &mut self.segments[0];
            let taken = first.split_to(wanted.min(first.len()));
            prefix.extend_from_slice(&taken);
            if first.is_empty() {
                self.segments.remove(0);
            }
        }
        self.len -= count;
        Some(prefix)
    }
}

impl From<Bytes> for Object {
    fn from(bytes: Bytes) -> Self {
        let mut object = Self::new();
        object.push(bytes);
        object
    }
}

impl From<Vec<u8>> for Object {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl FromIterator<Bytes> for Object {
    fn from_iter<I: IntoIterator<Item = Bytes>>(segments: I) -> Self {
        let mut object = Self::new();
        segments.into_iter().for_each(|segment| object.push(segment));
        object
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |object: &Self| object.segments.clone().into_iter().flatten();
        self.len == other.len && bytes(self).eq(bytes(other))
    }
}

impl Eq for Object {}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} bytes in {} segments)", self.len, self.segments.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(pieces: &[&'static str]) -> Object {
        pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect()
    }

    #[test]
    fn equality_is_about_bytes_not_segments() {
        assert_eq!(in_pieces(&["ab", "", "c"]), in_pieces(&["a", "bc"]));
        assert_ne!(in_pieces(&["ab", "d"]), in_pieces(&["a", "bc"]));
        assert_eq!(in_pieces(&["ab", "c"]).into_bytes(), "abc");
        assert_eq!(Object::new().into_bytes(), "");
    }

    #[test]
    fn one_segment_is_not_copied() {
        let bytes = Bytes::from(vec![7; 100]);
        let object = Object::from(bytes.clone());
        assert_eq!(object.into_bytes().as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn a_prefix_may_cross_segments() {
        let mut object = in_pieces(&["a", "bc", "def"]);
        assert_eq!(object.split_prefix(4).unwrap(), b"abcd");
        assert_eq!(object.len(), 2);
        assert_eq!(object.split_prefix(3), None);
        assert_eq!(object.into_bytes(), "ef");
    }
}
