//! What a step costs, from the shapes alone: operations, parameters, memory.

use crate::plan::Plan;
use crate::spec::{Extent, Role, Site};

/// Operations and bytes of one optimiser step.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Cost {
    /// Numbers in the network and in what methods add.
    pub parameters: u64,
    /// Those that move.
    pub trained: u64,
    /// Floating-point operations of the forward pass.
    pub forward: u64,
    /// Floating-point operations of the backward pass.
    pub backward: u64,
    /// Bytes of parameters, gradients and optimiser state.
    pub state_bytes: u64,
    /// Bytes of saved activations, about.
    pub activation_bytes: u64,
}

impl Cost {
    /// The cost of a step over `sequences` sequences of `length` tokens. `head_rows` is how many rows the head reads
    /// (masked tokens, or one a sequence), `vocabulary` the width of a language model's projection, 0 if there is none.
    ///
    /// Of the last layer no other rows are computed than those that the head reads, but for its keys and values; and where that
    /// is one a sequence, these are not made either, if what was added to them folds into their weights and there is no prefix
    /// (see [`crate::Cx::attend`]).
    pub fn of(plan: &Plan, sequences: u64, length: u64, head_rows: u64, vocabulary: u64) -> Cost {
        let tokens = sequences * length;
        let mut cost = Cost::default();
        for param in plan.params() {
            let n = param.len() as u64;
            cost.parameters += n;
            if plan.moves(&param.path) {
                cost.trained += n;
            }
        }
        // Weights, and for what moves a gradient and AdamW's two moments.
        cost.state_bytes = 4 * cost.parameters + 12 * cost.trained;
        let spec = plan.spec();
        let last = spec.layers.checked_sub(1);
        let stays = |site: &Site| plan.outputs_of(&site.path).iter().any(|(_, module)| !module.folds(true));
        let keys = |site: &&Site| site.layer == last && matches!(site.role, Role::Key | Role::Value);
        // A language model reads other rows than the first, were they as many.
        let absorbs = head_rows == sequences
            && vocabulary == 0
            && last.is_some_and(|layer| plan.prefix_of(layer).is_none())
            && !spec.sites.iter().filter(keys).any(stays);
        let rows_of = |role: Role, layer: Option<usize>| match role {
            Role::Pooler | Role::Head => head_rows,
            Role::Key | Role::Value if !absorbs => tokens,
            _ if layer.is_some() && layer == last => head_rows,
            _ => tokens,
        };
        let (mut flows, mut at_query) = (false, false);
        for site in &spec.sites {
            let own = |part: &str| plan.moves(&format!("{}.{part}", site.path));
            let modules = plan.outputs_of(&site.path).len() as u64;
            if site.role == Role::Query {
                at_query = flows;
            }
            // Query, key and value read the same input: whether it needs a gradient is settled before the first.
            let input_flows = if matches!(site.role, Role::Query | Role::Key | Role::Value) { at_query } else { flows };
            let rows = rows_of(site.role, site.layer);
            match site.extent {
                Extent::Linear { inputs, outputs } => {
                    let product = 2 * rows * (inputs * outputs) as u64;
                    cost.forward += product;
                    cost.backward += product * (u64::from(own("weight")) + u64::from(input_flows));
                    if own("weight") {
                        cost.activation_bytes += 4 * rows * inputs as u64;
                    }
                    if input_flows || own("weight") || modules > 0 {
                        cost.activation_bytes += 4 * rows * outputs as u64;
                    }
                }
                Extent::Norm { width, .. } if flows => {
                    cost.activation_bytes += 4 * rows * width as u64;
                }
                _ => {}
            }
            if site.role == Role::Value {
                let on_top = site.layer == last;
                let queries = if on_top { head_rows } else { tokens };
                let prefix = site.layer.is_some_and(|layer| plan.prefix_of(layer).is_some());
                // What is absorbed is as wide for every head as all of them are together.
                let width = if on_top && absorbs { spec.heads * spec.width } else { spec.width } as u64;
                let scores = 4 * queries * length * width;
                cost.forward += scores;
                flows |= prefix;
                if flows || own("weight") || own("bias") || modules > 0 {
                    cost.backward += 2 * scores + scores / 2;
                }
            }
            flows |= own("weight") || own("bias") || plan.moves(&site.path) || modules > 0;
        }
        for param in plan.added() {
            if param.shape.len() == 2 {
                let product = 2 * rows_of(param.role, param.layer) * param.len() as u64;
                cost.forward += product;
                cost.backward += 2 * product;
            }
        }
        let projection = 2 * head_rows * vocabulary * spec.width as u64;
        cost.forward += projection;
        cost.backward += 2 * projection;
        cost
    }
}
