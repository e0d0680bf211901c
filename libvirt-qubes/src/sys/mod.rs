//! What the kernel offers and no crate wraps.

mod discard;

pub(crate) use discard::{DISCARD_STEP, discard_device};
