//! ONNX: the backbone as a graph that runs without Python, for batches of any size.
//!
//! Batch norms are in evaluation mode, and nothing is folded together: a reader of the graph finds
//! the modules and tensors of the checkpoint under their names.

mod graph;
mod proto;
mod resnet;
mod transformer;

use std::path::Path;

use nearkin_recipe::{Backbone, Model};

use self::graph::Graph;
use crate::tensors::NamedTensors;
use crate::{Files, Preprocessing};

pub(crate) fn files(
    weights: &NamedTensors,
    model: &Model,
    preprocessing: &Preprocessing,
    folder: &Path,
) -> Files {
    let mut graph = Graph::new(weights);
    let (features, sides) = match &model.backbone {
        Backbone::ResNet(options) => (resnet::build(&mut graph, options), None),
        Backbone::VisionTransformer(options) => {
            (transformer::build(&mut graph, options), Some(options.image_size.get() as i64))
        }
    };
    let name = model.backbone.name();
    let metadata = [("nearkin.preprocessing", preprocessing.to_json())];
    let bytes = graph.finish(name, sides, &features, &metadata);
    let usage = format!(
        "import onnxruntime\n\
         session = onnxruntime.InferenceSession({:?})\n\
         features = session.run(None, {{\"images\": images}})[0]  # float32 [batch, 3, height, width]\n",
        folder.join("model.onnx").display().to_string()
    );
    (vec![("model.onnx", bytes)], usage)
}
