//! The built-in image set: pictures drawn by code, whose class is an outline.
//!
//! It exists so that everything can be tried and tested without a download, with a task that pixels
//! do not give away and that a small encoder learns within minutes. Every image holds several
//! copies of one shape; the outline is the class, and all else (texture, colours, position, size,
//! rotation, background, clutter, noise) varies freely, from copy to copy where possible. Nearest
//! neighbours of raw pixels are therefore right about twice as often as chance and no more, while
//! the outline is what two crops of an image share even where they show different copies, so a
//! contrastive objective has to find it. Whatever else two crops share would do as well to tell
//! images apart and is found sooner; hence backgrounds are greyish, of low contrast, and most
//! variation is among the copies of an image rather than between images. Shapes and background
//! differ in brightness, so the outline survives the removal of colour.
//!
//! An image is a pure function of `(seed, split, index, size)`. The arithmetic is limited to what
//! IEEE 754 defines exactly (no sines, no logarithms), so the bytes are equal on every machine.

use crate::{DataError, Image, ImageSet, Random, Split, random::Purpose};

/// Class names in label order.
const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "star", "cross", "heart", "crescent", "arrow", "bowtie"];

/// Below, outlines cannot be told apart; above, drawing takes longer than decoding a photo.
const SIZES_PIXELS: std::ops::RangeInclusive<usize> = 16..=1024;

/// Samples along each side of a pixel, where an outline may cross it.
const SUPERSAMPLING: usize = 3;

// All copies lie on one background, so its colour could stand for the image: it is the greyest.
const SHAPE_SATURATION: f64 = 0.6;
const CLUTTER_SATURATION: f64 = 0.4;
const BACKGROUND_SATURATION: f64 = 0.25;

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapesOptions {
    /// Another seed draws other images.
    pub seed: u64,
    /// The splits share no random numbers.
    pub split: Split,
    /// Number of images, at least 1; image `i` does not depend on it.
    pub images: usize,
    /// Width and height of every image, 16 to 1024.
    pub size_pixels: usize,
}

/// The built-in set: square images of ten classes in equal numbers (`label = index % 10`), drawn on
/// request.
pub struct Shapes {
    options: ShapesOptions,
    classes: Vec<String>,
}

impl Shapes {
    /// A [`DataError::Request`] for no images or a size out of range.
    pub fn new(options: ShapesOptions) -> Result<Self, DataError> {
        if !SIZES_PIXELS.contains(&options.size_pixels) {
            return Err(DataError::Request(format!(
                "dataset shapes: size_pixels is {}; it must be {} to {}",
                options.size_pixels,
                SIZES_PIXELS.start(),
                SIZES_PIXELS.end()
            )));
        }
        if options.images == 0 {
            let split = options.split;
            return Err(DataError::Request(format!(
                "dataset shapes: {split}_images is 0; it must be at least 1"
            )));
        }
        Ok(Self { options, classes: CLASSES.map(str::to_owned).to_vec() })
    }
}

impl ImageSet for Shapes {
    fn len(&self) -> usize {
        self.options.images
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let ShapesOptions { seed, split, size_pixels, .. } = self.options;
        let random = Random::new(Purpose::Drawing, seed, split as u64, index as u64);
        let rgb = draw(Outline::ALL[index % CLASSES.len()], size_pixels, random);
        Image::new(size_pixels, size_pixels, rgb)
            .ok_or_else(|| DataError::Request(format!("image {index} has no pixels")))
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        Some((self.options.size_pixels, self.options.size_pixels))
    }

    fn label(&self, index: usize) -> Option<usize> {
        Some(index % CLASSES.len())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        format!("shapes {} image {index}", self.options.split)
    }
}

#[derive(Clone, Copy)]
enum Outline {
    Disc,
    Ring,
    Square,
    Triangle,
    Star,
    Cross,
    Heart,
    Crescent,
    Arrow,
    Bowtie,
}

impl Outline {
    /// In the order of [`CLASSES`].
    const ALL: [Self; 10] = [
        Self::Disc,
        Self::Ring,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Heart,
        Self::Crescent,
        Self::Arrow,
        Self::Bowtie,
    ];

    /// No outline reaches farther than this from the origin.
    const REACH: f64 = 1.25;

