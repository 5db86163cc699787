//! What the data looks like to the model, as tables, bars and sentences.

use luthier_data::Overlong;
use luthier_data::inspect::{LabelReport, Report, Sample, SetReport};
use luthier_data::overlap::Repeated;

use super::number::{count, counted, percent};
use super::paint::Paint;
use super::table::Rows;

/// How many labels are shown at most: the most frequent and the rarest of them.
const LABELS: usize = 20;
/// The width of a whole bar.
const BAR: usize = 40;

/// The report on the data of one stage.
pub(crate) fn data(stage: &str, report: &Report, paint: Paint) -> String {
    let mut parts = vec![paint.bold(&format!("stage {stage}")), sets(report).render(paint)];
    parts.extend(report.sets.first().map(lengths));
    if !report.labels.is_empty() {
        parts.push(labels(report, paint));
    }
    let found = remarks(report, paint);
    parts.push(if found.is_empty() { paint.green("nothing to remark") } else { found.join("\n") });
    parts.extend(report.samples.iter().map(|sample| shown(sample, report.on_overlong, paint)));
    parts.join("\n\n") + "\n"
}

fn sets(report: &Report) -> Rows {
    let over = report.max_length.map_or_else(|| "too long>".to_owned(), |most| format!("over {}>", count(most as u64)));
    let header = ["set", "examples>", "tokens>", "shortest>", "median>", "90 %>", "99 %>", "longest>", &over, "empty>"];
    let mut rows = Rows::new(header.into_iter().chain(["repeated>", "file"]));
    for set in &report.sets {
        let lengths = &set.lengths;
        let numbers = [lengths.min, lengths.p50, lengths.p90, lengths.p99, lengths.max].map(u64::from);
        let after = [set.overlong as u64, set.empty as u64, set.duplicates.rows as u64];
        let mut row = vec![set.name.clone(), count(set.examples as u64), count(set.tokens)];
        row.extend(numbers.into_iter().chain(after).map(count));
        row.push(set.source.clone());
        rows.push(row);
    }
    rows
}

/// How many texts of the first set have how many tokens.
fn lengths(set: &SetReport) -> String {
    let most = set.histogram.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let line = |bin: &luthier_data::inspect::Bin| {
        let range = format!("{} to {}", bin.from, bin.to);
        // A bin that is not empty shows at least the thinnest bar.
        let bar = "█".repeat((bin.count * BAR / most).max(usize::from(bin.count > 0)));
        format!("{range:>13}  {bar} {}", count(bin.count as u64)).trim_end().to_owned()
    };
    let title = format!("tokens of a text in {}:", set.name);
    std::iter::once(title).chain(set.histogram.iter().map(line)).collect::<Vec<_>>().join("\n")
}

/// The labels by how frequent they are; the middle of a long list is left out, and counted.
fn labels(report: &Report, paint: Paint) -> String {
    let names = report.sets.iter().map(|set| format!("{}>", set.name));
    let mut rows = Rows::new(std::iter::once("label".to_owned()).chain(names).chain(["share>".to_owned()]));
    let mut labels: Vec<&LabelReport> = report.labels.iter().collect();
    labels.sort_by_key(|label| (std::cmp::Reverse(label.counts.first()), &label.name));
    let all: u64 = labels.iter().filter_map(|label| label.counts.first()).sum();
    let hidden = if labels.len() > LABELS { labels.len() - LABELS + 1 } else { 0 };
    for (i, label) in labels.iter().enumerate() {
        let first = LABELS / 2;
        if hidden > 0 && i == first {
            rows.push([format!("({hidden} more)")].into_iter().chain(vec![String::new(); report.sets.len() + 1]));
        }
        if hidden > 0 && (first..first + hidden).contains(&i) {
            continue;
        }
        let share = percent(label.counts.first().copied().unwrap_or(0), all);
        rows.push([label.name.clone()].into_iter().chain(label.counts.iter().map(|&n| count(n))).chain([share]));
    }
    format!("{}\n{}", counted(labels.len() as u64, "label"), rows.render(paint))
}

