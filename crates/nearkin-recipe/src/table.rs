//! Reading, overriding, writing and comparing recipes as TOML.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::{Recipe, RecipeError, error::explain};

/// A recipe as text, before its keys mean anything.
#[derive(Clone, Debug)]
pub struct Source {
    origin: String,
    table: Table,
    /// As read, as long as nothing was overridden: messages can then show the line.
    text: Option<String>,
}

/// `key.path=value` from the command line, the value in TOML (a bare word is a string).
#[derive(Clone, Debug)]
pub struct Override {
    given: String,
    path: Vec<String>,
    value: Value,
}

impl FromStr for Override {
    type Err = RecipeError;

    fn from_str(given: &str) -> Result<Self, RecipeError> {
        let refuse = |reason: &str| RecipeError::Override {
            given: given.to_owned(),
            reason: reason.to_owned(),
        };
        let (key, value) = given.split_once('=').ok_or_else(|| {
            refuse("write key.path=value, for example optimizer.learning_rate=0.03")
        })?;
        let path: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(refuse("a part of the key is empty"));
        }
        let value = match value.trim() {
            "" => return Err(refuse("there is no value behind the =")),
            value => match value.parse::<Value>() {
                Ok(value) => value,
                // Quotes and brackets are meant as TOML; only a bare word is a string without them.
                Err(error) if value.starts_with(['"', '\'', '[', '{']) => {
                    return Err(refuse(error.message()));
                }
                Err(_) => Value::String(value.to_owned()),
            },
        };
        Ok(Self { given: given.to_owned(), path, value })
    }
}

/// One key with different values in two recipes.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The key's path.
    pub key: String,
    /// Its value in the first recipe, if it is there.
    pub before: Option<String>,
    /// Its value in the second.
    pub after: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let absent = || "(absent)".to_owned();
        let (before, after) = (self.before.clone(), self.after.clone());
        write!(
            f,
            "{}: {} -> {}",
            self.key,
            before.unwrap_or_else(absent),
            after.unwrap_or_else(absent)
        )
    }
}

/// Bytes of the largest recipe. Nobody writes that much; a larger file is something else, and would take
/// a hundred times its size to be refused key by key.
const LARGEST: usize = 1 << 20;

impl Source {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let failed = |source| RecipeError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > LARGEST {
            return Err(RecipeError::TooLarge { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Self::parse(&path.display().to_string(), text)
    }

    /// Parses text; `origin` is what messages call it.
    pub fn parse(origin: &str, text: String) -> Result<Self, RecipeError> {
        let table = text.parse().map_err(|error: toml::de::Error| RecipeError::Parse {
            origin: origin.to_owned(),
            message: explain(&error),
        })?;
        Ok(Self { origin: origin.to_owned(), table, text: Some(text) })
    }

    /// Sets a key, making the tables on the way.
    pub fn set(&mut self, change: &Override) -> Result<(), RecipeError> {
        let Some((last, tables)) = change.path.split_last() else { return Ok(()) };
        let mut table = &mut self.table;
        for (depth, key) in tables.iter().enumerate() {
            let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            let kind = entry.type_str();
            table = entry.as_table_mut().ok_or_else(|| RecipeError::Override {
                given: change.given.clone(),
                reason: format!(
                    "{} is no table, but of type {kind}; it can only be set as a whole",
                    tables[..=depth].join(".")
                ),
            })?;
        }
        table.insert(last.clone(), change.value.clone());
        self.text = None;
        Ok(())
    }

    /// The value of `data.dataset`; `None` for a recipe that leaves the kind of set to whoever opens
    /// it.
    pub fn dataset(&self) -> Option<&str> {
        self.data("dataset")
    }

    /// The value of `data.path`.
    pub fn data_path(&self) -> Option<&str> {
        self.data("path")
    }

    fn data(&self, key: &str) -> Option<&str> {
        self.table.get("data")?.get(key)?.as_str()
    }

    /// States what and where the images are; other keys of `[data]` stay.
    pub fn set_data(&mut self, data: &nearkin_data::Source) {
        let entry = self.table.entry("data").or_insert_with(|| Value::Table(Table::new()));
        if let (Some(table), Ok(stated)) = (entry.as_table_mut(), Table::try_from(data)) {
            table.extend(stated);
            self.text = None;
        }
    }

    /// The recipe as TOML text, with what it states and no defaults.
    pub fn to_text(&self) -> String {
        toml::to_string(&self.table).unwrap_or_default()
    }

    /// Makes the checked recipe.
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        let parsed: Result<Recipe, toml::de::Error> = match &self.text {
            Some(text) => toml::from_str(text),
            None => self.table.clone().try_into(),
        };
        let recipe = parsed.map_err(|error| RecipeError::Parse {
            origin: self.origin.clone(),
            message: explain(&error),
        })?;
        recipe.check(&self.origin)
    }
}

/// Reads TOML text and checks it.
impl FromStr for Recipe {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        Source::parse("recipe", text.to_owned())?.recipe()
    }
}

