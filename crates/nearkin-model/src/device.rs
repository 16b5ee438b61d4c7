//! Choosing the device at run time.
//!
//! nearkin links only libtorch's CPU part, so that one binary runs everywhere. CUDA registers itself
//! when `libtorch_cuda.so` is loaded; if the libtorch found at run time has it, it is loaded here,
//! before the first tensor is made.

use std::str::FromStr;

use tch::Device;

/// `--device`: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// That CUDA device.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a device.
    #[error("{0:?} is no device: write auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// The libtorch at run time has no CUDA part, or it cannot be loaded.
    #[error(
        "cuda was asked for, but the libtorch found at run time has no usable CUDA part ({0}); run \
         `scripts/setup --cuda`, or put the lib folder of a CUDA build of torch 2.11 into \
         LD_LIBRARY_PATH"
    )]
    NoCudaLibrary(String),
    /// CUDA is there, the device is not.
    #[error("cuda:{wanted} was asked for, but this machine has {found} CUDA device(s)")]
    NoSuchDevice {
        /// The number asked for.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl DeviceChoice {
    /// The same for one of several processes on this host: of the devices that `auto` may choose
    /// from, each takes the one of its number; the launcher may also show each only its own.
    pub fn open_for(self, local_rank: usize) -> Result<Device, DeviceError> {
        match self.open()? {
            Device::Cuda(0) if self == Self::Auto => {
                let found = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
                Self::Cuda(local_rank % found.max(1)).open()
            }
            device => Ok(device),
        }
    }

    /// Loads CUDA if it may be needed and gives the device to use.
    pub fn open(self) -> Result<Device, DeviceError> {
        if self == Self::Cpu {
            return Ok(Device::Cpu);
        }
        let loaded = load_cuda();
        let found = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
        match (self, loaded) {
            (Self::Cuda(_), Err(reason)) => Err(DeviceError::NoCudaLibrary(reason)),
            (Self::Cuda(wanted), Ok(())) if wanted >= found => {
                Err(DeviceError::NoSuchDevice { wanted, found })
            }
            (Self::Cuda(index), Ok(())) => Ok(Device::Cuda(index)),
            (_, Ok(())) if found > 0 => Ok(Device::Cuda(0)),
            _ => Ok(Device::Cpu),
        }
    }
}

fn load_cuda() -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the initialisers of libtorch_cuda.so register kernels with the libtorch_cpu.so that is
    // already loaded; it is looked for where that one was found, so the two are of one build.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
    match library {
        Ok(library) => {
            // Registered kernels must never be unloaded.
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => {
            Err(std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_text() {
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        assert_eq!("cuda:3".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(3));
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            let message = wrong.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(message.contains("auto, cpu, cuda or cuda:N"), "{message}");
        }
    }

    #[test]
    fn asking_for_a_device_that_is_not_there_says_so() {
        assert_eq!(DeviceChoice::Cpu.open().unwrap(), Device::Cpu);
        let message = DeviceChoice::Cuda(999).open().unwrap_err().to_string();
        assert!(message.contains("cuda"), "{message}");
    }
}
