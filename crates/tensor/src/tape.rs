//! The tape: a record of what needs a gradient, and of nothing else.
//!
//! An operation whose inputs need no gradient records nothing and saves nothing, so a frozen lower trunk costs a forward
//! pass and no memory, and evaluation is the same code with nothing trainable.

use crate::device::Device;
use crate::error::{Result, ensure_shape};
use crate::grads::{Grads, RowGrad};
use crate::tensor::Tensor;

/// In what precision products are computed. Everything else is f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit operands.
    #[default]
    F32,
    /// Operands rounded to bf16, sums in f32.
    Bf16,
}

/// A value on a tape: a tensor, and where its gradient goes if it needs one.
#[derive(Debug, Clone)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// A value that needs no gradient.
    pub fn constant(value: Tensor) -> Var {
        Var { value, node: None }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether a gradient flows into it.
    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same value cut off from the tape.
    pub fn detach(&self) -> Var {
        Var::constant(self.value.clone())
    }

    /// The tensor alone, which nobody else holds if it was just made.
    pub(crate) fn into_value(self) -> Tensor {
        self.value
    }

    pub(crate) fn node(&self) -> Option<usize> {
        self.node
    }

    pub(crate) fn f32(&self) -> &[f32] {
        self.value.f32()
    }
}

type Backward = Box<dyn FnOnce(Tensor, &mut Flow<'_>) -> Result<()>>;

enum Node {
    Leaf(String),
    Op(&'static str, Backward),
}

/// Records operations for one forward pass.
pub struct Tape {
    device: Device,
    precision: Precision,
    nodes: Vec<Node>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes)", self.nodes.len())
    }
}

/// Where gradients go during a backward pass.
pub struct Flow<'a> {
    device: &'a Device,
    nodes: &'a [Node],
    slots: Vec<Option<Tensor>>,
    grads: &'a mut Grads,
}

impl Tape {
    /// An empty tape.
    pub fn new(device: &Device, precision: Precision) -> Tape {
        Tape { device: device.clone(), precision, nodes: Vec::new() }
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// In what precision products are computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How many operations and parameters were recorded.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A trained parameter: its gradient goes into [`Grads`] under `path`.
    pub fn leaf(&mut self, path: &str, value: Tensor) -> Var {
        self.nodes.push(Node::Leaf(path.to_owned()));
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Records the result of the operation `op`. `backward` is built (and what it saves is kept) only when `needs_grad`.
    pub(crate) fn record<F>(
        &mut self,
        op: &'static str,
        value: Tensor,
        needs_grad: bool,
        backward: impl FnOnce() -> F,
    ) -> Var
    where
        F: FnOnce(Tensor, &mut Flow<'_>) -> Result<()> + 'static,
    {
        if !needs_grad {
            return Var::constant(value);
        }
        self.nodes.push(Node::Op(op, Box::new(backward())));
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Adds the gradient of the scalar `loss` to `grads`, and frees what was saved as it goes.
    ///
    /// # Errors
    /// When `loss` is not a scalar, or an operation's shapes do not hold.
    pub fn backward(self, loss: &Var, grads: &mut Grads) -> Result<()> {
        self.backward_with(loss, grads, &mut |_| ())
    }

    /// [`Tape::backward`], calling `complete` with a parameter's path when its gradient will not change any more.
    pub fn backward_with(mut self, loss: &Var, grads: &mut Grads, complete: &mut dyn FnMut(&str)) -> Result<()> {
        ensure_shape("backward", loss.value.len() == 1, loss.value.shape(), || "a scalar loss".to_owned())?;
        let Some(last) = loss.node else { return Ok(()) };
        let mut slots: Vec<Option<Tensor>> = Vec::new();
        slots.resize_with(self.nodes.len(), || None);
        slots[last] = Some(Tensor::full(&self.device, loss.value.shape(), 1.0));
        while let Some(node) = self.nodes.pop() {
            let here = slots.pop().flatten();
            match (node, here) {
                (Node::Leaf(path), None) => complete(&path),
                (Node::Leaf(path), Some(gradient)) => {
                    grads.add_dense(&path, gradient)?;
                    complete(&path);
                }
                (Node::Op(..), None) => {}
                (Node::Op(op, backward), Some(gradient)) => {
                    let _span = self.device.span_backward(op);
                    let mut flow = Flow { device: &self.device, nodes: &self.nodes, slots, grads };
                    backward(gradient, &mut flow)?;
                    slots = flow.slots;
                }
            }
        }
        Ok(())
    }
}

impl Flow<'_> {
    /// Where to compute.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// Adds a gradient to what has already arrived at `to`; the first one is taken as it is.
    pub(crate) fn add(&mut self, to: Option<usize>, gradient: Tensor) -> Result<()> {
        let Some(to) = to else { return Ok(()) };
        if let Node::Leaf(path) = &self.nodes[to] {
            return self.grads.add_dense(path, gradient);
        }
        match &mut self.slots[to] {
            Some(sum) => sum.add_scaled(1.0, &gradient),
            empty => {
                *empty = Some(gradient);
                Ok(())
            }
        }
    }

    /// Lends the place where the gradient of `to` gathers, so that a product can add to it without a copy.
    /// `write` gets `true` when the place already holds a sum, `false` when it is to be overwritten.
    pub(crate) fn accumulate(
        &mut self,
        to: Option<usize>,
        shape: &[usize],
        write: impl FnOnce(&mut [f32], bool) -> Result<()>,
    ) -> Result<()> {
        let Some(to) = to else { return Ok(()) };
        if let Node::Leaf(path) = &self.nodes[to] {
            return self.grads.accumulate(self.device, path, shape, write);
        }
        match &mut self.slots[to] {
            Some(sum) => write(sum.f32_mut(), true),
            empty => {
                let mut fresh = Tensor::stale(self.device, shape);
                write(fresh.f32_mut(), false)?;
                *empty = Some(fresh);
                Ok(())
            }
        }
    }

    /// Adds gradients of single rows of a table (`values` is `[indices.len(), width]`); a parameter keeps them as rows.
    pub(crate) fn add_rows(
        &mut self,
        to: Option<usize>,
        shape: [usize; 2],
        indices: &[u32],
        values: &Tensor,
    ) -> Result<()> {
        let Some(to) = to else { return Ok(()) };
        let rows = RowGrad::gather(self.device, shape, indices, values.f32());
        if let Node::Leaf(path) = &self.nodes[to] {
            self.grads.add_rows(path, rows);
            return Ok(());
        }
        self.add(Some(to), crate::grads::Grad::Rows(rows).to_dense())
    }
}