impl Recipe {
    /// Reads a file and checks it.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        Source::read(path)?.recipe()
    }

    /// The recipe with every default filled in.
    pub fn to_table(&self) -> Table {
        Table::try_from(self).unwrap_or_default()
    }

    /// The same as TOML text; reading it gives this recipe again.
    pub fn to_text(&self) -> String {
        toml::to_string(&self.to_table()).unwrap_or_default()
    }

    /// SHA-256 of the resolved text, in hexadecimal.
    pub fn digest(&self) -> String {
        let bytes = Sha256::digest(self.to_text());
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// The path of every key and its value as TOML, in the recipe's order.
    pub fn keys(&self) -> Vec<(String, String)> {
        let mut keys = Vec::new();
        flatten("", &Value::Table(self.to_table()), &mut keys);
        keys
    }

    /// The [`keys`](Self::keys) on which the trained encoder depends, without the seed: runs that agree
    /// in them are repetitions of each other.
    pub fn keys_of_training(&self) -> Vec<(String, String)> {
        let mut keys = self.keys();
        keys.retain(|(key, _)| {
            key != "seed" && !NOT_TRAINED.iter().any(|other| is_within(key, other))
        });
        keys
    }

    /// Keys in which another recipe differs from this one, in this one's order.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let (before, after) = (self.keys(), other.keys());
        let find = |all: &[(String, String)], key: &str| {
            all.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
        };
        let added = after.iter().filter(|(key, _)| find(&before, key).is_none());
        before
            .iter()
            .chain(added)
            .map(|(key, _)| Difference {
                key: key.clone(),
                before: find(&before, key),
                after: find(&after, key),
            })
            .filter(|difference| difference.before != difference.after)
            .collect()
    }
}

/// Keys and tables that say where images are, what is recorded and saved, and how steps are carried
/// out.
const NOT_TRAINED: [&str; 9] = [
    "data.path",
    "bad_image_limit",
    "training.step",
    "training.record_every_steps",
    "training.maximum_skipped_steps",
    "checkpoint",
    "evaluation.every_epochs",
    "evaluation.neighbors",
    "evaluation.neighbours",
];

