//! The momentum encoder: a moving average of the online encoder that makes keys and targets.

use std::sync::Arc;

use nearkin_dist::{SingleProcess, World};
use nearkin_recipe::{Model, MomentumEncoder as Options};
use nearkin_torch::{move_towards, move_towards_by, send};
use tch::{Device, Kind, TchError, Tensor};

use crate::layers::{from_blocks, to_blocks};
use crate::{Encoder, Mode, Parameters};

/// A copy of the online encoder, without predictor, that follows it slowly.
#[derive(Debug)]
pub struct MomentumEncoder {
    encoder: Encoder,
    options: Options,
    world: Arc<dyn World>,
    synchronized: bool,
}

/// An order in which a batch meets the batch norms of its groups, as rows on the encoder's device.
#[derive(Debug)]
pub struct Shuffle {
    /// Of the batch of all processes, those that this one encodes.
    pub chosen: Tensor,
    /// Where its own images are then, in what all have encoded.
    pub back: Tensor,
}

impl MomentumEncoder {
    /// Starts as a copy of the online encoder. (Official SCE code starts from weights of its own;
    /// the papers, and every other implementation, copy.)
    pub fn copy_of(
        online: &Encoder,
        model: &Model,
        options: Options,
        device: Device,
        kind: Kind,
    ) -> Result<Self, TchError> {
        let encoder = Encoder::build(model, false, device, kind)?;
        for mine in encoder.parameters() {
            let _ = mine.tensor.shallow_clone().f_set_requires_grad(false)?;
        }
        let mut copy =
            Self { encoder, options, world: SingleProcess::shared(), synchronized: false };
        copy.restart(online)?;
        Ok(copy)
    }

    /// Becomes a copy of the online encoder again.
    pub fn restart(&mut self, online: &Encoder) -> Result<(), TchError> {
        tch::no_grad(|| {
            for (mine, theirs) in self.parameters().iter().zip(online.parameters()) {
                mine.tensor.shallow_clone().f_copy_(&theirs.tensor)?;
            }
            Ok(())
        })
    }

    /// Every named tensor; running statistics are its own.
    pub fn parameters(&self) -> &Parameters {
        self.encoder.parameters()
    }

    /// `weights = momentum * weights + (1 - momentum) * online weights`. Running statistics are not
    /// averaged: each encoder keeps those of the batches it saw.
    pub fn follow(&mut self, online: &Encoder, momentum: f64) -> Result<(), TchError> {
        let (averages, weights) = self.pairs(online);
        move_towards(&averages, &weights, 1.0 - momentum)
    }

    /// [`follow`](Self::follow) with a `1 - momentum` that the device holds, a tensor without
    /// dimensions; if it is 0 and the online weights are finite, nothing changes.
    pub fn follow_by(&mut self, online: &Encoder, weight: &Tensor) -> Result<(), TchError> {
        let (averages, weights) = self.pairs(online);
        move_towards_by(&averages, &weights, weight)
    }

