//! Reads the few opcodes that pickles of plain data have, into values, and executes nothing: a class is a name, and what
//! would be made of it is that name with what it would be made from. Writes the few that a request needs.
//!
//! The opcodes are those of CPython's `pickletools`, protocols 2 to 5. Bytes are shared with the message, not copied.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

/// Most opcodes in a pickle. A request has about sixty, an error a few more. It bounds how deep values nest, too.
const MAX_OPCODES: usize = 1_000;

/// Longest text. Keys have up to 1 KB, texts of errors are sentences.
const MAX_TEXT: u64 = 64 * 1024;

/// Why a pickle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It ends before its end.
    #[error("a pickle ends early")]
    Short,
    /// An opcode that plain data does not need.
    #[error("a pickle has opcode {0:#04x}, which is not read here")]
    Opcode(u8),
    /// Its opcodes do not fit each other.
    #[error("a pickle is malformed at opcode {0:#04x}")]
    Malformed(u8),
    /// See [`MAX_OPCODES`] and [`MAX_TEXT`].
    #[error("a pickle is too large: {0}")]
    TooLarge(&'static str),
}

/// What a pickle says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An `int`.
    Int(i64),
    /// A `str`.
    Text(Rc<str>),
    /// A `bytes`, in pieces.
    Bytes(Vec<Bytes>),
    /// A `tuple`.
    Tuple(Vec<Rc<Value>>),
    /// A `dict`.
    Dict(Vec<(Rc<Value>, Rc<Value>)>),
    /// A class or a function, by module and name.
    Global(Rc<str>, Rc<str>),
    /// What a class would be called with, and the state that the result would get.
    Object {
        /// The class.
        class: Rc<Value>,
        /// Its arguments, a tuple.
        args: Rc<Value>,
        /// The state.
        state: Option<Rc<Value>>,
    },
}

