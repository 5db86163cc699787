//! Killed at any instant and resumed, a run ends with the same bits as one that nobody disturbed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use luthier_data::order::order;

/// At how many instants the process is killed.
const KILLS: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Two stages, with everything that has a state: dropout, mixout, a moving average, the best evaluation, patience.
fn recipe(dir: &Path) -> PathBuf {
    let root = root().canonicalize().expect("the repository is there");
    let train: String = std::fs::read_to_string(root.join("data/banking77/train.csv"))
        .expect("the carried data")
        .lines()
        .take(121)
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(dir.join("train.csv"), train).expect("a folder to write to");
    let text = format!(
        r#"
seed = 3
[model]
path = {model:?}

[[stage]]
name = "adapt"
objective = {{ kind = "mlm" }}
data = {{ train = "train.csv", dev = 0.1 }}
train = {{ steps = 60, batch = 8, learning_rate = 1e-3, checkpoint = 7 }}
evaluate = {{ every = 20 }}

[[stage]]
name = "classify"
objective = {{ kind = "classify" }}
data = {{ train = "train.csv", dev = 0.2, label = "category" }}
stabilise = [{{ kind = "clip" }}, {{ kind = "mixout" }}, {{ kind = "ema" }}]
train = {{ steps = 90, batch = 8, learning_rate = 1e-3, checkpoint = 5, token_budget = 64 }}
evaluate = {{ every = 10, patience = 50 }}
"#,
        model = root.join("fixtures/bert-tiny")
    );
    let path = dir.join("recipe.toml");
    std::fs::write(&path, text).expect("a folder to write to");
    path
}

fn luthier(recipe: &Path, out: &Path, cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luthier"));
    command.arg("train").arg(recipe).arg("--out").arg(out).arg("--resume");
    command.env("LUTHIER_CACHE", cache).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The weights that each stage left.
fn weights(out: &Path) -> Vec<Vec<u8>> {
    ["stages/1-adapt", "stages/2-classify"]
        .iter()
        .map(|stage| std::fs::read(out.join(stage).join("params.safetensors")).expect("a finished stage"))
        .collect()
}

#[test]
fn killed_at_twenty_instants() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (recipe, cache) = (recipe(dir.path()), dir.path().join("cache"));
    let undisturbed = dir.path().join("undisturbed");
    let began = std::time::Instant::now();
    assert!(luthier(&recipe, &undisturbed, &cache).status().expect("it starts").success());
    let whole = began.elapsed();

    let out = dir.path().join("disturbed");
    // Every twentieth of the run's length is hit once, in an order that is shuffled: early and late, in steps, in
    // evaluations, while checkpoints are written and between the stages.
    let mut killed = 0;
    for slot in order(17, 0, KILLS) {
        let mut child = luthier(&recipe, &out, &cache).spawn().expect("it starts");
        sleep(whole.mul_f64(0.3 * (f64::from(slot) + 0.5) / KILLS as f64) + Duration::from_millis(2));
        if child.try_wait().expect("a child of ours").is_none() {
            killed += 1;
        }
        // SIGKILL: no handler runs, nothing is tidied up. A child that has ended already does not mind.
        let _ = child.kill();
        let _ = child.wait();
    }
    assert!(killed >= 3, "only {killed} of {KILLS} runs were still alive when the signal came");
    let status = luthier(&recipe, &out, &cache).status().expect("it starts");
    assert!(status.success(), "the last resume failed");
    assert!(weights(&out) == weights(&undisturbed), "the weights differ from those of an undisturbed run");
}

#[test]
fn a_run_that_goes_on_with_other_instructions_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (recipe, cache, out) = (recipe(dir.path()), dir.path().join("cache"), dir.path().join("moved"));
    let events = || std::fs::read_to_string(out.join("events.jsonl")).unwrap_or_default();
    let mut child = luthier(&recipe, &out, &cache).env("LUTHIER_INSTRUCTIONS", "portable").spawn().expect("it starts");
    // The first checkpoint is that of step 7.
    while events().matches("\"event\":\"step\"").count() < 9 && child.try_wait().expect("a child of ours").is_none() {
        sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(!events().contains("from here on"), "a run that has only begun says it goes on");
    assert!(luthier(&recipe, &out, &cache).status().expect("it starts").success());
    let expected = luthier_train::Instructions::current() != luthier_train::Instructions::Portable;
    let said = events().contains("Until now the run used the instructions portable, from here on");
    assert_eq!(said, expected, "{}", events().lines().take(3).collect::<Vec<_>>().join("\n"));
}
