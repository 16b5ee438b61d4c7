//! A residual network as a graph. Which blocks there are, the names of the weights say.

use nearkin_recipe::{ResNet, Stem};

use super::graph::{Graph, IMAGES, Setting};

const EPSILON: f32 = 1e-5;

/// The name of the features.
pub(super) fn build(graph: &mut Graph<'_>, options: &ResNet) -> String {
    let (kernel, stride) = match options.stem {
        Stem::Cifar => (3, 1),
        Stem::ImageNet => (7, 2),
    };
    let mut x = convolve(graph, IMAGES, ["conv1", "bn1"], kernel, stride);
    x = graph.node("Relu", "relu", &[&x], &[]);
    if options.stem == Stem::ImageNet {
        let window = [
            Setting::Integers("kernel_shape", &[3, 3]),
            Setting::Integers("strides", &[2, 2]),
            Setting::Integers("pads", &[1, 1, 1, 1]),
        ];
        x = graph.node("MaxPool", "maxpool", &[&x], &window);
    }
    for stage in 1..=4 {
        let stage_name = format!("layer{stage}");
        for index in 0..graph.weights().count(&stage_name, "conv1.weight") {
            let stride = if stage > 1 && index == 0 { 2 } else { 1 };
            x = block(graph, &format!("{stage_name}.{index}"), &x, stride);
        }
    }
    let pooled = graph.node("GlobalAveragePool", "avgpool", &[&x], &[]);
    graph.node("Flatten", "flatten", &[&pooled], &[Setting::Integer("axis", 1)])
}

fn block(graph: &mut Graph<'_>, name: &str, x: &str, stride: i64) -> String {
    let bottleneck = graph.weights().has(&format!("{name}.conv3.weight"));
    let path: &[(i64, i64)] =
        if bottleneck { &[(1, 1), (3, stride), (1, 1)] } else { &[(3, stride), (3, 1)] };
    let mut y = x.to_owned();
    for (index, &(kernel, stride)) in path.iter().enumerate() {
        let number = index + 1;
        let modules = [&format!("{name}.conv{number}"), &format!("{name}.bn{number}")];
        y = convolve(graph, &y, modules.map(String::as_str), kernel, stride);
        if number < path.len() {
            y = graph.node("Relu", &format!("{name}.relu{number}"), &[&y], &[]);
        }
    }
    let shortcut = format!("{name}.downsample");
    let shortcut = if graph.weights().has(&format!("{shortcut}.0.weight")) {
        let modules = [&format!("{shortcut}.0"), &format!("{shortcut}.1")];
        convolve(graph, x, modules.map(String::as_str), 1, stride)
    } else {
        x.to_owned()
    };
    let sum = graph.node("Add", &format!("{name}.add"), &[&y, &shortcut], &[]);
    graph.node("Relu", &format!("{name}.relu{}", path.len()), &[&sum], &[])
}

/// A convolution with its batch norm.
fn convolve(
    graph: &mut Graph<'_>,
    x: &str,
    [convolution, norm]: [&str; 2],
    kernel: i64,
    stride: i64,
) -> String {
    let weight = graph.weight(&format!("{convolution}.weight"));
    let settings = [
        Setting::Integers("kernel_shape", &[kernel; 2]),
        Setting::Integers("strides", &[stride; 2]),
        Setting::Integers("pads", &[kernel / 2; 4]),
    ];
    let x = graph.node("Conv", convolution, &[x, &weight], &settings);
    let tensors = ["weight", "bias", "running_mean", "running_var"]
        .map(|tensor| graph.weight(&format!("{norm}.{tensor}")));
    let [scale, shift, mean, variance] = tensors.each_ref().map(String::as_str);
    let inputs = [x.as_str(), scale, shift, mean, variance];
    graph.node("BatchNormalization", norm, &inputs, &[Setting::Float("epsilon", EPSILON)])
}
