//! Tuning methods: what moves. A method is a file here and a line below.

pub mod adapter;
pub mod bitfit;
pub mod full;
pub mod lora;
pub mod prefix;
pub mod top;

use luthier_nn::{NnError, Plan, Result, Select, Spec};

use crate::check;

luthier_nn::registry! {
    /// What moves: one entry of a recipe's `tune`. The objective's head always moves with it.
    Method as crate::Technique {
        "full" => Full(full::Full),
        "bitfit" => BitFit(bitfit::BitFit),
        "top" => Top(top::Top),
        "lora" => Lora(lora::Lora),
        "adapter" => Adapter(adapter::Adapter),
        "prefix" => Prefix(prefix::Prefix),
    }
}

/// Lets what `select` picks move.
///
/// # Errors
/// When all of it moves already, or when a module beside a weight loses its point.
fn train(plan: &mut Plan, spec: &Spec, select: &Select) -> Result<()> {
    let count = |plan: &Plan| plan.params().filter(|param| plan.moves(&param.path)).count();
    let before = count(plan);
    plan.train(select)?;
    if count(plan) == before {
        let other = plan.entries().iter().find(|e| e.method != plan.method());
        let other = other.map_or_else(|| "the head, which always moves,".to_owned(), |entry| entry.method.clone());
        return Err(NnError::Conflict {
            first: plan.method().to_owned(),
            second: other,
            reason: format!("{} would move anyway", select.describe()),
            hint: "Keep one of them.".to_owned(),
        });
    }
    check::no_module_beside_its_moving_weight(plan, spec)
}
