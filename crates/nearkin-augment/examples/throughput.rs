//! How many views one core makes per second: `cargo run --release --example throughput`.

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::hint::black_box;
use std::time::Instant;

use nearkin_augment::{Scratch, Transform, View, ViewOptions};
use nearkin_data::random::Purpose;
use nearkin_data::{Image, Random};

const PIPELINES: [(&str, usize, usize, &str); 2] = [
    ("32 x 32 to 32, blur 3", 32, 32, "size = 32, scale = [0.2, 1.0] | kernel_size = 3"),
    ("500 x 375 to 224, blur 23", 500, 375, "size = 224, scale = [0.2, 1.0] | kernel_size = 23"),
];

/// Steps that views of some methods have besides: SCE (on ImageNet), FNC, CLSA and SANE.
const FURTHER: [&str; 3] = [
    "{ solarize = { probability = 0.2 } }",
    "{ rand_augment = { operations = 2, magnitude = 7 } }",
    "{ clsa_strong = {} }",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jitter = "brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1";
    let normalize = "mean_rgb = [0.5, 0.5, 0.5], std_rgb = [0.25, 0.25, 0.25]";
    for (name, width, height, sizes) in PIPELINES {
        let (crop, blur) = sizes.split_once(" | ").unwrap_or((sizes, "kernel_size = 3"));
        let steps = [
            format!("{{ random_resized_crop = {{ {crop} }} }}"),
            "{ horizontal_flip = {} }".into(),
            format!("{{ color_jitter = {{ probability = 0.8, {jitter} }} }}"),
            "{ grayscale = { probability = 0.2 } }".into(),
            format!("{{ gaussian_blur = {{ probability = 0.5, {blur} }} }}"),
            format!("{{ normalize = {{ {normalize} }} }}"),
        ];
        println!("{name}");
        for count in 1..=steps.len() {
            report("up to", &steps[..count].join(", "), width, height)?;
        }
        for further in FURTHER {
            let [crop, flip, ..] = &steps;
            report("crop, flip and", &format!("{crop}, {flip}, {further}"), width, height)?;
        }
    }
    Ok(())
}

/// Prints the speed of a view under the name of its last step.
fn report(
    what: &str,
    transforms: &str,
    width: usize,
    height: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let options: ViewOptions =
        toml::from_str(&format!("name = \"bench\"\ntransforms = [{transforms}]"))?;
    let last = options.transforms.last().map_or("nothing", Transform::name);
    let last = format!("{what} {last}");
    let per_second = measure(&View::new(options)?, width, height)?;
    println!("  {last:28} {per_second:9.0} views/s");
    Ok(())
}

fn measure(view: &View, width: usize, height: usize) -> Result<f64, String> {
    let mut random = Random::new(Purpose::Drawing, 0, 0, 0);
    let images: Vec<Image<'_>> = (0..16)
        .map(|_| {
            let rgb: Vec<u8> = (0..width * height * 3).map(|_| random.below(256) as u8).collect();
            Image::new(width, height, rgb).ok_or_else(|| format!("{width} x {height}"))
        })
        .collect::<Result<_, _>>()?;
    let mut scratch = Scratch::default();
    let mut out = vec![0.0; view.values()];
    let start = Instant::now();
    let mut views = 0_u64;
    while start.elapsed().as_secs_f64() < 0.7 {
        for (index, image) in images.iter().enumerate() {
            let mut random = Random::for_view(0, views, index as u64, 0);
            view.apply(black_box(image), &mut random, &mut scratch, &mut out);
            black_box(&out);
            views += 1;
        }
    }
    Ok(views as f64 / start.elapsed().as_secs_f64())
}
