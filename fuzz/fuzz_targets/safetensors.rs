//! A `model.safetensors` of any bytes beside a right `config.json` is refused or loaded, and the same for a file of
//! parameters in a run directory.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use luthier_models::{Checkpoint, load_tensors};
use luthier_nn::{Device, Head};

/// Two numbers wide: its tensors fit into what a fuzzer writes.
const CONFIG: &str = r#"{"model_type": "bert", "vocab_size": 3, "hidden_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 2, "max_position_embeddings": 4}"#;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a temporary folder");
    std::fs::write(dir.path().join("config.json"), CONFIG).expect("a file");
    dir
});

fuzz_target!(|bytes: &[u8]| {
    let file = FOLDER.path().join("model.safetensors");
    std::fs::write(&file, bytes).expect("a file");
    let device = Device::cpu();
    if let Ok(params) = load_tensors(&device, &file) {
        assert!(params.iter().map(|(_, tensor)| tensor.len() * 4).sum::<usize>() <= bytes.len());
    }
    let Ok(checkpoint) = Checkpoint::open(FOLDER.path()) else { return };
    for head in [Head::Classify { labels: 2 }, Head::MaskedLm] {
        let network = (checkpoint.family().build)(checkpoint.config(), head).expect("the configuration is right");
        if let Ok(loaded) = checkpoint.load(&device, network.spec(), 1) {
            assert_eq!(loaded.params.len(), network.spec().params.len());
        }
    }
});
