//! What keys of the run file mean together: pairs that exclude each other, values that need others.

use super::key::Origin;
use super::{Head, MUON_MOMENTUM, MUON_RATE, Optimizer, Run, Stage, Train, Verdict};
use crate::error::{Error, Result};
use crate::model::lora::Projection;

/// Every projection of a layer.
pub const ALL_LINEAR: &str = "all-linear";

impl Run {
    /// Checks all that involves more than one key, and leaves one of each pair that mean the same.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.one_smoothing()?;
        self.one_length()?;
        let start = self.one_start()?;
        self.sizes_of_a_family(start)?;
        self.head_of_the_stage()?;
        self.data_and_labels()?;
        self.keys_of_muon()?;
        self.micro_batch_holds_an_example()?;
        self.drawn_rows()?;
        self.adapter(start)
    }

    fn drawn_rows(&self) -> Result<()> {
        match (self.data.limit, self.data.limit_seed) {
            (None, Some(_)) => {
                Err(self.wrong("data.limit_seed", "data.limit_seed draws data.limit rows: set that too".into()))
            }
            _ => Ok(()),
        }
    }

    fn adapter(&self, start: &str) -> Result<()> {
        let lora = &self.lora;
        let all_linear = lora.targets.len() == 1 && lora.targets[0] == ALL_LINEAR;
        let shape = [
            ("lora.rank", lora.rank.is_some()),
            ("lora.alpha", lora.alpha.is_some()),
            ("lora.targets", !all_linear),
            ("lora.rslora", lora.rslora),
        ];
        let said = shape.into_iter().find(|(_, said)| *said).map(|(key, _)| key);
        match (&lora.adapter, lora.rank, said) {
            (Some(_), _, Some(key)) => {
                let message = format!("{key} and lora.adapter: an adapter that is there has its own");
                return Err(self.wrong(key, message));
            }
            (None, None, Some(key)) => {
                return Err(self.wrong(key, format!("{key} is about an adapter: set lora.rank too")));
            }
            (None, None, None) => return Ok(()),
            _ => {}
        }
        if start != "model.path" {
            return Err(
                self.wrong(start, format!("an adapter stands beside a model on disk: {start} makes a random one"))
            );
        }
        let known = Projection::ALL.map(Projection::short);
        match lora.targets.iter().find(|name| !known.contains(&name.as_str()) && !all_linear) {
            None if lora.targets.is_empty() => Err(self.wrong("lora.targets", "lora.targets is empty".into())),
            None => Ok(()),
            Some(name) => {
                let names = known.join(", ");
                let message = format!("lora.targets: {name:?} is none of {names}, nor \"{ALL_LINEAR}\" alone");
                Err(self.wrong("lora.targets", message))
            }
        }
    }

    fn is_given(&self, key: &str) -> bool {
        *self.origin(key) != Origin::Default
    }

    /// An error about a key, at the place where it was given.
    pub(super) fn wrong(&self, key: &str, message: String) -> Error {
        match self.origin(key) {
            Origin::Default => Error::usage(message),
            origin => Error::usage(message).at(origin),
        }
    }

    /// PyTorch's label smoothing a mixes the target with the uniform one: over two labels the wrong one gets a / 2.
    fn one_smoothing(&mut self) -> Result<()> {
        let (key, ours) = ("train.label_smoothing_torch", "train.epsilon");
        let Some(alpha) = self.train.label_smoothing_torch else { return Ok(()) };
        if self.is_given(ours) {
            let (epsilon, at) = (self.train.epsilon, self.origin(ours));
            return Err(self.wrong(
                key,
                format!("{key} = {alpha} and {ours} = {epsilon} ({at}) both set the smoothing: give one"),
            ));
        }
        self.train.epsilon = alpha / 2.0;
        self.train.label_smoothing_torch = None;
        let origin = self.origins.insert(key, Origin::Default).expect("every key has an origin");
        self.origins.insert(ours, Origin::Key(key, Box::new(origin)));
        Ok(())
    }

    fn one_length(&mut self) -> Result<()> {
        let (key, other) = ("train.steps", "train.epochs");
        match (self.train.steps, self.train.epochs) {
            (Some(steps), Some(epochs)) if self.is_given(other) => {
                let at = self.origin(other);
                Err(self
                    .wrong(key, format!("{key} = {steps} and {other} = {epochs} ({at}) both set the length: give one")))
            }
            (Some(_), _) => {
                self.train.epochs = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The key that says where the model comes from.
    fn one_start(&self) -> Result<&'static str> {
        let m = &self.model;
        let starts = [
            ("model.path", m.path.is_some()),
            ("model.config", m.config.is_some()),
            ("model.family", m.family.is_some()),
        ];
        let given: Vec<&str> = starts.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        match given[..] {
            [] => Err(Error::usage("no model: set model.path, or model.config or model.family for random weights")),
            [start] if m.path.is_none() && m.tokenizer.is_none() => {
                Err(self.wrong(start, format!("{start} makes a model without a tokenizer: set model.tokenizer")))
            }
            [start] => Ok(start),
            [first, second, ..] => {
                let at = self.origin(first);
                let message = format!("{second} and {first} ({at}) both say where the model comes from: give one");
                Err(self.wrong(second, message))
            }
        }
    }

    fn sizes_of_a_family(&self, start: &str) -> Result<()> {
        let m = &self.model;
        let sizes =
            [("layers", m.layers), ("hidden", m.hidden), ("heads", m.heads), ("ffn", m.ffn), ("kv_heads", m.kv_heads)];
        for (name, size) in sizes {
            let key = format!("model.{name}");
            if m.family.is_none() && size.is_some() {
                return Err(self.wrong(&key, format!("{key} is a size for model.family, but {start} has its own")));
            }
            if m.family.is_some() && size.is_none() && name != "kv_heads" {
                return Err(self.wrong("model.family", format!("model.family needs {key}")));
            }
        }
        Ok(())
    }

    fn head_of_the_stage(&self) -> Result<()> {
        let fits = match (self.model.head, self.auto_head()) {
            (Head::Auto, _) => true,
            // The language model's head has the verdict's two rows.
            (Head::Lm, Head::Verdict) => true,
            (head, needed) => head == needed,
        };
        if fits {
            return Ok(());
        }
        let (head, needed) = (self.model.head.as_str(), self.auto_head().as_str());
        let stage = match (self.train.stage, self.train.verdict) {
            (Stage::Finetune, Verdict::Vocabulary) => "train.verdict = \"vocabulary\"".to_string(),
            (stage, _) => format!("train.stage = \"{}\"", stage.as_str()),
        };
        Err(self.wrong(
            "model.head",
            format!("model.head = \"{head}\" does not go with {stage}: use \"{needed}\" or \"auto\""),
        ))
    }

    fn data_and_labels(&self) -> Result<()> {
        if self.data.train.is_empty() {
            return Err(Error::usage("no training data: set data.train to a file, a glob or a list of them"));
        }
        let [a, b] = &self.train.labels;
        match a == b || a.is_empty() || b.is_empty() {
            true => {
                Err(self.wrong("train.labels", format!("train.labels = [{a:?}, {b:?}]: must be two different texts")))
            }
            false => Ok(()),
        }
    }

    /// Its keys at their defaults say nothing, so that an explanation of any run is a run file.
    fn keys_of_muon(&self) -> Result<()> {
        let Train { optimizer, muon_momentum, muon_rate, .. } = self.train;
        let set =
            [("train.muon_momentum", muon_momentum != MUON_MOMENTUM), ("train.muon_rate", muon_rate != MUON_RATE)];
        match set.into_iter().find(|(_, differs)| *differs) {
            Some((key, _)) if optimizer != Optimizer::Muon => {
                let other = optimizer.as_str();
                Err(self.wrong(key, format!("{key} is Muon's, but train.optimizer = \"{other}\": set it to \"muon\"")))
            }
            _ => Ok(()),
        }
    }

    fn micro_batch_holds_an_example(&self) -> Result<()> {
        // A Bradley-Terry loss needs both responses in one micro-batch.
        let (factor, what) = match self.train.stage {
            Stage::Scalar => (2, "two responses"),
            _ => (1, "an example"),
        };
        let (budget, longest) = (self.train.micro_tokens, self.data.max_tokens);
        if budget / factor >= longest {
            return Ok(());
        }
        let key = if self.is_given("train.micro_tokens") { "train.micro_tokens" } else { "data.max_tokens" };
        Err(self.wrong(
            key,
            format!("train.micro_tokens = {budget} cannot hold {what} of data.max_tokens = {longest}: raise one or lower the other"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::train::config::Origin;
    use crate::train::config::tests::minimal;

    #[test]
    fn smoothing_has_two_names_and_one_value() {
        let run = minimal(&["train.label_smoothing_torch=0.1"]).unwrap();
        assert_eq!((run.train.epsilon, run.train.label_smoothing_torch), (0.05, None));
        assert_eq!(run.origin("train.epsilon").to_string(), "train.label_smoothing_torch, command line");
        assert_eq!(*run.origin("train.label_smoothing_torch"), Origin::Default);
        assert_eq!(run.config_hash(), minimal(&["train.epsilon=0.05"]).unwrap().config_hash());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let cases: [(&[&str], &str); 15] = [
            (&["train.muon_rate=2"], "train.muon_rate is Muon's, but train.optimizer = \"adamw\""),
            (&["train.epsilon=0.05", "train.label_smoothing_torch=0.1"], "both set the smoothing"),
            (&["train.steps=5", "train.epochs=1"], "both set the length"),
            (&["model.config=c.json"], "command line: model.config and model.path (run.toml:2) both say"),
            (&["model.layers=2"], "model.layers is a size for model.family, but model.path has its own"),
            (
                &["model.head=scalar"],
                "model.head = \"scalar\" does not go with train.stage = \"finetune\": use \"verdict\"",
            ),
            (&["model.head=verdict", "train.stage=sft"], "use \"lm\" or \"auto\""),
            (&["model.head=verdict", "train.verdict=vocabulary"], "does not go with train.verdict = \"vocabulary\""),
            (&["model.head=lm", "train.stage=scalar"], "use \"scalar\""),
            (&["data.train=[]"], "no training data"),
            (&["train.labels=[\"A\",\"A\"]"], "two different texts"),
            (&["train.labels=[\"\",\"A\"]"], "two different texts"),
            (&["train.micro_tokens=2047"], "command line: train.micro_tokens = 2047 cannot hold an example"),
            (&["data.max_tokens=5000", "train.stage=scalar"], "cannot hold two responses of data.max_tokens = 5000"),
            (&["train.epsilon=0.5"], "must be a number from 0 to below 0.5"),
        ];
        for (arguments, expected) in cases {
            let error = minimal(arguments).unwrap_err();
            assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{arguments:?}: {error}");
        }
        assert!(minimal(&["model.head=lm"]).is_ok());
    }

    #[test]
    fn an_adapter_has_one_source_and_known_targets() {
        let cases: [(&[&str], &str); 6] = [
            (&["lora.alpha=8"], "set lora.rank too"),
            (&["lora.rank=4", "lora.adapter=a"], "lora.rank and lora.adapter"),
            (&["lora.rank=4", "lora.targets=[\"q_proj\", \"qkv\"]"], "\"qkv\" is none of q_proj"),
            (&["lora.rank=4", "lora.targets=[\"all-linear\", \"q_proj\"]"], "nor \"all-linear\" alone"),
            (&["lora.rank=0"], "must be a whole number from 1 to 65536"),
            (&["data.limit_seed=1"], "set that too"),
        ];
        for (arguments, expected) in cases {
            let error = minimal(arguments).unwrap_err();
            assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{arguments:?}: {error}");
        }
        assert!(minimal(&["lora.rank=4", "lora.targets=q_proj", "data.limit=3", "data.limit_seed=1"]).is_ok());
        let random = "[model]\nconfig = \"c\"\ntokenizer = \"t\"\n[data]\ntrain = \"d\"\n[lora]\nrank = 2\n";
        let error = crate::train::config::Run::parse(random, "r", &[]).unwrap_err().to_string();
        assert!(error.contains("model.config makes a random one"), "{error}");
    }

    #[test]
    fn a_random_model_needs_its_sizes_and_a_tokenizer() {
        let parse = |text: &str| crate::train::config::Run::parse(text, "r", &["data.train=d".to_string()]);
        let complete =
            "model = { family = \"qwen3\", tokenizer = \"t\", layers = 2, hidden = 64, heads = 4, ffn = 128 }";
        assert!(parse(complete).is_ok());
        for name in ["layers", "hidden", "heads", "ffn"] {
            let error = parse(&complete.replace(name, "kv_heads")).unwrap_err().to_string();
            assert_eq!(error, format!("r:1: model.family needs model.{name}"));
        }
        assert!(parse("model.family = \"qwen3\"").unwrap_err().to_string().contains("set model.tokenizer"));
        assert!(parse("model.config = \"c\"").unwrap_err().to_string().contains("set model.tokenizer"));
        assert!(parse("").unwrap_err().to_string().contains("no model"));
    }
}
