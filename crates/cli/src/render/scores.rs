//! Scores as tables: those of a run, those of one measurement.

use luthier_record::{Score, Scores, Summary};

use super::number::{bytes, duration, rate, value};
use super::paint::Paint;
use super::plain::ordered;
use super::table::Rows;

/// What came out of a run: stages by splits by metrics, then what it took. `next` is what a person may type now.
pub(crate) fn summary(summary: &Summary, next: &str, paint: Paint) -> String {
    let mut rows = Rows::new(["stage", "split", "metric", "value>", "95 % interval"]);
    for stage in &summary.stages {
        let mut name = stage.name.as_str();
        for split in ordered(stage.scores.keys()) {
            let mut split_name = split.as_str();
            for (metric, score) in &stage.scores[split].0 {
                rows.push([name, split_name, metric, &value(score.value), &interval(score)]);
                (name, split_name) = ("", "");
            }
        }
        if stage.scores.is_empty() {
            rows.push([name, "(not measured)", "", "", ""]);
        }
    }
    let seconds: f64 = summary.stages.iter().map(|stage| stage.seconds).sum();
    let tokens: f64 = summary.stages.iter().map(|stage| stage.tokens_per_second * stage.seconds).sum();
    let took = format!(
        "{} of training, {} tokens/s, first step after {}, at most {} of memory",
        duration(seconds),
        rate(if seconds > 0.0 { tokens / seconds } else { 0.0 }),
        duration(summary.seconds_to_first_step),
        bytes(summary.peak_memory_bytes),
    );
    let (table, run) = (rows.render(paint), &summary.run);
    format!("\n{table}\n\n{took}\nrun directory: {run}\nnext: {}\n", paint.bold(next))
}

/// Several runs side by side, by what their last stages score on the last split that they have.
pub(crate) fn comparison(runs: &[Summary], paint: Paint) -> String {
    let mut rows = Rows::new(["run", "split", "metric", "value>", "95 % interval"]);
    for run in runs {
        let Some(stage) = run.stages.last() else { continue };
        let Some(split) = ordered(stage.scores.keys()).into_iter().last() else { continue };
        let mut name = run.run.as_str();
        for (metric, score) in &stage.scores[split].0 {
            rows.push([name, split, metric, &value(score.value), &interval(score)]);
            name = "";
        }
    }
    format!("\n{}\n", rows.render(paint))
}

/// The scores on one split.
pub(crate) fn measured(scores: &Scores, paint: Paint) -> String {
    let mut rows = Rows::new(["metric", "value>", "95 % interval"]);
    for (metric, score) in &scores.0 {
        rows.push([metric, &value(score.value), &interval(score)]);
    }
    rows.render(paint)
}

fn interval(score: &Score) -> String {
    let text = score.interval.map(|range| format!("{} to {}", value(range.low), value(range.high)));
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::plain::tests::{events, scores};
    use super::*;
    use expect_test::expect;
    use luthier_record::Event;

    #[test]
    fn the_end_of_a_run() {
        let last = events().pop().map(|line| line.event);
        let Some(Event::RunFinished(result)) = last else { panic!("a run ends with its summary") };
        let text = summary(&result, "luthier predict runs/intents new.csv", Paint { on: false });
        expect![[r#"

            stage    split           metric     value  95 % interval
            adapt    (not measured)
            intents  dev             accuracy  0.9000
                                     loss      0.5000
                     test            accuracy  0.9200  0.9100 to 0.9300
                                     loss      0.5000

            6 min 10 s of training, 12,346 tokens/s, first step after 0.8 s, at most 700 MiB of memory
            run directory: runs/intents
            next: luthier predict runs/intents new.csv
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn one_measurement() {
        expect![[r#"
            metric     value  95 % interval
            accuracy  0.9200  0.9100 to 0.9300
            loss      0.5000"#]]
        .assert_eq(&measured(&scores(0.92, true), Paint { on: false }));
    }
}
