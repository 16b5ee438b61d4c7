//! What the tests of the command line share: a folder with a tiny recipe, and what the program said.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Trains in about a second: 8 steps of 16 images.
pub(crate) const TINY: &str = r#"seed = 0

[data]
dataset = "shapes"
train_images = 64
test_images = 20
size_pixels = 16

[method]
name = "sce"

[model]
backbone = "resnet18"
stem = "cifar"
base_width = 4
projector = [{ width = 8, batch_norm = "affine", relu = true }, { width = 8, bias = true }]

[momentum_encoder]
momentum = 0.9

[queue]
size = 16

[training]
epochs = 2
batch_size = 16
record_every_steps = 1

[optimizer]
name = "sgd"
learning_rate = 0.05

[checkpoint]
every_epochs = 1

[evaluation]
every_epochs = 1
neighbours = [{ k = 5, temperature = 0.1 }]

[[views]]
name = "weak"
transforms = [{ random_resized_crop = { size = 16 } }]

[[views]]
name = "strong"
transforms = [{ random_resized_crop = { size = 16 } }, { horizontal_flip = { probability = 0.5 } }]
"#;

/// The tiny recipe with one passage replaced by another.
pub(crate) fn tiny_with(passage: &str, other: &str) -> String {
    assert_eq!(TINY.matches(passage).count(), 1, "{passage} is not a passage of the recipe");
    TINY.replace(passage, other)
}

/// The tiny recipe for data that `--data` names.
pub(crate) fn tiny_on(dataset: &str) -> String {
    let shapes = "\"shapes\"\ntrain_images = 64\ntest_images = 20\nsize_pixels = 16";
    tiny_with(shapes, &format!("\"{dataset}\""))
}

/// A new folder, in which the program runs; `tiny.toml` is in it.
pub(crate) struct Place(TempDir);

/// How the program ended and what it said; the folder is written `[DIR]`.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        place.write("tiny.toml", TINY);
        place
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    pub(crate) fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).expect(relative)
    }

    /// So many images of 20 x 20 pixels, `00.png` and on.
    pub(crate) fn images(&self, folder: &str, count: usize) {
        fs::create_dir_all(self.path(folder)).expect("a folder");
        for index in 0..count {
            let image = image::RgbImage::from_fn(20, 20, |x, y| {
                image::Rgb([(x * 12) as u8, (y * 12) as u8, (index * 9) as u8])
            });
            image.save(self.path(&format!("{folder}/{index:02}.png"))).expect("an image");
        }
    }

    /// Runs `nearkin` with these arguments, split at spaces.
    pub(crate) fn nearkin(&self, arguments: &str) -> Said {
        self.nearkin_in("", arguments)
    }

    /// The same in a folder of the place.
    pub(crate) fn nearkin_in(&self, folder: &str, arguments: &str) -> Said {
        let output = assert_cmd::cargo::cargo_bin_cmd!("nearkin")
            .args(arguments.split_whitespace())
            .current_dir(self.path(folder))
            .env("OMP_NUM_THREADS", "1")
            // Said by the environment, it does not make the program start itself again.
            .env("OMP_WAIT_POLICY", "passive")
            .env_remove("COLUMNS")
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| {
            let lines = String::from_utf8_lossy(bytes).replace(&self.folder(), "[DIR]");
            lines.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
        };
        Said {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// `nearkin pretrain` on one thread of the CPU.
    pub(crate) fn pretrain(&self, arguments: &str) -> Said {
        self.nearkin(&format!("pretrain --device cpu --threads 1 {arguments}"))
    }

    /// The folder's path, which what the program says has as `[DIR]`.
    pub(crate) fn folder(&self) -> String {
        let path: &Path = self.0.path();
        path.canonicalize().expect("the folder").display().to_string()
    }
}

impl Said {
    /// Standard output of a success.
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The message about wrong input, which is all that is said.
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.code, Some(2), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        self.stderr
    }
}
