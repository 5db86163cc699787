//! What runs on the processor: slices in, slices out. The only place with threads, SIMD and `unsafe`.

pub(crate) mod absorbed;
pub(crate) mod attention;
pub(crate) mod ceiling;
pub(crate) mod map;
pub(crate) mod math;
pub(crate) mod panel;
pub(crate) mod parallel;
pub(crate) mod product;
pub(crate) mod random;
pub(crate) mod softmax;
pub(crate) mod tiles;
