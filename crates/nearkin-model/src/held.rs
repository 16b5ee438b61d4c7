//! A data set in the memory of the device.
//!
//! CIFAR-10 has 150 MB and a GPU has thousands: held there, its images travel once, and a batch is
//! a list of indices.

use std::num::NonZeroUsize;
use std::thread;

use nearkin_data::{DataError, ImageSet};
use nearkin_torch::send;
use tch::{Device, TchError, Tensor};

/// The images of a set whose images all have one size, on a device.
#[derive(Debug)]
pub struct HeldImages {
    /// `[images, height, width, 3]`, bytes.
    images: Tensor,
}

/// The same images in the same memory.
impl Clone for HeldImages {
    fn clone(&self) -> Self {
        Self { images: self.images.shallow_clone() }
    }
}

/// Why the device does not hold the images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// An image could not be read, or has another size.
    #[error(transparent)]
    Data(#[from] DataError),
    /// libtorch failed, for want of memory perhaps.
    #[error(transparent)]
    Tensor(#[from] TchError),
}

/// Bytes of a set whose images have one size.
pub fn bytes_of(set: &dyn ImageSet, (width, height): (usize, usize)) -> u64 {
    set.len() as u64 * width as u64 * height as u64 * 3
}

impl HeldImages {
    /// Reads all images, by so many threads, and moves them to the device.
    pub fn read(
        set: &dyn ImageSet,
        (width, height): (usize, usize),
        device: Device,
        threads: NonZeroUsize,
    ) -> Result<Self, HoldError> {
        let length = width * height * 3;
        let mut bytes = vec![0; set.len() * length];
        let share = set.len().div_ceil(threads.get()).max(1);
        let read = |first: usize, images: &mut [u8]| -> Result<(), DataError> {
            for (index, place) in (first..).zip(images.chunks_exact_mut(length)) {
                let image = set.image(index)?;
                if (image.width(), image.height()) != (width, height) {
                    return Err(DataError::Request(format!(
                        "{} has {} x {} pixels, the other images {width} x {height}",
                        set.name(index),
                        image.width(),
                        image.height()
                    )));
                }
                place.copy_from_slice(image.rgb());
            }
            Ok(())
        };
        thread::scope(|scope| {
            let parts = bytes.chunks_mut(share * length).enumerate();
            let threads: Vec<_> = parts
                .map(|(part, images)| scope.spawn(move || read(part * share, images)))
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let images = Tensor::f_from_slice(&bytes)?;
        let images = images.f_view([-1, height as i64, width as i64, 3])?.f_to_device(device)?;
        Ok(Self { images })
    }

    /// The images at these places: `[images, height, width, 3]`, bytes.
    pub fn select(&self, images: &[usize]) -> Result<Tensor, TchError> {
        let indices: Vec<i64> = images.iter().map(|&index| index as i64).collect();
        let indices = send(&indices, &[indices.len() as i64], self.images.device())?;
        self.images.f_index_select(0, &indices)
    }
}

#[cfg(test)]
mod tests {
    use nearkin_data::{Image, Shapes, ShapesOptions, Split};

    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn a_batch_is_the_images_at_its_places() {
        let options = ShapesOptions { split: Split::Train, images: 7, size_pixels: 16, seed: 1 };
        let set = Shapes::new(options).unwrap();
        assert_eq!(bytes_of(&set, (16, 16)), 7 * 16 * 16 * 3);
        for count in [1, 3, 20] {
            let held = HeldImages::read(&set, (16, 16), Device::Cpu, threads(count)).unwrap();
            let found = held.select(&[6, 0, 3]).unwrap();
            assert_eq!(found.size(), [3, 16, 16, 3]);
            let expected: Vec<u8> = [6, 0, 3]
                .iter()
                .flat_map(|&index| set.image(index).unwrap().rgb().to_vec())
                .collect();
            assert_eq!(Vec::<u8>::try_from(found.reshape([-1])).unwrap(), expected);
        }
    }

    /// Says one size, and has another at the end.
    struct Uneven;

    impl ImageSet for Uneven {
        fn len(&self) -> usize {
            5
        }

        fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
            let width = if index == 4 { 3 } else { 2 };
            Ok(Image::new(width, 2, vec![0; width * 6]).unwrap())
        }

        fn label(&self, _: usize) -> Option<usize> {
            None
        }

        fn classes(&self) -> &[String] {
            &[]
        }

        fn name(&self, index: usize) -> String {
            format!("image {index}")
        }
    }

    #[test]
    fn an_image_of_another_size_is_named() {
        let error = HeldImages::read(&Uneven, (2, 2), Device::Cpu, threads(2)).unwrap_err();
        assert_eq!(error.to_string(), "image 4 has 3 x 2 pixels, the other images 2 x 2");
    }
}
