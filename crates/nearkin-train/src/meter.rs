//! What training costs the machine, in numbers that can be compared between models and machines.
//!
//! The work of a step is counted from the layers, so it is the same on every machine; what the machine
//! could do is measured with a product of matrices, the operation that hardware does best. The share of
//! the one in the other says how much of the machine trains the model.

use std::time::{Duration, Instant};

use nearkin_augment::View;
use nearkin_model::MultiplyAdds;
use nearkin_objective::{MixedInput, Role};
use nearkin_recipe::{Model, Precision};
use tch::{Device, Kind, TchError, Tensor};

use crate::Setup;

/// A multiplication and an addition.
const FLOP_PER_MULTIPLY_ADD: u64 = 2;
/// Forward, and twice as much backward: for the gradient of the inputs and of the weights.
const PASSES_OF_TRAINING: u64 = 3;

/// Floating-point operations that a method needs for one image: every view by every encoder that sees
/// it, and mixtures. The second forward pass that micro-batches take is not needed by the method and
/// does not count; nor do loss, optimiser and momentum.
pub(crate) fn flop_per_image(
    model: &Model,
    views: &[View],
    roles: &[Role],
    mixed_inputs: &[MixedInput],
) -> u64 {
    let cost = |view: &View| MultiplyAdds::of(model, view.size_pixels());
    let trained = |view: &View| PASSES_OF_TRAINING * cost(view).online();
    let of_views = views.iter().zip(roles).map(|(view, role)| {
        let online = if role.online { trained(view) } else { 0 };
        online + if role.is_momentum() { cost(view).momentum() } else { 0 }
    });
    let of_mixtures = mixed_inputs.iter().map(|input| views.get(input.base).map_or(0, trained));
    FLOP_PER_MULTIPLY_ADD * (of_views.sum::<u64>() + of_mixtures.sum::<u64>())
}

/// What a run's rates are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    pub(crate) flop_per_image: u64,
    /// Of the devices of all processes in the run's precision, in operations per second.
    pub(crate) matmul_flop_per_second: f64,
    /// That precision.
    pub(crate) matmul_precision: &'static str,
}

impl Meter {
    /// Measures the device; all processes do it at once, as they train.
    pub(crate) fn measure(
        setup: &Setup,
        device: Device,
        processes: usize,
    ) -> Result<Self, TchError> {
        let training = &setup.recipe.training;
        let (rate, matmul_precision) = rate_of_products(training.precision, training.tf32, device)?;
        Ok(Self {
            flop_per_image: setup.flop_per_image,
            matmul_flop_per_second: rate * processes as f64,
            matmul_precision,
        })
    }
}

/// What matrix products can reach in a run's precision on a device, in operations per second, and what
/// this precision is called.
fn rate_of_products(
    precision: Precision,
    tf32: bool,
    device: Device,
) -> Result<(f64, &'static str), TchError> {
    let (kinds, name) = kinds_of_products(precision, tf32, device);
    let rates = kinds.iter().map(|&kind| matmul_rate(device, kind));
    let rates = rates.collect::<Result<Vec<f64>, TchError>>()?;
    Ok((rates.into_iter().fold(0.0, f64::max), name))
}

/// The kinds of numbers in which a run can multiply. A processor without instructions for bfloat16
/// multiplies such numbers fastest as 32-bit ones. On a GPU with `tf32`, products in single precision
/// round their factors, also those that [`matmul_rate`] measures.
fn kinds_of_products(
    precision: Precision,
    tf32: bool,
    device: Device,
) -> (&'static [Kind], &'static str) {
    match precision {
        Precision::Single if tf32 && device.is_cuda() => (&[Kind::Float], "tf32"),
        Precision::Single => (&[Kind::Float], "single"),
        Precision::Double => (&[Kind::Double], "double"),
        Precision::Bfloat16 => (&[Kind::BFloat16, Kind::Float], "bfloat16"),
    }
}

/// The side of the largest matrices that are tried.
const LARGEST_SIDE: i64 = 8192;
/// A product that takes as long is large enough to reach the device's rate.
const LONG_ENOUGH: Duration = Duration::from_millis(1);
/// What else the machine does must not pass for its rate.
const PRODUCTS: usize = 20;

/// Operations per second of a square product of matrices: the best of many, of the size at which one
/// takes a millisecond or a few. Takes some hundredths of a second, and draws no random numbers.
pub fn matmul_rate(device: Device, kind: Kind) -> Result<f64, TchError> {
    tch::no_grad(|| {
        let mut side = 256;
        loop {
            let seconds = best_product(side, device, kind)?;
            if seconds >= LONG_ENOUGH.as_secs_f64() || side >= LARGEST_SIDE {
                let multiply_adds = side.pow(3) as f64;
                return Ok(FLOP_PER_MULTIPLY_ADD as f64 * multiply_adds / seconds);
            }
            side *= 2;
        }
    })
}

