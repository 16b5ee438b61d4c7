//! Batches for any method, made from what the method says of itself, so that a new one meets every
//! general test without a line of its own here.

use nearkin_objective::{
    Embedding, Encoded, KeyEncoder, Labels, Method, Mixed, Progress, Requirements, Role, Term,
    evaluate, from_table, methods, unit_rows,
};
use tch::{Kind, Tensor};

/// Of embeddings.
const DIMENSIONS: i64 = 5;

/// A batch has so many views, of which a method may take fewer.
const VIEWS: usize = 6;

/// A batch has so many mixed inputs, of which a method may take fewer.
const MIXED: usize = 2;

/// Settings that lead to rules which no method has by default.
const SETTINGS: &[&str] = &[
    "name = \"sce\"\nsymmetric = true\nglobal_views = 1",
    "name = \"sce\"\nvariant = \"leaky\"",
    "name = \"sce\"\nvariant = \"use_keys\"\nsymmetric = true",
    "name = \"moco\"\ncandidates = \"keys_and_queue\"\nsymmetric = true",
    "name = \"moco_v3\"\nscale_by_temperature = false",
    "name = \"ressl\"\nsymmetric = true",
    "name = \"ascl\"\nsymmetric = true\nstrength = 40.0",
    "name = \"sane\"\nmixup = \"none\"\nstrength = 3.0",
    "name = \"sane\"\nmixup = \"vanilla\"\npredictions = \"only_p\"\nstrength = 2.0",
    "name = \"sane\"\npredictions = \"only_q\"\nstrength = 2.0",
    "name = \"imix\"\ncoefficient = 0.4",
    "name = \"nnclr\"\nanchors = \"predictions\"",
    "name = \"supcon\"\npositives = \"inside_mean\"",
    "name = \"supcon\"\npositives = \"inside_sum\"",
    "name = \"simclr\"\nreduction = \"sum_of_views\"",
    "name = \"debiased\"\nclass_prior = 0.7",
    "name = \"hcl\"\nconcentration = 3.0\nclass_prior = 0.0",
    "name = \"fnc\"\nfalse_negatives = \"keep\"\nsupport_views = 0",
    "name = \"fnc\"\nfalse_negatives = \"eliminate\"\nthreshold = 0.2\naggregation = \"mean\"",
    "name = \"fnc\"\nfalse_negatives = \"attract\"\nthreshold = 0.2\nsupport_views = 1",
    "name = \"fnc\"\nfalse_negatives = \"attract_and_eliminate\"\ntop_k = 1\nthreshold = -2.0",
    "name = \"fnc\"\nsupport = \"anchors_too\"\nsupport_views = 0\nthreshold = 0.1",
    "name = \"fnc\"\nsupport = \"anchors_too\"\nsupport_views = 0\nmemory = true\ntop_k = 2\nthreshold = 0.1",
    "name = \"fnc\"\nselection = \"labels\"\nsupport_views = 0\nfalse_negatives = \"eliminate\"",
    "name = \"combination\"\ncandidates = \"keys_and_queue\"\nteacher = \"online\"\n\
     target = { positives = \"nearest_neighbour\" }",
    "name = \"combination\"\ndenominator = \"nothing\"\n\
     target = { relations = { kind = \"nearest_neighbour\" }, coefficient = 0.3 }",
    "name = \"combination\"\ncandidates = \"views\"\n\
     target = { relations = { kind = \"softmax\", temperature = 0.1 }, coefficient = 0.3 }",
    "name = \"combination\"\ncandidates = \"views\"\ndenominator = \"without_selected\"\nselection = { top_k = 2 }\n\
     target = { positives = \"labels\", relations = { kind = \"selected\" }, coefficient = 0.6 }",
    "name = \"combination\"\ndenominator = \"without_selected\"\nselection = { threshold = 0.3 }\n\
     target = { relations = { kind = \"softmax\", temperature = 0.05 }, coefficient = 0.5 }",
    "name = \"combination\"\nsymmetric = true\n\
     target = { relations = { kind = \"labels\" }, coefficient = 0.6 }",
    "name = \"combination\"\nteacher = \"support\"\nsupport_views = 1\naggregation = \"mean\"\n\
     target = { relations = { kind = \"softmax\", temperature = 0.1 }, coefficient = { rule = \"entropy\", strength = 5.0 } }",
    "name = \"combination\"\ncandidates = \"keys_and_queue\"\n\
     target = { relations = { kind = \"softmax\", temperature = 0.1 }, coefficient = { rule = \"refinery\", strength = 2.0 } }\n\
     mixup = { kind = \"momentum\", weight = 0.6, concentration = 1.0 }",
];