    fn pairs<'a>(&'a self, online: &'a Encoder) -> (Vec<&'a Tensor>, Vec<&'a Tensor>) {
        let pairs = self.parameters().iter().zip(online.parameters());
        pairs
            .filter(|(_, theirs)| theirs.trainable)
            .map(|(mine, theirs)| (&mine.tensor, &theirs.tensor))
            .unzip()
    }

    /// From now on the images are those of several processes, each of which has as many. With
    /// `synchronize`, batch norms take the statistics of all of them together, and groups are those
    /// of the joint batch; without, no group reaches beyond a process.
    ///
    /// Fails if groups do not divide among the processes.
    pub fn spread(&mut self, world: Arc<dyn World>, synchronize: bool) -> Result<(), TchError> {
        let splits = self.options.batch_norm_splits.get();
        if splits > 1 && !splits.is_multiple_of(world.size()) {
            return Err(TchError::Shape(format!(
                "momentum_encoder.batch_norm_splits = {splits} groups do not divide among {} \
                 processes",
                world.size()
            )));
        }
        if synchronize {
            self.encoder.synchronize(Arc::clone(&world));
        }
        self.world = world;
        self.synchronized = synchronize;
        Ok(())
    }

    /// Groups of the batch of all processes that know nothing of each other.
    fn groups(&self) -> usize {
        let (splits, processes) = (self.options.batch_norm_splits.get(), self.world.size());
        if self.synchronized { splits } else { splits.max(processes) }
    }

    /// Groups that are this process's.
    fn groups_here(&self) -> usize {
        match self.groups() {
            1 => 1,
            groups => groups / self.world.size(),
        }
    }

    /// The order in which a batch meets the batch norms, where the options ask for a shuffle and it has
    /// an effect. `permutation` is a random order of the batch of all processes, the same in each.
    ///
    /// Fails if the batch does not divide into the groups.
    pub fn shuffle(&self, permutation: &[usize]) -> Result<Option<Shuffle>, TchError> {
        let (groups, processes, here) = (self.groups(), self.world.size(), self.groups_here());
        if !self.options.shuffle || groups == 1 {
            return Ok(None);
        }
        if !permutation.len().is_multiple_of(groups) {
            return Err(TchError::Shape(format!(
                "a batch of {} does not divide into {groups} groups",
                permutation.len()
            )));
        }
        // Position `p` of the permutation belongs to group `p mod groups`, and `here` groups in a row to
        // a process, in which its strided groups are the same again.
        let (rank, rows) = (self.world.rank(), permutation.len() / groups);
        let chosen = |rank: usize| {
            let places = (0..rows).flat_map(move |row| (0..here).map(move |group| (row, group)));
            places.map(move |(row, group)| permutation[row * groups + rank * here + group])
        };
        let mut back = vec![0; permutation.len()];
        for (place, image) in (0..processes).flat_map(chosen).enumerate() {
            back[image] = place as i64;
        }
        let batch = permutation.len() / processes;
        let index = |places: &[i64]| send(places, &[places.len() as i64], self.encoder.device());
        let mine: Vec<i64> = chosen(rank).map(|image| image as i64).collect();
        let back = &back[rank * batch..][..batch];
        Ok(Some(Shuffle { chosen: index(&mine)?, back: index(back)? }))
    }

    /// Embeddings of this process's images in training mode, not normalised, without gradient:
    /// `[batch, dimensions]`, in the order of the images, whatever the [shuffle](Self::shuffle).
    pub fn embed(&self, images: &Tensor, shuffle: Option<&Shuffle>) -> Result<Tensor, TchError> {
        tch::no_grad(|| {
            let here = self.groups_here() as i64;
            let Some(Shuffle { chosen, back }) = shuffle else {
                return self.embed_in_groups(images, here);
            };
            let mine = self.world.gather(images)?.f_index_select(0, chosen)?;
            let mine = self.embed_in_groups(&mine, here)?;
            self.world.gather(&mine)?.f_index_select(0, back)
        })
    }

    fn embed_in_groups(&self, images: &Tensor, groups: i64) -> Result<Tensor, TchError> {
        let (backbone, projector) = (self.encoder.backbone(), self.encoder.projector());
        let whole = self.encoder.whole_batch();
        if groups == 1 && self.groups() == 1 {
            return projector.forward(&backbone.forward(images, whole)?, whole);
        }
        let split = Mode::Train { groups };
        let features = backbone.forward(&to_blocks(images, groups)?, split)?;
        let projector_mode = if self.options.split_projector { split } else { whole };
        from_blocks(&projector.forward(&features, projector_mode)?, groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        toml::from_str(
            "backbone = \"resnet18\"\nstem = \"cifar\"\nbase_width = 4
             projector = [{ width = 8, batch_norm = \"affine\", relu = true }, { width = 6 }]
             predictor = [{ width = 6 }]",
        )
        .unwrap()
    }

    fn pair(options: &str) -> (Encoder, MomentumEncoder) {
        let online = Encoder::new(&model(), 5, Device::Cpu, Kind::Double).unwrap();
        let options = toml::from_str(&format!("momentum = 0.9\n{options}")).unwrap();
        let teacher =
            MomentumEncoder::copy_of(&online, &model(), options, Device::Cpu, Kind::Double);
        (online, teacher.unwrap())
    }

    fn images(count: i64) -> Tensor {
        tch::manual_seed(9);
        Tensor::randn([count, 3, 8, 8], tch::kind::DOUBLE_CPU)
    }

    fn same(a: &Tensor, b: &Tensor) -> bool {
        a.allclose(b, 1e-9, 1e-9, false)
    }

    #[test]
    fn it_starts_as_a_copy_without_predictor_and_follows_weights_only() {
        let (online, mut teacher) = pair("");
        assert!(teacher.parameters().iter().all(|entry| !entry.name.starts_with("predictor.")));
        for (mine, theirs) in teacher.parameters().iter().zip(online.parameters()) {
            assert_eq!((&mine.name, &mine.tensor), (&theirs.name, &theirs.tensor));
            assert!(!mine.tensor.requires_grad());
        }
        tch::no_grad(|| {
            for entry in online.parameters() {
                let _ = entry.tensor.shallow_clone().g_add_scalar_(1.0);
            }
        });
        let before: Vec<Tensor> =
            teacher.parameters().iter().map(|entry| entry.tensor.copy()).collect();
        teacher.follow(&online, 0.9).unwrap();
        for ((mine, before), theirs) in
            teacher.parameters().iter().zip(before).zip(online.parameters())
        {
            let expected =
                if theirs.trainable { &before * 0.9 + &theirs.tensor * 0.1 } else { before };
            assert!(same(&mine.tensor, &expected), "{}", mine.name);
        }
    }

    #[test]
    fn a_shuffled_batch_comes_back_in_order() {
        let images = images(8);
        let order = [3, 1, 7, 0, 5, 2, 6, 4];
        let embed = |options: &str| {
            let teacher = pair(options).1;
            teacher.embed(&images, teacher.shuffle(&order).unwrap().as_ref()).unwrap()
        };
        let (plain, shuffled) = (embed(""), embed("shuffle = true"));
        assert!(same(&plain, &shuffled), "without groups a shuffle changes nothing");
        let split = |options: &str| embed(&format!("batch_norm_splits = 4\n{options}"));
        assert!(!same(&plain, &split("")), "groups have statistics of their own");
        assert!(!same(&split(""), &split("shuffle = true")), "a shuffle makes other groups");
    }

    #[test]
    fn split_groups_are_strided_and_the_projector_sees_the_whole_batch_unless_told() {
        let images = images(8);
        let every_fourth = |start: i64| images.slice(0, start, 8, 4);
        let apart: Vec<Tensor> =
            (0..4).map(|start| pair("").1.embed(&every_fourth(start), None).unwrap()).collect();
        // [group, member] to image = 4 * member + group.
        let apart = Tensor::stack(&apart, 1).reshape([8, -1]);
        let together = |options: &str| {
            pair(&format!("batch_norm_splits = 4\n{options}")).1.embed(&images, None).unwrap()
        };
        assert!(same(&apart, &together("split_projector = true")));
        assert!(!same(&apart, &together("")));
    }

    #[test]
    fn keys_have_no_gradient() {
        assert!(!pair("").1.embed(&images(4), None).unwrap().requires_grad());
    }
}
