//! Stabilisers: what keeps fine-tuning from failing. A stabiliser is a file here and a line below.

pub mod clip;
pub mod ema;
pub mod l2_sp;
pub mod layer_drop;
pub mod llrd;
pub mod mixout;
pub mod r3f;
pub mod reinit;

luthier_nn::registry! {
    /// What keeps training steady: one entry of a recipe's `stabilise`, planned after the methods.
    Stabiliser as crate::Technique {
        "llrd" => Llrd(llrd::Llrd),
        "reinit" => Reinit(reinit::Reinit),
        "mixout" => Mixout(mixout::Mixout),
        "l2_sp" => L2Sp(l2_sp::L2Sp),
        "r3f" => R3f(r3f::R3f),
        "layer_drop" => LayerDrop(layer_drop::LayerDrop),
        "clip" => Clip(clip::Clip),
        "ema" => Ema(ema::Ema),
    }
}
