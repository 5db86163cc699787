//! Hugging Face directories: `config.json`, `model.safetensors` or its sharded index, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use luthier_nn::{DType, Device, Params, Rng, Role, Spec, Tensor, map_file};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, View};

use crate::error::{ModelError, Result};
use crate::{Family, family};

/// The largest `config.json` or index that is read: such files are a few kilobytes.
const MAX_JSON: u64 = 64 << 20;

struct Stored {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A model directory, its weights mapped and not yet read.
pub struct Checkpoint {
    dir: PathBuf,
    config: serde_json::Value,
    family: &'static Family,
    files: Vec<Arc<Mmap>>,
    tensors: BTreeMap<String, Stored>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checkpoint({}, {} tensors)", self.dir.display(), self.tensors.len())
    }
}

/// A network's parameters as a directory gave them.
#[derive(Debug)]
pub struct Loaded {
    /// Every parameter of the description.
    pub params: Params,
    /// Paths that the checkpoint lacks and that were drawn at random.
    pub new: Vec<String>,
    /// Tensors of the checkpoint that this network does not use.
    pub unused: Vec<String>,
}

fn file_error(path: &Path, source: std::io::Error, hint: &'static str) -> ModelError {
    ModelError::File { path: path.to_owned(), source, hint }
}

/// Reads a JSON file of reasonable size.
fn read_json(path: &Path, hint: &'static str) -> Result<serde_json::Value> {
    let size = std::fs::metadata(path).map_err(|e| file_error(path, e, hint))?.len();
    if size > MAX_JSON {
        let problem = format!("{size} bytes is too large for a JSON description");
        return Err(ModelError::Content { path: path.to_owned(), problem, hint });
    }
    let text = std::fs::read(path).map_err(|e| file_error(path, e, hint))?;
    serde_json::from_slice(&text).map_err(|e| ModelError::Content {
        path: path.to_owned(),
        problem: format!("not JSON ({e})"),
        hint,
    })
}

/// Reads `config.json` of a model directory.
pub fn read_config(dir: &Path) -> Result<serde_json::Value> {
    read_json(
        &dir.join("config.json"),
        "A model directory needs config.json, model.safetensors and a tokenizer, as transformers' save_pretrained writes them",
    )
}

/// What a classifier's rows are to the labels of a network.
#[derive(Debug, PartialEq)]
enum Classes {
    /// The same, in the same order, as far as is known.
    Same,
    /// The same in another order: the row of each label.
    Moved(Vec<usize>),
    /// Others.
    Others,
}

/// A tensor with its rows (of one number, for a bias) in another order.
fn moved(device: &Device, tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let values = tensor.to_vec();
    let width = values.len() / rows.len();
    let values = rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect();
    Ok(Tensor::from_vec(device, tensor.shape(), values).map_err(luthier_nn::NnError::from)?)
}