/// Reads the pickle in `message`, which is in pieces and may come from anybody.
pub fn read(message: Vec<Bytes>) -> Result<Rc<Value>, PickleError> {
    let mut machine = Machine {
        input: Input { pieces: message.into() },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    for _ in 0..MAX_OPCODES {
        let opcode = machine.input.byte()?;
        if opcode == op::STOP {
            return machine.pop(opcode);
        }
        machine.step(opcode)?;
    }
    Err(PickleError::TooLarge("opcodes"))
}

/// Opcodes by their names in `pickletools`.
mod op {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const NONE: u8 = b'N';
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const BINUNICODE: u8 = b'X';
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE: u8 = b't';
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const EMPTY_DICT: u8 = b'}';
    pub const SETITEM: u8 = b's';
    pub const SETITEMS: u8 = b'u';
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const NEWOBJ: u8 = 0x81;
    pub const REDUCE: u8 = b'R';
    pub const BUILD: u8 = b'b';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const MEMOIZE: u8 = 0x94;
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
    pub const PROTO: u8 = 0x80;
    pub const FRAME: u8 = 0x95;
}

struct Machine {
    input: Input,
    stack: Vec<Rc<Value>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Rc<Value>>,
}

impl Machine {
    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            op::PROTO => drop(self.input.number(1)?),
            // Frames only help whoever reads from a file.
            op::FRAME => drop(self.input.number(8)?),
            op::MARK => self.marks.push(self.stack.len()),
            op::MEMOIZE => self.memoize(opcode)?,
            op::BINPUT => self.memoize_at(opcode, 1)?,
            op::LONG_BINPUT => self.memoize_at(opcode, 4)?,
            op::BINGET => self.recall(opcode, 1)?,
            op::LONG_BINGET => self.recall(opcode, 4)?,
            op::SETITEM | op::SETITEMS => self.set_items(opcode)?,
            op::BUILD => self.build(opcode)?,
            _ => {
                let value = self.value(opcode)?;
                self.stack.push(Rc::new(value));
            }
        }
        Ok(())
    }

    /// The value that an opcode makes, of what follows it or of what is on the stack.
    fn value(&mut self, opcode: u8) -> Result<Value, PickleError> {
        Ok(match opcode {
            op::NONE => Value::None,
            op::NEWTRUE => Value::Bool(true),
            op::NEWFALSE => Value::Bool(false),
            op::BININT1 => Value::Int(self.input.number(1)? as i64),
            op::BININT2 => Value::Int(self.input.number(2)? as i64),
            op::BININT => Value::Int((self.input.number(4)? as u32).cast_signed().into()),
            op::SHORT_BINUNICODE => self.text(opcode, 1)?,
            op::BINUNICODE => self.text(opcode, 4)?,
            op::BINUNICODE8 => self.text(opcode, 8)?,
            op::SHORT_BINBYTES => self.bytes(1)?,
            op::BINBYTES => self.bytes(4)?,
            op::BINBYTES8 => self.bytes(8)?,
            op::EMPTY_TUPLE => Value::Tuple(Vec::new()),
            op::TUPLE1 => Value::Tuple(self.pop_many(opcode, 1)?),
            op::TUPLE2 => Value::Tuple(self.pop_many(opcode, 2)?),
            op::TUPLE3 => Value::Tuple(self.pop_many(opcode, 3)?),
            op::TUPLE => Value::Tuple(self.pop_to_mark(opcode)?),
            op::EMPTY_DICT => Value::Dict(Vec::new()),
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop(opcode)?, self.pop(opcode)?);
                match (&*module, &*name) {
                    (Value::Text(module), Value::Text(name)) => Value::Global(module.clone(), name.clone()),
                    _ => return Err(PickleError::Malformed(opcode)),
                }
            }
            op::NEWOBJ | op::REDUCE => {
                let (args, class) = (self.pop(opcode)?, self.pop(opcode)?);
                Value::Object { class, args, state: None }
            }
            _ => return Err(PickleError::Opcode(opcode)),
        })
    }

    fn text(&mut self, opcode: u8, len: usize) -> Result<Value, PickleError> {
        let len = self.input.number(len)?;
        if len > MAX_TEXT {
            return Err(PickleError::TooLarge("text"));
        }
        let bytes = self.input.take(len)?.concat();
        let text = String::from_utf8(bytes).map_err(|_| PickleError::Malformed(opcode))?;
        Ok(Value::Text(text.into()))
    }

    fn bytes(&mut self, len: usize) -> Result<Value, PickleError> {
        let len = self.input.number(len)?;
        self.input.take(len).map(Value::Bytes)
    }

    fn pop(&mut self, opcode: u8) -> Result<Rc<Value>, PickleError> {
        self.stack.pop().ok_or(PickleError::Malformed(opcode))
    }

    fn pop_many(&mut self, opcode: u8, count: usize) -> Result<Vec<Rc<Value>>, PickleError> {
        let first = self.stack.len().checked_sub(count).ok_or(PickleError::Malformed(opcode))?;
        Ok(self.stack.split_off(first))
    }

    fn pop_to_mark(&mut self, opcode: u8) -> Result<Vec<Rc<Value>>, PickleError> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or(PickleError::Malformed(opcode))?))
    }

    fn memoize(&mut self, opcode: u8) -> Result<(), PickleError> {
        let top = self.stack.last().ok_or(PickleError::Malformed(opcode))?;
        self.memo.push(top.clone());
        Ok(())
    }

    /// Picklers number what they memoize one after the other.
    fn memoize_at(&mut self, opcode: u8, len: usize) -> Result<(), PickleError> {
        match self.input.number(len)? as usize == self.memo.len() {
            true => self.memoize(opcode),
            false => Err(PickleError::Malformed(opcode)),
        }
    }

    fn recall(&mut self, opcode: u8, len: usize) -> Result<(), PickleError> {
        let index = self.input.number(len)? as usize;
        let value = self.memo.get(index).ok_or(PickleError::Malformed(opcode))?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            op::SETITEM => self.pop_many(opcode, 2)?,
            _ => self.pop_to_mark(opcode)?,
        };
        let dict = self.stack.last_mut().map(Rc::make_mut);
        let (Some(Value::Dict(dict)), true) = (dict, items.len().is_multiple_of(2)) else {
            return Err(PickleError::Malformed(opcode));
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            dict.push((key, value));
        }
        Ok(())
    }

    fn build(&mut self, opcode: u8) -> Result<(), PickleError> {
        let given = self.pop(opcode)?;
        match self.stack.last_mut().map(Rc::make_mut) {
            Some(Value::Object { state, .. }) => *state = Some(given),
            _ => return Err(PickleError::Malformed(opcode)),
        }
        Ok(())
    }
}

/// The message, of which the beginning has been read.
struct Input {
    pieces: VecDeque<Bytes>,
}

impl Input {
    fn byte(&mut self) -> Result<u8, PickleError> {
        self.number(1).map(|byte| byte as u8)
    }

