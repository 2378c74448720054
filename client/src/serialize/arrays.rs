//! Arrays of the `ndarray` crate as `.npy`, the format of NumPy (NEP 1).
//!
//! Which types are arrays is only known at run time: a generic function sees a `T` that serde serializes. A table
//! from type to codec, made once, answers that.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::io::Cursor;
use std::sync::LazyLock;

use bytes::Bytes;
use ndarray::{Array, Dimension, Ix0, Ix1, Ix2, Ix3, Ix4, Ix5, Ix6, IxDyn};
use ndarray_npy::{ReadNpyExt, ReadableElement, WritableElement, WriteNpyExt};

struct Codec {
    write: fn(&dyn Any) -> Result<Vec<u8>, String>,
    read: fn(Bytes) -> Result<Box<dyn Any>, String>,
}

static CODECS: LazyLock<HashMap<TypeId, Codec>> = LazyLock::new(|| {
    let mut codecs = HashMap::new();
    add_element::<bool>(&mut codecs);
    add_element::<i8>(&mut codecs);
    add_element::<i16>(&mut codecs);
    add_element::<i32>(&mut codecs);
    add_element::<i64>(&mut codecs);
    add_element::<u8>(&mut codecs);
    add_element::<u16>(&mut codecs);
    add_element::<u32>(&mut codecs);
    add_element::<u64>(&mut codecs);
    add_element::<f32>(&mut codecs);
    add_element::<f64>(&mut codecs);
    codecs
});

trait Element: ReadableElement + WritableElement + 'static {}
impl<T: ReadableElement + WritableElement + 'static> Element for T {}

fn add_element<A: Element>(codecs: &mut HashMap<TypeId, Codec>) {
    add_array::<A, Ix0>(codecs);
    add_array::<A, Ix1>(codecs);
    add_array::<A, Ix2>(codecs);
    add_array::<A, Ix3>(codecs);
    add_array::<A, Ix4>(codecs);
    add_array::<A, Ix5>(codecs);
    add_array::<A, Ix6>(codecs);
    add_array::<A, IxDyn>(codecs);
}

fn add_array<A: Element, D: Dimension + 'static>(codecs: &mut HashMap<TypeId, Codec>) {
    let codec = Codec { write: write_array::<A, D>, read: read_array::<A, D> };
    codecs.insert(TypeId::of::<Array<A, D>>(), codec);
}

fn write_array<A: Element, D: Dimension + 'static>(value: &dyn Any) -> Result<Vec<u8>, String> {
    let array = value.downcast_ref::<Array<A, D>>().ok_or("not the array it was taken for")?;
    // The header is padded to 64 bytes; a long shape may need twice that.
    let mut written = Vec::with_capacity(array.len() * size_of::<A>() + 128);
    array.write_npy(Cursor::new(&mut written)).map_err(|error| error.to_string())?;
    Ok(written)
}

fn read_array<A: Element, D: Dimension + 'static>(bytes: Bytes) -> Result<Box<dyn Any>, String> {
    let declared = declared_elements(&bytes).ok_or("its header is not one of a .npy array")?;
    // The reader allocates what the header declares.
    if declared.checked_mul(size_of::<A>()).is_none_or(|len| len > bytes.len()) {
        return Err(format!("its header declares {declared} elements, more than it has"));
    }
    let array = Array::<A, D>::read_npy(bytes.as_ref()).map_err(|error| error.to_string())?;
    Ok(Box::new(array))
}

/// How many elements the header declares: the product of its `'shape': (2, 3)`.
fn declared_elements(npy: &[u8]) -> Option<usize> {
    const FIXED_LEN: usize = 8;
    let version = *npy.get(6)?;
    let (len, start): (usize, usize) = match version {
        1 => (u16::from_le_bytes(npy.get(FIXED_LEN..10)?.try_into().ok()?).into(), 10),
        _ => (u32::from_le_bytes(npy.get(FIXED_LEN..12)?.try_into().ok()?) as usize, 12),
    };
    let header = std::str::from_utf8(npy.get(start..start.checked_add(len)?)?).ok()?;
    let shape = header.split_once("'shape':")?.1.trim_start().strip_prefix('(')?.split_once(')')?.0;
    let lengths = shape.split(',').map(str::trim).filter(|length| !length.is_empty());
    lengths
        .map(|length| length.parse::<usize>().ok())
        .try_fold(1_usize, |all, length| all.checked_mul(length?))
}

/// The value as `.npy`, if it is an array.
pub(super) fn write(value: &dyn Any) -> Option<Result<Vec<u8>, String>> {
    CODECS.get(&value.type_id()).map(|codec| (codec.write)(value))
}

/// The `.npy` as a `T`, which must be an array of the same element type and number of dimensions.
pub(super) fn read<T: 'static>(bytes: Bytes) -> Result<T, String> {
    let codec = CODECS.get(&TypeId::of::<T>()).ok_or_else(|| format!("{} is no array", type_name::<T>()))?;
    let array = (codec.read)(bytes)?;
    array.downcast::<T>().map(|array| *array).map_err(|_| "not the array it was taken for".to_owned())
}