/// The method that this `[method]` table describes.
pub(crate) fn method(table: &str) -> Box<dyn Method> {
    from_table(&table.parse().unwrap()).unwrap().method
}

/// Every registered method with its defaults, and the settings above, each with its table.
pub(crate) fn all() -> Vec<(String, Box<dyn Method>)> {
    let defaults = methods().into_iter().map(|entry| format!("name = \"{}\"", entry.name));
    let tables = defaults.chain(SETTINGS.iter().map(ToString::to_string));
    tables.map(|table| (table.clone(), method(&table))).collect()
}

/// The numbers of views that a method takes, from the fewest on.
pub(crate) fn views(method: &dyn Method) -> Vec<usize> {
    (2..=VIEWS).filter(|&views| method.requirements(views).is_ok()).collect()
}

/// Numbers within -1 and 1 by a seed; unlike libtorch's they depend on no other test's draws.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn number(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn rows(&mut self, count: i64) -> Tensor {
        let numbers: Vec<f64> = (0..count * DIMENSIONS).map(|_| self.number()).collect();
        Tensor::from_slice(&numbers).reshape([count, DIMENSIONS])
    }

    /// Class labels, of which some are missing.
    fn labels(&mut self, count: i64) -> Tensor {
        let labels: Vec<i64> = (0..count).map(|_| (self.bits() % 4) as i64 - 1).collect();
        Tensor::from_slice(&labels)
    }
}

/// How large a batch is, and of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: i64,
    /// Rows of the queue; with 0 there is none.
    pub(crate) queue: i64,
    pub(crate) kind: Kind,
    /// Whether all rows of all encoders are the same.
    pub(crate) equal: bool,
    /// Whether the queue is zeros, in which nothing was put yet.
    pub(crate) unfilled: bool,
}

impl Sizes {
    /// Of random rows in double precision.
    pub(crate) fn new(batch: i64, queue: i64) -> Self {
        Self { batch, queue, kind: Kind::Double, equal: false, unfilled: false }
    }
}

/// Which rows of a batch a process has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) offset: i64,
    pub(crate) count: i64,
}

/// What a method asks for.
pub(crate) struct Needs {
    roles: Vec<Role>,
    labels: bool,
    mixed: usize,
}

impl Needs {
    /// What any of these methods asks for.
    pub(crate) fn of(methods: &[&dyn Method], views: usize) -> Self {
        let asked = methods.iter().map(|method| method.requirements(views).unwrap());
        let asked: Vec<Requirements> = asked.collect();
        let mut roles = vec![Role::default(); views];
        for requirements in &asked {
            for (role, wanted) in roles.iter_mut().zip(&requirements.roles) {
                role.online |= wanted.online;
                role.key = role.key.or(wanted.key);
            }
        }
        Self {
            roles,
            labels: asked.iter().any(|requirements| requirements.labels),
            mixed: asked.iter().map(|asked| asked.mixed_inputs.len()).max().unwrap_or(0),
        }
    }
}

/// The outputs of the encoders before they are scaled to unit length, all with a gradient of their
/// own: also those that no gradient may reach.
pub(crate) struct Images {
    online: Vec<Tensor>,
    mixed: Vec<Tensor>,
    momentum: Vec<Tensor>,
    projected: Vec<Tensor>,
    queue: Option<Tensor>,
    labels: Tensor,
    queue_labels: Tensor,
    /// Within each half of the batch, so that halves may be processes.
    partner: Tensor,
    share: Tensor,
    progress: Progress,
    pub(crate) whole: Place,
}

impl Images {
    pub(crate) fn draw(seed: u64, sizes: Sizes) -> Self {
        let Sizes { batch, queue, kind, equal, unfilled } = sizes;
        let mut draws = Draws(seed);
        let common = draws.rows(1);
        let mut leaf = |count: i64| {
            let rows = if equal { common.repeat([count, 1]) } else { draws.rows(count) };
            rows.to_kind(kind).set_requires_grad(true)
        };
        let mut leaves =
            |number: usize| -> Vec<Tensor> { (0..number).map(|_| leaf(batch)).collect() };
        let (online, momentum) = (leaves(VIEWS), leaves(VIEWS));
        let (projected, mixed) = (leaves(VIEWS), leaves(MIXED));
        let queue_rows = (queue > 0).then(|| {
            if unfilled { leaf(queue).zeros_like().set_requires_grad(true) } else { leaf(queue) }
        });
        let half = (batch / 2).max(1);
        let partner = |row: i64| {
            let begin = row / half * half;
            begin + (row - begin + 1) % half.min(batch - begin)
        };
        let share: Vec<f64> = (0..batch).map(|_| draws.number().abs()).collect();
        Self {
            online,
            mixed,
            momentum,
            projected,
            queue: queue_rows,
            labels: draws.labels(batch),
            queue_labels: draws.labels(queue),
            partner: Tensor::from_slice(&(0..batch).map(partner).collect::<Vec<_>>()),
            share: Tensor::from_slice(&share),
            progress: Progress::new(draws.bits() % 9, 9, 3),
            whole: Place { offset: 0, count: batch },
        }
    }

