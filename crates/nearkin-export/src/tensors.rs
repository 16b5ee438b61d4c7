//! The tensors of a backbone as plain numbers, which every container is written from.

use std::collections::HashMap;

use nearkin_model::{BACKBONE, Encoder};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::{Device, Kind, Tensor};

use crate::ExportError;

/// Tensors in single precision, by rows, in the order of the network.
#[derive(Debug)]
pub(crate) struct NamedTensors {
    entries: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl NamedTensors {
    /// Those of an encoder's backbone under the names of torchvision or timm.
    pub(crate) fn of_backbone(encoder: &Encoder) -> Result<Self, ExportError> {
        let mut entries = Vec::new();
        for entry in encoder.parameters() {
            let Some(name) = entry.name.strip_prefix(BACKBONE) else { continue };
            let shape = entry.tensor.size().iter().map(|&side| side as usize).collect();
            entries.push((name.to_owned(), shape, bytes_of(&entry.tensor)?));
        }
        Ok(Self { entries })
    }

    /// Names, shapes and little-endian numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, Vec<usize>, Vec<u8>)> {
        self.entries.iter()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.0 == name)
    }

    /// Sub-modules `start.0`, `start.1`, ... that have the tensor `tensor`.
    pub(crate) fn count(&self, start: &str, tensor: &str) -> usize {
        (0..self.entries.len())
            .take_while(|index| self.has(&format!("{start}.{index}.{tensor}")))
            .count()
    }

    /// The bytes of a safetensors file with `prefix` before every name.
    pub(crate) fn to_safetensors(
        &self,
        prefix: &str,
        metadata: &[(&str, String)],
    ) -> Result<Vec<u8>, ExportError> {
        let mut about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        about.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let views = self.entries.iter().map(|(name, shape, bytes)| {
            Ok((format!("{prefix}{name}"), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        Ok(safetensors::serialize(views, Some(about))?)
    }
}

/// The numbers of a tensor in single precision, by rows, little-endian.
pub(crate) fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, ExportError> {
    let flat = tensor
        .f_detach()?
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_reshape([-1])?;
    let values: Vec<f32> = Vec::try_from(&flat)?;
    Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
