//! A `config.json` of any bytes is refused, or describes a network whose parameters can be counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luthier_models::family;
use luthier_nn::Head;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let Ok(family) = family(&config) else { return };
    for head in [Head::Classify { labels: 3 }, Head::MaskedLm] {
        if let Ok(network) = (family.build)(&config, head) {
            let numbers: u128 = network.spec().params.iter().map(|param| param.len() as u128).sum();
            assert!(numbers > 0);
        }
    }
});
