//! What a training run needs of memory, item by item, before anything is allocated.

use super::optim::{self, Optimizer};
use crate::base::dtype::Dtype;
use crate::device::Layout;
use crate::error::{Error, Result};
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::config::Config;
use crate::model::lora::Shape;
use crate::model::params::Params;
use crate::model::room::{gigabytes, largest, taken};

/// A memory plan in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub parameters: usize,
    /// Those that are trained: an adapter's, or all.
    pub trained: usize,
    pub weights: usize,
    pub gradients: usize,
    /// Moments, master copies, and what Muon works in.
    pub optimizer: usize,
    /// Room to measure gradients, and what is lost since allocations take whole pieces of memory.
    pub scratch: usize,
    /// What training all parameters would need more of gradients, moments and master copies.
    pub saved: usize,
    /// Activations and scratch of one micro-batch, for each recompute policy.
    pub activations: [(Keep, usize); 3],
    /// The policy that the run uses.
    pub keep: Keep,
    /// Tokens of a micro-batch.
    pub micro_tokens: usize,
    /// The largest micro-batch that fits into `available`, for the run's policy; 0 if none does.
    pub largest: usize,
    /// Memory of the device that is free now, where the system tells.
    pub available: Option<usize>,
}

impl Plan {
    /// Plans a run of this model with so much free memory, perhaps of an adapter beside it alone; `capacity` gives the
    /// activations for a number of tokens.
    pub fn new(
        c: &Config,
        dtype: Dtype,
        adapter: Option<&Shape>,
        settings: &optim::Settings,
        (keep, micro_tokens): (Keep, usize),
        capacity: impl Fn(usize) -> Capacity,
        available: Option<usize>,
    ) -> Plan {
        let (layout, params) = Params::layout(c, dtype);
        let adapter = adapter.map(|shape| params.adapted(c, dtype, shape));
        let weights = layout.bytes() + adapter.as_ref().map_or(0, |a| a.layout.bytes() + a.constants.bytes());
        let trained = adapter.as_ref().map_or(&layout, |a| &a.layout);
        let needs = |layout: &Layout| {
            let gradients = layout.with_dtype(settings.gradients_of(dtype)).bytes();
            (gradients, Optimizer::allocations(layout, dtype, settings.method))
        };
        let ((gradients, states), all) = (needs(trained), needs(&layout));
        let [optimizer, of_all] = [&states, &all.1].map(|states| states.iter().sum::<usize>());
        let activations = |tokens: usize, keep: Keep| Acts::bytes(c, dtype, Capacity { keep, ..capacity(tokens) });
        let of_adapter = adapter.iter().flat_map(|a| [a.layout.bytes(), a.constants.bytes()]);
        let single = [layout.bytes(), gradients, Optimizer::scratch(trained)];
        let fixed = taken(states.into_iter().chain(of_adapter).chain(single));
        let all_taken = |tokens: usize| fixed + taken([activations(tokens, keep)]);
        let named = weights + gradients + optimizer + activations(micro_tokens, keep);
        Plan {
            parameters: layout.elements(),
            trained: trained.elements(),
            weights,
            gradients,
            optimizer,
            scratch: all_taken(micro_tokens) - named,
            saved: (all.0 + of_all).saturating_sub(gradients + optimizer),
            activations: [Keep::All, Keep::Costly, Keep::Doors].map(|keep| (keep, activations(micro_tokens, keep))),
            keep,
            micro_tokens,
            largest: available.map_or(0, |room| largest(|tokens| all_taken(tokens) <= room)),
            available,
        }
    }

    /// Activations under the run's policy.
    pub fn working(&self) -> usize {
        self.activations.iter().find(|(keep, _)| *keep == self.keep).map_or(0, |(_, bytes)| *bytes)
    }
    /// All that the run allocates on its device.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.optimizer + self.scratch + self.working()
    }

    /// Whether the run would fit if it recomputed whole layers, which it does not.
    fn fits_by_recomputing(&self, available: usize) -> bool {
        let [.., (doors, bytes)] = self.activations;
        self.keep != doors && taken([self.total() - self.working() + bytes]) <= available
    }

    /// # Errors
    /// The run does not fit; the message says by how much and which micro-batch would.
    pub fn check(&self) -> Result<()> {
        let Some(available) = self.available else { return Ok(()) };
        if self.total() <= available {
            return Ok(());
        }
        let tokens = format!("set train.micro_tokens to at most {}", self.largest);
        let advice = match (self.largest, self.fits_by_recomputing(available)) {
            (0, false) => {
                "not even the smallest micro-batch fits; use train.optimizer = \"adamw-8bit\" with model.dtype and \
                 train.gradients = \"bf16\", a smaller model or a machine with more memory"
            }
            (0, true) => "set train.recompute = \"layer\"",
            (_, false) => &tokens,
            (_, true) => &format!("{tokens}, or train.recompute = \"layer\""),
        };
        Err(Error::device(format!(
            "the run needs {} of memory but {} are free: {advice}",
            gigabytes(self.total()),
            gigabytes(available)
        )))
    }

    /// The plan as a table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, bytes: usize, note: &str| {
            out.push_str(&format!("{name:<28}{:>12}  {note}\n", gigabytes(bytes)));
        };
        row("weights", self.weights, &format!("{} parameters", self.parameters));
        let share = 100.0 * self.trained as f64 / self.parameters as f64;
        let adapter = format!("of {} trained parameters, {share:.2}% as many as the model has", self.trained);
        row("gradients", self.gradients, if self.saved > 0 { &adapter } else { "" });
        row("optimizer", self.optimizer, "");
        let fixed = self.weights + self.gradients + self.optimizer;
        let each = fixed as f64 / self.parameters.max(1) as f64;
        row("together", fixed, &format!("{each:.2} bytes a parameter"));
        if self.saved > 0 {
            row(
                "saved by the adapter",
                self.saved,
                "not needed: gradients, moments and master copies of the frozen model",
            );
        }
        for (keep, bytes) in self.activations {
            let mark = if keep == self.keep { " <- this run" } else { "" };
            let name = format!("activations, recompute {}", name(keep));
            row(&name, bytes, &format!("micro-batches of {} tokens{mark}", self.micro_tokens));
        }
        row("scratch, rounding", self.scratch, "");
        row("total of this run", self.total(), "");
        if let Some(available) = self.available {
            row("free memory", available, &format!("largest micro-batch that fits: {} tokens", self.largest));
        }
        out
    }
}