    /// Whether the outline, about 1 in radius and centred at the origin, holds the point.
    fn holds(self, u: f64, v: f64) -> bool {
        match self {
            Self::Disc => u * u + v * v < 0.81,
            Self::Ring => (0.3..1.0).contains(&(u * u + v * v)),
            Self::Square => u.abs().max(v.abs()) < 0.8,
            // Three half-planes at half the circumradius, 1.2.
            Self::Triangle => v > -0.6 && 0.866_025 * u.abs() + 0.5 * v < 0.6,
            // Inside the pentagon or beyond exactly one of its sides: a tip.
            Self::Star => {
                const SIDES: [(f64, f64); 5] = [
                    (1.0, 0.0),
                    (0.309_017, 0.951_057),
                    (-0.809_017, 0.587_785),
                    (-0.809_017, -0.587_785),
                    (0.309_017, -0.951_057),
                ];
                SIDES.iter().filter(|(x, y)| x * u + y * v > 0.370_82).count() <= 1
            }
            Self::Cross => u.abs().min(v.abs()) < 0.3 && u.abs().max(v.abs()) < 1.0,
            // The sextic heart curve.
            Self::Heart => {
                let (x, y) = (1.15 * u, 1.15 * v + 0.1);
                let disc = x * x + y * y - 1.0;
                disc * disc * disc < x * x * y * y * y
            }
            Self::Crescent => {
                let bite = u - 0.55;
                u * u + v * v < 1.0 && bite * bite + v * v > 0.64
            }
            Self::Arrow => {
                let head = u >= 0.0 && v.abs() < 0.85 * (1.0 - u);
                head || (u > -1.0 && u < 0.0 && v.abs() < 0.25)
            }
            Self::Bowtie => u.abs() < 0.95 && v.abs() < 0.9 * u.abs() + 0.05,
        }
    }
}

type Colour = [f64; 3];

fn mix(from: Colour, to: Colour, weight: f64) -> Colour {
    std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * weight)
}

/// A range of brightness, 0 to 1. Shapes take one, the background the other.
#[derive(Clone, Copy)]
struct Band {
    low: f64,
    high: f64,
}

impl Band {
    const DARK: Self = Self { low: 0.04, high: 0.36 };
    const LIGHT: Self = Self { low: 0.6, high: 0.97 };
    const ANY: Self = Self { low: 0.0, high: 1.0 };

    /// A colour in the band, `saturation` of the way from grey: mixing with the grey of its
    /// brightness does not change the latter.
    fn colour(self, random: &mut Random, saturation: f64) -> Colour {
        loop {
            let colour = [random.unit(), random.unit(), random.unit()];
            let [red, green, blue] = colour;
            let brightness = 0.299 * red + 0.587 * green + 0.114 * blue;
            if (self.low..self.high).contains(&brightness) {
                return mix([brightness; 3], colour, saturation);
            }
        }
    }
}

/// A random direction of length 1, by rejection: sine and cosine differ between machines.
fn direction(random: &mut Random) -> (f64, f64) {
    loop {
        let (x, y) = (random.uniform(-1.0, 1.0), random.uniform(-1.0, 1.0));
        let square = x * x + y * y;
        if (0.01..1.0).contains(&square) {
            let length = square.sqrt();
            return (x / length, y / length);
        }
    }
}

#[derive(Clone, Copy)]
enum Pattern {
    Flat,
    Gradient,
    Stripes,
    Checks,
    Dots,
}

/// Two colours of a band in a pattern.
struct Fill {
    pattern: Pattern,
    colours: [Colour; 2],
    /// Along the pattern, in repeats over a unit of length.
    step: (f64, f64),
    phase: (f64, f64),
}

impl Fill {
    /// `extent` is the radius of what is filled, in image sides; `contrast`, 0 to 1, is how far apart
    /// the two colours may be.
    fn new(random: &mut Random, band: Band, saturation: f64, extent: f64, contrast: f64) -> Self {
        const PATTERNS: [Pattern; 5] =
            [Pattern::Flat, Pattern::Gradient, Pattern::Stripes, Pattern::Checks, Pattern::Dots];
        let pattern = PATTERNS[random.below(PATTERNS.len())];
        let repeats = match pattern {
            Pattern::Flat | Pattern::Gradient => 0.5 / extent,
            Pattern::Stripes | Pattern::Checks | Pattern::Dots => 1.0 / random.uniform(0.09, 0.26),
        };
        let (x, y) = direction(random);
        let (first, second) = (band.colour(random, saturation), band.colour(random, saturation));
        Self {
            pattern,
            colours: [first, mix(first, second, contrast)],
            step: (x * repeats, y * repeats),
            phase: (random.unit(), random.unit()),
        }
    }

