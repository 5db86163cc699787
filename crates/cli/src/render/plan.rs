//! What a recipe would do, as tables.

use luthier_train::explain::{Count, Known, Memory, PlanReport, StagePlan, Step};

use super::number::{bytes, count, counted, duration, operations, percent};
use super::paint::Paint;
use super::table::Rows;

/// The whole report.
pub(crate) fn plan(report: &PlanReport, paint: Paint) -> String {
    let PlanReport { model, family, layers, width, stages } = report;
    let mut text = format!("model: {model} ({family}, {}, width {width})\n", counted(*layers as u64, "layer"));
    for planned in stages {
        text.push('\n');
        text.push_str(&stage(planned, paint));
    }
    text
}

fn stage(stage: &StagePlan, paint: Paint) -> String {
    let title = paint.bold(&format!("stage {} ({})", stage.name, stage.objective));
    let mut text = format!("{title}\n{}\n\n", facts(stage));
    for table in [roles(stage), entries(stage), memory(&stage.memory), step(&stage.step)] {
        text.push_str(&table.render(paint));
        text.push_str("\n\n");
    }
    text.push_str(&length(stage));
    text.push('\n');
    text
}

/// What is known of the data and the labels.
fn facts(stage: &StagePlan) -> String {
    let texts = &stage.texts;
    let (one, many) = if texts.packed { ("block", "blocks") } else { ("text", "texts") };
    let examples = match texts.examples {
        Some(examples) => format!("{} {many}{}", count(examples.count), known(examples.known)),
        None => format!("no {many} to read yet"),
    };
    let tokens = format!("{:.1} tokens a {one} on average{}", texts.tokens, known(texts.tokens_known));
    let mut lines = vec![format!("data: {examples}; {tokens}, at most {}", count(texts.max_length))];
    if let Some(labels) = stage.labels {
        lines.push(format!("labels: {}", shown(labels)));
    }
    match &stage.new {
        Some(new) if !new.is_empty() => lines.push(format!("new, drawn at random: {}", new.join(", "))),
        Some(_) => {}
        None => lines.push("which parts are new is unknown: the weights are not there".to_owned()),
    }
    lines.join("\n")
}

fn known(known: Known) -> &'static str {
    match known {
        Known::Counted => "",
        Known::Estimated => " (estimated)",
        Known::Config => " (by config.json)",
        Known::Assumed => " (assumed)",
    }
}

/// What moves and what not.
fn roles(stage: &StagePlan) -> Rows {
    let mut rows = Rows::new(["role", "tensors>", "parameters>", "moving>", "share>", "in layers", "learning rate>"]);
    for row in &stage.roles {
        let name = row.role.name();
        let name = if row.added { format!("{name}, added") } else { name.to_owned() };
        let moves = row.moving_numbers > 0;
        let share = if moves { percent(row.moving_numbers, row.numbers) } else { String::new() };
        let moving = if moves { count(row.moving_numbers) } else { "-".to_owned() };
        let rate = row.rate.map_or_else(String::new, factor);
        rows.push([name, count(row.tensors), count(row.numbers), moving, share, row.layers.clone(), rate]);
    }
    let tensors: u64 = stage.roles.iter().map(|row| row.tensors).sum();
    let share = percent(stage.trained, stage.parameters);
    let all = ["all".to_owned(), count(tensors), count(stage.parameters), count(stage.trained), share];
    rows.push(all.into_iter().chain([String::new(), String::new()]));
    rows
}

/// The factor on the learning rate: one, or from the lowest to the highest.
fn factor((low, high): (f64, f64)) -> String {
    if low == high { format!("x {low:.3}") } else { format!("x {low:.3} to {high:.3}") }
}

/// What methods and stabilisers do, verb by verb.
fn entries(stage: &StagePlan) -> Rows {
    let mut rows = Rows::new(["by", "verb", "of what"]);
    let mut last = "";
    for entry in &stage.entries {
        // The verb's name is its name in JSON.
        let verb = serde_json::to_value(entry.verb).ok().and_then(|verb| verb.as_str().map(str::to_owned));
        let method = if entry.method == last { "" } else { &entry.method };
        rows.push([method, &verb.unwrap_or_default(), &entry.what]);
        last = &entry.method;
    }
    rows
}

fn memory(memory: &Memory) -> Rows {
    let mut rows = Rows::new(["memory", "bytes>"]);
    let Memory { weights, gradients, optimizer, activations, total } = *memory;
    let parts = [
        ("weights", weights),
        ("gradients", gradients),
        ("optimiser", optimizer),
        ("activations, about", activations),
        ("all", total),
    ];
    for (name, part) in parts {
        rows.push([name, &bytes(part)]);
    }
    rows
}

fn step(step: &Step) -> Rows {
    let mut rows = Rows::new(["a step", "about>"]);
    let mut push = |name: &str, value: String| rows.push([name.to_owned(), value]);
    push("examples", count(step.examples));
    push("at once", count(step.at_once));
    push("tokens", count(step.tokens));
    push("operations forward", operations(step.forward));
    push("operations backward", operations(step.backward));
    if let Some(seconds) = step.seconds {
        push("time", duration(seconds));
    }
    rows
}

/// How long the stage is.
fn length(stage: &StagePlan) -> String {
    let time = stage.seconds.map_or_else(String::new, |seconds| format!(", about {} of training", duration(seconds)));
    match stage.steps {
        Some(steps) => format!("{}{time}", counted(steps, "step")),
        None => "how many steps is unknown: the data is not there".to_owned(),
    }
}

/// A number, and how it came about.
fn shown(number: Count) -> String {
    format!("{}{}", count(number.count), known(number.known))
}