/// Whether a key is this other one, or in the table or array of that name.
fn is_within(key: &str, other: &str) -> bool {
    key.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn flatten(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(&under(key), value, out));
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), item, out);
            }
        }
        leaf => out.push((path.to_owned(), leaf.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::example::{TEXT, parse, set, with};

    fn shown(differences: &[Difference]) -> Vec<String> {
        differences.iter().map(ToString::to_string).collect()
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn every_recipe_of_the_repository_survives_being_written_and_read() {
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"));
        assert!(files.len() >= 7, "{files:?}");
        for file in files {
            let recipe = Source::read(&file).and_then(|source| source.recipe());
            let recipe = recipe.unwrap_or_else(|error| panic!("{error}"));
            let again = parse(&recipe.to_text()).expect("the resolved recipe is a recipe");
            assert_eq!(again.to_text(), recipe.to_text(), "{}", file.display());
            assert_eq!(again.digest(), recipe.digest());
            assert_eq!(recipe.differences(&again), []);
        }
    }

    #[test]
    fn the_digest_ignores_how_a_recipe_is_written() {
        let recipe = parse(TEXT).expect("a recipe");
        let mut sections: Vec<&str> = TEXT.split("\n\n").collect();
        let views = sections.split_off(sections.len() - 2);
        sections[1..].reverse();
        sections.extend(views);
        let rewritten = sections.join("\n\n# another order\n\n").replace(" = ", "   =  ");
        assert_eq!(parse(&rewritten).expect("a recipe").digest(), recipe.digest());
        let explicit = with("seed = 3", "seed = 3\nschedule = { decay = \"cosine\" }");
        assert_eq!(explicit.expect("a recipe").digest(), recipe.digest());

        let other = with("seed = 3", "seed = 4").expect("a recipe");
        assert_ne!(other.digest(), recipe.digest());
        assert_eq!(recipe.digest().len(), 64);
    }

    #[test]
    fn the_resolved_recipe_states_the_defaults() {
        let text = parse(TEXT).expect("a recipe").to_text();
        for line in [
            "warmup_epochs = 0",
            "decay = \"cosine\"",
            "every_minutes = 15.0",
            "accumulate_batches = 1",
            "momentum = 0.9",
            "shuffle = false",
            "interpolation = \"bilinear\"",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_recipe_without_a_kind_of_data_gets_the_one_that_was_found() {
        let found = nearkin_data::Source::Webdataset { path: Some(PathBuf::from("some/shards")) };
        let begin = TEXT.find("[data]").expect("a table");
        let end = TEXT.find("[method]").expect("a table");
        for table in ["", "[data]\n", "[data]\npath = \"elsewhere\"\n"] {
            let text = [&TEXT[..begin], table, &TEXT[end..]].concat();
            let mut source = Source::parse("some.toml", text).expect("TOML");
            assert_eq!(source.dataset(), None);
            assert_eq!(source.data_path(), table.contains("path").then_some("elsewhere"));
            source.set_data(&found);
            assert_eq!(
                (source.dataset(), source.data_path()),
                (Some("webdataset"), Some("some/shards"))
            );
            let recipe = source.recipe().expect("a recipe");
            assert_eq!(recipe.data, found);
            let again = Source::parse("again.toml", source.to_text()).expect("TOML");
            assert_eq!(again.recipe().expect("a recipe").digest(), recipe.digest());
            // Defaults are not stated.
            assert!(!source.to_text().contains("warmup_epochs"));
        }
        // A key that the kind does not have is named.
        let text = [&TEXT[..begin], "[data]\nroot = \"x\"\n", &TEXT[end..]].concat();
        let mut source = Source::parse("some.toml", text).expect("TOML");
        source.set_data(&found);
        assert!(source.recipe().expect_err("a refusal").to_string().contains("root"));
    }

    #[test]
    fn overrides_take_numbers_words_arrays_and_new_tables() {
        let recipe = set(&[
            "optimizer.learning_rate=0.25",
            "training.epochs = 7",
            "model.backbone=resnet50",
            "model.stem=\"imagenet\"",
            "schedule.warmup_epochs=2",
            "evaluation.neighbours=[{k=5, temperature=0.5}, {k=1, temperature=1}]",
            "momentum_encoder.shuffle=true",
            "method.variant=use_keys",
        ])
        .expect("a recipe");
        let before = parse(TEXT).expect("a recipe");
        assert_eq!(
            shown(&before.differences(&recipe)),
            [
                "model.backbone: \"resnet18\" -> \"resnet50\"",
                "model.stem: \"cifar\" -> \"imagenet\"",
                "momentum_encoder.shuffle: false -> true",
                "training.epochs: 2 -> 7",
                "optimizer.learning_rate: 0.05 -> 0.25",
                "schedule.warmup_epochs: 0 -> 2",
                "evaluation.neighbours[0].k: 20 -> 5",
                "evaluation.neighbours[0].temperature: 0.07 -> 0.5",
                "method.variant: (absent) -> \"use_keys\"",
                "evaluation.neighbours[1].k: (absent) -> 1",
                "evaluation.neighbours[1].temperature: (absent) -> 1.0",
            ]
        );
    }

    #[test]
    fn the_last_override_of_a_key_wins() {
        let recipe = set(&["seed=5", "seed=6"]).expect("a recipe");
        assert_eq!(recipe.seed, 6);
    }

    #[test]
    fn overrides_with_bad_syntax_or_place_are_refused() {
        for (given, reason) in [
            ("optimizer.learning_rate", "write key.path=value"),
            ("=3", "a part of the key is empty"),
            ("optimizer..momentum=3", "a part of the key is empty"),
            ("training.epochs=", "there is no value behind the ="),
            ("views=[1", "unclosed array"),
            ("model.stem=\"cifar", "invalid basic string"),
            ("seed.deep=1", "seed is no table, but of type integer; it can only be set as a whole"),
            ("views.0.name=x", "views is no table, but of type array"),
            ("model.projector.width=3", "model.projector is no table, but of type array"),
        ] {
            let message = set(&[given]).expect_err(given);
            assert!(message.starts_with(&format!("--set {given}: ")), "{message}");
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn an_override_that_makes_the_recipe_wrong_is_named_by_its_key() {
        for (given, message) in [
            (
                "optimizer.learning_rate=nan",
                "example.toml: optimizer.learning_rate: NaN is not allowed: it must be a finite \
                 number above 0",
            ),
            (
                "training.batch_size=many",
                "example.toml: training.batch_size: invalid type: string \"many\", expected a whole \
                 number above 0",
            ),
            (
                "seed=99999999999999999999",
                "example.toml: seed: invalid type: string \"99999999999999999999\", expected a whole \
                 number of at least 0",
            ),
        ] {
            assert_eq!(set(&[given]).expect_err(given), message);
        }
        let message = set(&["optimizer.learningrate=1"]).expect_err("unknown");
        assert!(message.starts_with("example.toml: optimizer: unknown field"), "{message}");
        assert!(message.ends_with("did you mean `learning_rate`?"), "{message}");
    }

    #[test]
    fn differences_name_changed_added_and_removed_keys() {
        let before = parse(TEXT).expect("a recipe");
        let text = TEXT
            .replace("[queue]\nsize = 32", "")
            .replace("seed = 3", "seed = 3\nlimit_images = 9")
            .replace("{ size = 16, scale", "{ size = 24, scale")
            .replace("    { horizontal_flip = { probability = 0.5 } },\n", "")
            .replace("0.05", "0.06");
        let after = parse(&text).expect("a recipe");
        assert_eq!(
            shown(&before.differences(&after)),
            [
                "queue.size: 32 -> (absent)",
                "queue.start: \"random\" -> (absent)",
                "optimizer.learning_rate: 0.05 -> 0.06",
                "views[1].transforms[0].random_resized_crop.size: 16 -> 24",
                "views[1].transforms[1].horizontal_flip.probability: 0.5 -> (absent)",
                "limit_images: (absent) -> 9",
            ]
        );
        assert_eq!(before.differences(&before), []);
    }

    #[test]
    fn keys_that_train_nothing_else_are_left_out() {
        let before = parse(TEXT).expect("a recipe").keys_of_training();
        let same = set(&[
            "seed=9",
            "bad_image_limit=0.5",
            "training.record_every_steps=7",
            "training.step=read_late",
            "checkpoint.keep=5",
            "evaluation.every_epochs=1",
            "evaluation.neighbours=[{ k = 3, temperature = 0.5 }]",
        ]);
        assert_eq!(same.expect("a recipe").keys_of_training(), before);
        for change in ["training.epochs=7", "method.temperature=0.3", "limit_images=8"] {
            let other = set(&[change]).expect("a recipe").keys_of_training();
            assert_ne!(other, before, "{change}");
        }
        assert!(before.iter().all(|(key, _)| !key.starts_with("checkpoint") && key != "seed"));
        assert!(before.contains(&("training.epochs".to_owned(), "2".to_owned())), "{before:?}");
    }

    #[test]
    fn text_that_is_not_toml_is_refused_with_its_line() {
        let message = with("[method]", "[method").expect_err("not TOML");
        assert!(message.starts_with("example.toml: TOML parse error at line 10, "), "{message}");
        assert!(message.contains("unclosed table"), "{message}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = Source::read(Path::new("no/such.toml")).expect_err("missing").to_string();
        assert!(missing.starts_with("cannot read the recipe no/such.toml: "), "{missing}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_allowed_number_survives_override_text_and_digest(
            learning_rate in 1e-300..1e300_f64,
            momentum in 0.0..=1.0_f64,
            seed in 0..=i64::MAX,
            queue in 1..u32::MAX,
        ) {
            let recipe = set(&[
                &format!("optimizer.learning_rate={learning_rate:?}"),
                &format!("momentum_encoder.momentum={momentum:?}"),
                &format!("seed={seed}"),
                &format!("queue.size={queue}"),
            ])
            .expect("a recipe");
            let again = parse(&recipe.to_text()).expect("a recipe");
            prop_assert_eq!(again.optimizer.learning_rate.get().to_bits(), learning_rate.to_bits());
            prop_assert_eq!(again.momentum_encoder.map(|own| own.momentum.get()), Some(momentum));
            prop_assert_eq!(again.seed, seed as u64);
            prop_assert_eq!(again.queue.map(|own| own.size.get()), Some(queue as usize));
            prop_assert_eq!(again.digest(), recipe.digest());
        }

        #[test]
        fn a_bare_word_is_a_string(word in "[a-z/][a-z0-9/_.-]{0,20}") {
            prop_assume!(!["true", "false", "inf", "nan"].contains(&word.as_str()));
            let change: Override = format!("method.word={word}").parse().expect("an override");
            prop_assert_eq!(change.value, Value::String(word));
        }

        #[test]
        fn no_text_makes_an_override_or_a_recipe_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Override>();
            let _ = parse(&text);
            let _ = set(&[&format!("method.{text}")]);
        }
    }

    #[test]
    fn a_file_that_is_no_recipe_is_refused_by_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        let line = "key = 1 # \u{e9}\n";
        std::fs::write(&path, line.repeat(100_000)).unwrap();
        let error = Source::read(&path).unwrap_err().to_string();
        assert!(error.contains("recipe.toml is larger than 1 MiB"), "{error}");
        std::fs::write(&path, b"key = \"\xff\"").unwrap();
        let error = Source::read(&path).unwrap_err().to_string();
        assert!(error.contains("recipe.toml: invalid utf-8"), "{error}");
        std::fs::write(&path, format!("seed = 1 {}", " ".repeat(LARGEST - 9))).unwrap();
        assert!(Source::read(&path).is_ok());
    }
}
