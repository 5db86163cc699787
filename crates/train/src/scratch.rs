//! A model from scratch: a vocabulary learned from text, random weights, in a Hugging Face directory like any other.

use std::path::{Path, PathBuf};

use luthier_data::{TextUnit, read::read_documents, vocabulary::from_scratch};
use luthier_models::{family, save_tensors};
use luthier_nn::{Device, Head, Params, Rng};

use crate::checkpoint::{make_dir, to_json, write_file};
use crate::error::{Result, TrainError};
use crate::recipe::NewModel;

/// Makes the directory, or finds it made by the same recipe; gives back its path.
pub fn make(new: &NewModel, seed: u64, dir: &Path, device: &Device) -> Result<PathBuf> {
    let mark = crate::fingerprint::of(&(new, seed, crate::fingerprint::of_file(&new.text)?));
    let mark_path = dir.join("made-by");
    if std::fs::read_to_string(&mark_path).is_ok_and(|found| found == mark) {
        return Ok(dir.to_owned());
    }
    make_dir(dir)?;
    let begun = mark_path.exists();
    let foreign = std::fs::read_dir(dir).map_err(|source| TrainError::file("list", dir, source))?.flatten().next();
    if let (false, Some(entry)) = (begun, foreign) {
        return Err(TrainError::Run {
            path: dir.to_owned(),
            found: format!("{}, which Luthier did not make", entry.file_name().to_string_lossy()),
            expected: "an empty folder for the new model".to_owned(),
            help: "Give another run directory with --out".to_owned(),
        });
    }
    // From here on the folder is ours, finished or not.
    write_file(&mark_path, b"")?;
    let mut config: serde_json::Map<String, serde_json::Value> =
        new.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let length = config.get("max_position_embeddings").and_then(serde_json::Value::as_u64).unwrap_or(512);
    let documents = read_documents(&new.text, None, "text", TextUnit::Line)?;
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    let tokenizer = from_scratch(&texts, new.vocabulary as usize, length as usize, dir)?;
    config.insert("vocab_size".to_owned(), tokenizer.vocab_size().into());
    if let Some(pad) = tokenizer.special().pad {
        config.insert("pad_token_id".to_owned(), pad.into());
    }
    let config = serde_json::Value::Object(config);
    let network = (family(&config)?.build)(&config, Head::MaskedLm)?;
    let mut params = Params::default();
    for param in &network.spec().params {
        let rng = Rng::at(seed, "init", 0, 0).named(&param.path);
        params.insert(&param.path, param.init.draw(device, &param.shape, rng)?);
    }
    save_tensors(&dir.join("model.safetensors"), params.iter().map(|(path, t)| (path.to_owned(), t)))?;
    write_file(&dir.join("config.json"), &to_json(&config))?;
    write_file(&mark_path, mark.as_bytes())?;
    Ok(dir.to_owned())
}