/// What is probably not as it should be.
fn remarks(report: &Report, paint: Paint) -> Vec<String> {
    let mut found = Vec::new();
    let mut warn = |text: String, details: Vec<String>| {
        found.push(format!("{} {text}", paint.yellow("warning:")));
        found.extend(details.into_iter().map(|detail| format!("  {detail}")));
    };
    for set in &report.sets {
        let name = &set.name;
        if set.overlong > 0 {
            let (texts, share) =
                (counted(set.overlong as u64, "text"), percent(set.overlong as u64, set.examples as u64));
            let most = report.max_length.map_or_else(String::new, |most| count(most as u64));
            let tokens = count(set.tokens_lost);
            let then = match report.on_overlong {
                Overlong::Truncate => format!("a cut takes {tokens} tokens"),
                Overlong::Drop => format!("left out, with {tokens} tokens"),
                Overlong::Error => "training does not begin".to_owned(),
            };
            warn(format!("{name} has {texts} ({share}) of more than {most} tokens; {then}"), vec![]);
        }
        if set.empty > 0 {
            let texts = counted(set.empty as u64, "empty text");
            warn(format!("{name} has {texts}: {}", set.empty_at.join(", ")), vec![]);
        }
        let twice = &set.duplicates;
        if twice.rows > 0 {
            let (rows, texts) = (counted(twice.rows as u64, "repeated row"), counted(twice.texts as u64, "text"));
            let text =
                format!("{name} has {rows}, of {texts}; with several labels: {}", count(twice.conflicting as u64));
            warn(text, twice.examples.iter().map(repeated).collect());
        }
    }
    for leak in &report.leakage {
        let (rows, conflicting) = (counted(leak.rows as u64, "row"), count(leak.conflicting as u64));
        let (split, within) = (&leak.split, &leak.within);
        let text =
            format!("{split} has {rows} whose text is in {within} as well; with another label there: {conflicting}");
        warn(text, leak.examples.iter().map(repeated).collect());
    }
    for (labels, what) in [
        (&report.single_example_labels, "with one training example, too few to learn from"),
        (&report.unseen_labels, "without a training example"),
    ] {
        if !labels.is_empty() {
            warn(format!("{} {what}: {}", counted(labels.len() as u64, "label"), labels.join(", ")), vec![]);
        }
    }
    for group in &report.lookalike_labels {
        warn(format!("these labels look like one: {}", group.join(", ")), vec![]);
    }
    found
}

fn repeated(text: &Repeated) -> String {
    let labels = if text.labels.is_empty() { String::new() } else { format!(" [{}]", text.labels.join(", ")) };
    format!("{}{labels}: {}", text.places.join(", "), text.text)
}

