//! PyTorch's own file of tensors: a zip archive, nothing compressed, of a pickle that names the tensors and of their raw
//! bytes. The `adapters` library reads it unless told otherwise. Only what such a dictionary needs is written.
//!
//! Formats: pickle protocol 2 (PEP 307), the zip application note (stored entries), `torch.save` since PyTorch 1.6.

use std::path::Path;

use luthier_nn::{DType, Tensor};

use crate::checkpoint::write_file;
use crate::error::{Result, TrainError};

/// Writes a dictionary from names to f32 tensors, which `torch.load` reads.
///
/// # Errors
/// More than 2 GiB, a disk that is full.
pub(crate) fn write<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let tensors: Vec<(&str, Tensor)> = tensors.into_iter().map(|(name, t)| (name, t.cast(DType::F32))).collect();
    let stem = path.file_stem().map_or("archive".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let Some(bytes) = archive(&stem, &tensors) else {
        return Err(TrainError::Run {
            path: path.to_owned(),
            found: "more than 2 GiB of tensors".to_owned(),
            expected: "less: this file's sizes have 32 bits".to_owned(),
            help: "Make the adapters narrower".to_owned(),
        });
    };
    write_file(path, &bytes)
}

/// The whole file, or nothing if a size does not fit.
fn archive(stem: &str, tensors: &[(&str, Tensor)]) -> Option<Vec<u8>> {
    let mut zip = Zip::default();
    zip.entry(&format!("{stem}/data.pkl"), &pickle(tensors)?)?;
    zip.entry(&format!("{stem}/byteorder"), b"little")?;
    for (i, (_, tensor)) in tensors.iter().enumerate() {
        zip.entry(&format!("{stem}/data/{i}"), &tensor.to_bytes())?;
    }
    zip.entry(&format!("{stem}/version"), b"3\n")?;
    zip.finish()
}

/// The pickle: each tensor is a call of PyTorch's function that rebuilds it from a storage, a shape and strides.
fn pickle(tensors: &[(&str, Tensor)]) -> Option<Vec<u8>> {
    let mut out = Pickle(vec![0x80, 2]); // PROTO 2
    out.0.extend(b"}("); // EMPTY_DICT MARK
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        out.text(name);
        out.0.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        out.text("storage");
        out.0.extend(b"ctorch\nFloatStorage\n");
        out.text(&i.to_string());
        out.text("cpu");
        out.integer(tensor.len())?;
        out.0.extend(b"tQ"); // TUPLE BINPERSID: the storage with this key
        out.integer(0)?; // where in the storage the tensor begins
        let shape = tensor.shape();
        let stride = |i: usize| shape[i + 1..].iter().product::<usize>();
        out.tuple(shape.iter().copied())?;
        out.tuple((0..shape.len()).map(stride))?;
        // NEWFALSE: no gradient wanted; an empty OrderedDict: no hooks. Then TUPLE REDUCE.
        out.0.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.0.extend(b"u."); // SETITEMS STOP
    Some(out.0)
}

struct Pickle(Vec<u8>);

impl Pickle {
    /// BINUNICODE
    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    /// BININT
    fn integer(&mut self, value: usize) -> Option<()> {
        self.0.push(b'J');
        self.0.extend(i32::try_from(value).ok()?.to_le_bytes());
        Some(())
    }

    fn tuple(&mut self, values: impl Iterator<Item = usize>) -> Option<()> {
        self.0.push(b'(');
        for value in values {
            self.integer(value)?;
        }
        self.0.push(b't');
        Some(())
    }
}

/// 1980-01-01, the first day that the format knows: equal tensors make equal files.
const DATE: u16 = 1 << 5 | 1;

#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    fn entry(&mut self, name: &str, data: &[u8]) -> Option<()> {
        let offset = u32::try_from(self.bytes.len()).ok()?;
        let size = u32::try_from(data.len()).ok()?;
        let length = u16::try_from(name.len()).ok()?;
        // What both headers share: version 2.0, UTF-8 names, stored, midnight, the date, the checksum, two sizes.
        let mut common = Vec::with_capacity(26);
        for half in [20, 1 << 11, 0, 0, DATE] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc32(data), size, size] {
            common.extend(word.to_le_bytes());
        }
        common.extend(length.to_le_bytes());
        common.extend(0u16.to_le_bytes()); // no extra field
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&common);
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(data);
        self.directory.extend(b"PK\x01\x02");
        self.directory.extend(20u16.to_le_bytes());
        self.directory.extend(&common);
        self.directory.extend([0; 10]); // no comment, first disk, no attributes
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count = self.count.checked_add(1)?;
        Some(())
    }

    fn finish(mut self) -> Option<Vec<u8>> {
        let offset = u32::try_from(self.bytes.len()).ok()?;
        let size = u32::try_from(self.directory.len()).ok()?;
        self.bytes.extend(&self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        for _ in 0..2 {
            self.bytes.extend(self.count.to_le_bytes());
        }
        self.bytes.extend(size.to_le_bytes());
        self.bytes.extend(offset.to_le_bytes());
        self.bytes.extend([0; 2]);
        Some(self.bytes)
    }
}

