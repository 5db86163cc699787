//! Where the time of a stage's steps went, as a table.

use luthier_record::Profile;

use super::number::count;
use super::paint::Paint;
use super::table::Rows;

/// The operations, the longest first, and what no operation took.
pub(crate) fn profile(stage: &str, profile: &Profile, paint: Paint) -> String {
    let mut rows = Rows::new(["operation", "calls>", "seconds>", "share>", "GFLOP/s>", "of the ceiling>"]);
    let share = |seconds: f64| format!("{:.1} %", 100.0 * seconds / profile.seconds.max(1e-9));
    let rate = |operations: u64, seconds: f64| operations as f64 / seconds.max(1e-9);
    let mut row = |name: &str, calls: Option<u64>, seconds: f64, operations: u64| {
        let rate = rate(operations, seconds);
        let arithmetic = match operations {
            0 => [String::new(), String::new()],
            _ => [format!("{:.0}", rate / 1e9), format!("{:.0} %", 100.0 * rate / profile.ceiling.max(1.0))],
        };
        let calls = calls.map(count).unwrap_or_default();
        let [rate, of_ceiling] = arithmetic;
        rows.push([name, &calls, &format!("{seconds:.3}"), &share(seconds), &rate, &of_ceiling]);
    };
    for operation in &profile.operations {
        row(&operation.name, Some(operation.calls), operation.seconds, operation.operations);
    }
    let inside: f64 = profile.operations.iter().map(|operation| operation.seconds).sum();
    row("(between operations)", None, profile.seconds - inside, 0);
    let operations = profile.operations.iter().map(|operation| operation.operations).sum();
    row("all steps", None, profile.seconds, operations);
    let title = paint.bold(&format!("profile of stage {stage}"));
    let ceiling =
        format!("The ceiling is {:.0} GFLOP/s: multiply-adds in registers, all threads.", profile.ceiling / 1e9);
    format!("{title}\n{}\n{ceiling}", rows.render(paint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use luthier_record::Operation;

    #[test]
    fn shares_and_rates() {
        let operation =
            |name: &str, seconds, operations| Operation { name: name.into(), calls: 1200, seconds, operations };
        let operations = vec![operation("linear", 1.5, 300_000_000_000), operation("dropout", 0.25, 0)];
        expect![[r#"
            profile of stage s
            operation             calls  seconds    share  GFLOP/s  of the ceiling
            linear                1,200    1.500   75.0 %      200            80 %
            dropout               1,200    0.250   12.5 %
            (between operations)           0.250   12.5 %
            all steps                      2.000  100.0 %      150            60 %
            The ceiling is 250 GFLOP/s: multiply-adds in registers, all threads."#]]
        .assert_eq(&profile("s", &Profile { seconds: 2.0, ceiling: 2.5e11, operations }, Paint { on: false }));
    }
}