impl Checkpoint {
    /// Opens a directory: reads the description and the headers, touches no weight.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let config = read_config(dir)?;
        let family = family(&config)?;
        let mut checkpoint =
            Checkpoint { dir: dir.to_owned(), config, family, files: Vec::new(), tensors: BTreeMap::new() };
        let index = dir.join("model.safetensors.index.json");
        let single = dir.join("model.safetensors");
        if single.exists() || !index.exists() {
            checkpoint.add_file(&single)?;
        } else {
            for shard in shards(&index)? {
                checkpoint.add_file(&dir.join(shard))?;
            }
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let hint = "Save the model with transformers' save_pretrained(..., safe_serialization=True)";
        let content = |problem: String| ModelError::Content { path: path.to_owned(), problem, hint };
        let file = File::open(path).map_err(|e| file_error(path, e, hint))?;
        let length = file.metadata().map_err(|e| file_error(path, e, hint))?.len();
        if length < 8 {
            return Err(content(format!("{length} bytes are too few for a safetensors file")));
        }
        let map = map_file(&file).map_err(|e| file_error(path, e, hint))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| content(format!("not a safetensors file ({e})")))?;
        let start = header + 8;
        // Sorted, so that of several faults the same one is told every time.
        for (name, info) in metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            if bytes.end > map.len() {
                return Err(content(format!("the tensor {name} reaches beyond the end of the file")));
            }
            let stored = Stored { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), bytes };
            let path = (self.family.rename)(&name);
            if self.tensors.insert(path.clone(), stored).is_some() {
                return Err(content(format!("two tensors are both {path}")));
            }
        }
        self.files.push(map);
        Ok(())
    }

    /// What its classifier's rows are to a network of these labels, by the names in `config.json` (`id2label`). Names that
    /// say nothing (`LABEL_0`), and rows without names, are taken as they come.
    fn classes(&self, labels: &[String]) -> Classes {
        let named = self.config.get("id2label").and_then(serde_json::Value::as_object);
        let name = |id: usize| named.and_then(|named| named.get(&id.to_string())?.as_str());
        let names: Vec<&str> = (0..labels.len()).map_while(name).collect();
        let nameless = names.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
        if names.len() < labels.len() || nameless || names.iter().eq(labels) {
            return Classes::Same;
        }
        let rows: Option<Vec<usize>> = labels.iter().map(|label| names.iter().position(|name| name == label)).collect();
        rows.map_or(Classes::Others, Classes::Moved)
    }

    /// Its `config.json`.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// Its family.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The shape of a tensor under its canonical path.
    pub fn shape(&self, path: &str) -> Option<&[usize]> {
        self.tensors.get(path).map(|stored| stored.shape.as_slice())
    }

    /// Bytes of every weight file, for a fingerprint.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|map| &map[..])
    }

    /// Canonical paths of the description that the checkpoint lacks, or has in another shape where that is a head.
    pub fn lacks(&self, spec: &Spec) -> Vec<String> {
        let lacking = spec.params.iter().filter(|p| self.shape(&p.path) != Some(p.shape.as_slice()));
        lacking.map(|p| p.path.clone()).collect()
    }

    /// A tensor under its canonical path, as f32: mapped where the file holds f32, converted where it holds halves.
    fn tensor(&self, device: &Device, path: &str, stored: &Stored) -> Result<Tensor> {
        let map = &self.files[stored.file];
        let bytes = &map[stored.bytes.clone()];
        let values: Vec<f32> = match stored.dtype {
            Dtype::F32 if cfg!(target_endian = "little") && (bytes.as_ptr() as usize).is_multiple_of(4) => {
                let tensor = Tensor::mapped(device, &stored.shape, map.clone(), stored.bytes.clone());
                return Ok(tensor.map_err(luthier_nn::NnError::from)?);
            }
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                return Err(ModelError::Content {
                    path: self.dir.clone(),
                    problem: format!("the tensor {path} holds {other:?}, which is no floating-point type read here"),
                    hint: "Save the model in float32, float16 or bfloat16",
                });
            }
        };
        Ok(Tensor::from_vec(device, &stored.shape, values).map_err(luthier_nn::NnError::from)?)
    }

    /// Loads every parameter of a description. What a head or pooler lacks is drawn from `seed`; anything else that is
    /// missing, of another shape, or unknown under the base model's prefix is an error, all of them at once. The rows of a
    /// classifier go to the `labels` whose names they have; a classifier of other labels counts as lacking.
    pub fn load(&self, device: &Device, spec: &Spec, labels: Option<&[String]>, seed: u64) -> Result<Loaded> {
        let classes = labels.map_or(Classes::Same, |labels| self.classes(labels));
        let mut loaded = Loaded { params: Params::default(), new: Vec::new(), unused: Vec::new() };
        let mut problems = Vec::new();
        for param in &spec.params {
            let head = param.role == Role::Head;
            let optional = head || param.role == Role::Pooler;
            match self.tensors.get(&param.path) {
                Some(stored) if stored.shape == param.shape && !(head && classes == Classes::Others) => {
                    let mut tensor = self.tensor(device, &param.path, stored)?;
                    if let (true, Classes::Moved(rows)) = (head, &classes) {
                        tensor = moved(device, &tensor, rows)?;
                    }
                    loaded.params.insert(&param.path, tensor);
                }
                found if optional => {
                    if found.is_some() {
                        loaded.unused.push(param.path.clone());
                    }
                    let rng = Rng::at(seed, "init", 0, 0).named(&param.path);
                    let tensor = param.init.draw(device, &param.shape, rng).map_err(luthier_nn::NnError::from)?;
                    loaded.params.insert(&param.path, tensor);
                    loaded.new.push(param.path.clone());
                }
                Some(stored) => problems.push(format!(
                    "  {}: the file has {:?}, config.json asks for {:?}",
                    param.path, stored.shape, param.shape
                )),
                None => problems.push(format!("  {}: missing (config.json asks for {:?})", param.path, param.shape)),
            }
        }
        for name in self.tensors.keys().filter(|name| !loaded.params.contains(name)) {
            let base = name.starts_with(self.family.prefix);
            if base && !name.contains(".pooler.") {
                problems.push(format!("  {name}: in the file, but config.json describes no such tensor"));
            } else {
                loaded.unused.push(name.clone());
            }
        }
        if !problems.is_empty() {
            problems.truncate(50);
            return Err(ModelError::Tensors { path: self.dir.clone(), problems });
        }
        Ok(loaded)
    }
}

