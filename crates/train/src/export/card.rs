//! `README.md` of an export: what it is, how good it is, how to load it.

use std::fmt::Write;
use std::path::Path;

use luthier_nn::{ParamSpec, Role};

use super::hf::auto_class;
use crate::opened::Run;

/// The card of a full model.
pub(super) fn model(run: &Run, out: &Path) -> String {
    let task = if run.labels().is_some() { "text-classification" } else { "fill-mask" };
    let use_it = format!(
        "from transformers import pipeline\n\nanswer = pipeline({task:?}, model={:?})\n",
        out.display().to_string()
    );
    card(run, "transformers", &use_it)
}

/// The card of the base model beside an adapter.
pub(super) fn base(run: &Run) -> String {
    format!("# The base model of the adapter in the folder above\n\nFrom {}, changed by the same run.\n", origin(run))
}

/// The card of a peft directory.
pub(super) fn peft(run: &Run, out: &Path, base: &str) -> String {
    let mut code = loads_base(run, base, "from peft import PeftModel\n");
    let _ = writeln!(code, "model = PeftModel.from_pretrained(model, {:?})", out.display().to_string());
    card(run, "peft", &code)
}

/// The card of an AdapterHub directory.
pub(super) fn adapterhub(run: &Run, out: &Path, base: &str, names: &[&str]) -> String {
    let mut code = loads_base(run, base, "import adapters\n");
    code.push_str("adapters.init(model)\n");
    if let [_] = names {
        let _ = writeln!(code, "model.load_adapter({:?}, set_active=True)", out.display().to_string());
    } else {
        for name in names {
            let _ = writeln!(code, "model.load_adapter({:?})", out.join(name).display().to_string());
        }
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        let _ = writeln!(code, "model.set_active_adapters(adapters.composition.Stack({}))", names.join(", "));
    }
    card(run, "adapters", &code)
}

/// What stands in the place of a result that no format of Python's libraries holds.
pub(super) fn homeless(run: &Run) -> String {
    let kinds: Vec<&str> = run.stage().method.iter().map(|method| method.kind()).collect();
    format!(
        "The result of this run ({}) mixes modules that no one format of transformers, peft and adapters holds.\n\
         luthier evaluate and luthier predict read it from the run directory.\n",
        kinds.join(" and ")
    )
}

fn loads_base(run: &Run, base: &str, import: &str) -> String {
    let class = auto_class(run.assembled.objective.head());
    let mut labels = run.labels().map_or(String::new(), |labels| format!(", num_labels={}", labels.len()));
    // A base model that was itself fine-tuned for another number of labels: transformers must be told to let them go.
    let differs = |param: &ParamSpec| run.base.shape(&param.path).is_some_and(|shape| shape != param.shape);
    if run.assembled.plan.spec().params.iter().any(|param| param.role == Role::Head && differs(param)) {
        labels.push_str(", ignore_mismatched_sizes=True");
    }
    format!(
        "{import}from transformers import AutoTokenizer, {class}\n\n\
         tokenizer = AutoTokenizer.from_pretrained({base:?})\n\
         model = {class}.from_pretrained({base:?}{labels})\n"
    )
}

fn card(run: &Run, library: &str, code: &str) -> String {
    let mut card = format!("---\nlibrary_name: {library}\n---\n\n# {}\n\n", run.stage().name);
    let _ = writeln!(card, "Fine-tuned with Luthier from {}, in these stages:\n", origin(run));
    for stage in &run.recipe.stage {
        let methods: Vec<&str> = stage.method.iter().map(|method| method.kind()).collect();
        let _ = writeln!(card, "- {}: {}, {}", stage.name, stage.objective.kind(), methods.join(" and "));
    }
    for (split, scores) in &run.record.summary.scores {
        let _ = writeln!(card, "\n| {split} | score | 95% interval |\n|---|---|---|");
        for (metric, score) in &scores.0 {
            let interval = score.interval.map_or(String::new(), |i| format!("{:.4} to {:.4}", i.low, i.high));
            let _ = writeln!(card, "| {metric} | {:.4} | {interval} |", score.value);
        }
    }
    if let Some(labels) = run.labels() {
        let names: Vec<String> = labels.names().iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(card, "\nLabels, in the order of the logits: {}.", names.join(", "));
    }
    let _ = write!(card, "\n```python\n{code}```\n");
    card
}

/// The base model's folder, without the way to it, which is a person's own business.
fn origin(run: &Run) -> String {
    if run.recipe.model.new.is_some() {
        return "a new model with random weights".to_owned();
    }
    run.base_dir.file_name().map_or("a model".to_owned(), |name| format!("`{}`", name.to_string_lossy()))
}
