//! Building a graph node by node: every node has one result, under the node's own name.

use prost::Message;

use super::proto::{
    Attribute, Entry, Graph as GraphMessage, Model, Node, OperatorSet, Shape, Side, Tensor,
    TensorType, Type, Value,
};
use crate::tensors::NamedTensors;

/// The first operators with `LayerNormalization`; `IR_VERSION` is of the same release.
const OPERATORS: i64 = 17;
const IR_VERSION: i64 = 8;

/// The images, `[batch, 3, height, width]`.
pub(super) const IMAGES: &str = "images";
/// What the graph computes, `[batch, features]`.
const FEATURES: &str = "features";

/// A graph under construction over the weights of a backbone.
pub(super) struct Graph<'a> {
    weights: &'a NamedTensors,
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
}

/// An option of an operator.
pub(super) enum Setting<'a> {
    Float(&'a str, f32),
    Integer(&'a str, i64),
    Integers(&'a str, &'a [i64]),
}

impl<'a> Graph<'a> {
    pub(super) fn new(weights: &'a NamedTensors) -> Self {
        Self { weights, nodes: Vec::new(), initializers: Vec::new() }
    }

    pub(super) fn weights(&self) -> &NamedTensors {
        self.weights
    }

    /// Adds a node; gives back the name of its result.
    pub(super) fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        options: &[Setting<'_>],
    ) -> String {
        let output = format!("{name}.output");
        self.nodes.push(Node {
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            outputs: vec![output.clone()],
            name: name.to_owned(),
            operator: operator.to_owned(),
            attributes: options.iter().map(attribute).collect(),
        });
        output
    }

    /// A tensor of the backbone, by its name.
    pub(super) fn weight(&mut self, name: &str) -> String {
        if let Some((_, shape, bytes)) = self.weights.iter().find(|entry| entry.0 == name) {
            let shape = shape.iter().map(|&side| side as i64).collect();
            self.constant(name, shape, Tensor::FLOAT, bytes.clone());
        }
        name.to_owned()
    }

    /// A matrix of the backbone, rows and columns exchanged, as `MatMul` wants it.
    pub(super) fn transposed_weight(&mut self, name: &str) -> String {
        let own = format!("{name}.transposed");
        if let Some((_, shape, bytes)) = self.weights.iter().find(|entry| entry.0 == name)
            && let &[rows, columns] = shape.as_slice()
        {
            let (numbers, _) = bytes.as_chunks::<4>();
            let by_columns = (0..columns)
                .flat_map(|column| numbers.iter().skip(column).step_by(columns.max(1)).take(rows));
            let bytes = by_columns.flatten().copied().collect();
            self.constant(&own, vec![columns as i64, rows as i64], Tensor::FLOAT, bytes);
        }
        own
    }

    /// A single number.
    pub(super) fn number(&mut self, name: &str, value: f32) -> String {
        self.constant(name, Vec::new(), Tensor::FLOAT, value.to_le_bytes().to_vec());
        name.to_owned()
    }

    /// A list of integers, or with an empty shape a single one.
    pub(super) fn integers(&mut self, name: &str, shape: &[i64], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, shape.to_vec(), Tensor::INTEGER, bytes);
        name.to_owned()
    }

    fn constant(&mut self, name: &str, shape: Vec<i64>, kind: i32, bytes: Vec<u8>) {
        if !self.initializers.iter().any(|tensor| tensor.name == name) {
            self.initializers.push(Tensor { shape, kind, name: name.to_owned(), bytes });
        }
    }

    /// The bytes of the file whose result is `features`; images have sides of `side` pixels, or of
    /// any number.
    pub(super) fn finish(
        mut self,
        name: &str,
        side: Option<i64>,
        features: &str,
        metadata: &[(&str, String)],
    ) -> Vec<u8> {
        let width = self.features_length();
        if let Some(last) = self.nodes.iter_mut().find(|node| node.outputs == [features]) {
            last.outputs = vec![FEATURES.to_owned()];
        }
        let length = |length: i64| Side { length: Some(length), name: None };
        let named = |name: &str| Side { length: None, name: Some(name.to_owned()) };
        let [height, across] = match side {
            Some(side) => [length(side), length(side)],
            None => [named("height"), named("width")],
        };
        let value = |name: &str, sides: Vec<Side>| Value {
            name: name.to_owned(),
            of: Some(Type {
                tensor: Some(TensorType { kind: Tensor::FLOAT, shape: Some(Shape { sides }) }),
            }),
        };
        let entry =
            |(key, value): &(&str, String)| Entry { key: (*key).to_owned(), value: value.clone() };
        let model = Model {
            ir_version: IR_VERSION,
            producer_name: "nearkin".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(GraphMessage {
                nodes: self.nodes,
                name: name.to_owned(),
                initializers: self.initializers,
                inputs: vec![value(IMAGES, vec![named("batch"), length(3), height, across])],
                outputs: vec![value(FEATURES, vec![named("batch"), length(width)])],
            }),
            opset_import: vec![OperatorSet { domain: String::new(), version: OPERATORS }],
            metadata: metadata.iter().map(entry).collect(),
        };
        model.encode_to_vec()
    }

    /// Every backbone ends in a norm, so its last tensor is as long as a feature; so is that of a
    /// shortcut of a last block.
    fn features_length(&self) -> i64 {
        let last = self.weights.iter().last();
        last.and_then(|(_, shape, _)| shape.first()).map_or(0, |&length| length as i64)
    }
}

fn attribute(option: &Setting<'_>) -> Attribute {
    match *option {
        Setting::Float(name, value) => Attribute {
            name: name.to_owned(),
            float: Some(value),
            kind: Attribute::FLOAT,
            ..Attribute::default()
        },
        Setting::Integer(name, value) => Attribute {
            name: name.to_owned(),
            integer: Some(value),
            kind: Attribute::INTEGER,
            ..Attribute::default()
        },
        Setting::Integers(name, values) => Attribute {
            name: name.to_owned(),
            integers: values.to_vec(),
            kind: Attribute::INTEGERS,
            ..Attribute::default()
        },
    }
}
