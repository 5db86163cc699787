//! The checks that several files share: values in range, choices that exist, combinations that mean something.

use std::fmt::Display;

use luthier_nn::{Extent, NnError, Plan, Result, Role, Select, Spec, Verb};

/// Fails when a value is out of range.
pub(crate) fn value(plan: &Plan, key: &'static str, found: impl Display, fits: bool, expected: &str) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(NnError::Value {
        method: plan.method().to_owned(),
        key,
        found: found.to_string(),
        expected: expected.to_owned(),
    })
}

/// That the method which is writing and `other` exclude each other.
pub(crate) fn conflict(plan: &Plan, other: &str, reason: impl Into<String>, hint: &str) -> NnError {
    NnError::Conflict {
        first: plan.method().to_owned(),
        second: other.to_owned(),
        reason: reason.into(),
        hint: hint.to_owned(),
    }
}

/// Fails when the same kind has written already: the second would hide the first or only double it.
pub(crate) fn once(plan: &Plan) -> Result<()> {
    let name = plan.method();
    if plan.entries().iter().any(|entry| entry.method == name) {
        return Err(conflict(plan, name, "it is there twice", "Keep one of them."));
    }
    Ok(())
}

/// The layers that a list names, all of them when it is empty.
pub(crate) fn layers(plan: &Plan, spec: &Spec, layers: &[usize]) -> Result<Vec<usize>> {
    let chosen: Vec<usize> = if layers.is_empty() { (0..spec.layers).collect() } else { layers.to_vec() };
    plan.check_layers(&chosen)?;
    Ok(chosen)
}

/// A selector of these roles and layers (empty: all). Every role and every layer must be there: one that picks nothing
/// beside others that do would be ignored without a word.
pub(crate) fn select(plan: &Plan, spec: &Spec, roles: &[Role], layers: &[usize]) -> Result<Select> {
    let mut select = Select::all().roles(roles);
    if !layers.is_empty() {
        plan.check_layers(layers)?;
        select = select.layers(layers.iter().copied());
    }
    for &role in roles {
        select.clone().roles(&[role]).sites(plan.method(), spec)?;
    }
    Ok(select)
}

/// Fails when a linear site carries a module and its weight moves: the module could say nothing that the weight cannot.
pub(crate) fn no_module_beside_its_moving_weight(plan: &Plan, spec: &Spec) -> Result<()> {
    for site in spec.sites.iter().filter(|site| matches!(site.extent, Extent::Linear { .. })) {
        let weight = format!("{}.weight", site.path);
        if let Some((module, _)) = plan.outputs_of(&site.path).first()
            && plan.moves(&weight)
        {
            let trains = plan.entries().iter().filter(|entry| entry.verb == Verb::Train && entry.method != *module);
            let names: std::collections::BTreeSet<&str> = trains.map(|entry| entry.method.as_str()).collect();
            return Err(NnError::Conflict {
                first: module.clone(),
                second: names.into_iter().collect::<Vec<_>>().join(" or "),
                reason: format!("{weight} moves, so a module beside it can add nothing"),
                hint: "Keep one of them, or give them different layers or roles.".to_owned(),
            });
        }
    }
    Ok(())
}
