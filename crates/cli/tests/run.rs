//! From a recipe to answers, through the program: what it prints, and what it leaves.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use support::{Folder, Ran};

/// One trained run for the tests that only read it.
fn trained() -> &'static Folder {
    static FOLDER: OnceLock<Folder> = OnceLock::new();
    FOLDER.get_or_init(Folder::trained)
}

#[test]
fn train_ends_with_one_json_document() {
    let folder = Folder::new();
    let ran = folder.run("train recipe.toml --json --out here").good();
    let result = ran.json();
    assert_eq!(ran.out.lines().count(), 1);
    let stages = result["stages"].as_array().expect("a list");
    assert_eq!((&stages[0]["name"], &stages[1]["name"]), (&"adapt".into(), &"animals".into()));
    for split in ["dev", "test"] {
        let accuracy = stages[1]["scores"][split]["accuracy"].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&accuracy));
    }
    for key in ["peak_memory_bytes", "seconds_to_first_step"] {
        assert!(result[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {result}");
    }
    assert_eq!(result["run"], "here");
    assert!(stages[1]["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
    // The story is on standard error, in plain lines.
    assert!(ran.error.contains("stage animals (classify): 8 steps") && !ran.error.contains('\x1b'), "{}", ran.error);
    assert!(folder.path("here/events.jsonl").exists());
}

#[test]
fn train_tells_its_story_in_plain_lines() {
    let ran = Folder::new().run("train recipe.toml --seed 5").good();
    for expected in [
        "stage adapt (mlm): ",
        "data of stage animals: train 30 examples",
        "step 4/8: dev: accuracy ",
        "stage animals is done: 8 steps in ",
        "stage    split           metric     value  95 % interval",
        "run directory: runs/recipe\nnext: luthier predict runs/recipe FILE\n",
    ] {
        assert!(ran.out.contains(expected), "{expected}: {}", ran.out);
    }
    assert!(!ran.out.contains('\x1b') && ran.error.is_empty(), "{ran:#?}");
}

#[test]
fn every_command_prints_one_document() {
    let folder = trained();
    let evaluated = folder.run("evaluate runs/recipe --json").good().json();
    assert!(
        evaluated["scores"]["accuracy"].is_f64() && evaluated["intervals"]["accuracy"]["low"].is_f64(),
        "{evaluated}"
    );
    assert!(evaluated["data"].as_str().is_some_and(|data| data.ends_with("test.csv")));
    let plan = folder.run("plan recipe.toml --json").good().json();
    assert_eq!(plan["stages"][1]["labels"]["count"], 2);
    let data = folder.run("data recipe.toml --json").good().json();
    assert_eq!(data["stages"][1]["report"]["sets"][2]["examples"], 20);
    let schema = folder.run("schema --json").good().json();
    assert!(schema["properties"]["stage"].is_object());
    assert!(folder.run("methods --json").good().json()["method"].is_array());
    assert_eq!(folder.run("methods lora --json").good().json()["name"], "lora");
}

#[test]
fn masked_language_modelling_reads_both_texts_of_a_pair() {
    let folder = Folder::new();
    let recipe = folder.recipe("epochs = 1");
    let adapt = recipe.split("[[stage]]\nname = \"animals\"").next().expect("the first stage");
    folder.write("one.toml", adapt);
    folder.write("both.toml", &adapt.replace("\"train.csv\"", "\"train.csv\", pair = \"label\""));
    let tokens = |recipe: &str| -> u64 {
        let ran = folder.run(&format!("train {recipe}")).good();
        let said = ran.out.split("train 40 examples (").nth(1).and_then(|rest| rest.split(' ').next());
        said.and_then(|tokens| tokens.parse().ok()).unwrap_or_else(|| panic!("{ran:#?}"))
    };
    // A word of a label and the separator behind it, at least.
    assert!(tokens("both.toml") >= tokens("one.toml") + 80);
}

#[test]
fn predictions_stand_beside_their_rows() {
    let folder = trained();
    folder.write("texts.csv", "id,text\n7,\"the cat, sat\"\n8,the dog\n");
    let ran = folder.run("predict runs/recipe texts.csv").good();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "id,text,prediction,probability");
    assert!(lines[1].starts_with("7,\"the cat, sat\",") && lines[2].starts_with("8,the dog,"), "{ran:#?}");
    let probability: f64 = lines[1].rsplit(',').next().and_then(|p| p.parse().ok()).expect("a number");
    assert!((0.5..=1.0).contains(&probability), "the likelier of two labels: {probability}");

    // The same in a file, which may be the input itself.
    folder.write("same.csv", "id,text\n7,\"the cat, sat\"\n8,the dog\n");
    folder.run("predict runs/recipe same.csv --out same.csv").good();
    assert_eq!(folder.read("same.csv"), ran.out);
    let list = folder.run("predict runs/recipe texts.csv --json").good().json();
    assert_eq!((&list[0]["id"], list.as_array().map(Vec::len)), (&"7".into(), Some(2)));

    let logits = folder.run("predict runs/recipe texts.csv --json --logits").good().json();
    let (cat, dog) = (&logits[0]["logits"]["cat"], &logits[0]["logits"]["dog"]);
    let (cat, dog) = (cat.as_f64().expect("a number"), dog.as_f64().expect("a number"));
    let likelier = if cat > dog { "cat" } else { "dog" };
    assert_eq!(logits[0]["prediction"], likelier);
    // The softmax of two logits.
    let softmax = 1.0 / (1.0 + (-(cat - dog).abs()).exp());
    assert!((softmax - probability).abs() < 2e-6, "{softmax} against {probability}");

    let taken = folder.run("predict runs/recipe same.csv");
    assert!(taken.code == Some(2) && taken.error.contains("`prediction`") && taken.out.is_empty(), "{taken:#?}");
}

/// Standard input is answered line by line, in its own format.
#[test]
fn a_stream_is_answered_as_it_comes() {
    let folder = trained();
    let mut child =
        folder.command("predict runs/recipe").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut feed = child.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for i in 0..3 {
        writeln!(feed, "{{\"text\": \"the cat\", \"id\": {i}}}").expect("room");
        let answer = answers.next().expect("an answer").expect("text");
        assert!(answer.starts_with(&format!("{{\"text\":\"the cat\",\"id\":{i},\"prediction\":")), "{answer}");
    }
    drop(feed);
    assert!(answers.next().is_none());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// Whoever reads our output may stop reading: that is no error.
#[test]
fn a_closed_pipe_is_no_error() {
    let folder = trained();
    let rows: String = (0..20_000).map(|i| format!("the cat {i}\n")).collect();
    folder.write("many.txt", &rows);
    let mut child = folder
        .command("predict runs/recipe many.txt")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    let ran = Ran::new(child.wait_with_output().expect("it ends"));
    assert!(ran.code == Some(0) && ran.error.is_empty() && first.contains("prediction"), "{ran:#?}");
}

/// Ctrl-C finishes the step and writes a checkpoint; `--resume` ends the run.
#[test]
fn an_interrupted_run_goes_on() {
    let folder = Folder::new();
    folder.write("recipe.toml", &folder.recipe("steps = 400"));
    let mut child = folder
        .command("train recipe.toml --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut story = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let begun = story.by_ref().map_while(Result::ok).any(|line| line.starts_with("stage animals (classify)"));
    assert!(begun);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let rest: Vec<String> = story.map_while(Result::ok).collect();
    let ran = Ran::new(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(130), "{ran:#?} {rest:#?}");
    assert_eq!(ran.json()["interrupted"]["stage"], "animals");
    assert!(rest.iter().any(|line| line == "next: luthier train recipe.toml --resume"), "{rest:#?}");

    let again = folder.run("train recipe.toml");
    assert!(again.code == Some(2) && again.error.contains("--resume"), "{again:#?}");
    let rest = folder.run("train recipe.toml --resume").good();
    assert!(rest.out.contains("stage animals goes on after step "), "{rest:#?}");
    assert!(rest.out.contains("stage animals is done: 400 steps"), "{rest:#?}");
}

/// What other processors compute is the same but for rounding, in both precisions.
#[test]
fn every_set_of_instructions_learns_the_same() {
    let folder = Folder::new();
    for precision in ["f32", "bf16"] {
        let losses = |instructions: &str| -> Vec<f64> {
            let out = format!("{precision}-{instructions}");
            let mut command = folder.command(&format!("train recipe.toml --out {out} --json"));
            command.args(["--set", &format!("stage.animals.train.precision=\"{precision}\"")]);
            Ran::new(command.env("LUTHIER_INSTRUCTIONS", instructions).output().expect("the program runs")).good();
            let events = folder.read(&format!("{out}/events.jsonl"));
            let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
            events.filter(|event| event["event"] == "step").filter_map(|event| event["loss"].as_f64()).collect()
        };
        let expected = losses("portable");
        assert!(expected.len() > 8);
        for instructions in ["avx2", "avx512", "avx512bf16", "amx"] {
            for (found, expected) in losses(instructions).iter().zip(&expected) {
                assert!((found - expected).abs() < 2e-3 * expected, "{instructions}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn bf16_without_instructions_for_it_is_said() {
    let folder = Folder::new();
    for (precision, said) in [("f32", false), ("bf16", true)] {
        let mut command = folder.command(&format!("train recipe.toml --out {precision}"));
        command.args(["--set", &format!("stage.animals.train.precision=\"{precision}\"")]);
        let ran = Ran::new(command.env("LUTHIER_INSTRUCTIONS", "avx2").output().expect("the program runs")).good();
        assert_eq!(ran.out.contains("note: The instructions in use do not multiply bf16"), said, "{}", ran.out);
    }
}

#[test]
fn instructions_that_do_not_exist_are_named() {
    let folder = Folder::new();
    let mut command = folder.command("plan recipe.toml");
    let ran = Ran::new(command.env("LUTHIER_INSTRUCTIONS", "avx1024").output().expect("the program runs"));
    assert_eq!(ran.code, Some(2));
    assert!(ran.error.contains("\"avx1024\", expected one of: portable, avx2"), "{}", ran.error);
}

#[test]
fn a_profile_shows_where_the_time_went() {
    let folder = Folder::new();
    let ran = folder.run("train recipe.toml --profile").good();
    for expected in ["profile of stage animals", "linear, backward", "attention", "all steps", "The ceiling is "] {
        assert!(ran.out.contains(expected), "{expected}: {}", ran.out);
    }
    let events = folder.read("runs/recipe/events.jsonl");
    let profiled = events.lines().filter(|line| line.contains(r#""event":"profiled""#)).count();
    assert_eq!(profiled, 2, "one a stage");
}

#[test]
fn the_ceiling_is_measured() {
    let measured = Folder::new().run("bench ceiling --json").good().json();
    assert!(measured["f32"].as_f64().is_some_and(|rate| rate > 1e8), "{measured}");
    assert!(measured["bf16"].as_f64().is_some_and(|rate| rate > 1e8), "{measured}");
}
