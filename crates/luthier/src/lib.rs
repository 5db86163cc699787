//! luthier-luthier