/// The checksum of zip: the reflected polynomial 0xEDB88320, a table of bytes.
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |sum, &byte| sum >> 8 ^ TABLE[(sum as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use luthier_models::load_tensors;
    use luthier_nn::Device;

    use super::*;

    /// What a pickle of tensors says.
    #[derive(Debug, Clone, PartialEq)]
    enum Value {
        Text(String),
        Number(i64),
        False,
        Global(String),
        Tuple(Vec<Value>),
        Dict(Vec<(Value, Value)>),
        Call(Box<Value>, Box<Value>),
        Stored(Box<Value>),
        Mark,
    }

    /// Reads the opcodes that PyTorch and this file use.
    fn read_pickle(bytes: &[u8]) -> Value {
        let (mut at, mut stack, mut memo) = (0, Vec::new(), BTreeMap::new());
        let mut take = |n: usize| {
            at += n;
            &bytes[at - n..at]
        };
        loop {
            let code = take(1)[0];
            let since_mark = |stack: &mut Vec<Value>| {
                let mark = stack.iter().rposition(|v| *v == Value::Mark).unwrap();
                let rest = stack.split_off(mark + 1);
                stack.pop();
                rest
            };
            let value = match code {
                0x80 => {
                    assert_eq!(take(1), [2]);
                    continue;
                }
                b'.' => return stack.pop().unwrap(),
                b'}' => Value::Dict(Vec::new()),
                b'(' => Value::Mark,
                b'q' => {
                    memo.insert(take(1)[0] as u32, stack.last().cloned().unwrap());
                    continue;
                }
                b'r' => {
                    memo.insert(u32::from_le_bytes(take(4).try_into().unwrap()), stack.last().cloned().unwrap());
                    continue;
                }
                b'h' => memo[&(take(1)[0] as u32)].clone(),
                b'j' => memo[&u32::from_le_bytes(take(4).try_into().unwrap())].clone(),
                b'X' => {
                    let n = u32::from_le_bytes(take(4).try_into().unwrap());
                    Value::Text(String::from_utf8(take(n as usize).to_vec()).unwrap())
                }
                b'c' => {
                    let mut name = String::new();
                    for _ in 0..2 {
                        loop {
                            match take(1)[0] {
                                b'\n' => break,
                                byte => name.push(byte as char),
                            }
                        }
                        name.push(' ');
                    }
                    Value::Global(name)
                }
                b'K' => Value::Number(take(1)[0].into()),
                b'M' => Value::Number(u16::from_le_bytes(take(2).try_into().unwrap()).into()),
                b'J' => Value::Number(i32::from_le_bytes(take(4).try_into().unwrap()).into()),
                0x89 => Value::False,
                b')' => Value::Tuple(Vec::new()),
                b't' => Value::Tuple(since_mark(&mut stack)),
                0x85..=0x87 => {
                    let rest = stack.split_off(stack.len() - (code as usize - 0x84));
                    Value::Tuple(rest)
                }
                b'Q' => Value::Stored(Box::new(stack.pop().unwrap())),
                b'R' => {
                    let arguments = stack.pop().unwrap();
                    Value::Call(Box::new(stack.pop().unwrap()), Box::new(arguments))
                }
                b'u' => {
                    let items = since_mark(&mut stack);
                    let Some(Value::Dict(entries)) = stack.last_mut() else { panic!("no dictionary") };
                    entries.extend(items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                    continue;
                }
                other => panic!("opcode {other:#x}"),
            };
            stack.push(value);
        }
    }

    /// The entries of an archive through its directory, checksums checked bit by bit.
    fn read_zip(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()) as usize;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let end = bytes.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
        let mut at = word(end + 16);
        let mut entries = BTreeMap::new();
        for _ in 0..half(end + 10) {
            assert_eq!(&bytes[at..at + 4], b"PK\x01\x02");
            assert_eq!(half(at + 10), 0, "stored");
            let (size, offset) = (word(at + 24), word(at + 42));
            let name = String::from_utf8(bytes[at + 46..at + 46 + half(at + 28)].to_vec()).unwrap();
            assert_eq!(&bytes[offset..offset + 4], b"PK\x03\x04");
            let start = offset + 30 + half(offset + 26) + half(offset + 28);
            let data = bytes[start..start + size].to_vec();
            let slow = data.iter().fold(u32::MAX, |sum, &byte| {
                (0..8).fold(sum ^ u32::from(byte), |s, _| s >> 1 ^ (0xEDB8_8320 & (s & 1).wrapping_neg()))
            });
            assert_eq!(word(at + 16), !slow as usize, "{name}");
            entries.insert(name.split_once('/').unwrap().1.to_owned(), data);
            at += 46 + half(at + 28) + half(at + 30) + half(at + 32);
        }
        entries
    }

    #[test]
    fn the_checksum_is_the_one_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    /// PyTorch wrote one file, this code writes the other from the same tensors: they say the same.
    #[test]
    fn it_says_what_pytorch_says() {
        for name in ["pfeiffer", "houlsby"] {
            let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
            let theirs = read_zip(&std::fs::read(dir.join("pytorch_adapter.bin")).unwrap());
            let tensors = load_tensors(&Device::cpu(), &dir.join("adapter.safetensors")).unwrap();
            let said = read_pickle(&theirs["data.pkl"]);
            let Value::Dict(entries) = &said else { panic!("{said:?}") };
            let order = entries.iter().map(|(name, _)| match name {
                Value::Text(name) => name.as_str(),
                other => panic!("{other:?}"),
            });
            let tensors: Vec<(&str, Tensor)> = order.map(|n| (n, tensors.get(n).unwrap().clone())).collect();
            assert!(tensors.len() >= 8);
            let ours = read_zip(&archive("pytorch_adapter", &tensors).unwrap());
            assert_eq!(read_pickle(&ours["data.pkl"]), said);
            for key in theirs.keys().filter(|key| !key.starts_with('.')) {
                if key != "data.pkl" {
                    assert_eq!(ours[key], theirs[key], "{key}");
                }
            }
        }
    }
}
