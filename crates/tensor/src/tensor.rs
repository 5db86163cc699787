//! The tensor: a shape and a reference-counted, row-major, contiguous buffer.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use half::bf16;
use memmap2::Mmap;

use crate::device::{Buffer, Device};
use crate::error::{Result, TensorError, ensure_shape};
use crate::kernels::parallel;
use crate::kernels::product::{Half, Mat, Panels, Pass, prepare};
use crate::tape::Precision;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floats: activations, gradients, optimiser state, master weights.
    F32,
    /// Brain floats: 8 bits of exponent, 8 of precision.
    Bf16,
}

impl DType {
    /// The name people use for it.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
        }
    }
}

enum Data {
    F32(Buffer),
    /// The result of a product that other products alone are to read: its elements are those of [`Storage::half`], and are
    /// made f32 only if somebody does ask.
    Narrow(OnceLock<Buffer>),
    Bf16(Vec<bf16>),
    /// Weights as they lie in a file, read when touched; copied on the first write.
    Mapped {
        map: Arc<Mmap>,
        bytes: Range<usize>,
    },
}

/// Elements, and what products made of them: kept as long as the elements stay as they are, so that frozen weights are
/// packed once, and an activation that several products read is rounded once.
struct Storage {
    data: Data,
    half: OnceLock<Arc<Half>>,
    panels: [OnceLock<Arc<Panels>>; 2],
}

impl Storage {
    fn new(data: Data) -> Arc<Storage> {
        Arc::new(Storage { data, half: OnceLock::new(), panels: Default::default() })
    }
}

/// A dense array. Cloning shares the memory; writing to a shared one copies it first.
#[derive(Clone)]
pub struct Tensor {
    shape: Arc<[usize]>,
    storage: Arc<Storage>,
    device: Device,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype().name(), self.shape)
    }
}

impl Tensor {
    /// Wraps values. The error names both sizes when they differ.
    pub fn from_vec(device: &Device, shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
        ensure_shape("from_vec", shape.iter().product::<usize>() == values.len(), shape, || {
            format!("{} values", values.len())
        })?;
        Ok(Tensor {
            shape: shape.into(),
            storage: Storage::new(Data::F32(Buffer::own(values))),
            device: device.clone(),
        })
    }

    /// Zeros from the system, not from the pool: the pages of a large one cost nothing until they are touched.
    pub fn zeros(device: &Device, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor { shape: shape.into(), storage: Storage::new(Data::F32(Buffer::zeroed(n))), device: device.clone() }
    }

    /// A tensor of one value.
    pub fn full(device: &Device, shape: &[usize], value: f32) -> Tensor {
        let n = shape.iter().product();
        Tensor {
            shape: shape.into(),
            storage: Storage::new(Data::F32(Buffer::own(vec![value; n]))),
            device: device.clone(),
        }
    }