    /// The colour at an offset from the centre of what is filled.
    fn colour(&self, x: f64, y: f64) -> Colour {
        let (along, across) =
            (x * self.step.0 + y * self.step.1, y * self.step.0 - x * self.step.1);
        // 0 and 1 with an edge between them, in step with the fraction of the position.
        let wave = |position: f64| {
            let fraction = position - position.floor();
            (((2.0 * fraction - 1.0).abs() - 0.5) * 4.0 + 0.5).clamp(0.0, 1.0)
        };
        let weight = match self.pattern {
            Pattern::Flat => 0.0,
            Pattern::Gradient => (along + 0.5).clamp(0.0, 1.0),
            Pattern::Stripes => wave(along + self.phase.0),
            Pattern::Checks => {
                // Checks repeat over two fields; the exclusive or of two stripes.
                let (a, b) = (wave(0.7 * along + self.phase.0), wave(0.7 * across + self.phase.1));
                a + b - 2.0 * a * b
            }
            Pattern::Dots => {
                let centred = |position: f64| position - position.floor() - 0.5;
                let (a, b) = (centred(along + self.phase.0), centred(across + self.phase.1));
                ((0.1 - a * a - b * b) * 15.0 + 0.5).clamp(0.0, 1.0)
            }
        };
        mix(self.colours[0], self.colours[1], weight)
    }
}

/// The picture while it is drawn; lengths and positions are in image sides.
struct Canvas {
    size: usize,
    pixels: Vec<Colour>,
}

impl Canvas {
    /// Calls `paint` with every pixel whose centre is within `reach` of `centre` along both axes,
    /// and with the offset of that pixel from `centre`.
    fn around(
        &mut self,
        centre: (f64, f64),
        reach: f64,
        mut paint: impl FnMut(&mut Colour, f64, f64),
    ) {
        let size = self.size as f64;
        // Negative positions saturate to 0.
        let span = |middle: f64| {
            let first = ((middle - reach) * size) as usize;
            first..(((middle + reach) * size + 1.0) as usize).min(self.size)
        };
        let (rows, columns) = (span(centre.1), span(centre.0));
        for row in rows {
            let y = (row as f64 + 0.5) / size - centre.1;
            for column in columns.clone() {
                let x = (column as f64 + 0.5) / size - centre.0;
                paint(&mut self.pixels[row * self.size + column], x, y);
            }
        }
    }

    fn background(&mut self, random: &mut Random, band: Band) {
        let contrast = random.uniform(0.1, 0.4);
        let fill = Fill::new(random, band, BACKGROUND_SATURATION, 0.5, contrast);
        self.around((0.5, 0.5), 0.5, |pixel, x, y| *pixel = fill.colour(x, y));
    }

    /// A spot that fades out, so that it has no outline to mistake for a disc.
    fn spot(&mut self, random: &mut Random) {
        let centre = (random.unit(), random.unit());
        let radius = random.uniform(0.1, 0.25);
        let colour = Band::ANY.colour(random, CLUTTER_SATURATION);
        let strength = random.uniform(0.3, 0.8);
        self.around(centre, radius, |pixel, x, y| {
            let height = (1.0 - (x * x + y * y) / (radius * radius)).max(0.0);
            *pixel = mix(*pixel, colour, strength * height * height);
        });
    }

    fn line(&mut self, random: &mut Random) {
        let centre = (random.unit(), random.unit());
        let half_length = random.uniform(0.08, 0.3);
        let half_width = random.uniform(0.01, 0.03);
        let (along_x, along_y) = direction(random);
        let colour = Band::ANY.colour(random, CLUTTER_SATURATION);
        let size = self.size as f64;
        self.around(centre, half_length + 2.0 * half_width, |pixel, x, y| {
            let beyond = ((x * along_x + y * along_y).abs() - half_length).max(0.0);
            let aside = y * along_x - x * along_y;
            let distance = (beyond * beyond + aside * aside).sqrt() - half_width;
            *pixel = mix(*pixel, colour, (0.5 - distance * size).clamp(0.0, 1.0));
        });
    }

    fn shape(&mut self, random: &mut Random, outline: Outline, place: &Place, band: Band) {
        let (cosine, sine) = direction(random);
        let stretch = random.uniform(0.88, 1.14);
        let (scale_u, scale_v) = (1.0 / (place.radius * stretch), stretch / place.radius);
        let fill = Fill::new(random, band, SHAPE_SATURATION, place.radius, 0.5);
        let sample = 1.0 / (SUPERSAMPLING * self.size) as f64;
        let reach = Outline::REACH * place.radius * 1.14;
        self.around(place.centre, reach, |pixel, x, y| {
            if x * x + y * y > reach * reach {
                return;
            }
            let mut inside = 0;
            for row in 0..SUPERSAMPLING {
                let y = y + (row as f64 - (SUPERSAMPLING - 1) as f64 / 2.0) * sample;
                for column in 0..SUPERSAMPLING {
                    let x = x + (column as f64 - (SUPERSAMPLING - 1) as f64 / 2.0) * sample;
                    let (u, v) = (x * cosine + y * sine, y * cosine - x * sine);
                    inside += usize::from(outline.holds(u * scale_u, v * scale_v));
                }
            }
            if inside > 0 {
                let coverage = inside as f64 / (SUPERSAMPLING * SUPERSAMPLING) as f64;
                *pixel = mix(*pixel, fill.colour(x, y), coverage);
            }
        });
    }