/// The shard files of an index, each a plain file name.
fn shards(index: &Path) -> Result<Vec<String>> {
    let hint = "The index maps tensor names to files beside it";
    let json = read_json(index, hint)?;
    let content = |problem: String| ModelError::Content { path: index.to_owned(), problem, hint };
    let map = json.get("weight_map").and_then(|v| v.as_object()).ok_or_else(|| content("no weight_map".to_owned()))?;
    let mut names = Vec::new();
    for file in map.values() {
        let name = file.as_str().ok_or_else(|| content(format!("{file} is not a file name")))?;
        // A name from a file must not lead out of the directory.
        if Path::new(name).file_name().and_then(|f| f.to_str()) != Some(name) {
            return Err(content(format!("{name:?} is not a plain file name")));
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

struct Stream(Tensor);

impl View for &Stream {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.to_bytes().into()
    }
    fn data_len(&self) -> usize {
        self.0.len() * 4
    }
}

/// Writes f32 tensors as safetensors, one after the other, aside and renamed, synced before it counts.
pub fn save_tensors<'a>(path: &Path, tensors: impl IntoIterator<Item = (String, &'a Tensor)>) -> Result<()> {
    let hint = "Check that the disk has room and that the folder can be written";
    let views: Vec<(String, Stream)> =
        tensors.into_iter().map(|(name, tensor)| (name, Stream(tensor.cast(DType::F32)))).collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let aside = path.with_extension("writing");
    safetensors::serialize_to_file(views.iter().map(|(name, view)| (name, view)), Some(metadata), &aside).map_err(
        |error| match error {
            safetensors::SafeTensorError::IoError(source) => file_error(path, source, hint),
            other => ModelError::Content { path: path.to_owned(), problem: other.to_string(), hint },
        },
    )?;
    let finish = || -> std::io::Result<()> {
        File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, path)
    };
    finish().map_err(|e| file_error(path, e, hint))
}

/// Reads a file of f32 tensors that [`save_tensors`] wrote, mapped.
pub fn load_tensors(device: &Device, path: &Path) -> Result<Params> {
    let hint = "The file was not written by Luthier, or is damaged";
    let content = |problem: String| ModelError::Content { path: path.to_owned(), problem, hint };
    let file = File::open(path).map_err(|e| file_error(path, e, hint))?;
    if file.metadata().map_err(|e| file_error(path, e, hint))?.len() < 8 {
        return Err(content("too short for a safetensors file".to_owned()));
    }
    let map = map_file(&file).map_err(|e| file_error(path, e, hint))?;
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| content(e.to_string()))?;
    let mut params = Params::default();
    for (name, info) in metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
        let bytes = header + 8 + info.data_offsets.0..header + 8 + info.data_offsets.1;
        if info.dtype != Dtype::F32 {
            return Err(content(format!("the tensor {name} holds {:?}, expected F32", info.dtype)));
        }
        let tensor = Tensor::mapped(device, &info.shape, map.clone(), bytes)
            .map_err(|e| content(format!("the tensor {name}: {e}")))?;
        params.insert(name, tensor);
    }
    Ok(params)
}