/// An example as the model sees it.
fn shown(sample: &Sample, on_overlong: Overlong, paint: Paint) -> String {
    let label = sample.label.as_ref().map_or_else(String::new, |label| format!(" [{label}]"));
    let then = match on_overlong {
        _ if !sample.overlong => "",
        Overlong::Truncate => " (cut)",
        Overlong::Drop => " (left out, for it goes on)",
        Overlong::Error => " (too long, for it goes on)",
    };
    format!("{}{label}\n  {}\n  {}{then}", paint.bold(&sample.place), sample.text, sample.tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use luthier_data::inspect::{Bin, Quantiles};
    use luthier_data::overlap::{Duplicates, Leakage};

    fn set(name: &str, examples: usize) -> SetReport {
        SetReport {
            name: name.into(),
            source: format!("{name}.csv"),
            examples,
            tokens: 12 * examples as u64,
            lengths: Quantiles { min: 2, p50: 11, p90: 20, p99: 33, max: 64 },
            histogram: vec![
                Bin { from: 0, to: 8, count: 1 },
                Bin { from: 9, to: 16, count: 80 },
                Bin { from: 17, to: 32, count: 0 },
            ],
            overlong: 0,
            tokens_lost: 0,
            empty: 0,
            empty_at: Vec::new(),
            duplicates: Duplicates::default(),
        }
    }

    fn report() -> Report {
        let label = |i: usize| LabelReport { name: format!("label_{i:02}"), counts: vec![100 - i as u64, 1] };
        Report {
            max_length: Some(32),
            on_overlong: Overlong::Truncate,
            sets: vec![set("train", 9003), set("test", 3080)],
            labels: (0..24).map(label).collect(),
            single_example_labels: Vec::new(),
            unseen_labels: Vec::new(),
            lookalike_labels: Vec::new(),
            leakage: Vec::new(),
            samples: vec![Sample {
                place: "train.csv:2".into(),
                text: "Where is my card".into(),
                label: Some("card_arrival".into()),
                tokens: "[CLS] where is my card [SEP]".into(),
                overlong: true,
            }],
        }
    }

    #[test]
    fn good_data() {
        expect![[r#"
            stage intents

            set    examples   tokens  shortest  median  90 %  99 %  longest  over 32  empty  repeated  file
            train     9,003  108,036         2      11    20    33       64        0      0         0  train.csv
            test      3,080   36,960         2      11    20    33       64        0      0         0  test.csv

            tokens of a text in train:
                   0 to 8  █ 1
                  9 to 16  ████████████████████████████████████████ 80
                 17 to 32   0

            24 labels
            label     train  test  share
            label_00    100     1  4.7 %
            label_01     99     1  4.7 %
            label_02     98     1  4.6 %
            label_03     97     1  4.6 %
            label_04     96     1  4.5 %
            label_05     95     1  4.5 %
            label_06     94     1  4.4 %
            label_07     93     1  4.4 %
            label_08     92     1  4.3 %
            label_09     91     1  4.3 %
            (5 more)
            label_15     85     1  4.0 %
            label_16     84     1  4.0 %
            label_17     83     1  3.9 %
            label_18     82     1  3.9 %
            label_19     81     1  3.8 %
            label_20     80     1  3.8 %
            label_21     79     1  3.7 %
            label_22     78     1  3.7 %
            label_23     77     1  3.6 %

            nothing to remark

            train.csv:2 [card_arrival]
              Where is my card
              [CLS] where is my card [SEP] (cut)
        "#]]
        .assert_eq(&data("intents", &report(), Paint { on: false }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut report = report();
        let twice = Repeated {
            text: "a dog".into(),
            places: vec!["train.csv:2".into(), "train.csv:9".into()],
            labels: vec!["x".into(), "y".into()],
        };
        let first = &mut report.sets[0];
        (first.overlong, first.tokens_lost, first.empty) = (3, 40, 1);
        first.empty_at = vec!["train.csv:7".into()];
        first.duplicates = Duplicates { rows: 2, texts: 1, conflicting: 1, examples: vec![twice.clone()] };
        let (split, within) = ("test".into(), "train".into());
        report.leakage = vec![Leakage { split, within, rows: 1, conflicting: 0, examples: vec![twice] }];
        report.single_example_labels = vec!["a".into(), "b".into()];
        report.unseen_labels = vec!["c".into()];
        report.lookalike_labels = vec![vec!["B".into(), "b".into()]];
        expect![[r#"
            warning: train has 3 texts (0.033 %) of more than 32 tokens; a cut takes 40 tokens
            warning: train has 1 empty text: train.csv:7
            warning: train has 2 repeated rows, of 1 text; with several labels: 1
              train.csv:2, train.csv:9 [x, y]: a dog
            warning: test has 1 row whose text is in train as well; with another label there: 0
              train.csv:2, train.csv:9 [x, y]: a dog
            warning: 2 labels with one training example, too few to learn from: a, b
            warning: 1 label without a training example: c
            warning: these labels look like one: B, b"#]]
        .assert_eq(&remarks(&report, Paint { on: false }).join("\n"));
    }

    #[test]
    fn what_becomes_of_long_texts_is_said() {
        let mut report = report();
        (report.sets[0].overlong, report.sets[0].tokens_lost) = (3, 40);
        let said = |on_overlong| {
            let report = Report { on_overlong, ..report.clone() };
            let sample = shown(&report.samples[0], on_overlong, Paint { on: false });
            let last = sample.lines().last().unwrap_or_default().to_owned();
            format!("{}\n{last}", remarks(&report, Paint { on: false })[0])
        };
        let [cut, dropped, refused] = [Overlong::Truncate, Overlong::Drop, Overlong::Error].map(said);
        expect![[r#"
            warning: train has 3 texts (0.033 %) of more than 32 tokens; a cut takes 40 tokens
              [CLS] where is my card [SEP] (cut)
            warning: train has 3 texts (0.033 %) of more than 32 tokens; left out, with 40 tokens
              [CLS] where is my card [SEP] (left out, for it goes on)
            warning: train has 3 texts (0.033 %) of more than 32 tokens; training does not begin
              [CLS] where is my card [SEP] (too long, for it goes on)"#]]
        .assert_eq(&[cut, dropped, refused].join("\n"));
    }
}