    /// A little-endian number of `len` bytes.
    fn number(&mut self, len: usize) -> Result<u64, PickleError> {
        let mut number = [0; 8];
        let mut filled = 0;
        for piece in self.take(len as u64)? {
            number[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
        Ok(u64::from_le_bytes(number))
    }

    fn take(&mut self, mut len: u64) -> Result<Vec<Bytes>, PickleError> {
        let mut taken = Vec::new();
        while len > 0 {
            let first = self.pieces.front_mut().ok_or(PickleError::Short)?;
            let piece = first.split_to(first.len().min(usize::try_from(len).unwrap_or(usize::MAX)));
            if first.is_empty() {
                self.pieces.pop_front();
            }
            len -= piece.len() as u64;
            if !piece.is_empty() {
                taken.push(piece);
            }
        }
        Ok(taken)
    }
}

/// Writes a pickle of protocol 4, without frames and memo, which CPython reads as well.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins a pickle behind `prefix`.
    pub fn new(prefix: &[u8]) -> Self {
        let mut writer = Self(prefix.to_vec());
        writer.0.extend([op::PROTO, 4]);
        writer
    }

    /// An object of a class that is made without arguments; its state follows, between [`Writer::dict`] and
    /// [`Writer::end_state`].
    pub fn object(&mut self, module: &str, class: &str) {
        self.global(module, class);
        self.0.extend([op::EMPTY_TUPLE, op::NEWOBJ]);
    }

    /// What a class makes of one text.
    pub fn made_of_text(&mut self, module: &str, class: &str, text: &str) {
        self.global(module, class);
        self.text(text);
        self.0.extend([op::TUPLE1, op::REDUCE]);
    }

    /// Begins a dict: keys and values follow in turn.
    pub fn dict(&mut self) {
        self.0.extend([op::EMPTY_DICT, op::MARK]);
    }

    /// Ends the dict, which is the state of the object before it, and the pickle.
    pub fn end_state(&mut self) {
        self.0.extend([op::SETITEMS, op::BUILD, op::STOP]);
    }

    /// A `str`.
    pub fn text(&mut self, text: &str) {
        self.0.push(op::BINUNICODE);
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    /// A `bool`, or `None`.
    pub fn flag(&mut self, flag: Option<bool>) {
        self.0.push(match flag {
            None => op::NONE,
            Some(true) => op::NEWTRUE,
            Some(false) => op::NEWFALSE,
        });
    }

    /// Announces a `bytes` of `len` bytes, which the caller puts behind all that was written so far.
    pub fn bytes_to_follow(&mut self, len: u64) {
        self.0.push(op::BINBYTES8);
        self.0.extend(len.to_le_bytes());
    }

    /// What has been written since the last call.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0).into()
    }

    fn global(&mut self, module: &str, name: &str) {
        self.text(module);
        self.text(name);
        self.0.push(op::STACK_GLOBAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8]) -> Result<Rc<Value>, PickleError> {
        read(vec![Bytes::copy_from_slice(bytes)])
    }

    #[test]
    fn plain_values_are_read_from_any_pieces() {
        // pickle.dumps((None, True, 'ab', b'xyz', 300, 'ab'), protocol=5), with the text memoized.
        let bytes = b"\x80\x05\x95\x16\0\0\0\0\0\0\0(N\x88\x8c\x02ab\x94C\x03xyz\x94M\x2c\x01h\0t\x94.";
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let value = read(vec![Bytes::from_static(head), Bytes::from_static(tail)]).expect("reads");
            let Value::Tuple(items) = &*value else { panic!("{value:?}") };
            assert_eq!(*items[0], Value::None);
            assert_eq!(*items[2], Value::Text("ab".into()));
            assert!(matches!(&*items[3], Value::Bytes(pieces) if pieces.concat() == b"xyz"));
            assert_eq!(*items[4], Value::Int(300));
            assert_eq!(items[5], items[2]);
        }
    }

    #[test]
    fn nothing_is_executed_and_what_would_be_is_a_name() {
        // pickle.dumps of an object whose __reduce__ is (os.system, ('true',)), protocol 4.
        let bytes = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
        let value = read_bytes(bytes).expect("reads");
        let Value::Object { class, .. } = &*value else { panic!("{value:?}") };
        assert_eq!(**class, Value::Global("posix".into(), "system".into()));
    }

    #[test]
    fn rubbish_is_refused_where_it_begins() {
        for (bytes, expected) in [
            (&b""[..], PickleError::Short),
            (b"N", PickleError::Short),
            (b"cos\nsystem\n.", PickleError::Opcode(b'c')),
            (b".", PickleError::Malformed(b'.')),
            (b"NR.", PickleError::Malformed(b'R')),
            (b"NNu.", PickleError::Malformed(b'u')),
            (b"}(Nu.", PickleError::Malformed(b'u')),
            (b"h\0.", PickleError::Malformed(b'h')),
            (b"\x8c\x02\xff\xfe.", PickleError::Malformed(0x8c)),
            (b"B\xff\xff\xff\xff.", PickleError::Short),
            (b"X\xff\xff\xff\xff.", PickleError::TooLarge("text")),
        ] {
            assert_eq!(read_bytes(bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn values_that_name_each_other_cost_no_more_than_their_opcodes() {
        let mut bytes = b"N\x94".to_vec();
        // Each tuple has the last one twice: a tree of 2^100 leaves, if it were copied.
        for index in 0..100u8 {
            bytes.extend([b'h', index, b'h', index, 0x86, 0x94]);
        }
        bytes.push(b'.');
        assert!(read_bytes(&bytes).is_ok());
        let endless = [&b"N"[..], &[0x85; 2 * MAX_OPCODES]].concat();
        assert_eq!(read_bytes(&endless), Err(PickleError::TooLarge("opcodes")));
    }
}