    /// What a process with these rows has of the batch.
    pub(crate) fn encoded(&self, needs: &Needs, place: Place) -> Encoded {
        let embedding = |leaf: &Tensor| {
            let gathered = unit_rows(leaf).unwrap();
            let local = gathered.narrow(0, place.offset, place.count);
            Embedding { local, gathered }
        };
        let online = self.online.iter().zip(&needs.roles);
        let keys = self.momentum.iter().zip(&self.projected).zip(&needs.roles);
        let key = |((momentum, projected), role): ((&Tensor, &Tensor), &Role)| match role.key? {
            KeyEncoder::Momentum => Some(embedding(momentum)),
            KeyEncoder::Projector => Some(embedding(projected)),
        };
        let local = |whole: &Tensor| whole.narrow(0, place.offset, place.count);
        let mixed = |leaf: &Tensor| Mixed {
            anchors: local(&unit_rows(leaf).unwrap()),
            partner: local(&self.partner) - place.offset,
            share: local(&self.share),
        };
        Encoded {
            online: online.map(|(leaf, role)| role.online.then(|| embedding(leaf))).collect(),
            keys: keys.map(key).collect(),
            mixed: self.mixed[..needs.mixed].iter().map(mixed).collect(),
            queue: self.queue.as_ref().map(|queue| unit_rows(queue).unwrap()),
            labels: needs.labels.then(|| self.labels(place)),
            offset: place.offset,
            progress: self.progress.clone(),
        }
    }

    /// The labels of all images, for anchors that are these rows.
    pub(crate) fn labels(&self, place: Place) -> Labels {
        Labels {
            batch: self.labels.shallow_clone(),
            queue: self.queue.is_some().then(|| self.queue_labels.shallow_clone()),
            offset: place.offset,
        }
    }

    /// The terms of a method that has the whole batch.
    pub(crate) fn terms<'a>(&self, method: &'a dyn Method, views: usize) -> Vec<Term<'a>> {
        method.terms(kept(self.encoded(&Needs::of(&[method], views), self.whole))).unwrap()
    }

    /// The derivatives of a loss by what the online encoder gave, one row; zeros where none flows.
    pub(crate) fn gradient(&self, loss: &Tensor) -> Tensor {
        let leaves: Vec<&Tensor> = self.online.iter().chain(&self.mixed).collect();
        flat(loss, &leaves)
    }

    /// The same by what no gradient may reach.
    pub(crate) fn stray_gradient(&self, loss: &Tensor) -> Tensor {
        let leaves = self.momentum.iter().chain(&self.projected).chain(&self.queue);
        flat(loss, &leaves.collect::<Vec<_>>())
    }
}

/// The derivatives by some leaves, one row; zeros where none flows.
fn flat(loss: &Tensor, leaves: &[&Tensor]) -> Tensor {
    let gradients = Tensor::run_backward(&[loss], leaves, true, false);
    let parts = gradients.iter().zip(leaves).map(|(gradient, leaf)| {
        let gradient =
            if gradient.defined() { gradient.shallow_clone() } else { leaf.zeros_like() };
        gradient.to_kind(Kind::Double).flatten(0, -1)
    });
    Tensor::cat(&parts.collect::<Vec<_>>(), 0)
}

/// The batch for as long as the test runs: terms borrow what they are made of.
pub(crate) fn kept(encoded: Encoded) -> &'static Encoded {
    Box::leak(Box::new(encoded))
}

/// The loss of some terms.
pub(crate) fn loss(terms: &[Term<'_>]) -> Tensor {
    evaluate(terms).unwrap().loss
}

/// The largest difference between two tensors; not a number where either is none.
pub(crate) fn difference(one: &Tensor, other: &Tensor) -> f64 {
    (one - other).abs().max().double_value(&[])
}
