//! What shapes of tensors say about a backbone, in the keys of `[model]`.
//!
//! A file of another network differs in many tensors, and a list of them does not tell a user what to
//! change. These keys do.

/// No known network has as many blocks in a row.
const MOST_BLOCKS: usize = 1000;

/// The keys of a backbone that shapes tell, with their values as a recipe writes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Whether `[model]` has such a backbone; if not, the first value describes it.
    is_offered: bool,
    keys: Vec<(&'static str, String)>,
}

impl Sizes {
    /// The sizes of a backbone by the shapes of its tensors. `None` if they are of no known kind.
    pub(crate) fn new(shape: impl Fn(&str) -> Option<Vec<i64>>) -> Option<Self> {
        Self::of_resnet(&shape).or_else(|| Self::of_transformer(&shape))
    }

    fn of_resnet(shape: &impl Fn(&str) -> Option<Vec<i64>>) -> Option<Self> {
        let conv = shape("conv1.weight")?;
        let (&width, &kernel) = (conv.first()?, conv.get(2)?);
        let blocks = [1, 2, 3, 4].map(|stage| {
            let has = |block| shape(&format!("layer{stage}.{block}.conv1.weight")).is_some();
            (0..MOST_BLOCKS).take_while(|&block| has(block)).count()
        });
        // Parts of a network are not another network.
        if blocks.contains(&0) {
            return None;
        }
        let is_bottleneck = shape("layer1.0.conv3.weight").is_some();
        let inner = shape("layer1.0.conv1.weight")?.first().copied()?;
        let grouped = shape("layer1.0.conv2.weight")?.get(1).is_some_and(|&inputs| inputs != inner);
        let name = match (blocks, is_bottleneck) {
            ([2, 2, 2, 2], false) => Some("resnet18"),
            ([3, 4, 6, 3], false) => Some("resnet34"),
            ([3, 4, 6, 3], true) => Some("resnet50"),
            _ => None,
        };
        let name = name.filter(|_| inner == width && !grouped);
        let stem = match kernel {
            3 => "\"cifar\"",
            _ => "\"imagenet\"",
        };
        let backbone = if let Some(name) = name {
            format!("\"{name}\"")
        } else {
            let [a, b, c, d] = blocks;
            let kind = if is_bottleneck { "bottlenecks" } else { "basic blocks" };
            let grouped = if grouped { ", grouped" } else { "" };
            format!(
                "a ResNet of {a}-{b}-{c}-{d} {kind} with {inner} inner channels in the first{grouped}"
            )
        };
        let keys = vec![
            ("backbone", backbone),
            ("stem", stem.to_owned()),
            ("base_width", width.to_string()),
        ];
        Some(Self { is_offered: name.is_some(), keys })
    }

    fn of_transformer(shape: &impl Fn(&str) -> Option<Vec<i64>>) -> Option<Self> {
        let projection = shape("patch_embed.proj.weight")?;
        let (&width, &patch) = (projection.first()?, projection.get(2)?);
        let depth = (0..MOST_BLOCKS)
            .take_while(|block| shape(&format!("blocks.{block}.norm1.weight")).is_some());
        let keys = vec![
            ("vision_transformer.width", width.to_string()),
            ("vision_transformer.patch_size", patch.to_string()),
            ("vision_transformer.depth", depth.count().to_string()),
        ];
        Some(Self { is_offered: true, keys })
    }

    /// The keys of `[model]` that have to change for a network to have these sizes.
    pub(crate) fn differing(&self, network: &Self) -> Vec<(&'static str, String)> {
        let mut keys: Vec<_> =
            self.keys.iter().filter(|key| !network.keys.contains(key)).cloned().collect();
        let is_transformer = |sizes: &Self| sizes.keys[0].0 != "backbone";
        if is_transformer(self) && !is_transformer(network) {
            let name = match self.keys[0].1.as_str() {
                "768" => "vit-base",
                "384" => "vit-small",
                _ => "vit-tiny",
            };
            keys.insert(0, ("backbone", format!("\"{name}\"")));
        }
        keys
    }

    /// What to do about these keys.
    pub(crate) fn hint(&self, differing: &[(&'static str, String)]) -> Option<String> {
        if !self.is_offered {
            return Some(format!("the file holds {}, which nearkin does not have", self.keys[0].1));
        }
        let keys: Vec<String> =
            differing.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let heads = if differing.iter().any(|(key, _)| *key == "vision_transformer.width") {
            ", and vision_transformer.heads as the network was trained"
        } else {
            ""
        };
        (!keys.is_empty())
            .then(|| format!("in the recipe's [model], set {}{heads}", keys.join(", ")))
    }
}
