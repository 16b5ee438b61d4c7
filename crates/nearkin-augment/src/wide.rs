//! The widest vectors that the processor has, without a binary of its own for each processor.
//!
//! The compiler may only use what every x86-64 processor has, which halves the speed of loops over
//! pixels. So the inner loops are compiled twice, and the processor is asked. Both are the same
//! code, in the arithmetic of IEEE 754 without fused operations, so they give the same bits.

/// Compiles a function, which must not be generic, also for processors with AVX2.
macro_rules! wide {
    ($(#[$meta:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        fn $name($($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn with_avx2($($argument: $kind),*) $(-> $result)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                return unsafe { with_avx2($($argument),*) };
            }
            body($($argument),*)
        }
    };
}

pub(crate) use wide;

/// Pixels that are changed together, channel by channel.
pub(crate) const LANES: usize = 32;

/// One channel of them.
pub(crate) type Lanes = [u8; LANES];

/// A change of whole blocks of pixels. It is a trait because a closure, unlike a method, cannot be
/// told to be compiled for what its caller may use.
pub(crate) trait Change {
    fn change(&self, channels: &mut [Lanes; 3]);
}

/// Changes pixels block by block; what a last, short block lacks is black.
#[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
#[inline(always)]
pub(crate) fn by_block(rgb: &mut [[u8; 3]], change: &impl Change) {
    let (blocks, rest) = rgb.as_chunks_mut::<LANES>();
    let mut channels = [[0; LANES]; 3];
    for block in blocks {
        split(block, &mut channels);
        change.change(&mut channels);
        join(&channels, block);
    }
    if !rest.is_empty() {
        let mut block = [[0; 3]; LANES];
        block[..rest.len()].copy_from_slice(rest);
        split(&block, &mut channels);
        change.change(&mut channels);
        join(&channels, &mut block);
        rest.copy_from_slice(&block[..rest.len()]);
    }
}

#[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
#[inline(always)]
fn split(pixels: &[[u8; 3]; LANES], [red, green, blue]: &mut [Lanes; 3]) {
    for lane in 0..LANES {
        [red[lane], green[lane], blue[lane]] = pixels[lane];
    }
}

#[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
#[inline(always)]
fn join([red, green, blue]: &[Lanes; 3], pixels: &mut [[u8; 3]; LANES]) {
    for lane in 0..LANES {
        pixels[lane] = [red[lane], green[lane], blue[lane]];
    }
}