    /// A view of little-endian f32 values in a mapped file.
    ///
    /// # Errors
    /// When the byte range is outside the map, is misaligned, or is not as long as the shape says.
    pub fn mapped(device: &Device, shape: &[usize], map: Arc<Mmap>, bytes: Range<usize>) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let fits = bytes.end <= map.len()
            && bytes.start <= bytes.end
            && n.checked_mul(4) == Some(bytes.len())
            && bytemuck::try_cast_slice::<u8, f32>(&map[bytes.clone()]).is_ok();
        ensure_shape("mapped", fits, shape, || format!("{} aligned bytes of a mapped file", bytes.len()))?;
        Ok(Tensor { shape: shape.into(), storage: Storage::new(Data::Mapped { map, bytes }), device: device.clone() })
    }

    /// Memory from the pool with stale contents: for outputs that are overwritten whole.
    pub(crate) fn stale(device: &Device, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor { shape: shape.into(), storage: Storage::new(Data::F32(device.take(n))), device: device.clone() }
    }

    /// What a product made in bf16.
    pub(crate) fn narrow(device: &Device, shape: &[usize], half: Half, panels: Option<Panels>) -> Tensor {
        let storage = Storage {
            data: Data::Narrow(OnceLock::new()),
            half: OnceLock::from(Arc::new(half)),
            panels: [panels.map_or_else(OnceLock::new, |panels| OnceLock::from(Arc::new(panels))), OnceLock::new()],
        };
        Tensor { shape: shape.into(), storage: Arc::new(storage), device: device.clone() }
    }

    /// Zeroed memory from the pool.
    pub(crate) fn cleared(device: &Device, shape: &[usize]) -> Tensor {
        let mut t = Tensor::stale(device, shape);
        t.f32_mut().fill(0.0);
        t
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last extent (1 for a scalar).
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all extents but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, leading)| leading.iter().product())
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match &self.storage.data {
            Data::F32(_) | Data::Narrow(_) | Data::Mapped { .. } => DType::F32,
            Data::Bf16(_) => DType::Bf16,
        }
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A copy of the elements, as f32.
    pub fn to_vec(&self) -> Vec<f32> {
        match &self.storage.data {
            Data::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            _ => self.f32().to_vec(),
        }
    }

    /// The only element of a tensor that has one; the first of a larger one.
    pub fn item(&self) -> Option<f32> {
        match &self.storage.data {
            Data::Bf16(v) => v.first().map(|x| x.to_f32()),
            _ => self.f32().first().copied(),
        }
    }

    /// The same values in another element type (round to nearest, ties to even).
    pub fn cast(&self, dtype: DType) -> Tensor {
        let data = match (self.dtype(), dtype) {
            (DType::F32, DType::Bf16) => Data::Bf16(self.f32().iter().map(|&x| bf16::from_f32(x)).collect()),
            (DType::Bf16, DType::F32) => Data::F32(Buffer::own(self.to_vec())),
            _ => return self.clone(),
        };
        Tensor { shape: self.shape.clone(), storage: Storage::new(data), device: self.device.clone() }
    }

    /// The elements in place. Below the ops every tensor is f32; [`Tensor::expect_f32`] guards the border.
    pub(crate) fn f32(&self) -> &[f32] {
        match &self.storage.data {
            Data::F32(buffer) => buffer.slice(),
            Data::Narrow(wide) => wide.get_or_init(|| self.widened()).slice(),
            Data::Mapped { map, bytes } => bytemuck::cast_slice(&map[bytes.clone()]),
            Data::Bf16(_) => &[],
        }
    }

    /// The elements in place, for writing; copies first when the memory is shared or a file's.
    pub(crate) fn f32_mut(&mut self) -> &mut [f32] {
        let unique = Arc::get_mut(&mut self.storage).is_some_and(|storage| matches!(storage.data, Data::F32(_)));
        if !unique {
            let mut buffer = self.device.take(self.len());
            parallel::copy(self.f32(), buffer.slice_mut());
            self.storage = Storage::new(Data::F32(buffer));
        }
        match Arc::get_mut(&mut self.storage) {
            Some(Storage { data: Data::F32(buffer), half, panels }) => {
                half.take();
                panels.iter_mut().for_each(|panels| drop(panels.take()));
                buffer.slice_mut()
            }
            _ => &mut [],
        }
    }

    fn widened(&self) -> Buffer {
        let mut wide = self.device.take(self.len());
        if let Some(half) = self.storage.half.get() {
            let rows = parallel::rows_per_block(self.width());
            parallel::row_blocks(wide.slice_mut(), self.width(), rows, |first, out| half.widen(first, out));
        }
        wide
    }

    fn matrix(&self) -> Mat<'_> {
        Mat::new(self.f32(), self.rows(), self.width())
    }

    /// The rows, rounded to bf16.
    pub(crate) fn half(&self) -> Arc<Half> {
        self.storage.half.get_or_init(|| Arc::new(Half::round(&self.device, self.matrix()))).clone()
    }

    /// Makes [`Tensor::half`] and, if they are wanted, [`Tensor::panels`] in one pass, for products in bf16.
    pub(crate) fn round(&self, panels: bool) {
        let wanted = panels && self.storage.panels[0].get().is_none();
        if self.storage.half.get().is_some() && !wanted {
            return;
        }
        let pass = Pass { precision: Precision::Bf16, factors: None, sums: None, half: true, panels: wanted };
        let (half, panels) = prepare(&self.device, self.matrix(), pass);
        half.map(|half| self.storage.half.get_or_init(|| Arc::new(half)));
        panels.map(|panels| self.storage.panels[0].get_or_init(|| Arc::new(panels)));
    }

    /// The matrix `[rows, width]`, or its transpose if `turned`, packed as the right operand of products; with `keep` for
    /// as long as the elements stay as they are.
    pub(crate) fn panels(&self, turned: bool, precision: Precision, keep: bool) -> Arc<Panels> {
        let pack = || {
            let matrix = self.matrix();
            Arc::new(Panels::pack(&self.device, if turned { matrix.t() } else { matrix }, precision))
        };
        let slot = &self.storage.panels[usize::from(turned)];
        let kept = if keep { Some(slot.get_or_init(pack)) } else { slot.get() };
        match kept {
            Some(panels) if panels.precision() == precision => panels.clone(),
            _ => pack(),
        }
    }

    /// Fails for a tensor that is not f32.
    pub(crate) fn expect_f32(&self, op: &'static str) -> Result<()> {
        match self.dtype() {
            DType::F32 => Ok(()),
            other => Err(TensorError::DType { op, found: other.name(), expected: "f32" }),
        }
    }

    fn check_same(&self, op: &'static str, other: &Tensor) -> Result<()> {
        self.expect_f32(op)?;
        other.expect_f32(op)?;
        ensure_shape(op, self.shape == other.shape, &other.shape, || format!("{:?}", self.shape))
    }

    /// `self += factor * other`.
    pub fn add_scaled(&mut self, factor: f32, other: &Tensor) -> Result<()> {
        self.check_same("add_scaled", other)?;
        parallel::zip(self.f32_mut(), other.f32(), |x, y| *x += factor * y);
        Ok(())
    }

    /// `self += fraction * (other - self)`: a step of a moving average.
    pub fn lerp(&mut self, other: &Tensor, fraction: f32) -> Result<()> {
        self.check_same("lerp", other)?;
        parallel::zip(self.f32_mut(), other.f32(), |x, y| *x += fraction * (y - *x));
        Ok(())
    }

    /// `self *= factor`.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        self.expect_f32("scale")?;
        parallel::each(self.f32_mut(), |x| *x *= factor);
        Ok(())
    }

    /// The sum of `(self - other)^2`, in f64, the same for any number of threads.
    pub fn distance_squared(&self, other: &Tensor) -> Result<f64> {
        self.check_same("distance_squared", other)?;
        Ok(parallel::sum_chunks(self.len(), |range| {
            let (a, b) = (&self.f32()[range.clone()], &other.f32()[range]);
            a.iter().zip(b).map(|(&x, &y)| f64::from(x - y).powi(2)).sum()
        }))
    }

    /// The sum of squares, in f64, the same for any number of threads.
    pub fn sum_squares(&self) -> Result<f64> {
        self.expect_f32("sum_squares")?;
        Ok(parallel::sum_squares(self.f32()))
    }

    /// Whether every element is finite.
    pub fn is_finite(&self) -> bool {
        match &self.storage.data {
            Data::Bf16(v) => v.iter().all(|x| x.is_finite()),
            _ => self.f32().iter().all(|x| x.is_finite()),
        }
    }

    /// The little-endian bytes of the elements, as they go into a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.storage.data {
            Data::Bf16(v) => v.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect(),
            _ => bytemuck::cast_slice(self.f32()).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_tensor_is_copied_before_it_is_written() {
        let device = Device::cpu();
        let mut a = Tensor::from_vec(&device, &[2], vec![1.0, 2.0]).unwrap();
        let b = a.clone();
        a.scale(3.0).unwrap();
        assert_eq!((a.to_vec(), b.to_vec()), (vec![3.0, 6.0], vec![1.0, 2.0]));
    }

    #[test]
    fn sizes_that_differ_are_told() {
        let error = Tensor::from_vec(&Device::cpu(), &[2, 3], vec![0.0; 5]).unwrap_err().to_string();
        assert_eq!(error, "from_vec: the shape [2, 3] does not fit 5 values");
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let t = Tensor::from_vec(&Device::cpu(), &[2], vec![1.003_906_2, 1.0 + 3.0 / 256.0]).unwrap();
        // 1 + 1/256 lies half-way between 1 and 1 + 1/128: the even neighbour is 1. 1 + 3/256 goes up to 1 + 1/64.
        assert_eq!(t.cast(DType::Bf16).cast(DType::F32).to_vec(), vec![1.0, 1.015_625]);
    }
}