    /// Bytes, with noise of a triangular distribution.
    fn into_rgb(self, random: &mut Random) -> Vec<u8> {
        let amplitude = random.uniform(0.0, 10.0);
        let mut rgb = Vec::with_capacity(3 * self.pixels.len());
        for pixel in self.pixels {
            let mut bits = random.bits();
            for value in pixel {
                let noise = ((bits & 0xff) as f64 - ((bits >> 8) & 0xff) as f64) / 255.0;
                bits >>= 16;
                // The cast saturates at 0 and 255.
                rgb.push((value * 255.0 + amplitude * noise + 0.5) as u8);
            }
        }
        rgb
    }
}

/// Where a copy of the shape goes.
struct Place {
    centre: (f64, f64),
    radius: f64,
}

/// Two to nine places, mostly four or five, that overlap little, the first one large. Of a few
/// candidates for each, the one with the most room is taken, and none if that is too little:
/// triangles that meet would make a bowtie.
fn places(random: &mut Random) -> Vec<Place> {
    const CANDIDATES: usize = 8;
    let count = 6 + random.below(4);
    let mut places: Vec<Place> = Vec::with_capacity(count);
    for copy in 0..count {
        let radius = if copy == 0 { random.uniform(0.17, 0.23) } else { random.uniform(0.14, 0.2) };
        let margin = 0.7 * radius;
        let mut best = None;
        for _ in 0..CANDIDATES {
            let centre =
                (random.uniform(margin, 1.0 - margin), random.uniform(margin, 1.0 - margin));
            let room = places.iter().fold(f64::INFINITY, |room, place| {
                let (x, y) = (centre.0 - place.centre.0, centre.1 - place.centre.1);
                room.min((x * x + y * y).sqrt() - place.radius - radius)
            });
            if best.is_none_or(|(most, _)| room > most) {
                best = Some((room, centre));
            }
        }
        if let Some((room, centre)) = best
            && (copy < 2 || room > -0.2 * radius)
        {
            places.push(Place { centre, radius });
        }
    }
    places
}

