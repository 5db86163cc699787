//! `luthier bench`.

use std::time::Instant;

use anyhow::Result;
use luthier_train::{Instructions, Precision, ceiling};
use serde_json::json;

use crate::args::{Bench, Measure};
use crate::render::table::Rows;
use crate::screen::Screen;

/// Measures this machine.
pub(crate) fn bench(arguments: &Bench, screen: Screen) -> Result<()> {
    let Measure::Ceiling = arguments.measure;
    let start = Instant::now();
    let clock = || start.elapsed().as_secs_f64();
    let threads = rayon::current_num_threads();
    let rates = [("f32", Precision::F32), ("bf16", Precision::Bf16)]
        .map(|(name, precision)| (name, ceiling(precision, &clock)));
    if screen.json {
        let [f32, bf16] = rates.map(|(_, rate)| rate);
        let instructions = Instructions::current().name();
        return screen.document(&json!({"threads": threads, "instructions": instructions, "f32": f32, "bf16": bf16}));
    }
    let mut rows = Rows::new(["precision", "GFLOP/s>"]);
    rates.iter().for_each(|(name, rate)| rows.push([(*name).to_owned(), format!("{:.0}", rate / 1e9)]));
    let how = format!("{threads} threads, {}: multiply-adds in registers", Instructions::current().name());
    Ok(screen.print(&format!("{}\n{how}", rows.render(screen.paint)))?)
}