fn best_product(side: i64, device: Device, kind: Kind) -> Result<f64, TchError> {
    // Different numbers everywhere: some devices are faster, as they draw less power, on equal ones.
    let matrix = Tensor::f_linspace(-1.0, 1.0, side * side, (kind, device))?;
    let matrix = matrix.f_sin()?.f_view([side, side])?;
    let mut product = matrix.f_matmul(&matrix)?;
    let mut best = f64::INFINITY;
    for _ in 0..PRODUCTS {
        wait_for(device);
        let begun = Instant::now();
        product = product.f_matmul_out(&matrix, &matrix)?;
        wait_for(device);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best.max(1e-9))
}

/// Until the device has done what it was given; the CPU has no such list.
pub(crate) fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// The most memory that this process has had resident so far, in bytes, mapped files included; not
/// that of a GPU. `None` where the system is not Linux.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kibibytes)
}

#[cfg(test)]
mod tests {
    use nearkin_objective::{Mixing, Per};
    use nearkin_recipe::Source;

    use super::*;
    use crate::Setup;

    fn setup(method: &str) -> Setup {
        let text = format!(
            "[data]
            dataset = \"shapes\"
            [model]
            backbone = \"resnet18\"
            stem = \"cifar\"
            base_width = 8
            projector = [{{ width = 8 }}]
            predictor = [{{ width = 8 }}]
            [training]
            epochs = 1
            batch_size = 4
            [optimizer]
            name = \"sgd\"
            learning_rate = 0.1
            {method}
            [[views]]
            name = \"first\"
            transforms = [{{ random_resized_crop = {{ size = 32 }} }}]
            [[views]]
            name = \"second\"
            transforms = [{{ random_resized_crop = {{ size = 16 }} }}]"
        );
        Setup::new(Source::parse("test", text).unwrap().recipe().unwrap()).unwrap()
    }

    const TEACHER: &str = "[momentum_encoder]\nmomentum = 0.9";

    #[test]
    fn every_encode_of_the_method_counts() {
        let one_way = setup(&format!("[method]\nname = \"moco\"\n{TEACHER}\n[queue]\nsize = 8"));
        let model = &one_way.recipe.model;
        let [large, small] = [32, 16].map(|size| MultiplyAdds::of(model, size));
        // The first view makes keys, the second is trained.
        let expected = 2 * (large.momentum() + 3 * small.online());
        assert_eq!(one_way.flop_per_image, expected);

        let both = setup(&format!("[method]\nname = \"byol\"\n{TEACHER}"));
        let momentum = large.momentum() + small.momentum();
        assert_eq!(both.flop_per_image, 2 * (3 * (large.online() + small.online()) + momentum));

        let views = both.recipe.training_views().unwrap();
        let mixing = Mixing { concentration: 1.0, per: Per::Sample, larger_share: false };
        let mixed = [MixedInput { base: 1, other: 1, mixing }];
        let with = flop_per_image(model, &views, &both.requirements.roles, &mixed);
        assert_eq!(with - both.flop_per_image, 6 * small.online());
    }

    #[test]
    fn a_product_takes_time_in_every_precision() {
        for precision in [Precision::Single, Precision::Double, Precision::Bfloat16] {
            let (rate, name) = rate_of_products(precision, true, Device::Cpu).unwrap();
            // From a slow core shared with others to a large machine.
            assert!((1e7..1e15).contains(&rate), "{name}: {rate}");
        }
    }

    #[test]
    fn products_are_measured_in_the_precision_of_the_run() {
        let of = |precision, tf32, device| kinds_of_products(precision, tf32, device);
        for (tf32, device, single) in [
            (true, Device::Cpu, "single"),
            (true, Device::Cuda(0), "tf32"),
            (false, Device::Cuda(0), "single"),
        ] {
            assert_eq!(of(Precision::Single, tf32, device), (&[Kind::Float][..], single));
            assert_eq!(of(Precision::Double, tf32, device), (&[Kind::Double][..], "double"));
            let bfloat16 = (&[Kind::BFloat16, Kind::Float][..], "bfloat16");
            assert_eq!(of(Precision::Bfloat16, tf32, device), bfloat16);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_was_used_shows() {
        let before = peak_memory().unwrap();
        let bytes = 256 << 20;
        drop(std::hint::black_box(vec![1_u8; bytes]));
        let peak = peak_memory().unwrap();
        assert!(peak >= before.max(bytes as u64), "{peak} of {bytes} bytes");
    }
}
