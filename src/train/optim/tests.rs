use super::*;
use crate::model::config::{Config, Family};
use crate::model::params::Params;

const MUON: Method = Method::Muon { momentum: 0.95, rate: 1.0 };

#[test]
fn states_take_the_bytes_that_are_promised() {
    let config = Config::tiny(Family::Qwen3);
    let (layout, _) = Params::layout(&config, Dtype::Bf16);
    // Whole stretches: gaps between tensors count.
    let n = layout.stretches(|_| ()).len() * STRETCH;
    let of =
        |which: &dyn Fn(Class) -> bool| layout.stretches(|s| which(s.class)).iter().filter(|w| **w).count() * STRETCH;
    let (matrices, others) = (of(&|c| c == Class::Matrix), of(&|c| c != Class::Matrix));
    let scale_bytes = 2 * (n / STRETCH).next_multiple_of(STRETCH) * 4;
    let scratch = Muon::bytes(&layout, Dtype::Bf16);
    for (method, weights, bytes) in [
        (Method::AdamW, Dtype::F32, 8 * n),
        (Method::AdamW, Dtype::Bf16, 12 * n),
        (Method::AdamWSr, Dtype::Bf16, 8 * n),
        (Method::AdamW8bit, Dtype::F32, 2 * n + scale_bytes),
        (Method::AdamW8bit, Dtype::Bf16, 2 * n + scale_bytes),
        (MUON, Dtype::Bf16, 4 * matrices + 8 * others + scratch),
    ] {
        let all = Optimizer::allocations(&layout, weights, method);
        assert_eq!(all.iter().sum::<usize>(), bytes, "{method:?} beside {weights}");
    }
    assert!(scratch > 0 && matrices > 0 && others > 0);
}

#[test]
fn what_needs_bf16_weights_says_so() {
    for (method, gradients, key) in [
        (Method::AdamWSr, Dtype::F32, "train.optimizer = \"adamw-sr\""),
        (Method::AdamW, Dtype::Bf16, "train.gradients = \"bf16\""),
        (MUON, Dtype::Bf16, "train.gradients = \"bf16\""),
    ] {
        let settings = Settings { method, gradients, ..Settings::ADAMW };
        assert!(settings.check(Dtype::Bf16).is_ok());
        let error = settings.check(Dtype::F32).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(key), "{error}");
    }
    assert!(Settings { method: Method::AdamW8bit, ..Settings::ADAMW }.check(Dtype::F32).is_ok());
}