fn draw(outline: Outline, size: usize, mut random: Random) -> Vec<u8> {
    let random = &mut random;
    let mut canvas = Canvas { size, pixels: vec![[0.0; 3]; size * size] };
    let (behind, front) =
        if random.chance(0.5) { (Band::DARK, Band::LIGHT) } else { (Band::LIGHT, Band::DARK) };
    canvas.background(random, behind);
    for _ in 0..random.below(3) {
        canvas.spot(random);
    }
    for _ in 0..random.below(3) {
        canvas.line(random);
    }
    for place in places(random) {
        canvas.shape(random, outline, &place, front);
    }
    if random.chance(0.5) {
        canvas.line(random);
    }
    canvas.into_rgb(random)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn shapes(split: Split, images: usize) -> Shapes {
        Shapes::new(ShapesOptions { seed: 0, split, images, size_pixels: 32 }).unwrap()
    }

    fn bytes(set: &Shapes, index: usize) -> Vec<u8> {
        set.image(index).unwrap().into_rgb()
    }

    #[test]
    fn the_bytes_are_part_of_the_contract() {
        let mut digest = Sha256::new();
        for split in [Split::Train, Split::Test] {
            let set = shapes(split, 50);
            (0..50).for_each(|index| digest.update(bytes(&set, index)));
        }
        let mut hexadecimal = String::new();
        for byte in &digest.finalize()[..8] {
            write!(hexadecimal, "{byte:02x}").unwrap();
        }
        assert_eq!(hexadecimal, "a7c6703aece1d11c");
    }

    #[test]
    fn an_image_depends_on_seed_split_and_index_but_not_on_the_number_of_images() {
        let base = bytes(&shapes(Split::Train, 20), 7);
        assert_eq!(base, bytes(&shapes(Split::Train, 30), 7));
        assert_ne!(base, bytes(&shapes(Split::Train, 20), 17));
        assert_ne!(base, bytes(&shapes(Split::Test, 20), 7));
        let options = ShapesOptions { seed: 1, split: Split::Train, images: 20, size_pixels: 32 };
        assert_ne!(base, bytes(&Shapes::new(options).unwrap(), 7));
    }

    #[test]
    fn classes_are_balanced_and_named() {
        let set = shapes(Split::Test, 200);
        let mut counts = vec![0; set.classes().len()];
        (0..200).for_each(|index| counts[set.label(index).unwrap()] += 1);
        assert_eq!(counts, [20; 10]);
        assert_eq!(set.name(3), "shapes test image 3");
    }

    #[test]
    fn impossible_options_are_refused() {
        let refused = |split, images, size_pixels| {
            let options = ShapesOptions { seed: 0, split, images, size_pixels };
            Shapes::new(options).err().unwrap().to_string()
        };
        let message = refused(Split::Train, 1, 15);
        assert!(message.contains("size_pixels is 15; it must be 16 to 1024"), "{message}");
        assert!(refused(Split::Train, 1, 1025).contains("size_pixels is 1025"));
        let message = refused(Split::Test, 0, 32);
        assert!(message.contains("test_images is 0; it must be at least 1"), "{message}");
    }

    #[test]
    fn outlines_stay_within_reach_and_differ_from_each_other() {
        let grid = (-40..=40).flat_map(|row| (-40..=40).map(move |column| (row, column)));
        let points: Vec<_> = grid.map(|(u, v)| (u as f64 / 20.0, v as f64 / 20.0)).collect();
        let masks = Outline::ALL
            .map(|outline| points.iter().map(|&(u, v)| outline.holds(u, v)).collect::<Vec<_>>());
        for (class, mask) in masks.iter().enumerate() {
            for (&(u, v), _) in points.iter().zip(mask).filter(|(_, inside)| **inside) {
                assert!(u.hypot(v) <= Outline::REACH, "{} at {u}, {v}", CLASSES[class]);
            }
            for (other, other_mask) in masks.iter().enumerate().skip(class + 1) {
                let count = |test: fn(bool, bool) -> bool| {
                    mask.iter().zip(other_mask).filter(|(a, b)| test(**a, **b)).count() as f64
                };
                let overlap = count(|a, b| a && b) / count(|a, b| a || b);
                assert!(overlap < 0.9, "{} and {}: {overlap}", CLASSES[class], CLASSES[other]);
            }
        }
    }

    #[test]
    fn raw_pixels_do_not_tell_the_classes_apart() {
        const NEIGHBOURS: usize = 20;
        let vectors = |set: &Shapes| -> Vec<Vec<f32>> {
            let vector = |index| {
                let values: Vec<_> =
                    bytes(set, index).iter().map(|&byte| f32::from(byte)).collect();
                let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
                values.iter().map(|value| value / norm).collect()
            };
            (0..set.len()).map(vector).collect()
        };
        let (train, test) =
            (vectors(&shapes(Split::Train, 600)), vectors(&shapes(Split::Test, 200)));
        let mut right = 0;
        for (index, query) in test.iter().enumerate() {
            let cosine = |key: &Vec<f32>| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
            let mut ranked: Vec<_> =
                train.iter().enumerate().map(|(key, vector)| (cosine(vector), key % 10)).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = [0; 10];
            ranked[..NEIGHBOURS].iter().for_each(|(_, label)| votes[*label] += 1);
            let most = votes.iter().max().unwrap();
            right += usize::from(votes.iter().position(|count| count == most) == Some(index % 10));
        }
        assert!(right <= 50, "{right} of 200 right; chance is 20");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_seed_and_size_draws_a_picture(
            seed in any::<u64>(), index in 0..1_000_000_usize, size_pixels in 16..80_usize,
        ) {
            let options =
                ShapesOptions { seed, split: Split::Train, images: 1_000_000, size_pixels };
            let set = Shapes::new(options).unwrap();
            let image = set.image(index).unwrap();
            prop_assert_eq!((image.width(), image.height()), (size_pixels, size_pixels));
            // Shapes and background differ in brightness by at least 0.24, of which antialiasing
            // takes some from thin outlines.
            let brightness = |rgb: &[u8]| {
                0.299 * f64::from(rgb[0]) + 0.587 * f64::from(rgb[1]) + 0.114 * f64::from(rgb[2])
            };
            let values: Vec<_> = image.rgb().chunks(3).map(brightness).collect();
            let highest = values.iter().copied().fold(f64::MIN, f64::max);
            let lowest = values.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(highest - lowest > 0.16 * 255.0, "{} to {}", lowest, highest);
        }
    }
}