fn name(keep: Keep) -> &'static str {
    match keep {
        Keep::All => "none",
        Keep::Costly => "cheap",
        Keep::Doors => "layer",
        Keep::Nothing => "inference",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::GRANULE;
    use crate::model::config::Family;

    #[test]
    fn the_plan_adds_up_and_policies_save_memory() {
        let capacity = |tokens| Capacity {
            tokens,
            sequences: tokens,
            rows: tokens,
            positions: tokens,
            keep: Keep::All,
            ranks: [0; 7],
        };
        let (config, settings) = (Config::tiny(Family::Qwen3), optim::Settings::ADAMW);
        let plan = Plan::new(&config, Dtype::F32, None, &settings, (Keep::Costly, 256), capacity, Some(1 << 30));
        let [all, costly, doors] = plan.activations.map(|(_, bytes)| bytes);
        assert!(all > costly && costly > doors, "{all} {costly} {doors}");
        assert_eq!(plan.total(), plan.weights + plan.gradients + plan.optimizer + plan.scratch + costly);
        assert_eq!((plan.optimizer, plan.total() % GRANULE), (2 * plan.weights, 0));
        assert!(plan.scratch > 0 && plan.table().contains("recompute cheap"));
        let of = |micro_tokens, room| {
            Plan::new(&config, Dtype::F32, None, &settings, (Keep::Costly, micro_tokens), capacity, Some(room))
        };
        let most = of(256, 3 * plan.total()).largest;
        assert!(most > 256);
        assert!(of(most, 3 * plan.total()).check().is_ok());
        let message = |plan: Plan| plan.check().unwrap_err().to_string();
        let beyond = message(of(most + 1, 3 * plan.total()));
        assert!(beyond.contains(&format!("train.micro_tokens to at most {most}, or train.recompute")), "{beyond}");
        let far = message(of(20 * most, 3 * plan.total()));
        assert!(far.ends_with(&format!("train.micro_tokens to at most {most}")), "{far}");
        let nothing = message(of(256, GRANULE));
        assert!(nothing.contains("not even the smallest"), "{nothing}");
    }

    #[test]
    fn an_adapter_needs_gradients_and_moments_of_its_own_parameters_alone() {
        let c = Config::tiny(Family::Llama);
        let pair = |_| Some(crate::model::lora::Pair { rank: 2, scale: 1.0 });
        let shape = Shape { layers: vec![[(); 7].map(pair); c.layers], score: false };
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let plan = |adapter: Option<&Shape>| {
                let ranks = adapter.map_or([0; 7], |shape| shape.ranks());
                let capacity = move |tokens| {
                    let (sequences, rows, positions) = (tokens, tokens, tokens);
                    Capacity { tokens, sequences, rows, positions, keep: Keep::All, ranks }
                };
                Plan::new(&c, dtype, adapter, &optim::Settings::ADAMW, (Keep::All, 256), capacity, None)
            };
            let (full, lora) = (plan(None), plan(Some(&shape)));
            let sizes = crate::model::lora::Projection::ALL.map(|p| p.shape(&c).iter().sum::<usize>());
            assert_eq!(lora.trained, c.layers * 2 * sizes.iter().sum::<usize>());
            assert_eq!((full.trained, full.saved), (full.parameters, 0));
            assert_eq!(lora.saved, full.gradients + full.optimizer - lora.gradients - lora.optimizer);
            assert!(lora.gradients < full.gradients && lora.weights > full.weights && lora.working() > full.working());
            assert!(lora.table().contains("saved by the adapter") && !full.table().contains("adapter"));
        }
    }
}
