//! A vision transformer as a graph, for images of its own size.

use nearkin_recipe::VisionTransformer;

use super::graph::{Graph, IMAGES, Setting};

const EPSILON: f32 = 1e-6;

/// The name of the features.
pub(super) fn build(graph: &mut Graph<'_>, options: &VisionTransformer) -> String {
    let (patch, width) = (options.patch_size.get() as i64, options.width.get() as i64);
    let patches = embed(graph, patch, width);
    let first = class_tokens(graph, width);
    let axis = Setting::Integer("axis", 1);
    let tokens = graph.node("Concat", "tokens", &[&first, &patches], &[axis]);
    let positions = graph.weight("pos_embed");
    let mut x = graph.node("Add", "pos_embed.add", &[&tokens, &positions], &[]);
    for index in 0..options.depth.get() {
        x = block(graph, &format!("blocks.{index}"), &x, options);
    }
    let zero = graph.integers("first", &[], &[0]);
    let first = graph.node("Gather", "class_token", &[&x, &zero], &[Setting::Integer("axis", 1)]);
    normalise(graph, "norm", &first)
}

/// Patches to tokens `[batch, patches, width]`.
fn embed(graph: &mut Graph<'_>, patch: i64, width: i64) -> String {
    let weight = graph.weight("patch_embed.proj.weight");
    let bias = graph.weight("patch_embed.proj.bias");
    let settings =
        [Setting::Integers("kernel_shape", &[patch; 2]), Setting::Integers("strides", &[patch; 2])];
    let x = graph.node("Conv", "patch_embed.proj", &[IMAGES, &weight, &bias], &settings);
    // 0 stands for the side as it is, the batch.
    let shape = graph.integers("patch_embed.shape", &[3], &[0, width, -1]);
    let x = graph.node("Reshape", "patch_embed.flatten", &[&x, &shape], &[]);
    let order = [Setting::Integers("perm", &[0, 2, 1])];
    graph.node("Transpose", "patch_embed.transpose", &[&x], &order)
}

/// The class token once for every image: `[batch, 1, width]`.
fn class_tokens(graph: &mut Graph<'_>, width: i64) -> String {
    let token = graph.weight("cls_token");
    let ends = [Setting::Integer("start", 0), Setting::Integer("end", 1)];
    let batch = graph.node("Shape", "cls_token.batch", &[IMAGES], &ends);
    let rest = graph.integers("cls_token.rest", &[2], &[1, width]);
    let axis = [Setting::Integer("axis", 0)];
    let shape = graph.node("Concat", "cls_token.shape", &[&batch, &rest], &axis);
    graph.node("Expand", "cls_token.expand", &[&token, &shape], &[])
}

fn block(graph: &mut Graph<'_>, name: &str, x: &str, options: &VisionTransformer) -> String {
    let y = normalise(graph, &format!("{name}.norm1"), x);
    let y = attend(graph, &format!("{name}.attn"), &y, options);
    let x = graph.node("Add", &format!("{name}.add1"), &[x, &y], &[]);
    let y = normalise(graph, &format!("{name}.norm2"), &x);
    let y = linear(graph, &format!("{name}.mlp.fc1"), &y);
    let y = gelu(graph, &format!("{name}.mlp.act"), &y);
    let y = linear(graph, &format!("{name}.mlp.fc2"), &y);
    graph.node("Add", &format!("{name}.add2"), &[&x, &y], &[])
}

fn attend(graph: &mut Graph<'_>, name: &str, x: &str, options: &VisionTransformer) -> String {
    let (width, heads) = (options.width.get() as i64, options.heads.get() as i64);
    let part = width / heads;
    let all = linear(graph, &format!("{name}.qkv"), x);
    let shape = graph.integers("attention.split", &[5], &[0, -1, 3, heads, part]);
    let all = graph.node("Reshape", &format!("{name}.split"), &[&all, &shape], &[]);
    // Queries and values [batch, heads, tokens, part], keys [batch, heads, part, tokens].
    let take = |graph: &mut Graph<'_>, what: &str, place: i64, order: &[i64]| {
        let index = graph.integers(&format!("attention.{what}"), &[], &[place]);
        let axis = [Setting::Integer("axis", 2)];
        let own = graph.node("Gather", &format!("{name}.{what}.take"), &[&all, &index], &axis);
        let order = [Setting::Integers("perm", order)];
        graph.node("Transpose", &format!("{name}.{what}"), &[&own], &order)
    };
    let queries = take(graph, "queries", 0, &[0, 2, 1, 3]);
    let keys = take(graph, "keys", 1, &[0, 2, 3, 1]);
    let values = take(graph, "values", 2, &[0, 2, 1, 3]);
    let scale = graph.number("attention.scale", 1.0 / (part as f32).sqrt());
    let queries = graph.node("Mul", &format!("{name}.scale"), &[&queries, &scale], &[]);
    let scores = graph.node("MatMul", &format!("{name}.scores"), &[&queries, &keys], &[]);
    let axis = [Setting::Integer("axis", -1)];
    let shares = graph.node("Softmax", &format!("{name}.softmax"), &[&scores], &axis);
    let seen = graph.node("MatMul", &format!("{name}.seen"), &[&shares, &values], &[]);
    let order = [Setting::Integers("perm", &[0, 2, 1, 3])];
    let seen = graph.node("Transpose", &format!("{name}.transpose"), &[&seen], &order);
    let shape = graph.integers("attention.join", &[3], &[0, -1, width]);
    let seen = graph.node("Reshape", &format!("{name}.join"), &[&seen, &shape], &[]);
    linear(graph, &format!("{name}.proj"), &seen)
}

/// x (1 + erf(x / sqrt 2)) / 2; the operator of that name came with later versions.
fn gelu(graph: &mut Graph<'_>, name: &str, x: &str) -> String {
    let root = graph.number("gelu.root", std::f32::consts::SQRT_2);
    let one = graph.number("gelu.one", 1.0);
    let half = graph.number("gelu.half", 0.5);
    let y = graph.node("Div", &format!("{name}.div"), &[x, &root], &[]);
    let y = graph.node("Erf", &format!("{name}.erf"), &[&y], &[]);
    let y = graph.node("Add", &format!("{name}.add"), &[&y, &one], &[]);
    let y = graph.node("Mul", &format!("{name}.mul"), &[x, &y], &[]);
    graph.node("Mul", name, &[&y, &half], &[])
}

fn linear(graph: &mut Graph<'_>, name: &str, x: &str) -> String {
    let weight = graph.transposed_weight(&format!("{name}.weight"));
    let bias = graph.weight(&format!("{name}.bias"));
    let product = graph.node("MatMul", &format!("{name}.matmul"), &[x, &weight], &[]);
    graph.node("Add", name, &[&product, &bias], &[])
}

fn normalise(graph: &mut Graph<'_>, name: &str, x: &str) -> String {
    let scale = graph.weight(&format!("{name}.weight"));
    let shift = graph.weight(&format!("{name}.bias"));
    let settings = [Setting::Integer("axis", -1), Setting::Float("epsilon", EPSILON)];
    graph.node("LayerNormalization", name, &[x, &scale, &shift], &settings)
}
