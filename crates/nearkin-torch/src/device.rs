//! What libtorch can be told of a device.
//!
//! A GPU is fast when it may round (TF32, bfloat16) and when cuDNN may choose its algorithms. These
//! are switches of libtorch; they are set through a few lines of C++ which know nothing of CUDA's own
//! headers, so that the one binary that is built for the CPU has them too; only [graphs](crate::Graph) need a
//! libtorch with CUDA at build time.

use tch::kind::Element;
use tch::{Device, TchError, Tensor};

use crate::bridge::ffi;
use crate::failed;

/// How a process uses its CUDA device. On a CPU both mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaSettings {
    /// Matrix products and convolutions in single precision may round their factors to the 10 bits
    /// of TF32.
    pub tf32: bool,
    /// cuDNN tries its algorithms on every new shape and keeps the fastest.
    pub timed_convolutions: bool,
}

impl CudaSettings {
    /// Sets them for all threads of this process.
    pub fn apply(self) -> Result<(), TchError> {
        ffi::allow_tf32(self.tf32).map_err(failed)?;
        ffi::time_convolutions(self.timed_convolutions).map_err(failed)
    }

    /// Those in force.
    pub fn current() -> Result<Self, TchError> {
        Ok(Self {
            tf32: ffi::tf32_is_allowed().map_err(failed)?,
            timed_convolutions: ffi::convolutions_are_timed().map_err(failed)?,
        })
    }
}

/// While it lives, the thread that made it computes matrix products and convolutions in bfloat16 and
/// what adds up many numbers in single precision, whatever the tensors hold. Weights stay as they
/// are, and their gradients come out in their kind.
pub struct Autocast {
    /// It belongs to its thread, which cxx's pointer to it cannot leave.
    _guard: cxx::UniquePtr<ffi::Autocast>,
}

impl Autocast {
    /// For tensors on the CPU, or for those on CUDA devices.
    pub fn to_bfloat16(device: Device) -> Result<Self, TchError> {
        let guard = ffi::autocast_to_bfloat16(device.is_cuda()).map_err(failed)?;
        Ok(Self { _guard: guard })
    }
}

/// While it lives, matrix products of the thread that made it have all digits of their kind, even
/// where [`CudaSettings::tf32`] is set: what is rounded to whole levels has to come out the same
/// everywhere.
pub struct ExactProducts {
    _guard: cxx::UniquePtr<ffi::ExactProducts>,
}

impl ExactProducts {
    /// From now on.
    pub fn begin() -> Result<Self, TchError> {
        Ok(Self { _guard: ffi::exact_products().map_err(failed)? })
    }
}

/// Copies numbers to a tensor of this `size` on the device, many of them with all threads. To a CUDA
/// device they travel from pinned memory, and the host does not wait for them.
///
/// Fails if the size is not that of the numbers.
pub fn send<T: Element>(values: &[T], size: &[i64], device: Device) -> Result<Tensor, TchError> {
    let count: i64 = size.iter().product();
    if size.iter().any(|&side| side < 0) || count != values.len() as i64 {
        return Err(TchError::Shape(format!("{} numbers do not fill {size:?}", values.len())));
    }
    // tch lists kinds as torch numbers them; the tests hold it to that.
    let (data, kind) = (values.as_ptr().cast(), T::KIND as i8);
    // SAFETY: `values` are as many numbers of that kind as the size says, and stay through the call.
    let copy = unsafe { ffi::copy_of(data, size, kind, device.is_cuda()) };
    // SAFETY: the bridge gives a tensor that is the caller's to free, as tch's own functions do.
    let copy = unsafe { Tensor::from_ptr(copy.map_err(failed)?.cast()) };
    if device.is_cuda() {
        copy.f_to_device_(device, T::KIND, true, false)
    } else {
        copy.f_to_device(device)
    }
}

/// Bytes of the device's own memory that no process uses; `None` for a CPU, whose memory is that of
/// the whole machine.
pub fn free_bytes(device: Device) -> Result<Option<u64>, TchError> {
    match device {
        Device::Cuda(index) => ffi::free_cuda_bytes(index as i32).map(Some).map_err(failed),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn settings_are_those_that_were_set() {
        let before = CudaSettings::current().unwrap();
        for (tf32, timed_convolutions) in [(true, false), (false, true), (true, true)] {
            let settings = CudaSettings { tf32, timed_convolutions };
            settings.apply().unwrap();
            assert_eq!(CudaSettings::current().unwrap(), settings);
        }
        before.apply().unwrap();
    }

    #[test]
    fn products_are_in_bfloat16_while_the_guard_lives_and_gradients_in_single_precision() {
        tch::manual_seed(1);
        let weight = Tensor::randn([4, 4], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let x = Tensor::randn([3, 4], tch::kind::FLOAT_CPU);
        let product = |x: &Tensor| x.matmul(&weight);
        {
            let _outer = Autocast::to_bfloat16(Device::Cpu).unwrap();
            assert_eq!(product(&x).kind(), Kind::BFloat16);
            drop(Autocast::to_bfloat16(Device::Cpu).unwrap());
            assert_eq!(product(&x).kind(), Kind::BFloat16);
            product(&x).to_kind(Kind::Float).sum(Kind::Float).backward();
        }
        assert_eq!((product(&x).kind(), weight.grad().kind()), (Kind::Float, Kind::Float));
        let exact = x.sum_dim_intlist([0].as_slice(), false, Kind::Float).unsqueeze(1);
        assert!(weight.grad().allclose(&exact.expand([4, 4], false), 2e-2, 2e-2, false));
    }

    #[test]
    fn numbers_keep_their_order_and_kind() {
        // More than one thread's share.
        let values: Vec<f32> = (0..200_000).map(|value| value as f32).collect();
        let sent = send(&values, &[2, 100_000], Device::Cpu).unwrap();
        assert_eq!((sent.size(), sent.kind()), (vec![2, 100_000], Kind::Float));
        assert_eq!(Vec::<f32>::try_from(sent.view([-1])).unwrap(), values);
        let bytes = send(&[1_u8, 2, 3], &[3, 1], Device::Cpu).unwrap();
        assert_eq!(Vec::<u8>::try_from(bytes.view([-1])).unwrap(), [1, 2, 3]);
        let none = send(&[0.0_f64; 0], &[0, 4], Device::Cpu).unwrap();
        assert_eq!((none.size(), none.kind()), (vec![0, 4], Kind::Double));
        assert_eq!(send(&[7_i64], &[], Device::Cpu).unwrap().int64_value(&[]), 7);
        for size in [vec![2], vec![4], vec![-1], vec![-1, -3]] {
            assert!(send(&[1_i64, 2, 3], &size, Device::Cpu).is_err());
        }
    }

    /// libtorch keeps converted weights; one that was made without gradients has none to give.
    #[test]
    fn a_pass_without_gradients_leaves_nothing_to_the_next() {
        let weight = Tensor::ones([2, 2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let x = Tensor::ones([1, 2], tch::kind::FLOAT_CPU);
        let pass = || {
            let _autocast = Autocast::to_bfloat16(Device::Cpu).unwrap();
            x.matmul(&weight)
        };
        assert!(!tch::no_grad(pass).requires_grad());
        pass().to_kind(Kind::Float).sum(Kind::Float).backward();
        assert_eq!(weight.grad().sum(Kind::Float).double_value(&[]), 4.0);
    }

    #[test]
    fn exact_products_end_with_their_guard_and_a_cpu_has_no_memory_of_its_own() {
        drop(ExactProducts::begin().unwrap());
        assert_eq!(free_bytes(Device::Cpu).unwrap(), None);
    }
}
